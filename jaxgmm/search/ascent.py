"""Ascent to an optimum, driven from the host: L-BFGS around the step program that is there, with NumPy in between.

A run that is to be finished exactly needs an accelerated loop, but its program would take longer to compile than most
searches take to run. What is extrapolated are the quantities from which an M-step estimates a mixture, and a step
begins with just that M-step: so any proposal can be handed to the program of the plain step as moments, and the
arithmetic in between, on a few hundred numbers, is NumPy's.

Coordinates are whitened by the complete-data information of the mixture where the ascent begins. There a step of EM is
the gradient, to first order (Jamshidian and Jennrich 1997, their QN2), so that steps alone feed L-BFGS (Nocedal 1980),
and half the product of the gradient and the quasi-Newton step estimates the gain that is still to come.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import em
from .._base.status import FAILED, Status
from ..moments import Moments

MEMORY = 12
"""Pairs that are remembered."""

STILL_TO_COME = 1e-7
"""Estimated gain, nats per unit of weight, at which an ascent has arrived, if it is below it twice in a row: a tenth of
what is promised, since the estimate knows only the curvature along the last moves."""

WINDOW, AT_REST = 10, 4.0
"""An ascent has arrived, too, where its objective has risen by less than so many roundings in so many steps: what is
left is then hidden. In float32, where a rounding is some 5e-7 nats, one in ten would go on for hundreds of steps."""

SHORTER = 1.0 / 4.0
"""By how much a refused proposal is shortened, once: after the second refusal plain steps follow."""

PATIENCE = 16
"""Most plain steps after two refused proposals."""


class Whitening(NamedTuple):
    """Scales of the coordinates, from the mixture where the ascent begins. Absent components have root weight 0."""

    root: np.ndarray  # (K,): √weight
    factor: np.ndarray  # of a covariance per component, or of one (length 1): (K, D, D), (K, D) or (K, 1)
    inverse: np.ndarray  # of the factor
    per_matrix: np.ndarray  # √(weight / 2) for each entry of the scatter, (K, ...) or (1, ...)


class Ascent(NamedTuple):
    """An ascent of one run. All leaves are NumPy arrays of fixed shape, so that it can be kept on disk."""

    state: em.State  # the best so far
    whitening: Whitening
    point: np.ndarray  # (P,): what the state's mixture was estimated from; unknown before the first step
    step: np.ndarray  # (P,): from there, that of EM
    direction: np.ndarray  # (P,): that of L-BFGS
    moves: np.ndarray  # (MEMORY, P)
    changes: np.ndarray  # (MEMORY, P): of the gradient, over the moves
    n_pairs: np.ndarray  # ()
    length: np.ndarray  # (): share of the direction that is proposed
    patience: np.ndarray  # (): plain steps after the next refusal
    plainly: np.ndarray  # (): of the next steps, how many are plain
    n_small: np.ndarray  # (): how many estimates in a row were small
    line: np.ndarray  # (AT_MOST,): the objective after each step, NaN past the end
    is_done: np.ndarray  # ()


AT_MOST = 1000
"""Most steps of an ascent."""


def begin(state: em.State) -> Ascent:
    """The ascent of a run that has made a step; its first two steps are plain."""
    whitening = _whitening(state)
    vector = _vector(whitening, *_target(state))
    nothing, pairs = np.zeros_like(vector), np.zeros((MEMORY, len(vector)))
    return Ascent(
        state=state,
        whitening=whitening,
        point=nothing,
        step=nothing,
        direction=nothing,
        moves=pairs,
        changes=pairs.copy(),
        n_pairs=np.array(0),
        length=np.array(1.0),
        patience=np.array(1),
        plainly=np.array(2),
        n_small=np.array(0),
        line=np.full(AT_MOST, np.nan, np.asarray(state.objective).dtype),
        is_done=np.array(int(state.status) in FAILED or not bool(np.all(np.isfinite(vector)))),
    )


def propose(ascent: Ascent) -> tuple[em.State, np.ndarray]:
    """The state that the step program is to step, and the point that its M-step estimates from."""
    state, whitening = ascent.state, ascent.whitening
    running = state._replace(status=np.int32(Status.RUNNING))  # pyright: ignore
    if ascent.plainly > 0:
        is_known = bool(np.any(ascent.step))
        return running, ascent.point + ascent.step if is_known else _vector(whitening, *_target(state))
    log_weights, means, scatter = _parts(whitening, ascent.point + ascent.length * ascent.direction, state)
    # In the rows' dtype, as the program gets it.
    means = means.astype(np.asarray(state.mixture.means).dtype)
    mass, second = _mass_and_second(log_weights, scatter, state)
    mixture = state.mixture
    proposed = type(mixture)(mixture.log_weights, means, mixture.scales, mixture.family)  # pyright: ignore
    moments = Moments(mass, np.zeros_like(means), second, np.zeros_like(state.moments.objective))  # pyright: ignore
    tried = running._replace(mixture=proposed, moments=moments)
    return tried, _vector(whitening, *_target(tried))


def learn(ascent: Ascent, point: np.ndarray, stepped: em.State) -> Ascent:
    """The ascent after the step from a proposal: accepted if it raised what EM raises."""
    state, is_plain = ascent.state, bool(ascent.plainly > 0)
    has_failed = int(stepped.status) in FAILED or not np.isfinite(stepped.objective)
    if not has_failed and (is_plain or float(stepped.gain) > 0.0):
        return _accepted(ascent, point, stepped, is_plain)
    counted = state._replace(n_steps=state.n_steps + np.int32(1))
    ascent = ascent._replace(state=counted, line=_with_objective(ascent.line, state.objective))
    if is_plain:  # where even EM fails, the run stays where it was
        return ascent._replace(is_done=np.array(True))
    patience, n_small, length = int(ascent.patience), int(ascent.n_small), float(ascent.length)
    if length > SHORTER and not n_small:
        return ascent._replace(length=np.array(length * SHORTER))
    return ascent._replace(
        length=np.array(1.0),
        plainly=np.array(patience),
        patience=np.array(min(2 * patience, PATIENCE)),
        n_pairs=np.array(0 if patience >= 4 else int(ascent.n_pairs)),
        n_small=np.array(n_small + 1 if n_small else 0),
        is_done=np.array(n_small > 0 or _is_at_rest(ascent.line)),
    )


def has_next_step(ascent: Ascent) -> bool:
    """Whether it has another step to make: it has not arrived, and its line, of finite objectives, has room."""
    return not ascent.is_done and bool(np.isnan(ascent.line[-1]))


def ended(ascent: Ascent) -> em.State:
    """The state with which a run ends."""
    state = ascent.state
    if int(state.status) in FAILED:
        return state
    status = Status.MAX_STEPS if not ascent.is_done else Status.NOT_MONOTONE if state.fell else Status.CONVERGED
    return state._replace(status=np.int32(status))  # pyright: ignore


def _accepted(ascent: Ascent, point: np.ndarray, stepped: em.State, is_plain: bool) -> Ascent:
    step = _vector(ascent.whitening, *_target(stepped)) - point
    moves, changes, n_pairs = ascent.moves, ascent.changes, int(ascent.n_pairs)
    if np.any(ascent.step):  # there is a point before this one
        move, change = point - ascent.point, ascent.step - step
        curvature = np.dot(move, change)
        if curvature > 1e-10 * float(np.linalg.norm(move) * np.linalg.norm(change)):
            moves, changes = np.concatenate([moves[1:], move[None]]), np.concatenate([changes[1:], change[None]])
            n_pairs = min(n_pairs + 1, MEMORY)
    direction = _lbfgs(step, moves[MEMORY - n_pairs :], changes[MEMORY - n_pairs :])
    is_small = 0.5 * np.dot(step, direction) < STILL_TO_COME
    n_small = int(ascent.n_small) + 1 if is_small else 0
    line = _with_objective(ascent.line, stepped.objective)
    return ascent._replace(
        state=stepped,
        point=point,
        step=step,
        direction=direction,
        moves=moves,
        changes=changes,
        n_pairs=np.array(n_pairs),
        length=ascent.length if is_plain else np.array(min(2.0 * float(ascent.length), 1.0)),
        patience=ascent.patience if is_plain else np.array(1),
        plainly=np.array(max(int(ascent.plainly) - 1, 0)),
        n_small=np.array(n_small),
        line=line,
        is_done=np.array(n_small > 1 or not np.all(np.isfinite(direction)) or _is_at_rest(line)),
    )


def _with_objective(line: np.ndarray, objective: Any) -> np.ndarray:
    line = line.copy()
    line[np.argmax(np.isnan(line))] = objective
    return line


def _is_at_rest(line: np.ndarray) -> bool:
    made = line[~np.isnan(line)].astype(np.float64)
    rounding = np.finfo(line.dtype).eps * max(abs(made[-1]), 1.0)
    return len(made) > WINDOW and bool(made[-1] - made[-1 - WINDOW] < AT_REST * rounding)


def _lbfgs(step: np.ndarray, moves: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The direction of L-BFGS, from the identity, since the coordinates are whitened: in the compact form of Byrd,
    Nocedal and Schnabel (1994, their 3.1), which is a few products of matrices instead of two loops over the pairs.

    Of their letters S is `moves`, Y `changes`, R `upper` and D the diagonal of `products`.
    """
    products = np.dot(moves, changes.T)
    upper = np.triu(products)
    along = np.linalg.solve(upper, np.dot(moves, step))
    changed = np.dot(along, changes)
    back = np.diagonal(products) * along + np.dot(changes, changed - step)
    return step + np.dot(np.linalg.solve(upper.T, back), moves) - changed


def _target(state: em.State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weights (K,), means (K, D) and scatter per mass that the state's moments lead to; 0 for absent components."""
    mass, first, second = (np.asarray(leaf, np.float64) for leaf in state.moments[:3])
    there = mass > 0.0
    safe = np.where(there, mass, 1.0)
    shift = first / safe[:, None]
    divisor = _per_matrix(mass, second)
    outer: Any = state.mixture.family.kind.outer
    with np.errstate(all="ignore"):
        log_weights = np.where(there, np.log(safe / mass.sum()), 0.0)
        scatter = (second - outer(mass, shift)) / np.where(divisor > 0.0, divisor, 1.0)
    return log_weights, np.asarray(state.mixture.means, np.float64) + shift, scatter


def _per_matrix(of_each: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """Values of components (K,) shaped to multiply scatter; their sum where the scatter is pooled."""
    of = of_each if len(scatter) == len(of_each) else of_each.sum()[None]
    return of.reshape(-1, *[1] * (scatter.ndim - 1))


def _mass_and_second(log_weights: np.ndarray, scatter: np.ndarray, state: em.State) -> tuple[np.ndarray, np.ndarray]:
    old, dtype = np.asarray(state.moments.mass, np.float64), np.asarray(state.moments.mass).dtype
    weights = np.where(old > 0.0, np.exp(log_weights - log_weights[old > 0.0].max()), 0.0)
    mass = old.sum() * weights / weights.sum()
    return mass.astype(dtype), (scatter * _per_matrix(mass, scatter)).astype(dtype)


def _whitening(state: em.State) -> Whitening:
    _, _, scatter = _target(state)
    mass = np.asarray(state.moments.mass, np.float64)
    weights = mass / mass.sum()
    n_features = np.asarray(state.mixture.means).shape[1]
    if scatter.ndim == 1:
        scatter_scale, factor = 2.0 / n_features, np.sqrt(np.maximum(scatter, 0.0) / n_features)[:, None]
    else:
        scatter_scale = 2.0
        factor = np.sqrt(np.maximum(scatter, 0.0)) if scatter.ndim == 2 else _factors(scatter)
    if factor.ndim == 2:
        factor = np.where((factor > 0.0) & np.isfinite(factor), factor, 1.0)
        inverse = 1.0 / factor
    else:
        inverse = np.linalg.inv(factor)
    return Whitening(np.sqrt(weights), factor, inverse, np.sqrt(_per_matrix(weights, scatter) / scatter_scale))


def _factors(scatter: np.ndarray) -> np.ndarray:
    """Cholesky factors (K, D, D); of the diagonal alone where a matrix is not definite, and the identity where there
    are no rows."""
    found = np.empty_like(scatter)
    for k, matrix in enumerate(scatter):
        try:
            found[k] = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            variances = np.diagonal(matrix)
            found[k] = np.diag(np.sqrt(np.where(variances > 0.0, variances, 1.0)))
    return found


def _vector(whitening: Whitening, log_weights: np.ndarray, means: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    root, _, inverse, per_matrix = whitening
    if inverse.ndim == 3:
        white_means = np.matmul(inverse, means[..., None])[..., 0]
        white = np.matmul(np.matmul(inverse, scatter), inverse.transpose(0, 2, 1))
    elif scatter.ndim == 2:
        white_means, white = means * inverse, scatter * np.square(inverse)
    else:
        white_means, white = means * inverse, scatter * np.square(inverse[:, 0]) / means.shape[1]
    return np.concatenate([root * log_weights, (root[:, None] * white_means).ravel(), (per_matrix * white).ravel()])


def _parts(whitening: Whitening, vector: np.ndarray, state: em.State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse of `_vector`."""
    root, factor, _, per_matrix = whitening
    n_components, n_features = np.asarray(state.mixture.means).shape
    shape: Any = np.asarray(state.moments.second).shape
    there = root > 0.0
    unroot = np.where(there, 1.0 / np.where(there, root, 1.0), 0.0)
    each = np.where(per_matrix > 0.0, 1.0 / np.where(per_matrix > 0.0, per_matrix, 1.0), 0.0)
    start, end = n_components, n_components * (1 + n_features)
    log_weights, means, scatter = vector[:start], vector[start:end], vector[end:]
    means = unroot[:, None] * means.reshape(n_components, n_features)
    white = each * scatter.reshape(shape)
    if factor.ndim == 3:
        means = np.matmul(factor, means[..., None])[..., 0]
        scatter = np.matmul(np.matmul(factor, white), factor.transpose(0, 2, 1))
    elif len(shape) == 2:
        means, scatter = means * factor, white * np.square(factor)
    else:
        means, scatter = means * factor, white * np.square(factor[:, 0]) * n_features
    return np.where(there, unroot * log_weights, 0.0), np.where(there[:, None], means, state.mixture.means), scatter

"""Escape from a local optimum: merge two components and split a third one in two, at the same time.

If EM has converged with two components on one cluster and one component on two, no EM step can repair that: the
objective would have to fall before it rises (Ueda, Nakano, Ghahramani and Hinton 2000). Proposals are judged by running
them: all make a short run side by side, the best a full run, which is accepted only if its objective ends higher.
Deterministic annealing, an alternative, was tried and is not offered: see benchmarks/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import em
from .._base.linalg import cholesky, columns, einsum
from .._base.memory import to_device
from .._base.programs import program
from .._base.status import FAILED, Status
from ..covariances import Diagonal, Form
from ..density import in_safe_form, joint, normalise, prepare
from ..em.lanes import in_waves
from ..em.maximisation import maximise
from ..families import show_least
from ..mixture import Mixture
from ..moments import Moments
from ..priors import Ridge
from ..rows.batches import Batches
from ..rows.chunks import Chunk
from ..rows.sizes import bytes_of_fit
from .observer import NOBODY, Observer
from .progress import Snapshot
from .race import Race, race_to_ends
from .result import FitResult, best, history_length

PROPOSALS = 16
"""Moves that are tried side by side: as many as run at once on a CPU. Each of two rankings gives half of them."""

OF_A_GAUSSIAN = math.log(2.0) - 0.5 * math.log(math.pi / (math.pi - 2.0))
"""The cost of cutting a Gaussian into halves, nats per row: splitting a truly Gaussian component gains nothing."""

AT_MOST = 0.99
"""Largest share of a covariance that may be attributed to the separation of its halves' means."""

ROUNDS = 4
"""Passes that update the splitting planes' directions. From any start, the second direction is nearly right."""

RACE = Race(steps=10, finalists=2)
"""The race of the proposals: two finalists, since the best after a short run need not be the best in the end."""


class Halves(NamedTuple):
    """Responsibility-weighted sums over the rows above each component's splitting plane, and over all rows."""

    mass: Array  # (K,)
    first: Array  # (K, D), about the origin
    whole_mass: Array  # (K,)
    whole_first: Array  # (K, D)
    together: Array  # (K, K): Σ w r_i r_j


def split_and_merge(
    result: FitResult,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    observer: Observer = NOBODY,
) -> FitResult:
    """The best fit reached from `result` by a sequence of moves, each of which must be an improvement by `_is_better`.

    Steps, status and history are those of the last move's run. A move needs at least three components.
    """
    heights = [float(result.objective)]
    if np.sum(np.isfinite(np.asarray(result.mixture.log_weights))) < 3:
        return replace(result, escapes=to_device(np.asarray(heights, result.objective.dtype)))

    while np.isfinite(heights[-1]) and (states := observer.attempted(propose, result.mixture, batches)) is not None:
        beside = observer.seen_through(partial(_beside, result))
        states, histories = race_to_ends(states, batches, settings, max_steps, RACE, observer=beside)
        found = best(states, histories, settings.floor, length=history_length(max_steps))
        if not _is_better(found, result, float(settings.tol)):
            break
        result = replace(found, restarts=result.restarts)
        heights.append(float(result.objective))
    return replace(result, escapes=to_device(np.asarray(heights, result.objective.dtype)))


def _is_better(found: FitResult, result: FitResult, tol: float) -> bool:
    """Whether a move is accepted: if it removes all spurious components, or raises the objective by more than tol and
    rounding; never if it makes components spurious where none was."""
    if int(found.status) in FAILED or (np.asarray(found.spurious).any() and not np.asarray(result.spurious).any()):
        return False
    if np.asarray(result.spurious).any() and not np.asarray(found.spurious).any():
        return True
    rounding = 64.0 * float(jnp.finfo(result.objective.dtype).eps) * (1.0 + abs(float(result.objective)))
    return int(result.status) in FAILED or float(found.objective) - float(result.objective) > max(tol, rounding)


def propose(mixture: Mixture, batches: Batches) -> em.State:
    """States (PROPOSALS, ...) after one move each, the most promising first; invalid ones have status COLLAPSED."""
    return _states(*_propose(mixture, batches), batches)


@program
def _states(mixtures: Mixture, is_move: Array, batches: Batches) -> em.State:
    n_components, n_features = mixtures.means.shape[1:]
    each = bytes_of_fit(n_components, n_features, batches.dtype.itemsize, mixtures.family.kind.is_diagonal)
    states = in_waves(lambda mixture: em.init(mixture, batches), mixtures, n_components, batches.chunk_size, each)
    status = jnp.where(is_move, states.status, Status.COLLAPSED)
    return states._replace(status=status.astype(jnp.int32))


@program
def _propose(mixture: Mixture, batches: Batches) -> tuple[Mixture, Array]:
    """Mixtures (PROPOSALS, ...), and whether each is a valid move."""
    n_components = mixture.n_components
    origin, live = batches.origin, jnp.isfinite(mixture.log_weights)
    noise = jax.random.normal(jax.random.key(0), mixture.means.shape, mixture.means.dtype)
    axes = mixture.scales.colour(noise, jnp.arange(n_components, dtype=jnp.int32))

    def turn(_: int, carry: tuple[Array, Halves]) -> tuple[Array, Halves]:
        halves = _halves(mixture, batches, carry[0])
        upper, lower = _centres(halves)
        return upper - lower, halves

    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(_halves, mixture, batches, axes))
    apart, halves = lax.fori_loop(0, ROUNDS, turn, (axes, nothing))
    split, merged, into, is_move = _ranked(mixture, halves, apart, live)
    upper, lower = (centre + origin[None] for centre in _centres(halves))
    whole = halves.whole_mass
    share = _upper_share(halves)
    kind = mixture.family.kind
    covariances = show_least(mixture.scales, kind, n_components)
    # A covariance with a shared shape may be narrower than its rows: cap what is subtracted, to keep it definite.
    taken = share * (1.0 - share)
    taken *= AT_MOST / jnp.maximum(taken * _own_distances(mixture, apart), AT_MOST)

    def moved(move: tuple[Array, Array, Array]) -> Mixture:
        """Merge `merged` into `into`, and reuse it for the lower half of `split`; then make an M-step."""
        split, merged, into = move
        both = whole[into] + whole[merged]
        of_both, between = _joined(mixture, whole, (into, merged), (covariances[into], covariances[merged]))
        rest = whole[split] - halves.mass[split]
        mass = whole.at[into].set(both).at[split].set(halves.mass[split]).at[merged].set(rest)
        means = mixture.means.at[into].set(of_both).at[split].set(upper[split]).at[merged].set(lower[split])
        along = apart[split] if kind.is_diagonal else apart[split][:, None]
        across = apart[split] if kind.is_diagonal else apart[split][None]
        half = covariances[split] - taken[split] * along * across
        found = covariances.at[into].set(between).at[split].set(half).at[merged].set(half)
        second = (
            kind.scatter_of(mass, Diagonal(found)) if kind.is_diagonal else kind.project(mass[:, None, None] * found)
        )
        moments = Moments(mass, jnp.zeros_like(means), second, jnp.zeros_like(batches.total_weight))
        return maximise(moments, means, mixture.family, None, Ridge(0.0))

    return lax.map(moved, (split, merged, into)), is_move


def _joined(mixture: Mixture, mass: Array, pair: tuple[Array, Array], of: tuple[Array, Array]) -> tuple[Array, Array]:
    """The mean (D,) and covariance of two merged components, from their covariances `of`: (D, D), or diagonals (D,)."""
    one, other = pair
    share = mass[one] / (mass[one] + mass[other])
    shift = mixture.means[one] - mixture.means[other]
    within = share * of[0] + (1.0 - share) * of[1]
    mean = mixture.means[other] + share * shift
    between = jnp.square(shift) if of[0].ndim == 1 else shift[:, None] * shift[None]
    return mean, within + share * (1.0 - share) * between


def _halves(mixture: Mixture, batches: Batches, axes: Array) -> Halves:
    """`Halves` for splitting each component by the plane through its mean, perpendicular to its axis (K, D)."""
    shift = mixture.means - batches.origin[None]
    offset = einsum("kd,kd->k", axes, shift)

    def program(form: Form) -> Halves:
        operands = prepare(mixture, batches.origin, form)

        def of_chunk(chunk: Chunk) -> Halves:
            _, responsibilities = normalise(joint(mixture, operands, chunk))
            weighted = responsibilities * chunk.weights[None]
            centred = chunk.x - batches.origin[:, None]
            upper = jnp.where(einsum("kd,dn->kn", axes, centred) > offset[:, None], weighted, 0.0)

            def first(weighted: Array) -> Array:
                return einsum("kn,dn->kd", weighted, centred)

            return Halves(
                jnp.sum(upper, axis=1),
                first(upper),
                jnp.sum(weighted, axis=1),
                first(weighted),
                einsum("in,jn->ij", weighted, responsibilities),
            )

        return batches.sum(of_chunk)

    return in_safe_form(mixture, batches.origin, program)


def _centres(halves: Halves) -> tuple[Array, Array]:
    """The means of the upper and lower halves (K, D), about the origin."""
    lower = halves.whole_mass - halves.mass

    def mean(first: Array, mass: Array) -> Array:
        return first / jnp.where(mass > 0.0, mass, 1.0)[:, None]

    return mean(halves.first, halves.mass), mean(halves.whole_first - halves.first, lower)


def _ranked(mixture: Mixture, halves: Halves, apart: Array, live: Array) -> tuple[Array, Array, Array, Array]:
    """The most promising moves (PROPOSALS,): which to split, which to merge, into which, and whether the move is valid.

    Ranked by the estimated gain in expected complete-data log-likelihood, with hard assignments. Half of the moves
    are ranked by the gain of two halves that share a covariance, without the scatter between their means; half by the
    width of the component. The loss of the merged pair is that of `_pairs`.
    """
    n_components, mass, share = len(live), halves.whole_mass, _upper_share(halves)
    between = share * (1.0 - share) * _own_distances(mixture, apart)
    # Above 1 only if covariances are shared or too restricted to match the rows.
    within = -0.5 * jnp.log1p(-jnp.minimum(between, AT_MOST)) + 0.5 * jnp.maximum(between - AT_MOST, 0.0)
    gain = mass * (within + OF_A_GAUSSIAN - _entropy(share))
    # A component on two clusters with a few rows of others looks Gaussian along its axis, but it is wide.
    log_det = jnp.broadcast_to(mixture.scales.log_det(), mass.shape)
    width = 0.5 * mass * (log_det - jnp.sum(jnp.where(live, mass * log_det, 0.0)) / jnp.sum(mass))

    into, merged, loss = (each[None] for each in _pairs(mixture, halves, live))
    split = jnp.arange(n_components, dtype=jnp.int32)[:, None]
    is_move = (split != into) & (split != merged) & (live & (share > 0.0) & (share < 1.0))[:, None] & (loss < jnp.inf)
    n_pairs, n_moves = loss.shape[1], min(PROPOSALS // 2, is_move.size)
    flat, places = _largest(jnp.where(is_move, gain[:, None] - loss, -jnp.inf), n_moves)
    is_move = is_move & ~jnp.isin(jnp.arange(is_move.size, dtype=jnp.int32), places).reshape(is_move.shape)
    wide, others = _largest(jnp.where(is_move, width[:, None] - loss, -jnp.inf), n_moves)
    missing = (0, PROPOSALS - 2 * n_moves)
    places = jnp.pad(jnp.concatenate([places, others]), missing)
    found = jnp.pad(jnp.isfinite(jnp.concatenate([flat, wide])), missing)
    return places // n_pairs, merged[0, places % n_pairs], into[0, places % n_pairs], found


def _largest(values: Array, n: int) -> tuple[Array, Array]:
    """The n largest entries and their indices in the flattened array; NaN counts as −inf."""
    return lax.top_k(jnp.where(jnp.isnan(values), -jnp.inf, values).ravel(), n)


def _pairs(mixture: Mixture, halves: Halves, live: Array) -> tuple[Array, Array, Array]:
    """The 4 K pairs with the largest overlap, and the loss of replacing each by one Gaussian (Runnalls 2007)."""
    n_components, mass = len(live), halves.whole_mass
    overlap = halves.together / jnp.minimum(mass[:, None], mass[None])
    is_pair = jnp.triu(live[:, None] & live[None], 1)
    n_pairs = min(4 * n_components, n_components * n_components)
    overlap, pairs = _largest(jnp.where(is_pair, overlap, -1.0), n_pairs)
    first, second = pairs // n_components, pairs % n_components
    covariances = show_least(mixture.scales, mixture.family.kind, n_components)
    log_det = jnp.broadcast_to(mixture.scales.log_det(), mass.shape)

    def matrix(component: Array) -> Array:
        return jnp.diag(covariances[component]) if covariances.ndim == 2 else covariances[component]

    def loss(first: Array, second: Array) -> Array:
        both = mass[first] + mass[second]
        share = mass[first] / both
        factor = cholesky(_joined(mixture, mass, (first, second), (matrix(first), matrix(second)))[1])
        volume = 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))
        apart = share * log_det[first] + (1.0 - share) * log_det[second]
        return both * (0.5 * (volume - apart) + OF_A_GAUSSIAN - _entropy(share))

    lost = lax.map(lambda pair: loss(*pair), (first, second))
    return first, second, jnp.where(overlap >= 0.0, lost, jnp.inf)


def _upper_share(halves: Halves) -> Array:
    return halves.mass / jnp.where(halves.whole_mass > 0.0, halves.whole_mass, 1.0)


def _entropy(share: Array) -> Array:
    """Entropy of (share, 1 − share), nats."""
    return jax.scipy.special.entr(share) + jax.scipy.special.entr(1.0 - share)


def _own_distances(mixture: Mixture, apart: Array) -> Array:
    """Squared Mahalanobis lengths of vectors (K, D), each under its component's covariance. -> (K,)."""
    nothing = jnp.zeros_like(mixture.log_weights)
    operands = mixture.scales.prepare(jnp.zeros_like(apart), jnp.zeros_like(apart[0]), nothing, Form.SAFE)
    return -2.0 * jnp.diagonal(mixture.scales.exponent(operands, columns(apart)))


def _beside(result: FitResult, snapshot: Snapshot) -> Snapshot:
    """A snapshot of the proposals, with the result that they must beat appended."""
    best_so_far = (result.objective, result.status, result.n_steps)
    return Snapshot(*(np.append(leaf, np.asarray(of)) for leaf, of in zip(snapshot, best_so_far, strict=True)))


ESCAPES: dict[str, Callable[..., FitResult]] = {"split-merge": split_and_merge}
"""The shelf of escapes: (result, batches, settings, max_steps, observer) -> a result that is at least as good."""

"""Steps of all runs of a small search together, by NumPy: compiling a program takes longer than most searches.

The M-step, the verdict and the covariances are those of all other runs: their formulas serve NumPy's arrays, too, with
an axis of runs in front (`_base/namespace.py`). What is written here is the pass over the rows, with all components of
a block of rows at once, and sums over blocks in float64.

Exponents are linear in the products of a row's features by pairs, which are computed once, and so are the sums of a
block: two matrix products, in any family. They are float64's, so that in float32 the terms may cancel by far more than
in the FAST form of programs. Where they cancel by too much even so, a run's step is made in the SAFE form: each
component's own mean is subtracted first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.status import Status
from ..evaluation import normalised, whiteners
from ..families import SHELF, Family
from ..mixture import Mixture
from ..moments import Kind, Moments
from ..rows.batches import Batches
from .loop import begin_step, end_step
from .state import Fixed, Settings, State, start_of_scales

BLOCK_BYTES = 2**18
"""Bytes of a block of rows, over runs and components, and in the SAFE form features: with its intermediate values it
then stays in a core's cache."""

MOST_PRODUCTS = 2**23
"""Numbers up to which the products of the rows' features are kept."""

CANCELLED_UP_TO = {4: 3e10, 8: 128.0}
"""How much terms of float64 may cancel, by bytes of the dtype that is asked for. In float32 no more is lost than by the
FAST form (`density.FAST_UP_TO`). In float64 a step must not seem to fall, as it does to the verdict by 64 roundings."""


class HostRows(NamedTuple):
    """The rows of a small table on the host, without those of weight 0."""

    x: np.ndarray  # (D, N), columns
    weights: np.ndarray  # (N,)
    origin: np.ndarray  # (D,)
    products: np.ndarray | None  # (F, N) float64: 1, the features about the origin, and their products or squares
    total_weight: np.ndarray  # (): as in `Batches`
    min_weight: np.ndarray  # ()

    @classmethod
    def of(cls, batches: Batches, kind: Kind) -> HostRows:
        """From rows with room, which lie on the host's side, for families of this kind."""
        n_rows = int(batches.n_rows)
        weights = np.asarray(batches.weights.body)[:n_rows]
        counted = weights > 0.0
        rows = np.asarray(batches.rows.body)[:n_rows]
        rows, weights = (rows, weights) if counted.all() else (rows[counted], weights[counted])
        columns, origin = np.ascontiguousarray(rows.T), np.asarray(batches.origin)
        total, least = np.asarray(batches.total_weight), np.asarray(batches.min_weight)
        products = _products(columns.astype(np.float64) - origin[:, None], kind)
        return cls(columns, weights, origin, products, total, least)


def serves(family: Family, settings: Settings) -> bool:
    """Whether runs of this family can be made here: others' families and priors may know JAX alone."""
    return settings.prior is None and settings.acceleration is None and SHELF.get(family.name) == family


def steps(
    states: State,
    rows: HostRows,
    settings: Settings,
    fixed: Fixed | None,
    limit: int | np.ndarray,
    is_interrupted: Callable[[], bool],
) -> Iterator[tuple[np.ndarray, State]]:
    """`loop.advance` of runs (R, ...) until each has converged, failed or made `limit` steps, () or (R,), or until they
    are interrupted. All leaves are NumPy's. -> after each step, the indices of the runs that made it, and their states,
    without the last components if they are padding in all runs."""
    padded, n_used = states.mixture.n_components, _n_used(states, fixed)
    if fixed is not None:
        fixed = fixed._replace(
            mixture=jax.tree.map(lambda leaf: leaf[:n_used] if len(leaf) == padded else leaf, fixed.mixture)
        )
    few = jax.tree.map(lambda leaf: leaf[:, :n_used] if leaf.shape[1:2] == (padded,) else leaf, states)
    limits = np.broadcast_to(limit, states.status.shape)
    going = np.arange(len(limits))
    while True:
        goes_on = (few.status == Status.RUNNING) & (few.n_steps < limits[going])
        if not goes_on.all():
            going, few = going[goes_on], jax.tree.map(lambda leaf, those=goes_on: leaf[those], few)
        if not len(going) or is_interrupted():
            return
        with np.errstate(all="ignore"):  # a status says what went wrong
            few, proposal, lost = begin_step(few, settings, fixed)
            moments = expect(proposal.mixture, rows, settings.ridge)
            few = end_step(few, proposal, moments, rows, settings, lost)  # pyright: ignore
        yield going, few


def _n_used(states: State, fixed: Fixed | None) -> int:
    """The number of components without those that are padding behind the last that is none in some run."""
    mixture, padded = states.mixture, states.mixture.n_components
    is_used = ((states.moments.mass > 0.0) | (mixture.log_weights != -np.inf)).any(axis=0)
    for leaf in jax.tree.leaves(mixture.scales):
        if leaf.shape[1] == padded:  # a user's component of weight 0 has covariances of its own before its first step
            differs = leaf != start_of_scales(leaf.shape[1:], mixture.n_features, leaf.dtype)
            is_used |= differs.any(axis=(0, *range(2, leaf.ndim)))
    if fixed is not None:
        is_used |= fixed.mixture.log_weights != -np.inf
    return max(1, int(np.flatnonzero(is_used).max(initial=0)) + 1)


def expect(mixture: Mixture, rows: HostRows, ridge: Any) -> Moments:
    """`expectation.expect` of runs (R, ...) by NumPy, without components of weight 0."""
    kind, means = mixture.family.kind, np.asarray(mixture.means)
    constant, whitener = whiteners(mixture)
    if whitener.ndim == means.ndim and not kind.is_diagonal:  # all matrices happen to be diagonal
        whitener = whitener[..., None] * np.eye(means.shape[-1], dtype=means.dtype)
    is_there = np.asarray(mixture.log_weights != -np.inf)
    is_there[~is_there.any(axis=-1)] = True  # the objective then says that it is no mixture
    shift, linear, is_fast = means.astype(np.float64) - rows.origin, None, np.zeros(len(means), bool)
    if rows.products is not None:
        variances = np.asarray(mixture.scales.variances())
        cancelled, linear = _in_products(constant, whitener.astype(np.float64), shift, variances)
        is_fast = np.asarray(((cancelled <= CANCELLED_UP_TO[means.dtype.itemsize]) | ~is_there).all(axis=-1))
    i, j = _pairs(means.shape[-1], kind.is_diagonal)
    totals, objective = np.zeros((*means.shape[:-1], 1 + means.shape[-1] + len(i))), np.zeros(len(means))
    of_safe = means.shape[-1] * means.dtype.itemsize
    for lanes, there, fast in _together(is_there, is_fast, len(rows.weights), of_safe):
        at = lanes[:, None], there
        size = max(64, BLOCK_BYTES // (len(there) * (8 if fast else of_safe)))
        total, log_prob = np.zeros(()), np.zeros(())
        for start in range(0, len(rows.weights), size):
            of, weights = slice(start, start + size), rows.weights[start : start + size]
            if fast:
                part = _of_products(rows.products[:, of], weights, linear[at])  # pyright: ignore
            else:
                part = _of_rows(rows.x[:, of], weights, constant[at], whitener[at], means[at])
            total, log_prob = total + part[0], log_prob + part[1]
        totals[at], objective[lanes] = total, log_prob
    moved = np.where((is_there & is_fast[:, None])[..., None], shift, 0.0)
    mass, first, second = _about_means(totals, moved, i, j)
    is_shared = mixture.scales.variances().shape[-2] < means.shape[-2]
    variances = _estimated(mass, first, second[..., i == j], is_shared) + ridge
    is_kept = np.square(moved) <= CANCELLED_UP_TO[means.dtype.itemsize] * variances
    by_rows = ~(is_kept | (moved == 0.0)).all(axis=(-2, -1))  # NaN is no number of digits
    if not kind.is_diagonal:
        second = kind.project(_symmetric(second, i, j))  # pyright: ignore
    elif len(kind.shape(1, 1)) == 1:
        second = second.sum(axis=-1)
    found = Moments(*(np.asarray(sums, means.dtype) for sums in (mass, first, second, objective)))  # pyright: ignore
    if by_rows.any():
        some = jax.tree.map(lambda leaf: leaf[by_rows], mixture)
        for whole, part in zip(found, expect(some, rows._replace(products=None), ridge), strict=True):
            whole[by_rows] = part  # pyright: ignore
    return found


def _together(
    is_there: np.ndarray, is_fast: np.ndarray, n_rows: int, of_safe: int
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Runs whose rows are summed at once: as many as fit in a block, with the same components, in the same form.
    -> their indices, those of the components, and whether the form is FAST."""
    ways = np.column_stack([is_there, is_fast])
    alike, of_each = ways[:1], np.zeros(len(ways), np.intp)
    if (ways != ways[0]).any():
        alike, of_each = np.unique(ways, axis=0, return_inverse=True)
    for index, way in enumerate(alike):
        lanes, there, fast = np.flatnonzero(of_each.ravel() == index), np.flatnonzero(way[:-1]), bool(way[-1])
        width = max(1, BLOCK_BYTES // max(1, n_rows * len(there) * (8 if fast else of_safe)))
        for start in range(0, len(lanes), width):
            yield lanes[start : start + width], there, fast


def _of_rows(
    x: np.ndarray, weights: np.ndarray, constant: np.ndarray, whitener: np.ndarray, means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `_of_products` in the SAFE form, about the means: columns x (D, n), runs (R, K, ...)."""
    apart, is_diagonal = x - means[..., None], whitener.ndim == means.ndim
    white = whitener[..., None] * apart if is_diagonal else np.matmul(whitener, apart)
    log_prob, weighted = normalised(constant[..., None] - 0.5 * np.square(white, out=white).sum(axis=-2))
    weighted *= weights
    part = np.multiply(apart, weighted[..., None, :], out=white)
    if is_diagonal:
        second = (part * apart).sum(axis=-1)
    else:
        i, j = _pairs(len(x), is_diagonal)
        second = np.matmul(part, apart.swapaxes(-1, -2))[..., i, j]
    sums = np.concatenate([weighted.sum(axis=-1)[..., None], part.sum(axis=-1), second], axis=-1)
    return sums.astype(np.float64), (log_prob * weights).sum(axis=-1).astype(np.float64)


def _of_products(products: np.ndarray, weights: np.ndarray, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of a block of rows by their products (F, n), for runs (R, K, F): of the products, (R, K, F), and of the
    log-density, (R,). Shares are exponentials in the dtype of the weights (n,)."""
    joint = np.matmul(linear, products)
    largest = joint.max(axis=-2, keepdims=True)
    joint -= largest
    shares = np.exp(joint.astype(weights.dtype))
    total = shares.sum(axis=-2, keepdims=True)
    shares *= weights / total
    joint[...] = shares
    log_prob = (largest + np.log(total))[..., 0, :]
    return np.matmul(joint, products.T), (log_prob * weights).sum(axis=-1)


def _products(centred: np.ndarray, kind: Kind) -> np.ndarray | None:
    """What exponents of a kind are linear in, (F, N). None where that is too much, or too large for the dtype."""
    n_features, n_rows = centred.shape
    n_products = len(_pairs(n_features, kind.is_diagonal)[0])
    largest = float(np.abs(centred).max(initial=0.0))
    if (1 + n_features + n_products) * n_rows > MOST_PRODUCTS or not np.isfinite(largest * largest * n_rows):
        return None
    found = np.empty((1 + n_features + n_products, n_rows))
    found[0], found[1 : 1 + n_features], products = 1.0, centred, found[1 + n_features :]
    if kind.is_diagonal:
        np.square(centred, out=products)
    else:
        for i in range(n_features):
            first = i * (i + 1) // 2
            np.multiply(centred[: i + 1], centred[i], out=products[first : first + i + 1])
    return found


@lru_cache(16)
def _pairs(n_features: int, is_diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of features whose products are kept."""
    each = np.arange(n_features)
    return (each, each) if is_diagonal else np.tril_indices(n_features)


def _in_products(
    constant: np.ndarray, whitener: np.ndarray, shift: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How much terms cancel (R, K), as `Covariance.cancellation`, and the coefficients (R, K, F) of log joints in
    `HostRows.products`. shift (R, K, D): of the means from the origin."""
    if whitener.ndim == shift.ndim:
        precision = np.square(whitener)
        pull, quadratic = precision * shift, -0.5 * precision
        cancelled = (pull * shift).max(axis=-1)
    else:
        precision = np.matmul(whitener.swapaxes(-1, -2), whitener)
        pull = np.matmul(precision, shift[..., None])[..., 0]
        i, j = _pairs(shift.shape[-1], is_diagonal=False)
        quadratic = precision[..., i, j] * np.where(i == j, -0.5, -1.0)
        # They cancel, too, where features are strongly correlated, at any distance from the origin.
        reach = np.abs(shift) + np.sqrt(variances)
        cancelled = (np.matmul(np.abs(precision), reach[..., None])[..., 0] * reach).sum(axis=-1)
    constant = constant - 0.5 * (pull * shift).sum(axis=-1)
    return cancelled, np.concatenate([constant[..., None], pull, quadratic], axis=-1)


def _estimated(mass: np.ndarray, first: np.ndarray, second: np.ndarray, is_shared: bool) -> np.ndarray:
    """Roughly the variances that these sums estimate: where they are far below those of the mixture, more cancelled
    than that mixture could tell. second: its diagonals (R, K, D). -> (R, K or 1, D), infinite without mass."""
    share = np.where(mass > 0.0, mass, 1.0)[..., None]
    scatter = second - np.square(first) / share
    if is_shared:
        return scatter.sum(axis=-2, keepdims=True) / mass.sum(axis=-1)[:, None, None]
    return np.where((mass > 0.0)[..., None], scatter / share, np.inf)


def _about_means(
    sums: np.ndarray, shift: np.ndarray, i: np.ndarray, j: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of products (..., F) as mass, first and second moments about points moved by `shift` (..., D), the second
    for each pair of features: as `moments.recentre`, by one formula for all kinds."""
    mass, first, second = np.split(sums, [1, 1 + shift.shape[-1]], axis=-1)
    second = second - first[..., i] * shift[..., j] - shift[..., i] * first[..., j]
    second += mass * shift[..., i] * shift[..., j]
    return mass[..., 0], first - mass * shift, second


def _symmetric(pairs: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Symmetric matrices from their entries. (..., P) -> (..., D, D)."""
    n_features = int(i[-1]) + 1
    found = np.empty((*pairs.shape[:-1], n_features, n_features))
    found[..., i, j] = found[..., j, i] = pairs
    return found

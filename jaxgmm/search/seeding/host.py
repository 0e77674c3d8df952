"""Seeds for small tables in NumPy: the same draws and rules as in the programs, for all runs and tries together.

A program would take longer to compile than this takes to run, and each number of components would need another one.
Keys are pairs of uint32 (see `_base/threefry.py`); rows are columns about an origin, x (D, S).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..._base import threefry
from ..._base.linalg import einsum
from ...rows.survey import SAMPLE
from .kmeans import DRAWS, LLOYD_STEPS, QUICK_STEPS, TRIES, is_quick
from .random import DRAWS_OF_ROWS
from .sample import BLOCK, Columns
from .tries import CONSTANT

AT_ONCE = 2**17
"""Most distances that are held at a time."""

TOGETHER = 2**14
"""Distances up to which the nearest of several points is found in one array; for more the system hands out new memory
each time, and point by point takes a quarter of the time (by hand, Zen 4)."""

SHORT = 1024
"""Rows up to which several sets of points, together too many, are better compared set by set than point by point, where
calls of NumPy would outweigh what they compute: half the time or less with 500 rows (by hand, Zen 5)."""


def quiet() -> Any:
    """A context that allows overflow without warnings, as in programs: the run's status will report it."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def seeds(
    keys: np.ndarray,
    rows: Columns,
    seeding: str,
    n_components: int,
    count: int,
    restarts: np.ndarray | None = None,
) -> np.ndarray:
    """Seeds by the named method. The first `count` are used; the others are 0, the origin. -> (R, K, D).

    keys (R, 2, 2): a pair per run, one to sample the candidate rows and one to choose among them. restarts (R,): the
    runs' indices, 0, 1, … if None.
    """
    found = np.empty((len(keys), n_components, len(rows.x)), rows.x.dtype)
    quick = np.asarray(is_quick(np.arange(len(keys)) if restarts is None else restarts, seeding))
    with quiet():
        for of in (quick, ~quick):
            if of.any():
                found[of] = _seeds(keys[of], rows, seeding, n_components, count, bool(quick[of][0]))
    return found


def _seeds(keys: np.ndarray, rows: Columns, seeding: str, n_components: int, count: int, quick: bool) -> np.ndarray:
    x, weights = (np.asarray(part) for part in rows)
    many = max(2 * SAMPLE, 32 * n_components)
    if x.shape[1] <= many:
        found = _by_name[seeding](keys[:, 1], x, weights, n_components, count, quick)
    else:
        size = many // 2
        parts = []
        for pair in keys:
            places = (np.arange(size) + threefry.uniform(pair[0], size, x.dtype)) / size
            few = x[:, np.searchsorted(np.cumsum(weights, dtype=np.float64), places * weights.sum(dtype=np.float64))]
            parts.append(_by_name[seeding](pair[None, 1], few, np.ones(size, x.dtype), n_components, count, quick))
        found = np.concatenate(parts)
    found[:, count:] = 0.0
    return found


def nearest(x: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of the points to every row, and its squared distance. (D, S), (B, P, D) -> (B, S), (B, S)."""
    n_sets, n_rows = len(points), x.shape[1]
    together = TOGETHER // (points.shape[1] * n_rows)  # sets of points
    if together >= n_sets or (together and n_rows <= SHORT):
        each = [_squares(x, points[first : first + together]) for first in range(0, n_sets, together)]
        return np.concatenate([of.argmin(axis=1) for of in each]), np.concatenate([of.min(axis=1) for of in each])
    indices = np.arange(points.shape[1], dtype=np.min_scalar_type(points.shape[1]))
    labels = np.zeros((len(points), x.shape[1]), indices.dtype)
    closest = _squares(x, points[:, 0])
    for index in indices[1:]:
        distance = _squares(x, points[:, index])
        labels = np.where(distance < closest, index, labels)
        np.minimum(closest, distance, out=closest)
    return labels.astype(np.intp), closest


def _squares(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """|x − point|². (D, S), (..., D) -> (..., S)."""

    def along(d: int) -> np.ndarray:
        apart = x[d] - points[..., d : d + 1]
        apart *= apart
        return apart

    total = along(0)
    for d in range(1, len(x)):
        total += along(d)
    return total


def _best_of_tries(refine: bool) -> Callable[..., np.ndarray]:
    def choose(
        keys: np.ndarray, x: np.ndarray, weights: np.ndarray, n_components: int, count: int, quick: bool
    ) -> np.ndarray:
        at_once = max(1, AT_ONCE // (TRIES * 4 * x.shape[1]))
        found = [
            _of_runs(keys[first : first + at_once], x, weights, n_components, count, refine, quick)
            for first in range(0, len(keys), at_once)
        ]
        return np.concatenate(found)

    return choose


def _of_runs(
    keys: np.ndarray, x: np.ndarray, weights: np.ndarray, n_components: int, count: int, refine: bool, quick: bool
) -> np.ndarray:
    uniform = threefry.uniform(keys, n_components * TRIES * DRAWS, x.dtype)
    uniform = np.swapaxes(uniform.reshape(-1, n_components, TRIES, DRAWS), 1, 2)
    found = _greedy(uniform.reshape(-1, n_components, DRAWS), x, weights, n_components, count, quick)
    if refine:
        found = _lloyd(found, x, weights, QUICK_STEPS if quick else LLOYD_STEPS)
    labels, distances = nearest(x, found)
    figures = _log_likelihoods(labels, x, weights, count) if quick else -einsum("bs,s->b", distances, weights)
    whole = np.zeros((len(keys), n_components, len(x)), x.dtype)
    whole[:, :count] = _best_of(found.reshape(-1, TRIES, count, len(x)), figures)
    return whole


def _best_of(seeds: np.ndarray, figures: np.ndarray) -> np.ndarray:
    """Of each run's draws (R, tries, K, D) that with the highest figure, as `tries.best_of` has it. -> (R, K, D)."""
    figures = np.where(np.isnan(figures), -np.inf, figures).reshape(seeds.shape[:2])
    return seeds[np.arange(len(seeds)), np.argmax(figures, axis=1)]


def _log_likelihoods(labels: np.ndarray, x: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """`tries.log_likelihood` of starts that give the rows these labels (B, S). -> (B,)."""
    n_starts = len(labels)
    flat = (labels + count * np.arange(n_starts)[:, None]).ravel()

    def sums(values: np.ndarray) -> np.ndarray:
        each = np.broadcast_to(values, labels.shape).ravel()
        return np.bincount(flat, each, n_starts * count).reshape(n_starts, count)

    total = weights.sum(dtype=np.float64)
    row = np.square(weights, dtype=np.float64).sum() / total
    mass = sums(weights)
    terms = np.log(mass / total)
    shares = weights / total
    for feature in x.astype(np.float64):
        centred = feature - einsum("s,s->", shares, feature)
        spread = einsum("s,s->", shares, np.square(centred))
        if spread > CONSTANT * einsum("s,s->", shares, np.square(feature)):
            centred /= np.sqrt(spread)
            own = np.maximum(0.0, sums(weights * np.square(centred)) - np.square(sums(weights * centred)) / mass)
            terms -= 0.5 * np.log((own + row) / (mass + row))
    return np.where(np.all(mass > 0.0, axis=1), np.sum(np.where(mass > 0.0, mass * terms, 0.0), axis=1), -np.inf)


def _greedy(
    uniform: np.ndarray, x: np.ndarray, weights: np.ndarray, n_components: int, count: int, quick: bool
) -> np.ndarray:
    """Greedy k-means++ (see `kmeans.py`). uniform (B, K, DRAWS) -> (B, count, D)."""
    most = min(DRAWS, 2 + int(math.log(n_components)))
    n_tried = 1 if quick else min(most, 2 + int(math.log(count + 1e-3)))
    found = np.zeros((len(uniform), count, len(x)), x.dtype)
    before, every = None, np.arange(len(uniform))
    for index in range(count):
        potential = np.broadcast_to(weights, (len(uniform), len(weights))) if before is None else weights * before
        if before is not None:
            is_empty = ~(potential.sum(axis=1) > 0.0)
            potential[is_empty] = weights
        drawn = _draw(uniform[:, index, : 1 if before is None else n_tried], potential)
        candidates = np.moveaxis(x[:, drawn], 0, -1)  # (B, tried, D)
        remaining = _squares(x, candidates)
        if before is not None:
            np.minimum(remaining, before[:, None], out=remaining)
        best = np.argmin(einsum("bts,s->bt", remaining, weights), axis=1)
        found[:, index], before = candidates[every, best], remaining[every, best]
    return found


def _draw(uniform: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Indices with probability in proportion to the weights. uniform (B, T), weights (B, S) -> (B, T)."""
    cumulative = np.cumsum(weights, axis=1, dtype=np.float64)
    target = (1.0 - uniform.astype(np.float64)) * cumulative[:, -1:]
    found = [np.searchsorted(line, wanted) for line, wanted in zip(cumulative, target, strict=True)]
    return np.minimum(np.array(found), weights.shape[1] - 1)


def _lloyd(seeds: np.ndarray, x: np.ndarray, weights: np.ndarray, most: int) -> np.ndarray:
    """k-means from each set of seeds (B, K, D), in at most so many rounds. A cluster without rows keeps its mean."""
    seeds, moving = seeds.copy(), np.arange(len(seeds))
    n_components, n_rows = seeds.shape[1], len(weights)
    # Weights, and weights times each feature, once for every set of seeds: fewer sets need the first of them.
    each = [np.tile(values, len(seeds)).astype(float) for values in (weights, *(weights * feature for feature in x))]
    for _ in range(most):
        old = seeds[moving]
        labels, _ = nearest(x, old)
        flat, shape = (labels + n_components * np.arange(len(old))[:, None]).ravel(), (len(old), n_components)
        sums = [np.bincount(flat, of[: len(old) * n_rows], math.prod(shape)).reshape(shape) for of in each]
        mass, means = sums[0], np.stack(sums[1:], axis=-1)
        held = mass > 0.0
        means = np.where(held[..., None], means / np.where(held, mass, 1.0)[..., None], old).astype(seeds.dtype)
        seeds[moving] = means
        moving = moving[np.any(means != old, axis=(1, 2))]
        if not len(moving):
            break
    return seeds


def _random_rows(
    keys: np.ndarray, x: np.ndarray, weights: np.ndarray, n_components: int, count: int, quick: bool
) -> np.ndarray:
    del quick
    tiny = np.finfo(x.dtype).tiny
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    n_draws = max(1, min(DRAWS_OF_ROWS, int(np.count_nonzero(weights)) // count))
    found = np.zeros((len(keys), n_components, len(x)), x.dtype)
    at_once = max(1, AT_ONCE // (n_draws * len(weights)))
    for start in range(0, len(keys), at_once):
        uniform = threefry.uniform(keys[start : start + at_once], len(weights), x.dtype)
        noise = -np.log(-np.log(np.maximum(tiny, uniform * (1.0 - tiny) + tiny)))
        order = np.argsort(-(log_weights + noise.astype(x.dtype)), axis=1, kind="stable")[:, : n_draws * count]
        drawn = np.moveaxis(x[:, order], 0, -1)
        if n_draws == 1:
            found[start : start + at_once, : drawn.shape[1]] = drawn
            continue
        labels, _ = nearest(x, drawn.reshape(-1, count, len(x)))
        figures = _log_likelihoods(labels, x, weights, count)
        found[start : start + at_once, :count] = _best_of(drawn.reshape(-1, n_draws, count, len(x)), figures)
    return found


def _random_responsibilities(
    keys: np.ndarray, x: np.ndarray, weights: np.ndarray, n_components: int, count: int, quick: bool
) -> np.ndarray:
    del quick
    found = np.zeros((len(keys), n_components, len(x)), x.dtype)
    for run, key in enumerate(keys):
        mass, squares, first = np.zeros(count), np.zeros(count), np.zeros((count, len(x)))
        for start in range(0, len(weights), BLOCK):
            of = weights[start : start + BLOCK]
            uniform = threefry.uniform(threefry.fold_in(key, start), count * BLOCK, x.dtype)
            share = -np.log1p(-uniform).reshape(count, BLOCK)[:, : len(of)]
            weighted = share / share.sum(axis=0) * of
            mass += weighted.sum(axis=1)
            first += einsum("ks,ds->kd", weighted, x[:, start : start + BLOCK])
            squares += np.square(weighted).sum(axis=1)
        centre = first.sum(axis=0) / mass.sum()
        held = mass > 0.0
        means = np.where(held[:, None], first / np.where(held, mass, 1.0)[:, None], centre)
        found[run, :count] = centre + (means - centre) * (mass / np.sqrt(np.where(held, squares, 1.0)))[:, None]
    return found


_by_name: Mapping[str, Callable[..., np.ndarray]] = {
    "k-means++": _best_of_tries(refine=False),
    "k-means": _best_of_tries(refine=True),
    "random_rows": _random_rows,
    "random_responsibilities": _random_responsibilities,
}

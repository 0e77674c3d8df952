"""Seeds by k-means++ and by k-means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._base.linalg import einsum
from ...em.hard import nearest
from .sample import Columns, draw, squared_distances, sums_by_label
from .tries import best_of, log_likelihood

LLOYD_STEPS = 100
"""Most rounds of k-means; it stops as soon as no mean moves."""

TRIES = 4
"""Independent draws. Of a careful run the one with the smallest sum of squared distances gives the seeds: with eight
well-separated clusters one draw in five misses one, which EM cannot repair. Of a quick run it is the likeliest."""

QUICK_STEPS = 2
"""Rounds of k-means of a quick run. The best of several k-means has mostly the same end: of four such restarts of 300
rows and five overlapping clusters 1.8 ended apart, and the best of them was lower than that of as many single runs."""

DRAWS = 16
"""Uniform numbers per seed, of which 2 + log K are used. Fixed, so that the first K draws do not depend on the
number of padded components (under JAX's default, `jax_threefry_partitionable`)."""


ONE_IN = {"k-means++": 2, "k-means": 4}
"""One run in so many, and the first, is seeded with all care, and the others by quick draws, so that restarts differ.
Quick draws of k-means++ miss clusters that lie apart, where there are many: so it is every other one."""


def is_quick(restart: Any, seeding: str) -> Any:
    """Whether a run is seeded by quick draws, by its index in its search."""
    return restart % ONE_IN.get(seeding, 1) != 0


def kmeans_plus_plus(
    key: Array, rows: Columns, n_components: int, count: Array | int, restart: Array | int = 0
) -> Array:
    """Greedy k-means++, the best of `TRIES`; of a quick run k-means++, the likeliest of them. -> seeds (K, D) about the
    rows' origin."""
    return _best_of(_greedy, key, rows, n_components, count, is_quick(restart, "k-means++"))


def kmeans(key: Array, rows: Columns, n_components: int, count: Array | int, restart: Array | int = 0) -> Array:
    """k-means (Lloyd's algorithm) from greedy k-means++, the best of `TRIES`; of a quick run, `QUICK_STEPS` rounds from
    k-means++, the likeliest. -> seeds (K, D)."""
    return _best_of(_lloyd, key, rows, n_components, count, is_quick(restart, "k-means"))


def _best_of(
    seeding: Callable[[Array, Columns, int, Array | int, Array], Array],
    key: Array,
    rows: Columns,
    n_components: int,
    count: Array | int,
    is_quick: Any,
) -> Array:
    quick = jnp.asarray(is_quick)

    # Drawn as a vector: with more axes the generator takes four times as long to compile.
    uniform = jax.random.uniform(key, (n_components * TRIES * DRAWS,), rows.x.dtype)
    uniform = jnp.swapaxes(uniform.reshape(n_components, TRIES, DRAWS), 0, 1)

    def one(index: Array) -> tuple[Array, Array]:
        seeds = seeding(uniform[index], rows, n_components, count, quick)
        distances = einsum("s,s->", nearest(rows.x, seeds, count)[1], rows.weights)
        return seeds, jnp.where(quick, log_likelihood(seeds, rows, count), -distances)

    return best_of(one, TRIES, jnp.zeros((n_components, len(rows.x)), rows.x.dtype))


def _greedy(uniform: Array, rows: Columns, n_components: int, count: Array | int, quick: Array) -> Array:
    """Greedy k-means++ once; if `quick`, not greedy. uniform (K, DRAWS).

    Each seed is the best of 2 + log K rows (or the only one) drawn with probability proportional to weight times
    squared distance to the nearest seed so far: the one that lowers the sum of those distances most. Arthur and
    Vassilvitskii 2007.
    """
    x, weights = rows
    most = min(DRAWS, 2 + int(math.log(n_components)))
    n_tried = 2 + jnp.log(jnp.asarray(count, x.dtype) + 1e-3).astype(jnp.int32)
    tried = jnp.arange(most, dtype=jnp.int32) < jnp.where(quick, 1, n_tried)

    # The first seed is a single candidate drawn by weight alone; the same loop body draws it and the others.
    def choose(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        seeds, before = carry
        is_first = index == 0
        potential = jnp.where(is_first, weights, weights * before)
        # If every row already is a seed, any row will do.
        potential = jnp.where(jnp.sum(potential) > 0.0, potential, weights)
        candidates = x[:, draw(uniform[index, :most], potential)].T
        remaining = jnp.minimum(before[None], squared_distances(x, candidates))
        counts = tried & (~is_first | (jnp.arange(most, dtype=jnp.int32) == 0))
        best = jnp.argmin(jnp.where(counts, einsum("ts,s->t", remaining, weights), jnp.inf))
        return seeds.at[index].set(candidates[best]), remaining[best]

    none = jnp.zeros((n_components, len(x)), x.dtype), jnp.full_like(weights, jnp.inf)
    return lax.fori_loop(0, count, choose, none)[0]


def _lloyd(uniform: Array, rows: Columns, n_components: int, count: Array | int, quick: Array) -> Array:
    """k-means once. A cluster that loses all its rows keeps its mean."""
    most = jnp.where(quick, QUICK_STEPS, LLOYD_STEPS)

    def moving(carry: tuple[Array, Array, Array]) -> Array:
        _, moved, n_steps = carry
        return moved & (n_steps < most)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        seeds, _, n_steps = carry
        labels, _ = nearest(rows.x, seeds, count)
        sums = sums_by_label(rows, labels, n_components, degree=1)
        mass = sums[:, :1]
        means = jnp.where(mass > 0.0, sums[:, 1:] / jnp.where(mass > 0.0, mass, 1.0), seeds)
        return means, jnp.any(means != seeds), n_steps + 1

    start = (_greedy(uniform, rows, n_components, count, quick), jnp.array(True), jnp.int32(0))
    return lax.while_loop(moving, step, start)[0]

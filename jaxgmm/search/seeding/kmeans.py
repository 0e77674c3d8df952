"""Seeds by k-means++ and by k-means."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._base.linalg import einsum
from ...em.hard import nearest
from .sample import Columns, draw, squared_distances

LLOYD_STEPS = 100
"""Most rounds of k-means; it stops as soon as no mean moves."""

TRIES = 4
"""Independent draws; the one with the smallest sum of squared distances gives the seeds. With eight well-separated
clusters one draw in five misses one, which EM cannot repair; rows are few here, so more draws are cheap."""

DRAWS = 16
"""Uniform numbers per seed, of which 2 + log K are used. Fixed, so that the first K draws do not depend on the
number of padded components (under JAX's default, `jax_threefry_partitionable`)."""


def kmeans_plus_plus(key: Array, rows: Columns, n_components: int, count: Array | int) -> Array:
    """Greedy k-means++, the best of `TRIES`. -> seeds (K, D) about the origin of the rows."""
    return _best_of(_greedy, key, rows, n_components, count)


def kmeans(key: Array, rows: Columns, n_components: int, count: Array | int) -> Array:
    """k-means (Lloyd's algorithm) from greedy k-means++, the best of `TRIES`. -> seeds (K, D)."""
    return _best_of(_lloyd, key, rows, n_components, count)


def _best_of(
    seeding: Callable[[Array, Columns, int, Array | int], Array],
    key: Array,
    rows: Columns,
    n_components: int,
    count: Array | int,
) -> Array:
    def one(uniform: Array) -> tuple[Array, Array]:
        seeds = seeding(uniform, rows, n_components, count)
        return seeds, einsum("s,s->", nearest(rows.x, seeds, count)[1], rows.weights)

    # Drawn as a vector: with more axes the generator takes four times as long to compile.
    uniform = jax.random.uniform(key, (n_components * TRIES * DRAWS,), rows.x.dtype)
    seeds, potentials = lax.map(one, jnp.swapaxes(uniform.reshape(n_components, TRIES, DRAWS), 0, 1))
    return seeds[jnp.argmin(potentials)]


def _greedy(uniform: Array, rows: Columns, n_components: int, count: Array | int) -> Array:
    """Greedy k-means++ once. uniform (K, DRAWS).

    Each seed is the best of 2 + log K rows drawn with probability proportional to weight times squared distance to
    the nearest seed so far: the one that lowers the sum of those distances most. Arthur and Vassilvitskii 2007.
    """
    x, weights = rows
    most = min(DRAWS, 2 + int(math.log(n_components)))
    tried = jnp.arange(most, dtype=jnp.int32) < 2 + jnp.log(jnp.asarray(count, x.dtype) + 1e-3).astype(jnp.int32)

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


def _lloyd(uniform: Array, rows: Columns, n_components: int, count: Array | int) -> Array:
    """k-means once. A cluster that loses all its rows keeps its mean."""
    x, weights = rows
    components = jnp.arange(n_components, dtype=jnp.int32)

    def moving(carry: tuple[Array, Array, Array]) -> Array:
        _, moved, n_steps = carry
        return moved & (n_steps < LLOYD_STEPS)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        seeds, _, n_steps = carry
        labels, _ = nearest(x, seeds, count)

        def mean_of(component: tuple[Array, Array]) -> Array:
            index, seed = component
            members = jnp.where(labels == index, weights, 0.0)
            mass = jnp.sum(members)
            return jnp.where(mass > 0.0, einsum("s,ds->d", members, x) / jnp.where(mass > 0.0, mass, 1.0), seed)

        means = lax.map(mean_of, (components, seeds))
        return means, jnp.any(means != seeds), n_steps + 1

    start = (_greedy(uniform, rows, n_components, count), jnp.array(True), jnp.int32(0))
    return lax.while_loop(moving, step, start)[0]

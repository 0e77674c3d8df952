"""The rows that seeds are chosen from: all of them, or a spread-out sample where there are many."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..batches import Batches, next_power_of_two

SAMPLE = 8192
"""Rows that seeds are chosen from, at least; and no fewer than 64 a component."""


class Rows(NamedTuple):
    """Rows in one piece, about the batches' origin."""

    x: Array  # (S, D)
    weights: Array  # (S,)


def rows_for_seeding(key: Array, batches: Batches, n_components: int) -> Rows:
    """All rows where they are few, else one at random from each of S equal stretches: none twice, all regions met."""
    size = next_power_of_two(max(SAMPLE, 64 * n_components))
    chunk = batches.chunk_size
    if batches.n_chunks * chunk <= size:
        pieces = [
            (batches.rows.take(jnp.int32(c)), batches.weights.take(jnp.int32(c))) for c in range(batches.n_chunks)
        ]
        x, weights = (jnp.concatenate(parts) for parts in zip(*pieces, strict=True))
        return Rows(x - batches.origin, weights)
    stretch = jnp.maximum(batches.n_rows // size, 1)
    first = jax.random.randint(key, (), 0, jnp.maximum(batches.n_rows - stretch * size, 0) + 1)
    within = jax.random.randint(jax.random.fold_in(key, 1), (size,), 0, stretch)
    index = (first + jnp.arange(size) * stretch + within) % batches.n_rows

    def pick(chunked: Array | None, tail: Array) -> Array:
        whole = (batches.n_chunks - 1) * chunk
        from_tail = tail[jnp.clip(index - whole, 0, chunk - 1)]
        if chunked is None:
            return jnp.where(index < whole, jnp.ones_like(from_tail), from_tail)
        from_body = chunked[jnp.clip(index, 0, whole - 1)]
        is_body = (index < whole).reshape(-1, *([1] * (tail.ndim - 1)))
        return jnp.where(is_body, from_body, from_tail)

    x = pick(batches.rows.body, batches.rows.tail)
    return Rows(x - batches.origin, pick(batches.weights.body, batches.weights.tail))


def squared_distances(x: Array, points: Array) -> Array:
    """|x − point|² by direct differences, right at any distance from the origin. (S, D), (P, D) -> (P, S)."""
    return lax.map(lambda point: jnp.sum(jnp.square(x - point), axis=1), points)


def draw(uniform: Array, weights: Array) -> Array:
    """Indices with probability in proportion to the weights (S,), one for each uniform number in [0, 1).

    The numbers are the caller's, who makes all of them at once: a generator inside a loop is slow to compile.
    """
    cumulative = jnp.cumsum(weights)
    # In (0, total]: a draw of exactly 0 would land on a leading row of weight 0.
    target = (1.0 - uniform) * cumulative[-1]
    return jnp.clip(jnp.searchsorted(cumulative, target, side="left"), 0, len(weights) - 1)

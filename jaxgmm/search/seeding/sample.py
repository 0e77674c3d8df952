"""The rows that seeds are chosen from: all of them, or a stratified sample if there are many."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._base.linalg import columns, einsum
from ...rows.batches import Batches
from ...rows.survey import rows_kept


class Columns(NamedTuple):
    """Rows in one array, about the batches' origin, as columns: operations on a feature run over contiguous vectors."""

    x: Any  # (D, S), a JAX array, or a NumPy array on the host
    weights: Any  # (S,)


def rows_for_seeding(key: Array, batches: Batches, n_components: int) -> Columns:
    """All rows if they are few, else a stratified sample.

    The rows in order are cut into S stretches of equal weight; one random row of each is drawn, and all draws have
    weight 1. So every part of the table is sampled, however it is sorted. A row is drawn twice only if it lies in two
    stretches, and never if stretches are cut between rows, as they are for rows without weights in several chunks.
    """
    size = rows_kept(n_components) // 2
    capacity = batches.n_chunks * batches.chunk_size
    if capacity <= 2 * size:
        index = jnp.arange(capacity, dtype=jnp.int32)
        weights = batches.weights.rows_at(index)
        # As in `Batches.sum`: rows of weight 0 may overflow, and 0 · inf would be NaN.
        centred = jnp.where((weights > 0.0)[:, None], batches.rows.rows_at(index) - batches.origin[None], 0.0)
        return Columns(columns(centred), weights)
    uniform = jax.random.uniform(key, (size,), batches.dtype)
    place = jnp.arange(size, dtype=jnp.uint32)  # unsigned: place · remainder reaches size²
    if batches.weights.body is None and batches.n_chunks > 1:
        quotient, remainder = (value.astype(jnp.uint32) for value in jnp.divmod(batches.n_rows, size))
        first = place * quotient + place * remainder // size
        after = (place + 1) * quotient + (place + 1) * remainder // size
        within = (uniform * (after - first).astype(uniform.dtype)).astype(jnp.uint32)
        index = jnp.minimum(first + within, after - 1).astype(jnp.int32)
    else:
        weights = batches.weights.rows_at(jnp.arange(capacity, dtype=jnp.int32))
        index = draw((place.astype(uniform.dtype) + uniform) / size, weights)
    return Columns(columns(batches.rows.rows_at(index) - batches.origin[None]), jnp.ones_like(uniform))


def squared_distances(x: Array, points: Array) -> Array:
    """|x − point|² by direct differences, accurate at any distance from the origin. (D, S), (P, D) -> (P, S)."""
    return lax.map(lambda point: jnp.sum(jnp.square(x - point[:, None]), axis=0), points)


BLOCK = 1024
"""Rows whose responsibilities are held at a time, (K, BLOCK)."""


def sums_by_label(rows: Columns, labels: Array, n_labels: int, degree: int) -> Array:
    """Weighted sums of the powers of every feature, 1 to `degree`, over the rows of each label (S,), after their
    weight. -> (n_labels, 1 + degree · D).

    As matrix products of blocks: a pass over all rows for each label takes ten times as long where both are many, and
    nothing of the size of the rows is stored.
    """
    n_rows = len(rows.weights)
    size = min(BLOCK, n_rows)
    names, place = (jnp.arange(n, dtype=jnp.int32) for n in (n_labels, size))

    def add(index: Array, sums: Array) -> Array:
        start = jnp.minimum(index * size, n_rows - size)  # the last block reaches back over rows that are counted
        x, weights, given = (lax.dynamic_slice_in_dim(of, start, size, axis=-1) for of in (*rows, labels))
        is_new = start + place >= index * size
        members = jnp.where((given[None] == names[:, None]) & is_new[None], weights[None], 0.0)
        powers = jnp.concatenate([jnp.ones_like(x[:1]), *(x**power for power in range(1, degree + 1))])
        return sums + einsum("ks,ps->kp", members, powers)

    none = jnp.zeros((n_labels, 1 + degree * len(rows.x)), rows.x.dtype)
    return lax.fori_loop(jnp.int32(0), jnp.int32(-(-n_rows // size)), add, none)


DRAWN_FROM = 64
"""Weights in a block, from which one is drawn."""

COMPARED_AT_ONCE = 2**20
"""Most comparisons that take less time than compiling the loop of a binary search."""


def draw(uniform: Array, weights: Array) -> Array:
    """Indices with probability in proportion to the weights (S,), one for each uniform number in [0, 1).

    First a block of weights is drawn and then one within it: a running sum over all weights is slow on CPU. The caller
    passes the uniform numbers and draws all of them at once: a generator inside a loop is slow to compile.
    """
    blocks = jnp.pad(weights, (0, -len(weights) % DRAWN_FROM)).reshape(-1, DRAWN_FROM)
    # Parallel sums are not monotone in their last digit, and a block of weight 0 could be drawn in such a dip.
    cumulative = lax.cummax(jnp.cumsum(jnp.sum(blocks, axis=1)))
    limits = jnp.finfo(weights.dtype)
    # In (0, total], whatever the rounding: a target of 0 would select a leading row of weight 0.
    target = (1.0 - jnp.minimum(uniform, 1.0 - limits.epsneg)) * cumulative[-1]
    few = uniform.size * len(cumulative) <= COMPARED_AT_ONCE
    block = jnp.searchsorted(cumulative, target, method="compare_all" if few else "scan")
    block = jnp.clip(block.astype(jnp.int32), 0, len(blocks) - 1)
    # The block's first row of positive weight whose running sum reaches the rest of the target, or else its last.
    held = blocks[block]
    within = jnp.where(
        held > 0.0, einsum("...i,ij->...j", held, jnp.triu(jnp.ones_like(held, shape=(DRAWN_FROM,) * 2))), -jnp.inf
    )
    rest = target - jnp.where(block > 0, cumulative[block - 1], 0.0)
    rest = jnp.minimum(rest, jnp.max(within, axis=-1))
    place = jnp.argmax(within >= rest[..., None], axis=-1).astype(jnp.int32)
    return jnp.clip(block * DRAWN_FROM + place, 0, len(weights) - 1)

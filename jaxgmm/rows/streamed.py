"""Rows that are read block by block: a program works on one block while the next is read.

A first pass checks all values, finds the point about which sums are taken, and draws the rows that seeds are chosen
from. All blocks have the same shape, so one program serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.precision import precision_for
from .._base.programs import next_power_of_two, program
from .._base.sums import compensated_add
from . import _check_parts
from .batches import Batches
from .blocks import Blocks
from .chunks import Chunked, Counted
from .conversion import floating_dtype
from .partitioned import How, PartitionedRows
from .prefetch import ahead
from .sizes import choose_chunk_size
from .sources import Piece, Tally
from .survey import Survey, described, moved, rng_of, rows_kept, sound_row
from .units import in_unit

BLOCK = 2**25
"""Bytes of rows per block: few enough that three blocks are negligible, enough that starting a program is."""

FEW = 16
"""Blocks up to which their size is fitted so that all are full, at the price of a program for that size."""


class Layout(NamedTuple):
    """How blocks of rows become `Batches`: their shape, and the fields that describe all rows."""

    dtype: np.dtype
    chunk_size: int
    n_chunks: int
    origin: Any  # (D,)
    total_weight: Any  # ()
    min_weight: Any  # ()
    exponent: int = 0  # of the unit of weights

    @property
    def size(self) -> int:
        """Rows a block."""
        return self.chunk_size * self.n_chunks

    def batch(self, piece: Piece) -> Batches:
        """A piece of `size` rows as batches."""
        whole = (self.n_chunks - 1) * self.chunk_size

        def chunked(array: np.ndarray) -> Chunked:
            # With the dtype given, the array's own, JAX on a CPU uses the rows in place; without it, it would copy.
            body = jnp.asarray(array[:whole], self.dtype) if whole else None
            return Chunked(body, jnp.asarray(array[whole:], self.dtype), self.n_chunks)

        count = jnp.asarray(np.int32(piece.count))
        origin, total, min_weight = map(jnp.asarray, (self.origin, self.total_weight, self.min_weight))
        weights = Counted(count, origin[:0], self.chunk_size, self.n_chunks)
        if piece.weights is not None:
            weights = chunked(in_unit(piece.weights, self.exponent, self.dtype))
        return Batches(chunked(piece.rows), weights, origin, total, min_weight, count)


Read = Callable[[int, int], None]
"""A callback that gets the number of rows read in a pass, and of all rows: 0 where that is not known yet."""


def sum_over(
    blocks: Blocks, layout: Layout, how: How, shared: Any, n_rows_known: int = 0, read: Read | None = None
) -> tuple[Any, Tally]:
    """Σ over blocks of a function of each, compensated; and what rows there were."""
    sums: Any = None
    tally = Tally()
    for piece in ahead(blocks.pieces(layout.size, layout.dtype)):
        if tally.n_rows and read is not None:
            read(tally.n_rows, n_rows_known)
        block = layout.batch(piece)
        if sums is None:
            shapes = jax.eval_shape(partial(_said, how=how), block, shared)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            sums = zeros, zeros
        # One block is computed while one is read: without waiting, the host would run ahead and read all of them.
        jax.block_until_ready(sums)
        sums = _added(sums, block, shared, how=how)
        tally = tally.plus(piece.tally)
    return jax.block_until_ready(_whole(sums)), tally


def survey_of(
    blocks: Blocks, layout: Layout, rng: np.random.Generator, n_kept: int, read: Read | None = None
) -> tuple[Survey, Layout]:
    """The survey from one pass over the blocks; and the layout without needless padding.

    ValueError, with the position, for values that are not finite, and for weights that are negative.
    """
    survey = Survey(rng, n_kept)
    for piece in ahead(blocks.pieces(layout.size, layout.dtype)):
        if survey.n_rows and read is not None:
            read(survey.n_rows, 0)
        rows, weights = piece.rows[: piece.count], None if piece.weights is None else piece.weights[: piece.count]
        if weights is not None:
            _check_parts.block_weights(weights, survey.n_rows, blocks.name)
            weights = survey.in_unit(weights)
        if not survey.n_rows and piece.count < layout.size:  # all rows are in this block
            layout = fitted_to(layout, piece.count)
            rows_, weights_ = (None if part is None else part[: layout.size] for part in piece[:2])
            piece = piece._replace(rows=rows_, weights=weights_)
        about = sound_row(rows, weights)
        about = np.zeros_like(rows[0]) if about is None else about
        found = _described(layout._replace(origin=about, exponent=survey.exponent).batch(piece))
        if not all(np.isfinite(of).all() for of in map(np.asarray, found)):
            # Passes if only squares overflowed.
            _check_parts.finite_block(rows, weights, survey.n_rows, blocks.name, blocks.place_of, blocks.known_names)
        survey.describe(*found)
        survey.draw(rows, weights)
        survey.tally = survey.tally.plus(piece.tally)
    return survey, layout


def layout_for(n_features: int, n_components: int, chunk_size: int | None, dtype: np.dtype) -> Layout:
    """The layout of rows before the first pass over them."""
    size = chunk_size or choose_chunk_size(n_features, n_components, dtype.itemsize)
    one = np.ones((), dtype)
    n_chunks = max(1, BLOCK // (n_features * dtype.itemsize * size))
    return Layout(dtype, size, n_chunks, np.zeros(n_features, dtype), one, one)


def fitted_to(layout: Layout, n_rows: int) -> Layout:
    """The layout for `n_rows`: as few blocks and, where they are at most `FEW`, as little padding as possible."""
    n_blocks = -(-n_rows // layout.size)
    if n_blocks > FEW:
        return layout
    size = min(layout.chunk_size, next_power_of_two(-(-n_rows // n_blocks)))
    return layout._replace(chunk_size=size, n_chunks=-(-n_rows // (n_blocks * size)))


class Streamed(PartitionedRows):
    """Rows of `Blocks`, which programs get as blocks of one shape."""

    def __init__(
        self,
        key: Array,
        blocks: Blocks,
        n_components: int,
        chunk_size: int | None = None,
        dtype: Any = None,
        read: Read | None = None,
    ) -> None:
        """Makes a first pass over all rows."""
        self.blocks, self.name, self.read = blocks.again(), blocks.name, read
        blocks = self.blocks
        head, _ = blocks.head()
        self.dtype = floating_dtype((head,), dtype)
        self.n_features = head.shape[1]
        layout = layout_for(self.n_features, n_components, chunk_size, self.dtype)
        with precision_for(self.dtype):
            survey, layout = survey_of(blocks, layout, rng_of(key), rows_kept(n_components), read)
            survey.settle()
            layout = fitted_to(layout, survey.n_rows)
            self.chunk_size = layout.chunk_size
            self._describe(survey, n_components)
            self.tally = survey.tally
            self.layout = layout._replace(
                origin=self.origin,
                total_weight=self.total_weight,
                min_weight=self.min_weight,
                exponent=self.exponent,
            )

    def _sum(self, how: How, shared: Any) -> Any:
        sums, tally = sum_over(self.blocks, self.layout, how, shared, self.n_rows, self.read)
        _check_parts.same_rows(tally, self.tally, self.name)
        return sums


@program
def _described(block: Batches) -> tuple[Array, Array, Array, Array]:
    """A point near the mean of the rows, and `described` about it."""
    about = moved(block.origin, *described(block)[:2])
    return about, *described(replace(block, origin=about))


@program(static="how")
def _said(block: Batches, shared: Any, *, how: How) -> Any:
    function, static = how
    return function(block, *shared, **dict(static))


@program(static="how")
def _added(sums: Any, block: Batches, shared: Any, *, how: How) -> Any:
    total, error = sums
    return compensated_add(total, error, _said(block, shared, how=how))


@program
def _whole(sums: Any) -> Any:
    return jax.tree.map(jnp.add, *sums)

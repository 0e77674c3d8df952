"""Rows that are read block by block: a program works on one while the next is read.

A first pass looks at all values, finds the point about which sums are taken, and draws the rows that seeds are chosen
from. All passes have fixed shapes, so one program serves all blocks.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _check
from ._precision import precision_for
from .batches import Batches, Chunked, Counted, choose_chunk_size, next_power_of_two
from .blocks import Blocks, Piece, ahead
from .moments import add
from .seeding import rows_kept
from .spread import How, Spread, Survey, described, rng_of

BLOCK = 2**25
"""Bytes of rows a block: few enough that three of them are nothing, enough that starting a program is nothing."""


class Layout(NamedTuple):
    """How blocks of rows are seen: their shape, and what `Batches` know of all rows."""

    dtype: np.dtype
    chunk_size: int
    n_chunks: int
    origin: Any  # (D,)
    total: Any  # ()
    lightest: Any  # ()

    @property
    def size(self) -> int:
        """Rows a block."""
        return self.chunk_size * self.n_chunks

    def batch(self, piece: Piece) -> Batches:
        """A piece of `size` rows as batches."""
        whole = (self.n_chunks - 1) * self.chunk_size

        def chunked(array: np.ndarray) -> Chunked:
            body = jnp.asarray(array[:whole]) if whole else None
            return Chunked(body, jnp.asarray(array[whole:]), self.n_chunks)

        count = jnp.asarray(np.int32(piece.count))
        origin, total, lightest = map(jnp.asarray, (self.origin, self.total, self.lightest))
        weights = Counted(count, origin[:0], self.chunk_size, self.n_chunks)
        if piece.weights is not None:
            weights = chunked(piece.weights)
        return Batches(chunked(piece.rows), weights, origin, total, lightest, count)


def sum_over(blocks: Blocks, layout: Layout, how: How, shared: Any) -> tuple[Any, int]:
    """Σ over blocks of what a function says of each, compensated; and how many rows there were."""
    sums: Any = None
    n_rows = 0
    for piece in ahead(blocks.pieces(layout.size, layout.dtype)):
        block = layout.batch(piece)
        if sums is None:
            sums = _zeros(block, shared, how)
        # One block is computed, and one is read meanwhile: a host that ran ahead would read all of them.
        jax.block_until_ready(sums)
        sums = _added(sums, block, shared, how=how)
        n_rows += piece.count
    return jax.block_until_ready(_whole(sums)), n_rows


def survey_of(blocks: Blocks, layout: Layout, rng: np.random.Generator, n_kept: int) -> tuple[Survey, Layout]:
    """What a pass over blocks finds, with sums about the layout's origin; and the layout without needless padding.

    ValueError, with the place, for values that are not finite, and for weights that are negative.
    """
    survey = Survey(rng, n_kept)
    for piece in ahead(blocks.pieces(layout.size, layout.dtype)):
        if not survey.n_rows and piece.count < len(piece.rows):  # all there is
            layout = fitted_to(layout, piece.count)
            piece = Piece(*(None if part is None else part[: layout.size] for part in piece[:2]), piece.count)  # pyright: ignore
        rows, weights = piece.rows[: piece.count], None if piece.weights is None else piece.weights[: piece.count]
        if weights is not None:
            _check.block_weights(weights, survey.n_rows, blocks.name)
        mass, first, second = map(np.asarray, _described(layout.batch(piece)))
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            _check.finite_block(rows, weights, survey.n_rows, blocks.name)  # or squares of sound numbers overflow
        survey.describe(mass, first, second)
        survey.draw(rows, weights)
    return survey, layout


def layout_for(first: np.ndarray, n_components: int, chunk_size: int | None, dtype: np.dtype) -> Layout:
    """That of rows (·, D) about `first` (D,), until more is known."""
    size = chunk_size or choose_chunk_size(len(first), n_components, dtype.itemsize)
    one = np.ones((), dtype)
    return Layout(dtype, size, max(1, BLOCK // (len(first) * dtype.itemsize * size)), first, one, one)


def fitted_to(layout: Layout, n_rows: int) -> Layout:
    """The layout for blocks of no more than so many rows."""
    size = min(layout.chunk_size, next_power_of_two(n_rows))
    return layout._replace(chunk_size=size, n_chunks=min(layout.size // size, -(-n_rows // size)))


class Streamed(Spread):
    """Rows of `Blocks`, which all that computes sees as blocks of one shape."""

    def __init__(
        self, key: Array, blocks: Blocks, n_components: int, chunk_size: int | None = None, dtype: Any = None
    ) -> None:
        """After a pass over all rows."""
        self.blocks, self.name = blocks, blocks.name
        self.dtype = _check.floating_dtype((np.empty(0, blocks.dtype),), dtype)
        first = next(iter(blocks.pieces(1, self.dtype))).rows[0]
        self.n_features = len(first)
        layout = layout_for(first, n_components, chunk_size, self.dtype)
        with precision_for(self.dtype):
            survey, layout = survey_of(blocks, layout, rng_of(key), rows_kept(n_components))
            self.chunk_size = layout.chunk_size
            self._describe(first, survey, n_components)
            self.layout = layout._replace(origin=self.origin, total=self.total, lightest=self.lightest)

    def _sum(self, how: How, shared: Any) -> Any:
        sums, n_rows = sum_over(self.blocks, self.layout, how, shared)
        _check.same_rows(n_rows, self.n_rows, self.name)
        return sums


_described = jax.jit(described)


def _zeros(block: Batches, shared: Any, how: How) -> Any:
    function, static = how
    shapes = jax.eval_shape(partial(function, **dict(static)), block, *shared)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return zeros, zeros


@partial(jax.jit, static_argnames="how")
def _added(sums: Any, block: Batches, shared: Any, *, how: How) -> Any:
    (function, static), (total, error) = how, sums
    return add(total, error, function(block, *shared, **dict(static)))


@jax.jit
def _whole(sums: Any) -> Any:
    return jax.tree.map(jnp.add, *sums)

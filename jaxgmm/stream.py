"""Rows that are read block by block: a program works on one while the next is read.

A first pass looks at all values, finds the point about which sums are taken, and draws the rows that seeds are chosen
from. All passes have fixed shapes, so one program serves all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

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


class Streamed(Spread):
    """Rows of `Blocks`, which all that computes sees as blocks of one shape."""

    def __init__(
        self, key: Array, blocks: Blocks, n_components: int, chunk_size: int | None = None, dtype: Any = None
    ) -> None:
        """After a pass over all rows. ValueError, with the place, for values that are not finite, for weights that are
        negative, and where there are no rows."""
        self.blocks, self.name = blocks, blocks.name
        self.dtype = _check.floating_dtype((np.empty(0, blocks.dtype),), dtype)
        first = next(iter(blocks.pieces(1, self.dtype))).rows[0]
        self.n_features = len(first)
        self.chunk_size = chunk_size or choose_chunk_size(self.n_features, n_components, self.dtype.itemsize)
        self.n_chunks = max(1, BLOCK // (self.n_features * self.dtype.itemsize * self.chunk_size))
        with precision_for(self.dtype):
            # About a row of the data, until their mean is known.
            self.origin = jnp.asarray(first)
            self.total = self.lightest = jnp.ones((), self.dtype)
            self._describe(first, self._surveyed(key, rows_kept(n_components)), n_components)

    def _sum(self, how: How, shared: Any) -> Any:
        sums: Any = None
        n_seen = 0
        for piece in ahead(self._pieces()):
            block = self._batch(piece)
            if sums is None:
                sums = _zeros(block, shared, how)
            # One block is computed, and one is read meanwhile: a host that ran ahead would read all of them.
            jax.block_until_ready(sums)
            sums = _added(sums, block, shared, how=how)
            n_seen += piece.count
        _check.same_rows(n_seen, self.n_rows, self.name)
        return jax.block_until_ready(_whole(sums))

    def _pieces(self) -> Iterator[Piece]:
        return self.blocks.pieces(self.chunk_size * self.n_chunks, self.dtype)

    def _batch(self, piece: Piece) -> Batches:
        whole = (self.n_chunks - 1) * self.chunk_size

        def chunked(array: np.ndarray) -> Chunked:
            body = jnp.asarray(array[:whole]) if whole else None
            return Chunked(body, jnp.asarray(array[whole:]), self.n_chunks)

        count = jnp.asarray(np.int32(piece.count))
        weights = Counted(count, self.origin[:0], self.chunk_size, self.n_chunks)
        if piece.weights is not None:
            weights = chunked(piece.weights)
        return Batches(chunked(piece.rows), weights, self.origin, self.total, self.lightest, count)

    def _surveyed(self, key: Array, n_kept: int) -> Survey:
        survey = Survey(rng_of(key), n_kept)
        for piece in ahead(self._pieces()):
            if not survey.n_rows and piece.count < len(piece.rows):  # all there is: then no more is padded than need be
                self.chunk_size = min(self.chunk_size, next_power_of_two(piece.count))
                self.n_chunks = -(-piece.count // self.chunk_size)
                piece = _cut(piece, self.chunk_size * self.n_chunks)
            rows, weights = piece.rows[: piece.count], None if piece.weights is None else piece.weights[: piece.count]
            if weights is not None:
                _check.block_weights(weights, survey.n_rows, self.name)
            mass, first, second = map(np.asarray, _described(self._batch(piece)))
            if not (np.isfinite(first).all() and np.isfinite(second).all()):
                _check.finite_block(rows, weights, survey.n_rows, self.name)  # or squares of sound numbers overflow
            survey.describe(mass, first, second)
            survey.draw(rows, weights)
        return survey


def _cut(piece: Piece, size: int) -> Piece:
    return Piece(piece.rows[:size], None if piece.weights is None else piece.weights[:size], piece.count)


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

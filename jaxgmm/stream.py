"""Rows that are read block by block: the same sums as over rows in memory, added up on the way.

A first pass looks at all values, finds the point about which sums are taken, and draws the rows that seeds are chosen
from. After that every pass has fixed shapes, so one program serves all blocks: while it works on one, the next is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _check, em
from ._linalg import einsum
from ._precision import precision_for
from .batches import Batches, Chunked, Counted, Scale, bytes_of_fit, choose_chunk_size, next_power_of_two
from .blocks import Blocks, Piece, ahead
from .covariances import Form
from .expectation import expect
from .families import Family
from .lanes import in_waves
from .maximisation import maximise
from .mixture import Mixture
from .moments import Kind, Moments, add
from .seeding import by_nearest, rows_kept

T = TypeVar("T")

BLOCK = 2**25
"""Bytes of rows a block: few enough that three of them are nothing, enough that starting a program is nothing."""


class Streamed:
    """Rows (N, D) of `Blocks`, seen by all that computes as blocks of one shape. Has what `Batches` have besides the
    rows themselves."""

    def __init__(
        self, key: Array, blocks: Blocks, n_components: int, chunk_size: int | None = None, dtype: Any = None
    ) -> None:
        """After a pass over all rows. ValueError, with the place, for values that are not finite, for weights that are
        negative, and where there are no rows."""
        self.blocks = blocks
        self.dtype = _check.floating_dtype((np.empty(0, blocks.dtype),), dtype)
        rows = next(iter(blocks.pieces(1, self.dtype))).rows
        self.n_features = rows.shape[1]
        self.chunk_size = chunk_size or choose_chunk_size(self.n_features, n_components, self.dtype.itemsize)
        self.n_chunks = max(1, BLOCK // (self.n_features * self.dtype.itemsize * self.chunk_size))
        with precision_for(self.dtype):
            # About a row of the data, until their mean is known.
            self.origin = jnp.asarray(rows[0])
            self.total = self.lightest = jnp.ones((), self.dtype)
            survey = self._surveyed(key, rows_kept(n_components))
            self.n_rows = survey.n_rows
            self.sample = Batches.of(*survey.sample(), n_components=n_components, dtype=self.dtype)
            shift = survey.first / survey.total
            self._variances = np.maximum(survey.second / survey.total - shift**2, 0.0)
            self.origin = jnp.asarray(np.asarray(rows[0], np.float64) + shift, self.dtype)
            self.total = jnp.asarray(survey.total, self.dtype)
            self.lightest = jnp.asarray(survey.lightest, self.dtype)

    @property
    def scale(self) -> Scale:
        return Scale(self.total, self.lightest)

    def variances(self) -> Array:
        """The variance of each feature over the weighted rows. -> (D,)."""
        return jnp.asarray(self._variances, self.dtype)

    def sum(self, function: Callable[..., T], *shared: Any, **static: Any) -> T:
        """Σ over the blocks of function(Batches, *shared, **static), a pytree of arrays; compensated.

        Compiled once for one and the same function and static values, whatever the number of rows.
        """
        how = (function, tuple(sorted(static.items())))
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
        _check.same_rows(n_seen, self.n_rows, self.blocks.name)
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

    def _surveyed(self, key: Array, n_kept: int) -> _Survey:
        survey = _Survey(np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel()), n_kept)
        name = self.blocks.name
        for piece in ahead(self._pieces()):
            if not survey.n_rows and piece.count < len(piece.rows):  # all there is: then no more is padded than need be
                self.chunk_size = min(self.chunk_size, next_power_of_two(piece.count))
                self.n_chunks = -(-piece.count // self.chunk_size)
                piece = _cut(piece, self.chunk_size * self.n_chunks)
            rows, weights = piece.rows[: piece.count], None if piece.weights is None else piece.weights[: piece.count]
            if weights is not None:
                _check.block_weights(weights, survey.n_rows, name)
            mass, first, second = (np.asarray(sum_, np.float64) for sum_ in _described(self._batch(piece)))
            if not (np.isfinite(first).all() and np.isfinite(second).all()):
                _check.finite_block(rows, weights, survey.n_rows, name)  # or the squares of sound numbers overflow
            survey.add(rows, weights, float(mass), first, second)
        _check.some_weight(survey.total, name)
        return survey


class _Survey:
    """What a first pass finds: how many rows there are, what they weigh, where they lie, and a sample of them.

    The sample is drawn by weight and without replacement: the rows with the largest log(u) / w of all (Efraimidis and
    Spirakis 2006), in the order in which they came; or all rows, where they are few.
    """

    def __init__(self, rng: np.random.Generator, n_kept: int) -> None:
        self.rng, self.n_kept = rng, n_kept
        self.n_rows, self.total, self.lightest = 0, 0.0, np.inf
        self.first: Any = 0.0
        self.second: Any = 0.0
        self.kept: list[list[np.ndarray]] = []  # draws, rows, weights

    def add(
        self, rows: np.ndarray, weights: np.ndarray | None, mass: float, first: np.ndarray, second: np.ndarray
    ) -> None:
        self.n_rows += len(rows)
        self.total += mass
        self.first, self.second = self.first + first, self.second + second
        if weights is None:
            weights = np.ones(len(rows), rows.dtype)
        if (weights > 0.0).any():
            self.lightest = min(self.lightest, float(weights[weights > 0.0].min()))
        with np.errstate(divide="ignore"):
            draws = np.log(1.0 - self.rng.random(len(rows))) / weights
        least = self.kept[0][0].min() if self.kept and len(self.kept[0][0]) == self.n_kept else -np.inf
        chosen = np.flatnonzero(draws > least) if least > -np.inf else np.arange(len(rows))
        if not len(chosen):
            return
        self.kept.append([draws[chosen], rows[chosen], weights[chosen]])
        together = [np.concatenate(parts) for parts in zip(*self.kept, strict=True)]
        if len(together[0]) > self.n_kept:
            best = np.sort(np.argpartition(-together[0], self.n_kept)[: self.n_kept])
            together = [part[best] for part in together]
        self.kept = [together]

    def sample(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows to choose seeds from, and their weights: those that were drawn count alike."""
        _, rows, weights = self.kept[0]
        return rows, weights if len(rows) == self.n_rows and not (weights == 1.0).all() else None


def _cut(piece: Piece, size: int) -> Piece:
    return Piece(piece.rows[:size], None if piece.weights is None else piece.weights[:size], piece.count)


@jax.jit
def _described(block: Batches) -> tuple[Array, Array, Array]:
    """Σ w, Σ w (x − o) and Σ w (x − o)²."""

    def term(_: Array, rows: Array, weights: Array) -> tuple[Array, Array, Array]:
        centred = rows - block.origin
        return jnp.sum(weights), einsum("n,nd->d", weights, centred), einsum("n,nd->d", weights, centred * centred)

    return block.sum(term)


How = tuple[Callable[..., Any], tuple[tuple[str, Any], ...]]


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


def mixtures_from(seeds: Array, counts: Any, rows: Streamed, family: Family, ridge: Any) -> Mixture:
    """Mixtures (R, ...) of one M-step from the rows nearest to each of the first `counts` (R,) seeds (R, K, D).

    A single pass, about the seeds: a start may lose the digits that a second one, about the means, would save.
    """
    moments = rows.sum(_assigned, seeds, counts, kind=family.kind)
    return _maximised(moments, seeds, ridge, family=family)


def init(mixtures: Mixture, rows: Streamed) -> em.State:
    """`em.init` of mixtures (R, ...)."""
    return _begun(mixtures, rows.sum(_moments, mixtures, form=Form.SAFE), rows.scale)


def step(states: em.State, rows: Streamed, settings: em.Settings) -> em.State:
    """`em.step` of states (R, ...): one pass over the rows for all of them."""
    states, proposals = _proposed(states, settings)
    return _concluded(states, proposals, rows.sum(_moments, proposals.mixture, form=None), rows.scale, settings)


def _moments(block: Batches, mixtures: Mixture, *, form: Form | None) -> Moments:
    return _over_lanes(lambda mixture: expect(mixture, block, form), mixtures, mixtures.means.shape, block)


def _assigned(block: Batches, seeds: Array, counts: Array, *, kind: Kind) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return by_nearest(kind, lane[0], lane[0], block, lane[1])

    return _over_lanes(one, (seeds, counts), seeds.shape, block)


def _over_lanes(function: Callable[[Any], Any], lanes: Any, shape: tuple[int, ...], block: Batches) -> Any:
    _, n_components, n_features = shape
    each = bytes_of_fit(n_components, n_features, block.dtype.itemsize)
    return in_waves(function, lanes, n_components, block.chunk_size, each)


@partial(jax.jit, static_argnames="family")
def _maximised(moments: Moments, about: Array, ridge: Any, *, family: Family) -> Mixture:
    return jax.vmap(lambda moments, about: maximise(moments, about, family, None, ridge))(moments, about)


@jax.jit
def _begun(mixtures: Mixture, moments: Moments, scale: Scale) -> em.State:
    return jax.vmap(lambda mixture, moments: em.begun(mixture, moments, scale))(mixtures, moments)


@jax.jit
def _proposed(states: em.State, settings: em.Settings) -> tuple[em.State, em.Proposal]:
    return jax.vmap(lambda state: em.proposed(state, settings))(states)


@jax.jit
def _concluded(
    states: em.State, proposals: em.Proposal, moments: Moments, scale: Scale, settings: em.Settings
) -> em.State:
    def one(state: em.State, proposal: em.Proposal, moments: Moments) -> em.State:
        return em.concluded(state, proposal, moments, scale, settings)

    return jax.vmap(one)(states, proposals, moments)

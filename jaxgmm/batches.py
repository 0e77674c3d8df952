"""Rows in chunks: the only form in which data enter the compiled programs.

`rows` are one body of whole chunks, viewed and not copied where that is possible, and one tail chunk that is padded
with rows of weight 0. So the shapes, and with them the compiled programs, depend on N only through the number of
chunks; and a chunk with its K responsibilities a row stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import _check, programs
from ._linalg import einsum
from ._precision import aligned_zeros, is_traced, own, precision_for
from .moments import add
from .programs import next_power_of_two as next_power_of_two

T = TypeVar("T")

IN_PLACE_ABOVE = 64 * 2**20
"""Bytes above which a device's array is used where it lies, at the price of a program for this very N."""

SIDE_BY_SIDE = 2**30
"""Bytes that fits side by side may hold besides their chunks."""

AT_ONCE = 2**14
"""Responsibilities of a chunk, of one fit or of several side by side, that one core of a CPU takes at once: with fewer
the start of each operation is felt; with more XLA shares operations out among cores, and loses more than it wins."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chunked:
    """An array over rows, cut into chunks of n rows: all but the last in the body, the last in the tail.

    Rows of the body past the last whole chunk are not read.
    """

    body: Array | None  # (at least (C−1)·n, ...)
    tail: Array  # (n, ...)
    n_chunks: int = field(metadata={"static": True})

    @property
    def chunk_size(self) -> int:
        return self.tail.shape[0]

    def take(self, index: Array) -> Array:
        """Chunk `index`. -> (n, ...)."""
        if self.n_chunks == 1:
            return self.tail
        body, size = self.body, self.chunk_size
        if body is None:  # an array of ones, of which only the padded end is kept
            return jnp.where(index < self.n_chunks - 1, jnp.ones_like(self.tail), self.tail)
        in_body = index < self.n_chunks - 1

        # Rows are copied for it; a second copy of the code that uses them would double the compile time.
        def by_branch() -> Array:
            return lax.cond(in_body, lambda: lax.dynamic_slice_in_dim(body, index * size, size), lambda: self.tail)

        def by_choice() -> Array:  # a GPU would ask the host at every chunk which branch it is to take
            return jnp.where(in_body, lax.dynamic_slice_in_dim(body, index * size, size), self.tail)

        return lax.platform_dependent(cpu=by_branch, default=by_choice)

    def rows_at(self, index: Array) -> Array:
        """The rows of these numbers, counted through body and tail. index (S,) -> (S, ...)."""
        whole = (self.n_chunks - 1) * self.chunk_size
        last = self.tail[jnp.clip(index - whole, 0, self.chunk_size - 1)]
        if not whole:
            return last
        first = jnp.ones_like(last) if self.body is None else self.body[jnp.clip(index, 0, whole - 1)]
        return jnp.where(jnp.reshape(index < whole, (-1,) + (1,) * (last.ndim - 1)), first, last)

    def map(self, function: Callable[[Array], T]) -> T:
        """function(chunk (n, ...)) for every chunk. Results (n, ...) become (C, n, ...)."""
        return lax.map(lambda index: function(self.take(index)), jnp.arange(self.n_chunks, dtype=jnp.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Roomy:
    """An array over rows with room for more of them, so that tables of other lengths share its shape."""

    body: Array  # (C·n, ...)
    chunk_size: int = field(metadata={"static": True})

    @property
    def n_chunks(self) -> int:
        """For which there is room."""
        return len(self.body) // self.chunk_size

    @property
    def tail(self) -> Array:
        """The last chunk there is room for. -> (n, ...)."""
        return self.body[-self.chunk_size :]

    def take(self, index: Array) -> Array:
        """Chunk `index`. -> (n, ...)."""
        return lax.dynamic_slice_in_dim(self.body, index * self.chunk_size, self.chunk_size)

    def rows_at(self, index: Array) -> Array:
        """The rows of these numbers. index (S,) -> (S, ...)."""
        return self.body[index]


class Scale(NamedTuple):
    """How much all rows weigh: what a step is judged by, of rows wherever they are."""

    total: Array  # (): Σ weights
    lightest: Array  # (): the smallest positive weight, "one row's weight"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counted:
    """Weights (C·n,) of 1 for the first `n_rows`, a traced number, and of 0 for what pads them."""

    n_rows: Array  # ()
    like: Array  # (0,), of the weights' dtype
    chunk_size: int = field(metadata={"static": True})
    n_chunks: int = field(metadata={"static": True})

    body = None

    @property
    def tail(self) -> Array:
        """The last chunk. -> (n,)."""
        return self.take(jnp.int32(self.n_chunks - 1))

    def take(self, index: Array) -> Array:
        """Chunk `index`. -> (n,)."""
        return self.rows_at(index * self.chunk_size + jnp.arange(self.chunk_size, dtype=jnp.int32))

    def rows_at(self, index: Array) -> Array:
        return (index < self.n_rows).astype(self.like.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batches:
    """N weighted rows as C chunks of n. Make one with `Batches.of`."""

    rows: Chunked | Roomy  # (·, D)
    weights: Chunked | Counted | Roomy  # (·,); no body where all rows weigh 1
    origin: Array  # (D,): a point among the data, about which sums are taken
    total: Array  # (): Σ weights
    lightest: Array  # (): the smallest positive weight, "one row's weight"
    n_rows: Array  # (): N, an int32
    n_used: Array | None = None  # (): how many chunks hold rows, an int32; None where all do
    fused: bool = field(default=False, metadata={"static": True})  # by `fused.py`, where there is a kernel

    @classmethod
    def of(
        cls,
        x: Any,
        sample_weight: Any = None,
        chunk_size: int | None = None,
        *,
        n_components: int = 16,
        n_lanes: int = 1,
        dtype: Any = None,
        fused: bool = False,
    ) -> Batches:
        """Cut rows x (N, D) with weights (N,) into chunks.

        `chunk_size` is chosen, where it is not given, for `n_components` and for `n_lanes` fits side by side. JAX's
        rule decides the dtype (float32 or float64) unless `dtype` does. `fused`, an experiment: on an NVIDIA card
        (Ampere or newer), in float32, the sums of diagonal and spherical covariances of up to 128 features, and of full
        ones of up to 12, come from one kernel or two, which need 16 MB for each fit side by side. The values of x are
        not looked at. ValueError or TypeError for shapes that do not fit and for weights that are
        negative, not finite or all zero.
        """
        _check.matrix_shape(np.shape(x), "x")
        sample_weight = _check.row_weights(sample_weight, np.shape(x)[0])
        chunk_size = _check.chunk_size(chunk_size)
        explicit, dtype = dtype is not None, _check.floating_dtype((x,), dtype)
        if not explicit or is_traced(x):  # JAX's switch rules, above all inside the user's own transformations
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        with precision_for(dtype):
            n_rows, n_features = np.shape(x)
            size = chunk_size or choose_chunk_size(n_features, n_components, dtype.itemsize, n_lanes)
            size = min(size, next_power_of_two(n_rows))
            rows = cut(x, size, dtype)
            if sample_weight is None:
                padding = np.arange(size) < n_rows - (rows.n_chunks - 1) * size
                weights = Chunked(None, jnp.asarray(padding.astype(dtype)), rows.n_chunks)
            else:
                weights = cut(sample_weight, size, dtype, pad_with_zero=True)
            count = np.int32(min(n_rows, np.iinfo(np.int32).max))
            # The rows themselves are no output of a compiled function: that would copy them.
            origin, total, lightest = _describe.compiled(_are_few(rows), rows, weights)
            return cls(rows, weights, origin, total, lightest, jnp.asarray(count), fused=bool(fused))

    @classmethod
    def with_room(cls, x: Any, sample_weight: Any, dtype: Any) -> Batches:
        """Few rows x (N, D), known and not traced, in an array that has room for more: N, and whether there are
        weights, change no shape. Made on the host, since a program for every N would take longer than all else. They
        go where x is, if that is bound to a device."""
        with precision_for(dtype):
            n_rows, n_features = np.shape(x)
            size = programs.ROWS_AT_ONCE
            capacity = programs.chunks(n_rows) * size
            rows = aligned_zeros((capacity, n_features), dtype)
            with np.errstate(over="ignore"):  # what is too large has been refused, or has weight 0
                rows[:n_rows] = np.asarray(x)
            device = x.sharding if isinstance(x, jax.Array) and x.committed else None
            weights = _roomy_weights(sample_weight, n_rows, capacity, dtype)
            return cls._with_room(jax.device_put(rows, device), weights, n_rows)

    @classmethod
    def _with_room(cls, rows: Array, weights: np.ndarray, n_rows: int) -> Batches:
        size = programs.ROWS_AT_ONCE
        origin, total, lightest = _described(np.asarray(rows)[:n_rows], weights[:n_rows])
        scalars = np.asarray(total, rows.dtype), np.asarray(lightest, rows.dtype), np.int32(n_rows)
        parts = (weights, origin.astype(rows.dtype), *scalars, np.int32(-(-n_rows // size)))
        device = rows.sharding if rows.committed else None
        weights_, origin_, total_, lightest_, count, used = jax.device_put(parts, device)
        return cls(Roomy(rows, size), Roomy(weights_, size), origin_, total_, lightest_, count, used)

    @property
    def has_room(self) -> bool:
        """Whether these are few rows, as `with_room` holds them."""
        return self.n_used is not None

    @property
    def n_features(self) -> int:
        return self.origin.shape[0]

    @property
    def n_chunks(self) -> int:
        return self.rows.n_chunks

    @property
    def chunk_size(self) -> int:
        return self.rows.chunk_size

    @property
    def dtype(self) -> Any:
        return self.origin.dtype

    def reweighted(self, sample_weight: Any) -> Batches:
        """The same rows, not copied, under other weights (N,)."""
        if isinstance(self.rows, Roomy):
            n_rows, capacity = int(self.n_rows), len(self.rows.body)
            return self._with_room(self.rows.body, _roomy_weights(sample_weight, n_rows, capacity, self.dtype), n_rows)
        weights = cut(sample_weight, self.chunk_size, self.dtype, pad_with_zero=True)
        if not is_traced(self.origin) and len(self.origin.devices()) > 1:  # to where the rows are, once for all
            weights = jax.device_put(weights, self.origin.sharding)
        origin, total, lightest = _describe.compiled(_are_few(self.rows), self.rows, weights)
        return replace(self, weights=weights, origin=origin, total=total, lightest=lightest)

    def row_weights(self) -> np.ndarray:
        """The weights of all rows, on the host. -> (N,) in float64."""
        if isinstance(self.weights, Roomy):
            return np.asarray(self.weights.body).astype(np.float64)[: int(self.n_rows)]
        whole = (self.n_chunks - 1) * self.chunk_size
        body = np.ones(whole) if self.weights.body is None else np.asarray(self.weights.body)[:whole]
        return np.concatenate([body, np.asarray(self.weights.tail)]).astype(np.float64)[: int(self.n_rows)]

    def variances(self) -> Array:
        """The variance of each feature over the weighted rows. -> (D,)."""

        def term(_: Array, rows: Array, weights: Array) -> tuple[Array, Array]:
            centred = rows - self.origin
            return einsum("n,nd->d", weights, centred), einsum("n,nd->d", weights, centred * centred)

        first, second = self.sum(term)
        return jnp.maximum(second / self.total - jnp.square(first / self.total), 0.0)

    def sum(self, term: Callable[[Array, Array, Array], T]) -> T:
        """Σ over chunks of term(index, rows (n, D), weights (n,)), a pytree of arrays; compensated.

        Rows that the user gave weight 0 come as the origin: what they hold may overflow, and 0 · inf would be NaN.
        """
        may_overflow = self.weights.body is not None or self.n_chunks == 1 or self.has_room

        def at(index: Array) -> T:
            rows, weights = self.rows.take(index), self.weights.take(index)
            if may_overflow:
                rows = jnp.where((weights > 0.0)[:, None], rows, self.origin)
            return term(index, rows, weights)

        if self.n_chunks == 1 and self.n_used is None:
            return at(jnp.int32(0))
        if self.n_used is not None:  # so few that a sum that is not compensated keeps its digits
            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(at, jnp.int32(0)))
            return lax.fori_loop(0, self.n_used, lambda i, total: jax.tree.map(jnp.add, total, at(i)), nothing)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(at, jnp.int32(0)))

        def body(carry: tuple[T, T], index: Array) -> tuple[tuple[T, T], None]:
            return add(*carry, at(index)), None

        (total, error), _ = lax.scan(body, (zero, zero), jnp.arange(self.n_chunks, dtype=jnp.int32))
        return jax.tree.map(jnp.add, total, error)


def choose_width(n_components: int, n_lanes: int, n_rows: int, bytes_each: int = 0) -> int:
    """Of so many fits, how many run side by side on chunks of `n_rows`: enough that their operations are long, as few
    as that allows.

    All wait for the slowest of any. What they hold besides, so many `bytes_each`, stays under SIDE_BY_SIDE, or there is
    only one.
    """
    most = int(np.clip(AT_ONCE // (n_components * n_rows), 1, 16)) if jax.default_backend() == "cpu" else 256
    return max(1, min(most, n_lanes, SIDE_BY_SIDE // max(1, bytes_each)))


def bytes_of_fit(n_components: int, n_features: int, itemsize: int) -> int:
    """What a fit holds besides rows, at most: moments and factors of full covariances, before and after a step."""
    return 4 * n_components * n_features**2 * itemsize


def choose_chunk_size(n_features: int, n_components: int, itemsize: int, n_lanes: int = 1) -> int:
    """Rows a chunk: as many as keep a chunk's K responsibilities and D features in cache, a power of two.

    About 1.5 MB on CPU (half a core's share of the cache), and between 2048 rows, under which the start of each
    operation is felt, and 8192, over which the cache is. From 1024 with more features than components, whose matrix
    products are long enough; up to 16 kB a column for few components, whose operations are then small enough to stay
    on one core, which is faster than to share them. 16 MB on GPU (of 50 MB of L2, where larger chunks hide the launch
    of kernels). Several fits to few components are each left to one core, and `AT_ONCE` says what it takes; a small
    table then wastes less of its last chunk, too.
    """
    least, largest, budget = 2048, 2**20, 16e6
    if jax.default_backend() == "cpu" and n_lanes > 1 and n_components <= AT_ONCE // 512:
        return min(2048, 1 << (AT_ONCE // n_components).bit_length() - 1)
    if jax.default_backend() == "cpu":
        least = 1024 if n_features > max(24, n_components) else 2048
        largest = 16384 // itemsize if n_components <= 8 else 8192
        budget = 1.5e6
    width = 1 if jax.default_backend() == "cpu" else min(256, n_lanes)
    rows = budget / (itemsize * (width * n_components + 2 * n_features))
    return int(np.clip(2 ** round(np.log2(rows)), least, largest))


def cut(x: Any, size: int, dtype: Any, *, pad_with_zero: bool = False) -> Chunked:
    """An array over rows as chunks of `size`; copied only where it must be.

    The padding repeats the last row (a value from elsewhere might overflow), or is 0.
    """
    n_rows = np.shape(x)[0]
    n_chunks = -(-n_rows // size)
    whole = (n_chunks - 1) * size
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
        tail = np.empty((size, *x.shape[1:]), dtype)
        with np.errstate(over="ignore"):  # what is too large has been refused, or has weight 0
            body = own(x[:whole], dtype) if whole else None
            tail[: n_rows - whole] = x[whole:]
        tail[n_rows - whole :] = 0 if pad_with_zero else x[-1]
        return Chunked(body, jnp.asarray(tail), n_chunks)
    if not is_traced(x) and x.dtype == dtype and all(one.platform == "cpu" for one in x.devices()):
        # A view through NumPy keeps the buffer alive and costs no copy; JAX arrays do not change.
        view = np.asarray(x)
        body = jax.device_put(view[:whole], x.sharding, may_alias=True) if whole else None
        return Chunked(body, cut(view[whole:], size, dtype, pad_with_zero=pad_with_zero).tail, n_chunks)
    x = x.astype(dtype)
    padding = [(0, n_chunks * size - n_rows)] + [(0, 0)] * (x.ndim - 1)
    tail = jnp.pad(x[whole:], padding, mode="constant" if pad_with_zero else "edge")
    if not whole:
        return Chunked(None, tail, n_chunks)
    return Chunked(x if is_traced(x) or x.nbytes > IN_PLACE_ABOVE else x[:whole], tail, n_chunks)


def _roomy_weights(sample_weight: Any, n_rows: int, capacity: int, dtype: Any) -> np.ndarray:
    """Weights (N,), 1 where there are none, and 0 for the room behind them."""
    weights = aligned_zeros((capacity,), dtype)
    weights[:n_rows] = 1.0 if sample_weight is None else np.asarray(sample_weight)
    return weights


def _described(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """`_describe` on the host, in float64."""
    counted = weights > 0.0
    if not counted.all():
        rows, weights = rows[counted], weights[counted]
    weights = weights.astype(np.float64)
    total = weights.sum()
    return einsum("n,nd->d", weights, rows) / total, total, weights.min()


def _are_few(rows: Chunked) -> bool:
    return rows.n_chunks * rows.tail.size <= programs.SMALL


@programs.program
def _describe(rows: Chunked, weights: Chunked) -> tuple[Array, Array, Array]:
    """Origin (the weighted mean, near enough), total and lightest weight of batches."""
    zero = jnp.zeros((), rows.tail.dtype)
    about = rows.tail[jnp.argmax(weights.tail)]
    if rows.body is not None and weights.body is not None:  # the rows of the tail may all weigh 0
        about = jnp.where(jnp.max(weights.tail) > 0.0, about, rows.body[jnp.argmax(weights.body)])
    draft = Batches(rows, weights, about, zero, zero, jnp.int32(0))

    def term(index: Array, chunk: Array, weight: Array) -> tuple[Array, Array]:
        del index
        # About a row of the data, so that the sum of a far-off cloud does not lose the cloud.
        return jnp.sum(weight), jnp.sum(weight[:, None] * (chunk - draft.origin), axis=0)

    total, first = draft.sum(term)
    origin = draft.origin + first / jnp.where(total > 0.0, total, 1.0)
    lightest = jnp.min(jnp.where(weights.tail > 0.0, weights.tail, jnp.inf))
    if weights.body is not None:
        lightest = jnp.minimum(lightest, jnp.min(jnp.where(weights.body > 0.0, weights.body, jnp.inf)))
    return origin, total, lightest

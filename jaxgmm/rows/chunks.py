"""Arrays over rows cut into chunks, and the scale of the rows' weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base.fork import refuse_if_forked
from .._base.linalg import columns
from .._base.memory import aligned_zeros, gathered, own
from .._base.precision import is_traced

T = TypeVar("T")

IN_PLACE_ABOVE = 64 * 2**20
"""Bytes above which an array on a device is used without a copy, at the price of a program for exactly this N."""


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
        if body is None:  # an array of ones, of which only the padded tail is stored
            return jnp.where(index < self.n_chunks - 1, jnp.ones_like(self.tail), self.tail)
        in_body = index < self.n_chunks - 1

        # The chunk is copied, so that one code serves body and tail: compiling it for each would take twice the time.
        def by_branch() -> Array:
            return lax.cond(in_body, lambda: lax.dynamic_slice_in_dim(body, index * size, size), lambda: self.tail)

        def by_choice() -> Array:  # with `cond` a GPU would ask the host for the branch at every chunk
            return jnp.where(in_body, lax.dynamic_slice_in_dim(body, index * size, size), self.tail)

        return lax.platform_dependent(cpu=by_branch, default=by_choice)

    def rows_at(self, index: Array) -> Array:
        """The rows at these indices, counted through body and tail. index (S,) -> (S, ...)."""
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
    """An array over rows, padded to a capacity, so that tables of other lengths share its shape."""

    body: Array  # (C·n, ...)
    chunk_size: int = field(metadata={"static": True})

    @property
    def n_chunks(self) -> int:
        """The capacity in chunks."""
        return len(self.body) // self.chunk_size

    @property
    def tail(self) -> Array:
        """The last chunk of the capacity. -> (n, ...)."""
        return self.body[-self.chunk_size :]

    def take(self, index: Array) -> Array:
        """Chunk `index`. -> (n, ...)."""
        return lax.dynamic_slice_in_dim(self.body, index * self.chunk_size, self.chunk_size)

    def rows_at(self, index: Array) -> Array:
        """The rows at these indices. index (S,) -> (S, ...)."""
        return self.body[index]


class Chunk(NamedTuple):
    """Rows that a program processes at once, and what is known of each of them.

    Data that only some fits have (which cells are observed, labels) belong in a field that may be None: code that does
    not use the field need not know of it.
    """

    x: Array  # (D, n): columns, so that the numbers of a feature are contiguous
    rows: Array  # (n, D): the same, not transposed; a program computes only what it uses
    weights: Array  # (n,)
    index: Array  # (): which of the C chunks this is

    @classmethod
    def of(cls, rows: Array, weights: Array | None = None, index: Array | None = None) -> Chunk:
        """Rows (n, D) with these weights, or each of weight 1; of chunk `index`, or of the only one."""
        weights = jnp.ones(rows.shape[0], rows.dtype) if weights is None else weights
        return cls(columns(rows), rows, weights, jnp.int32(0) if index is None else index)


class Scale(NamedTuple):
    """The weight of all rows, as needed to judge a step, wherever the rows are."""

    total_weight: Array  # (): Σ weights
    min_weight: Array  # (): the smallest positive weight, "one row's weight"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counted:
    """Weights (C·n,): 1 for the first `n_rows`, a traced number, and 0 for the padding."""

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


def cut(x: Any, size: int, dtype: Any, *, pad_with_zero: bool = False) -> Chunked:
    """An array over rows as chunks of `size`; copied only where it must be.

    The padding repeats the last row (any other value might overflow), or is 0.
    """
    refuse_if_forked()
    n_rows = np.shape(x)[0]
    n_chunks = -(-n_rows // size)
    whole = (n_chunks - 1) * size
    if isinstance(x, jax.Array):
        x = gathered(x)
    else:
        x = np.asarray(x)
        tail = np.empty((size, *x.shape[1:]), dtype)
        with np.errstate(over="ignore"):  # values too large have been refused, or have weight 0
            body = own(x[:whole], dtype) if whole else None
            tail[: n_rows - whole] = x[whole:]
        tail[n_rows - whole :] = 0 if pad_with_zero else x[-1]
        return Chunked(body, jnp.asarray(tail), n_chunks)
    if not is_traced(x) and x.dtype == dtype and all(one.platform == "cpu" for one in x.devices()):
        # A view through NumPy keeps the buffer alive and costs no copy; JAX arrays are immutable.
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
    """Weights (N,), 1 where none are given, padded with 0 to the capacity."""
    weights = aligned_zeros((capacity,), dtype)
    weights[:n_rows] = 1.0 if sample_weight is None else np.asarray(sample_weight)
    return weights

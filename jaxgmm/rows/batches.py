"""Rows in chunks: the only form in which data enter the compiled programs.

`rows` are one body of whole chunks, viewed and not copied where that is possible, and one tail chunk, padded with rows
of weight 0. So the shapes, and with them the compiled programs, depend on N only through the number of
chunks; and a chunk with its K responsibilities a row stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base import programs
from .._base.linalg import einsum
from .._base.memory import aligned_zeros, beside, place_of
from .._base.precision import is_traced, precision_for
from .._base.programs import next_power_of_two
from .._base.sums import compensated_add
from . import _check
from .chunks import Chunk, Chunked, Counted, Roomy, T, _roomy_weights, cut
from .conversion import floating_dtype, require_array
from .sizes import choose_chunk_size
from .units import from_unit, scaled

ZERO = np.int32(0)

PLAIN_UP_TO = 256
"""Chunks up to which a plain sum over rows with room keeps its digits."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batches:
    """N weighted rows as C chunks of n. Make one with `Batches.of`."""

    rows: Chunked | Roomy  # (·, D)
    weights: Chunked | Counted | Roomy  # (·,); no body where all rows weigh 1
    origin: Array  # (D,): a point among the data, about which sums are taken
    total_weight: Array  # (): Σ weights, in the unit of `exponent`, like all sums of weights here
    min_weight: Array  # (): the smallest positive weight, "one row's weight"
    n_rows: Array  # (): N, an int32
    n_used: Array | None = None  # (): how many chunks hold rows, an int32; None where all do
    exponent: Any = ZERO  # (): weights are kept in units of 2^exponent (see `units.py`)
    fused: bool = field(default=False, metadata={"static": True})  # sums by `em/kernel.py` if supported
    in_turn: bool = field(default=False, metadata={"static": True})  # padded components are skipped: `em/in_turn.py`

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
        promotion rules decide the dtype (float32 or float64) unless `dtype` is given. `fused`, an experiment: on an
        NVIDIA card (Ampere or newer), in float32, the sums of diagonal and spherical covariances of up to 128 features,
        and of full ones of up to 12, come from one kernel or two, which need 16 MB for each fit side by side. The
        values of x are not checked. Weights may be on any scale, in any dtype: those of an unusual one are kept in
        units of 2^`exponent`. ValueError or TypeError for shapes that do not fit and for weights that are
        negative, not finite or all zero.
        """
        require_array(x, "x")
        _check.matrix_shape(np.shape(x), "x")
        sample_weight = _check.row_weights(sample_weight, np.shape(x)[0])
        chunk_size = _check.chunk_size(chunk_size)
        explicit, dtype = dtype is not None, floating_dtype((x,), dtype)
        if not explicit or is_traced(x):  # JAX's x64 setting decides, above all inside user transformations
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        with precision_for(dtype):
            sample_weight, exponent = scaled(sample_weight, dtype)
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
            origin, total, min_weight = _describe.compiled(_are_few(rows), rows, weights)
            parts = rows, weights, origin, total, min_weight, jnp.asarray(count)
            return cls(*parts, exponent=_int32(exponent), fused=bool(fused))

    @classmethod
    def with_room(cls, x: Any, sample_weight: Any, dtype: Any, chunk_size: int | None = None) -> Batches:
        """Rows x (N, D), not traced, padded to a fixed capacity: neither N nor the presence of weights changes a shape.
        Made on the host, since compiling a program for every N would take longer than all else. Placed on the device
        of x, if x is committed to one. chunk_size: for more rows than those of a small table; the capacity is then a
        power of two of chunks."""
        with precision_for(dtype):
            n_rows, n_features = np.shape(x)
            size = chunk_size or programs.ROWS_AT_ONCE
            capacity = (next_power_of_two(-(-n_rows // size)) if chunk_size else programs.chunks(n_rows)) * size
            rows = aligned_zeros((capacity, n_features), dtype)
            with np.errstate(over="ignore"):  # values too large have been refused, or have weight 0
                rows[:n_rows] = np.asarray(x)
            device = place_of(x)
            sample_weight, exponent = scaled(sample_weight, dtype)
            weights = _roomy_weights(sample_weight, n_rows, capacity, dtype)
            return cls._with_room(jax.device_put(rows, device), weights, n_rows, size, exponent)

    @classmethod
    def _with_room(cls, rows: Array, weights: np.ndarray, n_rows: int, size: int, exponent: Any) -> Batches:
        origin, total, min_weight = _described(np.asarray(rows)[:n_rows], weights[:n_rows])
        scalars = np.asarray(total, rows.dtype), np.asarray(min_weight, rows.dtype), np.int32(n_rows)
        parts = (weights, origin.astype(rows.dtype), *scalars, np.int32(-(-n_rows // size)))
        weights_, origin_, total_, lightest_, count, used = beside(rows, parts)
        known = origin_, total_, lightest_, count, used, np.int32(exponent)
        return cls(Roomy(rows, size), Roomy(weights_, size), *known, in_turn=True)

    @property
    def has_room(self) -> bool:
        """Whether these are few rows padded to a capacity, as by `with_room`."""
        return self.n_used is not None

    @property
    def sample(self) -> Batches:
        """The rows that seeds are chosen from."""
        return self

    @property
    def n_copies(self) -> int:
        """How many devices hold a copy of all rows."""
        return 1

    @property
    def is_multiprocess(self) -> bool:
        """Whether other processes hold rows of the same table: no, since all of them are here."""
        return False

    def fingerprint(self) -> Any:
        """A tree that identifies these rows: the rows themselves."""
        return self

    def at_home(self, tree: T) -> T:
        """A tree of arrays on the device of the rows, and committed to it only if they are."""
        return beside(self.origin, tree)

    def whole(self, what: str, why: str) -> Batches:
        """The rows as `Batches`, all in one program: these (see `PartitionedRows.whole`)."""
        del what, why
        return self

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
        """The same rows, not copied, under other weights (N,), in the same unit."""
        if isinstance(self.rows, Roomy):
            n_rows, capacity = int(self.n_rows), len(self.rows.body)
            weights = _roomy_weights(sample_weight, n_rows, capacity, self.dtype)
            return self._with_room(self.rows.body, weights, n_rows, self.chunk_size, self.exponent)
        weights = cut(sample_weight, self.chunk_size, self.dtype, pad_with_zero=True)
        if not is_traced(self.origin) and len(self.origin.devices()) > 1:  # move them to the rows' devices once
            weights = jax.device_put(weights, self.origin.sharding)
        origin, total, min_weight = _describe.compiled(_are_few(self.rows), self.rows, weights)
        return replace(self, weights=weights, origin=origin, total_weight=total, min_weight=min_weight)

    def row_weights(self) -> np.ndarray:
        """The weights of all rows, on the host, in their unit. -> (N,) in float64."""
        if isinstance(self.weights, Roomy):
            return np.asarray(self.weights.body).astype(np.float64)[: int(self.n_rows)]
        whole = (self.n_chunks - 1) * self.chunk_size
        body = np.ones(whole) if self.weights.body is None else np.asarray(self.weights.body)[:whole]
        return np.concatenate([body, np.asarray(self.weights.tail)]).astype(np.float64)[: int(self.n_rows)]

    def in_users_unit(self, value: Any) -> Any:
        """A sum of weights, or of products with them, in the unit of the user's own weights; on the host in float64."""
        return from_unit(value, self.exponent)

    def variances(self) -> Array:
        """The variance of each feature over the weighted rows. -> (D,)."""

        def term(chunk: Chunk) -> tuple[Array, Array]:
            centred = chunk.rows - self.origin[None]
            return einsum("n,nd->d", chunk.weights, centred), einsum("n,nd->d", chunk.weights, centred * centred)

        first, second = self.sum(term)
        return jnp.maximum(second / self.total_weight - jnp.square(first / self.total_weight), 0.0)

    def sum(self, term: Callable[[Chunk], T]) -> T:
        """Σ over chunks of term(chunk), a pytree of arrays; compensated.

        Rows that the user gave weight 0 are replaced by the origin: their values may overflow, and 0 · inf is NaN.
        """
        may_overflow = self.weights.body is not None or self.n_chunks == 1 or self.has_room

        def at(index: Array) -> T:
            rows, weights = self.rows.take(index), self.weights.take(index)
            if may_overflow:
                rows = jnp.where((weights > 0.0)[:, None], rows, self.origin[None])
            return term(Chunk.of(rows, weights, index))

        if self.n_chunks == 1 and self.n_used is None:
            return at(jnp.int32(0))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(at, jnp.int32(0)))
        if self.n_used is not None and self.n_chunks <= PLAIN_UP_TO:
            return lax.fori_loop(0, self.n_used, lambda i, total: jax.tree.map(jnp.add, total, at(i)), zero)

        def add(index: Array, carry: tuple[T, T]) -> tuple[T, T]:
            return compensated_add(*carry, at(index))

        if self.n_used is not None:
            return jax.tree.map(jnp.add, *lax.fori_loop(0, self.n_used, add, (zero, zero)))

        def body(carry: tuple[T, T], index: Array) -> tuple[tuple[T, T], None]:
            return add(index, carry), None

        (total, error), _ = lax.scan(body, (zero, zero), jnp.arange(self.n_chunks, dtype=jnp.int32))
        return jax.tree.map(jnp.add, total, error)


def _int32(exponent: Any) -> Any:
    return exponent if is_traced(exponent) else np.int32(exponent)


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
    """Origin (approximately the weighted mean), total weight and smallest positive weight of batches."""
    zero = jnp.zeros((), rows.tail.dtype)
    about = rows.tail[jnp.argmax(weights.tail)]
    if rows.body is not None and weights.body is not None:  # the rows of the tail may all weigh 0
        about = jnp.where(jnp.max(weights.tail) > 0.0, about, rows.body[jnp.argmax(weights.body)])
    draft = Batches(rows, weights, about, zero, zero, jnp.int32(0))

    def term(chunk: Chunk) -> tuple[Array, Array]:
        # Sum about a row of the data: about 0, rows that are far from 0 would lose their digits.
        return jnp.sum(chunk.weights), jnp.sum(chunk.weights[:, None] * (chunk.rows - draft.origin[None]), axis=0)

    total, first = draft.sum(term)
    origin = draft.origin + first / jnp.where(total > 0.0, total, 1.0)
    min_weight = jnp.min(jnp.where(weights.tail > 0.0, weights.tail, jnp.inf))
    if weights.body is not None:
        min_weight = jnp.minimum(min_weight, jnp.min(jnp.where(weights.body > 0.0, weights.body, jnp.inf)))
    return origin, total, min_weight

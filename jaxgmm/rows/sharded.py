"""Rows sharded over several devices, of one process or of several.

Each device sums over its own rows, in chunks, and one all-reduce of one packed vector gives the sums over all rows.
Every process then continues by itself with the same numbers, so all of them make the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._base.precision import precision_for
from .._base.programs import next_power_of_two, program
from . import _check_parts
from .batches import Batches
from .chunks import Chunked, Counted
from .collective import gather, gather_exactly, in_all_or_none
from .conversion import floating_dtype
from .partitioned import How, PartitionedRows
from .replicated import ON_EACH
from .shares import Share, check_rows, check_weights, in_one_unit
from .sizes import choose_chunk_size
from .survey import Survey, described, moved, rng_of, rows_kept, sound_row

AXIS = "rows"


class Sharded(PartitionedRows):
    """Rows on all devices of a mesh."""

    advice = f" Or give device='all' as many restarts as devices, and no more than {ON_EACH >> 20} MB of rows."

    def __init__(
        self,
        key: Array,
        shares: Sequence[Share],
        devices: Sequence[Any],
        n_components: int,
        chunk_size: int | None = None,
        dtype: Any = None,
    ) -> None:
        """shares: of the devices of this process; devices: those of all processes.

        ValueError, with the position, for values that are not finite, and for weights that are negative.
        """
        self.name = "x"
        self.dtype = _agreed(shares, n_components, chunk_size, dtype)
        self.n_features = shares[0].rows.shape[1]
        self.mesh = Mesh(np.array(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
        # Every device has as many chunks as the one with the most rows.
        most = int(np.max(gather(np.array(max(len(share.rows) for share in shares)))))
        size = chunk_size or choose_chunk_size(self.n_features, n_components, self.dtype.itemsize)
        self.chunk_size = min(size, next_power_of_two(most))
        self.n_chunks = -(-most // self.chunk_size)
        in_all_or_none(lambda: check_weights(shares, self.name))
        shares, exponent = in_one_unit(shares, self.dtype)
        with precision_for(self.dtype):
            row = self._row_amid(shares)
            self.rows = Chunked(*self._placed([share.rows for share in shares], shares, row), self.n_chunks)
            if shares[0].weights is None:
                counts = [np.array([len(share.rows)], np.int32) for share in shares]
                counts = self._global([jax.device_put(c, s.device) for c, s in zip(counts, shares, strict=True)])
                self.weights: Chunked | Counted = Counted(
                    counts, jnp.zeros(0, self.dtype), self.chunk_size, self.n_chunks
                )
            else:
                weights = [share.weights for share in shares]
                self.weights = Chunked(*self._placed(weights, shares), self.n_chunks)
            self.origin = jnp.asarray(row)
            self.total_weight = self.min_weight = jnp.ones((), self.dtype)
            self._describe(self._surveyed(key, shares, rows_kept(n_components)), n_components)
            self.exponent = exponent

    @property
    def is_multiprocess(self) -> bool:
        """Whether other processes hold rows of the same table, and run the same search."""
        return jax.process_count() > 1

    def _sum(self, how: How, shared: Any) -> Any:
        # Host arrays are copied to every device; arrays on one device would not be.
        own = jax.tree.map(np.asarray, (self.origin, self.total_weight, self.min_weight, shared))
        found = _summed(self.rows, self.weights, *own, how=how, mesh=self.mesh)
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), found)

    def _row_amid(self, shares: Sequence[Share]) -> np.ndarray:
        """A finite row (D,) of positive weight, the same in all processes; zeros where there is none."""
        found = (sound_row(share.rows, share.weights) for share in shares)
        row = next((row for row in found if row is not None), None)
        known = np.zeros(self.n_features) if row is None else np.asarray(row, np.float64)
        everyone = [gather_exactly(part) for part in (np.array(row is not None), known)]
        rows = [row for is_there, row in zip(*everyone, strict=True) if is_there]
        return (rows[0] if rows else known).astype(self.dtype)

    def _placed(
        self, parts: Sequence[Any], shares: Sequence[Share], where_empty: Any = 0
    ) -> tuple[Array | None, Array]:
        """Body and tail of the devices' rows, or weights, each as one array sharded over all devices."""
        whole = (self.n_chunks - 1) * self.chunk_size
        bodies, tails = [], []
        for part, share in zip(parts, shares, strict=True):
            with jax.default_device(share.device):
                padded = _padded(part, whole + self.chunk_size, self.dtype, where_empty)
                bodies.append(jax.device_put(padded[:whole], share.device))
                tails.append(jax.device_put(padded[whole:], share.device))
        return self._global(bodies) if whole else None, self._global(tails)

    def _global(self, arrays: Sequence[Array]) -> Array:
        shape = (self.mesh.size * arrays[0].shape[0], *arrays[0].shape[1:])
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.make_array_from_single_device_arrays(shape, sharding, list(arrays))

    def _surveyed(self, key: Array, shares: Sequence[Share], n_kept: int) -> Survey:
        # Every process draws from its own rows, with a key of its own: under one key all draws would be alike.
        own = key if jax.process_count() == 1 else jax.random.fold_in(key, jax.process_index())
        survey = Survey(rng_of(own), n_kept)
        mass, first, _ = self.sum(described)
        if np.isfinite(np.asarray(first)).all():
            self.origin = moved(self.origin, mass, first)
        sums = tuple(np.asarray(of) for of in self.sum(described))
        if not all(np.isfinite(of).all() for of in sums):
            in_all_or_none(lambda: check_rows(shares, self.dtype, self.name))  # passes if only squares overflowed
        for share in shares:
            survey.draw(share.rows, share.weights)
        survey.kept[1:] = [part.astype(self.dtype) for part in survey.kept[1:]]
        survey.describe(self.origin, *sums)
        if jax.process_count() > 1:
            _merge(survey)
        return survey


def _agreed(shares: Sequence[Share], n_components: int, chunk_size: int | None, dtype: Any) -> np.dtype:
    """The rows' dtype. ValueError where the processes were given different kinds of rows, or different arguments."""
    own = jax.dtypes.canonicalize_dtype(floating_dtype([share.rows for share in shares], dtype))
    own = np.dtype(own if dtype is None else dtype)
    told = [shares[0].rows.shape[1], own.itemsize * 8, int(shares[0].weights is not None), n_components]
    told = gather(np.array([*told, chunk_size or 0], np.int32))
    _check_parts.same_in_all(told, ("features", "bits a number", "weights", "components", "rows a chunk"))
    return own


def _padded(part: Any, size: int, dtype: Any, where_empty: Any) -> Any:
    """Rows (n, ...) padded to (size, ...) with their last one, or `where_empty` if there are none; weights with 0."""
    n_rows = len(part)
    is_weights = part.ndim == 1
    if isinstance(part, jax.Array) and n_rows:
        widths = [(0, size - n_rows)] + [(0, 0)] * (part.ndim - 1)
        return jnp.pad(part.astype(dtype), widths, mode="constant" if is_weights else "edge")
    padded = np.empty((size, *part.shape[1:]), dtype)
    with np.errstate(over="ignore"):
        padded[:n_rows] = part
    padded[n_rows:] = 0 if is_weights else part[-1] if n_rows else where_empty
    return padded


def _merge(survey: Survey) -> None:
    """Join the surveys of all processes. Each sends `n_kept` rows; the padding of those that drew fewer is dropped."""
    draws, rows, weights = survey.kept
    missing = survey.n_kept - len(draws)
    sent = (
        np.pad(draws, (0, missing), constant_values=-np.inf),
        np.pad(rows, ((0, missing), (0, 0))),
        np.pad(weights, (0, missing)),
        np.array([survey.n_rows, survey.n_weighted, len(draws)], np.int64),
        np.array(survey.min_weight),
    )
    everyone = [gather_exactly(part) for part in sent]
    survey.kept, survey.n_rows, survey.n_weighted = [], 0, 0
    for draws, rows, weights, (n_rows, n_weighted, n_drawn), min_weight in zip(*everyone, strict=True):
        survey.n_rows += int(n_rows)
        survey.n_weighted += int(n_weighted)
        survey.min_weight = min(survey.min_weight, float(min_weight))
        survey.merge([draws[:n_drawn], rows[:n_drawn], weights[:n_drawn]])


@program(static=("how", "mesh"))
def _summed(
    rows: Chunked,
    weights: Chunked | Counted,
    origin: Array,
    total: Array,
    min_weight: Array,
    shared: Any,
    *,
    how: How,
    mesh: Mesh,
) -> Any:
    function, static = how
    of_rows, everywhere = PartitionSpec(AXIS), PartitionSpec()

    def local(rows: Chunked, weights: Any, count: Any, own: tuple[Array, Array, Array], shared: Any) -> Any:
        if count is not None:
            weights = Counted(count[0], weights, rows.chunk_size, rows.n_chunks)
        origin, total, min_weight = own
        block = Batches(rows, weights, origin, total, min_weight, jnp.int32(0))
        packed, unpacked = ravel_pytree(function(block, *shared, **dict(static)))
        return unpacked(lax.psum(packed, AXIS))

    if isinstance(weights, Counted):
        count, weights, of_weights = weights.n_rows, weights.like, everywhere  # pyright: ignore
    else:
        count, of_weights = None, of_rows
    shared_out: Callable[..., Any] = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(of_rows, of_weights, of_rows, everywhere, everywhere),
        out_specs=everywhere,
        check_vma=False,
    )
    return shared_out(rows, weights, count, (origin, total, min_weight), shared)

"""Rows sharded over several devices, of one process or of several.

Each device sums over its own rows, in chunks, and one all-reduce of one packed vector gives the sums over all rows.
Every process then continues by itself with the same numbers, so all of them make the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._base.precision import is_traced, precision_for
from .._base.programs import next_power_of_two, program
from . import _check, _check_parts
from .batches import Batches
from .chunks import Chunked, Counted
from .conversion import floating_dtype, observations
from .partitioned import How, PartitionedRows
from .replicated import ON_EACH
from .sizes import choose_chunk_size
from .survey import Survey, described, moved, rng_of, rows_kept, sound_row
from .units import exponent_of, in_unit

T = TypeVar("T")

AXIS = "rows"


class Share(NamedTuple):
    """The rows of one device."""

    device: Any
    rows: Any  # (n, D): on the host, or on the device
    weights: np.ndarray | None  # (n,)


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
        most = int(np.max(of_all(np.array(max(len(share.rows) for share in shares)))))
        size = chunk_size or choose_chunk_size(self.n_features, n_components, self.dtype.itemsize)
        self.chunk_size = min(size, next_power_of_two(most))
        self.n_chunks = -(-most // self.chunk_size)
        in_all_or_none(lambda: _check_weights(shares, self.name))
        shares, exponent = _in_one_unit(shares, self.dtype)
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
        everyone = [_packed_of_all(part) for part in (np.array(row is not None), known)]
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
            in_all_or_none(lambda: _check_rows(shares, self.dtype, self.name))  # passes if only squares overflowed
        for share in shares:
            survey.draw(share.rows, share.weights)
        survey.kept[1:] = [part.astype(self.dtype) for part in survey.kept[1:]]
        survey.describe(self.origin, *sums)
        if jax.process_count() > 1:
            _merge(survey)
        return survey


def of_all(array: np.ndarray) -> np.ndarray:
    """Gather the arrays of all processes, which have the same shape. -> (P, ...)."""
    return multihost_utils.process_allgather(array) if jax.process_count() > 1 else array[None]


def _packed_of_all(part: np.ndarray) -> list[np.ndarray]:
    """As `of_all`, sent as bytes: float64 and int64 would be rounded while JAX's x64 setting is off."""
    sent = of_all(np.frombuffer(part.tobytes(), np.uint8))
    return [np.frombuffer(np.asarray(each).tobytes(), part.dtype).reshape(part.shape) for each in sent]


def in_all_or_none(check: Callable[[], T]) -> T:
    """The result of the check. If it raises in one process it raises in all: else the others would wait for ever."""
    error, found = None, None
    try:
        found = check()
    except (TypeError, ValueError) as raised:
        error = raised
    has_failed = of_all(np.array(error is not None)).ravel()
    if error is not None:
        raise error
    if has_failed.any():
        _check_parts.fail_with_another(int(np.argmax(has_failed)))
    return found  # pyright: ignore


def _agreed(shares: Sequence[Share], n_components: int, chunk_size: int | None, dtype: Any) -> np.dtype:
    """The rows' dtype. ValueError where the processes were given different kinds of rows, or different arguments."""
    own = jax.dtypes.canonicalize_dtype(floating_dtype([share.rows for share in shares], dtype))
    own = np.dtype(own if dtype is None else dtype)
    told = [shares[0].rows.shape[1], own.itemsize * 8, int(shares[0].weights is not None), n_components]
    told = of_all(np.array([*told, chunk_size or 0], np.int32))
    _check_parts.same_in_all(told, ("features", "bits a number", "weights", "components", "rows a chunk"))
    return own


def _check_weights(shares: Sequence[Share], name: str) -> None:
    first = 0
    for share in shares:
        if share.weights is not None:
            _check_parts.block_weights(np.asarray(share.weights), first, name)
        first += len(share.rows)


def _in_one_unit(shares: Sequence[Share], dtype: Any) -> tuple[Sequence[Share], int]:
    """The shares with their weights in the unit of all processes' weights, and its exponent."""
    if shares[0].weights is None:
        return shares, 0
    largest = np.array(max(float(np.max(share.weights, initial=0.0)) for share in shares))  # pyright: ignore
    exponent = exponent_of(float(np.max(_packed_of_all(largest))))
    return [share._replace(weights=in_unit(share.weights, exponent, dtype)) for share in shares], exponent


def _check_rows(shares: Sequence[Share], dtype: Any, name: str) -> None:
    first = 0
    with np.errstate(over="ignore"):
        for share in shares:
            _check_parts.finite_block(np.asarray(share.rows).astype(dtype), share.weights, first, name)
            first += len(share.rows)


def is_shared_out(x: Any) -> bool:
    """Whether an array is sharded over several devices, or is partly held by other processes."""
    return (
        isinstance(x, jax.Array)
        and not is_traced(x)
        and not (x.sharding.is_fully_replicated and x.is_fully_addressable)
    )


def shares_of(x: Any, sample_weight: Any) -> tuple[list[Share], list[Any]]:
    """The rows of this process by device, and the devices of all processes. A ValueError in one is raised in all.

    Rows (N, D) on the host are this process's own, and are cut into equal parts for its devices; an array that is
    sharded already stays where it is, and the weights are those of all its rows.
    """
    if is_shared_out(x):
        return in_all_or_none(lambda: _as_it_lies(x, sample_weight))
    return in_all_or_none(lambda: _cut(x, sample_weight)), jax.devices()


def one_copy(x: Any) -> Any:
    """One copy of an array that may be replicated over several devices; anything else unchanged."""
    return x.addressable_shards[0].data if isinstance(x, jax.Array) and not is_traced(x) else x


def _cut(x: Any, sample_weight: Any) -> list[Share]:
    own, x = jax.local_devices(), one_copy(x)
    if jax.process_count() == 1 or len(x):  # of several processes some may have no rows
        x = observations(x, "x")
    weights = _check.weights_of_rows(sample_weight, len(x))
    if jax.process_count() == 1:
        _check_parts.rows_for_devices(len(x), len(own))
    cuts = np.linspace(0, len(x), len(own) + 1).round().astype(int)
    return [
        Share(device, x[a:b], None if weights is None else np.asarray(weights[a:b]))
        for device, a, b in zip(own, cuts[:-1], cuts[1:], strict=True)
    ]


def _as_it_lies(x: Array, sample_weight: Any) -> tuple[list[Share], list[Any]]:
    _check.matrix_shape(x.shape, "x")
    holders: dict[tuple[int, int], Any] = {}
    for device, index in x.sharding.devices_indices_map(x.shape).items():
        (first, after, _), (left, right, _) = (part.indices(n) for part, n in zip(index, x.shape, strict=True))
        _check_parts.whole_rows((left, right), x.shape[1])
        holders.setdefault((first, after), device)  # of several copies of the same rows only one is used
    _check_parts.rows_of_each_process({device.process_index for device in holders.values()}, jax.process_count())
    here = {shard.device: shard.data for shard in x.addressable_shards}
    weights = None
    if sample_weight is not None and is_shared_out(sample_weight) and not sample_weight.is_fully_addressable:
        _check_parts.same_layout(sample_weight.sharding.devices_indices_map(sample_weight.shape), holders)
        weights = {shard.device: np.asarray(shard.data) for shard in sample_weight.addressable_shards}
    elif sample_weight is not None:
        values = np.asarray(_check.weights_of_rows(sample_weight, len(x)))
        weights = {device: values[slice(*place)] for place, device in holders.items()}
    shares = [
        Share(device, here[device], None if weights is None else weights[device])
        for place, device in sorted(holders.items(), key=lambda item: item[0])
        if device in here
    ]
    return shares, [holders[place] for place in sorted(holders)]


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
    everyone = [_packed_of_all(part) for part in sent]
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

"""The one entry point for data: turns any kind of input into rows that can be summed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .._base.fork import refuse_if_forked
from .._base.mesh import one_copy_of
from .._base.precision import is_traced, is_transforming, precision_for
from .._base.programs import effort, is_small, next_power_of_two
from . import _check
from .batches import Batches
from .blocks import Blocks
from .conversion import floating_dtype, observations, require_array
from .dask import DaskRows, client_of
from .names import names_of
from .options import RowOptions, Workload
from .partitions import takes as is_dask
from .replicated import ON_EACH, on_all_devices
from .rows import Rows
from .sharded import Sharded
from .shares import is_sharded, shares_of
from .sizes import choose_chunk_size, chunk_size_in_turn, has_one_form
from .streamed import Streamed


def admit_rows(
    key: Array,
    x: Any,
    options: RowOptions,
    work: Workload,
    read: Callable[[int, int], None] | None = None,
) -> Rows:
    """The user's data, checked, as rows. Data that are read in blocks are read once here, and the key draws the rows
    that seeds are chosen from. read: a callback that gets the numbers of rows read, in this pass and in all later
    ones."""
    refuse_if_forked()
    everywhere = _check.devices(options.device)
    client = client_of() if is_dask(x) else None
    blocks = None if client is not None else Blocks.of(x, options.sample_weight)
    if isinstance(x, Batches) and everywhere:
        _check.in_memory("device='all'", "Batches lie on one device")
    if blocks is None and client is None and not (everywhere or is_sharded(x)):
        return admit(x, options, work)
    options = _checked(options)
    sample_weight, chunk_size, dtype, _ = options
    if everywhere and (blocks is not None or client is not None):
        _check.in_memory("device='all'", "blocks and partitions are each read for one device")
    if client is not None:
        return DaskRows(key, x, sample_weight, client, work.n_components, chunk_size, dtype)
    if blocks is not None:
        return Streamed(key, blocks, work.n_components, chunk_size, dtype, read)
    if is_sharded(x) or jax.process_count() > 1:
        return Sharded(key, *shares_of(x, sample_weight), work.n_components, chunk_size, dtype)
    return _admit_everywhere(key, x, options, work._replace(n_runs=None))


def _checked(options: RowOptions) -> RowOptions:
    """The options with a valid chunk size and dtype."""
    dtype = None if options.dtype is None else floating_dtype((), options.dtype)
    return options._replace(chunk_size=_check.chunk_size(options.chunk_size), dtype=dtype)


class Head(NamedTuple):
    """The first row of rows that are read in blocks."""

    rows: np.ndarray  # (1, D)
    names: tuple[Any, ...] | None


def head_of(x: Any, sample_weight: Any) -> Head | None:
    """What is known of rows before they are read: of Blocks, paths and dask collections, and of `Batches`. None for
    arrays, and for `numpy.memmap`, as which joblib hands arrays to its workers."""
    if isinstance(x, Batches):
        return Head(np.asarray(x.origin)[None], None)
    if isinstance(x, np.memmap) or (blocks := Blocks.of(x, sample_weight)) is None:
        return None
    return Head(blocks.head()[0], blocks.column_names())


def _admit_everywhere(key: Array, x: Any, options: RowOptions, work: Workload) -> Rows:
    """Rows for all devices of the only process: each device has a shard of the rows, or all rows and some lanes."""
    x, n_own = observations(one_copy_of(x), "x"), len(jax.local_devices())
    n_bytes = x.size * _dtype_of(x, options.dtype).itemsize
    sample_weight = options.sample_weight
    if n_own == 1 or (n_own <= work.n_lanes and n_bytes <= ON_EACH):
        if isinstance(sample_weight, jax.Array) and not is_traced(sample_weight):
            # It may lie on another device than the rows.
            options = options._replace(sample_weight=np.asarray(sample_weight))
        batches = admit(x, options, work)
        return batches if n_own == 1 else on_all_devices(batches)
    return Sharded(key, *shares_of(x, sample_weight), work.n_components, options.chunk_size, options.dtype)


def _dtype_of(x: Any, dtype: Any) -> np.dtype:
    """The dtype in which rows are computed."""
    return np.dtype(jax.dtypes.canonicalize_dtype(floating_dtype((x,))) if dtype is None else dtype)


def admit(x: Any, options: RowOptions, work: Workload) -> Batches:
    """The user's data in one array, or `Batches`, checked, as batches."""
    options = _checked(options)
    if isinstance(x, Batches):
        for name in ("sample_weight", "chunk_size"):
            if getattr(options, name) is not None:
                raise ValueError(f"Batches carry their own weights and chunks: give {name} to Batches.of instead.")
        if options.dtype is not None:
            _check.same_dtype(x.dtype, options.dtype)
        if not is_traced(x):
            _check.enough_rows(int(x.n_rows), None, work.n_components)
        return x
    x, sample_weight = map(one_copy_of, in_memory(x, options.sample_weight))
    names, x = names_of(x), observations(x, "x")
    sample_weight, dtype = _check.row_weights(sample_weight, len(x)), _dtype_of(x, options.dtype)
    _check.finite(x, "x", sample_weight, names)
    _check.within(x, dtype, "x", sample_weight)
    _check.enough_rows(len(x), sample_weight, work.n_components)
    return in_batches(x, options._replace(sample_weight=sample_weight, dtype=dtype), work)


def in_batches(x: Any, options: RowOptions, work: Workload) -> Batches:
    """Rows (N, D) and options that are checked, as batches; padded to a capacity where the search is small."""
    sample_weight, chunk_size, dtype, _ = options
    n_components, n_lanes, n_runs, is_padded = work
    if chunk_size is None and n_runs is not None:
        if have_room(x, sample_weight, n_components, n_runs):
            return Batches.with_room(x, sample_weight, dtype)
        n_rows, n_features = x.shape
        has_one = has_one_form(effort(n_rows, n_components, n_runs), n_features)
        if is_padded and has_one and _on_one_cpu(x, sample_weight):
            size = chunk_size_in_turn(n_rows, n_features, np.dtype(dtype).itemsize)
            return replace(Batches.of(x, sample_weight, size, dtype=dtype), in_turn=True)
    return Batches.of(x, sample_weight, chunk_size, n_components=n_components, n_lanes=n_lanes, dtype=dtype)


def have_room(x: Any, sample_weight: Any, n_components: int, n_runs: int) -> bool:
    """Whether the rows are those of a small search, not traced, and on one CPU."""
    return _on_one_cpu(x, sample_weight) and is_small(*x.shape, n_components, n_runs)  # pyright: ignore


def _on_one_cpu(x: Any, sample_weight: Any) -> bool:
    if is_transforming():
        return False
    arrays = [each for each in (x, sample_weight) if isinstance(each, jax.Array)]
    return all([one.platform for one in each.devices()] == ["cpu"] for each in arrays)


def in_memory(x: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Rows and weights of what is read in blocks, read into memory; what else a user gave as it is."""
    if isinstance(x, (np.memmap, Batches)) or (blocks := Blocks.of(x, sample_weight)) is None:
        return x, sample_weight
    return blocks.in_memory()


def as_batches(x: Any, n_components: int, n_features: int, dtype: Any) -> Batches:
    """Rows x (N, D), an array or `Batches`, for a mixture of `n_components` and `n_features`. The values of an array
    are not checked: it may be traced. ValueError where D differs."""
    if not isinstance(x, Batches):
        require_array(x, "x")
        _check.matrix_shape(np.shape(x), "x")
        x = Batches.of(x, n_components=n_components, dtype=dtype)
    _check.last_axis((x.n_features,), n_features)
    return x


def admit_batch(x: Any, sample_weight: Any, n_components: int, n_features: int, dtype: Any) -> Batches:
    """A batch of a stream for a mixture of this dtype, checked: rows x (N, D) with weights (N,), or `Batches`."""
    if isinstance(x, Batches):
        _check.no_weights_beside_batches(sample_weight)
        _check.same_dtype(x.dtype, dtype)
        _check.last_axis((int(x.n_rows), x.n_features), n_features)
        return x
    x, sample_weight = map(one_copy_of, in_memory(x, sample_weight))
    x = observations(x, "x")
    _check.last_axis(x.shape, n_features)
    if not is_traced(x) and _is_on_cpu(x):
        x = np.asarray(x)  # where a conversion compiles nothing
    with precision_for(dtype), np.errstate(over="ignore"):
        x = x.astype(dtype, copy=False)  # too large a number becomes infinite, and is refused below
    sample_weight = _check.row_weights(sample_weight, len(x))
    _check.finite(x, "x", sample_weight)
    if is_transforming() or not isinstance(x, np.ndarray):
        return Batches.of(x, sample_weight, n_components=n_components, dtype=dtype)
    # Batches of a stream differ in size, and each shape would be a program of its own.
    if have_room(x, sample_weight, n_components, 1):
        return Batches.with_room(x, sample_weight, dtype)
    size = choose_chunk_size(n_features, n_components, np.dtype(dtype).itemsize)
    return Batches.with_room(x, sample_weight, dtype, min(size, next_power_of_two(len(x))))


def _is_on_cpu(x: Any) -> bool:
    return not isinstance(x, jax.Array) or all(one.platform == "cpu" for one in x.devices())

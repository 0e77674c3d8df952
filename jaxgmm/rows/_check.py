"""Checks of rows and their weights."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.check import count
from .._base.precision import is_traced
from .._base.programs import program
from .files import require_whole


def chunk_size(value: Any) -> int | None:
    """Rows per chunk, or None for a size chosen for the data."""
    return None if value is None else count(value, "chunk_size", least=1)


def floating_dtype(values: Iterable[Any], dtype: Any = None) -> np.dtype:
    """The floating dtype that JAX's own promotion gives to the values, or `dtype` where that is given."""
    if dtype is not None:
        try:
            asked = repr(dtype) if isinstance(dtype, (np.generic, np.ndarray, jax.Array)) else np.dtype(dtype)
        except (TypeError, ValueError):
            asked = repr(dtype)
        if asked not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"dtype must be a floating dtype, float32 or float64, got {asked}.")
        return np.dtype(dtype)
    dtypes = [_native(v.dtype if hasattr(v, "dtype") else np.asarray(v).dtype, "What was given") for v in values]
    found = jnp.result_type(*map(jax.dtypes.canonicalize_dtype, dtypes))  # canonical first: else JAX warns of float64
    if jnp.issubdtype(found, jnp.complexfloating) or (not jnp.issubdtype(found, jnp.number) and found != np.bool_):
        raise TypeError(f"Expected real numbers, got dtype {found}.")
    kept = any(isinstance(v, jax.Array) and v.dtype == np.float64 for v in values)
    if jnp.issubdtype(found, jnp.floating) and found.itemsize < 4:
        return np.dtype(np.float32)  # half precision is for storage only: it has no factorisations
    floating = found if jnp.issubdtype(found, jnp.floating) else np.dtype(float)
    return np.dtype(np.float64) if kept else jax.dtypes.canonicalize_dtype(floating)


def matrix_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"{name} must be a matrix (N, D) with at least one row and one column, got shape {shape}.")


def last_axis(shape: tuple[int, ...], n_features: int) -> None:
    if not shape or shape[-1] != n_features:
        raise ValueError(
            f"The mixture has {n_features} features: expected x of shape (..., {n_features}), got {shape}."
        )


def same_dtype(of_rows: Any, of_mixture: Any) -> None:
    if of_rows != of_mixture:
        raise TypeError(
            f"The rows are {of_rows} and the mixture is {of_mixture}. Make both alike: Batches.of(x, dtype=...) or "
            "Mixture.create(..., dtype=...)."
        )


def observations(x: Any, name: str = "X") -> np.ndarray | Array:
    """Rows of data as a two-dimensional real array, NumPy or JAX: shape and dtype are checked, values are not.

    Takes what NumPy can read, data frames, JAX arrays, and (without a copy) anything with `__dlpack__`.
    """
    x = real_array(x, name)
    if x.ndim == 1:
        raise ValueError(
            f"Expected 2D array, got 1D array instead: {name} has shape {x.shape}. Reshape your data using "
            f"{name}.reshape(-1, 1) if it is a single feature, or {name}.reshape(1, -1) if it is a single row."
        )
    if x.ndim != 2:
        raise ValueError(f"Expected 2D array {name} (N, D), found array with dim {x.ndim} of shape {x.shape}.")
    if x.shape[0] == 0:
        raise ValueError(f"Found array with 0 sample(s) (shape={x.shape}) while a minimum of 1 is required.")
    if x.shape[1] == 0:
        raise ValueError(f"Found array with 0 feature(s) (shape={x.shape}) while a minimum of 1 is required.")
    return x


def real_array(x: Any, name: str) -> np.ndarray | Array:
    """Real numbers of any shape, NumPy or JAX, of a dtype that JAX has; text is converted to numbers."""
    is_array(x, name)
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise TypeError(f"{name} is a sparse matrix, but a dense array is required. Convert it with .toarray().")
    if not isinstance(x, (jax.Array, np.ndarray)):
        x = _from_elsewhere(x, name)
    if not hasattr(x.dtype, "kind"):
        raise TypeError(f"{name} must hold numbers, but holds JAX's random keys ({x.dtype}).")
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"Complex data not supported: {name} has dtype {x.dtype}. Stack real and imaginary parts.")
    if x.dtype.kind in "mM":
        raise TypeError(
            f"{name} holds dates or durations ({x.dtype}). Turn them into numbers of a unit that you choose."
        )
    _unmasked(x, name)
    if x.dtype == object or x.dtype.kind in "US":
        x = _numbers(np.asarray(x), name)
    native = _native(x.dtype, name)
    return x if x.dtype == native else x.astype(native)


def is_array(x: Any, name: str) -> None:
    """TypeError for a source of rows that is read in blocks, where an array is needed; ValueError for a mapped array
    whose file has been cut off."""
    require_whole(x)
    if isinstance(x, (str, bytes, os.PathLike)):
        what, instead = f"a path, {os.fsdecode(x)!r}", OF_SOURCES
    elif isinstance(x, (list, tuple)) and len(x) and isinstance(x[0], os.PathLike):
        what, instead = "a list of paths", OF_SOURCES
    elif hasattr(x, "pieces"):
        what, instead = "Blocks", OF_SOURCES
    elif hasattr(x, "row_weights"):
        what, instead = "Batches", "Give the array that they were made of."
    elif hasattr(x, "readline"):
        what, instead = "an open file", "Give its path."
    elif hasattr(x, "__next__"):
        what, instead = f"a {type(x).__name__}, which is used up after one pass", OF_FUNCTIONS
    elif callable(x) and not hasattr(x, "shape"):
        what, instead = f"a {type(x).__name__}", OF_FUNCTIONS
    else:
        return
    raise TypeError(f"{name} must be an array of rows (N, D), got {what}. {instead}")


OF_SOURCES = (
    "Files, Blocks and dask collections are read by jaxgmm.fit, sweep, bootstrap, likelihood_ratio_test and "
    "online.update, and by the estimator. Give an array here: jaxgmm.Blocks.of(x).in_memory() has one, with weights."
)

OF_FUNCTIONS = (
    "Rows that come in blocks are taken as jaxgmm.Blocks(function), where function() returns a new iterator over "
    "arrays (n, D); those of one pass as numpy.concatenate(list(blocks))."
)


def _unmasked(x: Any, name: str) -> None:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        first = np.argwhere(np.ma.getmaskarray(x))[0]
        raise ValueError(
            f"{name} has masked cells, and missing cells are not handled: {_place(first)} is masked. Fill or drop them."
        )


def _native(dtype: np.dtype, name: str) -> np.dtype:
    """The dtype in this machine's byte order, the only one that JAX knows; TypeError where JAX has none like it."""
    if not isinstance(dtype, np.dtype):  # one of JAX's own
        return dtype
    if dtype.type is np.void:
        raise TypeError(
            f"{name} has the structured dtype {dtype}, but an array of numbers is required. Convert it with "
            "numpy.lib.recfunctions.structured_to_unstructured."
        )
    if dtype.type is np.longdouble:
        raise TypeError(f"{name} has dtype {dtype}, which JAX has not. Convert it with .astype(np.float64).")
    return dtype.newbyteorder("=")


def _from_elsewhere(x: Any, name: str) -> np.ndarray | Array:
    if not hasattr(x, "__dlpack__") or hasattr(x, "__array_interface__"):
        if hasattr(x, "to_numpy"):
            return np.asarray(_with_missing(x))
        try:
            return np.asarray(x)
        except ValueError as error:
            raise ValueError(
                f"{name} cannot be read as an array: {error}. Are all rows of one length? Blocks of rows "
                "are taken as jaxgmm.Blocks(blocks)."
            ) from None
    x = x.detach() if hasattr(x, "detach") else x
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return jax.dlpack.from_dlpack(x)  # on an accelerator, which NumPy cannot read


def _with_missing(x: Any) -> Any:
    """A data frame or series as NumPy has it; pandas' nullable numbers as floats, of their own width, and NaN."""
    kinds: Any = getattr(x, "dtypes", None)
    kinds = [kinds] if kinds is None or getattr(x, "ndim", 2) == 1 else list(kinds)
    plain = [getattr(kind, "numpy_dtype", kind) for kind in kinds]
    are_numbers = all(isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in plain)
    if not plain or not are_numbers or all(isinstance(kind, np.dtype) for kind in kinds):
        return x.to_numpy()
    found = np.result_type(*plain)
    return x.to_numpy(dtype=found if found.kind == "f" else np.dtype(np.float64), na_value=np.nan)


def _numbers(x: np.ndarray, name: str) -> np.ndarray:
    """Objects and text as float64, or an error that names the first cell that is no number."""
    if np.any([isinstance(value, complex) for value in x.flat[:1000]]):
        raise ValueError(f"Complex data not supported: {name} holds complex numbers.")
    if x.dtype == object:  # pandas' missing value, which has no float
        is_missing = np.array([type(value).__name__ == "NAType" for value in x.flat], bool).reshape(x.shape)
        x = np.where(is_missing, np.nan, x) if is_missing.any() else x
    try:
        return x.astype(np.float64)
    except (TypeError, ValueError) as error:
        is_missing = np.array([_is_missing(value) for value in x.flat], bool).reshape(x.shape)
        if is_missing.any():  # NaN stands for it, as in a column of floats
            return _numbers(np.where(is_missing, np.nan, x), name)
        for index, value in np.ndenumerate(x):
            try:
                float(value)
            except (TypeError, ValueError):
                where = _place(index)
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(
                    f"{name} must hold numbers only, but {where} is {value!r} ({type(value).__name__}): argument must "
                    "be a string or a number. Encode or drop such columns."
                ) from None
        raise


def _is_missing(value: Any) -> bool:
    """Whether an object is a missing cell: None, or the NA or NaT of pandas."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _place(index: Iterable[int]) -> str:
    return ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), index, strict=False)) or "it"


def finite(x: np.ndarray | Array, name: str = "X", weights: Any = None) -> None:
    """No NaN and no infinity, or an error that names the first by row and column. Traced values pass, and rows of
    weight 0."""
    if is_traced(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return
    values = _where_it_lies(x)
    if isinstance(values, jax.Array) and bool(_all_finite(values)):
        return
    # In blocks, so that no mask of the size of a large array is made.
    values = np.asarray(x)
    step = max(1, 2**22 // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        block = np.isfinite(values[start : start + step])
        if not block.all() and weights is not None and not is_traced(weights):
            block |= (np.asarray(weights[start : start + step]) == 0.0)[:, None]
        if not block.all():
            index = np.argwhere(~block)[0]
            index[0] += start
            value = values[tuple(index)]
            what = "NaN" if np.isnan(value) else "infinity"
            where = _place(index)
            raise ValueError(
                f"Input {name} contains {what}: {where} is {value}. Drop or replace such rows before fitting."
            )


def within(x: np.ndarray | Array, dtype: Any, name: str = "X", weights: Any = None) -> None:
    """No number is too large for the dtype of the computation. Traced values pass, and rows of weight 0."""
    if is_traced(x) or not jnp.issubdtype(x.dtype, jnp.floating) or jnp.finfo(x.dtype).max <= jnp.finfo(dtype).max:
        return
    values, largest = np.asarray(x), float(jnp.finfo(dtype).max)
    if values.max() <= largest and values.min() >= -largest:
        return
    is_large = np.abs(values) > largest
    if weights is not None and not is_traced(weights):
        is_large &= (np.asarray(weights) > 0.0)[:, None]
    if is_large.any():
        row, column = np.argwhere(is_large)[0]
        raise ValueError(
            f"Input {name} contains {values[row, column]} in row {row}, column {column}, which is too large for "
            f"{dtype}. Scale the columns, or compute in float64."
        )


def _where_it_lies(x: np.ndarray | Array) -> np.ndarray | Array:
    """x as a NumPy array, where that costs no copy; an array on another device is returned as it is."""
    is_elsewhere = isinstance(x, jax.Array) and any(device.platform != "cpu" for device in x.devices())
    return x if is_elsewhere else np.asarray(x)


@program
def _all_finite(x: Array) -> Array:
    """In one program, so that no mask of the size of x is made."""
    return jnp.all(jnp.isfinite(x))


def weights_of_rows(weights: Any, n_rows: int) -> np.ndarray | Array | None:
    """Weights (N,): finite and not negative. None stands for all ones."""
    if weights is None:
        return None
    if not isinstance(weights, (np.ndarray, jax.Array)):
        weights = _from_elsewhere(weights, "sample_weight")
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), one weight a row, got {weights.shape}.")
    if weights.dtype == object or weights.dtype.kind in "UScmM":
        raise TypeError(f"sample_weight must hold real numbers, got dtype {weights.dtype}.")
    if is_traced(weights):
        return weights
    _unmasked(weights, "sample_weight")
    native = _native(weights.dtype, "sample_weight")
    weights = weights if weights.dtype == native else weights.astype(native)
    finite(weights, "sample_weight")
    values = _where_it_lies(weights)
    if len(values) and values.min() < 0:
        row = int(values.argmin())
        raise ValueError(f"sample_weight must not be negative: row {row} has weight {values[row]}.")
    return weights


def row_weights(weights: Any, n_rows: int) -> np.ndarray | Array | None:
    """Weights (N,): finite, not negative, not all zero. None stands for all ones."""
    weights = weights_of_rows(weights, n_rows)
    if weights is not None and not is_traced(weights) and not _where_it_lies(weights).max() > 0:
        raise ValueError("sample_weight is zero for every row: at least one row must count.")
    return weights


def no_weights_beside_batches(sample_weight: Any) -> None:
    if sample_weight is not None:
        raise ValueError("Batches carry their own weights: give sample_weight to Batches.of instead.")


def unweighted(weights: np.ndarray) -> int:
    """All rows have the same weight, or weight 0, which counts as none. -> the number of rows that count."""
    counted = weights[weights > 0.0]
    if np.ptp(counted) > 0:
        raise ValueError(
            f"Expected rows that count alike, got Batches whose weights differ: row {int(weights.argmin())} weighs "
            f"{weights.min() / weights.max():g} times the heaviest. Repeat rows instead: np.repeat(x, counts, axis=0)."
        )
    return len(counted)


def enough_rows(n_rows: int, sample_weight: Any, n_components: int) -> None:
    """At least as many rows of positive weight as components."""
    if sample_weight is not None and not is_traced(sample_weight):
        n_rows = int((_where_it_lies(sample_weight) != 0).sum())
    if n_rows < n_components:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, n_samples = {n_rows}"
            f"{'' if sample_weight is None else ' of positive weight'}. Lower n_components or bring more rows."
        )


def enough_for_folds(n_rows: int, n_folds: int, n_components: int) -> None:
    """At least as many rows outside each fold as components."""
    if n_folds > n_rows or n_rows - -(-n_rows // n_folds) < n_components:
        raise ValueError(
            f"{n_rows} rows of positive weight cannot be fitted with {n_components} components without one of "
            f"{n_folds} folds. Lower n_folds or n_components, or bring more rows."
        )


def same_partitions(of_weights: int, of_rows: int) -> None:
    """Weights have as many partitions as their rows."""
    if of_weights != of_rows:
        raise ValueError(f"The weights are in {of_weights} partitions and the rows in {of_rows}. Rechunk one of them.")


def same_rows(now: Any, at_first: Any, name: str) -> None:
    """Every pass over blocks gives the same rows. now, at_first: a `Tally` each."""
    if now.n_rows != at_first.n_rows:
        raise ValueError(
            f"{name} gave {at_first.n_rows} rows at first and {now.n_rows} in a later pass. What is read in blocks "
            "must give the same rows every time."
        )
    if now.differs(at_first):
        raise ValueError(
            f"{name} gave other rows in a later pass: the sum of all numbers was {at_first.total:.9g} at first, and "
            f"is {now.total:.9g}. What is read in blocks must give the same rows every time, in any order."
        )


def finite_block(
    rows: np.ndarray,
    weights: np.ndarray | None,
    first: int,
    name: str,
    place_of: Callable[[int], str] = lambda row: "",
    names: Any = None,
) -> None:
    """Rows (n, D), the first of which is row `first` of all, are finite; those of weight 0 may be anything. place_of:
    which block or file a row is in. names: of the columns, or None."""
    is_bad = ~np.isfinite(rows) if weights is None else ~np.isfinite(rows) & (weights > 0.0)[:, None]
    bad = np.argwhere(is_bad)
    if len(bad):
        row, column = bad[0]
        called = f" ({names[column]!r})" if names else ""
        place = f" ({place})" if (place := place_of(first + int(row))) else ""
        raise ValueError(
            f"{name} holds {rows[row, column]} in row {first + row}, column {column}{called}, as {rows.dtype}{place}; "
            "EM needs finite numbers. Leave such rows out, or give them weight 0."
        )


def elsewhere(process: int) -> NoReturn:
    """Raises in the processes whose own input is valid, where that of another is not."""
    raise ValueError(f"Process {process} was given what cannot be fitted; its own error says what.")


def same_in_all(told: np.ndarray, names: tuple[str, ...]) -> None:
    """The arguments that each of P processes was given, (P, ·), are the same in all."""
    bad = np.argwhere(told != told[0])
    if len(bad):
        process, column = bad[0]
        raise ValueError(
            f"All processes must be given the same kind of rows and the same arguments: process 0 has "
            f"{told[0, column]} {names[column]}, process {process} has {told[process, column]}."
        )


def rows_of_each_process(with_rows: set[int], n_processes: int) -> None:
    """Each process holds rows that no other holds."""
    without = set(range(n_processes)) - with_rows
    if without:
        raise ValueError(
            f"x is shared out such that process {min(without)} holds no rows but copies of others'. Share it out over "
            "the devices of all processes."
        )


def same_layout(of_weights: Any, holders: Any) -> None:
    """Weights are sharded as their rows are. of_weights: by device; holders: the device of each range of rows."""
    for (first, after), device in holders.items():
        place = of_weights.get(device)
        if place is None or (place[0].start or 0, place[0].stop) not in ((first, after), (first, None)):
            raise ValueError("sample_weight is shared out otherwise than x. Share it out by rows over the same mesh.")


def whole_rows(columns: tuple[int, int], n_features: int) -> None:
    """Each device holds whole rows, not some of their features."""
    if columns != (0, n_features):
        raise ValueError(
            f"x is shared out by features: one device holds {columns[1] - columns[0]} of {n_features}. Share it out by "
            "rows, PartitionSpec('rows') or PartitionSpec('rows', None)."
        )


def rows_for_devices(n_rows: int, n_devices: int) -> None:
    """There is at least one row for each device."""
    if n_rows < n_devices:
        raise ValueError(f"x has {n_rows} rows, and there are {n_devices} devices here: leave out device='all'.")


def devices(value: Any) -> bool:
    """Whether the rows are to be distributed to all devices."""
    if value not in (None, "all"):
        raise ValueError(f"device must be None or 'all', got {value!r}. JAX's default device is set by JAX itself.")
    return value == "all"


def block_weights(weights: np.ndarray, first: int, name: str) -> None:
    """Weights (n,) of blocks are finite and not negative."""
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0.0)))
    if len(bad):
        raise ValueError(
            f"{name}: weights must be finite and not negative, got {weights[bad[0]]} in row {first + bad[0]}."
        )


def some_weight(total: float, name: str) -> None:
    if not total > 0.0:
        raise ValueError(f"{name}: the weights of all rows are 0, or there are no rows.")


def in_memory(what: str, why: str, how: str = "") -> NoReturn:
    """Raises where `what` needs the rows in one place, and they are read in blocks or sharded."""
    raise ValueError(f"{what} needs the rows in memory: {why}. Leave it out, or give an array.{how}")


def labels(values: Any, n_rows: int, n_components: int) -> np.ndarray | Array:
    """Integer labels (N,) from 0 to K − 1."""
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    if values.shape != (n_rows,):
        raise ValueError(f"Labels must have shape ({n_rows},), one a row, got {values.shape}.")
    if values.dtype.kind not in "iu":
        raise TypeError(f"Labels must be integers, got dtype {values.dtype}.")
    if not is_traced(values):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= n_components:
            raise ValueError(
                f"Labels must lie in 0 … {n_components - 1} for {n_components} components, got {low} … {high}."
            )
    return values


def responsibilities(values: Any, n_rows: int, n_components: int) -> np.ndarray | Array:
    """Responsibilities (N, K): not negative, each row summing to 1."""
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    if values.shape != (n_rows, n_components):
        raise ValueError(f"Responsibilities must have shape ({n_rows}, {n_components}), got {values.shape}.")
    if not is_traced(values):
        host = np.asarray(values)
        finite(host, "init")
        sums = host.sum(axis=1)
        row = int(np.argmax(np.abs(sums - 1.0)))
        if np.any(host < 0) or abs(float(sums[row]) - 1.0) > 1e-3:
            raise ValueError(
                f"Responsibilities must not be negative and must sum to 1 in every row; row {row} sums to {sums[row]}."
            )
    return values

"""Checks of rows in one array, of their weights, and of starts that have a value for each row."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.check import count
from .._base.precision import is_traced
from .._base.programs import program
from .conversion import cell_at, from_elsewhere, native_dtype, unmasked
from .names import Names


def chunk_size(value: Any) -> int | None:
    """Rows per chunk, or None for a size chosen for the data."""
    return None if value is None else count(value, "chunk_size", least=1)


class WithoutRows(ValueError):
    """A source that has columns, or might have some, and no rows: among several such it is passed over."""


def matrix_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 1:
        error = WithoutRows if len(shape) == 2 and shape[1] > 0 else ValueError
        raise error(f"{name} must be a matrix (N, D) with at least one row and one column, got shape {shape}.")


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


def finite(x: np.ndarray | Array, name: str = "X", weights: Any = None, names: Names | None = None) -> None:
    """No NaN and no infinity, or an error that names the first by row and column. Traced values pass, and rows of
    weight 0. names: of the columns, where they have some."""
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
            where = cell_at(index, names)
            raise ValueError(f"Input {name} contains {what}: {where} is {value}. Drop or replace such rows.")


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
        weights = from_elsewhere(weights, "sample_weight")
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), one weight a row, got {weights.shape}.")
    if weights.dtype == object:
        with contextlib.suppress(TypeError, ValueError):  # numbers, as a column of mixed kinds may hold
            weights = weights.astype(np.float64) if not any(isinstance(of, str) for of in weights) else weights
    if weights.dtype == object or weights.dtype.kind in "UScmM":
        raise TypeError(f"sample_weight must hold real numbers, got dtype {weights.dtype}.")
    if is_traced(weights):
        return weights
    unmasked(weights, "sample_weight")
    native = native_dtype(weights.dtype, "sample_weight")
    weights = weights if weights.dtype == native else weights.astype(native)
    finite(weights, "sample_weight")
    values = _where_it_lies(weights)
    if len(values) and values.min() < 0:
        row = int(values.argmin())
        raise ValueError(
            f"sample_weight must not be negative: row {row} has weight {values[row]}. To leave a row out, give it "
            "weight 0."
        )
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


def devices(value: Any) -> bool:
    """Whether the rows are to be distributed to all devices."""
    if value not in (None, "all"):
        raise ValueError(f"device must be None or 'all', got {value!r}. JAX's default device is set by JAX itself.")
    return value == "all"


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
                f"Responsibilities must not be negative and must sum to 1 in every row; row {row} sums to {sums[row]}. "
                "Divide each row by its sum."
            )
    return values

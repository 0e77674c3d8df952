"""The kind of a user's array (NumPy, JAX, PyTorch …), and the conversion of results to that kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._base.memory import to_device
from ..rows.door import head_of, in_memory

Like = Callable[[Any], Any]
"""Converts a NumPy or JAX array to the user's kind of array."""


def like(x: Any) -> Like:
    """The conversion to the kind of x: JAX, a library with DLPack (PyTorch, CuPy), or NumPy for everything else."""
    if isinstance(x, jax.Array):
        return _as_jax
    if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray) and not hasattr(x, "to_numpy"):
        library = sys.modules[type(x).__module__.partition(".")[0]]
        if hasattr(library, "from_dlpack"):
            return _Through(library.from_dlpack)
    return np.array  # a copy: NumPy's view of a JAX array is read-only


def _as_jax(value: Any) -> jax.Array:
    # Float64 is kept whatever JAX's x64 switch says, for JAX arrays and for those that become one.
    return value if isinstance(value, jax.Array) else to_device(value)


def as_labels(labels: np.ndarray, convert: Like) -> Any:
    """Labels as the kind of array that `convert` makes: int64, which NumPy's and PyTorch's own labels are, or JAX's own
    int for JAX."""
    return convert(labels.astype(jax.dtypes.canonicalize_dtype(np.int64) if convert is _as_jax else np.int64))


class Read:
    """Rows that were read into memory, with the names of their columns."""

    def __init__(self, rows: np.ndarray, columns: Any) -> None:
        self.rows, self.columns, self.shape = rows, columns, rows.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.rows, dtype) if copy else np.asarray(self.rows, dtype)


def read(x: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Rows and weights of a file, Blocks or a dask collection, read into memory; all else as it is."""
    rows, weights = in_memory(x, sample_weight)
    head = None if rows is x else head_of(x, sample_weight)
    return (x, sample_weight) if head is None else (Read(rows, head.names), weights)


class _Through:
    """A conversion by DLPack. Results are small, so they are copied: NumPy's view of a JAX array is read-only."""

    def __init__(self, from_dlpack: Like) -> None:
        self.from_dlpack = from_dlpack

    def __call__(self, value: Any) -> Any:
        return self.from_dlpack(np.array(value))


def column_names(x: Any) -> np.ndarray | None:
    """The names of a data frame's columns if all of them are strings; TypeError if only some are."""
    return named(getattr(x, "columns", None))


def named(columns: Any) -> np.ndarray | None:
    """As `column_names`, from the columns' names; None where they have none."""
    if columns is None:
        return None
    names = list(columns)
    kinds = {type(name).__name__ for name in names if not isinstance(name, str)}
    if not kinds:
        return np.asarray(names, dtype=object)
    if any(isinstance(name, str) for name in names):
        raise TypeError(
            f"Feature names are only supported if all input features have string names, but the columns also have "
            f"names of type {sorted(kinds)}. Convert them all, for example X.columns = X.columns.astype(str)."
        )
    return None

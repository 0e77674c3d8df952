"""Array in, same kind of array out: what kind an array of the user's is, and how results become one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._base.memory import to_device

Like = Callable[[Any], Any]
"""Turns a NumPy or JAX array into the kind that the user works with."""


def like(x: Any) -> Like:
    """The kind of x: JAX, or a library that speaks DLPack (PyTorch, CuPy), and NumPy for everything else."""
    if isinstance(x, jax.Array):
        return _as_jax
    if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray) and not hasattr(x, "to_numpy"):
        library = sys.modules[type(x).__module__.partition(".")[0]]
        if hasattr(library, "from_dlpack"):
            return _Through(library.from_dlpack)
    return np.array  # a copy: what NumPy sees of JAX's memory is read-only


def _as_jax(value: Any) -> jax.Array:
    # An array that is JAX's already keeps its float64, whatever the switch says; and so does one that is to be.
    return value if isinstance(value, jax.Array) else to_device(value)


class _Through:
    """A conversion by DLPack. Results are small, so they are copied: what NumPy sees of JAX's memory is read-only."""

    def __init__(self, from_dlpack: Like) -> None:
        self.from_dlpack = from_dlpack

    def __call__(self, value: Any) -> Any:
        return self.from_dlpack(np.array(value))


def column_names(x: Any) -> np.ndarray | None:
    """The names of a data frame's columns, where all of them are strings; an error where only some are."""
    columns = getattr(x, "columns", None)
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

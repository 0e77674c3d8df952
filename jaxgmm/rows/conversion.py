"""Arrays of real numbers from what a user gave: arrays of any library, data frames, lists, text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .files import require_whole
from .names import Names, names_of


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
    dtypes = [native_dtype(v.dtype if hasattr(v, "dtype") else np.asarray(v).dtype, "What was given") for v in values]
    found = jnp.result_type(*map(jax.dtypes.canonicalize_dtype, dtypes))  # canonical first: else JAX warns of float64
    if jnp.issubdtype(found, jnp.complexfloating) or (not jnp.issubdtype(found, jnp.number) and found != np.bool_):
        raise TypeError(f"Expected real numbers, got dtype {found}.")
    kept = any(isinstance(v, jax.Array) and v.dtype == np.float64 for v in values)
    if jnp.issubdtype(found, jnp.floating) and found.itemsize < 4:
        return np.dtype(np.float32)  # half precision is for storage only: it has no factorisations
    floating = found if jnp.issubdtype(found, jnp.floating) else np.dtype(float)
    return np.dtype(np.float64) if kept else jax.dtypes.canonicalize_dtype(floating)


def observations(x: Any, name: str = "X") -> np.ndarray | Array:
    """Rows of data as a two-dimensional real array, NumPy or JAX: shape and dtype are checked, values are not.

    Takes what NumPy can read, data frames, JAX arrays, and (without a copy) anything with `__dlpack__`.
    """
    given, x = x, real_array(x, name)
    if x.ndim == 1:
        as_feature, as_row = (
            f"{name}.reshape{shape}" if hasattr(given, "reshape") else f"numpy.reshape({name}, {shape})"
            for shape in ((-1, 1), (1, -1))
        )
        raise ValueError(
            f"Expected 2D array, got 1D array instead: {name} has shape {x.shape}. Reshape your data using "
            f"{as_feature} if it is a single feature, or {as_row} if it is a single row."
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
    require_array(x, name)
    names = names_of(x)
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise TypeError(f"{name} is a sparse matrix, but a dense array is required. Convert it with .toarray().")
    if not isinstance(x, (jax.Array, np.ndarray)):
        x = from_elsewhere(x, name)
    if not hasattr(x.dtype, "kind"):
        raise TypeError(f"{name} must hold numbers, but holds JAX's random keys ({x.dtype}).")
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"Complex data not supported: {name} has dtype {x.dtype}. Stack real and imaginary parts.")
    if x.dtype.kind in "mM":
        raise TypeError(
            f"{name} holds dates or durations ({x.dtype}). Turn them into numbers of a unit that you choose."
        )
    unmasked(x, name)
    if x.dtype == object or x.dtype.kind in "US":
        x = _numbers(np.asarray(x), name, names)
    native = native_dtype(x.dtype, name)
    return x if x.dtype == native else x.astype(native)


def require_array(x: Any, name: str) -> None:
    """TypeError for a source of rows that is read in blocks, where an array is needed; ValueError for a mapped array
    whose file has been cut off."""
    require_whole(x)
    if isinstance(x, bytes):
        what, instead = "bytes", "Give a path as a string."
    elif isinstance(x, (str, os.PathLike)):
        what, instead = f"a path, {os.fsdecode(x)!r}", OF_SOURCES
    elif isinstance(x, (list, tuple)) and len(x) and isinstance(x[0], os.PathLike):
        what, instead = "a list of paths", OF_SOURCES
    elif isinstance(x, Mapping) and not hasattr(x, "toarray"):  # as a sparse matrix may be
        what, instead = f"a {type(x).__name__}", f"Make one of its columns: numpy.column_stack(list({name}.values()))."
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


def unmasked(x: Any, name: str) -> None:
    """ValueError, with the place, for a masked cell."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        first = np.argwhere(np.ma.getmaskarray(x))[0]
        raise ValueError(
            f"{name} has masked cells, and missing cells are not handled: {cell_at(first)} is masked. Fill or drop "
            "them."
        )


def native_dtype(dtype: np.dtype, name: str) -> np.dtype:
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


def from_elsewhere(x: Any, name: str) -> np.ndarray | Array:
    """What is neither NumPy's nor JAX's, as an array of one of them; by DLPack, without a copy, where it has that."""
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


def _numbers(x: np.ndarray, name: str, names: Names | None = None) -> np.ndarray:
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
            return _numbers(np.where(is_missing, np.nan, x), name, names)
        for index, value in np.ndenumerate(x):
            try:
                float(value)
            except (TypeError, ValueError):
                where, shown = cell_at(index, names), repr(value)
                shown = shown if len(shown) <= 60 else shown[:59] + "…"
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(
                    f"{name} must hold numbers only, but {where} is {shown} ({type(value).__name__}): argument must be "
                    "a string or a number. Encode or drop such columns."
                ) from None
        raise


def _is_missing(value: Any) -> bool:
    """Whether an object is a missing cell: None, or the NA or NaT of pandas."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def cell_at(index: Iterable[int], names: Names | None = None) -> str:
    """A cell's place in words, as "row 3, column 1", or "row 3, column 1 ('a')" where columns have names."""
    place = [int(i) for i in index][:2]
    said = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), place, strict=False)) or "it"
    named = dict(enumerate(names or ()))
    name = named.get(place[1], place[1]) if len(place) == 2 else None
    return said if name is None or name == place[1] else f"{said} ({name!r})"

"""The door: every check of what a user passes in, and its message.

Only this module raises on values. A message names what was expected, what came, where, and what to do. What is being
traced is checked for its shape alone.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ._precision import is_traced


def family(value: Any, shelf: Mapping[str, Any]) -> Any:
    """A family object, from its name or itself."""
    if isinstance(value, str):
        if value not in shelf:
            raise ValueError(f"Unknown covariance family {value!r}. Expected one of {', '.join(map(repr, shelf))}.")
        return shelf[value]
    if not hasattr(value, "estimate"):
        raise TypeError(f"A covariance family is a name or a Family object, got {type(value).__name__}: {value!r}.")
    return value


def nonnegative(value: Any, name: str) -> float:
    """A finite number ≥ 0 as a float, so that 0, 1e-3 and np.float32 all give one compiled program."""
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: {value!r}.")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}.")
    return float(value)


def count(value: Any, name: str, least: int) -> int:
    """A whole number ≥ least."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}: {value!r}.") from None
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    return number


def chunk_size(value: Any) -> int | None:
    """Rows a chunk, or None for a size that suits the data."""
    return None if value is None else count(value, "chunk_size", least=1)


def steps(value: Any) -> Any:
    """A step limit: an int32 from a host number, or what is traced as it is."""
    return value if is_traced(value) or isinstance(value, jax.Array) else np.int32(count(value, "max_steps", least=0))


def floating_dtype(values: Iterable[Any], dtype: Any = None) -> np.dtype:
    """The floating dtype that JAX's own promotion gives to the values, or `dtype` where that is asked for."""
    if dtype is not None:
        dtype = np.dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype must be a floating dtype such as float32 or float64, got {dtype}.")
        return dtype
    dtypes = [v.dtype if hasattr(v, "dtype") else np.asarray(v).dtype for v in values]
    found = jnp.result_type(*map(jax.dtypes.canonicalize_dtype, dtypes))  # canonical first: else float64 is warned of
    if jnp.issubdtype(found, jnp.complexfloating) or (not jnp.issubdtype(found, jnp.number) and found != np.bool_):
        raise TypeError(f"Expected real numbers, got dtype {found}.")
    kept = any(isinstance(v, jax.Array) and v.dtype == np.float64 for v in values)
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


def mixture_shapes(weights: Array, means: Array, covariances: Array) -> None:
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(f"Expected weights (K,) and means (K, D), got shapes {weights.shape} and {means.shape}.")
    n_components, n_features = means.shape
    allowed = {
        (n_components, n_features, n_features): "dense or full",
        (n_features, n_features): "tied",
        (n_components, n_features): "diag",
        (n_components,): "spherical",
    }
    if covariances.shape not in allowed:
        wanted = ", ".join(f"{shape} ({name})" for shape, name in allowed.items())
        raise ValueError(f"covariances have shape {covariances.shape}; with these means expected one of {wanted}.")


def mixture_values(weights: Array, means: Array, is_definite: Array, family_name: str) -> None:
    total = float(np.sum(np.asarray(weights, np.float64)))
    if not (np.all(np.asarray(weights) >= 0) and abs(total - 1.0) < 1e-4):
        raise ValueError(f"weights must not be negative and must sum to 1, got a sum of {total:.6g}: {weights}.")
    if not np.all(np.isfinite(means)):
        raise ValueError(f"means must be finite, got {means}.")
    bad = np.flatnonzero(~np.asarray(is_definite))
    if bad.size:
        raise ValueError(
            f"The covariance of component {bad[0]} ({family_name}) is not positive definite to the precision of "
            f"{means.dtype}. Check its symmetry and sign, add a ridge to its diagonal, or use float64."
        )


def observations(x: Any, name: str = "X") -> np.ndarray | Array:
    """Rows of data as a two-dimensional real array, NumPy or JAX: shape and dtype are checked, values are not.

    Takes what NumPy can read, data frames, JAX arrays, and (without a copy) anything with `__dlpack__`.
    """
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise TypeError(
            f"{name} is a sparse matrix, but a dense array is required. Convert it with {name}.toarray() if it fits."
        )
    if not isinstance(x, (jax.Array, np.ndarray)):
        x = _from_elsewhere(x, name)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"Complex data not supported: {name} has dtype {x.dtype}. Stack real and imaginary parts.")
    if x.dtype == object or x.dtype.kind in "USmM":
        x = _numbers(np.asarray(x), name)
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


def _from_elsewhere(x: Any, name: str) -> np.ndarray | Array:
    if not hasattr(x, "__dlpack__") or hasattr(x, "__array_interface__"):
        if hasattr(x, "to_numpy"):
            return np.asarray(x.to_numpy())
        try:
            return np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} cannot be read as an array: {error}. Are all rows of one length?") from None
    x = x.detach() if hasattr(x, "detach") else x
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return jax.dlpack.from_dlpack(x)  # on an accelerator, where NumPy cannot follow


def _numbers(x: np.ndarray, name: str) -> np.ndarray:
    """Objects and text as float64, or an error that names the first cell that is no number."""
    if np.any([isinstance(value, complex) for value in x.flat[:1000]]):
        raise ValueError(f"Complex data not supported: {name} holds complex numbers.")
    try:
        return x.astype(np.float64)
    except (TypeError, ValueError) as error:
        for index, value in np.ndenumerate(x):
            try:
                float(value)
            except (TypeError, ValueError):
                where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), index, strict=False))
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(
                    f"{name} must hold numbers only, but {where} is {value!r} ({type(value).__name__}): argument must "
                    "be a string or a number. Encode or drop such columns."
                ) from None
        raise


def finite(x: np.ndarray | Array, name: str = "X") -> None:
    """No NaN and no infinity, or an error that names the first by row and column. Traced values pass."""
    if is_traced(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return
    if isinstance(x, jax.Array) and not x.devices() <= set(jax.devices("cpu")):
        if bool(jnp.all(jnp.isfinite(x))):
            return
    # Blocks, so that the mask of a large array never stands beside it.
    values = np.asarray(x)
    step = max(1, 2**22 // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        block = np.isfinite(values[start : start + step])
        if not block.all():
            index = np.argwhere(~block)[0]
            index[0] += start
            value = values[tuple(index)]
            what = "NaN" if np.isnan(value) else "infinity"
            where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), index, strict=False))
            raise ValueError(
                f"Input {name} contains {what}: {where} is {value}. Drop or replace such rows before fitting."
            )


def row_weights(weights: Any, n_rows: int) -> np.ndarray | Array | None:
    """Weights (N,): finite, not negative, not all zero. None stands for all ones."""
    if weights is None:
        return None
    if not isinstance(weights, (np.ndarray, jax.Array)):
        weights = _from_elsewhere(weights, "sample_weight")
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), one weight a row, got {weights.shape}.")
    if weights.dtype == object or weights.dtype.kind in "USc":
        raise TypeError(f"sample_weight must hold real numbers, got dtype {weights.dtype}.")
    if is_traced(weights):
        return weights
    finite(weights, "sample_weight")
    values = np.asarray(weights)
    if np.any(values < 0):
        row = int(np.argmax(values < 0))
        raise ValueError(f"sample_weight must not be negative: row {row} has weight {values[row]}.")
    if not np.any(values > 0):
        raise ValueError("sample_weight is zero for every row: at least one row must count.")
    return weights


def enough_rows(n_rows: int, n_components: int) -> None:
    if n_rows < n_components:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, n_samples = {n_rows}. "
            "Lower n_components or bring more rows."
        )


def labels(values: Any, n_rows: int, n_components: int) -> np.ndarray | Array:
    """Integer labels (N,) from 0 to K − 1."""
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    if values.shape != (n_rows,):
        raise ValueError(f"Labels must have shape ({n_rows},), one a row, got {values.shape}.")
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


# --- the estimator's own parameters; the lines that scikit-learn's tests look for are part of its interface ---------


def init_params(value: Any, names: Mapping[str, str]) -> Any:
    """A seeding by scikit-learn's name or ours, or a start of the user's own."""
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    if value in names.values():
        return value
    known = ", ".join(map(repr, dict.fromkeys([*names, *names.values()])))
    raise ValueError(f"Unknown init_params {value!r}. Expected one of {known}, or a start of your own.")


def estimator_dtype(x: np.ndarray | Array, dtype: Any) -> np.dtype:
    """float32 stays, float64 is computed in float64, all else NumPy brings becomes float64."""
    if dtype is not None:
        return floating_dtype((), dtype)
    if x.dtype in (np.float32, np.float64):
        return np.dtype(x.dtype)
    return floating_dtype((x,)) if isinstance(x, jax.Array) else np.dtype(np.float64)


def weights_init(value: Any, n_components: int) -> np.ndarray:
    """Weights (K,) in [0, 1] that sum to 1."""
    weights = np.asarray(value, np.float64)
    _parameter_shape(weights, (n_components,), "weights")
    if not (np.all(weights >= 0.0) and np.all(weights <= 1.0)):
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{np.max(weights):.5f}, min value {np.min(weights):.5f}. Correct weights_init."
        )
    if not abs(1.0 - weights.sum()) <= 1e-6:
        raise ValueError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}. "
            "Divide weights_init by its sum."
        )
    return weights


def means_init(value: Any, n_components: int, n_features: int) -> np.ndarray:
    """Finite means (K, D)."""
    means = np.asarray(value, np.float64)
    _parameter_shape(means, (n_components, n_features), "means")
    finite(means, "means_init")
    return means


def precisions_init(value: Any, shape: tuple[int, ...], is_matrix: bool, family_name: str) -> np.ndarray:
    """Covariances from positive definite precisions, in the family's own shape."""
    precisions = np.asarray(value, np.float64)
    _parameter_shape(precisions, shape, f"{family_name} precision")
    finite(precisions, "precisions_init")
    if not is_matrix:
        if not np.all(precisions > 0.0):
            raise ValueError(f"'{family_name} precision' should be positive, got a smallest of {precisions.min():g}.")
        return 1.0 / precisions
    symmetric = np.allclose(precisions, np.swapaxes(precisions, -1, -2))
    if not symmetric or not np.all(np.linalg.eigvalsh(precisions) > 0.0):
        what = (
            f"a smallest eigenvalue of {np.linalg.eigvalsh(precisions).min():g}" if symmetric else "it is not symmetric"
        )
        raise ValueError(f"'{family_name} precision' should be symmetric, positive-definite; {what}.")
    return np.linalg.inv(precisions)


def _parameter_shape(value: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if value.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {value.shape}")


def random_key(value: Any) -> Array:
    """One JAX key from whatever scikit-learn takes as `random_state`, a NumPy Generator, or a key."""
    if isinstance(value, jax.Array):
        return value
    if value is None:
        value = np.random.mtrand._rand  # NumPy's global state, as scikit-learn does: np.random.seed then reproduces
    if isinstance(value, np.random.RandomState):
        return jax.random.key(int(value.randint(np.iinfo(np.int32).max)))
    if isinstance(value, np.random.Generator):
        return jax.random.key(int(value.integers(np.iinfo(np.int32).max)))
    try:
        return jax.random.key(operator.index(value) % 2**31)
    except TypeError:
        raise ValueError(
            f"random_state must be an integer, a RandomState, a Generator, a JAX key or None, got {value!r}."
        ) from None


def same_mixture(previous: Any, n_components: int, n_features: int, family: Any) -> None:
    """A warm start goes on only where nothing about the shape has changed."""
    had = (previous.n_components, previous.n_features, previous.family.name)
    want = (n_components, n_features, family.name)
    if had != want:
        raise ValueError(
            f"warm_start cannot go on from (n_components, n_features, covariance_type) = {had} with {want}. "
            "Set warm_start=False for a fresh start."
        )


def device(value: Any) -> Any:
    """A JAX device from its platform's name or itself; None for JAX's default."""
    if value is None or isinstance(value, jax.Device):
        return value
    if value not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"device must be None, 'cpu', 'gpu', 'tpu' or a JAX device, got {value!r}.")
    try:
        return jax.devices(value)[0]
    except RuntimeError:
        raise ValueError(f"JAX sees no {value!r} here, only {jax.devices()}.") from None


def feature_count(n_features: int, expected: int, estimator: str) -> None:
    if n_features != expected:
        raise ValueError(f"X has {n_features} features, but {estimator} is expecting {expected} features as input.")


def feature_names(names: np.ndarray | None, fitted: np.ndarray | None, estimator: str) -> None:
    """Columns by the names, and in the order, of the fit."""
    if names is None and fitted is not None:
        warnings.warn(
            f"X does not have valid feature names, but {estimator} was fitted with feature names",
            UserWarning,
            stacklevel=4,
        )
    elif names is not None and fitted is None:
        warnings.warn(
            f"X has feature names, but {estimator} was fitted without feature names", UserWarning, stacklevel=4
        )
    elif names is not None and fitted is not None and (len(names) != len(fitted) or np.any(names != fitted)):
        message = "The feature names should match those that were passed during fit.\n"
        unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
        if unseen:
            message += "Feature names unseen at fit time:\n" + "".join(f"- {name}\n" for name in unseen)
        if missing:
            message += "Feature names seen at fit time, yet now missing:\n" + "".join(f"- {name}\n" for name in missing)
        if not unseen and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)

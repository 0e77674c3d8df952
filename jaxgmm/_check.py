"""The door: every check of what a user passes in, and its message.

Only this module raises on values. A message names what was expected, what came, where, and what to do. What is being
traced is checked for its shape alone.
"""

from __future__ import annotations

import math
import operator
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
    found = jnp.result_type(*[v.dtype if hasattr(v, "dtype") else np.asarray(v).dtype for v in values])
    if jnp.issubdtype(found, jnp.complexfloating) or not jnp.issubdtype(found, jnp.number) and found != bool:
        raise TypeError(f"Expected real numbers, got dtype {found}.")
    kept = any(isinstance(v, jax.Array) and v.dtype == np.float64 for v in values)
    floating = found if jnp.issubdtype(found, jnp.floating) else np.dtype(float)
    return np.dtype(np.float64) if kept else jax.dtypes.canonicalize_dtype(floating)


def matrix_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"{name} must be a matrix (N, D) with at least one row and one column, got shape {shape}.")


def last_axis(shape: tuple[int, ...], n_features: int) -> None:
    if not shape or shape[-1] != n_features:
        raise ValueError(f"The mixture has {n_features} features: expected x of shape (..., {n_features}), got {shape}.")


def mixture_shapes(weights: Array, means: Array, covariances: Array) -> None:
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(
            f"Expected weights (K,) and means (K, D), got shapes {weights.shape} and {means.shape}."
        )
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

"""Checks of what a user passes in, and their messages; checks that only one folder needs are in its own `_check.py`.

Below `search/` little else raises on values (`tests/test_floors.py` lists it). A message names what was expected, what
came, where, and what to do. Traced values are checked for their shape alone.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .precision import is_traced


def family(value: Any, shelf: Mapping[str, Any], name: str = "") -> Any:
    """A family object, given by its name or as itself. name: of the argument, if it is not called after families."""
    of = name and f"{name}: "
    if isinstance(value, str):
        if value not in shelf:
            known = ", ".join(map(repr, shelf))
            raise ValueError(f"{of}Unknown covariance family {value!r}. Expected one of {known}.")
        return shelf[value]
    if not hasattr(value, "estimate") or isinstance(value, type):
        given = f"{type(value).__name__}: {value!r}"
        raise TypeError(f"{of}A covariance family is a name or a Family object, got {given}.")
    return value


def flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}: {value!r}.")
    return bool(value)


def share(value: Any, name: str) -> float:
    """A number strictly between 0 and 1."""
    number = nonnegative(value, name)
    if not 0.0 < number < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}. Write 0.95 for 95 %.")
    return number


def nonnegative(value: Any, name: str) -> float:
    """A finite number ≥ 0 as a float, so that 0, 1e-3 and np.float32 all give one compiled program."""
    if isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 0 and hasattr(value.dtype, "kind"):
        value = value.item()
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: {value!r}.")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}.")
    return float(value)


def ridge(value: Any, name: str) -> float | np.ndarray:
    """A number ≥ 0, or one for each feature (D,)."""
    if not isinstance(value, (list, tuple, np.ndarray)) or np.ndim(value) == 0:
        return nonnegative(value, name)
    each = np.asarray(value)
    if each.ndim != 1 or each.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a number, or one for each feature (D,), got {value!r}.")
    bad = np.flatnonzero(~(np.isfinite(each) & (each >= 0)))
    if bad.size:
        raise ValueError(f"{name} must be finite and not negative, got {each[bad[0]]} for feature {bad[0]}.")
    return each.astype(np.float64)


def of_features(ridge: Any, n_features: int) -> None:
    """One ridge, or one for each feature."""
    if np.shape(ridge) not in ((), (n_features,)):
        raise ValueError(
            f"ridge must be a number, or one for each of {n_features} features, got shape {np.shape(ridge)}."
        )


def positive(value: Any, name: str) -> float:
    """A finite number > 0."""
    number = nonnegative(value, name)
    if not number > 0.0:
        raise ValueError(f"{name} must be positive, got {value!r}.")
    return number


def decay(value: Any) -> float:
    """The exponent with which the step size, the share of a new batch, decays."""
    number = nonnegative(value, "decay")
    if not 0.5 < number <= 1.0:
        raise ValueError(f"decay must be more than 0.5 and at most 1, got {value!r}.")
    return number


def forgetting(value: Any) -> float:
    """The smallest step size, the share of a new batch."""
    number = nonnegative(value, "forgetting")
    if not number < 1.0:
        raise ValueError(f"forgetting must be at least 0 and less than 1, got {value!r}.")
    return number


def mixture(value: Any) -> None:
    """A `Mixture`, and not a result that holds one."""
    if not hasattr(value, "log_weights"):
        raise TypeError(f"Expected a jaxgmm.Mixture, got {type(value).__name__}. A fit's is result.mixture.")


def random_key(value: Any) -> None:
    """One of JAX's random keys, or its data in the legacy form; traced ones pass."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    is_key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if (is_key and not shape) or (not is_key and dtype == np.uint32 and shape and len(shape) == 1):
        return
    if is_key:
        raise ValueError(f"key must be one random key, got keys of shape {shape}: take one, or map over them.")
    got = f"{type(value).__name__}: {value}" if isinstance(value, (int, np.integer)) else type(value).__name__
    raise TypeError(f"key must be a random key of JAX, such as jax.random.key(0), got {got}. It comes first.")


def count(value: Any, name: str, least: int, most: int | None = None) -> int:
    """A whole number from `least` on, up to `most` if there is one."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}: {value!r}.") from None
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}.")
    return number


def steps(value: Any) -> Any:
    """A step limit: a host number as int32, a JAX array or tracer unchanged."""
    return (
        value
        if is_traced(value) or isinstance(value, jax.Array)
        else np.int32(min(count(value, "max_steps", least=0), np.iinfo(np.int32).max))
    )


def mixture_shapes(weights: Array, means: Array) -> None:
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(f"Expected weights (K,) and means (K, D), got shapes {weights.shape} and {means.shape}.")


def covariances_shape(
    covariances: Array, of_means: tuple[int, ...], own_shape: tuple[int, ...], family_name: str
) -> None:
    """The family's own shape, or dense matrices (K, D, D)."""
    dense = (*of_means, of_means[1])
    if covariances.shape not in (own_shape, dense):
        wanted = f"{dense}" if own_shape == dense else f"{own_shape} or dense {dense}"
        raise ValueError(
            f"covariances have shape {covariances.shape}; family {family_name!r} with means {of_means} takes {wanted}."
        )


def symmetric(covariances: Array, is_matrix: bool) -> None:
    matrices = np.asarray(covariances)
    if is_matrix and not np.allclose(matrices, np.swapaxes(matrices, -1, -2), rtol=1e-4, atol=0.0):
        raise ValueError("covariances must be symmetric matrices. Symmetrise them: 0.5 * (c + c.swapaxes(-1, -2)).")


def mixture_values(weights: Array, means: Array, is_definite: Array, family_name: str) -> None:
    total = float(np.sum(np.asarray(weights, np.float64)))
    if not (np.all(np.asarray(weights) >= 0) and abs(total - 1.0) < 1e-4):
        raise ValueError(
            f"weights must not be negative and must sum to 1, got a sum of {total:.6g}: {weights}. "
            "If they are counts, divide them by their sum."
        )
    if not np.all(np.isfinite(means)):
        raise ValueError(f"means must be finite, got {means}.")
    bad = np.flatnonzero(~np.asarray(is_definite))
    if bad.size:
        raise ValueError(
            f"The covariance of component {bad[0]} ({family_name}) is not positive definite to the precision of "
            f"{means.dtype}. Check its symmetry and sign, add a ridge to its diagonal, or use float64."
        )


def resolved(are_resolved: Array, dtype: Any) -> None:
    """Warn of covariances that are positive definite only by what rounding has made of them, or by a small ridge."""
    bad = np.flatnonzero(~np.asarray(are_resolved))
    if bad.size:
        warnings.warn(
            f"The covariance of component {bad[0]} is singular to the precision of {dtype}: log-densities along its "
            "smallest axis have few correct digits. Add a ridge to its diagonal, or use float64.",
            stacklevel=3,
        )


def acceleration(name: Any, known: Any) -> None:
    """None, or the name of a way to accelerate EM."""
    if name is not None and not (isinstance(name, str) and name in known):
        raise ValueError(f"Unknown acceleration {name!r}. Expected None or one of {', '.join(map(repr, known))}.")


def prior(value: Any, ridge: type) -> None:
    """None, or an object with a prior's methods. Placeholders that JAX inserts when it maps over trees pass."""
    if isinstance(value, ridge):
        raise ValueError("A ridge is no density of the parameters. Give it as ridge=, beside whatever prior= is.")
    if isinstance(value, (str, bool, int, float, np.number, np.ndarray, type)):
        raise TypeError(f"prior must be None or an object with the methods of jaxgmm.priors.Prior, got {value!r}.")


def one_of(name: Any, known: Any, what: str) -> str:
    """One of the names that are known."""
    if not (isinstance(name, str) and name in known):
        raise ValueError(f"Unknown {what} {name!r}. Expected one of {', '.join(map(repr, known))}.")
    return name


def concrete(tree: Any, what: str) -> None:
    """Values that are known, not traced."""
    if is_traced(tree):
        raise TypeError(
            f"{what} must look at how the runs stand, which a jit or vmap around it does not allow. Leave it out "
            "there, or call fit outside."
        )

"""Checks of the parameters that only scikit-learn's interface has.

Messages that scikit-learn's own tests look for are part of that interface and come first in ours.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base import check, threefry
from ..families import SHELF
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows._check import finite
from ..rows.conversion import floating_dtype, real_array


def parameters(of: Any) -> None:
    """Check, by their own names, the parameters of an estimator that a `Plan` does not, or takes several of."""
    check.count(of.n_components, "n_components", least=1)
    check.family(of.covariance_type, SHELF, "covariance_type")
    check.nonnegative(of.tol, "tol")
    check.nonnegative(of.reg_covar, "reg_covar")
    check.flag(of.warm_start, "warm_start")
    if not isinstance(of.verbose, (bool, np.bool_)):
        check.count(of.verbose, "verbose", least=0)
    check.count(of.verbose_interval, "verbose_interval", least=1)
    rows_check.chunk_size(of.chunk_size)
    if of.dtype is not None:
        floating_dtype((), of.dtype)
    device(of.device)


def init_params(value: Any, names: Mapping[str, str]) -> Any:
    """A seeding from scikit-learn's name or ours; a user's own start is returned as an array or a mixture."""
    known = ", ".join(map(repr, dict.fromkeys([*names, *names.values()])))
    if isinstance(value, str):
        if value in names or value in names.values():
            return names.get(value, value)
        raise ValueError(f"Unknown init_params {value!r}. Expected one of {known}, or a start of your own.")
    if isinstance(value, Mixture):
        return value
    own = "a jaxgmm.Mixture, means (K, D), integer labels (N,) or responsibilities (N, K)"
    if value is None or callable(value) or hasattr(value, "mixture") or hasattr(value, "mixture_"):
        raise TypeError(f"init_params must be one of {known}, or {own}, got {type(value).__name__}.")
    start = real_array(value, "init_params")
    if start.ndim not in (1, 2):
        raise ValueError(f"init_params must be one of {known}, or {own}, got an array of shape {start.shape}.")
    return start


def own_start(value: Any, shape: tuple[int, int], n_components: int, family: Any) -> None:
    """Check a user's own start for rows of this shape (N, D); what is wrong is said of init_params."""
    try:
        if isinstance(value, Mixture):
            had = (value.n_components, value.n_features, value.family.name)
            want = (n_components, shape[1], family.name)
            if had != want:
                raise ValueError(f"it is a mixture of (components, features, family) {had}, but {want} were asked for.")
        elif value.ndim == 1:
            rows_check.labels(value, shape[0], n_components)
        elif value.shape == (n_components, shape[1]):
            finite(value, "init")
        else:
            rows_check.responsibilities(value, shape[0], n_components)
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"init_params: {error}") from None


def result(value: Any, kind: type) -> Any:
    """The result of a fit to one problem."""
    if not isinstance(value, kind):
        raise TypeError(f"result_ takes a jaxgmm.{kind.__name__}, got {type(value).__name__}. A mixture is mixture_'s.")
    if np.ndim(value.objective):
        raise ValueError("result_ takes the result of one problem, got a stack of them: take one, as result[b].")
    return value


def same_features(expected: Any, n_features: int, estimator: str) -> None:
    """The `n_features_in_` that a user may have set is that of the means."""
    if expected != n_features:
        raise ValueError(
            f"n_features_in_ of this {estimator} is {expected!r}, but its means_ have {n_features} features. Set both, "
            "or call 'fit'."
        )


def dtype_of(x: np.ndarray | Array, dtype: Any) -> np.dtype:
    """The dtype to compute in: float32 and float64 are kept, all other NumPy dtypes become float64."""
    if dtype is not None:
        return floating_dtype((), dtype)
    if x.dtype in (np.float32, np.float64):
        return np.dtype(x.dtype)
    return floating_dtype((x,)) if isinstance(x, jax.Array) else np.dtype(np.float64)


def weights_init(value: Any, n_components: int) -> np.ndarray:
    """Weights (K,) in [0, 1] that sum to 1."""
    weights = _numbers(value, "weights_init")
    _parameter_shape(weights, (n_components,), "weights", "weights_init")
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
    means = _numbers(value, "means_init")
    _parameter_shape(means, (n_components, n_features), "means", "means_init")
    finite(means, "means_init")
    return means


def precisions_init(value: Any, shape: tuple[int, ...], is_matrix: bool, family_name: str) -> np.ndarray:
    """Covariances from positive definite precisions, in the family's own shape."""
    precisions = _numbers(value, "precisions_init")
    _parameter_shape(precisions, shape, f"{family_name} precision", "precisions_init")
    finite(precisions, "precisions_init")
    if not is_matrix:
        if not np.all(precisions > 0.0):
            raise ValueError(
                f"'{family_name} precision' should be positive, got a smallest of {precisions.min():g}. Correct "
                "precisions_init."
            )
        return 1.0 / precisions
    symmetric = np.allclose(precisions, np.swapaxes(precisions, -1, -2))
    if not symmetric or not np.all(np.linalg.eigvalsh(precisions) > 0.0):
        what = (
            f"a smallest eigenvalue of {np.linalg.eigvalsh(precisions).min():g}" if symmetric else "it is not symmetric"
        )
        raise ValueError(
            f"'{family_name} precision' should be symmetric, positive-definite; {what}. Correct precisions_init."
        )
    return np.linalg.inv(precisions)


def _numbers(value: Any, name: str) -> np.ndarray:
    return np.asarray(real_array(value, name), np.float64)


def _parameter_shape(value: np.ndarray, shape: tuple[int, ...], what: str, name: str) -> None:
    if value.shape != shape:
        raise ValueError(
            f"The parameter '{what}' should have the shape of {shape}, but got {value.shape}. Correct {name}."
        )


def random_key(value: Any) -> Array:
    """A JAX key from anything that scikit-learn takes as `random_state`, a NumPy Generator, or a JAX key."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and not value.ndim:
        return value
    if isinstance(value, jax.Array) and value.dtype == np.uint32 and value.ndim == 1:  # a key in the legacy form
        try:
            return jax.random.wrap_key_data(value)
        except TypeError as error:
            raise ValueError(f"random_state is no JAX key: {error}.") from None
    if value is None:
        value = np.random.mtrand._rand  # NumPy's global state, as scikit-learn does: np.random.seed then reproduces
    if isinstance(value, np.random.RandomState):
        return threefry.key(int(value.randint(np.iinfo(np.int32).max)))
    if isinstance(value, np.random.Generator):
        return threefry.key(int(value.integers(np.iinfo(np.int32).max)))
    try:
        seed = operator.index(value)
    except TypeError:
        raise ValueError(
            f"random_state must be an integer, a RandomState, a Generator, a JAX key or None, got {value!r}."
        ) from None
    if not 0 <= seed < 2**32:
        raise ValueError(f"random_state must lie in 0 … 2³² − 1, got {seed}.")
    return threefry.key(seed)


def same_mixture(previous: Any, n_components: int, n_features: int, family: Any, what: str = "warm_start") -> None:
    """Check that K, D and family are those of the previous fit, as a warm start or a stream needs."""
    had = (previous.n_components, previous.n_features, previous.family.name)
    want = (n_components, n_features, family.name)
    if had != want:
        raise ValueError(
            f"{what} cannot go on from (n_components, n_features, covariance_type) = {had} with {want}. "
            "For a fresh start call fit, with warm_start=False."
        )


def device(value: Any) -> Any:
    """A JAX device from its platform's name or from itself; None for JAX's default, and for "all"."""
    if value is None or isinstance(value, jax.Device):
        return value
    if isinstance(value, str) and value == "all":
        return None
    if not (isinstance(value, str) and value in ("cpu", "gpu", "tpu")):
        raise ValueError(f"device must be None, 'cpu', 'gpu', 'tpu', 'all' or a JAX device, got {value!r}.")
    try:
        return jax.devices(value)[0]
    except RuntimeError:
        raise ValueError(f"device={value!r}: JAX sees no such device here, only {jax.devices()}.") from None


def feature_count(n_features: int, expected: int, estimator: str) -> None:
    if n_features != expected:
        raise ValueError(f"X has {n_features} features, but {estimator} is expecting {expected} features as input.")


def feature_names(names: np.ndarray | None, fitted: np.ndarray | None, estimator: str) -> None:
    """Check that the columns have the names and the order of the fit."""
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

"""A mixture from the arrays that users set on an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .._base import check
from .._base.memory import own
from .._base.precision import is_traced, precision_for
from ..families import SHELF, Family, is_matrix_shape, shown_shape
from ..mixture import Mixture
from ..rows.conversion import real_array
from . import _check, _sklearn
from ._arrays import like

OF_COVARIANCES = ("covariances_", "precisions_", "precisions_cholesky_")

PARAMETERS = ("weights_", "means_", *OF_COVARIANCES)
"""The fitted attributes that show `mixture_` as the user's kind of array, and that may be set."""


def read(estimator: Any, changed: set[str]) -> Mixture:
    """The mixture of the arrays, of which `changed` are not those of the mixture that was shown."""
    state, kind = vars(estimator), type(estimator).__name__
    _all_there(state, kind)
    before: Mixture | None = state.get("mixture_")
    given = [name for name in OF_COVARIANCES if name in state and name in changed]
    if not given and (before is None or np.shape(state["means_"]) != before.means.shape):
        given = [next(name for name in OF_COVARIANCES if name in state)]
    arrays = {name: _numbers(state[name], name) for name in ("weights_", "means_", *given)}
    try:
        mixture = _of_arrays(estimator, arrays, given, before)
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(
            f"The parameters that were set on this {kind} make no mixture: {error} Set all that belong together "
            "(weights_, means_, and one or all of covariances_, precisions_, precisions_cholesky_), or make one with "
            "jaxgmm.Mixture.create and set mixture_, or call 'fit'."
        ) from None
    expected = state.get("n_features_in_", mixture.n_features)
    if expected != mixture.n_features:
        raise ValueError(
            f"means_ was set with {mixture.n_features} features, but n_features_in_ of this {kind} is {expected}. Set "
            "n_features_in_ too, or call 'fit'."
        )
    if before is None:
        state.setdefault("_like", like(state["means_"]))
    return mixture


def _of_arrays(estimator: Any, arrays: dict[str, np.ndarray], given: list[str], before: Mixture | None) -> Mixture:
    """given: the forms of the covariances that are read; if there are none, the covariances are those of before."""
    weights, means = arrays["weights_"], arrays["means_"]
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(f"weights_ must be (K,) and means_ (K, D), but they are {weights.shape} and {means.shape}.")
    log_weights, means = _logarithms(weights), _finite(means, "means_")
    dtypes = [_check.dtype_of(array, estimator.dtype) for array in arrays.values()]
    if before is not None and not given:
        dtype = np.result_type(before.means.dtype, *dtypes)
        with precision_for(dtype):
            scales = jax.tree.map(lambda leaf: own(np.asarray(leaf), dtype), before.scales)
            return Mixture(own(log_weights, dtype), own(means, dtype), scales, before.family)
    family: Family = check.family(estimator.covariance_type, SHELF, "covariance_type")
    shape = shown_shape(family, *means.shape)
    is_matrix = is_matrix_shape(family, shape)
    for name in given:
        if arrays[name].shape != shape:
            raise ValueError(
                f"{name} has shape {arrays[name].shape}, but with means_ of shape {means.shape} and "
                f"covariance_type={family.name!r} it must be {shape}."
            )
    each = {name: _covariances(name, np.asarray(arrays[name], np.float64), is_matrix) for name in given}
    covariances = _agreed_covariances(each, is_matrix, min(dtypes, key=lambda dtype: dtype.itemsize))
    mixture = Mixture.create(weights, means, covariances, family, dtype=np.result_type(*dtypes))
    _of_the_family(np.asarray(_shown_of(mixture), np.float64), covariances, is_matrix, family.name)
    return mixture


def _shown_of(mixture: Mixture) -> Any:
    return mixture.family.show(jax.tree.map(np.asarray, mixture.scales), mixture.n_components)


def _all_there(state: Mapping[str, Any], kind: str) -> None:
    """NotFittedError unless there are weights, means, and covariances in one form or another."""
    lacking = [name for name in ("weights_", "means_") if name not in state]
    if not any(name in state for name in OF_COVARIANCES):
        lacking.append("covariances_")
    there = [name for name in PARAMETERS if name in state]
    if not lacking:
        return
    what = f"It has {' and '.join(there)}, but no {' and no '.join(lacking)}. " if there else ""
    raise _sklearn.not_fitted_error()(
        f"This {kind} instance is not fitted yet. {what}Call 'fit' with appropriate arguments before using this "
        "estimator. From known parameters, jaxgmm.Mixture.create(weights, means, covariances) makes a mixture that "
        "needs no fit; or set weights_, means_ and covariances_ here."
    )


def _numbers(value: Any, name: str) -> np.ndarray:
    if value is None:
        raise TypeError(f"{name} was set to None. Set an array of numbers, or call 'fit'.")
    untraced(value, name)
    return np.asarray(real_array(value, name))


def untraced(value: Any, name: str) -> None:
    """TypeError for a value that is traced: an estimator keeps numbers."""
    if is_traced(value):
        raise TypeError(
            f"{name} was set to a value that a JAX transformation traces. Set it outside of jit, vmap and grad, or use "
            "jaxgmm.Mixture.create within them, which takes traced parameters."
        )


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    bad = np.argwhere(~np.isfinite(np.asarray(values, np.float64)))
    if len(bad):
        raise ValueError(f"{name} must be finite, but {name}{bad[0].tolist()} is {values[tuple(bad[0])]}.")
    return values


def _logarithms(weights: np.ndarray) -> np.ndarray:
    """The logarithms of weights that are a distribution."""
    total = float(np.sum(_finite(weights, "weights_"), dtype=np.float64))
    if np.any(weights < 0) or abs(total - 1.0) > 1e-4:
        raise ValueError(f"weights_ must not be negative and must sum to 1, but they sum to {total:.6g}: {weights}.")
    with np.errstate(divide="ignore"):
        return np.log(weights)


def _covariances(name: str, values: np.ndarray, is_matrix: bool) -> np.ndarray:
    """Covariances from one of their three forms, in the same shape."""
    _finite(values, name)
    if not is_matrix:
        if not np.all(values > 0.0):
            raise ValueError(f"{name} must be positive, but has a smallest entry of {values.min():g}.")
        return values if name == "covariances_" else 1.0 / values if name == "precisions_" else values**-2.0
    transposed = np.swapaxes(values, -1, -2)
    whole = np.matmul(values, transposed) if name == "precisions_cholesky_" else values
    if not np.allclose(whole, np.swapaxes(whole, -1, -2), rtol=1e-4, atol=1e-6 * np.abs(whole).max()):
        raise ValueError(f"{name} must hold symmetric matrices.")
    smallest = np.atleast_1d(np.linalg.eigvalsh(whole).min(axis=-1))
    bad = np.flatnonzero(~(smallest > 0.0))
    if bad.size:
        where = f" of component {bad[0]}" if values.ndim == 3 else ""
        raise ValueError(f"{name}{where} is not positive definite: its smallest eigenvalue is {smallest[bad[0]]:g}.")
    if name == "covariances_":
        return whole
    inverse = np.linalg.inv(whole)
    return 0.5 * (inverse + np.swapaxes(inverse, -1, -2))


def _agreed_covariances(each: dict[str, np.ndarray], is_matrix: bool, dtype: np.dtype) -> np.ndarray:
    """The covariances that several attributes show. ValueError if they show different ones.

    They are compared as precisions, each relative to its largest entry, to 1 ‰ and what rounding to this dtype may do.
    """
    (name, covariances), *others = each.items()

    def inverse(matrices: np.ndarray) -> np.ndarray:
        return np.linalg.inv(matrices) if is_matrix else 1.0 / matrices

    one = inverse(covariances)
    axes = (-2, -1) if is_matrix else ()
    size = np.max(np.abs(one), axis=axes, keepdims=True)
    condition = np.linalg.cond(covariances)[..., None, None] if is_matrix else 1.0
    allowed = (1e-3 + 10.0 * covariances.shape[-1] * np.finfo(dtype).eps * condition) * size
    for other, values in others:
        if np.any(np.abs(inverse(values) - one) > allowed):
            raise ValueError(f"{name} and {other} contradict each other: they are not of the same covariances.")
    return covariances


def _of_the_family(shown: np.ndarray, given: np.ndarray, is_matrix: bool, family_name: str) -> None:
    """ValueError if reading covariances into their family has changed them."""
    if is_matrix:
        spread = np.sqrt(np.diagonal(given, axis1=-2, axis2=-1))
        size = spread[..., :, None] * spread[..., None, :]
    else:
        size = given
    if np.any(np.abs(shown - given) > 1e-3 * size):
        raise ValueError(
            f"The covariances that were set are not of the family {family_name!r}, the covariance_type of this "
            "estimator. Set a covariance_type that has them, such as 'full', or covariances of that family."
        )

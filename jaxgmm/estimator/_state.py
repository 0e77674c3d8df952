"""The parameters of an estimator: a mixture, and the arrays that show it, which users may set.

Everything is computed from the mixture. But those who know scikit-learn's classes set the arrays: they put components
in another order, write into `means_`, or make an estimator from known parameters without a fit. So each use first
compares the arrays with what was shown. If they differ, a mixture is read from them, and all arrays show that one; if
they contradict each other, an error says how. What was set is never ignored.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base import check
from .._base.memory import own, to_device
from .._base.precision import is_traced, precision_for
from ..families import SHELF, Family, is_matrix_shape, shown_shape
from ..mixture import Mixture
from ..rows import _check as rows_check
from . import _check, _sklearn
from ._arrays import like

OF_COVARIANCES = ("covariances_", "precisions_", "precisions_cholesky_")

PARAMETERS = ("weights_", "means_", *OF_COVARIANCES)
"""The fitted attributes that show `mixture_` as the user's kind of array, and that may be set."""

SHOWN = (*PARAMETERS, "effective_counts_")

OF_A_FIT = ("result_", "stream_")
"""What a fit or a stream leaves besides the mixture, and what says nothing of parameters that were set."""

_LOCK = threading.RLock()
"""Held while arrays and mixture are made to agree: threads may share an estimator."""


class Seen(NamedTuple):
    """An attribute as it was shown."""

    value: Any
    copy: np.ndarray  # the user may write into the value


class OfJax(NamedTuple):
    """A JAX array in a pickle, which would come back as float32 where JAX's x64 switch is off."""

    host: np.ndarray


def mixture_of(estimator: Any) -> Mixture:
    """The mixture that the estimator's arrays show now. NotFittedError if there are not enough of them, ValueError or
    TypeError if they make no mixture."""
    state = vars(estimator)
    if "mixture_" in state and not _changed(state):
        return state["mixture_"]
    with _LOCK:
        changed = _changed(state)  # another thread may have been faster
        if "mixture_" in state and not changed:
            return state["mixture_"]
        mixture = _read(estimator, changed)
        _forget(state)
        show(estimator, mixture)
        return mixture


def is_empty(estimator: Any) -> bool:
    """Whether there was no fit and no parameter was set."""
    return not any(name in vars(estimator) for name in ("mixture_", *PARAMETERS))


def show(estimator: Any, mixture: Mixture) -> None:
    """Keep a mixture, and set the arrays that show it, in scikit-learn's shapes and the data's kind of array."""
    state, family = vars(estimator), mixture.family
    # On the host, where a few numbers need no compiled program.
    covariances = np.asarray(family.show(jax.tree.map(np.asarray, mixture.scales), mixture.n_components))
    precisions, factors = precisions_of(np.asarray(covariances, np.float64), family)
    dtype = covariances.dtype
    arrays = {
        "weights_": mixture.weights,
        "means_": mixture.means,
        "covariances_": covariances,
        "precisions_": precisions.astype(dtype),
        "precisions_cholesky_": factors.astype(dtype),
    }
    convert = state.setdefault("_like", np.array)
    if "result_" in state:
        arrays["effective_counts_"] = state["result_"].effective_counts
    shown = {name: Seen(convert(value), np.asarray(value)) for name, value in arrays.items()}
    values = {name: seen.value for name, seen in shown.items()}
    with _LOCK:
        state.update(values, mixture_=mixture, _shown=shown, n_features_in_=mixture.n_features)


def assign(estimator: Any, mixture: Any) -> None:
    """Take over a mixture that a user sets as `mixture_`."""
    check.mixture(mixture)
    _known(mixture, "mixture_")
    if np.ndim(mixture.means) != 2:
        raise ValueError(f"mixture_ takes one mixture with means (K, D), got means of shape {mixture.means.shape}.")
    state = vars(estimator)
    with _LOCK:
        _forget(state)
        state.pop("effective_counts_", None)
        if state.get("n_features_in_", mixture.n_features) != mixture.n_features:
            state.pop("feature_names_in_", None)
        show(estimator, mixture)


def delete(estimator: Any, name: str) -> None:
    """Remove `mixture_`, which is then read from the arrays, or `result_`."""
    if name not in vars(estimator):
        raise AttributeError(f"This {type(estimator).__name__} has no {name}.")
    del vars(estimator)[name]
    if name == "mixture_":
        vars(estimator).pop("_shown", None)


def precisions_of(covariances: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Precisions and their Cholesky factors (P = U Uᵀ, U upper triangular) in the shape of the covariances."""
    if not is_matrix_shape(family, covariances.shape):
        return 1.0 / covariances, 1.0 / np.sqrt(covariances)
    inverse = np.linalg.inv(np.linalg.cholesky(covariances))
    upper = np.swapaxes(inverse, -1, -2)
    return np.matmul(upper, inverse), upper


def packed(estimator: Any) -> dict[str, Any]:
    """The estimator's state for a pickle: of the arrays only those that a user set, since `show` makes the others."""
    state = dict(vars(estimator))
    changed = _changed(state)
    state.pop("_shown", None)
    state["_deleted"] = [name for name in changed if name not in state] if "mixture_" in state else []
    shown = vars(estimator).get("_shown", {})
    for name in SHOWN:
        if _is_as_shown(name, state, shown) and (name in PARAMETERS or "result_" in state):
            state.pop(name, None)
        elif isinstance(state.get(name), jax.Array):
            state[name] = OfJax(np.asarray(state[name]))
    return state


def unpack(estimator: Any, packed: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Restore what `packed` gave, also in an older version, which may lack parameters that have come since."""
    state = vars(estimator)
    new = {**defaults, **packed}
    deleted = new.pop("_deleted", [])
    for name, value in new.items():
        new[name] = to_device(value.host) if isinstance(value, OfJax) else value
    state.update(new)
    if "mixture_" not in state:
        return
    expected = state.get("n_features_in_")
    show(estimator, state["mixture_"])
    state.update({name: new[name] for name in SHOWN if name in new})
    if expected is not None:
        state["n_features_in_"] = expected
    for name in deleted:
        state.pop(name, None)


def _forget(state: dict[str, Any]) -> None:
    """Remove what a fit or a stream has said of the parameters that were there before. Counts that a user set stay."""
    if _is_as_shown("effective_counts_", state, state.get("_shown", {})):
        state.pop("effective_counts_", None)
    for name in OF_A_FIT:
        state.pop(name, None)


def _host(value: Any) -> np.ndarray | None:
    """A user's array as NumPy's; None for what is no array of real numbers."""
    try:
        return np.asarray(rows_check.real_array(value, "It"))
    except (TypeError, ValueError):
        return None


def _changed(state: Mapping[str, Any]) -> set[str]:
    """The names of the arrays that have been set, written into, or deleted since they were shown."""
    shown: Mapping[str, Seen] = state.get("_shown", {})
    return {name for name in PARAMETERS if not _is_as_shown(name, state, shown)}


def _is_as_shown(name: str, state: Mapping[str, Any], shown: Mapping[str, Seen]) -> bool:
    if name not in state or name not in shown:
        return (name in state) == (name in shown)
    value, seen = state[name], shown[name]
    if value is seen.value and isinstance(value, jax.Array):  # cannot be written into
        return True
    host = value if type(value) is np.ndarray else _host(value)
    return host is not None and np.array_equal(host, seen.copy)


def _read(estimator: Any, changed: set[str]) -> Mixture:
    """The mixture of the arrays, of which `changed` are not those of the mixture that was shown."""
    state, kind = vars(estimator), type(estimator).__name__
    _all_there(state, kind)
    known: Mixture | None = state.get("mixture_")
    given = [name for name in OF_COVARIANCES if name in state and name in changed]
    if not given and (known is None or np.shape(state["means_"]) != known.means.shape):
        given = [next(name for name in OF_COVARIANCES if name in state)]
    arrays = {name: _numbers(state[name], name) for name in ("weights_", "means_", *given)}
    try:
        mixture = _of_arrays(estimator, arrays, given, known)
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
    if known is None:
        state.setdefault("_like", like(state["means_"]))
    return mixture


def _of_arrays(estimator: Any, arrays: dict[str, np.ndarray], given: list[str], known: Mixture | None) -> Mixture:
    weights, means = arrays["weights_"], arrays["means_"]
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(f"weights_ must be (K,) and means_ (K, D), but they are {weights.shape} and {means.shape}.")
    dtypes = [_check.dtype_of(array, estimator.dtype) for array in arrays.values()]
    if known is not None and not given:
        dtype = np.result_type(known.means.dtype, *dtypes)
        if dtype != known.means.dtype:
            given, arrays = ["covariances_"], {**arrays, "covariances_": np.asarray(_shown_of(known))}
        else:
            with precision_for(dtype):
                log_weights, means = own(_logarithms(weights), dtype), own(_finite(means, "means_"), dtype)
                return replace(known, log_weights=log_weights, means=means)
    else:
        dtype = np.result_type(*dtypes)
    family: Family = check.family(estimator.covariance_type, SHELF, "covariance_type")
    shape = shown_shape(family, *means.shape)
    is_matrix = is_matrix_shape(family, shape)
    for name in given:
        if arrays[name].shape != shape:
            raise ValueError(
                f"{name} has shape {arrays[name].shape}, but with means_ of shape {means.shape} and "
                f"covariance_type={family.name!r} it must be {shape}."
            )
    read = {name: _covariances(name, np.asarray(arrays[name], np.float64), is_matrix) for name in given}
    covariances = _of_one_mind(read, is_matrix, min((np.dtype(d) for d in dtypes), key=lambda d: d.itemsize))
    _logarithms(weights), _finite(means, "means_")
    mixture = Mixture.create(weights, means, covariances, family, dtype=dtype)
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
    _known(value, name)
    return np.asarray(rows_check.real_array(value, name))


def _known(value: Any, name: str) -> None:
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


def _of_one_mind(read: dict[str, np.ndarray], is_matrix: bool, dtype: np.dtype) -> np.ndarray:
    """The covariances that several attributes show. ValueError if they show different ones.

    They are compared as precisions, each relative to its largest entry, to 1 ‰ and what rounding to this dtype may do.
    """
    (name, covariances), *others = read.items()

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

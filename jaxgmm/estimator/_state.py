"""The parameters of an estimator: a mixture, and the arrays that show it, which users may set.

Everything is computed from the mixture. But those who know scikit-learn's classes set the arrays: they put components
in another order, write into `means_`, or make an estimator from known parameters without a fit. So each use first
compares the arrays with what was shown. If they differ, a mixture is read from them, and all arrays show that one; if
they contradict each other, an error says how. What was set is never ignored.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base import check
from .._base.memory import to_device
from ..families import is_matrix_shape
from ..mixture import Mixture
from ..rows.conversion import real_array
from ._reading import PARAMETERS, read, untraced

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
        with jax.ensure_compile_time_eval():  # what is kept must not be traced, even if this use is
            mixture = read(estimator, changed)
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
    precisions, factors = precisions_of(np.asarray(covariances, np.float64), mixture)
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
    untraced(mixture, "mixture_")
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


def precisions_of(covariances: np.ndarray, mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Precisions and their Cholesky factors (P = U Uᵀ, U upper triangular) in the shape of the covariances."""
    if not is_matrix_shape(mixture.family, covariances.shape):
        return 1.0 / covariances, 1.0 / np.sqrt(covariances)
    # From the factors that are kept: the product of two float32 factors may be rounded to what is not definite.
    kept = jax.tree.map(np.asarray, mixture.scales)
    factors = np.asarray(kept.as_dense().factor, np.float64) if hasattr(kept, "as_dense") else None
    factors = np.linalg.cholesky(covariances) if factors is None else factors
    inverse = np.linalg.inv(np.broadcast_to(factors, covariances.shape) if covariances.ndim == 3 else factors[0])
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


def forget_if_changed(estimator: Any) -> None:
    """Remove what a fit has said of its parameters where others have been set since."""
    state = vars(estimator)
    with _LOCK:
        if any(name in state for name in OF_A_FIT) and _changed(state):
            _forget(state)


def _forget(state: dict[str, Any]) -> None:
    """Remove what a fit or a stream has said of the parameters that were there before. Counts that a user set stay."""
    if _is_as_shown("effective_counts_", state, state.get("_shown", {})):
        state.pop("effective_counts_", None)
    for name in OF_A_FIT:
        state.pop(name, None)


def _host(value: Any) -> np.ndarray | None:
    """A user's array as NumPy's; None for what is no array of real numbers."""
    try:
        return np.asarray(real_array(value, "It"))
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

"""Rows that a fitted estimator evaluates: checked, placed, and evaluated a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
from jax import Array

from .._base.fork import refuse_if_forked
from .._base.memory import beside
from .._base.precision import is_traced, is_transforming, precision_for
from .._base.programs import next_power_of_two
from ..evaluation import evaluate, evaluate_few, is_few, labels_of
from ..rows import _check as rows_check
from ..rows.chunks import cut
from ..rows.conversion import observations
from ..rows.names import names_of
from ..rows.sizes import choose_chunk_size
from . import _check
from ._arrays import as_labels, column_names, like, read
from ._figures import dtype_within


@contextmanager
def computing(estimator: Any, dtype: Any) -> Iterator[None]:
    """A context for one call: float64 if asked for, and the user's device."""
    device = _check.device(estimator.device)
    with precision_for(dtype), jax.default_device(device) if device is not None else nullcontext():
        yield


def placed(estimator: Any, x: np.ndarray | Array) -> np.ndarray | Array:
    """A JAX array on the user's device, if one was asked for; other arrays unchanged."""
    device = _check.device(estimator.device)
    return jax.device_put(x, device) if device is not None and isinstance(x, jax.Array) else x


def admitted(estimator: Any, X: Any, sample_weight: Any = None) -> Any:
    """Rows to evaluate, checked against what was fitted; those of weight 0 may hold anything."""
    n_features, name = estimator.mixture_.n_features, type(estimator).__name__
    x = observations(X)
    _check.feature_names(column_names(X), getattr(estimator, "feature_names_in_", None), name)
    _check.same_features(getattr(estimator, "n_features_in_", n_features), n_features, name)
    _check.feature_count(x.shape[1], n_features, name)
    rows_check.finite(x, "X", rows_check.row_weights(sample_weight, x.shape[0]), names_of(X))
    return x


def evaluated(estimator: Any, X: Any, method: str, consume: Any, sample_weight: Any = None) -> Any:
    """A method of the mixture, or what `consume` makes of the log joint, for each row, as the user's kind of array; NaN
    for a row of weight 0 that holds NaN."""
    X, sample_weight = read(X, sample_weight)
    found = _evaluated(estimator, X, method, consume, sample_weight)
    if consume is not labels_of:
        return found if isinstance(found, jax.Array) else like(X)(found)
    if not isinstance(found, jax.Array):
        return as_labels(found, like(X))
    own_int = jax.dtypes.canonicalize_dtype(np.int64)
    return found if found.dtype == own_int else found.astype(own_int)


def _evaluated(estimator: Any, X: Any, method: str, consume: Any, sample_weight: Any) -> np.ndarray | Array:
    """`evaluated`, as a JAX array for those, and where this is traced; else on the host."""
    mixture, x = estimator.mixture_, admitted(estimator, X, sample_weight)
    chunk_size = rows_check.chunk_size(estimator.chunk_size)
    is_open = not isinstance(x.shape[0], int)  # a number of rows that `jax.export` leaves open
    if (is_traced(x) or is_transforming()) and (chunk_size is None or is_open):
        # Constants of the user's program become part of it, so that its x64 setting rules for them, too.
        return getattr(mixture, method)(x if is_traced(x) else jax.device_put(x.astype(dtype_within(mixture, x))))
    if chunk_size is None and is_few(mixture, x):
        found = evaluate_few(mixture, x, consume)
        if not isinstance(X, jax.Array):
            return found
        refuse_if_forked()
        with precision_for(found.dtype):
            return beside(X, found)
    dtype = dtype_within(mixture, x)
    with computing(estimator, dtype):
        size = chunk_size or choose_chunk_size(mixture.n_features, mixture.n_components, dtype.itemsize)
        chunks = cut(placed(estimator, x), min(size, next_power_of_two(len(x))), dtype)
        result = evaluate(mixture, chunks, consume=consume)
        if isinstance(X, jax.Array) or is_traced(result):
            return result.reshape(-1, *result.shape[2:])[: len(x)]
    host = np.asarray(result)
    return host.reshape(-1, *host.shape[2:])[: len(x)]

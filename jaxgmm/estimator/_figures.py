"""Figures of rows under a fitted mixture: Python's floats, or traced scalars inside a user's transformation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._base.precision import is_traced, is_transforming
from ..mixture import Mixture
from ..rows.units import from_unit, scaled


def mean_log_likelihood(log_prob: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Σ weight · log_prob / Σ weight, and Σ weight; in float64 whatever the dtype of log_prob, unless traced."""
    if is_traced((log_prob, sample_weight)):
        return _traced(jnp.asarray(log_prob), sample_weight)
    host = np.asarray(log_prob, np.float64)
    weights, exponent = scaled(sample_weight, np.float64)
    weights = np.ones_like(host) if weights is None else np.asarray(weights, np.float64)
    # A row of weight 0 may be infinitely improbable.
    total = np.sum(weights)
    return float(np.sum(weights * np.where(weights > 0.0, host, 0.0)) / total), float(from_unit(total, exponent))


def _traced(log_prob: Any, sample_weight: Any) -> tuple[Any, Any]:
    if sample_weight is None:
        n_rows = log_prob.shape[0]  # left open in some programs of `jax.export`
        total = float(n_rows) if isinstance(n_rows, int) else jnp.sum(jnp.ones_like(log_prob))
        return jnp.sum(log_prob) / total, total
    weights, exponent = scaled(jnp.asarray(sample_weight, log_prob.dtype), log_prob.dtype)
    total = jnp.sum(weights)
    return jnp.sum(weights * jnp.where(weights > 0.0, log_prob, 0.0)) / total, from_unit(total, exponent)


def number(value: Any) -> Any:
    """A Python float, or the traced value as it is."""
    return value if is_traced(value) else float(value)


def dtype_within(mixture: Mixture, traced: Any) -> np.dtype:
    """The mixture's dtype; inside a user's transformation JAX's x64 switch decides."""
    dtype = mixture.means.dtype
    return jax.dtypes.canonicalize_dtype(dtype) if is_traced(traced) or is_transforming() else np.dtype(dtype)

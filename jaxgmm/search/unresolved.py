"""Components whose covariance the dtype cannot hold: in some direction it is little more than rounding errors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..covariances import Dense
from ..mixture import Mixture

ROUNDING, LEAST = 12.0, 256.0
"""Units of D · eps, and of eps at least, of a feature's variance below which what the features before it leave of that
variance is taken for rounding. Of rows that lie in a plane, where it should be nothing, the sums of float32 left up to
127 eps with few features, and up to 10 D · eps with 64 to 200; 21 D · eps were there in earnest, and were right to
three digits (by hand)."""

RIDGE = 4.0
"""Units of eps of a variance below which a ridge that is added to it is lost."""


def unresolved(mixture: Mixture) -> np.ndarray:
    """Which components have a variance, of a feature given those before it, of the size of rounding. (K,) bool, or
    (…, K) of a stack; none where no covariance has entries beside its diagonal."""
    counts = np.isfinite(np.asarray(mixture.log_weights))
    if not isinstance(mixture.scales, Dense):
        return np.zeros_like(counts)
    factor = np.asarray(mixture.scales.factor)
    left = np.square(np.diagonal(factor, axis1=-2, axis2=-1))
    rounding = max(ROUNDING * factor.shape[-1], LEAST) * np.finfo(factor.dtype).eps
    return (left <= rounding * _variances(factor)).any(axis=-1) & counts


def decided_by_rounding(mixture: Mixture, ridge: Any) -> np.ndarray:
    """Which of these have nothing else to decide that variance, since a ridge, () or (D,), is lost beside the
    variances. (K,) bool."""
    found = unresolved(mixture)
    if not isinstance(mixture.scales, Dense) or not found.any():
        return found
    variances = _variances(np.asarray(mixture.scales.factor))
    return found & (np.asarray(ridge) < RIDGE * np.finfo(variances.dtype).eps * variances).any(axis=-1)


def _variances(factor: np.ndarray) -> np.ndarray:
    """Of the features, from a Cholesky factor, (..., D, D). In NumPy: a look at a result compiles nothing."""
    return np.square(factor).sum(axis=-1)

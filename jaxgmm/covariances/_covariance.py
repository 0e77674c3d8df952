"""The interface of covariances. To add one, write these methods; no other code depends on which one it is."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array


class Form(Enum):
    """Two ways to compute the same numbers. Which one runs is decided once a step, from `Covariance.cancellation`.

    FAST works about one origin, so that all components share matrix products; its rounding error grows with the
    distance of a mean from the origin in standard deviations, or, where squares are expanded, with its square. SAFE
    subtracts each component's own mean first; its error does not grow with that distance.
    """

    FAST = "fast"
    SAFE = "safe"


def rounding_of(n_features: int, dtype: Any) -> float:
    """The rounding error of a singular matrix that is estimated from rows, relative to its diagonal."""
    return 4.0 * math.sqrt(n_features) * float(jnp.finfo(dtype).eps)


def least_variance(dtype: Any) -> float:
    """The least variance that is one: what is smaller, programs take for 0."""
    return float(jnp.finfo(dtype).tiny)


class Covariance(Protocol):
    """K covariance matrices, ready to be evaluated: a pytree with leading axis K, or 1 where all components share one.

    Shared covariances have an axis of length one, and no class of their own: broadcasting does the rest. Of those of
    families on the shelf NumPy makes steps, too: for its leaves, which may have an axis of runs in front, it computes
    `log_det`, `variances`, `precision_diagonal`, `is_definite` and `is_resolved`.
    """

    def prepare(self, means: Array, origin: Array, constant: Array, form: Form) -> Any:
        """What `exponent` needs, computed once a step. means (K, D), origin (D,), constant (K,).

        In the SAFE form a pytree of arrays with a leading axis K, or 1 for what all components share: `em/in_turn.py`
        takes a component out of it.
        """
        ...

    def exponent(self, operands: Any, x: Array) -> Array:
        """constant − ½ (x − μ)ᵀ Σ⁻¹ (x − μ) for all components and rows. columns x (D, n) -> (K, n)."""
        ...

    def cancellation(self, means: Array, origin: Array) -> Array:
        """A bound on FAST's rounding error, in multiples of the dtype's rounding.

        Mostly the largest squared distance of a mean from the origin, in units of variance.
        """
        ...

    def distances(self, scatter: Array) -> Array:
        """tr(Σ⁻¹ S) for scatter matrices S, of the kind that the family of these covariances keeps. -> (K,) or (1,)."""
        ...

    def log_det(self) -> Array:
        """Logarithm of the determinants of Σ. -> (K,) or (1,)."""
        ...

    def dense(self) -> Array:
        """The covariance matrices themselves. -> (K, D, D) or (1, D, D)."""
        ...

    def as_dense(self) -> Any:
        """The same covariances as a `Dense`, on the host, so that NumPy evaluates few rows. Optional."""
        ...

    def variances(self) -> Array:
        """Their diagonals, computed by NumPy if the leaves are NumPy's. -> (K, D) or (1, D)."""
        ...

    def weighted_sum(self, weights: Array) -> Array:
        """Σ_k weights_k Σ_k, computed by NumPy if the leaves are NumPy's. weights (K,) -> (D, D)."""
        ...

    def precision_diagonal(self) -> Array:
        """Diagonals of Σ⁻¹. -> (K, D) or (1, D)."""
        ...

    def ridge_share(self, ridge: Array) -> Array:
        """The share of the smallest variance, in any direction, that is due to a ridge. -> (K,) or (1,).

        ridge: of all components, (D,), or of each, (K, D).

        Dense matrices give the mean of the eigenvalues of ridge · Σ⁻¹, each weighted by itself: a lower bound of the
        largest eigenvalue, and close to it where that is the only large one.
        """
        ...

    def is_definite(self) -> Array:
        """Whether each matrix is positive definite: its factorisation succeeded. -> (K,) or (1,) bool."""
        ...

    def is_resolved(self) -> Array:
        """Whether each matrix is positive definite by more than the rounding of what it was estimated from.

        A singular matrix may be factored all the same, by what rounding makes of it. Where a ridge has been added, its
        smallest variance is known to be the ridge's, and `is_definite` decides. -> (K,) or (1,) bool.
        """
        ...

    def colour(self, noise: Array, labels: Array) -> Array:
        """Turn standard normal noise into noise with the covariance of each row's component. noise (n, D), labels (n,)
        -> (n, D)."""
        ...

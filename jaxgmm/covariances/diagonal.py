"""Diagonal covariances: one variance per feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.linalg import einsum, of_rank, over_components
from .._base.namespace import xp_of
from ._covariance import Form, least_variance
from .dense import Dense, of_deviations


class Fast(NamedTuple):
    """exponent = coefficients · [x − origin, (x − origin)²] + constant."""

    origin: Array  # (D,)
    coefficients: Array  # (K, 2D)
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        centred = x - self.origin[:, None]
        features = jnp.concatenate([centred, centred * centred])
        return einsum("kf,fn->kn", self.coefficients, features) + self.constant[:, None]


class Safe(NamedTuple):
    """exponent = constant − ½ Σ_d precision · (x − mean)²."""

    means: Array  # (K, D)
    precisions: Array  # (K, D)
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        def one(component: Safe) -> Array:
            distances = einsum("dn,d->n", jnp.square(x - component.means[:, None]), component.precisions)
            return component.constant - 0.5 * distances

        return over_components(one, self, x.size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diagonal:
    """Σ_k = diag(diagonal_k). diagonal (K, D), or (1, D) when shared."""

    diagonal: Array

    def prepare(self, means: Array, origin: Array, constant: Array, form: Form) -> Fast | Safe:
        precisions = jnp.broadcast_to(1.0 / self.diagonal, means.shape)
        if form is Form.SAFE:
            return Safe(means, precisions, constant)
        shift = means - origin[None]
        coefficients = jnp.concatenate([precisions * shift, -0.5 * precisions], axis=1)
        return Fast(origin, coefficients, constant - 0.5 * jnp.sum(precisions * shift * shift, axis=1))

    def exponent(self, operands: Fast | Safe, x: Array) -> Array:
        return operands.exponent(x)

    def cancellation(self, means: Array, origin: Array) -> Array:
        return jnp.max(jnp.square(means - origin[None]) / self.diagonal)

    def distances(self, scatter: Array) -> Array:
        return jnp.sum(scatter / self.diagonal, axis=-1)

    def log_det(self) -> Array:
        return xp_of(self.diagonal).log(self.diagonal).sum(axis=-1)

    def dense(self) -> Array:
        return self.diagonal[..., None] * of_rank(
            np.eye(self.diagonal.shape[-1], dtype=self.diagonal.dtype), self.diagonal.ndim + 1
        )

    def as_dense(self) -> Dense:
        with np.errstate(invalid="ignore"):
            return of_deviations(np.sqrt(np.asarray(self.diagonal)))

    def variances(self) -> Array:
        return self.diagonal

    def weighted_sum(self, weights: Array) -> Array:
        total = weights.sum(keepdims=True) if len(self.diagonal) == 1 else weights
        return einsum("k,kd->d", total, self.diagonal)[:, None] * np.eye(
            self.diagonal.shape[-1], dtype=self.diagonal.dtype
        )

    def precision_diagonal(self) -> Array:
        return 1.0 / self.diagonal

    def ridge_share(self, ridge: Array) -> Array:
        return (of_rank(ridge, 2) / self.diagonal).max(axis=-1)

    def is_definite(self) -> Array:
        return (
            (self.diagonal >= least_variance(self.diagonal.dtype)) & xp_of(self.diagonal).isfinite(self.diagonal)
        ).all(axis=-1)

    def is_resolved(self) -> Array:
        return self.is_definite()

    def colour(self, noise: Array, labels: Array) -> Array:
        scale = jnp.sqrt(self.diagonal)
        return noise * (scale[labels] if len(scale) > 1 else scale)

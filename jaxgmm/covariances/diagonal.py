"""Diagonal covariances: a variance for each feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._linalg import einsum
from ._covariance import Form


class Fast(NamedTuple):
    """mahalanobis = linear · (x − origin) + square · (x − origin)² + constant."""

    origin: Array  # (D,)
    coefficients: Array  # (K, 2D)
    constant: Array  # (K,)


class Safe(NamedTuple):
    """mahalanobis = Σ_d precision · (x − mean)²."""

    means: Array  # (K, D)
    precisions: Array  # (K, D)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diagonal:
    """Σ_k = diag(diagonal_k). diagonal (K, D), or (1, D) when shared."""

    diagonal: Array

    @property
    def has_fast_form(self) -> bool:
        return True

    def prepare(self, means: Array, origin: Array, form: Form) -> Fast | Safe:
        precisions = jnp.broadcast_to(1.0 / self.diagonal, means.shape)
        if form is Form.SAFE:
            return Safe(means, precisions)
        shift = means - origin
        coefficients = jnp.concatenate([-2.0 * precisions * shift, precisions], axis=1)
        return Fast(origin, coefficients, jnp.sum(precisions * shift * shift, axis=1))

    def mahalanobis(self, operands: Fast | Safe, rows: Array) -> Array:
        if isinstance(operands, Fast):
            centred = rows - operands.origin
            features = jnp.concatenate([centred, centred * centred], axis=1)
            distances = einsum("kf,nf->kn", operands.coefficients, features) + operands.constant[:, None]
            return jnp.maximum(distances, 0.0)  # the expansion may leave a rounding error below zero
        # One component at a time: the (K, n, D) differences are never stored.
        return lax.map(lambda c: einsum("nd,d->n", jnp.square(rows - c[0]), c[1]), operands)

    def spread(self, means: Array, origin: Array) -> Array:
        return jnp.max(jnp.square(means - origin) / self.diagonal)

    def log_det(self) -> Array:
        return jnp.sum(jnp.log(self.diagonal), axis=-1)

    def dense(self) -> Array:
        return self.diagonal[..., None] * jnp.eye(self.diagonal.shape[-1], dtype=self.diagonal.dtype)

    def variances(self) -> Array:
        return self.diagonal

    def precision_trace(self) -> Array:
        return jnp.sum(1.0 / self.diagonal, axis=-1)

    def is_definite(self) -> Array:
        return jnp.all((self.diagonal > 0.0) & jnp.isfinite(self.diagonal), axis=-1)

    def colour(self, noise: Array, labels: Array) -> Array:
        scale = jnp.sqrt(self.diagonal)
        return noise * (scale[labels] if len(scale) > 1 else scale)

"""Spherical covariances: one variance for all features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._linalg import einsum
from ._covariance import Form


class Fast(NamedTuple):
    """mahalanobis = precision · (|x − origin|² − 2 shift · (x − origin) + |shift|²)."""

    origin: Array  # (D,)
    shift: Array  # (K, D)
    precision: Array  # (K, 1)


class Safe(NamedTuple):
    """mahalanobis = precision · |x − mean|²."""

    means: Array  # (K, D)
    precision: Array  # (K,)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spherical:
    """Σ_k = variance_k · I. variance (K,), or (1,) when shared."""

    variance: Array
    n_features: int = field(metadata={"static": True})

    @property
    def has_fast_form(self) -> bool:
        return True

    def prepare(self, means: Array, origin: Array, form: Form) -> Fast | Safe:
        precision = jnp.broadcast_to(1.0 / self.variance, means.shape[:1])
        if form is Form.SAFE:
            return Safe(means, precision)
        return Fast(origin, means - origin, precision[:, None])

    def mahalanobis(self, operands: Fast | Safe, rows: Array) -> Array:
        if isinstance(operands, Fast):
            centred = rows - operands.origin
            cross = einsum("kd,nd->kn", -2.0 * operands.shift, centred)
            squares = jnp.sum(centred * centred, axis=1) + jnp.sum(jnp.square(operands.shift), axis=1)[:, None]
            return operands.precision * jnp.maximum(squares + cross, 0.0)
        return lax.map(lambda c: c[1] * jnp.sum(jnp.square(rows - c[0]), axis=1), operands)

    def spread(self, means: Array, origin: Array) -> Array:
        return jnp.max(jnp.mean(jnp.square(means - origin), axis=1) / self.variance)

    def log_det(self) -> Array:
        return self.n_features * jnp.log(self.variance)

    def dense(self) -> Array:
        return self.variance[..., None, None] * jnp.eye(self.n_features, dtype=self.variance.dtype)

    def variances(self) -> Array:
        return jnp.broadcast_to(self.variance[..., None], (*self.variance.shape, self.n_features))

    def precision_trace(self) -> Array:
        return self.n_features / self.variance

    def is_definite(self) -> Array:
        return (self.variance > 0.0) & jnp.isfinite(self.variance)

    def colour(self, noise: Array, labels: Array) -> Array:
        scale = jnp.sqrt(self.variance)
        return noise * (scale[labels][:, None] if len(scale) > 1 else scale)

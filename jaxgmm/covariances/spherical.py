"""Spherical covariances: one variance for all features."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """exponent = coefficients · [x − origin, |x − origin|²] + constant."""

    origin: Array  # (D,)
    coefficients: Array  # (K, D + 1)
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        centred = x - self.origin[:, None]
        features = jnp.concatenate([centred, jnp.sum(centred * centred, axis=0, keepdims=True)])
        return einsum("kf,fn->kn", self.coefficients, features) + self.constant[:, None]


class Safe(NamedTuple):
    """exponent = constant − ½ precision · |x − mean|²."""

    means: Array  # (K, D)
    precision: Array  # (K,)
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        def one(component: Safe) -> Array:
            distances = jnp.sum(jnp.square(x - component.means[:, None]), axis=0)
            return component.constant - 0.5 * component.precision * distances

        return over_components(one, self, x.size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spherical:
    """Σ_k = variance_k · I. variance (K,), or (1,) when shared."""

    variance: Array
    n_features: int = field(metadata={"static": True})

    def prepare(self, means: Array, origin: Array, constant: Array, form: Form) -> Fast | Safe:
        precision = jnp.broadcast_to(1.0 / self.variance, means.shape[:1])
        if form is Form.SAFE:
            return Safe(means, precision, constant)
        shift = means - origin[None]
        coefficients = precision[:, None] * jnp.concatenate([shift, jnp.full_like(shift[:, :1], -0.5)], axis=1)
        return Fast(origin, coefficients, constant - 0.5 * precision * jnp.sum(jnp.square(shift), axis=1))

    def exponent(self, operands: Fast | Safe, x: Array) -> Array:
        return operands.exponent(x)

    def cancellation(self, means: Array, origin: Array) -> Array:
        return jnp.max(jnp.mean(jnp.square(means - origin[None]), axis=1) / self.variance)

    def distances(self, scatter: Array) -> Array:
        return scatter / self.variance

    def log_det(self) -> Array:
        return self.n_features * xp_of(self.variance).log(self.variance)

    def dense(self) -> Array:
        return self.variance[..., None, None] * of_rank(
            np.eye(self.n_features, dtype=self.variance.dtype), self.variance.ndim + 2
        )

    def as_dense(self) -> Dense:
        with np.errstate(invalid="ignore"):
            deviations = np.sqrt(np.asarray(self.variance))
        return of_deviations(np.repeat(deviations[..., None], self.n_features, axis=-1))

    def variances(self) -> Array:
        shape = (*self.variance.shape, self.n_features)
        return xp_of(self.variance).broadcast_to(self.variance[..., None], shape)

    def weighted_sum(self, weights: Array) -> Array:
        return (weights * self.variance).sum() * np.eye(self.n_features, dtype=self.variance.dtype)

    def precision_diagonal(self) -> Array:
        return 1.0 / self.variances()

    def ridge_share(self, ridge: Array) -> Array:
        return ridge.mean(axis=-1) / self.variance  # this family averages the ridge over the features

    def is_definite(self) -> Array:
        return (self.variance >= least_variance(self.variance.dtype)) & xp_of(self.variance).isfinite(self.variance)

    def is_resolved(self) -> Array:
        return self.is_definite()

    def colour(self, noise: Array, labels: Array) -> Array:
        scale = jnp.sqrt(self.variance)
        return noise * (scale[labels][:, None] if len(scale) > 1 else scale[:, None])

"""Dense covariances, kept as lower Cholesky factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._linalg import cholesky, einsum, inverse_lower, pack_symmetric, quadratic_features
from ._covariance import Form

PACKED_UP_TO = 24
"""Features up to which one product with all pairs of features beats a product per component (CPU, measured)."""


class Packed(NamedTuple):
    """FAST: mahalanobis = coefficients · [x − origin, its pairwise products] + constant."""

    origin: Array  # (D,)
    coefficients: Array  # (K, D + D(D+1)/2)
    constant: Array  # (K,)


class Whitened(NamedTuple):
    """SAFE: mahalanobis = |whitener_k (x − mean_k)|², a component at a time."""

    means: Array  # (K, D)
    whitener: Array  # (K, D, D)


class SharedWhitened(NamedTuple):
    """Shared matrix: rows are whitened once for all components, and only then compared with the whitened means."""

    origin: Array  # (D,)
    whitener: Array  # (D, D)
    means: Array  # (K, D), whitened


class SharedExpanded(NamedTuple):
    """As SharedWhitened, with |y − m|² expanded into one product."""

    origin: Array
    whitener: Array
    means: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense:
    """Σ_k = factor_k factor_kᵀ. factor (K, D, D) lower triangular, or (1, D, D) when shared."""

    factor: Array

    @classmethod
    def of(cls, covariances: Array) -> Dense:
        """From covariance matrices (K or 1, D, D). NaN where one is not positive definite."""
        return cls(cholesky(covariances))

    @property
    def has_fast_form(self) -> bool:
        return self.factor.shape[0] == 1 or self.factor.shape[-1] <= PACKED_UP_TO

    def prepare(self, means: Array, origin: Array, form: Form) -> Packed | Whitened | SharedWhitened | SharedExpanded:
        whitener = inverse_lower(self.factor)
        shift = means - origin
        if self.factor.shape[0] == 1:
            whitened = einsum("ij,kj->ki", whitener[0], shift)
            shared = SharedWhitened if form is Form.SAFE else SharedExpanded
            return shared(origin, whitener[0], whitened)
        if form is Form.SAFE:
            return Whitened(means, whitener)
        precision = einsum("kij,kil->kjl", whitener, whitener)
        pull = einsum("kij,kj->ki", precision, shift)
        coefficients = jnp.concatenate([-2.0 * pull, pack_symmetric(precision)], axis=1)
        return Packed(origin, coefficients, jnp.sum(pull * shift, axis=1))

    def mahalanobis(self, operands: Packed | Whitened | SharedWhitened | SharedExpanded, rows: Array) -> Array:
        match operands:
            case Packed(origin, coefficients, constant):
                distances = einsum("kf,nf->kn", coefficients, quadratic_features(rows - origin)) + constant[:, None]
                return jnp.maximum(distances, 0.0)  # the expansion may leave a rounding error below zero
            case Whitened():
                return lax.map(lambda c: jnp.sum(jnp.square(einsum("nj,ij->ni", rows - c[0], c[1])), axis=1), operands)
            case SharedWhitened(origin, whitener, means):
                whitened = einsum("nj,ij->ni", rows - origin, whitener)
                return lax.map(lambda mean: jnp.sum(jnp.square(whitened - mean), axis=1), means)
            case SharedExpanded(origin, whitener, means):
                whitened = einsum("nj,ij->ni", rows - origin, whitener)
                squares = jnp.sum(whitened * whitened, axis=1) + jnp.sum(means * means, axis=1)[:, None]
                return jnp.maximum(squares + einsum("kd,nd->kn", -2.0 * means, whitened), 0.0)

    def spread(self, means: Array, origin: Array) -> Array:
        whitener = inverse_lower(self.factor)
        shift = jnp.abs(means - origin)
        whitened = einsum("kij,kj->ki", jnp.abs(jnp.broadcast_to(whitener, (len(means), *whitener.shape[1:]))), shift)
        largest = jnp.max(jnp.square(whitened))
        if self.factor.shape[0] == 1:
            return largest
        # The packed form also cancels where features are strongly correlated, at any distance from the origin.
        precision = jnp.abs(einsum("kij,kil->kjl", whitener, whitener))
        reach = shift + jnp.sqrt(self.variances())
        return jnp.maximum(largest, jnp.max(einsum("ki,kij,kj->k", reach, precision, reach)) / means.shape[1])

    def log_det(self) -> Array:
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(self.factor, axis1=-2, axis2=-1)), axis=-1)

    def dense(self) -> Array:
        return einsum("kij,klj->kil", self.factor, self.factor)

    def variances(self) -> Array:
        return jnp.sum(jnp.square(self.factor), axis=-1)

    def precision_trace(self) -> Array:
        return jnp.sum(jnp.square(inverse_lower(self.factor)), axis=(-2, -1))

    def is_definite(self) -> Array:
        # A pivot within what rounding leaves of a singular matrix has no correct digit: that is not a variance.
        pivots = jnp.square(jnp.diagonal(self.factor, axis1=-2, axis2=-1))
        rounding = 4.0 * np.sqrt(self.factor.shape[-1]) * jnp.finfo(self.factor.dtype).eps
        return jnp.all((pivots > rounding * self.variances()) & jnp.isfinite(pivots), axis=-1)

    def colour(self, noise: Array, labels: Array) -> Array:
        if self.factor.shape[0] == 1:
            return einsum("nj,ij->ni", noise, self.factor[0])

        def colour_one(coloured: Array, component: tuple[Array, Array]) -> tuple[Array, None]:
            index, factor = component
            return jnp.where((labels == index)[:, None], einsum("nj,ij->ni", noise, factor), coloured), None

        components = (jnp.arange(self.factor.shape[0]), self.factor)
        return lax.scan(colour_one, jnp.zeros_like(noise), components)[0]

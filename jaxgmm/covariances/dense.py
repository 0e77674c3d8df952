"""Dense covariances, kept as lower Cholesky factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base.linalg import cholesky, einsum, inverse_lower, of_rank, over_components
from .._base.namespace import xp_of
from .._base.packed import PACKED_UP_TO, lower_squares, pack_symmetric, quadratic_features
from ._covariance import Form, least_variance, rounding_of


class Packed(NamedTuple):
    """FAST with few features: exponent = coefficients · [x − origin, its pairwise products] + constant."""

    origin: Array  # (D,)
    coefficients: Array  # (K, D + P)
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        features = quadratic_features(x - self.origin[:, None])
        return einsum("kf,fn->kn", self.coefficients, features) + self.constant[:, None]


class Stacked(NamedTuple):
    """FAST with many features: exponent = constant − ½ |whitener (x − origin) − mean|², whiteners stacked."""

    origin: Array  # (D,)
    whitener: Array  # (K, D, D)
    means: Array  # (K, D), relative to the origin, whitened
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        centred = x - self.origin[:, None]

        def one(component: tuple[Array, Array, Array]) -> Array:
            whitener, mean, constant = component
            return constant - 0.5 * lower_squares(whitener, centred, mean)

        return over_components(one, (self.whitener, self.means, self.constant), x.size)


class Whitened(NamedTuple):
    """SAFE: exponent = constant − ½ |whitener (x − mean)|²."""

    means: Array  # (K, D)
    whitener: Array  # (K, D, D)
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        def one(component: Whitened) -> Array:
            zero = jnp.zeros_like(component.means)
            return component.constant - 0.5 * lower_squares(component.whitener, x - component.means[:, None], zero)

        return over_components(one, self, x.size)


class SharedWhitened(NamedTuple):
    """Shared matrix: rows are whitened once for all components of a call, then compared with the whitened means."""

    origin: Array  # (1, D)
    whitener: Array  # (1, D, D)
    means: Array  # (K, D), whitened
    constant: Array  # (K,)

    def exponent(self, x: Array) -> Array:
        whitened = einsum("ij,jn->in", self.whitener[0], x - self.origin[0][:, None])

        def one(component: tuple[Array, Array]) -> Array:
            mean, constant = component
            return constant - 0.5 * _squares(whitened - mean[:, None])

        return over_components(one, (self.means, self.constant), x.size)


class SharedExpanded(NamedTuple):
    """As SharedWhitened, with |y − m|² expanded so that its cross term is one matrix product."""

    origin: Array
    whitener: Array
    means: Array
    constant: Array  # (K,), with −½ |mean|²

    def exponent(self, x: Array) -> Array:
        whitened = einsum("ij,jn->in", self.whitener, x - self.origin[:, None])
        cross = einsum("kd,dn->kn", self.means, whitened)
        return cross + self.constant[:, None] - 0.5 * _squares(whitened)[None]


Operands = Packed | Stacked | Whitened | SharedWhitened | SharedExpanded


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense:
    """Σ_k = factor_k factor_kᵀ. factor (K, D, D) lower triangular, or (1, D, D) when shared."""

    factor: Array

    @classmethod
    def of(cls, covariances: Array) -> Dense:
        """From covariance matrices (K or 1, D, D). NaN where one is not positive definite."""
        return cls(cholesky(jnp.asarray(covariances)))

    def prepare(self, means: Array, origin: Array, constant: Array, form: Form) -> Operands:
        whitener = inverse_lower(self.factor)
        shift = means - origin[None]
        if self.factor.shape[0] == 1:
            # One product per component instead of one for all: XLA may store the latter transposed, and jaxlib 0.10
            # then reads it untransposed in the sum of squares below (the result is wrong by any amount).
            each = jnp.broadcast_to(whitener, (len(means), *whitener.shape[1:]))
            whitened = einsum("kij,kj->ki", each, shift)
            if form is Form.SAFE:
                return SharedWhitened(origin[None], whitener, whitened, constant)
            return SharedExpanded(origin, whitener[0], whitened, constant - 0.5 * jnp.sum(whitened * whitened, axis=1))
        if form is Form.SAFE:
            return Whitened(means, whitener, constant)
        if means.shape[1] > PACKED_UP_TO:
            return Stacked(origin, whitener, einsum("kij,kj->ki", whitener, shift), constant)
        precision = einsum("kij,kil->kjl", whitener, whitener)
        pull = einsum("kij,kj->ki", precision, shift)
        coefficients = jnp.concatenate([pull, pack_symmetric(-0.5 * precision)], axis=1)
        return Packed(origin, coefficients, constant - 0.5 * jnp.sum(pull * shift, axis=1))

    def exponent(self, operands: Operands, x: Array) -> Array:
        return operands.exponent(x)

    def cancellation(self, means: Array, origin: Array) -> Array:
        whitener = inverse_lower(self.factor)
        shift = jnp.abs(means - origin[None])
        whitened = einsum("kij,kj->ki", jnp.abs(jnp.broadcast_to(whitener, (len(means), *whitener.shape[1:]))), shift)
        largest = jnp.max(jnp.square(whitened))
        if self.factor.shape[0] == 1:
            return largest
        if means.shape[1] > PACKED_UP_TO:
            return jnp.sqrt(largest)  # no square is expanded there: the error grows with the distance itself
        # The packed form also cancels where features are strongly correlated, at any distance from the origin.
        precision = jnp.abs(einsum("kij,kil->kjl", whitener, whitener))
        reach = shift + jnp.sqrt(self.variances())
        return jnp.maximum(largest, jnp.max(einsum("ki,kij,kj->k", reach, precision, reach)) / means.shape[1])

    def distances(self, scatter: Array) -> Array:
        whitener = inverse_lower(self.factor)
        return jnp.sum(einsum("kij,kjl->kil", whitener, scatter) * whitener, axis=(-2, -1))

    def log_det(self) -> Array:
        return 2.0 * xp_of(self.factor).log(self.factor.diagonal(axis1=-2, axis2=-1)).sum(axis=-1)

    def dense(self) -> Array:
        return einsum("kij,klj->kil", self.factor, self.factor)

    def as_dense(self) -> Dense:
        return self

    def variances(self) -> Array:
        return (self.factor * self.factor).sum(axis=-1)

    def weighted_sum(self, weights: Array) -> Array:
        dense = self.dense()
        return weights.sum() * dense[0] if len(dense) == 1 else einsum("k,kij->ij", weights, dense)

    def precision_diagonal(self) -> Array:
        return (inverse_lower(self.factor) ** 2).sum(axis=-2)

    def ridge_share(self, ridge: Array) -> Array:
        inverse = inverse_lower(self.factor)
        scaled = inverse * of_rank(ridge[..., None, :] ** 0.5, inverse.ndim)
        shares = einsum("kij,kil->kjl", scaled, scaled)
        total = shares.trace(axis1=-2, axis2=-1)
        return (shares * shares).sum(axis=(-2, -1)) / (total + (total <= 0.0).astype(total.dtype))

    def is_definite(self) -> Array:
        pivots = self.factor.diagonal(axis1=-2, axis2=-1)
        return ((pivots >= least_variance(pivots.dtype) ** 0.5) & xp_of(pivots).isfinite(pivots)).all(axis=-1)

    def is_resolved(self) -> Array:
        # A pivot as small as the rounding error of a singular matrix has no correct digit of its own.
        pivots = self.factor.diagonal(axis1=-2, axis2=-1) ** 2
        rounding = rounding_of(self.factor.shape[-1], self.factor.dtype)
        return ((pivots > rounding * self.variances()) & xp_of(pivots).isfinite(pivots)).all(axis=-1)

    def colour(self, noise: Array, labels: Array) -> Array:
        if self.factor.shape[0] == 1:
            return einsum("nj,ij->ni", noise, self.factor[0])

        def colour_one(coloured: Array, component: tuple[Array, Array]) -> tuple[Array, None]:
            index, factor = component
            return jnp.where((labels == index)[:, None], einsum("nj,ij->ni", noise, factor), coloured), None

        components = (jnp.arange(self.factor.shape[0], dtype=jnp.int32), self.factor)
        return lax.scan(colour_one, jnp.zeros_like(noise), components)[0]


def of_deviations(deviations: np.ndarray) -> Dense:
    """Diagonal covariances on the host, from standard deviations (K, D)."""
    factor = np.zeros((*deviations.shape, deviations.shape[-1]), deviations.dtype)
    place = np.arange(deviations.shape[-1])
    factor[..., place, place] = deviations
    return Dense(factor)  # pyright: ignore


def _squares(x: Array) -> Array:
    """Squared lengths of columns. (D, n) -> (n,)."""
    return jnp.sum(x * x, axis=0)

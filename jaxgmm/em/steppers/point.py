"""Points: the quantities a mixture is estimated from, as one vector; and the gradient with respect to them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from ...mixture import Mixture
from ...moments import Kind, Moments, recentre
from ...priors import Ridge, in_dtype
from ..maximisation import log_shares, maximise
from ..state import Settings


class Point(NamedTuple):
    """The quantities a mixture is estimated from, except the number of rows. A component of weight 0 is not moved."""

    log_weights: Array  # (K,)
    means: Array  # (K, D)
    scatter: Array  # about the means and per mass, of the family's kind


def target_of(mixture: Mixture, moments: Moments) -> Point:
    """The point to which a plain EM step leads from a mixture."""
    mass = moments.mass
    shift = moments.first / jnp.where(mass > 0.0, mass, 1.0)[:, None]
    scatter = moments.second - mixture.family.kind.outer(mass, shift)
    divisor = _mass_of(scatter, mass)
    return Point(log_shares(mass), mixture.means + shift, scatter / jnp.where(divisor > 0.0, divisor, 1.0))


def moments_at(point: Point, total: Array) -> Moments:
    """Moments about the point's means, of rows of weight `total`, from which an M-step would return to this point."""
    mass = total * jax.nn.softmax(point.log_weights)
    second = point.scatter * _mass_of(point.scatter, mass)
    return Moments(mass, jnp.zeros_like(point.means), second, jnp.zeros_like(total))


def units_of(mixture: Mixture, target: Point) -> Array:
    """1 for log weights, standard deviations for means, their products for scatter. -> (P,)."""
    variance = jnp.sum(mixture.weights[:, None] * mixture.scales.variances(), axis=0)
    deviation = jnp.sqrt(jnp.where((variance > 0.0) & jnp.isfinite(variance), variance, 1.0))
    scatter = mixture.family.kind.project((deviation[:, None] * deviation[None])[None])
    return ravel_pytree(
        Point(
            jnp.ones_like(target.log_weights),
            jnp.broadcast_to(deviation, target.means.shape),
            jnp.broadcast_to(scatter, target.scatter.shape),
        )
    )[0]


def gradient(here: Point, mixture: Mixture, moments: Moments, settings: Settings) -> Point:
    """Gradient of the objective, less the ridge's penalty, with respect to the point the mixture is estimated from.

    For the rows it is that of the expected complete-data log-likelihood, which needs the moments alone (Fisher's
    identity; Louis 1982): no row is read again.
    """
    family, means, total = mixture.family, mixture.means, jnp.sum(moments.mass)
    ridge = Ridge(settings.ridge)

    def expected(point: Point) -> Array:
        new = maximise(moments_at(point, total), point.means, family, mixture.scales, settings.prior_with_ridge)
        kind, mass = family.kind, moments.mass
        _, scatter = recentre(kind, mass, moments.first, moments.second, new.means - means)
        scatter = scatter + ridge.pseudo(kind, mass, means).of_components.scatter
        log_weights = jnp.where(mass > 0.0, new.log_weights, 0.0)
        terms = mass * (log_weights - 0.5 * new.scales.log_det())
        raised = jnp.sum(terms) - 0.5 * jnp.sum(new.scales.distances(scatter))
        if settings.prior is not None:
            raised += in_dtype(settings.prior, means.dtype).log_density(new, mass)
        return raised / total

    return jax.grad(expected)(here)


def natural_gradient(kind: Kind, here: Point, slope: Point) -> Array:
    """A gradient times the inverse complete-data information at the point: the direction of a plain EM step."""
    n_features = here.means.shape[1]
    weights = jax.nn.softmax(here.log_weights)
    weights = jnp.where(weights > 0.0, weights, 1.0)
    return flat(
        Point(
            slope.log_weights / weights,
            kind.along_means(here.scatter, slope.means, n_features) / weights[:, None],
            kind.natural(here.scatter, slope.scatter, n_features) / _mass_of(here.scatter, weights),
        )
    )


def flat(point: Point) -> Array:
    """The point as one vector (P,)."""
    return ravel_pytree(finite(point))[0]


def finite(point: Point) -> Point:
    """The point with log weight 0 instead of −inf for a component of weight 0."""
    is_there = jnp.isfinite(point.log_weights)
    return point._replace(log_weights=jnp.where(is_there, point.log_weights, 0.0))


def present(point: Point, target: Point) -> Point:
    """The point, in which components that have weight 0 in EM's target get weight 0 and the target's mean."""
    is_there = jnp.isfinite(target.log_weights)
    return Point(
        jnp.where(is_there, point.log_weights, -jnp.inf),
        jnp.where(is_there[:, None], point.means, target.means),
        point.scatter,
    )


def _mass_of(scatter: Array, mass: Array) -> Array:
    """The mass of each scatter matrix, shaped to divide it: that of a component, or of all where they are pooled."""
    of = mass if len(scatter) == len(mass) else jnp.sum(mass)[None]
    return of.reshape(-1, *[1] * (scatter.ndim - 1))

"""The maximisation step: from moments to a mixture."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from ..covariances import Covariance
from ..families import NO_PRIOR, Family
from ..mixture import Mixture
from ..moments import Kind, Moments


def maximise(moments: Moments, means: Array, family: Family, previous: Covariance | None, ridge: Any) -> Mixture:
    """The mixture that moments about `means` (K, D) ask for. Bishop 2006, eqs. 9.24–9.26.

    Total: a component without mass keeps its mean and gets weight 0. `previous` is where an inner iteration starts.
    ridge: () or (D,), added to the diagonal of every covariance.
    """
    mass, n_features = moments.mass, means.shape[1]
    shift = moments.first / jnp.where(mass > 0.0, mass, 1.0)[:, None]
    scatter = moments.second - family.kind.outer(mass, shift) + ridge_scatter(family.kind, mass, ridge, n_features)
    scales = family.estimate(scatter, mass, n_features, NO_PRIOR, previous)
    return Mixture(log_shares(mass), means + shift, scales, family)


def ridge_scatter(kind: Kind, mass: Array, ridge: Any, n_features: int) -> Array:
    """What a ridge, () or (D,), adds to the scatter of components of this mass (K,), of the kind's shape."""
    return kind.diagonal(mass, jnp.broadcast_to(jnp.asarray(ridge, mass.dtype), n_features))


def log_shares(mass: Array) -> Array:
    """Logarithms of the components' shares of the mass (K,), −inf for one without any."""
    share = mass / jnp.sum(mass)
    # The logarithm never sees a 0, whose infinite slope would make every gradient NaN.
    return jnp.where(share > 0.0, jnp.log(jnp.where(share > 0.0, share, 1.0)), -jnp.inf)

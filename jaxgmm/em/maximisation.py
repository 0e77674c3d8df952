"""The maximisation step: from moments to a mixture."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from ..covariances import Covariance
from ..families import Family
from ..mixture import Mixture
from ..moments import Moments
from ..priors import Prior, in_dtype, plus


def maximise(moments: Moments, means: Array, family: Family, previous: Covariance | None, prior: Prior) -> Mixture:
    """The mixture estimated from moments about `means` (K, D) and a prior. Bishop 2006, eqs. 9.24–9.26.

    Total: a component without mass keeps its mean, unless the prior moves it, and gets weight 0. `previous` is where
    an inner iteration starts.
    """
    prior = in_dtype(prior, means.dtype)
    mass, n_features = moments.mass, means.shape[1]
    shift = moments.first / jnp.where(mass > 0.0, mass, 1.0)[:, None]
    of_rows = means + shift
    new = prior.means(mass, of_rows, previous)
    scatter = moments.second - family.kind.outer(mass, shift)
    if new is not of_rows:
        scatter = scatter + family.kind.outer(mass, new - of_rows)
    added, of_matrices = prior.pseudo(family.kind, mass, new)
    scales = family.estimate(plus(scatter, added.scatter), plus(mass, added.mass), n_features, of_matrices, previous)
    return Mixture(log_shares(mass), new, scales, family)


def log_shares(mass: Array) -> Array:
    """Logarithms of the components' shares of the mass (K,), −inf for one without any."""
    share = mass / jnp.sum(mass)
    # The logarithm is never taken of 0: its infinite slope would make every gradient NaN.
    return jnp.where(share > 0.0, jnp.log(jnp.where(share > 0.0, share, 1.0)), -jnp.inf)

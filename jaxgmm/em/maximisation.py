"""The maximisation step: from moments to a mixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from .._base.linalg import any_lane
from .._base.namespace import is_numpy, xp_of
from ..covariances import Covariance, rounding_of
from ..families import Family, per_mass
from ..mixture import Mixture
from ..moments import Kind, Moments
from ..priors import Prior, in_dtype, plus


def maximise(moments: Moments, means: Array, family: Family, previous: Covariance | None, prior: Prior) -> Mixture:
    """The mixture estimated from moments about `means` (K, D) and a prior. Bishop 2006, eqs. 9.24–9.26.

    Total: a component without mass keeps its mean, unless the prior moves it, and gets weight 0. `previous` is where
    an inner iteration starts.
    """
    prior = prior if is_numpy(means) else in_dtype(prior, means.dtype)
    mass, n_features = moments.mass, means.shape[-1]
    shift = moments.first / xp_of(mass).where(mass > 0.0, mass, 1.0)[..., None]
    of_rows = means + shift
    new = prior.means(mass, of_rows, previous)
    scatter = moments.second - family.kind.outer(mass, shift)
    if new is not of_rows:
        scatter = scatter + family.kind.outer(mass, new - of_rows)
    added, of_matrices = prior.pseudo(family.kind, mass, new)
    whole, total = plus(scatter, added.scatter), plus(mass, added.mass)

    def estimate(scatter: Array) -> Covariance:
        return family.estimate(scatter, total, n_features, of_matrices, previous)

    if family.kind.is_diagonal or isinstance(added.scatter, (float, int)):
        scales = estimate(whole)
    else:
        scales = _factored(family.kind, estimate, whole, total, added.scatter)
    return Mixture(log_shares(mass), new, scales, family)


def _factored(
    kind: Kind, estimate: Callable[[Array], Covariance], scatter: Array, mass: Array, added: Array
) -> Covariance:
    """The estimated covariances. Under a ridge those that rounding has made indefinite are estimated once more, with
    the rounding error of the sums added.

    With a ridge the exact sums are positive definite. Rounding outweighs a small one where a component has no more rows
    than features, or a feature is the sum of others: above all in float32, and in steps that move a mean far, whose
    sums were taken about another point. The next steps, about better means, need it no more.
    """
    first = estimate(scatter)
    xp: Any = xp_of(scatter)
    has_ridge = (added.diagonal(axis1=-2, axis2=-1) > 0.0).all(axis=-1).any(axis=-1, keepdims=True)
    wanted = ~first.is_definite() & has_ridge
    wanted = wanted if xp is np else lax.stop_gradient(wanted)

    def again() -> Covariance:
        own = mass if scatter.shape[-3] > 1 else mass.sum(axis=-1, keepdims=True)
        largest = per_mass(scatter, own, 0.0).diagonal(axis1=-2, axis2=-1).max(axis=-2)
        amount = 8.0 * rounding_of(largest.shape[-1], largest.dtype) * largest
        found = estimate(scatter + kind.diagonal(mass, amount))

        def choose(new: Array, old: Array) -> Array:
            if new.shape[: wanted.ndim] != wanted.shape:  # shared by the components
                return new
            return xp.where(wanted.reshape(wanted.shape + (1,) * (new.ndim - wanted.ndim)), new, old)

        return jax.tree.map(choose, found, first)

    if xp is np:
        return again() if wanted.any() else first
    # Not as a second turn of one loop: that compiles in no less time, and costs a small step a twentieth.
    return lax.cond(any_lane(wanted.any()), again, lambda: first)


def log_shares(mass: Array) -> Array:
    """Logarithms of the components' shares of the mass (K,), −inf for one without any."""
    xp: Any = xp_of(mass)
    share = mass / mass.sum(axis=-1, keepdims=True)
    # The logarithm is never taken of 0: its infinite slope would make every gradient NaN.
    return xp.where(share > 0.0, xp.log(xp.where(share > 0.0, share, 1.0)), -np.inf)

"""The maximisation step: from moments to a mixture."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._base.linalg import any_lane
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
    prior = in_dtype(prior, means.dtype)
    mass, n_features = moments.mass, means.shape[1]
    shift = moments.first / jnp.where(mass > 0.0, mass, 1.0)[:, None]
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
    has_ridge = jnp.any(jnp.all(jnp.diagonal(added, axis1=-2, axis2=-1) > 0.0, axis=-1))
    variances = jnp.diagonal(per_mass(scatter, mass if len(scatter) > 1 else jnp.sum(mass), 0.0), axis1=-2, axis2=-1)
    amount = 8.0 * rounding_of(variances.shape[-1], variances.dtype) * jnp.max(variances, axis=0)

    def turn(scales: Covariance, is_second: Array) -> tuple[Covariance, None]:
        wanted = (lax.stop_gradient(~scales.is_definite()) & has_ridge) | ~is_second

        def estimated() -> Covariance:
            found = estimate(scatter + kind.diagonal(mass, jnp.where(is_second, amount, 0.0)))

            def choose(new: Array, old: Array) -> Array:
                if len(new) != len(wanted):
                    return new
                return jnp.where(jnp.reshape(wanted, (-1,) + (1,) * (new.ndim - 1)), new, old)

            return jax.tree.map(choose, found, scales)

        return lax.cond(any_lane(jnp.any(wanted)), estimated, lambda: scales), None

    # Two turns of one loop, so that the factorisation, the largest part of a small step's program, is compiled once.
    # `full_like` and not `zeros`: inside a user's `shard_map` the type says along which axes values differ.
    nothing = jax.tree.map(lambda leaf: lax.full_like(leaf, 0), jax.eval_shape(estimate, scatter))
    return lax.scan(turn, nothing, jnp.array([False, True]))[0]


def log_shares(mass: Array) -> Array:
    """Logarithms of the components' shares of the mass (K,), −inf for one without any."""
    share = mass / jnp.sum(mass)
    # The logarithm is never taken of 0: its infinite slope would make every gradient NaN.
    return jnp.where(share > 0.0, jnp.log(jnp.where(share > 0.0, share, 1.0)), -jnp.inf)

"""The interface of priors. To add one, write these methods; no other code depends on which prior it is."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from ..covariances import Covariance
from ..families import NO_PRIOR, Pseudo
from ..mixture import Mixture
from ..moments import Kind

AnyPrior = TypeVar("AnyPrior", bound="Prior")


class Additions(NamedTuple):
    """Pseudo-rows that a prior adds to the observed rows. Plain 0.0s add nothing to a program.

    of_components: added to each component, before a family pools any. mass () or (K,), scatter of the kind's shape,
    made by `kind.outer` and `kind.diagonal` for K components. of_matrices: added to each covariance matrix that is
    estimated, so only once where components share it; mass (), scatter of the kind of one matrix:
    `kind.project(matrix[None])`.
    """

    of_components: Pseudo = NO_PRIOR
    of_matrices: Pseudo = NO_PRIOR


class Prior(Protocol):
    """A density p of means and covariances, under which EM raises Σ weight · log-likelihood + log p: it finds a
    posterior mode (Fraley and Raftery 2007; Gauvain and Lee 1994).

    A pytree: a frozen dataclass under `jax.tree_util.register_dataclass`, whose numbers are traced and are brought to
    the mixture's dtype before a method is called. Methods are pure and total: they handle components of mass 0, too.

    With rows that weigh mass_k and have mean x̄_k, the M-step makes the means first and then, given those, the
    covariances that maximise

        −½ Σ_k [(mass_k + a_k) log|Σ_k| + tr((S_k + A_k) Σ_k⁻¹)]  −½ Σ_matrices [b log|Σ| + tr(B Σ⁻¹)]

    within the family, where S_k is the scatter about the new means and (a_k, A_k), (b, B) are the `pseudo` rows. EM
    never lowers the posterior where `means` raises it given the covariances, and `pseudo` is right given the means.
    """

    def means(self, mass: Array, means: Array, scales: Covariance | None) -> Array:
        """The new means, (K, D), from the rows' own means (K, D) and mass (K,).

        scales: the covariances before the step, for a prior that is not in their units; None where there are none yet.
        (The gradient that "lbfgs" uses treats them as constants; its proposals are judged all the same.)
        """
        ...

    def pseudo(self, kind: Kind, mass: Array, means: Array) -> Additions:
        """The additions to the sums that covariances are estimated from, given the new means (K, D).

        kind: which second moment the family keeps; it computes scatter of its shape. mass (K,): of the rows.
        """
        ...

    def log_density(self, mixture: Mixture, mass: Array) -> Array:
        """log p of the mixture's means and covariances, nats, up to a constant. -> ().

        mass (K,): of the rows. A density does not depend on it; a penalty that grows with the rows, as the ridge's,
        does. `pseudo_log_density` computes it from pseudo-rows.
        """
        ...


def pseudo_log_density(pseudo: Additions, mixture: Mixture) -> Array:
    """−½ Σ_k (a_k log|Σ_k| + tr(A_k Σ_k⁻¹)) −½ Σ_matrices (b log|Σ| + tr(B Σ⁻¹)), nats. -> ().

    pseudo: at the mixture's own means. It is log p where p is conjugate (normal, inverse Wishart), up to a constant.
    """
    scales = mixture.scales
    n_components, log_det = mixture.n_components, scales.log_det()
    (mass, scatter), (mass_of_each, scatter_of_each) = pseudo
    taken = jnp.sum(jnp.broadcast_to(mass * log_det, n_components)) + jnp.sum(mass_of_each * log_det)
    if not _is_nothing(scatter):
        taken += jnp.sum(scales.distances(jnp.asarray(scatter)))
    if not _is_nothing(scatter_of_each):
        one = jnp.asarray(scatter_of_each)
        taken += jnp.sum(scales.distances(jnp.broadcast_to(one, (len(log_det), *one.shape[1:]))))
    return -0.5 * taken


def plus(sums: Array, more: Array | float) -> Array:
    """Sums plus what a prior adds to them; adding a plain 0.0 compiles to nothing."""
    return sums if _is_nothing(more) else sums + more


def _is_nothing(more: Array | float) -> bool:
    return isinstance(more, float) and more == 0.0


def in_dtype(prior: AnyPrior, dtype: Any) -> AnyPrior:
    """The prior with its real numbers in a given dtype. The one place where that is done, inside the programs, so that
    it does not matter in which dtype JAX's x64 setting lets them come in."""

    def one(leaf: Any) -> Any:
        return jnp.asarray(leaf, dtype) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    return jax.tree.map(one, prior)

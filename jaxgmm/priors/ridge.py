"""The ridge: it smears every row a little along each feature, so that no variance falls below its amount."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from .._base.linalg import of_rank
from .._base.namespace import xp_of
from ..covariances import Covariance
from ..families import Pseudo
from ..mixture import Mixture
from ..moments import Kind
from ._prior import Additions, Prior


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ridge:
    """Adds mass_k · diag(amount) to each component's scatter, and so `amount`, () or (D,), to variances.

    With it EM raises Σ weight · log-likelihood − ½ Σ_k mass_k tr(diag(amount) Σ_k⁻¹). This penalty grows with the rows,
    so it is no density of the parameters and no part of the reported objective (scikit-learn's `reg_covar`).
    """

    amount: Any

    def means(self, mass: Array, means: Array, scales: Covariance | None) -> Array:
        del mass, scales
        return means

    def pseudo(self, kind: Kind, mass: Array, means: Array) -> Additions:
        values = xp_of(mass).full(means.shape[-1], self.amount, mass.dtype)
        return Additions(Pseudo(0.0, kind.diagonal(mass, values)))

    def log_density(self, mixture: Mixture, mass: Array) -> Array:
        return -0.5 * (mass * self.traces(mixture)).sum()

    def traces(self, mixture: Mixture) -> Array:
        """tr(diag(amount) Σ_k⁻¹), which is no less than the ridge's share of the smallest variance. -> (K,)."""
        precisions = mixture.scales.precision_diagonal()
        xp: Any = xp_of(precisions)
        amount = xp.full(precisions.shape[-1], self.amount, precisions.dtype)
        trace = (of_rank(amount, precisions.ndim) * precisions).sum(axis=-1)
        shape = mixture.log_weights.shape
        return trace if trace.shape == shape else xp.broadcast_to(trace, shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ridged:
    """A prior and the ridge, applied together. The ridge smears the observed rows alone: mass_k · diag(amount)."""

    prior: Prior
    ridge: Ridge

    def means(self, mass: Array, means: Array, scales: Covariance | None) -> Array:
        return self.prior.means(mass, means, scales)

    def pseudo(self, kind: Kind, mass: Array, means: Array) -> Additions:
        (own_mass, own_scatter), of_matrices = self.prior.pseudo(kind, mass, means)
        ridge = self.ridge.pseudo(kind, mass, means).of_components.scatter
        return Additions(Pseudo(own_mass, own_scatter + ridge), of_matrices)

    def log_density(self, mixture: Mixture, mass: Array) -> Array:
        return self.prior.log_density(mixture, mass) + self.ridge.log_density(mixture, mass)

"""A family, a prior and a criterion as a stranger writes them in a package of their own: with public names alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgmm import criteria, families, priors


@jax.tree_util.register_static
@dataclass(frozen=True)
class SharedSpherical:
    """mclust's EII: one variance for everything."""

    name: str = "EII"
    kind: families.Kind = families.TRACE

    def estimate(self, scatter, mass, n_features, prior, previous):
        pooled = jnp.sum(scatter, keepdims=True) + prior.scatter
        variance = families.per_mass(pooled / n_features, jnp.sum(mass) + prior.mass, 1.0)
        return families.SphericalCovariance(variance, n_features)

    def n_free(self, n_components, n_features):
        return 1

    def read(self, covariances, n_features):
        return families.project(self, covariances)

    def show(self, covariance, n_components):
        return families.show_dense(covariance, n_components)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ShrunkMeans:
    """Normal(centre, Σ_k / strength) of each mean: as if `strength` more rows of every component lay at the centre."""

    centre: Any  # (D,)
    strength: Any  # ()

    def means(self, mass, means, scales):
        mass = mass[:, None]
        total = mass + self.strength
        shrunk = (mass * means + self.strength * self.centre[None]) / jnp.where(total > 0.0, total, 1.0)
        return jnp.where(total > 0.0, shrunk, means)

    def pseudo(self, kind, mass, means):
        each = jnp.full_like(mass, self.strength)
        return priors.Additions(of_components=families.Pseudo(1.0, kind.outer(each, means - self.centre[None])))

    def log_density(self, mixture, mass):
        return priors.pseudo_log_density(self.pseudo(mixture.family.kind, mass, mixture.means), mixture)


@dataclass(frozen=True)
class ConsistentAIC:
    """Bozdogan 1987: −2 log L + p (log n + 1)."""

    name: str = "caic"
    larger_is_better: bool = False
    needs_folds: bool = False

    def of(self, evidence: criteria.Evidence) -> float:
        return -2.0 * evidence.log_likelihood + evidence.n_parameters * (np.log(evidence.n) + 1.0)

"""`spherical` (mclust's VII): every component has one variance for all features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from ..covariances import Spherical as SphericalCovariance
from ..moments import TRACE, Kind
from ._family import Pseudo, per_mass, project


@jax.tree_util.register_static
@dataclass(frozen=True)
class Spherical:
    name: str = field(default="spherical", init=False)
    kind: Kind = field(default=TRACE, init=False)

    def estimate(
        self, scatter: Array, mass: Array, n_features: int, prior: Pseudo, previous: Any
    ) -> SphericalCovariance:
        del previous
        variance = per_mass((scatter + prior.scatter) / n_features, mass + prior.mass, 1.0)
        return SphericalCovariance(variance, n_features)

    def n_free(self, n_components: int, n_features: int) -> int:
        del n_features
        return n_components

    def read(self, covariances: Array, n_features: int) -> SphericalCovariance:
        if covariances.ndim == 1:
            return SphericalCovariance(covariances, n_features)
        return project(self, covariances)

    def show(self, covariance: SphericalCovariance, n_components: int) -> Array:
        del n_components
        return covariance.variance

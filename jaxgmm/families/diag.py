"""`diag` (mclust's VVI): every component has a variance for each feature."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from ..covariances import Diagonal
from ..moments import DIAGONAL, Kind
from ._family import Pseudo, per_mass, project


@jax.tree_util.register_static
@dataclass(frozen=True)
class Diag:
    name: str = field(default="diag", init=False)
    kind: Kind = field(default=DIAGONAL, init=False)

    def estimate(self, scatter: Array, mass: Array, n_features: int, prior: Pseudo, previous: Any) -> Diagonal:
        del n_features, previous
        return Diagonal(per_mass(scatter + prior.scatter, mass + prior.mass, 1.0))

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def read(self, covariances: Array, n_features: int) -> Diagonal:
        del n_features
        return Diagonal(covariances) if covariances.ndim == 2 else project(self, covariances)

    def show(self, covariance: Diagonal, n_components: int) -> Array:
        del n_components
        return covariance.diagonal

"""`EEI`: all components share one diagonal covariance matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from ..covariances import Diagonal
from ..moments import DIAGONAL, Kind
from ._family import Pseudo, per_mass, project, show_dense


@jax.tree_util.register_static
@dataclass(frozen=True)
class EEI:
    name: str = field(default="EEI", init=False)
    kind: Kind = field(default=DIAGONAL, init=False)

    def estimate(self, scatter: Array, mass: Array, n_features: int, prior: Pseudo, previous: Any) -> Diagonal:
        del n_features, previous
        pooled = scatter.sum(axis=-2, keepdims=True)
        return Diagonal(per_mass(pooled + prior.scatter, mass.sum(axis=-1, keepdims=True) + prior.mass, 1.0))

    def n_free(self, n_components: int, n_features: int) -> int:
        del n_components
        return n_features

    def read(self, covariances: Array, n_features: int) -> Diagonal:
        del n_features
        return project(self, covariances)

    def show(self, covariance: Diagonal, n_components: int) -> Array:
        return show_dense(covariance, n_components)

"""`tied` (mclust's EEE): all components share one covariance matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from .._base.linalg import cholesky
from .._base.namespace import xp_of
from ..covariances import Dense
from ..moments import POOLED, Kind
from ._family import Pseudo, per_mass, project


@jax.tree_util.register_static
@dataclass(frozen=True)
class Tied:
    name: str = field(default="tied", init=False)
    kind: Kind = field(default=POOLED, init=False)

    def estimate(self, scatter: Array, mass: Array, n_features: int, prior: Pseudo, previous: Any) -> Dense:
        del previous
        identity = xp_of(scatter).eye(n_features, dtype=scatter.dtype)
        return Dense(
            cholesky(per_mass(scatter + prior.scatter, mass.sum(axis=-1, keepdims=True) + prior.mass, identity))
        )

    def n_free(self, n_components: int, n_features: int) -> int:
        del n_components
        return n_features * (n_features + 1) // 2

    def read(self, covariances: Array, n_features: int) -> Dense:
        del n_features
        return Dense.of(covariances[None]) if covariances.ndim == 2 else project(self, covariances)

    def show(self, covariance: Dense, n_components: int) -> Array:
        del n_components
        return covariance.dense()[0]

"""`full` (mclust's VVV): every component has a covariance matrix of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from .._base.linalg import cholesky
from .._base.namespace import xp_of
from ..covariances import Dense
from ..moments import FULL, Kind
from ._family import Pseudo, per_mass, show_dense


@jax.tree_util.register_static
@dataclass(frozen=True)
class Full:
    name: str = field(default="full", init=False)
    kind: Kind = field(default=FULL, init=False)

    def estimate(self, scatter: Array, mass: Array, n_features: int, prior: Pseudo, previous: Any) -> Dense:
        del previous
        identity = xp_of(scatter).eye(n_features, dtype=scatter.dtype)
        return Dense(cholesky(per_mass(scatter + prior.scatter, mass + prior.mass, identity)))

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components * (n_features * (n_features + 1) // 2)

    def read(self, covariances: Array, n_features: int) -> Dense:
        del n_features
        return Dense.of(covariances)

    def show(self, covariance: Dense, n_components: int) -> Array:
        return show_dense(covariance, n_components)

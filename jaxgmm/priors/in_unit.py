"""A prior beside rows whose weights are kept in another unit than the user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..covariances import Covariance
from ..families import Pseudo
from ..mixture import Mixture
from ..moments import Kind
from ._prior import Additions, Prior, _is_nothing

MOST = 60
"""Largest exponent that is told apart: a prior that weighs 1e18 times what the rows do, or they what it does, decides
all digits, and its square still fits into float32."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InUnit:
    """A prior, whose pseudo-rows count in the user's weights, for sums of weights in units of 2^exponent."""

    prior: Prior
    exponent: Any  # (): int32

    def _unit(self, dtype: Any) -> Array:
        return jnp.exp2(jnp.clip(jnp.asarray(self.exponent), -MOST, MOST).astype(dtype))

    def means(self, mass: Array, means: Array, scales: Covariance | None) -> Array:
        return self.prior.means(mass * self._unit(mass.dtype), means, scales)

    def pseudo(self, kind: Kind, mass: Array, means: Array) -> Additions:
        unit = self._unit(mass.dtype)

        def one(more: Pseudo) -> Pseudo:
            return Pseudo(*(part if _is_nothing(part) else part / unit for part in more))

        return Additions(*map(one, self.prior.pseudo(kind, mass * unit, means)))

    def log_density(self, mixture: Mixture, mass: Array) -> Array:
        unit = self._unit(mass.dtype)
        return self.prior.log_density(mixture, mass * unit) / unit

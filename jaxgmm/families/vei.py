"""`VEI`: diagonal covariances λ_k A of one common shape A (det A = 1), each with a volume λ_k of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..covariances import Diagonal
from ..moments import DIAGONAL, Kind
from ._family import Pseudo, per_mass, project, show_dense

INNER_STEPS = 20
"""Rounds of the inner iteration, each of K·D operations. Fixed, so that a step is differentiable in reverse mode; it
starts from the previous shape, so over EM steps it converges however few rounds one step makes."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class VEI:
    name: str = field(default="VEI", init=False)
    kind: Kind = field(default=DIAGONAL, init=False)

    def estimate(self, scatter: Array, mass: Array, n_features: int, prior: Pseudo, previous: Any) -> Diagonal:
        # Celeux and Govaert 1995, model [λ_k A]: volumes given the shape, then the shape given the volumes, in turn.
        # In logarithms, so that no product over features overflows or underflows in float32.
        del n_features
        mass = mass + prior.mass
        variances = per_mass(scatter + prior.scatter, mass, 1.0)
        total = jnp.sum(mass)
        share = jnp.where(total > 0.0, mass / jnp.where(total > 0.0, total, 1.0), 1.0)

        def volumes(log_shape: Array) -> Array:
            return jnp.mean(variances * jnp.exp(-log_shape)[None], axis=1)

        def improve(_: int, log_shape: Array) -> Array:
            relative = jnp.sum(share[:, None] * variances / volumes(log_shape)[:, None], axis=0)
            log_relative = jnp.log(relative)
            return log_relative - jnp.mean(log_relative)

        if previous is None:
            start = jnp.zeros_like(variances[0])
        else:
            log_previous = jnp.log(previous.diagonal[jnp.argmax(mass)])
            start = log_previous - jnp.mean(log_previous)
        log_shape = lax.fori_loop(0, INNER_STEPS, improve, start)
        return Diagonal(volumes(log_shape)[:, None] * jnp.exp(log_shape)[None])

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1

    def read(self, covariances: Array, n_features: int) -> Diagonal:
        del n_features
        return project(self, covariances)

    def show(self, covariance: Diagonal, n_components: int) -> Array:
        return show_dense(covariance, n_components)

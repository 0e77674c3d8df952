"""`VEI`: diagonal covariances λ_k A of one common shape A (det A = 1), each with a volume λ_k of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from .._base.namespace import xp_of
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
        xp: Any = xp_of(scatter, mass)
        mass = mass + prior.mass
        variances = per_mass(scatter + prior.scatter, mass, 1.0)
        total = mass.sum(axis=-1, keepdims=True)
        share = xp.where(total > 0.0, mass / xp.where(total > 0.0, total, 1.0), 1.0)

        def volumes(log_shape: Array) -> Array:
            return xp.mean(variances * xp.exp(-log_shape)[..., None, :], axis=-1)

        def improve(_: int, log_shape: Array) -> Array:
            relative = xp.sum(share[..., None] * variances / volumes(log_shape)[..., None], axis=-2)
            log_relative = xp.log(relative)
            return log_relative - xp.mean(log_relative, axis=-1, keepdims=True)

        if previous is None:
            start = xp.zeros_like(variances[..., 0, :])
        else:
            heaviest = xp.argmax(mass, axis=-1)[..., None, None]
            log_previous = xp.log(xp.take_along_axis(previous.diagonal, heaviest, axis=-2)[..., 0, :])
            start = log_previous - xp.mean(log_previous, axis=-1, keepdims=True)
        if xp is np:
            log_shape = functools.reduce(lambda log_shape, step: improve(step, log_shape), range(INNER_STEPS), start)
        else:
            log_shape = lax.fori_loop(0, INNER_STEPS, improve, start)
        return Diagonal(volumes(log_shape)[..., None] * xp.exp(log_shape)[..., None, :])

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1

    def read(self, covariances: Array, n_features: int) -> Diagonal:
        del n_features
        return project(self, covariances)

    def show(self, covariance: Diagonal, n_components: int) -> Array:
        return show_dense(covariance, n_components)

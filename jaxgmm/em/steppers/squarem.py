"""SQUAREM: extrapolates two steps, as if all later ones shrank alike (Varadhan and Roland 2008, scheme S3)."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from .memory import Memory, dot


def squarem(memory: Memory, step: Array, natural: Callable[[Array], Array]) -> Array:
    """Extrapolates from the last point but one: r is the step from there, v the next step minus r."""
    del step, natural
    r, v = memory.pairs.moves[-1], memory.pairs.changes[-1]
    alpha = -jnp.minimum(-1.0, -jnp.sqrt(dot(r, r) / dot(v, v)))
    return 2.0 * alpha * r + alpha * alpha * v - r

"""Anderson acceleration: the combination of the last points whose combined EM step is smallest, by least squares with
a small ridge (Walker and Ni 2011; monotone as in Henderson and Varadhan 2019)."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from ..._base.linalg import cholesky, einsum, inverse_lower
from .memory import MEMORY, Memory


def anderson(memory: Memory, step: Array, natural: Callable[[Array], Array]) -> Array:
    """Least squares over the remembered differences of steps, each scaled to length one, with a small ridge."""
    del natural
    pairs = memory.pairs
    length = jnp.sqrt(jnp.sum(jnp.square(pairs.changes), axis=1))
    scale = jnp.where(pairs.is_kept & (length > 0.0), 1.0 / jnp.where(length > 0.0, length, 1.0), 0.0)
    unit = pairs.changes * scale[:, None]
    gram = einsum("ip,jp->ij", unit, unit)
    damping = 10.0 * MEMORY * jnp.finfo(step.dtype).eps
    whitener = inverse_lower(
        cholesky(gram + jnp.eye(MEMORY, dtype=step.dtype) * jnp.where(scale > 0.0, damping, 1.0)[None])
    )
    share = einsum("ji,jk,k->i", whitener, whitener, einsum("ip,p->i", unit, step)) * scale
    return step - einsum("i,ip->p", share, pairs.moves + pairs.changes)

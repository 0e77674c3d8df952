"""L-BFGS: ascent with the curvature estimated from the last gradients, initialised with that of EM's own step
(Jamshidian and Jennrich 1997; the two loops of Nocedal 1980)."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from .memory import Memory, dot


def lbfgs(memory: Memory, step: Array, natural: Callable[[Array], Array]) -> Array:
    """The inverse Hessian estimated from the remembered pairs, times the gradient."""
    del step
    moves, changes = memory.pairs.moves, -memory.pairs.changes  # of a function to be minimised
    is_kept = memory.pairs.is_kept
    product = jnp.sum(moves * changes, axis=1)
    rate = jnp.where(is_kept, 1.0 / jnp.where(is_kept, product, 1.0), 0.0)

    def back(left: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        move, change, rate = pair
        share = rate * dot(move, left)
        return left - share * change, share

    def forth(right: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        move, change, rate, share = pair
        return right + move * (share - rate * dot(change, right)), None

    left, shares = lax.scan(back, memory.seen.told, (moves, changes, rate), reverse=True)
    return lax.scan(forth, natural(left), (moves, changes, rate, shares))[0]

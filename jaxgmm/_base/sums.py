"""Sums over rows and over chunks."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from .linalg import einsum

Tree = TypeVar("Tree")


def compensated_add(total: Tree, error: Tree, term: Tree) -> tuple[Tree, Tree]:
    """One step of a compensated sum (Neumaier 1974): the new total, and the rounding error to add to it at the end.

    A float32 sum of a million rows resolves 1e-1 of a row without it, and 1e-7 of the whole with it; the sums are
    tiny beside the rows, so it costs nothing.
    """

    def one(total: Array, error: Array, term: Array) -> tuple[Array, Array]:
        new = total + term
        lost = jnp.where(jnp.abs(total) >= jnp.abs(term), (total - new) + term, (term - new) + total)
        return new, error + lost

    pairs = jax.tree.map(one, total, error, term)
    new, owed = jax.tree.transpose(jax.tree.structure(total), jax.tree.structure((0, 0)), pairs)
    return new, owed


def sum_over_rows(x: Array) -> Array:
    """Sums over the last axis, that of a chunk's rows. (K, n) -> (K,).

    On CPU this is a product with ones: XLA computes a plain sum in two passes (see `benchmarks/README.md`). In float32
    its error is 2e-7 for 8,192 rows, a long chunk, and would be 2e-6 for a million.
    """
    return lax.platform_dependent(x, cpu=_sum_by_product, default=partial(jnp.sum, axis=-1))


def _sum_by_product(x: Array) -> Array:
    return einsum("kn,n->k", x, jnp.ones(x.shape[-1], x.dtype))

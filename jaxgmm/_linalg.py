"""Small linear algebra, with the precision of every product stated.

On NVIDIA cards JAX rounds the operands of a float32 product to TF32 (10 bits) unless told otherwise, and log-densities
are then off by up to 0.5 nats. So no module of this package multiplies matrices except through `einsum` below.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap


def einsum(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` at the full precision of its operands, on every device and whatever the user's global default."""
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST)


def cholesky(matrices: Array) -> Array:
    """Lower Cholesky factor of the symmetric part. (..., D, D) -> (..., D, D); NaN where not positive definite."""
    symmetric = 0.5 * (matrices + jnp.swapaxes(matrices, -1, -2))
    return jnp.linalg.cholesky(symmetric, symmetrize_input=False)


def inverse_lower(factor: Array) -> Array:
    """Inverse of a lower triangular factor. (..., D, D) -> (..., D, D).

    Inverting K small factors once a step lets every row be whitened by a product: a triangular solve per row is ten to
    forty times slower on CPU and no more accurate, since the error of the factor itself dominates.
    """
    identity = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


def quadratic_features(rows: Array) -> Array:
    """Each row beside the products of its entries, each pair once. (n, D) -> (n, D + D(D+1)/2).

    A quadratic form in x is linear in these, so Mahalanobis distances and second moments of all components become one
    matrix product each, at half the arithmetic of the square form.
    """
    first, second = np.triu_indices(rows.shape[-1])
    return jnp.concatenate([rows, rows[:, first] * rows[:, second]], axis=1)


def pack_symmetric(matrices: Array) -> Array:
    """The coefficients of `quadratic_features` that reproduce xᵀAx. (..., D, D) -> (..., D(D+1)/2)."""
    first, second = np.triu_indices(matrices.shape[-1])
    twice = np.where(first == second, 1.0, 2.0).astype(matrices.dtype)
    return matrices[..., first, second] * twice


def unpack_symmetric(packed: Array, n_features: int) -> Array:
    """Symmetric matrices from their upper triangles. (..., D(D+1)/2) -> (..., D, D)."""
    first, second = np.triu_indices(n_features)
    position = np.zeros((n_features, n_features), np.int32)
    position[first, second] = position[second, first] = np.arange(first.size)
    return packed[..., position]


@custom_vmap
def any_lane(predicate: Array) -> Array:
    """The predicate itself; under `vmap`, true for every lane as soon as it is true for one.

    A `lax.cond` whose predicate differs between lanes becomes a select that runs both branches. Reduced by this
    function it stays a cond, under nested `vmap` and inside `while_loop` too.
    """
    return predicate


@any_lane.def_vmap
def _any_lane_vmap(axis_size: int, in_batched: list[bool], predicate: Array) -> tuple[Array, bool]:
    del axis_size
    return (any_lane(jnp.any(predicate)) if in_batched[0] else predicate), False

"""Symmetric matrices as vectors of their distinct entries, and products that use the symmetry."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from .linalg import WHOLE_UP_TO, einsum, of_rank

PACKED_UP_TO = 24
"""Features up to which one product with all pairs of features beats one product per component (CPU, measured)."""

WRITTEN_OUT = 2
"""Features at which the products of one component are written out number by number, which XLA compiles to one loop: in
the SAFE form a step of 5,000 rows then takes half the time. With three nothing is gained, with four a step takes twice
as long (by hand, Zen 3)."""


def slabs(n_features: int) -> list[tuple[slice, slice]]:
    """Rectangles that cover the lower triangle of a D×D matrix: (rows, columns up to the last of these rows).

    Rectangles multiply whole blocks of features at a time, which for 16 features is six times as fast as picking the
    pairs of the exact triangle one by one, and costs a third more arithmetic in the products that follow. For up to
    four features single rows, that is the exact triangle, are best; for many features, quarters of the rows.
    """
    height = 1 if n_features <= 4 else 8 * -(-n_features // 32)
    stops = [*range(height, n_features, height), n_features]
    return [(slice(start, stop), slice(0, stop)) for start, stop in zip([0, *stops], stops, strict=False)]


def quadratic_features(x: Array) -> Array:
    """Each column, followed by the pairwise products of its entries. (D, n) -> (D + P, n), for the P pairs of `slabs`.

    A quadratic form in x is linear in these, so Mahalanobis distances and second moments of all components become one
    matrix product each.
    """
    products = [(x[i, None] * x[None, j]).reshape(-1, x.shape[1]) for i, j in slabs(len(x))]
    return jnp.concatenate([x, *products])


def pack_symmetric(matrices: Array) -> Array:
    """The coefficients of the products of `quadratic_features` that reproduce xᵀAx. (..., D, D) -> (..., P)."""
    n_features = matrices.shape[-1]
    # A pair that the rectangles contain once stands for two entries of the matrix.
    held = np.zeros((n_features, n_features))
    for i, j in slabs(n_features):
        held[i, j] += 1.0
    shares = of_rank(jnp.asarray(2.0 / (held + held.T) * (held > 0.0), matrices.dtype), matrices.ndim) * matrices
    flat = [shares[..., i, j].reshape(*matrices.shape[:-2], -1) for i, j in slabs(n_features)]
    return jnp.concatenate(flat, axis=-1)


def unpack_symmetric(packed: Array, n_features: int) -> Array:
    """Symmetric matrices from sums of the products of `quadratic_features`. (..., P) -> (..., D, D)."""
    position = np.zeros((n_features, n_features), np.int32)
    start = 0
    for i, j in slabs(n_features):
        shape = position[i, j].shape
        position[i, j] = np.arange(start, start + position[i, j].size).reshape(shape)
        start += position[i, j].size
    return packed[..., np.tril(position) + np.tril(position, -1).T]


def lower_squares(factor: Array, x: Array, mean: Array) -> Array:
    """|factor x − mean|² of every column, for a lower triangular factor. x (D, n) -> (n,).

    factor (D, D), mean (D,). Only the blocks of `slabs` are multiplied: five eighths of the full arithmetic.
    """
    if len(x) == WRITTEN_OUT:
        second = factor[1, 0] * x[0] + factor[1, 1] * x[1] - mean[1]
        return jnp.square(factor[0, 0] * x[0] - mean[0]) + jnp.square(second)
    if len(x) <= WHOLE_UP_TO // 2:
        return jnp.sum(jnp.square(einsum("ij,jn->in", factor, x) - mean[:, None]), axis=0)
    parts = [einsum("ij,jn->in", factor[i, j], x[j]) - mean[i, None] for i, j in slabs(len(x))]
    return sum((jnp.sum(part * part, axis=0) for part in parts), start=jnp.zeros(x.shape[1:], x.dtype))


def lower_product(x: Array, y: Array) -> Array:
    """The lower triangle of x yᵀ, and the other entries in `slabs`. x, y (D, n) -> (D, D), 0 elsewhere."""
    if len(x) <= WHOLE_UP_TO // 2:
        return einsum("in,jn->ij", x, y)
    rows = [einsum("in,jn->ij", x[i], y[j]) for i, j in slabs(len(x))]
    return jnp.concatenate([jnp.pad(row, ((0, 0), (0, len(x) - row.shape[1]))) for row in rows])


def mirror(matrices: Array) -> Array:
    """Symmetric matrices from their lower triangles. (..., D, D) -> (..., D, D)."""
    return jnp.tril(matrices) + jnp.swapaxes(jnp.tril(matrices, -1), -1, -2)

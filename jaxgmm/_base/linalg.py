"""Small linear algebra, with the precision of every product stated.

On NVIDIA cards JAX rounds the operands of a float32 product to TF32 (10 bits) unless told otherwise, and log-densities
are then off by up to 0.5 nats. So no module of this package multiplies matrices except through `einsum` below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from .namespace import is_numpy


def einsum(subscripts: str, *operands: Any) -> Any:
    """`jnp.einsum` at the full precision of its operands, on every device and whatever the user's global default.

    NumPy arrays are multiplied by NumPy: a few numbers on the host are not worth compiling a program.
    """
    if all(isinstance(x, np.ndarray) for x in operands):
        return np.einsum(subscripts, *operands)  # pyright: ignore
    if _is_batch_of_few(subscripts, operands):
        return _written_out(subscripts, operands)
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST)


FEW = 512
"""Multiplications per batch entry up to which a batched product is written out as a sum, which XLA compiles to one loop
over the whole batch. As matrix products they cost a microsecond each on CPU, however small, and a launch on a GPU."""


def _is_batch_of_few(subscripts: str, operands: tuple[Array, ...]) -> bool:
    if "." in subscripts:
        return False
    terms, result = _parsed(subscripts)
    batch = set(result).intersection(*terms)
    if not batch:
        return False
    sizes = {
        letter: size
        for term, x in zip(terms, operands, strict=True)
        for letter, size in zip(term, x.shape, strict=True)
    }
    return math.prod(size for letter, size in sizes.items() if letter not in batch) <= FEW


def _written_out(subscripts: str, operands: tuple[Array, ...]) -> Array:
    """Align the operands' axes, multiply them, and sum over the axes that the result does not have."""
    terms, result = _parsed(subscripts)
    letters = result + "".join(sorted(set("".join(terms)).difference(result)))

    def aligned(term: str, x: Array) -> Array:
        x = jnp.transpose(x, sorted(range(x.ndim), key=lambda axis: letters.index(term[axis])))
        return jnp.expand_dims(x, [axis for axis, letter in enumerate(letters) if letter not in term])

    product = math.prod(aligned(term, x) for term, x in zip(terms, operands, strict=True))
    return jnp.sum(product, axis=tuple(range(len(result), len(letters))))


def _parsed(subscripts: str) -> tuple[list[str], str]:
    inputs, result = subscripts.split("->")
    return inputs.split(","), result


def of_rank(x: Any, rank: int) -> Any:
    """An array with leading axes of length 1 up to a rank. Ranks are matched by hand, so that a mistake is an error
    under JAX's `jax_numpy_rank_promotion="raise"`, which users set too."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


def cholesky(matrices: Array) -> Array:
    """Lower Cholesky factor of the symmetric part. (..., D, D) -> (..., D, D); NaN where not positive definite."""
    symmetric = 0.5 * (matrices + matrices.swapaxes(-1, -2))
    return _factor_on_host(symmetric) if is_numpy(symmetric) else _factor(symmetric)


def _factor_on_host(symmetric: Any) -> Any:
    try:
        return np.linalg.cholesky(symmetric)
    except np.linalg.LinAlgError:
        each = [_factor_on_host(matrix) for matrix in symmetric] if symmetric.ndim > 2 else np.nan
        return np.full_like(symmetric, each)


def inverse_lower(factor: Array) -> Array:
    """Inverse of a lower triangular factor. (..., D, D) -> (..., D, D). By NumPy row by row: its own inverse exchanges
    rows, which loses digits where features are in very different units."""
    if not is_numpy(factor):
        return _inverse_by_doubling(factor)
    found: Any = np.zeros_like(factor)
    for i in range(factor.shape[-1]):
        found[..., i, :] = -np.matmul(factor[..., i : i + 1, :i], found[..., :i, :])[..., 0, :]
        found[..., i, i] = 1.0
        found[..., i, :] /= factor[..., i, i, None]
    return found


@jax.custom_jvp
def _inverse_by_doubling(factor: Array) -> Array:
    """`inverse_lower` in a program.

    Inverting K small factors once a step lets every row be whitened by a product: a triangular solve per row is ten to
    forty times slower on CPU and no more accurate, since the error of the factor itself dominates.

    By doubling: from the inverses A⁻¹, C⁻¹ of two neighbouring diagonal blocks and B below the first, the inverse of
    their joint block is [[A⁻¹, 0], [−C⁻¹ B A⁻¹, C⁻¹]] (Higham 2002, Accuracy and Stability of Numerical Algorithms,
    §14.2): log2 D products for all matrices together. LAPACK's solver is not used: on CPU it wakes BLAS threads, which
    keep spinning for milliseconds on the cores that the next products need, and for a batch it can hang (see
    `_one_by_one`).
    """
    n = factor.shape[-1]
    whole = 1 if n <= 4 else min(n, WHOLE_UP_TO)
    leading, size = factor.shape[:-2], n if n == whole else 1 << (n - 1).bit_length()
    padded = jnp.pad(factor, [(0, 0)] * len(leading) + [(0, size - n)] * 2)
    padded += of_rank(jnp.diag(jnp.arange(size, dtype=jnp.int32) >= n).astype(factor.dtype), factor.ndim)
    inverse = _inverse_of_few(_diagonal_blocks(padded, whole))  # (..., blocks, height, height)
    while (height := inverse.shape[-1]) < size:
        below = _diagonal_blocks(padded, 2 * height)[..., height:, :height]
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -einsum("...ij,...jk,...kl->...il", second, below, first)
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([top, jnp.concatenate([corner, second], axis=-1)], axis=-2)
    return inverse[..., 0, :n, :n]


WHOLE_UP_TO = 16
"""Rows of a matrix, or of the blocks of a larger one, up to which a doubling step is computed for the whole matrix,
zeros included: more arithmetic, though little in total, but the program compiles in half the time. Matrices of up to 4
rows are excepted, since their block products are a handful of numbers."""


def _inverse_of_few(factor: Array) -> Array:
    """As `inverse_lower`: with X = diag(A⁻¹, C⁻¹, …) and B the blocks below the diagonal, the next X is X − X B X."""

    def product(x: Array, y: Array) -> Array:  # not a dot: on CPU that costs a microsecond per batch entry
        return jnp.sum(x[..., :, :, None] * y[..., None, :, :], axis=-2)

    place = np.arange(factor.shape[-1])
    on_diagonal = of_rank(place[:, None] == place, factor.ndim)
    inverse = jnp.where(on_diagonal, 1.0 / jnp.where(on_diagonal, factor, 1.0), 0.0)
    height = 1
    while height < len(place):
        block = place // height
        is_below = (block[:, None] == block + 1) & (block % 2 == 0)
        below = jnp.where(of_rank(is_below, factor.ndim), factor, 0.0)
        inverse -= product(product(inverse, below), inverse)
        height *= 2
    return inverse


def _diagonal_blocks(matrices: Array, height: int) -> Array:
    """The blocks of `height` rows on the diagonal. (..., D, D) -> (..., D / height, height, height)."""
    n = matrices.shape[-1] // height
    if n == 1:
        return matrices[..., None, :, :]
    tiles = matrices.reshape(*matrices.shape[:-2], n, height, n, height)
    return jnp.moveaxis(jnp.diagonal(tiles, axis1=-4, axis2=-2), -1, -3)


@_inverse_by_doubling.defjvp
def _inverse_lower_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = inverse_lower(*primals)
    return inverse, -einsum("...ij,...jk,...kl->...il", inverse, jnp.tril(tangents[0]), inverse)


@jax.custom_jvp
def _factor(symmetric: Array) -> Array:
    if symmetric.shape[-1] <= FACTORED_TOGETHER:
        return _factor_of_few(symmetric)
    return lax.platform_dependent(symmetric, cpu=_factor_in_blocks, default=_lapack_cholesky)


@_factor.defjvp
def _factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # dL = L Φ(L⁻¹ dA L⁻ᵀ), where Φ keeps the lower triangle and half of the diagonal (Murray 2016, arXiv:1602.07527).
    factor = _factor(*primals)
    identity = of_rank(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.ndim)
    # Where there is no factor its NaN would reach, as 0 · NaN, derivatives of what does not depend on it.
    some = jnp.where(jnp.isnan(factor), identity, factor)
    inverse = inverse_lower(some)
    middle = einsum("...ij,...jk,...lk->...il", inverse, tangents[0], inverse)
    half = jnp.tril(middle) - 0.5 * middle * identity
    return factor, einsum("...ij,...jk->...ik", some, half)


FACTORED_TOGETHER = 4
"""Rows of a matrix up to which a batch is factored together, in a program that is unrolled over the rows."""


def _factor_of_few(symmetric: Array) -> Array:
    """Cholesky factors of all matrices together, column by column (Golub & Van Loan 2013, §4.2.5)."""
    place, rest, columns = np.arange(symmetric.shape[-1]), symmetric, []
    for j in place:
        column = jnp.where(of_rank(place >= j, rest.ndim - 1), rest[..., j] / jnp.sqrt(rest[..., j, j])[..., None], 0.0)
        rest = rest - column[..., :, None] * column[..., None, :]
        columns.append(column)
    factor = jnp.stack(columns, axis=-1)
    is_definite = jnp.all(jnp.isfinite(factor), axis=(-2, -1), keepdims=True)
    return jnp.where(is_definite, factor, jnp.nan)


def _lapack_cholesky(symmetric: Array) -> Array:
    return jnp.linalg.cholesky(symmetric, symmetrize_input=False)


LAPACK_UP_TO = 64
"""Rows of a matrix up to which a factorisation by LAPACK wakes no BLAS threads (float64; more in float32)."""


def _factor_in_blocks(symmetric: Array) -> Array:
    """Cholesky factors by LAPACK for blocks of rows, and products between them (Golub & Van Loan 2013, §4.2.9)."""
    n, done = symmetric.shape[-1], []
    for start in range(0, n, LAPACK_UP_TO):
        size = min(LAPACK_UP_TO, n - start)
        corner = _one_by_one(symmetric[..., :size, :size])
        beside, inverse = symmetric[..., size:, :size], inverse_lower(corner)
        below = einsum("...ij,...kj->...ik", beside, inverse)
        # A product with the inverse loses as many digits as the corner's condition number has, a solution by
        # substitution none. One step of refinement makes up for that (Higham 2002, §12.1).
        rest = beside - einsum("...ij,...kj->...ik", below, corner)
        below = below + einsum("...ij,...kj->...ik", rest, inverse)
        symmetric = symmetric[..., size:, size:] - einsum("...ik,...jk->...ij", below, below)
        column = jnp.concatenate([corner, below], axis=-2)
        done.append(jnp.pad(column, [(0, 0)] * (column.ndim - 2) + [(start, 0), (0, 0)]))
    return jnp.concatenate(done, axis=-1)


@custom_vmap
def _one_by_one(matrices: Array) -> Array:
    """Cholesky factors over all leading axes of (..., D, D) in a loop, matrix by matrix.

    The CPU routines of jaxlib 0.10 submit the matrices of a batch to the thread pool on which they run themselves, and
    wait. Two concurrent calls, from one program or from two threads, then deadlock. A call for a single matrix does
    not; the loop has no measurable cost. The rule for `vmap` keeps it a loop.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    return lax.map(_lapack_cholesky, flat).reshape(matrices.shape)


@_one_by_one.def_vmap
def _one_by_one_vmap(axis_size: int, in_batched: list[bool], matrices: Array) -> tuple[Array, bool]:
    del axis_size
    return _one_by_one(matrices), in_batched[0]


def columns(rows: Array) -> Array:
    """Rows transposed, (n, D) -> (D, n), so that the numbers of each feature are contiguous.

    On CPU this is a product with the identity, which is exact. XLA would fuse a plain transposition into each of its
    consumers, and each of them would read single numbers scattered over the chunk. On a GPU the consumers are products
    that take their factors in either layout, and the product of a chunk with the identity may be the largest of all.
    """
    return lax.platform_dependent(rows, cpu=_columns_by_product, default=jnp.transpose)


def _columns_by_product(rows: Array) -> Array:
    return einsum("de,ne->dn", jnp.eye(rows.shape[1], dtype=rows.dtype), rows)


STACK_BYTES = 16e6
"""Bytes of intermediate values that exist at a time where several components are evaluated together."""


def over_components(function: Callable[[Any], Any], components: Any, n_numbers: int) -> Any:
    """function(one component's arrays) for all, stacked along K; each makes `n_numbers` intermediate numbers.

    Components are vmapped in equal stacks of as many as fit into the cache: the products of a stack become one, and no
    chunk is stored K times.
    """
    leaf = jax.tree.leaves(components)[0]
    # One by one where the number is left open, as `jax.export` may do with that of the rows.
    most = max(1, int(STACK_BYTES / (n_numbers * leaf.dtype.itemsize))) if isinstance(n_numbers, int) else 1
    width = max(width for width in range(1, min(most, len(leaf)) + 1) if len(leaf) % width == 0)
    if width == len(leaf):
        return jax.vmap(function)(components)
    stacks = jax.tree.map(lambda a: a.reshape(-1, width, *a.shape[1:]), components)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), lax.map(jax.vmap(function), stacks))


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

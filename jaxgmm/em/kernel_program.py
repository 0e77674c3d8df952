"""What one program of the kernels in `kernel.py` computes: a tile of rows, in Pallas for Triton.

Rows are read with their origin subtracted. All else that a tile needs comes padded, with features first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

SQUARES, NORM, PAIRS = "squares", "norm", "pairs"
"""The quadratic features of a row (see `kernel.py`)."""


class Tiling(NamedTuple):
    """How the work is divided. A program sums `tiles` × `rows` rows, without compensation, so not without limit."""

    rows: int  # of a tile
    components: int  # of a tile
    tiles: int = 256
    programs: int = 1056  # eight for each of 132 cores, on which one or two run at a time
    warps: int = 8


class Shape(NamedTuple):
    """What a kernel is compiled for. Sides of tiles are powers of two."""

    features: str
    n_rows: int
    n_features: int
    width: int  # of a row, padded
    n_components: int  # padded to whole tiles
    tiling: Tiling
    precision: Any


def sums_kernel(shape: Shape, is_weighted: bool, has_log_prob: bool, *refs: Any) -> None:
    """One program: loops over its tiles of rows, for one tile of components."""
    from jax.experimental import pallas as pl

    inputs, (mass_out, first_out, second_out, objective_out) = refs[:-4], refs[-4:]
    data, rest = inputs[: 2 + is_weighted], inputs[2 + is_weighted :]
    log_prob_ref, rest = (rest[0], rest[1:]) if has_log_prob else (None, rest)
    origin, *selection = [ref[...] for ref in rest[:-3]]
    linear, quadratic, constant = [ref[...] for ref in rest[-3:]]
    dot = functools.partial(jnp.dot, precision=shape.precision, preferred_element_type=jnp.float32)
    tiling = shape.tiling
    first_row = pl.program_id(0) * (tiling.tiles * tiling.rows)

    def tile(index: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        offset = first_row + index * tiling.rows
        x, weight = _read(shape, is_weighted, data, origin, offset)
        q = _quadratic(shape.features, x, selection, dot)
        joint = _joint(x, q, linear, quadratic, constant, dot)
        if log_prob_ref is None:
            log_prob, total, shares = _log_sum(joint)
            weighted = shares * (weight / jnp.where(total != 0.0, total, 1.0))[:, None]
        else:
            log_prob = log_prob_ref[pl.ds(offset, tiling.rows)]
            weighted = jnp.exp(joint - jnp.where(log_prob == -jnp.inf, 0.0, log_prob)[:, None]) * weight[:, None]
        # A row of log-density −inf adds −inf here, which ends the run: what it adds to other sums is never read.
        objective = jnp.sum(jnp.where(weight > 0.0, weight * log_prob, 0.0))
        second = jnp.sum(weighted * q[:, None], axis=0) if q.ndim == 1 else dot(weighted.T, q)
        new = (jnp.sum(weighted, axis=0), dot(weighted.T, x), second, objective)
        return tuple(old + term for old, term in zip(carry, new, strict=True))

    zero = tuple(jnp.zeros(out.shape, jnp.float32) for out in (mass_out, first_out, second_out, objective_out))
    results = lax.fori_loop(0, tiling.tiles, tile, zero)
    for out, result in zip((mass_out, first_out, second_out, objective_out), results, strict=True):
        out[...] = result


def log_prob_kernel(shape: Shape, is_weighted: bool, *refs: Any) -> None:
    """One program: loops over the tiles of components, for one tile of rows."""
    from jax.experimental import pallas as pl

    inputs, out = refs[:-1], refs[-1]
    data, rest = inputs[: 2 + is_weighted], inputs[2 + is_weighted :]
    origin, *selection = [ref[...] for ref in rest[:-3]]
    linear, quadratic, constant = rest[-3:]
    dot = functools.partial(jnp.dot, precision=shape.precision, preferred_element_type=jnp.float32)
    tiling = shape.tiling
    x, _ = _read(shape, is_weighted, data, origin, pl.program_id(0) * tiling.rows)
    q = _quadratic(shape.features, x, selection, dot)

    def tile(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        some = pl.ds(index * tiling.components, tiling.components)
        held = quadratic[some] if q.ndim == 1 else quadratic[:, some]
        joint = _joint(x, q, linear[:, some], held, constant[some], dot)
        largest, total = carry
        higher = jnp.maximum(largest, jnp.max(joint, axis=1))
        about = _finite(higher)
        return higher, total * jnp.exp(largest - about) + jnp.sum(jnp.exp(joint - about[:, None]), axis=1)

    start = jnp.full((tiling.rows,), -jnp.inf, jnp.float32), jnp.zeros((tiling.rows,), jnp.float32)
    largest, total = lax.fori_loop(0, shape.n_components // tiling.components, tile, start)
    out[...] = _finite(largest) + jnp.log(total)


def _read(shape: Shape, is_weighted: bool, data: tuple[Any, ...], origin: Array, offset: Array) -> tuple[Array, Array]:
    """A tile of rows minus the origin, and their weights: padded rows, and rows of weight 0, become 0."""
    from jax.experimental.pallas import triton

    start, rows = data[:2]
    # The sum of one number is that number as a scalar, which Triton cannot index.
    row = jnp.sum(start[...]) + offset + jnp.arange(shape.tiling.rows, dtype=jnp.int32)
    column = jnp.arange(shape.width, dtype=jnp.int32)
    is_row, is_column = row < shape.n_rows, column < shape.n_features
    row = jnp.where(is_row, row, 0)
    mask = is_row[:, None] & is_column[None, :]
    index = jnp.broadcast_to(row[:, None], mask.shape), jnp.broadcast_to(column[None, :], mask.shape)
    x = triton.load(rows.at[index], mask=mask, other=0.0)
    weight = jnp.where(is_row, 1.0, 0.0).astype(jnp.float32)
    if is_weighted:
        weight = triton.load(data[2].at[row], mask=is_row, other=0.0)
    return jnp.where(mask & (weight > 0.0)[:, None], x - origin[None, :], 0.0), weight


def _quadratic(features: str, x: Array, selection: list[Array], dot: Callable[..., Array]) -> Array:
    """The quadratic features of rows (n, width). -> (n, quadratic width), or (n,) for the norm."""
    if features == PAIRS:
        one, other = selection
        return dot(x, one) * dot(x, other)
    return x * x if features == SQUARES else jnp.sum(x * x, axis=1)


def _joint(x: Array, q: Array, linear: Array, quadratic: Array, constant: Array, dot: Callable[..., Array]) -> Array:
    """Log joint of rows and components. -> (n, K)."""
    curved = q[:, None] * quadratic[None, :] if q.ndim == 1 else dot(q, quadratic)
    return dot(x, linear) + curved + constant[None, :]


def _log_sum(joint: Array) -> tuple[Array, Array, Array]:
    """Log-densities (n,), shares (n, K) and the sums of shares (n,): responsibilities are shares over sums."""
    about = _finite(jnp.max(joint, axis=1))
    shares = jnp.exp(joint - about[:, None])
    total = jnp.sum(shares, axis=1)
    return about + jnp.log(total), total, shares


def _finite(largest: Array) -> Array:
    """The offset that is subtracted before an exponential: the largest, or 0 where that is not finite."""
    return jnp.where(jnp.abs(largest) < jnp.inf, largest, 0.0)

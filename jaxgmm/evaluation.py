"""Evaluation of a mixture row by row: densities, responsibilities, labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ._base.fork import refuse_if_forked
from ._base.linalg import inverse_lower
from ._base.memory import gathered, place_of
from ._base.precision import is_traced, is_transforming, keeps_precision, precision_for
from ._base.programs import is_small, program
from .covariances import Form
from .density import Components, T, in_safe_form, joint, normalise, prepare
from .families import Family
from .rows.chunks import Chunk, Chunked, cut
from .rows.sizes import choose_chunk_size


class Evaluable(Components, Protocol):
    """What evaluation needs of a `Mixture` besides `Components`. `Mixture` offers the evaluations as methods."""

    @property
    def family(self) -> Family: ...

    @property
    def n_components(self) -> int: ...

    def mean(self) -> Array: ...


def map_log_joint(mixture: Evaluable, rows: Chunked, consume: Callable[[Array], T]) -> T:
    """consume(log joint (K, n)) for every chunk of rows, stacked along C; nothing of size N×K is made on the way."""
    origin = mixture.mean()

    def in_form(form: Form) -> T:
        evaluate = _log_joint_of(mixture, origin, form)
        return rows.map(lambda chunk: consume(evaluate(Chunk.of(chunk))))

    return in_safe_form(mixture, origin, in_form)


def _log_joint_of(mixture: Evaluable, origin: Array, form: Form) -> Callable[[Chunk], Array]:
    """`density.joint` as a function of a chunk alone; −inf for rows too far away, NaN for rows that contain a NaN."""
    operands = prepare(mixture, origin, form)
    sound = ~jnp.isnan(mixture.log_weights + mixture.scales.log_det() + jnp.sum(mixture.means, axis=1))

    def evaluate(chunk: Chunk) -> Array:
        found = joint(mixture, operands, chunk)
        # Rows too far away for the dtype: squares overflow, and the fast form subtracts infinity from infinity.
        overflown = jnp.isnan(found) & sound[:, None] & ~jnp.any(jnp.isnan(chunk.rows), axis=1)[None]
        return jnp.where(overflown, -jnp.inf, found)

    return evaluate


evaluate = keeps_precision(program(map_log_joint, static="consume"))


def is_few(mixture: Evaluable, x: Any) -> bool:
    """Whether rows x (..., D) are few, not traced and on one CPU, so that `evaluate_few` is faster."""
    n_rows = 0 if is_traced((mixture, x)) or is_transforming() else math.prod(x.shape[:-1])
    if not n_rows or not is_small(n_rows, x.shape[-1], mixture.n_components, 1):
        return False
    arrays = [each for each in (x, mixture.means) if isinstance(each, jax.Array)]
    on_cpu = all([one.platform for one in each.devices()] == ["cpu"] for each in arrays)
    return on_cpu and hasattr(mixture.scales, "as_dense")


ROWS_OF_A_BLOCK = 1024
"""Rows that are evaluated at a time on the host, so that what is computed of them stays in the cache."""


def evaluate_few(mixture: Evaluable, x: Any, consume: Callable[[Array], Array]) -> np.ndarray:
    """The result of `consume` on the log joint of rows x (N, D), by NumPy. -> (N, ...)."""
    joint = log_joint_of_few(mixture, x)
    if consume is labels_of:
        return joint.argmax(axis=0).astype(np.int32)
    if consume not in (log_prob_of, responsibilities_of):
        return joint.T
    log_prob, responsibilities = normalised(joint)
    return log_prob if consume is log_prob_of else responsibilities.T


def log_joint_of_few(mixture: Evaluable, x: Any) -> np.ndarray:
    """The log of weight times component density (K, N), nats, of rows x (N, D), by NumPy: compiling a program would
    take longer, and so would starting it. As in the SAFE form, each component's own mean is subtracted first."""
    mixture = jax.tree.map(np.asarray, mixture)
    means: Any = mixture.means
    with np.errstate(all="ignore"):  # a number too large for the dtype is as far away as an infinite one
        columns = np.ascontiguousarray(np.asarray(x).astype(means.dtype).T)
        constant, whitener = whiteners(mixture)
        starts = range(0, max(len(x), 1), ROWS_OF_A_BLOCK)
        blocks = (columns[:, start : start + ROWS_OF_A_BLOCK] for start in starts)
        found = np.concatenate([_log_joint_of_block(means, constant, whitener, block) for block in blocks], axis=1)
        # As in `_log_joint_of`; but a component of weight 0 has no density, whatever its covariance.
        sound = ~np.isnan(constant + means.sum(axis=1))
        found[np.isnan(found) & sound[:, None]] = -np.inf
        found[np.isneginf(mixture.log_weights)] = -np.inf
        found[:, np.isnan(columns).any(axis=0)] = np.nan
    return found


def whiteners(mixture: Any) -> tuple[np.ndarray, np.ndarray]:
    """What does not depend on rows: constants (..., K), and matrices (..., K, D, D) that whiten, or their diagonals
    (..., K, D)."""
    factor = mixture.scales.as_dense().factor
    pivots = factor.diagonal(axis1=-2, axis2=-1)
    constant = mixture.log_weights - np.log(pivots).sum(axis=-1) - 0.5 * mixture.n_features * math.log(2.0 * math.pi)
    each = inverse_lower(factor) if np.tril(factor, -1).any() else 1.0 / pivots
    n_leading = mixture.log_weights.ndim
    return constant, np.broadcast_to(each, (*mixture.log_weights.shape, *each.shape[n_leading:]))


def _log_joint_of_block(
    means: np.ndarray, constant: np.ndarray, whiteners: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Of a block of rows, which come as columns (D, n), from `whiteners`. -> (K, n)."""
    found = np.full((len(means), columns.shape[1]), -np.inf, columns.dtype)
    for k in np.flatnonzero(constant != -np.inf):
        whitener, apart = whiteners[k], columns - means[k, :, None]
        white = np.matmul(whitener, apart) if whitener.ndim == 2 else whitener[:, None] * apart
        found[k] = constant[k] - 0.5 * np.square(white, out=white).sum(axis=0)
    return found


def normalised(joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`density.normalise`, by NumPy. (..., K, n) -> (..., n), (..., K, n)."""
    with np.errstate(all="ignore"):
        largest = joint.max(axis=-2, keepdims=True)
        shares = np.exp(joint - np.where(largest == -np.inf, 0.0, largest).astype(joint.dtype))
        total = shares.sum(axis=-2, keepdims=True)
        log_prob = (largest + np.log(total))[..., 0, :]
        return log_prob, np.where(total == 0.0, joint.dtype.type(1.0 / joint.shape[-2]), shares / total)


def log_prob_of(joint: Array) -> Array:
    return normalise(joint)[0]


def responsibilities_of(joint: Array) -> Array:
    return normalise(joint)[1].T


def labels_of(joint: Array) -> Array:
    return jnp.argmax(joint, axis=0).astype(jnp.int32)


def _per_row(consume: Callable[[Array], Array]) -> Callable[[Evaluable, Array], Array]:
    """(mixture, x (..., D)) -> (..., ·) from a function of the log joint (K, n): of few rows by NumPy, else jitted."""

    @program
    def evaluate_many(mixture: Evaluable, x: Array) -> Array:
        if 0 in x.shape[:-1]:
            nothing = consume(jnp.zeros((mixture.n_components, 0), x.dtype))
            return nothing.reshape(*x.shape[:-1], *nothing.shape[1:])
        flat = gathered(x).reshape(-1, x.shape[-1])
        n_rows = flat.shape[0]
        if isinstance(n_rows, int):
            size = choose_chunk_size(mixture.n_features, mixture.n_components, x.dtype.itemsize)
            result = map_log_joint(mixture, cut(flat, min(size, n_rows), x.dtype), consume)
            result = result.reshape(-1, *result.shape[2:])[:n_rows]
        else:  # left open by `jax.export`: one row or many, so they are not padded to whole chunks
            result = map_log_joint(mixture, Chunked(None, flat, 1), consume)[0]
        return result.reshape(*x.shape[:-1], *result.shape[1:])

    def evaluate(mixture: Evaluable, x: Array) -> Array:
        if not is_few(mixture, x):
            return evaluate_many(mixture, x)
        refuse_if_forked()  # NumPy could, but what it finds goes back to JAX
        found = evaluate_few(mixture, np.asarray(x).reshape(-1, x.shape[-1]), consume)
        place = place_of(x) or place_of(mixture.means)
        return jax.device_put(found.reshape((*x.shape[:-1], *found.shape[1:])), place)

    return evaluate


_log_prob = _per_row(log_prob_of)


_log_joint = _per_row(jnp.transpose)


_responsibilities = _per_row(responsibilities_of)


_predict = _per_row(labels_of)


@keeps_precision
def _on_host(function: Callable[[Any], Any], mixture: Evaluable) -> Array:
    """A function of the parameters alone; computed on the host if they are not traced, so that nothing is compiled."""
    if is_traced(mixture) or is_transforming():
        return function(mixture)
    with precision_for(mixture.means.dtype):
        return jax.device_put(function(jax.tree.map(np.asarray, mixture)), place_of(mixture.means))

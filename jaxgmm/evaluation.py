"""Evaluation of a mixture row by row: densities, responsibilities, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._base.memory import aligned_zeros, gathered
from ._base.precision import is_traced, is_transforming, keeps_precision, precision_for
from ._base.programs import ROWS_AT_ONCE, chunks, components, is_small, program
from .covariances import Dense, Form
from .density import Components, T, in_safe_form, joint, normalise, prepare
from .families import Family, Full, shape_of_scales
from .rows.chunks import Chunk, Chunked, Roomy, cut
from .rows.sizes import choose_chunk_size

M = TypeVar("M", bound="Evaluable")


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


class Evaluated(NamedTuple):
    """A mixture's log joint, log-densities and responsibilities of rows, on the host."""

    joint: np.ndarray  # (K, N): log of weight times component density, nats
    log_prob: np.ndarray  # (N,): log-density, nats
    responsibilities: np.ndarray  # (K, N)

    def by(self, consume: Callable[[Array], Array]) -> np.ndarray:
        """The result of `consume` on the log joint, for every row. -> (N, ...)."""
        if consume is log_prob_of:
            return self.log_prob
        if consume is responsibilities_of:
            return self.responsibilities.T
        return self.joint.argmax(axis=0).astype(np.int32) if consume is labels_of else self.joint.T


def is_few(mixture: Evaluable, x: Any) -> bool:
    """Whether rows x (N, D) are few, and not traced, so that `evaluate_few` is faster."""
    if is_traced((mixture, x)) or not len(x) or not is_small(*x.shape, mixture.n_components, 1) or is_transforming():  # pyright: ignore
        return False
    arrays = [each for each in (x, mixture.means) if isinstance(each, jax.Array)]
    return all([one.platform for one in each.devices()] == ["cpu"] for each in arrays)


def evaluate_few(mixture: Evaluable, x: Any) -> Evaluated:
    """All quantities of rows x (N, D), by one program for many N and K, in the SAFE form."""
    n_rows, count = len(x), mixture.n_components
    rows = aligned_zeros((chunks(n_rows) * ROWS_AT_ONCE, mixture.n_features), mixture.means.dtype)
    with np.errstate(over="ignore"):  # a number too large for the dtype is as far away as an infinite one
        rows[:n_rows] = np.asarray(x)
    with precision_for(rows.dtype):
        wide = padded(in_shared_family(mixture), components(count))
        found = jax.device_get(_evaluate_few(wide, Roomy(rows, ROWS_AT_ONCE), np.int32(-(-n_rows // ROWS_AT_ONCE))))  # pyright: ignore
    joint, log_prob, responsibilities = (np.moveaxis(part, 0, -2) for part in found)
    joint, responsibilities = (part.reshape(len(part), -1)[:count, :n_rows] for part in (joint, responsibilities))
    return Evaluated(joint, log_prob.reshape(-1)[:n_rows], responsibilities)


@program(hurried=True)
def _evaluate_few(mixture: Evaluable, rows: Roomy, n_used: Array) -> tuple[Array, Array, Array]:
    """Log joint, log-densities and responsibilities, (C, K, n), (C, n) and (C, K, n), of the chunks in use."""
    evaluate = _log_joint_of(mixture, mixture.mean(), Form.SAFE)
    shape = rows.n_chunks, mixture.n_components, rows.chunk_size
    nothing = jnp.zeros(shape, rows.body.dtype)

    def of_chunk(index: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        found_here = evaluate(Chunk.of(rows.take(index)))
        whole = (found_here, *normalise(found_here))
        return jax.tree.map(lambda many, one: many.at[index].set(one), found, whole)  # pyright: ignore

    return lax.fori_loop(0, n_used, of_chunk, (nothing, nothing[:, 0], nothing))


SHARED_FEATURES = 16
"""Features up to which few rows are evaluated under dense covariances, by one program that all families share: this
costs less than a hundredth of compiling another program."""


def in_shared_family(mixture: M) -> M:
    """A mixture on the host with the same densities, of the family `Full`, as which all families are evaluated."""
    mixture = jax.tree.map(np.asarray, mixture)
    if mixture.n_features > SHARED_FEATURES or not hasattr(mixture.scales, "as_dense"):
        return mixture
    factor = np.asarray(mixture.scales.as_dense().factor)
    each = np.broadcast_to(factor, (mixture.n_components, *factor.shape[1:]))
    return replace(mixture, scales=Dense(each), family=Full())  # pyright: ignore


def padded(mixture: M, n_components: int) -> M:
    """A mixture on the host, padded with components of weight 0 that repeat its last one."""
    mixture = jax.tree.map(np.asarray, mixture)
    missing = n_components - mixture.n_components
    if not missing:
        return mixture

    def longer(leaf: np.ndarray, length: int) -> np.ndarray:
        return leaf[np.minimum(np.arange(length), len(leaf) - 1)]

    shapes = shape_of_scales(mixture.family, n_components, mixture.n_features, mixture.means.dtype)
    scales = jax.tree.map(lambda leaf, like: longer(leaf, len(like)), mixture.scales, shapes)  # pyright: ignore
    log_weights = np.append(mixture.log_weights, np.full(missing, -np.inf, mixture.means.dtype))
    means = longer(mixture.means, n_components)  # pyright: ignore
    return replace(mixture, log_weights=log_weights, means=means, scales=scales)  # pyright: ignore


def log_prob_of(joint: Array) -> Array:
    return normalise(joint)[0]


def responsibilities_of(joint: Array) -> Array:
    return normalise(joint)[1].T


def labels_of(joint: Array) -> Array:
    return jnp.argmax(joint, axis=0).astype(jnp.int32)


def _per_row(consume: Callable[[Array], Array]) -> Callable[[Evaluable, Array], Array]:
    """A jitted (mixture, x (..., D)) -> (..., ·) from a function of the log joint (K, n)."""

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
        if is_traced(x) or not is_few(mixture, flat := np.asarray(x).reshape(-1, x.shape[-1])):
            return evaluate_many(mixture, x)
        found = evaluate_few(mixture, flat).by(consume)
        return jax.device_put(found.reshape((*x.shape[:-1], *found.shape[1:])), x.sharding if x.committed else None)

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
    like = mixture.means
    where = like.sharding if isinstance(like, jax.Array) and like.committed else None
    with precision_for(like.dtype):
        return jax.device_put(function(jax.tree.map(np.asarray, mixture)), where)

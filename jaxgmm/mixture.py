"""A Gaussian mixture: its parameters as a frozen pytree, and what can be asked of them.

Log-densities are in nats. Methods are thin; the arithmetic stands in the functions below, which the
expectation step shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import _check
from ._linalg import any_lane, columns, einsum
from ._precision import (
    aligned_zeros,
    from_host,
    is_traced,
    is_transforming,
    keeps_precision,
    own,
    precision_for,
    to_host,
)
from .batches import Chunked, Roomy, choose_chunk_size, cut
from .covariances import Covariance, Dense, Form
from .families import SHELF, Family, Full, is_matrix_shape, shape_of_scales, show_dense, shown_shape
from .programs import ROWS_AT_ONCE, SMALL, chunks, components, is_small, program

T = TypeVar("T")

FAST_UP_TO = {4: 64.0, 8: 4096.0}
"""Spread (see `Covariance.spread`) up to which the fast form keeps the promised digits, by bytes of the dtype: it
loses about spread times the dtype's rounding, so 64 leaves a float32 variance right to 1e-5."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture:
    """Σ_k weights_k · Normal(means_k, Σ_k). Make one with `Mixture.create`, or take the one a fit returns."""

    log_weights: Array  # (K,), −inf for a component that is switched off
    means: Array  # (K, D)
    scales: Covariance  # the K covariances, as their family keeps them
    family: Family = field(metadata={"static": True})

    __getstate__, __setstate__ = to_host, from_host

    @classmethod
    def create(
        cls, weights: Any, means: Any, covariances: Any, family: str | Family = "full", dtype: Any = None
    ) -> Mixture:
        """A mixture from known parameters; no fit is needed.

        weights (K,) summing to 1, means (K, D), covariances in the family's own shape (scikit-learn's for its four
        types) or dense (K, D, D), which are projected onto the family. Raises ValueError where a shape or value is
        impossible; traced values are not looked at.
        """
        chosen: Family = _check.family(family, SHELF)
        dtype = _check.floating_dtype((weights, means, covariances), dtype)
        with precision_for(dtype):
            weights, means, covariances = (own(a, dtype) for a in (weights, means, covariances))
            _check.mixture_shapes(weights, means)
            own_shape = shown_shape(chosen, *means.shape)
            _check.covariances_shape(covariances, means.shape, own_shape, chosen.name)
            mixture = cls(jnp.log(weights), means, chosen.read(covariances, means.shape[1]), chosen)
            if not is_traced((weights, means, covariances)):
                is_matrix = covariances.shape != own_shape or is_matrix_shape(chosen, own_shape)
                _check.symmetric(covariances, is_matrix)
                _check.mixture_values(weights, means, mixture.scales.is_definite(), chosen.name)
            return mixture

    @property
    def n_components(self) -> int:
        return self.means.shape[-2]

    @property
    def n_features(self) -> int:
        return self.means.shape[-1]

    @property
    def weights(self) -> Array:
        """(K,)."""
        return _on_host(_weights, self)

    @property
    def covariances(self) -> Array:
        """Dense, (K, D, D)."""
        return _on_host(_dense, self)

    @keeps_precision
    def log_prob(self, x: Any) -> Array:
        """Log-density, nats. x (..., D) -> (...). Bishop 2006, eq. 9.7. ValueError where D differs."""
        return _log_prob(self, self._rows(x))

    @keeps_precision
    def log_joint(self, x: Any) -> Array:
        """Log of weight times component density, nats. x (..., D) -> (..., K)."""
        return _log_joint(self, self._rows(x))

    @keeps_precision
    def responsibilities(self, x: Any) -> Array:
        """Probability of each component given the row. x (..., D) -> (..., K). Bishop 2006, eq. 9.13."""
        return _responsibilities(self, self._rows(x))

    @keeps_precision
    def predict(self, x: Any) -> Array:
        """The most probable component. x (..., D) -> (...) int32."""
        return _predict(self, self._rows(x))

    @keeps_precision
    def sample(self, key: Array, n: int, return_labels: bool = False) -> Array | tuple[Array, Array]:
        """n independent rows. -> x (n, D), or with `return_labels` also the components (n,) they came from."""
        _check.count(n, "n", least=0)
        x, labels = _sample.compiled(n * self.n_features <= SMALL // 16, self, key, n=n)
        return (x, labels) if return_labels else x

    def mean(self) -> Array:
        """Mean of the whole mixture. -> (D,)."""
        return _on_host(_mean, self)

    def covariance(self) -> Array:
        """Covariance of the whole mixture: within components plus between their means. -> (D, D)."""
        return _on_host(covariance_of, self)

    def _rows(self, x: Any) -> Array:
        rows = own(x, self.means.dtype)
        _check.last_axis(rows.shape, self.n_features)
        return rows

    def __repr__(self) -> str:
        if is_traced(self) or self.means.ndim != 2:
            return f"Mixture(family={self.family.name!r}, means={self.means!r})"
        lines = [
            f"Mixture of {self.n_components} Gaussians in {self.n_features} dimensions, family {self.family.name!r}"
        ]
        for k, (weight, mean) in enumerate(zip(np.asarray(self.weights), np.asarray(self.means), strict=True)):
            if k == 10 and self.n_components > 11:
                lines.append(f"  … and {self.n_components - 10} more")
                break
            lines.append(f"  {k}: weight {weight:.4f}  mean {np.array2string(mean, precision=4, threshold=8)}")
        return "\n".join(lines)


def prepare(mixture: Mixture, origin: Array, form: Form) -> Any:
    """The operands with which `mixture.scales.exponent` turns columns x (D, n) into the log of weight times component
    density, nats, (K, n).

    What depends on the mixture alone is computed here, once a step. Components come first: rows are the long axis, and
    sums over components then run over whole vectors.
    """
    constant = mixture.log_weights - 0.5 * (mixture.scales.log_det() + mixture.n_features * math.log(2.0 * math.pi))
    return mixture.scales.prepare(mixture.means, origin, constant, form)


def normalise(joint: Array) -> tuple[Array, Array]:
    """Log-densities (n,) and responsibilities (K, n) from the log joint (K, n), with one exponential an entry."""
    largest = jnp.max(joint, axis=0)
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    shares = jnp.exp(joint - largest)
    total = jnp.sum(shares, axis=0)
    # A row out of every component's reach (log-density −inf) is shared equally rather than by 0/0. NaN stays NaN.
    within = total != 0.0
    return largest + jnp.log(total), shares * (1.0 / jnp.where(within, total, 1.0)) + (~within) / len(joint)


def in_safe_form(mixture: Mixture, origin: Array, in_form: Callable[[Form], T]) -> T:
    """in_form(FAST), or in_form(SAFE) where the spread of the means would cost FAST the promised digits.

    Decided once, above any loop over chunks; the lanes of a `vmap` decide together, so that only one form runs.
    """
    is_far = ~is_fast(mixture, origin)
    return lax.cond(any_lane(is_far), lambda: in_form(Form.SAFE), lambda: in_form(Form.FAST))


def is_fast(mixture: Mixture, origin: Array) -> Array:
    """Whether FAST keeps the promised digits of this mixture."""
    spread = lax.stop_gradient(mixture.scales.spread(mixture.means, origin))
    return spread <= FAST_UP_TO[mixture.means.dtype.itemsize]  # False for NaN


def map_log_joint(mixture: Mixture, rows: Chunked, consume: Callable[[Array], T]) -> T:
    """consume(log joint (K, n)) for every chunk of rows, stacked along C; nothing of size N×K is made on the way."""
    origin = mixture.mean()

    def in_form(form: Form) -> T:
        evaluate = _log_joint_of(mixture, origin, form)
        return rows.map(lambda chunk: consume(evaluate(chunk)))

    return in_safe_form(mixture, origin, in_form)


def _log_joint_of(mixture: Mixture, origin: Array, form: Form) -> Callable[[Array], Array]:
    """The log joint (K, n) as a function of rows (n, D); −inf for rows out of reach, NaN for those that hold one."""
    operands = prepare(mixture, origin, form)
    sound = ~jnp.isnan(mixture.log_weights + mixture.scales.log_det() + jnp.sum(mixture.means, axis=1))

    def evaluate(chunk: Array) -> Array:
        joint = mixture.scales.exponent(operands, columns(chunk))
        # Rows too far off for the dtype: squares overflow, and the fast form takes infinity from infinity.
        overflown = jnp.isnan(joint) & sound[:, None] & ~jnp.any(jnp.isnan(chunk), axis=1)
        return jnp.where(overflown, -jnp.inf, joint)

    return evaluate


evaluate = keeps_precision(program(map_log_joint, static="consume"))


class Evaluated(NamedTuple):
    """What a mixture says of rows, on the host."""

    joint: np.ndarray  # (K, N): log of weight times component density, nats
    log_prob: np.ndarray  # (N,): log-density, nats
    responsibilities: np.ndarray  # (K, N)

    def by(self, consume: Callable[[Array], Array]) -> np.ndarray:
        """What `consume` makes of the log joint, for every row. -> (N, ...)."""
        if consume is log_prob_of:
            return self.log_prob
        if consume is responsibilities_of:
            return self.responsibilities.T
        return self.joint.argmax(axis=0).astype(np.int32) if consume is labels_of else self.joint.T


def is_few(mixture: Mixture, x: Any) -> bool:
    """Whether rows x (N, D) are few, and known, so that `evaluate_few` is the sooner way to ask of them."""
    if is_traced((mixture, x)) or not len(x) or not is_small(*x.shape, mixture.n_components, 1) or is_transforming():  # pyright: ignore
        return False
    arrays = [each for each in (x, mixture.means) if isinstance(each, jax.Array)]
    return all([one.platform for one in each.devices()] == ["cpu"] for each in arrays)


def evaluate_few(mixture: Mixture, x: Any) -> Evaluated:
    """All there is to ask of rows x (N, D), through one program for many N and K, in the SAFE form."""
    n_rows, count = len(x), mixture.n_components
    rows = aligned_zeros((chunks(n_rows) * ROWS_AT_ONCE, mixture.n_features), mixture.means.dtype)
    rows[:n_rows] = np.asarray(x)
    with precision_for(rows.dtype):
        wide = padded(in_shared_family(mixture), components(count))
        found = jax.device_get(_evaluate_few(wide, Roomy(rows, ROWS_AT_ONCE), np.int32(-(-n_rows // ROWS_AT_ONCE))))  # pyright: ignore
    joint, log_prob, responsibilities = (np.moveaxis(part, 0, -2) for part in found)
    joint, responsibilities = (part.reshape(len(part), -1)[:count, :n_rows] for part in (joint, responsibilities))
    return Evaluated(joint, log_prob.reshape(-1)[:n_rows], responsibilities)


@program(hurried=True)
def _evaluate_few(mixture: Mixture, rows: Roomy, n_used: Array) -> tuple[Array, Array, Array]:
    """Log joint, log-densities and responsibilities, (C, K, n), (C, n) and (C, K, n), of the chunks in use."""
    evaluate = _log_joint_of(mixture, mixture.mean(), Form.SAFE)
    shape = rows.n_chunks, mixture.n_components, rows.chunk_size
    nothing = jnp.zeros(shape, rows.body.dtype)

    def of_chunk(index: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        joint = evaluate(rows.take(index))
        whole = (joint, *normalise(joint))
        return jax.tree.map(lambda many, one: many.at[index].set(one), found, whole)  # pyright: ignore

    return lax.fori_loop(0, n_used, of_chunk, (nothing, nothing[:, 0], nothing))


SHARED_FEATURES = 16
"""Features up to which few rows are evaluated as if under full covariances, through the program that all families
share: what that costs is less than a hundredth of what another program does."""


def in_shared_family(mixture: Mixture) -> Mixture:
    """A mixture on the host with the same densities, of the family that others are evaluated as, too."""
    mixture = jax.tree.map(np.asarray, mixture)
    if mixture.n_features > SHARED_FEATURES or not hasattr(mixture.scales, "as_dense"):
        return mixture
    factor = np.asarray(mixture.scales.as_dense().factor)
    each = np.broadcast_to(factor, (mixture.n_components, *factor.shape[1:]))
    return replace(mixture, scales=Dense(each), family=Full())  # pyright: ignore


def padded(mixture: Mixture, n_components: int) -> Mixture:
    """A mixture on the host with components of weight 0 behind its own, which repeat its last."""
    mixture = jax.tree.map(np.asarray, mixture)
    missing = n_components - mixture.n_components
    if not missing:
        return mixture

    def longer(leaf: np.ndarray, length: int) -> np.ndarray:
        return leaf[np.minimum(np.arange(length), len(leaf) - 1)]

    shapes = shape_of_scales(mixture.family, n_components, mixture.n_features, mixture.means.dtype)
    scales = jax.tree.map(lambda leaf, like: longer(leaf, len(like)), mixture.scales, shapes)  # pyright: ignore
    log_weights = np.append(mixture.log_weights, np.full(missing, -np.inf, mixture.means.dtype))
    return Mixture(log_weights, longer(mixture.means, n_components), scales, mixture.family)  # pyright: ignore


def log_prob_of(joint: Array) -> Array:
    return normalise(joint)[0]


def responsibilities_of(joint: Array) -> Array:
    return normalise(joint)[1].T


def labels_of(joint: Array) -> Array:
    return jnp.argmax(joint, axis=0).astype(jnp.int32)


def _per_row(consume: Callable[[Array], Array]) -> Callable[[Mixture, Array], Array]:
    """A jitted (mixture, x (..., D)) -> (..., ·) from a function of the log joint (K, n)."""

    @program
    def evaluate_many(mixture: Mixture, x: Array) -> Array:
        flat = x.reshape(-1, x.shape[-1])
        size = choose_chunk_size(mixture.n_features, mixture.n_components, x.dtype.itemsize)
        chunks = cut(flat, max(1, min(size, len(flat))), x.dtype) if len(flat) else Chunked(None, flat, 1)
        result = map_log_joint(mixture, chunks, consume)
        result = result.reshape(-1, *result.shape[2:])[: len(flat)]
        return result.reshape(*x.shape[:-1], *result.shape[1:])

    def evaluate(mixture: Mixture, x: Array) -> Array:
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
def _on_host(function: Callable[[Any], Any], mixture: Mixture) -> Array:
    """A function of the parameters alone; of known ones on the host, where a few numbers are no program."""
    if is_traced(mixture) or is_transforming():
        return function(mixture)
    like = mixture.means
    where = like.sharding if isinstance(like, jax.Array) and like.committed else None
    with precision_for(like.dtype):
        return jax.device_put(function(jax.tree.map(np.asarray, mixture)), where)


def _weights(mixture: Mixture) -> Any:
    return (np if isinstance(mixture.log_weights, np.ndarray) else jnp).exp(mixture.log_weights)


def _dense(mixture: Mixture) -> Any:
    return show_dense(mixture.scales, mixture.n_components)


def _mean(mixture: Mixture) -> Any:
    return einsum("k,kd->d", _weights(mixture), mixture.means)


def covariance_of(mixture: Mixture) -> Any:
    """`Mixture.covariance`, of NumPy's leaves by NumPy. -> (D, D)."""
    weights, shift = _weights(mixture), mixture.means - _mean(mixture)
    return einsum("k,kij->ij", weights, _dense(mixture)) + einsum("k,ki,kj->ij", weights, shift, shift)


@program(static="n")
def _sample(mixture: Mixture, key: Array, n: int) -> tuple[Array, Array]:
    which, noise = jax.random.split(key)
    # By the cumulative weights: a draw by noise for every component would be n×K. In (0, 1], so that none of weight 0
    # in front is hit.
    uniform = 1.0 - jax.random.uniform(which, (n,), mixture.means.dtype)
    cumulative = jnp.cumsum(jnp.exp(mixture.log_weights))
    labels = jnp.searchsorted(cumulative, uniform * cumulative[-1]).astype(jnp.int32)
    labels = jnp.minimum(labels, mixture.n_components - 1)
    standard = jax.random.normal(noise, (n, mixture.n_features), mixture.means.dtype)
    return mixture.means[labels] + mixture.scales.colour(standard, labels), labels

"""Densities of one chunk of rows: the log joint in the FAST or the SAFE form, and its normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax.numpy as jnp
from jax import Array, lax

from ._base.linalg import any_lane
from ._base.programs import Effort
from .covariances import Covariance, Form
from .rows.chunks import Chunk

T = TypeVar("T")


class Components(Protocol):
    """The part of a `Mixture` that a density needs; `Mixture` is defined in a higher module."""

    @property
    def log_weights(self) -> Array: ...  # (K,)

    @property
    def means(self) -> Array: ...  # (K, D)

    @property
    def scales(self) -> Covariance: ...

    @property
    def n_features(self) -> int: ...


FAST_UP_TO = {4: 64.0, 8: 4096.0}
"""`Covariance.cancellation` up to which the fast form is accurate enough, by bytes of the dtype: the error is about
that times the dtype's rounding, so 64 leaves a float32 variance right to 1e-5."""


def prepare(mixture: Components, origin: Array, form: Form) -> Any:
    """The operands with which `mixture.scales.exponent` turns columns x (D, n) into the log of weight times component
    density, nats, (K, n).

    What depends on the mixture alone is computed here, once a step. The axis of components comes first: rows are the
    long axis, and sums over components then add whole vectors.
    """
    constant = mixture.log_weights - 0.5 * (mixture.scales.log_det() + mixture.n_features * math.log(2.0 * math.pi))
    return mixture.scales.prepare(mixture.means, origin, constant, form)


def joint(mixture: Components, operands: Any, chunk: Chunk) -> Array:
    """The log joint (K, n), nats, of a chunk: the only place that evaluates rows under a mixture. operands: from
    `prepare`, which fixes the form."""
    return mixture.scales.exponent(operands, chunk.x)


def normalise(joint: Array, how: Effort = Effort.WELL) -> tuple[Array, Array]:
    """Log-densities (n,) and responsibilities (K, n) from the log joint (K, n), with one exponential per entry.

    how: how the program is compiled. It changes no result: a BRISK one reads what it has computed from once more.
    """
    largest = lax.stop_gradient(jnp.max(joint, axis=0))
    shares = jnp.exp(joint - jnp.where(largest == -jnp.inf, 0.0, largest)[None])
    total = jnp.sum(shares, axis=0)
    # A row with log-density −inf under every component is shared equally, instead of by 0/0. NaN and +inf become NaN;
    # so the sum is asked, and not the maximum, which may leave NaN out on CPU.
    is_out = total == 0.0
    total = jnp.where(is_out, 1.0, total)
    log_total = jnp.log(total)
    log_prob = largest + log_total
    if how is Effort.BRISK:
        # To ask for NaN changes nothing, but reads `total` after its logarithm and `joint` after its exponential: XLA's
        # older emitter does not vectorise a loop that may write over what it reads.
        total = jnp.where(jnp.isnan(log_total), jnp.nan, total)
        log_prob = jnp.where(jnp.isnan(joint[0]), jnp.nan, log_prob)
    return log_prob, shares * (1.0 / total)[None] + jnp.where(is_out, 1.0 / len(joint), 0.0)[None]


def in_safe_form(mixture: Components, origin: Array, in_form: Callable[[Form], T]) -> T:
    """in_form(FAST), or in_form(SAFE) where cancellation would make FAST too inaccurate (`FAST_UP_TO`).

    Decided once, outside any loop over chunks; the lanes of a `vmap` decide together, so that only one form runs.
    """
    is_far = ~is_fast(mixture, origin)
    return lax.cond(any_lane(is_far), lambda: in_form(Form.SAFE), lambda: in_form(Form.FAST))


def is_fast(mixture: Components, origin: Array) -> Array:
    """Whether FAST is accurate enough for this mixture (`FAST_UP_TO`)."""
    cancellation = lax.stop_gradient(mixture.scales.cancellation(mixture.means, origin))
    return cancellation <= FAST_UP_TO[mixture.means.dtype.itemsize]  # False for NaN

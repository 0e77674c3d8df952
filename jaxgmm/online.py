"""EM over a stream: each batch of rows is used once, for a small update of the mixture.

    state = online.init(mixture)      from a start, such as a fit to the first rows
    for x in stream:
        state = online.update(state, x)
    state.mixture

Stepwise EM (Cappé and Moulines 2009): the moments of a batch under the current mixture are averaged with weight γ into
the running moments, and the M-step follows. With γ falling as t^−0.7 the mixture converges on a stationary stream, to
what EM finds on all its rows; with a lower bound on γ it follows a stream that changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import em
from ._base import check
from ._base.memory import to_device
from ._base.precision import keeps_precision, precision_for
from ._base.programs import program
from .em.expectation import expect
from .em.maximisation import maximise
from .mixture import Mixture
from .moments import Moments, recentre
from .priors import Ridge
from .rows.batches import Batches
from .rows.door import admit_batch

DECAY = 0.7
"""The exponent with which γ falls. Above ½ the noise of the batches averages out; with 1 all batches have equal weight,
and the first ones, whose moments are taken under a poor mixture, are never forgotten."""

ROUNDING = 256.0
"""Units of rounding, of a variance, by which another may be off that is left of a difference. In float32 up to 90 were
seen, with one row far off in 1 to 500."""


class State(NamedTuple):
    """The state of a stream."""

    mixture: Mixture
    moments: Moments  # about the mixture's means, averages per row, so that batches may differ in size
    weight: Array  # (): the number of batches that the start counts as
    n_batches: Array  # (): int32
    objective: Array  # (): mean log-likelihood of the last batch before its update, nats; NaN before the first, and
    # after a batch that changed nothing

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle NumPy arrays, which keep float64."""
        return _from_host, (jax.tree.map(np.asarray, tuple(self)),)


def init(mixture: Mixture, weight: float = 1.0) -> State:
    """The state before the first batch. weight: the number of batches that the mixture counts as, > 0.

    TypeError if mixture is not a Mixture, ValueError if weight is not positive.
    """
    check.mixture(mixture)
    check.positive(weight, "weight")
    return _init(mixture, np.float64(weight).astype(mixture.means.dtype))


def update(
    state: State,
    x: Any,
    sample_weight: Any = None,
    *,
    decay: float = DECAY,
    forgetting: float = 0.0,
    ridge: Any = 1e-6,
) -> State:
    """The state after a batch of rows x (N, D), weighted by sample_weight (N,). A file, `Blocks` and whatever else
    `fit` reads in blocks is read into memory, as one batch.

    γ = max(forgetting, (t + weight)^−decay) for batch t = 1, 2, …: the weight of the batch in the running moments,
    whatever its number of rows. decay: in (½, 1]. forgetting: in [0, 1); the mixture then reflects about the last
    1 / forgetting batches. ridge: as for `fit`. A component without rows keeps its mean, and its weight decays.

    A batch after which the mixture would not be usable changes nothing, and is not counted: `objective` is then NaN.
    So it is where squares of its rows overflow, and where rows are so far from the mixture that a covariance would
    consist of rounding errors: a batch of such rows at some 100 standard deviations in float32, and 10⁶ in float64.

    Raises ValueError or TypeError for arguments and rows that cannot be used. Batches of other sizes share programs,
    with or without weights: all of up to 8,192 rows, where features and components are few, and otherwise those up to
    the same power of two.
    """
    decay, forgetting = check.decay(decay), check.forgetting(forgetting)
    dtype, n_features = state.mixture.means.dtype, state.mixture.n_features
    ridge = em.Settings(ridge=ridge).ridge
    check.of_features(ridge, n_features)
    batches = admit_batch(x, sample_weight, state.mixture.n_components, n_features, dtype)
    with precision_for(dtype):
        numbers = (np.asarray(value, dtype) for value in (decay, forgetting))
        return _update(state, batches, *numbers, ridge)


@keeps_precision
@program(hurried=True)
def _init(mixture: Mixture, weight: Any) -> State:
    shares = mixture.weights
    second = mixture.family.kind.scatter_of(shares, mixture.scales)
    moments = Moments(shares, jnp.zeros_like(mixture.means), second, jnp.zeros((), shares.dtype))
    return State(mixture, moments, jnp.asarray(weight), jnp.int32(0), jnp.full((), jnp.nan, shares.dtype))


@program
def _update(state: State, batches: Batches, decay: Any, forgetting: Any, ridge: Any) -> State:
    old, kept, kind = state.mixture, state.moments, state.mixture.family.kind
    found = expect(old, batches)
    found = jax.tree.map(lambda sum_: sum_ / batches.total_weight, found)
    n_batches = state.n_batches + 1
    share = jnp.maximum(forgetting, (n_batches.astype(decay.dtype) + state.weight) ** -decay)
    mass, first, second, _ = jax.tree.map(lambda a, b: (1.0 - share) * a + share * b, kept, found)
    moments = Moments(mass, first, second, found.objective)
    mixture = maximise(moments, old.means, old.family, old.scales, Ridge(ridge))
    first, second = recentre(kind, mass, first, second, mixture.means - old.means)
    new = State(mixture, moments._replace(first=first, second=second), state.weight, n_batches, found.objective)
    is_sound = _is_finite(new.moments) & _is_usable(mixture, old)
    settled = jax.tree.map(lambda new, old: jnp.where(is_sound, new, old), new, state)
    return settled._replace(objective=jnp.where(is_sound, found.objective, jnp.nan))


def _is_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _is_usable(new: Mixture, old: Mixture) -> Array:
    """Whether the new mixture is finite, and every covariance has digits.

    A covariance is rounded in units of its variances, and since moments are taken about the old means, of δ² where a
    mean moves by δ. What a feature varies by, given the others, is none where it is as small as that: a row far off
    makes all variances as large, and leaves their differences, that were there before, to chance. A matrix that had
    too few digits before, by the user's own choice of features, may remain so.
    """
    finite = _is_finite((new.means, new.scales)) & jnp.all(new.log_weights < jnp.inf)
    counts = jnp.isfinite(new.log_weights)
    nothing = jnp.zeros_like(old.means)
    has_digits = (_loss(new, new.means - old.means) < 1.0) | ~(_loss(old, nothing) < 1.0) | ~counts
    return finite & jnp.all(has_digits) & jnp.all(new.scales.is_resolved() | ~old.scales.is_resolved())


def _loss(mixture: Mixture, moved: Array) -> Array:
    """The rounding of a feature's variance, after a mean has moved, as a share of what it varies by given the others:
    the largest of each component. Unit-free. moved (K, D) -> (K,)."""
    rounded = mixture.scales.variances() + jnp.square(moved)
    return ROUNDING * jnp.finfo(moved.dtype).eps * jnp.max(rounded * mixture.scales.precision_diagonal(), axis=-1)


def _from_host(parts: tuple[Any, ...]) -> State:
    return State(*jax.tree.map(to_device, parts))

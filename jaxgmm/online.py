"""EM over a stream: every batch of rows is seen once, and moves the mixture a little.

    state = online.init(mixture)      a start, such as a fit to the first rows
    for x in stream:
        state = online.update(state, x)
    state.mixture

Stepwise EM (Cappé and Moulines 2009): the moments of a batch under the mixture so far are averaged into those kept,
with weight γ, and the M-step follows. With γ falling as t^−0.7 the mixture settles on a stream that stays the same, at
what EM finds of all its rows; with γ held up from below it follows one that changes.
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
"""The power by which γ falls. Above ½ the noise of the batches averages out; with 1 they all count alike, and the
first, seen under a poor mixture, are never forgotten."""


class State(NamedTuple):
    """Where a stream stands."""

    mixture: Mixture
    moments: Moments  # about the mixture's means, a row: averages, so that batches of any size go together
    weight: Array  # (): for how many batches the start counts
    n_batches: Array  # (): int32
    objective: Array  # (): mean log-likelihood of the last batch before it was learnt from, nats; NaN before the first

    def __reduce__(self) -> tuple[Any, ...]:
        """By way of the host, where pickles keep float64."""
        return _from_host, (jax.tree.map(np.asarray, tuple(self)),)


def init(mixture: Mixture, weight: float = 1.0) -> State:
    """The state before the first batch. weight: how many batches the mixture counts for, > 0.

    TypeError for what is no Mixture, ValueError for a weight that is not positive.
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
    """The state after a batch of rows x (N, D), weighted by sample_weight (N,).

    γ = max(forgetting, (t + weight)^−decay) for batch t = 1, 2, …: the share of the batch in what is kept then,
    whatever its number of rows. decay: in (½, 1]. forgetting: in [0, 1); a stream is followed over some 1 / forgetting
    batches. ridge: as for `fit`. A component that no row belongs to keeps its mean, with what is left of its weight.
    A batch of which no finite moments can be made, as where squares overflow, changes nothing; `objective` says so by
    not being finite.

    Raises ValueError or TypeError for arguments and rows that cannot be used. Batches of one shape are compiled for
    once; give `Batches` of one chunk size where they differ.
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
    is_sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new.moments)]))
    settled = jax.tree.map(lambda new, old: jnp.where(is_sound, new, old), new, state)
    return settled._replace(objective=found.objective)


def _from_host(parts: tuple[Any, ...]) -> State:
    return State(*jax.tree.map(to_device, parts))

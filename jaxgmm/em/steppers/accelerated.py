"""Acceleration: extrapolates the last steps of EM, to be faster than EM in the long run.

EM maps a point to the next, and converges slowly where clusters overlap: each step goes a small part of the remaining
way. What is extrapolated are not the parameters but the quantities from which an M-step estimates them (weights, means,
scatter per mass), so that every family's constraint holds for any proposal. `squarem.py`, `anderson.py` and `lbfgs.py`
are the methods.

A proposal costs one pass over the rows, as a step of EM does, and counts as a step. It is accepted only if it raises
what EM raises: the objective, less the ridge's penalty on small covariances. Else the state is unchanged, and the next
step is a plain EM step. Only a plain step ends a run, so that converged means what it means without acceleration. All
functions are pure, can be vmapped, and do not depend on the units of the features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from ..._base.status import Status
from ...mixture import Mixture
from ...moments import Moments
from ..maximisation import maximise
from ..state import Proposal, Settings, State
from .memory import Memory, Trust
from .point import finite, flat, gradient, moments_at, natural_gradient, present, target_of, units_of

CALM = 1e-4
"""Gain of a plain EM step, nats, below which proposals begin: above it EM is fast, and they lead to other optima."""

SHORTEST = 1.0 / 64.0
"""Least share of a proposed move that is made: shorter moves gain no more than rounding, and would never grow again."""

FORGETS_AFTER = 4
"""Patience from which on a refused proposal also deletes the remembered pairs, which may be misleading."""

PATIENCE = 32
"""Most plain EM steps between two refused proposals: it bounds what refused proposals cost."""


@dataclass(frozen=True)
class Accelerated:
    """A stepper that proposes a move that `move` computes from its memory, or a plain EM step.

    move: (memory, plain EM step (P,), a function from gradient to natural gradient) -> the move from the memory's
    point, (P,). by_gradient: whether the memory records gradients, or plain EM steps. n_plain_between: plain EM steps
    that follow an accepted proposal.
    """

    name: str
    move: Callable[[Memory, Array, Callable[[Array], Array]], Array]
    by_gradient: bool = False
    n_plain_between: int = 0

    def remember(self, mixture: Mixture, moments: Moments) -> Memory:
        return Memory.empty(self.name, units_of(mixture, target_of(mixture, moments)))

    def propose(self, state: State, settings: Settings) -> Proposal:
        mixture, moments, memory = state.mixture, state.moments, state.memory
        assert memory is not None
        family, units = mixture.family, memory.units
        target = target_of(mixture, moments)
        vector, as_point = ravel_pytree(finite(target))
        goal = vector / units
        # Before the first step there is no point: EM's next one is used instead, where everything is defined.
        here = as_point(jnp.where(memory.is_placed, memory.point, goal) * units)
        step = goal - memory.point

        def natural(slope: Array) -> Array:
            return natural_gradient(family.kind, here, as_point(slope / units)) / units

        told = step
        if self.by_gradient:
            told = flat(gradient(present(here, target), mixture, moments, settings)) * units
        memory = memory.looked_at(told, uphill=self.by_gradient)
        move = self.move(memory, step, natural)
        trust = memory.trust
        is_plain = (trust.plainly > 0) | (memory.pairs.count < 1) | ~jnp.all(jnp.isfinite(move))
        moved = jnp.where(is_plain, goal, memory.point + trust.length * move)
        point = present(as_point(moved * units), target)
        new = moments_at(point, jnp.sum(moments.mass))
        found = maximise(new, point.means, family, mixture.scales, settings.prior_with_ridge)
        return Proposal(found, memory._replace(point=flat(point) / units), is_plain)

    def learn(
        self, state: State, proposal: Proposal, new: State, judged: State, settings: Settings, put_off: Array | bool
    ) -> State:
        """A proposal is accepted only if it raises what EM raises. Only a plain EM step changes the status, even of a
        finished state."""
        is_plain, tried, memory = proposal.is_plain, proposal.tried, state.memory
        assert memory is not None
        assert tried is not None
        assert is_plain is not None
        has_failed = (judged.status == Status.COLLAPSED) | (judged.status == Status.NON_FINITE)
        stands = is_plain | (~has_failed & (judged.gain > 0.0))
        # A refused proposal only counts as a step, and an accepted one never ends a run.
        kept = jax.tree.map(partial(jnp.where, stands), judged, state._replace(memory=None, n_steps=state.n_steps + 1))
        kept = kept._replace(
            status=jnp.where(is_plain, judged.status, state.status).astype(jnp.int32),
            fell=jnp.where(is_plain, judged.fell, state.fell),
            gain=jnp.where(is_plain, judged.gain, jnp.inf),
            gain_before=jnp.where(is_plain, judged.gain_before, jnp.inf),
        )
        stands &= ~has_failed
        misleads = ~is_plain & ~stands & (tried.trust.patience >= FORGETS_AFTER)
        learnt = tried._replace(
            point=jnp.where(stands, tried.point, memory.point),
            is_placed=jnp.array(True),
            is_new=stands,
            pairs=tried.pairs._replace(count=jnp.where(misleads, 0, tried.pairs.count)),
            trust=self._trust(tried.trust, is_plain, stands, new.objective - state.objective, settings),
        )
        return jax.tree.map(partial(jnp.where, put_off), state, kept._replace(memory=learnt))

    def _trust(self, old: Trust, is_plain: Array, stands: Array, gain: Array, settings: Settings) -> Trust:
        """The trust after a step that gained `gain`. stands: whether the step was accepted."""
        # A proposal that gains little may be a bad one: plain EM steps then decide whether the run has converged.
        is_little = gain < jnp.asarray(settings.tol, gain.dtype)
        once = jnp.where(is_little, settings.steps_to_judge, self.n_plain_between).astype(jnp.int32)
        left = jnp.maximum(old.plainly - 1, (gain >= CALM).astype(jnp.int32))
        patience = jnp.where(stands, 1, jnp.minimum(2 * old.patience, PATIENCE))
        length = jnp.where(stands, jnp.minimum(2.0 * old.length, 1.0), jnp.maximum(old.length / 4.0, SHORTEST))
        return Trust(
            plainly=jnp.where(is_plain, left, jnp.where(stands, once, old.patience)),
            patience=jnp.where(is_plain, old.patience, patience),
            length=jnp.where(is_plain, old.length, length),
        )

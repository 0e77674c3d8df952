"""Faster than EM in the long run: where to go next, from where the last steps led.

EM is a map of a point to the next, and a slow one where clusters overlap: each step goes a little of the way that all
remaining ones together would go. The points are extrapolated not as parameters but as what an M-step estimates those
from (weights, means, scatter per mass), so that every family's constraint holds whatever is proposed. `squarem.py`,
`anderson.py` and `lbfgs.py` say how.

A proposal costs one pass over the rows, as a step of EM does, and counts as a step. It stands only if it raises what
EM raises: the objective, less what the ridge takes for small covariances. Else the state stays as it was, and the next
step is EM's own. Only such a step ends a run, so that converged means what it means without acceleration. All is pure
and may be vmapped, and does not depend on the units of the features.
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
"""Gain of a step of EM's own, nats, under which proposals begin: before, EM is fast, and they lead to other optima."""

SHORTEST = 1.0 / 64.0
"""Least share of a proposed move that is made: shorter ones gain no more than rounding, and would never grow again."""

FORGETS_AFTER = 4
"""Patience from which on a refused proposal takes what is remembered with it: it may be that which misleads."""

PATIENCE = 32
"""Most steps of EM's own between two proposals that are refused: what refused ones cost is bounded by that."""


@dataclass(frozen=True)
class Accelerated:
    """A stepper that proposes what `move` makes of its memory, or EM's own next mixture.

    move: (memory, EM's own step (P,), a function that makes a gradient natural) -> the move from the memory's point,
    (P,). by_gradient: whether it is told gradients, or EM's own steps. n_plain_between: steps of EM's own that are to
    follow one that stood.
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
        # Before the first step there is no point; EM's next is looked at in its place, where all is defined.
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
        found = maximise(new, point.means, family, mixture.scales, settings.pull)
        return Proposal(found, memory._replace(point=flat(point) / units), is_plain)

    def learn(
        self, state: State, proposal: Proposal, new: State, judged: State, settings: Settings, put_off: Array | bool
    ) -> State:
        """A proposal counts only if it raises what EM raises. Of a finished state, too, only a step of EM's own changes
        the status."""
        is_plain, tried, memory = proposal.is_plain, proposal.tried, state.memory
        assert memory is not None
        assert tried is not None
        assert is_plain is not None
        has_failed = (judged.status == Status.COLLAPSED) | (judged.status == Status.NON_FINITE)
        stands = is_plain | (~has_failed & (judged.gain > 0.0))
        # Of a proposal that is not kept only the step is counted, and one that is kept never ends a run.
        kept = jax.tree.map(partial(jnp.where, stands), judged, state._replace(memory=None, n_steps=state.n_steps + 1))
        kept = kept._replace(
            status=jnp.where(is_plain, judged.status, state.status).astype(jnp.int32),
            fell=jnp.where(is_plain, judged.fell, state.fell),
            gain=jnp.where(is_plain, judged.gain, jnp.inf),
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
        """After a step that brought `gain`; `stands` where what was tried is kept."""
        # A proposal that changes little may be a bad one: EM's own steps are then asked whether the run has converged.
        once = jnp.where(gain < settings.tol, settings.steps_to_judge, self.n_plain_between).astype(jnp.int32)
        left = jnp.maximum(old.plainly - 1, (gain >= CALM).astype(jnp.int32))
        patience = jnp.where(stands, 1, jnp.minimum(2 * old.patience, PATIENCE))
        length = jnp.where(stands, jnp.minimum(2.0 * old.length, 1.0), jnp.maximum(old.length / 4.0, SHORTEST))
        return Trust(
            plainly=jnp.where(is_plain, left, jnp.where(stands, once, old.patience)),
            patience=jnp.where(is_plain, old.patience, patience),
            length=jnp.where(is_plain, old.length, length),
        )

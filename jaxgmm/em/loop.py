"""Expectation-maximisation, whole: `init`, `step`, and `run`, which is a `while_loop` over `step`.

    state = em.init(mixture, batches)          expect
    state = em.step(state, batches)            maximise, expect, judge
    state = em.run(state, batches)             step, while running

A state is consistent: it carries a mixture and the moments of that very mixture, so the objective it reports belongs
to the mixture it holds. Data never ride in the loop's carry. All is pure, may be jitted, vmapped and differentiated,
and tells what happened by a status, never by an exception. Dempster, Laird and Rubin 1977; Bishop 2006, section 9.2.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base import check
from .._base.precision import keeps_precision
from .._base.programs import SMALL, program
from .._base.status import Status
from ..covariances import Form
from ..density import is_fast
from ..mixture import Mixture
from ..moments import Moments
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.chunks import Scale
from .acceleration import learn, propose
from .expectation import expect
from .maximisation import maximise
from .state import NOT_BEGUN, Fixed, Proposal, Settings, State, _begun, begun, is_running, prepared, resumed, stopped
from .verdict import judge


def advance(state: State, batches: Batches, settings: Settings, fixed: Fixed | None, form: Form) -> tuple[State, Array]:
    """`step` in one form, or the first M-step of a run that has not begun, with what is `fixed` of it.

    -> the state, as it was where the form is FAST and would cost the promised digits; and whether it would.
    """
    is_first = state.n_steps < 0
    state, proposal = proposed(state, settings)
    found = proposal.mixture
    lost = jnp.any((found.log_weights == -jnp.inf) & jnp.isfinite(state.mixture.log_weights)) & is_first
    if fixed is not None:
        placed = fixed.onto(found)
        proposal = proposal._replace(mixture=jax.tree.map(partial(jnp.where, is_first), placed, found))
    is_far = ~is_fast(proposal.mixture, batches.origin)
    put_off = is_far if form is Form.FAST else jnp.array(False)
    new = concluded(state, proposal, expect(proposal.mixture, batches, form), batches, settings, put_off)
    status = jnp.where(lost & ~put_off, Status.COLLAPSED, new.status).astype(jnp.int32)
    return new._replace(status=status, n_steps=jnp.maximum(new.n_steps, jnp.where(put_off, NOT_BEGUN, 0))), is_far


def init(mixture: Mixture, batches: Batches | Any, settings: Settings | None = None) -> State:
    """The state before the first step. `batches` may be an array (N, D). ValueError where D or the family differ."""
    settings = settings or Settings()
    return prepared(_init(mixture, _admit(mixture, batches, settings)), settings)


def step(state: State, batches: Batches | Any, settings: Settings | None = None) -> State:
    """One EM iteration: M from the state's moments, E under the new mixture, and the verdict. Differentiable.

    A finished state steps on all the same; a step that fails leaves the mixture as it was and says so in `status`.
    """
    settings = settings or Settings()
    return _step(state, _admit(state.mixture, batches, settings), settings)


def run(state: State, batches: Batches | Any, settings: Settings | None = None, max_steps: int | Array = 200) -> State:
    """Step until converged, failed, or `max_steps` steps were made in all. Resumable: a finished state comes back
    as it is, and one that stopped at a step limit goes on under a higher one. Differentiable forwards."""
    settings = settings or Settings()
    limit = check.steps(max_steps)
    return _run(state, _admit(state.mixture, batches, settings), settings, limit)


def _admit(mixture: Mixture, batches: Batches | Any, settings: Settings) -> Batches:
    if settings.family is not None and settings.family != mixture.family:
        raise ValueError(
            f"settings.family is {settings.family.name!r}, but the mixture is of family {mixture.family.name!r}. "
            "Leave the setting out, or create the mixture with that family."
        )
    if not isinstance(batches, Batches):
        rows_check.matrix_shape(np.shape(batches), "x")
        batches = Batches.of(batches, n_components=mixture.n_components, dtype=mixture.means.dtype)
    rows_check.last_axis((batches.n_features,), mixture.n_features)
    rows_check.same_dtype(batches.dtype, mixture.means.dtype)
    return batches


@keeps_precision
def _init(mixture: Mixture, batches: Batches) -> State:
    n_responsibilities = mixture.n_components * batches.n_chunks * batches.chunk_size
    return _first.compiled(n_responsibilities <= SMALL, mixture, batches)


@program
def _first(mixture: Mixture, batches: Batches) -> State:
    # The safe form alone: once a fit its speed does not matter, and the program is half as long to compile.
    return begun(mixture, expect(mixture, batches, Form.SAFE), batches)


@keeps_precision
@program
def _step(state: State, batches: Batches, settings: Settings) -> State:
    state, proposal = proposed(state, settings)
    return concluded(state, proposal, expect(proposal.mixture, batches), batches, settings)


def proposed(state: State, settings: Settings) -> tuple[State, Proposal]:
    """The M-step, or what an acceleration puts in its place; with the state in the form that this needs."""
    state = prepared(state, settings)
    if settings.acceleration is None:
        old = state.mixture
        return state, Proposal(maximise(state.moments, old.means, old.family, old.scales, settings.ridge))
    assert state.memory is not None
    return state, Proposal(*propose(settings.acceleration, state.memory, state.mixture, state.moments, settings.ridge))


def concluded(
    state: State,
    proposal: Proposal,
    moments: Moments,
    rows: Batches | Scale,
    settings: Settings,
    put_off: Array | bool = False,
) -> State:
    """The state after a step to a proposal, of which these are the moments: judged, and kept or not; the state as it
    was where the step is `put_off`."""
    objective = moments.objective / rows.total_weight
    new = State(proposal.mixture, moments, objective, state.n_steps + 1, state.status, state.fell, state.gain)
    if settings.acceleration is None:
        return judge(state, new, rows, settings, put_off)
    learnt = _learnt(state, new, proposal, rows, settings)
    return jax.tree.map(partial(jnp.where, put_off), state, learnt)


def _learnt(state: State, new: State, proposal: Proposal, rows: Batches | Scale, settings: Settings) -> State:
    """A step of EM's own or one that its acceleration proposes, which counts only if it raises what EM raises.

    Of a finished state, too, only a step of EM's own changes the status.
    """
    memory, method, is_plain = state.memory, settings.acceleration, proposal.is_plain
    assert memory is not None
    assert method is not None
    judged = judge(state._replace(memory=None), new, rows, settings)
    gain = new.objective - state.objective
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
    learnt = learn(method, memory, proposal.tried, is_plain, stands, gain, settings.tol, settings.steps_to_judge)
    return kept._replace(memory=learnt)


@keeps_precision
@program
def _run(state: State, batches: Batches, settings: Settings, max_steps: Array) -> State:
    return stopped(
        lax.while_loop(
            lambda state: is_running(state, max_steps),
            lambda state: _step(state, batches, settings),
            _begun(resumed(state, max_steps), settings),
        )
    )

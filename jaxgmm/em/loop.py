"""The EM iteration: `init`, `step`, and `run`, which is a `while_loop` over `step`.

    state = em.init(mixture, batches)          expect
    state = em.step(state, batches)            the stepper proposes (maximise), expect, judge, the stepper learns
    state = em.run(state, batches)             step, while running

A state is consistent: it carries a mixture and the moments of that very mixture, so the objective it reports belongs
to the mixture it holds. Data are never part of the loop's carry. All functions are pure, can be jitted, vmapped and
differentiated, and report what happened by a status, never by an exception. Dempster, Laird and Rubin 1977; Bishop
2006, section 9.2.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base import check
from .._base.namespace import choose, xp_of
from .._base.precision import keeps_precision
from .._base.programs import SMALL, Effort, program
from .._base.status import Status
from ..covariances import Form
from ..density import is_fast
from ..mixture import Mixture
from ..moments import Moments
from ..priors import Prior
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.chunks import Scale
from ..rows.door import as_batches
from . import in_turn
from .expectation import expect
from .state import NOT_BEGUN, Fixed, Proposal, Settings, State, finish, initial, is_running, objective_of, resume
from .steppers.shelf import stepper_of, with_memory, with_own_memory
from .verdict import judge


def init(mixture: Mixture, batches: Batches | Any, settings: Settings | None = None) -> State:
    """The state before the first step. `batches` may be an array (N, D). ValueError where D or the family differ."""
    settings = settings or Settings()
    batches = _admit(mixture, batches, settings)
    return with_memory(_init(mixture, batches, settings.in_unit(batches.exponent).prior), settings)


def step(state: State, batches: Batches | Any, settings: Settings | None = None) -> State:
    """One EM iteration: M from the state's moments, E under the new mixture, and the verdict. Differentiable.

    A finished state makes a step all the same; a step that fails leaves the mixture unchanged and sets `status`.
    """
    settings = settings or Settings()
    batches = _admit(state.mixture, batches, settings)
    return _step(state, batches, settings.in_unit(batches.exponent))


def run(state: State, batches: Batches | Any, settings: Settings | None = None, max_steps: int | Array = 200) -> State:
    """Step until converged, failed, or `max_steps` steps were made in all. Resumable: a finished state is returned
    unchanged, and one that stopped at a step limit continues under a higher one. Differentiable in forward mode."""
    settings = settings or Settings()
    limit = check.steps(max_steps)
    batches = _admit(state.mixture, batches, settings)
    return _run(state, batches, settings.in_unit(batches.exponent), limit)


def _admit(mixture: Mixture, batches: Batches | Any, settings: Settings) -> Batches:
    if settings.family is not None and settings.family != mixture.family:
        raise ValueError(
            f"settings.family is {settings.family.name!r}, but the mixture is of family {mixture.family.name!r}. "
            "Leave the setting out, or create the mixture with that family."
        )
    batches = as_batches(batches, mixture.n_components, mixture.n_features, mixture.means.dtype)
    rows_check.same_dtype(batches.dtype, mixture.means.dtype)
    return batches


@keeps_precision
def _init(mixture: Mixture, batches: Batches, prior: Prior | None) -> State:
    n_responsibilities = mixture.n_components * batches.n_chunks * batches.chunk_size
    return _first.compiled(n_responsibilities <= SMALL, mixture, batches, prior)


@program
def _first(mixture: Mixture, batches: Batches, prior: Prior | None) -> State:
    # Only the safe form: it runs once per fit, so its speed does not matter, and the program compiles in half the time.
    return initial(mixture, expect(mixture, batches, Form.SAFE), batches, prior)


@keeps_precision
@program
def _step(state: State, batches: Batches, settings: Settings) -> State:
    state, proposal = propose(_under_prior(state, batches, settings), settings)
    return accept(state, proposal, expect(proposal.mixture, batches), batches, settings)


def _under_prior(state: State, batches: Batches, settings: Settings) -> State:
    """The state with the objective under the settings' prior: the state may come from an `init` without a prior."""
    if settings.prior is None:
        return state
    return state._replace(objective=objective_of(state.mixture, state.moments, batches, settings.prior))


def propose(state: State, settings: Settings) -> tuple[State, Proposal]:
    """The state, with the memory that the stepper needs; and the mixture that the stepper proposes."""
    state = with_memory(state, settings)
    return state, stepper_of(settings).propose(state, settings)


def accept(
    state: State,
    proposal: Proposal,
    moments: Moments,
    rows: Batches | Scale,
    settings: Settings,
    put_off: Array | bool = False,
) -> State:
    """The state after a step to a proposal that has these moments: the step is judged, and the stepper learns from it.
    Where the step is `put_off`, the state is unchanged."""
    objective = objective_of(proposal.mixture, moments, rows, settings.prior)
    new = State(
        proposal.mixture, moments, objective, state.n_steps + 1, state.status, state.fell, state.gain, state.gain_before
    )
    judged = judge(state._replace(memory=None), new, rows, settings, put_off)
    return stepper_of(settings).learn(state, proposal, new, judged, settings, put_off)


@keeps_precision
@program
def _run(state: State, batches: Batches, settings: Settings, max_steps: Array) -> State:
    return finish(
        lax.while_loop(
            lambda state: is_running(state, max_steps),
            lambda state: _step(state, batches, settings),
            with_own_memory(resume(_under_prior(state, batches, settings), max_steps), settings),
        )
    )


def advance(
    state: State, batches: Batches, settings: Settings, fixed: Fixed | None, form: Form, how: Effort = Effort.WELL
) -> tuple[State, Array]:
    """`step` in a given form; for a run that has not begun the first M-step, with the parts that are `fixed`.

    how: how the program is compiled. Where many numbers of components share the program, an E-step in the SAFE form
    takes components in turn, without those that are padding (`in_turn.py`); not where it is WELL, as for lanes side by
    side, which differ in how many they have.

    -> the state, unchanged where the form is FAST and FAST is too inaccurate; and whether FAST is too inaccurate.
    """
    state, proposal, lost = begin_step(state, settings, fixed)
    is_far = ~is_fast(proposal.mixture, batches.origin)
    put_off = is_far if form is Form.FAST else jnp.array(False)
    if batches.in_turn and form is Form.SAFE and how is not Effort.WELL:
        moments = in_turn.expect(proposal.mixture, batches, how)
    else:
        moments = expect(proposal.mixture, batches, form, how)
    return end_step(state, proposal, moments, batches, settings, lost, put_off), is_far


def begin_step(state: State, settings: Settings, fixed: Fixed | None) -> tuple[State, Proposal, Array]:
    """The first half of `advance`, up to the pass over the rows. -> the state and the mixture that are proposed, and
    whether this is a first M-step in which a component got no rows. Of NumPy for states of NumPy."""
    xp: Any = xp_of(state.n_steps)
    is_first = state.n_steps < 0
    state, proposal = propose(state, settings)
    found = proposal.mixture
    lost = ((found.log_weights == -np.inf) & xp.isfinite(state.mixture.log_weights)).any(axis=-1) & is_first
    if fixed is not None:
        proposal = proposal._replace(mixture=choose(is_first, fixed.onto(found), found))
    return state, proposal, lost


def end_step(
    state: State,
    proposal: Proposal,
    moments: Moments,
    rows: Batches | Scale,
    settings: Settings,
    lost: Array,
    put_off: Any = np.False_,
) -> State:
    """The second half of `advance`: the state after a step to a proposal that has these moments."""
    xp: Any = xp_of(state.n_steps)
    new = accept(state, proposal, moments, rows, settings, put_off)
    status = xp.where(lost & ~put_off, Status.COLLAPSED, new.status).astype(np.int32)
    return new._replace(status=status, n_steps=xp.maximum(new.n_steps, xp.where(put_off, NOT_BEGUN, 0)))

"""Many runs in one program: a few are stepped side by side in slots, and when one ends the next takes its slot.

A `vmap` of `run` over all of them would step every run until the slowest has ended, with all their intermediate values
in memory. Here a run makes only its own steps, and the memory for intermediate values does not grow with the queue.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import em
from .._base.status import Status
from ..covariances import Form
from ..em.lanes import n_lanes_of, side_by_side
from ..em.loop import advance
from ..em.state import finish, is_running, resume
from ..em.steppers.memory import MEMORY
from ..em.steppers.shelf import with_memory
from ..rows.batches import Batches
from ..rows.sizes import choose_width


class Slots(NamedTuple):
    """The W runs that are stepped side by side."""

    lane: Array  # (W,): the index of its run among R; R for a vacant slot
    states: em.State  # (W, ...); a vacant slot holds a copy of some run, whose steps are discarded
    is_far: Array  # (W,) bool: whether the FAST form would be too inaccurate for the next step


class Queue(NamedTuple):
    """R runs: some in slots, some waiting, some ended."""

    slots: Slots
    states: em.State  # (R, ...), without acceleration memory; for runs in slots, the states they entered with
    histories: Array  # (R, capacity)
    is_far: Array  # (R,) bool: for waiting runs, a guess of `Slots.is_far`
    order: Array  # (R,): the queued runs in order, then the others
    n_queued: Array  # (): how many runs were queued
    served: Array  # (): how many of them have been given a slot
    n_rounds: Array  # (): steps of the slots so far


def queue(
    states: em.State, histories: Array, n_rows: int, settings: em.Settings, max_steps: Array, is_far: Any = None
) -> Queue:
    """Runs of `em.run` from every state (R, ...), which will write the objective after t steps to histories[:, t].

    n_rows: of a chunk. is_far (R,): which runs are likely to need the SAFE form.
    """
    states = jax.vmap(lambda state: resume(state, max_steps))(states)
    n = n_lanes_of(states)
    is_far = jnp.zeros(n, bool) if is_far is None else is_far
    every = Slots(jnp.arange(n, dtype=jnp.int32), states, is_far)
    going, histories = is_running(states, max_steps), _written(histories, every)
    order = jnp.argsort(~going).astype(jnp.int32)  # stable
    remembering = _remembering(states, settings)
    return _vacant(remembering, histories, every.is_far, order, going, n_rows, settings)


def queue_on_host(
    states: em.State, histories: np.ndarray, is_far: np.ndarray, n_rows: int, settings: em.Settings, max_steps: int
) -> Queue:
    """`queue` in NumPy, for states with NumPy leaves and without acceleration. Writes to histories in place."""
    resumable = (states.status == Status.MAX_STEPS) & (states.n_steps < max_steps)
    states = states._replace(status=np.where(resumable, Status.RUNNING, states.status).astype(np.int32), memory=None)
    has_room = (states.n_steps >= 0) & (states.n_steps < histories.shape[1])
    histories[np.flatnonzero(has_room), states.n_steps[has_room]] = states.objective[has_room]
    going = (states.status == Status.RUNNING) & (states.n_steps < max_steps)
    order = np.argsort(~going, kind="stable").astype(np.int32)
    return _vacant(states, histories, is_far, order, going, n_rows, settings)


def _vacant(
    states: em.State, histories: Any, is_far: Any, order: Any, going: Any, n_rows: int, settings: em.Settings
) -> Queue:
    """The queue before any step: with vacant slots, or with all runs in slots if there are enough slots."""
    n, zero = n_lanes_of(states), np.int32(0)
    width = choose_width(states.mixture.means.shape[1], n, n_rows, bytes_of_a_run(states, settings))
    n_queued = going.sum(dtype=np.int32)
    if width == n:
        slots = Slots(np.arange(n, dtype=np.int32), states, is_far)  # pyright: ignore
        return Queue(slots, states._replace(memory=None), histories, is_far, order, n_queued, n_queued, zero)  # pyright: ignore
    some = jax.tree.map(lambda leaf: leaf[:width], states)
    slots = Slots(np.full(width, n, np.int32), some, np.zeros(width, bool))  # pyright: ignore
    return Queue(slots, states._replace(memory=None), histories, is_far, order, n_queued, zero, zero)  # pyright: ignore


def work(
    queue: Queue,
    batches: Batches,
    settings: em.Settings,
    max_steps: Array,
    n_rounds: Array,
    form: Form | None = None,
) -> Queue:
    """Step the slots and refill those that fall vacant, until all runs have ended or `n_rounds` have been made. In FAST
    form, stop as soon as a slot is far; in SAFE form, as soon as none is. Without a form each step chooses its own, and
    all runs must have begun.

    Results do not depend on how the rounds are divided into calls.
    """
    how = _How(batches, settings, max_steps, n_rounds, form)
    if len(queue.slots.lane) == len(queue.histories):
        return _rounds(queue, how)

    def unfinished(queue: Queue) -> Array:
        is_left = jnp.any(_active(queue, max_steps)) | (queue.served < queue.n_queued)
        return is_left & (queue.n_rounds < n_rounds) & ~_is_to_stop(queue, how)

    def exchange(queue: Queue) -> Queue:
        return _rounds(_served(queue, settings, ~_active(queue, max_steps)), how)

    return lax.while_loop(unfinished, exchange, queue)


class _How(NamedTuple):
    batches: Batches
    settings: em.Settings
    max_steps: Array
    n_rounds: Array
    form: Form | None


def _active(queue: Queue, max_steps: Array) -> Array:
    """Which slots hold a run that has not ended. -> (W,) bool."""
    return is_running(queue.slots.states, max_steps) & (queue.slots.lane < len(queue.histories))


def _is_to_stop(queue: Queue, how: _How) -> Array:
    """Whether the next step needs the other form."""
    if how.form is None:
        return jnp.array(False)
    active = _active(queue, how.max_steps)
    some_far = jnp.any(active & queue.slots.is_far)
    return some_far if how.form is Form.FAST else jnp.any(active) & ~some_far


def states_of(queue: Queue) -> em.State:
    """The current states of all runs, (R, ...)."""
    if len(queue.slots.lane) == len(queue.histories):
        return queue.slots.states._replace(memory=None)
    return _kept(queue, queue.slots.lane)


def ended_on_host(queue: Queue) -> tuple[em.State, np.ndarray]:
    """`ended`, for a queue with writable NumPy leaves."""
    slots, states = queue.slots, queue.states
    of_runs = slots.lane < len(queue.histories)
    states = jax.tree.map(np.array, states)
    few = jax.tree.map(lambda leaf: leaf[of_runs], slots.states._replace(memory=None))
    jax.tree.map(lambda many, some: many.__setitem__(slots.lane[of_runs], some), states, few)
    status = np.where(states.status == Status.RUNNING, Status.MAX_STEPS, states.status)
    return states._replace(status=status.astype(np.int32)), queue.histories  # pyright: ignore


def ended(queue: Queue) -> tuple[em.State, Array]:
    """The states (R, ...) that the runs end with, and their histories."""
    return jax.vmap(finish)(states_of(queue)), queue.histories


def bytes_of_a_run(states: em.State, settings: em.Settings) -> int:
    """Bytes for each of states (R, ...): the state, its next state, intermediate values, and acceleration memory."""
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states._replace(memory=None)))
    memory = 0 if settings.acceleration is None else 2 * MEMORY
    return (4 + memory) * own // n_lanes_of(states)


def _kept(queue: Queue, lane: Array) -> em.State:
    """All states, with those of the slots written to the indices `lane` (W,); index R is dropped."""
    few = queue.slots.states._replace(memory=None)
    return jax.tree.map(lambda many, few: many.at[lane].set(few, mode="drop"), queue.states, few)


def _remembering(states: em.State, settings: em.Settings) -> em.State:
    """States (W, ...) with acceleration memory, which waiting and ended runs do not need."""
    return jax.vmap(lambda state: with_memory(state, settings))(states)


def _served(queue: Queue, settings: em.Settings, done: Array) -> Queue:
    """Store the runs of slots that are `done` (W,), and fill those slots with the next runs of the queue."""
    n, slots = len(queue.histories), queue.slots
    states = _kept(queue, jnp.where(done, slots.lane, n))
    place = queue.served + jnp.cumsum(done, dtype=jnp.int32) - 1
    lane = jnp.where(place < queue.n_queued, queue.order[jnp.minimum(place, n - 1)], n)
    taken = jnp.minimum(lane, n - 1)
    fresh = _remembering(jax.tree.map(lambda leaf: leaf[taken], states), settings)
    is_fresh = done & (lane < n)
    slots = Slots(
        jnp.where(done, lane, slots.lane),
        _where(is_fresh, fresh, slots.states),
        jnp.where(is_fresh, queue.is_far[taken], slots.is_far),
    )
    served = jnp.minimum(queue.served + jnp.sum(done, dtype=jnp.int32), queue.n_queued)
    return queue._replace(slots=slots, states=states, served=served)


def _rounds(queue: Queue, how: _How) -> Queue:
    """Step the slots until one of their runs ends while others wait, or until all have ended."""
    none_waits = queue.served == queue.n_queued

    # Carry only what changes, not the states of all runs.
    def whole(carry: tuple[Slots, Array, Array]) -> Queue:
        return queue._replace(slots=carry[0], histories=carry[1], n_rounds=carry[2])

    def going(carry: tuple[Slots, Array, Array]) -> Array:
        now = whole(carry)
        active, vacant = _active(now, how.max_steps), now.slots.lane == len(queue.histories)
        goes_on = jnp.where(none_waits, jnp.any(active), jnp.all(active | vacant))
        return goes_on & (now.n_rounds < how.n_rounds) & ~_is_to_stop(now, how)

    def body(carry: tuple[Slots, Array, Array]) -> tuple[Slots, Array, Array]:
        slots, histories, made = carry
        stepped, is_far = side_by_side(_step, slots.states, how)
        if len(slots.lane) > 1:  # a single slot is stepped only until its run ends
            goes_on = is_running(slots.states, how.max_steps)
            stepped, is_far = _where(goes_on, (stepped, is_far), (slots.states, slots.is_far))
        slots = slots._replace(states=stepped, is_far=is_far)
        return slots, _written(histories, slots), made + 1

    return whole(lax.while_loop(going, body, (queue.slots, queue.histories, queue.n_rounds)))


def _step(state: em.State, how: _How) -> tuple[em.State, Array]:
    """One step, and whether the next step needs the SAFE form."""
    if how.form is None:
        return em.step(state, how.batches, how.settings), jnp.array(False)
    return advance(state, how.batches, how.settings, None, how.form)


def _written(histories: Array, slots: Slots) -> Array:
    """Write the objectives to the histories; those past a history's end or of a vacant slot are dropped."""
    return histories.at[slots.lane, slots.states.n_steps].set(slots.states.objective, mode="drop")


def _where(chosen: Array, new: Any, old: Any) -> Any:
    """The leaves (W, ...) of `new` where `chosen` (W,), else those of `old`."""
    return jax.tree.map(lambda a, b: jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)

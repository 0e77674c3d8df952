"""Runs from many starts to their ends, and the best of them; or a race, in which most of them are soon out of it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import em
from .._base.precision import is_traced, is_transforming
from .._base.programs import next_power_of_two, program
from .._base.status import Status
from ..covariances import Form
from ..em.lanes import step_lanes
from ..em.state import NOT_BEGUN, finish, resume
from ..em.steppers.shelf import with_memory
from ..rows.batches import Batches
from ..rows.partitioned import PartitionedRows
from . import one_by_one
from .checkpoint import Entry
from .observer import NOBODY, Observer
from .pool import Crews, OnCores, are_singles, at_once, crews_for
from .progress import Snapshot, is_going
from .queue import Queue, bytes_of_a_run, ended, ended_on_host, queue, queue_on_host, work
from .result import HISTORY, ON_HOST

BURST = 0.3
"""Seconds after which an observer is told of a run again."""

FIRST_BURST = 2**19
"""Responsibilities of a first burst: those of some milliseconds."""

SHORT_RUN = 10
"""Steps of a race after which the field is cut."""


def run_to_ends(
    states: em.State,
    batches: Batches | PartitionedRows,
    settings: em.Settings,
    max_steps: int,
    observer: Observer = NOBODY,
    histories: Any = None,
) -> tuple[em.State, Array]:
    """Run states (R, ...) to their ends: in one go, or where someone looks on in bursts of so many steps, or seconds.

    Both come to the same bits. `histories` are those of runs that go on.

    -> the states, and their objectives after t steps (R, `history_length` at least), NaN past the end.
    """
    max_steps = min(max_steps, np.iinfo(np.int32).max)
    if histories is None:
        histories = _no_history(states, max_steps)
    entry = observer.next_call()
    if isinstance(batches, PartitionedRows):
        return _run_spread(states, histories, batches, settings, max_steps, observer, entry)
    limit, n_runs = np.int32(max_steps), len(states.objective)
    if is_traced((states, settings, batches)) or is_transforming():
        return _run_all((states, histories), batches, settings, limit)
    found = None if entry is None else entry.found()
    if is_one_by_one(states, batches, settings):
        return _run_each(states, histories, batches, settings, max_steps, observer, entry, found)  # pyright: ignore
    crews = _crews(states, batches, settings, None if found is None else int(found.pop()))
    is_light = isinstance(crews, OnCores) and is_on_host(states) and settings.acceleration is None
    far = one_by_one.guessed_far(states, batches)
    parts = crews.deal((states, np.array(histories), far))
    if is_light:
        under_way = [queue_on_host(*part, batches.chunk_size, settings, max_steps) for part in parts]  # pyright: ignore
    else:
        under_way = crews.run(_queue, parts, settings, limit, n_rows=batches.chunk_size)
    if entry is not None and found is not None:
        under_way = crews.placed(entry.as_tree(found, under_way))
    # Before a time is known: so much that it is nothing, and on a small table so much that few bursts are needed.
    burst = max(1, min(8, FIRST_BURST // (states.mixture.means.shape[1] * batches.n_chunks * batches.chunk_size)))
    n_rounds, every_round = max(int(np.max(part.n_rounds)) for part in under_way), np.iinfo(np.int32).max
    while True:
        snapshot = Snapshot(*crews.gathered([_told(part) for part in under_way], n_runs))
        observer.told(snapshot)
        is_done = not np.any(is_going(snapshot, max_steps))
        if entry is not None:
            entry.keep((under_way, np.int32(crews.number)), is_done)
        if is_done:
            if is_light:
                held = jax.tree.map(np.array, under_way)
                return crews.gathered([ended_on_host(part) for part in held], n_runs)
            return crews.collect(crews.run(_ended, under_way), n_runs)
        began = time.perf_counter()
        n_rounds = min(n_rounds + (observer.every or burst), every_round) if observer.looks else every_round
        under_way = jax.block_until_ready(_worked(crews, under_way, batches, settings, limit, n_rounds))
        # A first round tells how many there are to BURST; where it was compiled for, the second does.
        in_time = burst * BURST / max(time.perf_counter() - began, 1e-6)
        burst = max(1, int(min(in_time, 64 * burst)))


def _worked(
    crews: Crews, parts: list[Queue], batches: Batches, settings: em.Settings, limit: np.int32, n_rounds: int
) -> list[Queue]:
    """The queues after so many rounds, each in the form that its next step asks for: no program is compiled for the
    other form before a run needs it."""
    shared = batches, settings, limit, np.int32(n_rounds)
    while True:
        forms = [_form(part, limit, n_rounds) for part in parts]
        if not any(forms):
            return parts
        if isinstance(crews, OnCores):
            going = [index for index, form in enumerate(forms) if form]
            done = at_once([partial(_work, parts[index], *shared, form=forms[index]) for index in going])
            parts = [done[going.index(index)] if forms[index] else part for index, part in enumerate(parts)]
        else:
            parts = crews.run(_work, parts, *shared, form=forms[0])


def _form(part: Queue, limit: Any, n_rounds: int) -> Form | None:
    """The form of the next step of a queue; None where there is none. Leaves may have an axis of devices in front."""
    slots, states = part.slots, part.slots.states
    lane, status, n_steps, is_far = map(np.asarray, (slots.lane, states.status, states.n_steps, slots.is_far))
    may_go = np.asarray(part.n_rounds)[..., None] < n_rounds
    active = (lane < part.histories.shape[-2]) & (status == Status.RUNNING) & (n_steps < limit) & may_go
    if active.any():
        return Form.SAFE if np.any(active & is_far) else Form.FAST
    waits = (np.asarray(part.served) < np.asarray(part.n_queued)) & may_go[..., 0]
    if not waits.any():
        return None
    return Form.SAFE if np.asarray(part.is_far).any() else Form.FAST


def is_on_host(states: em.State) -> bool:
    """Whether states are known, and so few numbers that the host may hold them."""
    n_numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(states))
    return n_numbers <= ON_HOST


def is_one_by_one(states: em.State, batches: Batches, settings: em.Settings) -> bool:
    """Whether runs (R, ...) are better made one after the other than side by side."""
    if settings.acceleration is not None or not is_on_host(states):
        return False
    return batches.has_room or are_singles(len(states.objective), states.mixture.means.shape[1], batches)


def _run_spread(
    states: em.State,
    histories: Any,
    rows: PartitionedRows,
    settings: em.Settings,
    max_steps: int,
    observer: Observer,
    entry: Entry | None,
) -> tuple[em.State, Array]:
    """Runs (R, ...) that take their steps together, one pass over the rows for all that have not ended."""
    states, histories = _resumed(states, np.int32(max_steps), settings), np.array(histories)
    found = None if entry is None else entry.found()
    if entry is not None and found is not None:
        states, histories = entry.as_tree(found, (states, histories))
        states = jax.device_put(states, rows.origin.sharding)
    while True:
        snapshot = Snapshot(*map(np.array, (states.objective, states.status, states.n_steps)))
        kept = snapshot.n_steps < histories.shape[1]
        histories[np.flatnonzero(kept), snapshot.n_steps[kept]] = snapshot.objective[kept]
        going = np.flatnonzero(is_going(snapshot, max_steps)).astype(np.int32)
        observer.told(snapshot)
        if entry is not None:
            entry.keep((states, histories), is_done=not len(going))
        if not len(going):
            return _stopped(states), jnp.asarray(histories)
        # Padded to a power of two, so that few programs are compiled: duplicates of the last write the same row.
        n_lanes = min(len(states.status), next_power_of_two(len(going)))
        chosen = going[np.minimum(np.arange(n_lanes), len(going) - 1)]
        states = _put(states, chosen, step_lanes(_of(states, chosen), rows, settings))


def _run_each(
    states: em.State,
    histories: Any,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    observer: Observer,
    entry: Entry | None,
    found: list[np.ndarray] | None,
) -> tuple[em.State, np.ndarray]:
    """Runs (R, ...) to their ends one after the other; where someone looks on, so many steps of all and then more.

    Between runs an interrupt gets through, so that nothing `pauses` for it.
    """
    is_told = observer.tell is not None
    states = jax.tree.map(np.asarray, states)
    resumable = (states.status == Status.MAX_STEPS) & (states.n_steps < max_steps)
    states = states._replace(status=np.where(resumable, Status.RUNNING, states.status).astype(np.int32), memory=None)
    # Who is told is told of the starts first.
    states, histories = one_by_one.run(states, histories, batches, settings, 0 if is_told else NOT_BEGUN)
    if entry is not None and found is not None:
        states, histories = entry.as_tree(found, (states, histories))
    burst = observer.every or (SHORT_RUN if is_told or entry is not None else max_steps)
    while True:
        n_steps = np.maximum(states.n_steps, 0)
        observer.told(Snapshot(*map(np.array, (states.objective, states.status, n_steps))))
        going = (states.status == Status.RUNNING) & (states.n_steps < max_steps)
        if entry is not None:
            entry.keep((states, histories), is_done=not going.any())
        if not going.any():
            status = np.where(states.status == Status.RUNNING, Status.MAX_STEPS, states.status).astype(np.int32)
            return states._replace(status=status), histories
        began, done = time.perf_counter(), int(n_steps[going].min())
        states, histories = one_by_one.run(states, histories, batches, settings, min(done + burst, max_steps))
        if observer.every is None and time.perf_counter() - began < BURST:
            burst = min(2 * burst, max_steps)


@program
def _resumed(states: em.State, max_steps: Array, settings: em.Settings) -> em.State:
    return jax.vmap(lambda state: with_memory(resume(state, max_steps), settings))(states)


@program(hurried=True)
def _stopped(states: em.State) -> em.State:
    return jax.vmap(finish)(states._replace(memory=None))


@program(hurried=True)
def _of(states: Any, chosen: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], states)


@program(hurried=True)
def _put(states: Any, chosen: Array, few: Any) -> Any:
    return jax.tree.map(lambda many, some: many.at[chosen].set(some), states, few)


def _no_history(states: em.State, max_steps: int) -> Any:
    # The history's length is static: a few lengths, few programs; and it rides in the loop, so it is bounded.
    capacity = min(next_power_of_two(max_steps + 1), HISTORY)
    return np.full((len(states.objective), capacity), np.nan, states.objective.dtype)


@program
def _run_all(
    part: tuple[em.State, Array], batches: Batches, settings: em.Settings, max_steps: Array
) -> tuple[em.State, Array]:
    every_round = jnp.int32(np.iinfo(np.int32).max)
    under_way = queue(*part, batches.chunk_size, settings, max_steps)
    return ended(work(under_way, batches, settings, max_steps, every_round))


@program(static="n_rows", hurried=True)
def _queue(part: tuple[em.State, Array, Array], settings: em.Settings, max_steps: Array, *, n_rows: int) -> Queue:
    states, histories, is_far = part
    return queue(states, histories, n_rows, settings, max_steps, is_far)


_work, _ended = program(work, static="form"), program(ended, hurried=True)


def _crews(states: em.State, batches: Batches, settings: em.Settings, number: int | None) -> Crews:
    """To whom the runs (R, ...) are dealt out; to so many cores where they have been dealt out to them before."""
    if is_traced((states, settings)):
        return OnCores(1, batches)
    n_runs, n_components = states.mixture.means.shape[:2]
    crews = crews_for(n_runs, n_components, batches, bytes_of_a_run(states, settings))
    return crews if number is None or not isinstance(crews, OnCores) else OnCores(number, batches)


def _told(under_way: Queue) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, status and steps of all runs. Leaves may have an axis of devices in front."""
    lane, n_runs = np.asarray(under_way.slots.lane), under_way.histories.shape[-2]
    taken = np.nonzero(lane < n_runs)
    places = (*taken[:-1], lane[taken])

    def whole(of_slots: Any, of_all: Any) -> np.ndarray:
        found = np.array(of_all)
        found[places] = np.asarray(of_slots)[taken]
        return found

    few, many = under_way.slots.states, under_way.states
    return whole(few.objective, many.objective), whole(few.status, many.status), whole(few.n_steps, many.n_steps)

"""Runs side by side: scattered over cores or devices, which all run the same program on their own runs."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import em
from .._base.programs import program
from .._base.status import Status
from ..covariances import Form
from ..em.state import guessed_far
from ..rows.batches import Batches
from .checkpoint import Entry
from .observer import BURST, Observer, steps_of_a_burst
from .pool import Pool, Threads, at_once, pool_for
from .progress import Snapshot, is_going
from .queue import Queue, Slots, bytes_of_a_run, ended, ended_on_host, queue, queue_on_host, work
from .result import is_on_host, unfinished

FIRST_BURST = 2**19
"""Responsibilities in a first burst, which take some milliseconds."""


def to_ends(
    states: em.State,
    histories: Any,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    observer: Observer,
    entry: Entry | None,
) -> tuple[em.State, Array]:
    """Run states (R, ...) to their ends, in bursts sized by steps or by time; in one go if that is short."""
    limit, n_runs = np.int32(max_steps), len(states.objective)
    found = None if entry is None else entry.found()
    pool = _pool(states, batches, settings, None if found is None else int(found.pop()))
    is_light = isinstance(pool, Threads) and is_on_host(states) and settings.acceleration is None
    far = guessed_far(states, batches)
    parts = pool.scatter((states, np.array(histories), far))
    if is_light:
        under_way = [queue_on_host(*part, batches.chunk_size, settings, max_steps) for part in parts]  # pyright: ignore
    else:
        under_way = pool.run(_queue, parts, settings, limit, n_rows=batches.chunk_size)
    if entry is not None and found is not None:
        under_way = pool.placed(entry.as_tree(found, under_way))
    n_rounds, every_round = max(int(np.max(part.n_rounds)) for part in under_way), np.iinfo(np.int32).max
    burst = _first_burst(under_way[0].slots, batches, observer)
    if not observer.looks and burst >= max_steps * n_runs:
        burst = every_round
    while True:
        snapshot = Snapshot(*pool.gather_on_host([_told(part) for part in under_way], n_runs))
        going = is_going(snapshot, max_steps)
        is_done = not going.any()
        with observer.heeding():
            observer.told(snapshot)
        if entry is not None:
            entry.keep((under_way, np.int32(pool.number)), is_done or observer.is_interrupted)
        if is_done or observer.is_interrupted:
            break
        began = time.perf_counter()
        n_rounds = min(n_rounds + (observer.every or burst), every_round)
        with observer.heeding():
            under_way = jax.block_until_ready(_worked(pool, under_way, batches, settings, limit, n_rounds))
        # The first burst tells how many rounds take BURST seconds; if it included compilation, the second does.
        in_time = burst * BURST / max(time.perf_counter() - began, 1e-6)
        burst = max(1, int(min(in_time, 64 * burst)))
    if is_light:
        held = jax.tree.map(np.array, under_way)
        found = pool.gather_on_host([ended_on_host(part) for part in held], n_runs)
    else:
        found = pool.gather(pool.run(_ended, under_way), n_runs)
    return (unfinished(found[0], going), found[1]) if going.any() else found


def _first_burst(slots: Slots, batches: Batches, observer: Observer) -> int:
    """Rounds before there is anything to time. For reports they are few; on a small table, up to 8 steps, so that few
    bursts are needed."""
    (*_, n_slots, n_components, n_features), family = slots.states.mixture.means.shape, slots.states.mixture.family
    each = n_components * batches.n_chunks * batches.chunk_size
    if observer.looks:
        return max(1, min(8, FIRST_BURST // each))
    return steps_of_a_burst(n_slots * each, n_features, family.kind)


@program
def run_all(
    part: tuple[em.State, Array], batches: Batches, settings: em.Settings, max_steps: Array
) -> tuple[em.State, Array]:
    """Run all states to their ends in one program."""
    every_round = jnp.int32(np.iinfo(np.int32).max)
    under_way = queue(*part, batches.chunk_size, settings, max_steps)
    return ended(work(under_way, batches, settings, max_steps, every_round))


def _worked(
    pool: Pool, parts: list[Queue], batches: Batches, settings: em.Settings, limit: np.int32, n_rounds: int
) -> list[Queue]:
    """The queues after n_rounds rounds in all. Each runs in the form that its next step needs, so that the other form
    is compiled only if some run needs it."""
    shared = batches, settings, limit, np.int32(n_rounds)
    while True:
        forms = [_form(part, limit, n_rounds) for part in parts]
        if not any(forms):
            return parts
        if isinstance(pool, Threads):
            going = [index for index, form in enumerate(forms) if form]
            done = at_once([partial(_work, parts[index], *shared, form=forms[index]) for index in going])
            parts = [done[going.index(index)] if forms[index] else part for index, part in enumerate(parts)]
        else:
            parts = pool.run(_work, parts, *shared, form=forms[0])


def _form(part: Queue, limit: Any, n_rounds: int) -> Form | None:
    """The form of a queue's next step; None if it has no more steps. Leaves may have a leading axis of devices."""
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


@program(static="n_rows", hurried=True)
def _queue(part: tuple[em.State, Array, Array], settings: em.Settings, max_steps: Array, *, n_rows: int) -> Queue:
    states, histories, is_far = part
    return queue(states, histories, n_rows, settings, max_steps, is_far)


_work, _ended = program(work, static="form"), program(ended, hurried=True)


def _pool(states: em.State, batches: Batches, settings: em.Settings, number: int | None) -> Pool:
    """The pool to scatter the runs (R, ...) over. number: of threads, if resuming runs that were scattered before."""
    n_runs, n_components = states.mixture.means.shape[:2]
    pool = pool_for(n_runs, n_components, batches, bytes_of_a_run(states, settings))
    return pool if number is None or not isinstance(pool, Threads) else Threads(number, batches)


def _told(under_way: Queue) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, status and steps of all runs. Leaves may have a leading axis of devices."""
    lane, n_runs = np.asarray(under_way.slots.lane), under_way.histories.shape[-2]
    taken = np.nonzero(lane < n_runs)
    places = (*taken[:-1], lane[taken])

    def whole(of_slots: Any, of_all: Any) -> np.ndarray:
        found = np.array(of_all)
        found[places] = np.asarray(of_slots)[taken]
        return found

    few, many = under_way.slots.states, under_way.states
    return whole(few.objective, many.objective), whole(few.status, many.status), whole(few.n_steps, many.n_steps)

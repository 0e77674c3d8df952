"""Runs one after the other, driven from the host, each on one core: a program makes the steps of a single run
(`stepping.py`). In small searches NumPy makes them instead, of all runs side by side (`in_step.py`).

On a CPU a step of one run keeps a core busy as soon as a chunk has some ten thousand responsibilities, and starting the
program for the next run costs a fifth of a millisecond. In return no batched program has to be compiled, and no shape
depends on the number of runs; each run uses the form (FAST or SAFE) that it needs, unless one serves all (`Way`), and
makes its own number of steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from .. import em
from .._base.programs import Effort
from .._base.status import Status
from ..em.state import NOT_BEGUN, Fixed, guessed_far, unstarted
from ..families import Family
from ..moments import Moments
from ..priors import Ridge
from ..rows.batches import Batches
from . import in_step
from .ascent import Ascent, has_next_step, learn, propose
from .checkpoint import Entry
from .observer import BURST, HURRIED, NOBODY, Observer, steps_of_a_burst
from .pool import at_once, in_background, n_cores
from .progress import Snapshot
from .result import unfinished, write_objectives
from .stepping import LINE, Stepping
from .way import is_by_numpy

WORTH_A_THREAD = 2**15
"""Responsibilities in a step of all runs from which a second thread is worth starting."""

WORTH_A_THREAD_TO_ASCEND = 2**18
"""Responsibilities in a step of one ascent for each thread that ascends: a step then takes some milliseconds, and its
arithmetic in Python one."""

AT_ONCE = 2
"""Ascents of one thread that have a step under way: while one is computed, the other's arithmetic is made."""

FIRST_BURST = 10
"""Steps of each run between the observer's report of the starts and the next report."""


def run(
    states: em.State,
    histories: np.ndarray,
    batches: Batches,
    settings: em.Settings,
    limit: int,
    fixed: Fixed | None = None,
    observer: Observer = NOBODY,
    n_runs: int | None = None,
) -> tuple[em.State, np.ndarray]:
    """Run states (R, ...) with NumPy leaves until each has converged, failed or made `limit` steps; the objective after
    t steps is written to histories[:, t]. Results do not depend on how the steps are divided into calls.

    n_runs: of the whole search, if these are some of its runs: they share its program.

    An interrupt ends all runs within a call; if the observer heeds it, the states that they have reached come back.
    """
    states = with_ridge_and_form(states, batches, settings)
    states, histories = jax.tree.map(np.array, (states, histories))
    write_objectives(histories, np.arange(len(histories)), states.n_steps, states.objective)  # pyright: ignore
    n_runs = n_runs or len(states.objective)
    family, n_components = states.mixture.family, states.mixture.n_components
    if is_by_numpy(family, batches, settings):
        states = in_step.run(states, histories, batches, settings, limit, fixed, observer)
        return states, _up_to_ends(states, histories, observer)
    stepping = Stepping.of(states, batches, settings, fixed, n_runs)
    packing, how = stepping.packing, stepping.how
    rows = packing.pack(states)
    going = np.flatnonzero((states.status == Status.RUNNING) & (states.n_steps < limit))
    of_each = n_components * int(batches.n_rows)
    slower = HURRIED if how is Effort.HURRIED else 1.0
    at_first = steps_of_a_burst(of_each, batches.n_features, family.kind, slower)
    reached: dict[int, np.ndarray] = {}
    stop = observer.stop()

    def one(index: int) -> None:
        row, in_time = rows[index], at_first
        state = packing.unpack(row)
        while state.status == Status.RUNNING and state.n_steps < limit and not stop.is_set():
            began, first = time.perf_counter(), int(state.n_steps)
            row, line = stepping.run(row, min(limit, first + min(LINE, in_time)))
            state = packing.unpack(row)
            made = np.arange(first + 1, int(state.n_steps) + 1)
            write_objectives(histories, index, made, line[: len(made)])
            reached[index] = row
            if (seconds := time.perf_counter() - began) < BURST / 2:
                in_time *= 2
            elif seconds > 2 * BURST and in_time > 1:  # or it was compiled: then it grows again
                in_time //= 2

    n_threads = max(1, min(n_cores(), len(going), len(going) * of_each // WORTH_A_THREAD))
    if jax.config.jax_disable_jit:  # pyright: ignore
        n_threads = 1
    with observer.heeding():
        at_once([partial(_all, one, going[first::n_threads]) for first in range(n_threads)], stop)
    # A thread that was compiling when an interrupt came may still write: not to what is given back.
    ended, lines = dict(reached), histories.copy() if observer.is_interrupted else histories
    if ended:
        rows[list(ended)] = np.stack(list(ended.values()))
        states = packing.unpack(rows)
    return states, _up_to_ends(states, lines, observer)


def _up_to_ends(states: em.State, histories: np.ndarray, observer: Observer) -> np.ndarray:
    """The histories; after an interrupt, which may come between two lines, what is past a last step is not known to be
    whole."""
    if observer.is_interrupted:
        histories[np.arange(histories.shape[1]) > states.n_steps[:, None]] = np.nan
    return histories


def to_ends(
    states: em.State,
    histories: Any,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    observer: Observer,
    entry: Entry | None,
) -> tuple[em.State, np.ndarray]:
    """Run states (R, ...) to their ends one after the other; if observed, all make a burst of steps, then the next."""
    found = None if entry is None else entry.found()
    is_told = observer.tell is not None
    states = jax.tree.map(np.asarray, states)
    resumable = (states.status == Status.MAX_STEPS) & (states.n_steps < max_steps)
    states = states._replace(status=np.where(resumable, Status.RUNNING, states.status).astype(np.int32), memory=None)
    # A callback is first shown the starts, with their objectives.
    states, histories = run(states, histories, batches, settings, 0 if is_told else NOT_BEGUN, observer=observer)
    if entry is not None and found is not None:
        states, histories = entry.as_tree(found, (states, histories))
    burst = observer.every or (FIRST_BURST if observer.looks else max_steps)
    while True:
        n_steps = np.maximum(states.n_steps, 0)
        with observer.heeding():
            observer.told(Snapshot(*map(np.array, (states.objective, states.status, n_steps))))
        going = (states.status == Status.RUNNING) & (states.n_steps < max_steps)
        if entry is not None:
            entry.keep((states, histories), is_done=not going.any() or observer.is_interrupted)
        if not going.any() or observer.is_interrupted:
            status = np.where(states.status == Status.RUNNING, Status.MAX_STEPS, states.status).astype(np.int32)
            states = states._replace(status=status)
            return unfinished(states, going) if going.any() else states, histories  # pyright: ignore
        began, done = time.perf_counter(), int(n_steps[going].min())
        states, histories = run(states, histories, batches, settings, min(done + burst, max_steps), observer=observer)
        if observer.every is None and time.perf_counter() - began < BURST:
            burst = min(2 * burst, max_steps)


def ascended(
    ascents: list[Ascent], batches: Batches, settings: em.Settings, n_runs: int, observer: Observer
) -> list[Ascent]:
    """Ascents at their ends. They share the program of a search of `n_runs` runs.

    A thread makes one ascent's arithmetic while a program makes a step of another: on a CPU the steps that one thread
    begins run one at a time. Where a step takes no longer than its arithmetic, threads would wait for each other's
    Python.
    """
    states = [ascent.state for ascent in ascents]
    family, n_components = states[0].mixture.family, states[0].mixture.n_components
    if is_by_numpy(family, batches, settings):
        return in_step.ascended(ascents, batches, settings, observer)
    one_lane = jax.tree.map(lambda leaf: np.asarray(leaf)[None], states[0])
    stepping = Stepping.of(one_lane, batches, settings, None, n_runs)
    packing, begun = stepping.packing, stepping.begun

    reached, stop = list(ascents), observer.stop()

    def ascend(mine: deque[int]) -> None:
        under_way: deque[tuple[int, np.ndarray, Any, Any]] = deque()
        while (mine or under_way) and not stop.is_set():
            while mine and len(under_way) < AT_ONCE:
                index = mine.popleft()
                tried, point = propose(reached[index])
                limit = tried.n_steps + np.int32(1)
                under_way.append((index, point, limit, begun(tried, limit)))
            index, point, limit, found = under_way.popleft()
            stepped = packing.unpack(np.asarray(found))
            if int(stepped.status) == Status.RUNNING and stepped.n_steps < limit:  # it needs the other form
                under_way.append((index, point, limit, begun(stepped, limit)))
                continue
            reached[index] = learn(reached[index], point, stepped)
            if has_next_step(reached[index]):
                mine.appendleft(index)  # to its end, before another begins

    going = [index for index, ascent in enumerate(ascents) if has_next_step(ascent)]
    n_threads = max(1, min(n_cores(), len(going), n_components * int(batches.n_rows) // WORTH_A_THREAD_TO_ASCEND))
    if jax.config.jax_disable_jit:  # pyright: ignore
        n_threads = 1
    with observer.heeding():
        at_once([partial(ascend, deque(going[first::n_threads])) for first in range(n_threads)], stop)
    return reached


def with_ridge_and_form(states: em.State, batches: Batches, settings: em.Settings) -> em.State:
    """The states (R, ...), with what the loop carries from step to step."""
    if states.ridge_trace is None:
        with np.errstate(all="ignore"):
            traces: Any = Ridge(settings.ridge).traces(jax.tree.map(np.asarray, states.mixture))
        states = states._replace(ridge_trace=traces)
    if states.is_far is None:
        states = states._replace(is_far=guessed_far(states, batches))  # pyright: ignore
    return states


def prepare(
    families: Iterable[Family], n_components: int, batches: Batches, settings: em.Settings, n_runs: int
) -> None:
    """Compile the programs that the runs are likely to need, in the background."""
    about = np.zeros((1, n_components, batches.n_features), batches.dtype)
    nothing = about[..., 0]

    def one(family: Family) -> None:
        second = np.zeros((1, *family.kind.shape(n_components, batches.n_features)), batches.dtype)
        moments = Moments(nothing, about, second, nothing[:, 0])  # pyright: ignore
        states = unstarted(about, nothing > 0.0, moments, family)
        states = states._replace(status=np.full(1, Status.COLLAPSED, np.int32), is_far=np.zeros(1, bool))
        # The state has already ended, so the program is compiled and returns at once.
        stepping = Stepping.of(states, batches, settings, None, n_runs)
        stepping.run(stepping.packing.pack(states)[0], 0)

    by_program = [family for family in families if not is_by_numpy(family, batches, settings)]
    if by_program:
        in_background([partial(one, family) for family in by_program])


def _all(one: Callable[[int], None], indices: np.ndarray) -> None:
    for index in indices:
        one(index)

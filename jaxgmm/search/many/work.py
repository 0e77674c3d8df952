"""Many small problems, one model each, in one pair of programs.

A lane is one run of one problem: its rows, its start, and its own number of steps. A program takes a slab of lanes, of
a size that does not depend on the numbers of problems or restarts, and steps a stack of lanes at a time, side by side.
All lanes of a slab start together and make one step per round, so that all running lanes have made equally many steps.
Every few rounds the lanes that have ended are sorted behind the others, and only stacks that still hold a running lane
are stepped. So a lane never waits long for a slow neighbour, and no scatter operations are needed.

One program draws the seeds and assigns rows to them; the other makes the first M-step and all later ones. Both are
compiled at the same time, on a core each. Steps are in SAFE form, which is accurate for every problem: FAST would save
a third of a step, but a single lane for which it is inaccurate would need another program. The best of a problem's
restarts is chosen in NumPy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ..._base.memory import aligned_zeros
from ..._base.programs import Effort, next_power_of_two
from ..._base.status import Status
from ...em.state import NOT_BEGUN, Fixed
from ...rows.sizes import AT_ONCE
from ..observer import BURST, HURRIED, NOBODY, Interrupt, Observer, steps_of_a_burst
from ..packing import Packing
from ..pool import at_once, n_cores
from ..progress import Count, Listener
from ..result import HISTORY
from .buckets import buckets, effort_for
from .outcome import Found, spurious_of
from .problems import Common, Given, Problems
from .slab import Ended, Lanes, Tables, begin_slab, blank_state, no_history, run_slab

STACKS = 128
"""Most stacks in a slab. While the last lane of a slab runs alone, a whole stack is stepped for it: some hundred steps,
which are a small part of the work if there are many stacks."""

SIDE_BY_SIDE = 64
"""Most lanes in a stack. With a few hundred rows, a step takes almost the same time per lane with 8 as with 64."""

SLAB_BYTES = 2**24
"""Approximate bytes of a slab's rows. A call needs several times that per core, besides the data."""

WORTH_A_THREAD = 2**17
"""Responsibilities in a step of all lanes from which a second thread is worth starting."""

MOST = np.iinfo(np.int32).max
"""More steps than any run makes."""

HISTORIES = 2**26
"""Most objectives that are kept, over all restarts of all problems."""


class _Unit(NamedTuple):
    """Problems that are fitted together."""

    problems: np.ndarray
    n_rows: int  # that each problem is padded to
    effort: Effort


class Work:
    """Problems, cut into units; each thread takes the next unit when it is free."""

    def __init__(
        self,
        problems: Problems,
        keys: np.ndarray,
        given: Given | None,
        how: Common,
        n_components: int,
        n_restarts: int,
        listener: Listener | None,
    ) -> None:
        self.problems, self.keys, self.given, self.how = problems, keys, given, how
        self.n_components, self.n_restarts, self.listener = n_components, n_restarts, listener
        self.first_row = np.cumsum(problems.lengths) - problems.lengths
        n_problems, n_features = len(problems.lengths), problems.rows.shape[1]
        kept = max(1, HISTORIES // (n_problems * n_restarts))
        self.length = min(how.max_steps + 1, HISTORY, kept)
        self.capacity = min(next_power_of_two(how.max_steps + 1), HISTORY)
        self.found = Found.of(how.family, n_problems, n_restarts, n_components, n_features, self.length, problems.dtype)
        fits = problems.counted() >= n_components
        self.found.status[~fits] = self.found.run_status[~fits] = Status.COLLAPSED
        self.n_done, self.stop, self.lock = int(np.sum(~fits)), threading.Event(), threading.Lock()
        work = int(problems.lengths[fits].sum()) * n_components * n_restarts
        is_alone = jax.config.jax_disable_jit or not jax.sharding.get_abstract_mesh().empty  # pyright: ignore
        alone = is_alone or jax.default_backend() != "cpu"
        self.n_threads = 1 if alone else max(1, min(n_cores(), work // WORTH_A_THREAD))
        self.units = self._cut(np.flatnonzero(fits))[::-1]

    def _cut(self, those: np.ndarray) -> list[_Unit]:
        """Cut problems into units: padded to the same number of rows, with no more lanes than a slab if possible."""
        units: list[_Unit] = []
        lengths = self.problems.lengths[those]
        # With many features, squared distances take longer than exponentials.
        of_a_row = self.n_components * self.n_restarts * (1.0 + self.problems.rows.shape[1] ** 2 / 32)
        for n_rows, members in buckets(lengths, of_a_row):
            of_bucket = those[members]
            effort = effort_for(len(of_bucket) * n_rows * of_a_row)
            each = max(1, self._size(n_rows) // self.n_restarts)
            # The same number of units for each thread, with about the same number of problems.
            n_units = -(-len(of_bucket) // each)
            n_units = min(len(of_bucket), -(-n_units // self.n_threads) * self.n_threads)
            units += [_Unit(part, n_rows, effort) for part in np.array_split(of_bucket, n_units)]
        return units

    def _width(self, n_rows: int) -> int:
        """The number of lanes that are stepped side by side."""
        if jax.default_backend() != "cpu":
            return SIDE_BY_SIDE
        most = max(1, AT_ONCE // (self.n_components * n_rows))
        return min(SIDE_BY_SIDE, 1 << (most.bit_length() - 1))

    def _size(self, n_rows: int) -> int:
        """The number of lanes in a slab: whole stacks, at least two."""
        width, n_features = self._width(n_rows), self.problems.rows.shape[1]
        of_a_lane = n_rows * (n_features + 1) * self.problems.dtype.itemsize
        return width * int(np.clip(SLAB_BYTES // (of_a_lane * width), 2, STACKS))

    def run(self) -> None:
        """Fit all units; if interrupted, those that are under way are kept as far as they got."""
        n_threads = min(self.n_threads, max(1, len(self.units)))
        try:
            self._tell()
            if n_threads > 1:
                self._compile()
            at_once([partial(self._take, is_first=index == 0) for index in range(n_threads)], self.stop)
            self._tell()
        except KeyboardInterrupt:
            self.stop.set()

    def _compile(self) -> None:
        """Compile both programs for every kind of unit in parallel by running them without lanes; not HURRIED ones."""
        jobs: list[Callable[[], Any]] = []
        for unit in {unit.n_rows: unit._replace(problems=unit.problems[:0]) for unit in self.units}.values():
            if unit.effort is not Effort.HURRIED:
                size = self._size(unit.n_rows)
                tables, nobody = self._tables(unit, size), np.zeros(0, np.intp)
                begin, run = self._programs(unit, nobody, nobody, size)
                blank = blank_state(self.how.family, self.n_components, tables.x.shape[2], tables.x.dtype)
                nothing = (
                    np.zeros((size, Packing.of(blank).length), tables.x.dtype),
                    no_history(size, self.capacity, tables.x.dtype),
                )
                jobs += [partial(begin, tables), partial(run, *nothing, np.int32(0), np.int32(0), tables)]
        if jobs:
            at_once(jobs)

    def _take(self, is_first: bool) -> None:
        """Fit units one after the other until none is left. The first thread, the caller's, reports progress, and
        interrupts reach it."""
        n_problems, observer = len(self.problems.lengths), Observer(interrupt=Interrupt()) if is_first else NOBODY
        try:
            while True:
                with self.lock:
                    if self.stop.is_set() or not self.units:
                        break
                    unit = self.units.pop()
                with observer.noting():
                    self._do(unit, observer)
                if observer.is_interrupted:
                    raise KeyboardInterrupt
                if is_first and self.n_done < n_problems:
                    self._tell()
        except BaseException:
            self.stop.set()  # the other threads stop where they are
            raise

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener(Count(self.n_done, len(self.problems.lengths), "problems"))

    def _do(self, unit: _Unit, observer: Observer) -> None:
        """Make all runs of a unit's problems, and keep the best of each problem, as far as it got if stopped."""
        places = np.repeat(np.arange(len(unit.problems)), self.n_restarts)
        runs = np.tile(np.arange(self.n_restarts), len(unit.problems))
        size = self._size(unit.n_rows)
        tables = self._tables(unit, size)
        parts: list[Ended] = []
        for first in range(0, len(places), size):
            of = slice(first, first + size)
            part = self._solved(unit, tables, places[of], runs[of], size, observer)
            if part is None:
                break
            parts.append(part)
        # All runs of a problem, or none of it.
        n_kept = sum(len(part.state.status) for part in parts) // self.n_restarts
        if not n_kept:
            return
        of = slice(n_kept * self.n_restarts)
        state, history = jax.tree.map(lambda *leaves: np.concatenate(leaves)[of], *parts)
        are_spurious = spurious_of(state, tables.ridge[places[of]])
        is_over = np.all((state.status != Status.RUNNING).reshape(n_kept, -1), axis=1)
        with self.lock:
            self.found.keep(unit.problems[:n_kept], state, history, are_spurious)
            self.found.status[unit.problems[:n_kept][~is_over]] = Status.RUNNING
            self.n_done += int(np.sum(is_over))

    def _tables(self, unit: _Unit, size: int) -> Tables:
        """The rows of a unit's problems, padded with rows of weight 0, and with problems that no lane uses."""
        rows, weights, lengths, dtype, _ = self.problems
        n_features = rows.shape[1]
        x = aligned_zeros((size, unit.n_rows, n_features), dtype)
        w = aligned_zeros((size, unit.n_rows), dtype)
        own = lengths[unit.problems]
        is_plain = len(own) and (own == own[0]).all() and (np.diff(unit.problems) == 1).all()
        with np.errstate(over="ignore"):  # values that overflow have weight 0
            if is_plain:
                first = self.first_row[unit.problems[0]]
                block = slice(first, first + len(own) * own[0])
                x[: len(own), : own[0]] = rows[block].reshape(len(own), own[0], n_features)
                w[: len(own), : own[0]] = 1.0 if weights is None else weights[block].reshape(len(own), own[0])
            else:
                for place, (first, length) in enumerate(zip(self.first_row[unit.problems], own, strict=True)):
                    x[place, :length] = rows[first : first + length]
                    w[place, :length] = 1.0 if weights is None else weights[first : first + length]
        if weights is not None:
            x[w == 0.0] = 0.0  # rows of weight 0 may hold anything
        few, of_few = x[: len(own)], w[: len(own)].astype(np.float64)
        total = of_few.sum(axis=1)
        origin = np.einsum("bn,bnd->bd", of_few, few) / total[:, None]
        ridges = np.broadcast_to(self.how.settings.ridge, origin.shape)
        if self.how.relative_ridge:
            centred = np.where(of_few[..., None] > 0.0, few - origin[:, None], 0.0)
            variances = np.einsum("bn,bnd->bd", of_few, centred * centred) / total[:, None]
            ridges = ridges + self.how.relative_ridge * variances
        min_weight = np.where(of_few > 0.0, of_few, np.inf).min(axis=1)
        figures = np.ones((size, 2 * n_features + 3), dtype)
        figures[: len(own)] = np.concatenate(
            [origin, ridges, total[:, None], min_weight[:, None], own[:, None]], axis=1
        )
        return Tables(x, w, figures)

    def _solved(
        self, unit: _Unit, tables: Tables, places: np.ndarray, runs: np.ndarray, size: int, observer: Observer
    ) -> Ended | None:
        """Run at most one slab to its end, or until all is to stop; None if it has not begun. places: the indices of
        the runs' problems within the unit."""
        begin, run = self._programs(unit, places, runs, size)
        packed, history = observer.attempted(begin, tables), no_history(size, self.capacity, tables.x.dtype)
        slower, kind = HURRIED if unit.effort is Effort.HURRIED else 1.0, self.how.family.kind
        burst = steps_of_a_burst(len(places) * unit.n_rows * self.n_components, tables.x.shape[2], kind, slower)
        n_made, goes_on = np.int32(NOT_BEGUN), True
        while goes_on and not self.stop.is_set():
            began, until = time.perf_counter(), np.int32(min(int(n_made) + burst, MOST))
            found = observer.attempted(run, packed, history, n_made, until, tables)
            if found is None:
                self.stop.set()
                break
            packed, history, n_made, goes_on = *found[:2], *jax.device_get(found[2:])
            in_time = burst * BURST / max(time.perf_counter() - began, 1e-6)
            burst = max(1, int(min(in_time, 64 * burst)))
        if n_made == NOT_BEGUN:
            return None
        packed, history = jax.device_get((packed, history))
        blank = blank_state(self.how.family, self.n_components, tables.x.shape[2], tables.x.dtype)
        state = Packing.of(blank).unpack(packed[: len(places)])
        is_at_end = (state.status == Status.RUNNING) & (np.logical_not(goes_on) | (state.n_steps >= self.how.max_steps))
        status = np.where(is_at_end, Status.MAX_STEPS, state.status).astype(np.int32)
        return Ended(state._replace(status=status), history[: len(places), : self.length])

    def _programs(
        self, unit: _Unit, places: np.ndarray, runs: np.ndarray, size: int
    ) -> tuple[Callable[[Tables], Any], Callable[..., Any]]:
        """`begin_slab` and `run_slab` for these runs. places: the indices of their problems within the unit."""
        n, how = len(places), self.how
        filled = np.zeros(size, np.int32)
        filled[:n] = places
        keys = restart = given = None
        if self.given is not None:
            which = unit.problems[filled] if n else filled
            given = Fixed(jax.tree.map(lambda leaf: leaf[which], self.given.mixture), self.given.parts)
        else:
            keys = np.zeros((size, *self.keys.shape[2:]), np.uint32)
            keys[:n] = self.keys[unit.problems[places], runs]
            restart = np.zeros(size, np.int32)
            restart[:n] = runs
        lanes = Lanes(filled, keys, restart, np.int32(n))  # pyright: ignore
        shape = {"family": how.family, "n_components": self.n_components, "width": self._width(unit.n_rows)}
        numbers = replace(how.settings, ridge=0.0), np.int32(how.max_steps)

        def begin(tables: Tables) -> Any:
            return begin_slab.compiled(unit.effort, tables, lanes, given, impl=how.impl, seeding=how.seeding, **shape)

        def run(packed: Any, history: Any, n_made: Any, until: Any, tables: Tables) -> Any:
            slab = packed, history, n_made, until, tables
            return run_slab.compiled(unit.effort, *slab, lanes, given, *numbers, capacity=self.capacity, **shape)

        return begin, run

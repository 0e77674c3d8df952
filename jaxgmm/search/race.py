"""Races: all runs make a few steps, and only the best continue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jax import Array

from .. import em
from .._base import check
from .._base.status import Status
from ..rows.rows import Rows
from .observer import NOBODY, Observer
from .progress import Snapshot
from .runs import no_history, put_back, run_to_ends, taken
from .spurious import spurious_on_host

SHORT_RUN = 10
"""Steps of a race's short run."""

OF_WHICH_FINISH = 4
"""One in so many runs of a race continues, unless `finalists` is given. `benchmarks/hard.py` tries cuts at 5, 10 and 20
steps with a quarter to a sixteenth continuing. With a quarter, each cut beats as many steps spent on full runs on both
hard problems; with fewer it does not. On small tables, where a full run takes some thirty steps, no race pays off."""


@dataclass(frozen=True)
class Race:
    """A race of restarts: each makes `steps` steps, and only the best `finalists` go on. Biernacki et al. 2003 (emEM).

    finalists: one in four, and at least one, if None. Eliminated runs have status MAX_STEPS, and the steps they made.
    If no finalist ends sound, the next best go on. ValueError for less than one step or finalist.
    """

    steps: int = SHORT_RUN
    finalists: int | None = None

    def __post_init__(self) -> None:
        check.count(self.steps, "steps", least=1)
        if self.finalists is not None:
            check.count(self.finalists, "finalists", least=1)

    def places(self, n_runs: int) -> int:
        """The number of finalists among n_runs."""
        return min(n_runs, self.finalists or max(1, n_runs // OF_WHICH_FINISH))


def race_to_ends(
    states: em.State,
    batches: Rows,
    settings: em.Settings,
    max_steps: int,
    race: Race | None,
    rivals: np.ndarray | None = None,
    observer: Observer = NOBODY,
) -> tuple[em.State, Array]:
    """A short run of all states, then `run_to_ends` of the finalists. Without a race, `run_to_ends` of all.

    rivals (G, R / G): the groups of runs (R, ...) that compete with one another; a single group if None.
    """
    if rivals is None:
        rivals = np.arange(len(states.objective))[None]
    if race is None or race.places(rivals.shape[1]) == rivals.shape[1] or race.steps >= max_steps:
        return run_to_ends(states, batches, settings, max_steps, observer)
    histories = no_history(states, max_steps)
    states, histories = run_to_ends(states, batches, settings, race.steps, observer, histories)
    if observer.is_interrupted:
        return states, histories
    snapshot, is_spiked = _looked_at(states, settings)
    order = np.lexsort((-snapshot.ranks()[rivals], is_spiked[rivals]), axis=1)
    places, is_open = race.places(rivals.shape[1]), np.ones(len(rivals), bool)
    for place in range(0, rivals.shape[1], places):
        next_best = order[is_open, place : place + places]
        chosen = np.unique(np.take_along_axis(rivals[is_open], next_best, axis=1)).astype(np.int32)
        few, lines = taken(states, histories, chosen)
        of_all = observer.seen_through(partial(_among_all, snapshot, chosen))
        few, lines = run_to_ends(few, batches, settings, max_steps, of_all, lines)
        states, histories = put_back(states, histories, chosen, few, lines)
        if observer.is_interrupted:
            break
        snapshot, is_spiked = _looked_at(states, settings)
        # An eliminated run must not win unfinished: if no finalist of a group is sound, its next best runs go on.
        is_sound = np.isfinite(snapshot.ranks()) & ~is_spiked
        is_out = (snapshot.status == Status.MAX_STEPS) & (snapshot.n_steps < max_steps)
        is_open = ~np.any((is_sound & ~is_out)[rivals], axis=1) & np.any((is_sound & is_out)[rivals], axis=1)
        if not is_open.any():
            break
    return states, histories


def _looked_at(states: em.State, settings: em.Settings) -> tuple[Snapshot, np.ndarray]:
    """A snapshot of runs (R, ...), and which of them have a spurious component, as writable host arrays."""
    snapshot = Snapshot(*(np.array(leaf) for leaf in (states.objective, states.status, states.n_steps)))
    return snapshot, spurious_on_host(states, settings.floor).any(axis=1)  # pyright: ignore


def _among_all(everyone: Snapshot, chosen: np.ndarray, few: Snapshot) -> Snapshot:
    """A snapshot of all runs, with the runs `chosen` updated."""
    for whole, part in zip(everyone, few, strict=True):
        whole[chosen] = part
    return everyone

"""Runs of small searches in step, by NumPy: each makes its next step together with the others (`em/by_numpy.py`).

A step has some hundred calls of NumPy, whose overhead of a few tenths of a millisecond all runs then share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from .. import em
from .._base.fork import refuse_if_forked
from .._base.status import Status
from ..em import by_numpy
from ..em.state import Fixed
from ..rows.batches import Batches
from .ascent import Ascent, has_next_step, learn, propose
from .observer import Observer
from .result import write_objectives


def run(
    states: em.State,
    histories: np.ndarray,
    batches: Batches,
    settings: em.Settings,
    limit: int,
    fixed: Fixed | None,
    observer: Observer,
) -> em.State:
    """`one_by_one.run` for states and histories that may be written to."""
    refuse_if_forked()
    if not ((states.status == Status.RUNNING) & (states.n_steps < limit)).any():
        return states
    ends: dict[int, tuple[em.State, int]] = {}
    of_numpy, rows = _of_numpy(settings), by_numpy.HostRows.of(batches, states.mixture.family.kind)
    fixed = jax.tree.map(np.asarray, fixed)
    with observer.heeding():
        for runs, few in by_numpy.steps(states, rows, of_numpy, fixed, limit, lambda: observer.is_interrupted):
            # In this order: where an interrupt comes between, what is past a run's last step is taken back.
            write_objectives(histories, runs, few.n_steps, few.objective)  # pyright: ignore
            ends.update((run, (few, place)) for place, run in enumerate(runs.tolist()))
    together: dict[int, tuple[em.State, list[int], list[int]]] = {}
    for run, (few, place) in ends.items():
        _, runs, places = together.setdefault(id(few), (few, [], []))
        runs.append(run)
        places.append(place)
    for few, runs, places in together.values():
        _put(states, np.array(runs), few, np.array(places))
    return states


def ascended(ascents: list[Ascent], batches: Batches, settings: em.Settings, observer: Observer) -> list[Ascent]:
    """`one_by_one.ascended`."""
    refuse_if_forked()
    reached, kind = list(ascents), ascents[0].state.mixture.family.kind
    of_numpy, rows = _of_numpy(settings), by_numpy.HostRows.of(batches, kind)
    with observer.heeding():
        while going := [index for index, ascent in enumerate(reached) if has_next_step(ascent)]:
            if observer.is_interrupted:
                break
            tried, points = zip(*(propose(reached[index]) for index in going), strict=True)
            together = jax.tree.map(lambda *leaves: np.stack(leaves), *tried)
            for runs, few in by_numpy.steps(together, rows, of_numpy, None, together.n_steps + 1, lambda: False):
                _put(together, runs, few, np.arange(len(runs)))
            for place, index in enumerate(going):
                stepped = jax.tree.map(lambda leaf, place=place: leaf[place], together)
                reached[index] = learn(reached[index], points[place], stepped)
    return reached


def _of_numpy(settings: em.Settings) -> em.Settings:
    return replace(settings, tol=np.asarray(settings.tol), ridge=np.asarray(settings.ridge))


def _put(states: em.State, runs: np.ndarray, few: em.State, places: np.ndarray) -> None:
    """Write the states of runs, which may lack components that are padding, to those of all."""

    def put(whole: Any, part: Any) -> None:
        whole[(runs, *map(slice, part.shape[1:]))] = part[places]

    jax.tree.map(put, states, few)

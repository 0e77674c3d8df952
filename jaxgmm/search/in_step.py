"""Runs of small searches in step, by NumPy: each makes its next step together with the others (`em/by_numpy.py`).

A step has some hundred calls of NumPy, whose overhead of a few tenths of a millisecond all runs then share.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from .. import em
from .._base.fork import refuse_if_forked
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
    stop: threading.Event,
) -> em.State:
    """`one_by_one.run` for states and histories that may be written to."""
    refuse_if_forked()
    reached: dict[int, tuple[em.State, int]] = {}
    of_numpy, rows = _of_numpy(settings), by_numpy.HostRows.of(batches, states.mixture.family.kind)
    with observer.heeding():
        for runs, few in by_numpy.steps(states, rows, of_numpy, jax.tree.map(np.asarray, fixed), limit, stop.is_set):
            reached.update((run, (few, place)) for place, run in enumerate(runs.tolist()))
            write_objectives(histories, runs, few.n_steps, few.objective)  # pyright: ignore
    for run, (few, place) in dict(reached).items():
        _put(states, run, few, place)
    return states


def ascended(ascents: list[Ascent], batches: Batches, settings: em.Settings, observer: Observer) -> list[Ascent]:
    """`one_by_one.ascended`."""
    refuse_if_forked()
    reached, stop = list(ascents), observer.stop()
    kind = ascents[0].state.mixture.family.kind
    of_numpy, rows = _of_numpy(settings), by_numpy.HostRows.of(batches, kind)
    with observer.heeding():
        while not stop.is_set() and (going := [i for i, ascent in enumerate(reached) if has_next_step(ascent)]):
            tried, points = zip(*(propose(reached[index]) for index in going), strict=True)
            together = jax.tree.map(lambda *leaves: np.stack(leaves), *tried)
            limit = together.n_steps + 1
            for runs, few in by_numpy.steps(together, rows, of_numpy, None, limit, stop.is_set):
                for place, run in enumerate(runs.tolist()):
                    _put(together, run, few, place)
            for place, index in enumerate(going):
                stepped = jax.tree.map(lambda leaf, place=place: leaf[place], together)
                reached[index] = learn(reached[index], points[place], stepped)
    return reached


def _of_numpy(settings: em.Settings) -> em.Settings:
    return replace(settings, tol=np.asarray(settings.tol), ridge=np.asarray(settings.ridge))


def _put(states: em.State, run: int, few: em.State, place: int) -> None:
    """Write a run's state, which may lack components that are padding, to those of all."""

    def put(whole: Any, part: Any) -> None:
        whole[(run, *map(slice, part.shape[1:]))] = part[place]

    jax.tree.map(put, states, few)

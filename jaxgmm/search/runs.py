"""Run EM from many starts to their ends; and some runs taken out of many, and put back."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array

from .. import em
from .._base.programs import next_power_of_two
from ..em.lanes import lanes_at, with_lanes
from ..rows.rows import Rows
from .driver import driver_of
from .observer import NOBODY, Observer
from .result import HISTORY


def run_to_ends(
    states: em.State,
    rows: Rows,
    settings: em.Settings,
    max_steps: int,
    observer: Observer = NOBODY,
    histories: Any = None,
) -> tuple[em.State, Array]:
    """Run states (R, ...) to their ends: in one go, or if observed in bursts, sized by steps or by time.

    Both give the same bits. histories: those so far, if the runs are continued.

    -> the states, and their objectives after t steps (R, at least `history_length`), NaN past the end.
    """
    max_steps = min(max_steps, np.iinfo(np.int32).max)
    if histories is None:
        histories = no_history(states, max_steps)
    return driver_of(rows).to_ends(states, histories, settings, max_steps, observer, observer.next_call())


def no_history(states: em.State, max_steps: int) -> Any:
    """Empty histories for runs (R, ...) of at most max_steps steps, filled with NaN."""
    # The length is static: round it to a power of two for few programs, and bound it, since the loop carries it.
    capacity = min(next_power_of_two(max_steps + 1), HISTORY)
    return np.full((len(states.objective), capacity), np.nan, states.objective.dtype)


def padded(lines: np.ndarray, length: int) -> np.ndarray:
    """Histories (..., steps), with NaN past the end, of at least this length."""
    missing = max(0, length - lines.shape[-1])
    return np.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(0, missing)], constant_values=np.nan)


def taken(states: em.State, histories: Any, chosen: np.ndarray) -> tuple[em.State, Any]:
    """The chosen runs, on the host if the others are."""
    if isinstance(states.objective, np.ndarray):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], (states, histories))
    return lanes_at((states, histories), chosen)


def put_back(states: em.State, histories: Any, chosen: np.ndarray, few: em.State, lines: Any) -> tuple[em.State, Any]:
    """The runs, with those chosen replaced by `few`."""
    if not isinstance(states.objective, np.ndarray):
        return with_lanes((states, histories), chosen, (few, lines))
    states, histories = jax.tree.map(np.array, (states, histories))
    jax.tree.map(lambda many, some: many.__setitem__(chosen, some), (states, histories), (few, lines))
    return states, histories

"""Runs from many starts to their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array

from .. import em
from .._base.programs import next_power_of_two
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
    """Run states (R, ...) to their ends: in one go, or where someone looks on in bursts of so many steps, or seconds.

    Both come to the same bits. `histories` are those of runs that go on.

    -> the states, and their objectives after t steps (R, `history_length` at least), NaN past the end.
    """
    max_steps = min(max_steps, np.iinfo(np.int32).max)
    if histories is None:
        histories = no_history(states, max_steps)
    return driver_of(rows).to_ends(states, histories, settings, max_steps, observer, observer.next_call())


def no_history(states: em.State, max_steps: int) -> Any:
    """Room for the objectives of runs (R, ...) after each of so many steps, filled with NaN."""
    # The history's length is static: a few lengths, few programs; and it rides in the loop, so it is bounded.
    capacity = min(next_power_of_two(max_steps + 1), HISTORY)
    return np.full((len(states.objective), capacity), np.nan, states.objective.dtype)

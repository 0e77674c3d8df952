"""The status of a run: a number inside the compiled program, and its meaning in words."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """The state of an EM run. Data, never an exception: every restart under `vmap` carries its own."""

    RUNNING = 0
    CONVERGED = 1
    MAX_STEPS = 2
    NON_FINITE = 3
    NOT_MONOTONE = 4
    COLLAPSED = 5

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        """The name, or the number if a format for numbers is asked for, as in f"{status:d}"."""
        return format(int(self) if spec[-1:] in tuple("bcdeEfFgGnoxX%") else self.name, spec)


FAILED = (Status.NON_FINITE, Status.COLLAPSED)
"""Statuses with which a run loses against every other: its mixture is no estimate."""

_MEANING = {
    Status.RUNNING: "still running: neither converged nor at the step limit",
    Status.CONVERGED: "converged: the objective changed by less than tol",
    Status.MAX_STEPS: "the step limit was reached before the objective settled; allow more steps, or raise tol",
    Status.NON_FINITE: "the objective became infinite or NaN; look for values near the dtype's limits, scale the data",
    Status.NOT_MONOTONE: (
        "the objective settled, but had fallen on the way by more than rounding and the ridge explain; "
        "use float64, scale the data, or change the ridge"
    ),
    Status.COLLAPSED: (
        "a component lost its rows (less than half a row is left), or its covariance is no longer positive definite; "
        "raise the ridge, lower n_components, or use another seed"
    ),
}


def explain(status: Any) -> str:
    """One sentence on what a status means and what to do."""
    return _MEANING[Status(int(status))]

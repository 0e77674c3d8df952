"""The interface of steppers. To add one, write these methods in a file, and add a line to `shelf.py`."""

from __future__ import annotations

from typing import Protocol

from jax import Array

from ...mixture import Mixture
from ...moments import Moments
from ..state import Proposal, Settings, State
from .memory import Memory


class Stepper(Protocol):
    """Proposes the next mixture of a run of EM, and learns from the result. Static, pure, and usable under `vmap`.

    A step is: the stepper proposes a mixture, the rows are summed under it, `judge` judges it, the stepper learns.
    """

    def remember(self, mixture: Mixture, moments: Moments) -> Memory | None:
        """The memory with which a run begins; None if the stepper needs none."""
        ...

    def propose(self, state: State, settings: Settings) -> Proposal:
        """The mixture to try next, from a state that has this stepper's memory."""
        ...

    def learn(
        self, state: State, proposal: Proposal, new: State, judged: State, settings: Settings, put_off: Array | bool
    ) -> State:
        """The state after the step, with its memory.

        state: before the step. new: after it, before the verdict. judged: after the verdict, without memory. put_off:
        () bool, whether the step is to have no effect; `judged` takes account of that already.
        """
        ...

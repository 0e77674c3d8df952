"""What every stepper can do. To add one, write these methods in a file, and a line on the shelf."""

from __future__ import annotations

from typing import Protocol

from jax import Array

from ...mixture import Mixture
from ...moments import Moments
from ..state import Proposal, Settings, State
from .memory import Memory


class Stepper(Protocol):
    """Where a run of EM goes next, and what it learns from how that went. Static, pure, and fit for `vmap`.

    A step is: the stepper proposes a mixture, the rows are summed under it, the verdict is spoken, the stepper learns.
    """

    def remember(self, mixture: Mixture, moments: Moments) -> Memory | None:
        """The memory with which a run begins; None for one that needs none."""
        ...

    def propose(self, state: State, settings: Settings) -> Proposal:
        """The mixture to go to from a state that has this stepper's memory."""
        ...

    def learn(
        self, state: State, proposal: Proposal, new: State, judged: State, settings: Settings, put_off: Array | bool
    ) -> State:
        """The state after the step, with its memory.

        state: before it. new: as the proposal would have it. judged: as the verdict has it, without memory. put_off:
        () bool, whether the step is to be as if it had not been tried; the verdict knows of that already.
        """
        ...

"""Plain EM: every step is the M-step from the state's moments."""

from __future__ import annotations

from dataclasses import dataclass

from jax import Array

from ...mixture import Mixture
from ...moments import Moments
from ..maximisation import maximise
from ..state import Proposal, Settings, State


@dataclass(frozen=True)
class Plain:
    """Has no memory, and accepts every verdict."""

    def remember(self, mixture: Mixture, moments: Moments) -> None:
        del mixture, moments

    def propose(self, state: State, settings: Settings) -> Proposal:
        old = state.mixture
        return Proposal(maximise(state.moments, old.means, old.family, old.scales, settings.prior_with_ridge))

    def learn(
        self, state: State, proposal: Proposal, new: State, judged: State, settings: Settings, put_off: Array | bool
    ) -> State:
        del state, proposal, new, settings, put_off
        return judged

"""How the steps of runs one after the other are compiled, and how they make their E-step."""

from __future__ import annotations

from enum import Enum

import jax

from .. import em
from .._base.programs import Effort, effort
from ..em import in_turn
from ..rows.batches import Batches

ONE_FORM_UP_TO = 8
"""Features up to which a medium search (see `programs.effort`) makes all its steps in the SAFE form. A step then takes
0.7 to 1.8 times as long as in the FAST one (5,000 rows, K = 10), but where clusters lie apart some runs need SAFE
sooner or later, and each family would compile a second program, for longer than its runs take (by hand, Zen 3: see "One
form or two" in `benchmarks/README.md`)."""


class Way(Enum):
    """How the steps of one program make their E-step (`covariances.Form`).

    For small tables, and in medium searches with few features, FAST is not worth a program, and all steps are SAFE. If
    the program is HURRIED, so that every number takes long, it takes one component after the other, without those that
    are padding (by hand, Zen 4: of ten runs of 2,000 × 2, K = 5, the steps take 45 ms and not 90). A covariance that
    all share gains nothing by that: a step in turn takes a third longer.
    """

    FAST = "FAST until a step needs SAFE"
    SAFE = "SAFE until FAST will do"
    ALWAYS_SAFE = "SAFE"
    IN_TURN = "SAFE, components in turn"


def effort_of(n_components: int, batches: Batches, n_runs: int) -> Effort:
    """How well to compile the steps of a search of `n_runs` runs, padded to `n_components`."""
    return effort(int(batches.n_rows), n_components, n_runs, batches.has_room)


def way_of(state: em.State, batches: Batches, how: Effort) -> Way:
    """How a run's next steps are made."""
    if batches.has_room:
        is_in_turn = how is Effort.HURRIED and in_turn.suits(state.mixture.family.kind)
        return Way.IN_TURN if is_in_turn else Way.ALWAYS_SAFE
    if how is Effort.BRISK and batches.n_features <= ONE_FORM_UP_TO and jax.default_backend() == "cpu":
        return Way.ALWAYS_SAFE
    return Way.SAFE if state.is_far else Way.FAST

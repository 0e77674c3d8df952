"""How the steps of runs one after the other are compiled, and in which form they make their E-step."""

from __future__ import annotations

from enum import Enum

import jax

from .. import em
from .._base.programs import Effort, effort
from ..rows.batches import Batches

ONE_FORM_UP_TO = 8
"""Features up to which a medium search (see `programs.effort`) makes all its steps in the SAFE form. A step then takes
0.7 to 1.8 times as long as in the FAST one (5,000 rows, K = 10), but where clusters lie apart some runs need SAFE
sooner or later, and each family would compile a second program, for longer than its runs take (by hand, Zen 3: see "One
form or two" in `benchmarks/README.md`)."""


class Way(Enum):
    """In which form the steps of one program make their E-step (`covariances.Form`).

    For small tables, and in medium searches with few features, FAST is not worth a program, and all steps are SAFE.
    """

    FAST = "FAST until a step needs SAFE"
    SAFE = "SAFE until FAST will do"
    ALWAYS_SAFE = "SAFE"


def effort_of(n_components: int, batches: Batches, n_runs: int) -> Effort:
    """How well to compile the steps of a search of `n_runs` runs, padded to `n_components`."""
    return effort(int(batches.n_rows), n_components, n_runs, batches.has_room)


def way_of(state: em.State, batches: Batches, how: Effort) -> Way:
    """How a run's next steps are made."""
    is_few = how is Effort.BRISK and batches.n_features <= ONE_FORM_UP_TO and jax.default_backend() == "cpu"
    if batches.has_room or is_few:
        return Way.ALWAYS_SAFE
    return Way.SAFE if state.is_far else Way.FAST

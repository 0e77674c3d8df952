"""How the steps of runs that the host drives are made: by NumPy, of all runs together, or by a program, of one by one;
how well that is compiled, and in which form it makes the E-step."""

from __future__ import annotations

from enum import Enum

from .. import em
from .._base.programs import Effort, effort
from ..em import by_numpy
from ..families import Family
from ..rows.batches import Batches
from ..rows.sizes import has_one_form


class Way(Enum):
    """In which form the steps of one program make their E-step (`covariances.Form`).

    For small tables, and in medium searches with few features (`sizes.ONE_FORM_UP_TO`), FAST is not worth a program,
    and all steps are SAFE.
    """

    FAST = "FAST until a step needs SAFE"
    SAFE = "SAFE until FAST will do"
    ALWAYS_SAFE = "SAFE"


def effort_of(n_components: int, batches: Batches, n_runs: int) -> Effort:
    """How well to compile the steps of a search of `n_runs` runs, padded to `n_components`."""
    if batches.in_turn and not batches.has_room:
        return Effort.BRISK  # rows are cut so where the whole search is medium
    return effort(int(batches.n_rows), n_components, n_runs, batches.has_room)


def way_of(state: em.State, batches: Batches, how: Effort) -> Way:
    """How a run's next steps are made."""
    if batches.in_turn or has_one_form(how, batches.n_features):
        return Way.ALWAYS_SAFE
    return Way.SAFE if state.is_far else Way.FAST


def is_by_numpy(family: Family, batches: Batches, settings: em.Settings) -> bool:
    """Whether NumPy makes the steps of a search: if it is small, and nothing in it may know JAX alone. A first call
    then takes a tenth to a half of the time that it takes with a program to compile, and sixty steps of later ones 0.5
    to 2.3 times as long (see `benchmarks/README.md`)."""
    return batches.has_room and by_numpy.serves(family, settings)

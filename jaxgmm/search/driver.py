"""The `Driver` of a search, chosen by where the rows lie.

No other file of a search asks where they lie, except for `pool.py`: whether every device has a copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jax import Array

from .. import em
from ..families import Family
from ..mixture import Mixture
from ..moments import Kind, Moments
from ..rows.batches import Batches
from ..rows.partitioned import PartitionedRows
from ..rows.rows import Rows
from .ascent import Ascent
from .checkpoint import Entry
from .fixed_start import NOTHING_FIXED, FixedStart
from .observer import Observer
from .passes import Passes
from .resident import Resident
from .result import FitResult


class Driver(Protocol):
    """All computations of a search that need its rows. States are those of R runs, with leaves (R, ...)."""

    def nearest_to(self, seeds: Array, counts: Any, kind: Kind, broad: bool = False) -> Moments:
        """Moments (R, ...), about seeds (R, K, D), of the rows nearest to each of the first `counts` (R,) seeds; if
        `broad`, of a share of all rows for each (see `em.hard.on_all_rows`)."""
        ...

    def from_seeds(
        self,
        seeds: Array,
        counts: Any,
        family: Family,
        settings: em.Settings,
        fixed: FixedStart = NOTHING_FIXED,
        nearest: Moments | None = None,
        broad: bool = False,
    ) -> em.State:
        """States after one M-step on the rows nearest to each of the first `counts` (R,) seeds (R, K, D); or
        `unstarted` states, whose first step is that M-step. A run's components past its count have weight 0.

        nearest: the result of `nearest_to` with kind `FULL`, if known: the moments of any family follow from it.
        broad: as for `nearest_to`.
        """
        ...

    def from_mixture(self, mixture: Mixture, settings: em.Settings) -> em.State:
        """A run (1, ...) from a user's mixture, in the rows' dtype. A component of weight 0 keeps weight 0."""
        ...

    def from_values(
        self, values: Any, n_components: int, family: Family, settings: em.Settings, fixed: FixedStart = NOTHING_FIXED
    ) -> em.State:
        """A run (1, ...) after one M-step on a user's means (K, D), labels (N,) or responsibilities (N, K).
        ValueError or TypeError for values that cannot be used."""
        ...

    def prepare(self, families: Sequence[Family], n_components: int, settings: em.Settings, n_runs: int) -> None:
        """Compile the programs of the steps in the background while seeds are drawn, if that saves time."""
        ...

    def to_ends(
        self,
        states: em.State,
        histories: Any,
        settings: em.Settings,
        max_steps: int,
        observer: Observer,
        entry: Entry | None,
    ) -> tuple[em.State, Array]:
        """See `run_to_ends`. entry: the checkpoint of this call, if the search has one."""
        ...

    def run_on(
        self,
        states: em.State,
        histories: Any,
        settings: em.Settings,
        max_steps: int,
        n_runs: int,
        observer: Observer,
    ) -> tuple[em.State, Any]:
        """Some of a search's `n_runs` runs, run on without acceleration; for rows in memory by the program of ascents.
        States (F, ...) and histories are NumPy's, and these long enough."""
        ...

    def ascended(self, states: em.State, settings: em.Settings, n_runs: int, observer: Observer) -> list[Ascent]:
        """The ascents (see `ascent.py`) of some of a search's `n_runs` runs, at their ends, or where an interrupt ended
        them. states: (F, ...)."""
        ...

    def of_each(self, results: FitResult, also: Callable[[FitResult, Batches], Any]) -> Any:
        """The value of `also`, a sum over rows, for each of the results (G, ...). -> leaves (G, ...)."""
        ...

    def ridge(self, ridge: Any, relative: float) -> Array:
        """ridge + relative · each feature's variance over the rows. -> (D,)."""
        ...


def sees_all(rows: Rows) -> bool:
    """Whether one program sees all rows, so that a sum over them is no matter of minutes."""
    return not isinstance(rows, PartitionedRows)


def driver_of(rows: Rows) -> Driver:
    """The driver for these rows: `Passes` for partitioned rows, `Resident` for rows in memory."""
    return Resident(rows) if sees_all(rows) else Passes(rows)  # pyright: ignore

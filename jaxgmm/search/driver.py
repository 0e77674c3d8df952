"""Where rows lie, and what a search does for it: asked here, once, and nowhere else."""

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
from .checkpoint import Entry
from .fixed_start import NOTHING_FIXED, FixedStart
from .observer import Observer
from .passes import Passes
from .resident import Resident
from .result import FitResult


class Driver(Protocol):
    """All that a search computes of its rows. States are those of R runs, leaves (R, ...)."""

    def nearest_to(self, seeds: Array, counts: Any, kind: Kind) -> Moments:
        """Moments (R, ...) about seeds (R, K, D) of the rows nearest to each of the first `counts` (R,) of them."""
        ...

    def from_seeds(
        self,
        seeds: Array,
        counts: Any,
        family: Family,
        settings: em.Settings,
        fixed: FixedStart = NOTHING_FIXED,
        nearest: Moments | None = None,
    ) -> em.State:
        """Runs from one M-step from the rows nearest to each of the first `counts` (R,) seeds (R, K, D); or `unstarted`
        ones, which make that M-step as their first. Past its count a run's components have weight 0.

        nearest: `nearest_to` of kind `FULL`, from which that of any family follows, where it is known.
        """
        ...

    def from_mixture(self, mixture: Mixture, settings: em.Settings) -> em.State:
        """A run (1, ...) from a mixture of the user's own, in the rows' dtype. A weight of 0 in it stands."""
        ...

    def from_values(
        self, values: Any, n_components: int, family: Family, settings: em.Settings, fixed: FixedStart = NOTHING_FIXED
    ) -> em.State:
        """A run (1, ...) from one M-step from means (K, D), labels (N,) or responsibilities (N, K) of the user's own.
        ValueError or TypeError for what cannot be used."""
        ...

    def prepare(self, families: Sequence[Family], n_components: int, settings: em.Settings, n_runs: int) -> None:
        """Compile the programs of the steps while seeds are sought, where that is of use."""
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
        """`run_to_ends`; entry: where this call is kept on disk, if it is."""
        ...

    def of_each(self, results: FitResult, also: Callable[[FitResult, Batches], Any]) -> Any:
        """What `also`, a sum over rows, says of each of results (G, ...) and the rows. -> leaves (G, ...)."""
        ...

    def ridge(self, ridge: Any, relative: float) -> Array:
        """A ridge and, of each feature's variance over the rows, this share. -> (D,)."""
        ...


def driver_of(rows: Rows) -> Driver:
    """How a search goes about rows that lie where these do."""
    return Passes(rows) if isinstance(rows, PartitionedRows) else Resident(rows)  # pyright: ignore

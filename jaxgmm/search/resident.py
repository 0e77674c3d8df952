"""Searches over rows that a program holds as a whole: runs are scattered over cores or devices, and loop there; if a
single run keeps a core busy, they are made one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array

from .. import em
from .._base.memory import own
from .._base.precision import is_traced, is_transforming
from .._base.programs import SMALL, Effort, effort, program
from ..em.hard import assigned, from_labels, from_means, from_responsibilities
from ..em.lanes import for_fits, one_lane
from ..em.maximisation import maximise
from ..em.state import lost_if_empty, unstarted
from ..families import Family
from ..mixture import Mixture
from ..moments import Kind, Moments, projected
from ..priors import Ridge
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.chunks import cut
from ..rows.sizes import bytes_of_fit
from . import one_by_one, side_by_side, small
from .ascent import Ascent, begin
from .checkpoint import Entry
from .fixed_start import NOTHING_FIXED, FixedStart
from .observer import Observer, lanes_of_a_burst
from .pool import are_singles, pool_for
from .result import ON_HOST, FitResult, for_each_result, is_on_host, without_histories

T = TypeVar("T")


@dataclass(frozen=True)
class Resident:
    """The `Driver` for rows in memory. Small tables (`has_room`) are started by `small.py`."""

    rows: Batches

    def nearest_to(self, seeds: Array, counts: Any, kind: Kind, broad: bool = False) -> Moments:
        how = effort(int(self.rows.n_rows), seeds.shape[1], len(seeds))
        return self._scattered(kind, _nearest_to.at(how), (seeds, counts), kind=kind, broad=broad)

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
        if self.rows.has_room:
            states = small.from_seeds(np.asarray(seeds), np.asarray(counts), self.rows, family, broad)
            return small.started(states, fixed, int(np.max(counts)), self.rows, settings)
        if not (fixed.is_nothing and self._may_start_later(seeds, settings)):
            return self.started(seeds, counts, family, settings.ridge, fixed, nearest, broad)
        kind = family.kind
        moments = self.nearest_to(seeds, counts, kind, broad) if nearest is None else projected(nearest, kind)
        seeds_, moments = jax.device_get((seeds, moments))
        return unstarted(seeds_, np.arange(seeds.shape[1]) < np.asarray(counts)[:, None], moments, family)

    def started(
        self,
        seeds: Array,
        counts: Any,
        family: Family,
        ridge: Any,
        fixed: FixedStart = NOTHING_FIXED,
        nearest: Moments | None = None,
        broad: bool = False,
    ) -> em.State:
        """`from_seeds`, with the first M-step made at once."""
        return self._scattered(family.kind, _start, (seeds, counts, nearest), ridge, fixed, family=family, broad=broad)

    def _may_start_later(self, seeds: Array, settings: em.Settings) -> bool:
        """Whether a run's first M-step may be left to the program of all later steps, so that none is compiled for
        it."""
        if settings.acceleration or is_traced((seeds, settings)) or is_transforming():
            return False
        return seeds.size * seeds.shape[-1] <= ON_HOST and self.rows.n_copies == 1

    def from_mixture(self, mixture: Mixture, settings: em.Settings) -> em.State:
        if self.rows.has_room:
            return small.from_mixture(mixture, self.rows, settings)
        return one_lane(em.init(mixture, self.rows))

    def from_values(
        self, values: Any, n_components: int, family: Family, settings: em.Settings, fixed: FixedStart = NOTHING_FIXED
    ) -> em.State:
        values = self._checked(values, n_components)
        if self.rows.has_room:
            return small.from_values(np.asarray(values), n_components, self.rows, family, settings, fixed)
        mixture = self.mixture_from(values, n_components, family, settings.ridge)
        state = em.init(fixed.onto(mixture), self.rows)
        return one_lane(lost_if_empty(state, mixture, n_components))

    def _checked(self, values: Any, n_components: int) -> Any:
        """Checked means (K, D), labels (N,) or responsibilities (N, K). ValueError or TypeError for anything else."""
        n_rows = len(values) if is_traced(self.rows) else int(self.rows.n_rows)
        if values.ndim == 1:
            return rows_check.labels(values, n_rows, n_components)
        if values.shape != (n_components, self.rows.n_features):
            return rows_check.responsibilities(values, n_rows, n_components)
        rows_check.finite(values, "init")
        return values

    def mixture_from(self, values: Any, n_components: int, family: Family, ridge: Any) -> Mixture:
        """The mixture after one M-step from checked means, labels or responsibilities."""
        rows = self.rows
        if values.ndim == 1:
            labels = cut(values, rows.chunk_size, np.int32, pad_with_zero=True)
            return _from_labels(labels, rows, ridge, n_components=n_components, family=family)
        if values.shape != (n_components, rows.n_features):
            responsibilities = cut(values, rows.chunk_size, rows.dtype, pad_with_zero=True)
            return _from_responsibilities(responsibilities, rows, family=family, ridge=ridge)
        means = own(values, rows.dtype)
        mixture = _from_means(means, rows, family=family, ridge=ridge)
        # The given means are kept; weights and covariances are those of the M-step.
        return Mixture(mixture.log_weights, means, mixture.scales, family)

    def prepare(self, families: Sequence[Family], n_components: int, settings: em.Settings, n_runs: int) -> None:
        if settings.acceleration or is_traced(settings) or is_transforming() or self.rows.n_copies > 1:
            return
        if self.rows.in_turn or are_singles(n_runs, n_components, self.rows):
            one_by_one.prepare(families, n_components, self.rows, settings, n_runs)

    def to_ends(
        self,
        states: em.State,
        histories: Any,
        settings: em.Settings,
        max_steps: int,
        observer: Observer,
        entry: Entry | None,
    ) -> tuple[em.State, Array]:
        if is_traced((states, settings, self.rows)) or is_transforming():
            return side_by_side.run_all((states, histories), self.rows, settings, np.int32(max_steps))
        to_ends = one_by_one.to_ends if self._are_better_one_by_one(states, settings) else side_by_side.to_ends
        return to_ends(states, histories, self.rows, settings, max_steps, observer, entry)  # pyright: ignore

    def run_on(
        self,
        states: em.State,
        histories: Any,
        settings: em.Settings,
        max_steps: int,
        n_runs: int,
        observer: Observer,
    ) -> tuple[em.State, Any]:
        return one_by_one.run(states, histories, self.rows, settings, max_steps, observer=observer, n_runs=n_runs)

    def ascended(self, states: em.State, settings: em.Settings, n_runs: int, observer: Observer) -> list[Ascent]:
        # Nothing is kept on disk on the way: an ascent is a matter of seconds, and made again after a restart.
        states = one_by_one.with_ridge_and_form(states, self.rows, settings)
        each = [begin(jax.tree.map(lambda leaf, i=i: leaf[i], states)) for i in range(len(states.objective))]
        return one_by_one.ascended(each, self.rows, settings, n_runs, observer)

    def _are_better_one_by_one(self, states: em.State, settings: em.Settings) -> bool:
        """Whether runs (R, ...) are faster one after the other than side by side."""
        if settings.acceleration is not None or not is_on_host(states):
            return False
        n_runs, n_components = states.mixture.means.shape[:2]
        return self.rows.in_turn or are_singles(n_runs, n_components, self.rows)

    def of_each(self, results: FitResult, also: Callable[[FitResult, Batches], Any]) -> Any:
        n_results, n_components = results.mixture.means.shape[:2]
        if not self.rows.has_room:
            # One pass for each result: where it is short, compiling well would take longer than it saves.
            is_soon_done = n_results * n_components * int(self.rows.n_rows) <= SMALL
            how = Effort.HURRIED if is_soon_done else effort(int(self.rows.n_rows), n_components, n_results)
            return _for_each_result.compiled(how, self.rows, without_histories(results), also=also)
        alone = [jax.tree.map(lambda leaf, i=i: leaf[i], results) for i in range(n_results)]
        each = [also(of, self.rows) for of in alone]
        return jax.tree.map(lambda *leaves: np.stack(list(map(np.asarray, leaves))), *each)

    def ridge(self, ridge: Any, relative: float) -> Array:
        return _ridge.compiled(self.rows.has_room, self.rows, ridge, relative)  # pyright: ignore

    def _scattered(
        self, of_kind: Kind, program: Callable[..., T], lanes: tuple[Any, ...], *shared: Any, **static: Any
    ) -> T:
        """program(lanes, rows, *shared, **static), with the lanes scattered over cores or devices. lanes: the first
        entry holds seeds (R, K, D)."""
        if is_traced((lanes, shared)):
            return program(lanes, self.rows, *shared, **static)
        n_lanes, n_components, n_features = lanes[0].shape
        each = bytes_of_fit(n_components, n_features, self.rows.dtype.itemsize, of_kind.is_diagonal)
        pool = pool_for(n_lanes, n_components, self.rows, each)
        at_most = lanes_of_a_burst(n_components, self.rows)
        return pool.each(program, lanes, self.rows, *shared, at_most=at_most, **static)


@program(static=("kind", "broad"))
def _nearest_to(lanes: tuple[Array, Array], batches: Batches, *, kind: Kind, broad: bool) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return assigned(kind, *lane, batches, broad)

    return for_fits(one, lanes, lanes[0].shape, kind, batches)


@program(static=("family", "broad"))
def _start(
    lanes: tuple[Array, Array, Moments | None],
    batches: Batches,
    ridge: Any,
    fixed: FixedStart,
    *,
    family: Family,
    broad: bool,
) -> em.State:
    def one(lane: tuple[Array, Array, Moments | None]) -> em.State:
        seeds, count, known = lane
        moments = projected(known, family.kind) if known else assigned(family.kind, seeds, count, batches, broad)
        mixture = maximise(moments, seeds, family, None, Ridge(ridge))
        return lost_if_empty(em.init(fixed.onto(mixture), batches), mixture, count)

    return for_fits(one, lanes, lanes[0].shape, family.kind, batches)


_from_means = program(from_means, static="family")


_from_responsibilities = program(from_responsibilities, static="family")


@program(static=("n_components", "family"))
def _from_labels(labels: Any, batches: Batches, ridge: Any, *, n_components: int, family: Family) -> Mixture:
    return from_labels(labels, n_components, batches, family, ridge)


_for_each_result = program(for_each_result, static="also")


@program
def _ridge(batches: Batches, ridge: Any, relative: Any) -> Array:
    return ridge + relative * batches.variances()

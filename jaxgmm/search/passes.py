"""Searches over rows that no single program holds: each step is one pass, for all runs that have not ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from .. import em
from .._base.memory import own
from .._base.programs import next_power_of_two, program
from ..em.hard import by_nearest, on_all_rows
from ..em.lanes import for_fits, init_lanes, lanes_at, one_lane, step_lanes, with_lanes
from ..em.maximisation import maximise
from ..em.state import finish, lost_if_empty, resume
from ..em.steppers.shelf import with_memory
from ..families import Family
from ..mixture import Mixture
from ..moments import Kind, Moments, projected
from ..priors import Ridge
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.partitioned import PartitionedRows
from .ascent import AT_MOST, Ascent, begin, learn, propose
from .checkpoint import Entry
from .fixed_start import NOTHING_FIXED, FixedStart
from .observer import Observer
from .progress import Snapshot, is_going
from .result import FitResult, for_each_result, unfinished, without_histories


@dataclass(frozen=True)
class Passes:
    """The `Driver` for partitioned rows: their holder computes sums over them."""

    rows: PartitionedRows

    def nearest_to(self, seeds: Array, counts: Any, kind: Kind, broad: bool = False) -> Moments:
        found = self.rows.sum(_assigned, seeds, counts, kind=kind)
        return _on_all_rows(found, seeds, counts, kind=kind) if broad else found

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
        mixtures = self._mixtures_from(seeds, counts, family, settings.ridge, nearest, broad)
        return _lost_if_empty_each(init_lanes(jax.vmap(fixed.onto)(mixtures), self.rows), mixtures, counts)

    def _mixtures_from(
        self,
        seeds: Array,
        counts: Any,
        family: Family,
        ridge: Any,
        nearest: Moments | None = None,
        broad: bool = False,
    ) -> Mixture:
        """Mixtures (R, ...) after one M-step on the rows nearest to each seed."""
        moments = self.nearest_to(seeds, counts, family.kind, broad) if nearest is None else nearest
        return _maximised(moments, seeds, ridge, family=family, is_dense=nearest is not None)

    def from_mixture(self, mixture: Mixture, settings: em.Settings) -> em.State:
        del settings
        return init_lanes(one_lane(mixture), self.rows)

    def from_values(
        self, values: Any, n_components: int, family: Family, settings: em.Settings, fixed: FixedStart = NOTHING_FIXED
    ) -> em.State:
        n_features = self.rows.n_features
        if np.shape(values) != (n_components, n_features):
            rows_check.in_memory(
                f"A start of shape {np.shape(values)}",
                f"for rows that are not held as one array give means ({n_components}, {n_features}) or a Mixture",
            )
        rows_check.finite(values, "init")
        means, counts = own(values, self.rows.dtype), np.array([n_components], np.int32)
        mixtures = self._mixtures_from(means[None], counts, family, settings.ridge)
        # The given means are kept; weights and covariances are those of the M-step.
        mixtures = Mixture(mixtures.log_weights, means[None], mixtures.scales, family)
        return _lost_if_empty_each(init_lanes(jax.vmap(fixed.onto)(mixtures), self.rows), mixtures, counts)

    def prepare(self, families: Sequence[Family], n_components: int, settings: em.Settings, n_runs: int) -> None:
        """Do nothing: the first pass over the rows needs its program at once."""

    def to_ends(
        self,
        states: em.State,
        histories: Any,
        settings: em.Settings,
        max_steps: int,
        observer: Observer,
        entry: Entry | None,
    ) -> tuple[em.State, Array]:
        states, histories = _resumed(states, np.int32(max_steps), settings), np.array(histories)
        found = None if entry is None else entry.found()
        if entry is not None and found is not None:
            states, histories = entry.as_tree(found, (states, histories))
            states = jax.device_put(states, self.rows.origin.sharding)
        while True:
            snapshot = Snapshot(*map(np.array, (states.objective, states.status, states.n_steps)))
            kept = snapshot.n_steps < histories.shape[1]
            histories[np.flatnonzero(kept), snapshot.n_steps[kept]] = snapshot.objective[kept]
            is_on = is_going(snapshot, max_steps)
            going = np.flatnonzero(is_on).astype(np.int32)
            with observer.heeding():
                observer.told(snapshot)
            is_done = not len(going) or observer.is_interrupted
            if entry is not None:
                entry.keep((states, histories), is_done)
            if is_done:
                states = _stopped(states)
                return unfinished(states, is_on) if len(going) else states, jax.device_put(histories)
            # Pad to a power of two, so that few programs are compiled; duplicates rewrite the same row.
            n_lanes = min(len(states.status), next_power_of_two(len(going)))
            chosen = going[np.minimum(np.arange(n_lanes), len(going) - 1)]
            with observer.heeding():
                stepped = step_lanes(lanes_at(states, chosen), self.rows, settings)
                states = jax.block_until_ready(with_lanes(states, chosen, stepped))

    def run_on(
        self,
        states: em.State,
        histories: Any,
        settings: em.Settings,
        max_steps: int,
        n_runs: int,
        observer: Observer,
    ) -> tuple[em.State, Any]:
        del n_runs
        states = jax.device_put(states, self.rows.origin.sharding)
        return self.to_ends(states, histories, settings, max_steps, observer, observer.next_call())

    def ascended(self, states: em.State, settings: em.Settings, n_runs: int, observer: Observer) -> list[Ascent]:
        del n_runs
        entry = observer.next_call()
        each = [begin(jax.tree.map(lambda leaf, i=i: leaf[i], states)) for i in range(len(states.objective))]
        found = None if entry is None else entry.found()
        if entry is not None and found is not None:
            each = entry.as_tree(found, each)
        for _ in range(AT_MOST):
            going = [index for index, ascent in enumerate(each) if not ascent.is_done]
            is_done = not going or observer.is_interrupted
            if entry is not None:
                entry.keep(each, is_done)
            if is_done:
                break
            tried, points = zip(*(propose(each[index]) for index in going), strict=True)
            # Pad to a power of two, so that few programs are compiled.
            lanes = np.minimum(np.arange(next_power_of_two(len(going))), len(going) - 1)
            together = jax.tree.map(lambda *leaves: np.stack(leaves), *(tried[lane] for lane in lanes))
            stepped = None
            with observer.heeding():
                together = jax.device_put(together, self.rows.origin.sharding)
                stepped = jax.device_get(step_lanes(together, self.rows, settings))
            if stepped is None:
                continue
            for place, index in enumerate(going):
                one = jax.tree.map(lambda leaf, place=place: leaf[place], stepped)
                each[index] = learn(each[index], points[place], one)
        return each

    def of_each(self, results: FitResult, also: Callable[[FitResult, Batches], Any]) -> Any:
        return self.rows.sum(for_each_result, without_histories(results), also=also)

    def ridge(self, ridge: Any, relative: float) -> Array:
        return ridge + relative * self.rows.variances()


def _assigned(block: Batches, seeds: Array, counts: Array, *, kind: Kind) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return by_nearest(kind, lane[0], block, lane[1])

    return for_fits(one, (seeds, counts), seeds.shape, kind, block)


@program(static=("family", "is_dense"), hurried=True)
def _maximised(moments: Moments, about: Array, ridge: Any, *, family: Family, is_dense: bool) -> Mixture:
    """M-step (R, ...) on moments about seeds (R, K, D): of the family's kind, or of kind `FULL` if is_dense."""

    def one(moments: Moments, about: Array) -> Mixture:
        moments = projected(moments, family.kind) if is_dense else moments
        return maximise(moments, about, family, None, Ridge(ridge))

    return jax.vmap(one)(moments, about)


@program(static="kind", hurried=True)
def _on_all_rows(nearest: Moments, seeds: Array, counts: Array, *, kind: Kind) -> Moments:
    return jax.vmap(partial(on_all_rows, kind))(nearest, seeds, counts)


_lost_if_empty_each = program(jax.vmap(lost_if_empty), hurried=True)


@program
def _resumed(states: em.State, max_steps: Array, settings: em.Settings) -> em.State:
    return jax.vmap(lambda state: with_memory(resume(state, max_steps), settings))(states)


@program(hurried=True)
def _stopped(states: em.State) -> em.State:
    return jax.vmap(finish)(states._replace(memory=None))

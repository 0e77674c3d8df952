"""Which family and how many components: the search over both, and what to choose by.

Criteria have scikit-learn's sign: smaller is better. The held-out log-likelihood is one: larger is better.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .. import em
from .._base import check
from .._base.precision import is_traced, precision_for
from ..families import SHELF, Family
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.door import admit_rows, in_blocks
from ..rows.partitioned import PartitionedRows
from .buckets import Group, fit_group, group_of, groups, of_each, room_for
from .checkpoint import Checkpoint, kept, told
from .fit import drive
from .plan import Search, of_search, with_others, with_relative_ridge
from .progress import Listener, Progress, SweepProgress, Told, listening
from .race import Race
from .result import FitResult
from .start import prepare, seeding, start
from .table import CRITERIA, Cell, Sweep, _describe, _evidence_of, _held_out, counted


def sweep(
    key: Array,
    x: Any,
    n_components: int | Iterable[int] = range(1, 11),
    families: str | Family | Iterable[str | Family] = ("full", "tied", "diag", "spherical"),
    n_restarts: int = 16,
    criterion: str = "bic",
    *,
    sample_weight: Any = None,
    init: Any = "k-means++",
    tol: float = 1e-3,
    max_steps: int = 200,
    ridge: Any = 1e-6,
    relative_ridge: float = 0.0,
    acceleration: str | None = None,
    stopping: str = "gain",
    race: bool | Race = False,
    escape: str | None = None,
    n_folds: int = 0,
    chunk_size: int | None = None,
    dtype: Any = None,
    device: str | None = None,
    progress: bool | Callable[[SweepProgress], None] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
) -> Sweep:
    """Fit rows x (N, D) with every family and every number of components, and choose by a criterion.

    n_components: one K or several. families: names or Family objects, one or several. criterion: "bic", "aic", "icl"
    or "held_out". `init` of your own (see `fit`) needs a single K. Everything else as for `fit`. A cell's result
    depends on the key, its family and its K, and but for rounding not on which other cells are in the sweep; at the
    same K all families begin from the same seeds. One component is started once, since all starts end in the same
    place.

    With weights, their total stands for N in the criteria: weights should count rows. Where they are shares, or correct
    for how rows were sampled, bring them to the sum that they are worth in independent rows, such as Kish's
    (Σ w)² / Σ w²; BIC, ICL and AIC mean something only then.

    n_folds: as many more fits of each cell, each without one part of the rows (Smyth 2000). `held_out` is the mean
    log-likelihood (nats) of every row under the fit that has not seen it, and NaN where one of those fits failed or
    stands on the ridge; with criterion "held_out" there are 5 unless n_folds says otherwise. Folds are weights of 0:
    rows without weights are compiled for once more, for all folds.

    Ctrl-C ends the search with what is done: the cells that are whole come back, with a warning, and `is_complete` is
    False.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled.
    """
    counts = _several_counts(n_components)
    chosen = _several_families(families)
    n_restarts = check.count(n_restarts, "n_restarts", least=1)
    check.one_of(criterion, CRITERIA, "criterion")
    n_folds = _several_folds(n_folds, criterion, init)
    if not isinstance(init, str) and len(counts) > 1:
        raise ValueError(
            f"A start of your own fits one number of components, but n_components is {counts}. Give one of them, or "
            "name a seeding such as init='k-means++'."
        )
    max_steps = check.count(max_steps, "max_steps", least=0)
    settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration, stopping=stopping)
    relative_ridge = check.nonnegative(relative_ridge, "relative_ridge")
    search, keeping = Search.of(race, escape), Checkpoint.of(checkpoint)
    n_lanes = 1
    if isinstance(init, str):
        seeding(init)
        n_lanes = n_restarts
    n_fits = len(chosen) * len(counts) * (1 + n_folds)
    first = SweepProgress(0, n_fits, chosen[0].name, counts[0], Progress(0, max_steps, n_lanes, n_lanes, -math.inf))
    with listening(progress, first, criterion) as listener:
        read = listener and listener.read
        n_runs = None if acceleration or is_traced((key, settings, init)) else n_lanes * len(counts)
        batches = admit_rows(key, x, sample_weight, max(counts), n_lanes, chunk_size, dtype, device, read, n_runs)
        in_blocks(batches, search.escape, n_folds)
        keeper = _Keeper(criterion, listener, n_fits, max_steps, float(batches.total_weight))
        with precision_for(batches.dtype):
            settings = with_relative_ridge(settings, relative_ridge, batches)
            shared = groups(counts, batches, n_lanes, chosen)
            about = partial(of_search, key, batches, settings, search, max_steps, n_lanes, init)
            of_cells = {"K": counts, "families": [told(family) for family in chosen], "n_folds": n_folds}
            try:
                with kept(keeping, lambda: {**of_cells, **about()}, with_others(batches)):
                    if isinstance(init, str):
                        for of in shared:
                            prepare(chosen, room_for(of, batches), batches, settings, n_lanes)
                        parts = [_Part(batches, batches, _groups_of(key, shared, batches, init, n_restarts, chosen))]
                        for training, held_out in _folds(key, batches, n_folds, max(counts)):
                            parts.append(
                                _Part(training, held_out, _groups_of(key, shared, training, init, n_restarts, chosen))
                            )
                        for family in chosen:
                            for index in range(len(shared)):
                                _fit_cells(keeper, parts, index, family, settings, max_steps, search)
                    else:
                        for family in chosen:
                            states = start(key, batches, init, counts[0], family, settings, 1)
                            report = partial(keeper.report, family.name, counts[0])
                            result = drive(states, batches, settings, max_steps, search, report, n_components=counts[0])
                            alone = jax.tree.map(lambda leaf: np.asarray(leaf)[None], result)
                            said = [of[0] for of in jax.device_get(of_each(alone, batches, _evidence_of))]
                            keeper.keep(family.name, counts[0], result, said)
                            keeper.n_done += 1
            except KeyboardInterrupt:
                if not keeper.cells:
                    raise
                warnings.warn(
                    f"The search was interrupted: of {counted(len(chosen) * len(counts), 'cell')} "
                    f"{len(keeper.cells)} are done, and come back.",
                    stacklevel=2,
                )
    order = [(family.name, count) for family in chosen for count in counts]
    return keeper.sweep(order, shared)


class _Part(NamedTuple):
    """What every cell is fitted to: all rows, or all but a fold."""

    training: Batches | PartitionedRows
    judged: Batches | PartitionedRows  # the rows whose log-likelihood is wanted
    groups: list[Group]


def _groups_of(
    key: Array,
    shared: list[tuple[int, ...]],
    batches: Batches | PartitionedRows,
    init: str,
    n_restarts: int,
    families: Sequence[Family],
) -> list[Group]:
    return [group_of(key, counts, batches, init, n_restarts, families) for counts in shared]


def _folds(
    key: Array, batches: Batches | PartitionedRows, n_folds: int, n_components: int
) -> Iterable[tuple[Batches, Batches]]:
    """The rows without each fold, and the fold, as weights of 0 for the others: no row is moved."""
    if not n_folds:
        return
    assert isinstance(batches, Batches)
    weights = batches.row_weights()
    counted_rows = np.flatnonzero(weights)
    rows_check.enough_for_folds(len(counted_rows), n_folds, n_components)
    shuffled = np.random.default_rng(np.asarray(jax.random.bits(key, (4,)))).permutation(counted_rows)
    for fold in range(n_folds):
        is_held_out = np.zeros(len(weights), bool)
        is_held_out[shuffled[fold::n_folds]] = True
        training, held_out = (np.where(rows, weights, 0.0) for rows in (~is_held_out, is_held_out))
        yield batches.reweighted(training), batches.reweighted(held_out)


def _fit_cells(
    keeper: _Keeper,
    parts: list[_Part],
    index: int,
    family: Family,
    settings: em.Settings,
    max_steps: int,
    search: Search,
) -> None:
    """The cells of a family and a group, and their folds."""
    counts = parts[0].groups[index].counts
    held_out = np.zeros(len(counts))
    fitted: list[tuple[FitResult, Any]] = []
    for number, part in enumerate(parts):
        watch = _Watch(keeper, family.name, part.groups[index])
        found = fit_group(
            part.groups[index], part.training, part.judged, family, settings, max_steps, search, _evidence_of, watch
        )
        if number == 0:
            fitted = found
        else:
            held_out += [_held_out(result, said, float(part.judged.total_weight)) for result, said in found]
        keeper.n_done += len(counts)
    for place, (result, said) in enumerate(fitted):
        mean = float(held_out[place]) / keeper.total if len(parts) > 1 else None
        keeper.keep(family.name, counts[place], result, said, mean)


class _Keeper:
    """The cells that are done, and who is told of it."""

    def __init__(
        self,
        criterion: str,
        progress: Listener | None,
        n_fits: int,
        max_steps: int,
        total: float,
    ) -> None:
        self.criterion, self.progress, self.n_fits = criterion, progress, n_fits
        self.max_steps, self.total = max_steps, total
        self.n_done = 0
        self.results: dict[tuple[str, int], FitResult] = {}
        self.cells: dict[tuple[str, int], Cell] = {}

    def keep(self, family: str, count: int, result: FitResult, said: Any, held_out: float | None = None) -> None:
        self.results[family, count] = result
        self.cells[family, count] = _describe(family, count, result, said, self.total, held_out)

    def report(self, family: str, count: int, cell: Progress, ended: int = 0) -> None:
        if self.progress is not None:
            best = self.sweep(list(self.cells)).best_cell if self.cells else None
            self.progress(SweepProgress(self.n_done + ended, self.n_fits, family, count, cell, best))

    def sweep(self, order: Sequence[tuple[str, int]], shared: Iterable[tuple[int, ...]] = ()) -> Sweep:
        """What is kept, in this order."""
        done = [of for of in order if of in self.cells]
        results = {of: self.results[of] for of in done}
        return Sweep(
            results=results,
            cells=tuple(self.cells[of] for of in done),
            criterion=self.criterion,
            held_up=frozenset(of for of, result in results.items() if np.asarray(result.held_up).any()),
            groups=tuple(shared),
            padding=_padding(results, shared),
            is_complete=len(done) == len(order),
        )


class _Watch:
    """Tells of the cells of a group one after the other: of those that have ended since, and of the first that goes."""

    def __init__(self, keeper: _Keeper, family: str, group: Group) -> None:
        self.keeper, self.family, self.n_ended = keeper, family, 0
        # Between runs that are made one by one an interrupt gets through anyway.
        self.is_silent = keeper.progress is None
        self.left = list(zip(group.counts, group.members, group.n_starts, strict=True))

    def __call__(self, told: Told) -> None:
        while self.left and self.keeper.progress is not None:
            count, lanes, n_starts = self.left[0]
            cell = Progress.of(Told(*(value[lanes[:n_starts]] for value in told)), self.keeper.max_steps)
            self.keeper.report(self.family, count, cell, self.n_ended)
            if cell.n_running:
                return
            self.left.pop(0)
            self.n_ended += 1


def _padding(results: dict[tuple[str, int], FitResult], shared: Iterable[tuple[int, ...]]) -> float:
    """Which share of the components that were stepped were padding."""
    stepped = wanted = 0
    for (_, count), result in results.items():
        steps = int(np.asarray(result.restarts.n_steps).sum())
        wanted += steps * count
        stepped += steps * max((max(group) for group in shared if count in group), default=count)
    return 1.0 - wanted / stepped if stepped else 0.0


def _several_counts(n_components: Any) -> list[int]:
    values = list(n_components) if isinstance(n_components, Iterable) else [n_components]
    if not values:
        raise ValueError("n_components is empty: give at least one number of components.")
    return list(dict.fromkeys(check.count(value, "n_components", least=1) for value in values))


def _several_families(families: Any) -> list[Family]:
    values = list(families) if isinstance(families, Iterable) and not isinstance(families, str) else [families]
    if not values:
        raise ValueError(f"families is empty: give at least one of {', '.join(map(repr, SHELF))}.")
    chosen = list(dict.fromkeys(check.family(value, SHELF) for value in values))
    names = [family.name for family in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two different families are called {name!r}; a sweep tells its results apart by name.")
    return chosen


def _several_folds(n_folds: Any, criterion: str, init: Any) -> int:
    n_folds = check.count(n_folds, "n_folds", least=0)
    if criterion == "held_out" and not n_folds:
        n_folds = 5
    if n_folds == 1:
        raise ValueError("n_folds must be 0, or at least 2: what is held out is one part of several.")
    if n_folds and not isinstance(init, str):
        raise ValueError("A start of your own has seen all rows, the held-out ones too: name a seeding, or n_folds=0.")
    return n_folds

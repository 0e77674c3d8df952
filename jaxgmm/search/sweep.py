"""Search over families and numbers of components, and choose the best fit by a criterion.

Information criteria have scikit-learn's sign: smaller is better. For the held-out log-likelihood larger is better.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax import Array

from .._base import check
from .._base.mesh import outside_meshes
from .._base.precision import precision_for
from ..families import SHELF, Family
from ..rows.options import RowOptions
from ..rows.rows import Rows
from . import _check
from .buckets import Bucket, bucket_of, buckets, fit_bucket, starts_of, stepped_padding
from .checkpoint import Checkpoint, Journal, checkpointing
from .criteria import CRITERIA, Criterion
from .driver import driver_of
from .fit import observer_of, search
from .folds import FOR_FOLDS, folds, folds_asked
from .observer import Interrupt, Observer, saying_what_is_lost, warn_of_interrupt
from .plan import Plan
from .polish import is_polished
from .progress import CellsInTurn, Listener, Progress, SweepProgress, listening
from .race import Race
from .result import FitResult, in_users_unit
from .start import room_for
from .table import Cell, Sweep, cell_of, counted, evidence_of, held_out_total, with_columns


def sweep(
    key: Array,
    x: Any,
    n_components: int | Iterable[int] = range(1, 11),
    families: str | Family | Iterable[str | Family] = ("full", "tied", "diag", "spherical"),
    n_restarts: int = 16,
    criterion: str | Criterion = "bic",
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
    polish: bool = True,
    n_folds: int = 0,
    chunk_size: int | None = None,
    dtype: Any = None,
    device: str | None = None,
    progress: bool | Callable[[SweepProgress], None] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
) -> Sweep:
    """Fit rows x (N, D) with every family and every number of components, and choose by a criterion.

    n_components: one K or several. families: names or Family objects, one or several. criterion: "bic", "aic", "icl"
    or "held_out", or a Criterion object of yours (`jaxgmm.criteria`). A start of your own as `init` (see `fit`) needs a
    single K. Everything else as for `fit`. A cell's result depends on the key, its family and its K and, except for
    rounding, not on the other cells of the sweep; at the same K all families start from the same seeds. With one
    component there is a single run, since all starts converge to the same fit.

    With weights, the criteria use their total as N: weights should count rows. If they are shares, or correct for how
    rows were sampled, scale them to sum to the number of independent rows that they are worth, such as Kish's
    (Σ w)² / Σ w²; otherwise BIC, ICL and AIC have no meaning.

    The figures of a cell are those of its optimum: once its restarts have ended at tol, the best few are run on,
    accelerated, until the gain still to come is below 1e-6 nats per unit of weight, or hidden by rounding. Their steps
    count, and may exceed max_steps. With polish=False, or tol 0, the figures are those where tol stopped the runs.

    n_folds: the number of additional fits of each cell, each without one part of the rows (Smyth 2000). `held_out` is
    the mean log-likelihood (nats) of every row under the fit that has not seen it, and NaN if one of those fits failed
    or has a spurious component; with criterion "held_out", n_folds is 5 unless given. A fold is held out by weights of
    0, so if rows have no weights, programs are compiled once more, for all folds together.

    A fit with a spurious component (see `fit`) is set aside: chosen last, marked in the printed table, and explained by
    `Sweep.set_aside`. Where columns are rounded or repeat values, ridge="resolution" lets such fits compete.

    Ctrl-C ends the search early: the finished cells are returned, with a warning, and `is_complete` is False. Where
    none is finished, those that are being fitted are returned as far as they got, with status RUNNING and not polished;
    where nothing is there yet, or several processes search together, it is a KeyboardInterrupt.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled.
    """
    check.random_key(key)
    chosen_by = _check.criterion(criterion, CRITERIA)
    n_folds = folds_asked(n_folds, chosen_by, init)
    plan = Plan.of(
        _check.listed(n_components, "n_components", "at least one number of components"),
        _check.listed(families, "families", f"at least one of {', '.join(map(repr, SHELF))}"),
        n_restarts=n_restarts,
        init=init,
        tol=tol,
        max_steps=max_steps,
        ridge=ridge,
        relative_ridge=relative_ridge,
        acceleration=acceleration,
        stopping=stopping,
        race=race,
        escape=escape,
        polish=polish,
        rows=RowOptions(sample_weight, chunk_size, dtype, device),
    )
    if not isinstance(init, str) and len(plan.counts) > 1:
        raise ValueError(
            f"A start of your own fits one number of components, but n_components is {list(plan.counts)}. Give one of "
            "them, or name a seeding such as init='k-means++'."
        )
    checkpoint = Checkpoint.of(checkpoint)
    n_cells = len(plan.families) * len(plan.counts)
    n_fits = n_cells * (1 + n_folds)
    first = SweepProgress(0, n_fits, plan.family.name, next(iter(plan.counts)), plan.first_progress)
    asked = {"criterion": chosen_by.name, "n_folds": n_folds}
    with (
        outside_meshes(),
        saying_what_is_lost("The search"),
        listening(progress, first, chosen_by.name) as listener,
        plan.together(key, x, "sweep", **asked),
    ):
        rows = plan.admit(key, x, listener and listener.read)
        if n_folds:
            rows.whole(*FOR_FOLDS)
        keeper = _Keeper(chosen_by, listener, n_fits, plan, rows)
        with precision_for(rows.dtype):
            plan = plan.for_rows(rows)
            shared = buckets(plan.counts, rows, plan.search.n_restarts, plan.families)

            def about() -> dict[str, Any]:
                return {**plan.fingerprint(key, rows), "n_folds": n_folds}

            try:
                with checkpointing(checkpoint, about, rows.is_multiprocess) as journal:
                    if isinstance(init, str):
                        _fit_seeded(key, rows, plan, shared, n_folds, keeper, journal)
                    else:
                        _fit_given(key, rows, plan, keeper, journal)
            except KeyboardInterrupt:
                if not keeper.cells:
                    raise
                warn_of_interrupt(keeper.said_of_what_is_kept(n_cells))
    order = [(family.name, count) for family in plan.families for count in plan.counts]
    return with_columns(keeper.sweep(order, shared), x, rows, plan.settings.ridge)


def _fit_seeded(
    key: Array,
    rows: Rows,
    plan: Plan,
    shared: list[tuple[int, ...]],
    n_folds: int,
    keeper: _Keeper,
    journal: Journal | None,
) -> None:
    """Fit all cells and their folds, from seeds that the families share."""
    seeding, n_restarts = plan.search.init, plan.search.n_restarts
    for counts in shared:
        n_runs = sum(starts_of(counts, n_restarts))
        driver_of(rows).prepare(plan.families, room_for(max(counts), rows), plan.settings, n_runs)

    def buckets_of(training: Rows) -> list[Bucket]:
        return [bucket_of(key, counts, training, seeding, n_restarts, plan.families) for counts in shared]

    parts = [_Part(rows, rows, buckets_of(rows))]
    for training, held_out in folds(key, rows, n_folds, plan.n_components):
        parts.append(_Part(training, held_out, buckets_of(training)))
    for family in plan.families:
        for index in range(len(shared)):
            _fit_cells(keeper, parts, index, family, plan, journal)


def _fit_given(key: Array, rows: Rows, plan: Plan, keeper: _Keeper, journal: Journal | None) -> None:
    """Fit one cell per family, all with the same K, from the user's start."""
    count = plan.n_components
    for family in plan.families:
        report = partial(keeper.report, family.name, count)
        own = replace(plan, families=(family,))
        observer = observer_of(report, own, journal)._replace(interrupt=keeper.interrupt())
        result = search(key, rows, own, observer)
        if observer.is_interrupted:
            keeper.keep_unfinished([(family.name, count, result, None)])
        alone = jax.tree.map(lambda leaf: np.asarray(leaf)[None], result)
        evidence = [of[0] for of in jax.device_get(driver_of(rows).of_each(alone, evidence_of))]
        keeper.keep(family.name, count, result, evidence)
        keeper.n_done += 1


class _Part(NamedTuple):
    """The rows that every cell is fitted to: all, or all but one fold."""

    training: Rows
    judged: Rows  # the rows whose log-likelihood is computed
    buckets: list[Bucket]


def _fit_cells(
    keeper: _Keeper, parts: list[_Part], index: int, family: Family, plan: Plan, journal: Journal | None
) -> None:
    """Fit the cells of a family and a bucket, and their folds."""
    counts = parts[0].buckets[index].counts
    held_out = np.zeros(len(counts))
    fitted: list[tuple[FitResult, Any]] = []
    for number, part in enumerate(parts):
        bucket = part.buckets[index]
        tell = None if keeper.progress is None else keeper.in_turn(family.name, bucket)
        observer = Observer(tell, journal, interrupt=keeper.interrupt())
        found = fit_bucket(bucket, part.training, part.judged, family, plan, evidence_of, observer)
        if number == 0:
            fitted = found
        if observer.is_interrupted:
            alone = [(in_users_unit(result, parts[0].training), said) for result, said in fitted]
            keeper.keep_unfinished((family.name, count, *each) for count, each in zip(counts, alone, strict=True))
        if number:
            held_out += [held_out_total(result, said, float(part.judged.total_weight)) for result, said in found]
        keeper.n_done += len(counts)
    for place, (result, said) in enumerate(fitted):
        mean = float(held_out[place]) / float(keeper.rows.total_weight) if len(parts) > 1 else None
        keeper.keep(family.name, counts[place], in_users_unit(result, parts[0].training), said, mean)


NOTHING_SAID = 0.0, np.nan
"""`evidence_of` where there was no time for a pass: the log-likelihood is that of the objective."""


class _Keeper:
    """Collects the finished cells, and reports progress to the listener."""

    def __init__(self, criterion: Criterion, progress: Listener | None, n_fits: int, plan: Plan, rows: Rows) -> None:
        self.criterion, self.progress, self.n_fits = criterion, progress, n_fits
        self.max_steps, self.rows = plan.search.max_steps, rows
        self.is_polished = plan.search.polish and is_polished(plan.settings)
        self.n_done, self.is_unfinished = 0, False
        self.results: dict[tuple[str, int], FitResult] = {}
        self.cells: dict[tuple[str, int], Cell] = {}

    def keep(self, family: str, count: int, result: FitResult, said: Any, held_out: float | None = None) -> None:
        self.results[family, count] = result
        total = float(self.rows.in_users_unit(self.rows.total_weight))
        said = tuple(map(self.rows.in_users_unit, said))
        self.cells[family, count] = cell_of(
            family, count, result, said, total, held_out, self.criterion, self.is_polished
        )

    def interrupt(self) -> Interrupt | None:
        """For the cells that are fitted next: as long as none is finished, an interrupt gives those back."""
        return None if self.cells or self.rows.is_multiprocess else Interrupt()

    def keep_unfinished(self, cells: Iterable[tuple[str, int, FitResult, Any]]) -> NoReturn:
        """Keep those cells of which there is something, as an interrupt has left them, and raise it."""
        self.is_unfinished, self.is_polished = True, False
        for family, count, result, said in cells:
            if np.isfinite(np.asarray(result.objective)):
                self.keep(family, count, result, NOTHING_SAID if said is None else said)
        raise KeyboardInterrupt

    def said_of_what_is_kept(self, n_cells: int) -> str:
        if not self.is_unfinished:
            return f"of {counted(n_cells, 'cell')} {len(self.cells)} are done, and come back."
        return f"of {counted(n_cells, 'cell')} none is done, and {len(self.cells)} come back as far as they got."

    def report(self, family: str, count: int, cell: Progress, ended: int = 0) -> None:
        if self.progress is not None:
            best = self.sweep(list(self.cells)).best_cell if self.cells else None
            self.progress(SweepProgress(self.n_done + ended, self.n_fits, family, count, cell, best))

    def in_turn(self, family: str, bucket: Bucket) -> CellsInTurn:
        """A callback that reports the cells of a bucket from snapshots of its runs."""
        lanes = [own[:n] for own, n in zip(bucket.members, bucket.n_starts, strict=True)]
        return CellsInTurn(partial(self.report, family), dict(zip(bucket.counts, lanes, strict=True)), self.max_steps)

    def sweep(self, order: Sequence[tuple[str, int]], shared: Iterable[tuple[int, ...]] = ()) -> Sweep:
        """The finished cells as a `Sweep`, in this order."""
        done = [of for of in order if of in self.cells]
        results = {of: self.results[of] for of in done}
        return Sweep(
            results=results,
            cells=tuple(self.cells[of] for of in done),
            criterion=self.criterion.name,
            chosen_by=self.criterion,
            spurious=frozenset(of for of, result in results.items() if np.asarray(result.spurious).any()),
            groups=tuple(shared),
            padding=0.0 if self.rows.in_turn else stepped_padding(results, shared),
            is_complete=len(done) == len(order) and not self.is_unfinished,
        )

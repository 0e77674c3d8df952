"""Fit a mixture from many starts in one compiled program, and return the best."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jax import Array

from .. import em
from .._base import check
from .._base.mesh import outside_meshes
from .._base.precision import precision_for
from .._base.status import Status
from ..families import Family
from ..mixture import Mixture
from ..rows.options import RowOptions
from ..rows.rows import Rows
from .checkpoint import Checkpoint, Journal, checkpointing
from .escape import ESCAPES
from .fixed_start import NOTHING_FIXED, FixedStart
from .observer import NOBODY, Interrupt, Observer, saying_what_is_lost, warn_of_interrupt
from .plan import Plan, Search
from .polish import polished, polished_result
from .progress import Progress, listening
from .race import Race, race_to_ends
from .result import FitResult, best, history_length, in_users_unit, trimmed
from .start import start


def fit(
    key: Array,
    x: Any,
    n_components: int,
    family: str | Family = "full",
    *,
    sample_weight: Any = None,
    n_restarts: int = 32,
    init: str | Mixture | Any = "k-means++",
    tol: float = 1e-3,
    max_steps: int = 200,
    ridge: Any = 1e-6,
    relative_ridge: float = 0.0,
    acceleration: str | None = None,
    stopping: str = "gain",
    race: bool | Race = False,
    escape: str | None = None,
    polish: bool = False,
    chunk_size: int | None = None,
    dtype: Any = None,
    device: str | None = None,
    progress: bool | Callable[[Progress], None] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
) -> FitResult:
    """Fit a mixture of K Gaussians to rows x (N, D) by EM, from R starts; the best finite objective wins.

    key: a JAX random key. x: an array, or `Batches`; or data that is read in blocks, of which memory need only hold
    a few: `Blocks`, a `numpy.memmap`, the path of a file (`.npy`, Parquet, text) or a list of paths, a dask array or
    data frame. n_components: K. family: a name of `jaxgmm.families.SHELF` or a Family. sample_weight: (N,), on any
    scale, in any dtype. init: "k-means++", "k-means", "random_rows",
    "random_responsibilities", or a start of your own: a Mixture, means (K, D), integer labels (N,) or
    responsibilities (N, K), from which a single run starts. tol: change of the mean log-likelihood (nats) below which a
    run has converged; 0 makes exactly max_steps steps. stopping: "gain" compares the last step's gain with tol,
    "aitken" the estimated gain of all further steps. chunk_size: rows per chunk, chosen by size if None.
    dtype: by JAX's rule if None. device: "all" shards the rows over all devices that JAX has, in all processes, each
    of which passes its own rows; in one process, if the rows take up to 64 MB and there are as many restarts as
    devices, each device has all rows and the restarts are scattered instead. An array that is already sharded is fitted
    where it lies. progress: True for a bar on standard error, or a function that is called with a `Progress` during the
    fit. checkpoint: a folder to which the fit is saved every minute (or a `Checkpoint`, which sets the interval), so
    that the same call resumes after it was killed, and ends with the same bits.

    Covariances: ridge, () or (D,), is added to every diagonal, as is relative_ridge times each feature's variance over
    the data, which does not depend on units. A run with a component whose smallest variance is decided by the ridge
    (`spurious`) wins only if no run without one succeeded. ridge="resolution" takes δ²/12 for each feature, the
    variance of a cell of width δ, its resolution (the smallest difference between distinct values that is not rare):
    for rounded or repeated values, and whatever the units. A component on one value is then no narrower than what was
    recorded; it counts as spurious only with D + 1 rows or fewer, or if it lies in a plane across features.

    polish=True runs the best runs on to their optima, accelerated, once all have ended: until the gain still to come is
    below 1e-6 nats per unit of weight, or hidden by rounding. Their steps count, beyond max_steps too. It does nothing
    if tol is 0.

    Search: with race=True all starts make a short run and only the best continue; a `Race` sets how (see `race.py`).
    escape="split-merge" then tries to leave the local optimum that was found (see `escape.py`). acceleration:
    "squarem", "anderson" or "lbfgs" for fewer steps if clusters overlap and tol is below 1e-4 (see
    `em/steppers/`).

    Ctrl-C ends the runs where they are: the best so far comes back, with a warning, and `result.restarts.status` is
    RUNNING for those that had not ended. Where there is nothing yet, and where several processes fit together, it is a
    KeyboardInterrupt.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled; never after
    that: `result.status` and `result.restarts` say how the runs ended.
    """
    check.random_key(key)
    plan = Plan.of(
        n_components,
        family,
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
    checkpoint = Checkpoint.of(checkpoint)
    with (
        outside_meshes(),
        saying_what_is_lost("The fit"),
        listening(progress, plan.first_progress) as listener,
        plan.together(key, x, "fit"),
    ):
        rows = plan.admit(key, x, listener and listener.read)
        with precision_for(rows.dtype):
            plan = plan.for_rows(rows)
            about = partial(plan.fingerprint, key, rows)
            with checkpointing(checkpoint, about, rows.is_multiprocess) as journal:
                return search_or_part(key, rows, plan, observer_of(listener, plan, journal))


def observer_of(
    listener: Callable[[Progress], None] | None, plan: Plan, journal: Journal | None = None, every: int | None = None
) -> Observer:
    """The observer of a single fit: it passes progress to the listener, and checkpoints to the journal."""
    if listener is None:
        return Observer(None, journal, every)
    max_steps = plan.search.max_steps
    return Observer(lambda snapshot: listener(Progress.of(snapshot, max_steps)), journal, every)


def search_or_part(
    key: Array, rows: Rows, plan: Plan, observer: Observer = NOBODY, fixed: FixedStart = NOTHING_FIXED
) -> FitResult:
    """`search`; if it is interrupted, what it has found, with a warning. KeyboardInterrupt if that is nothing.

    Several processes would each stop at another step: there the interrupt is raised.
    """
    interrupt = None if rows.is_multiprocess else Interrupt()
    with saying_what_is_lost("The fit"):
        result = search(key, rows, plan, observer._replace(interrupt=interrupt), fixed)
        if interrupt is not None and interrupt.came and not np.isfinite(np.asarray(result.objective)):
            raise KeyboardInterrupt
    if interrupt is not None and interrupt.came:
        n_running = int(np.sum(np.asarray(result.restarts.status) == Status.RUNNING))
        warn_of_interrupt(
            f"the best so far comes back, with status {Status(int(result.status)).name} after {int(result.n_steps)} "
            f"steps; {n_running} of {result.restarts.status.size} restarts had not ended.",
            stacklevel=4,
        )
    return result


def search(
    key: Array, rows: Rows, plan: Plan, observer: Observer = NOBODY, fixed: FixedStart = NOTHING_FIXED
) -> FitResult:
    """The fit of a plan that was made `for_rows`.

    fixed: parts of the initial mixture that replace those of every start.
    """
    of = plan.search
    states = start(key, rows, of.init, plan.n_components, plan.family, plan.settings, of.n_restarts, fixed)
    with observer.noting():
        return in_users_unit(best_of_runs(states, rows, plan.settings, of, plan.n_components, observer), rows)


def best_of_runs(
    states: em.State,
    rows: Rows,
    settings: em.Settings,
    of: Search,
    n_components: int,
    observer: Observer = NOBODY,
) -> FitResult:
    """Run or race states (R, ...) to their ends, take the best, and try to escape from its optimum. The result has
    `n_components` components, without padding."""
    asked = (("race", of.race), ("escape", of.escape), ("polish", of.polish), ("progress", observer.tell))
    for name, is_asked in asked:
        if is_asked:
            check.concrete(states, name)
    states, histories = race_to_ends(states, rows, settings, of.max_steps, of.race, observer=observer)
    if of.polish and of.escape is None:
        states, histories = polished(states, histories, rows, settings, observer)
    length = history_length(of.max_steps) if not of.polish else histories.shape[1]
    result = best(states, histories, settings.floor, length=length)
    if isinstance(states.objective, np.ndarray):
        result = rows.at_home(trimmed(result, n_components))
    if of.escape is not None and not observer.is_interrupted:
        result = ESCAPES[of.escape](result, rows, settings, of.max_steps, observer)
        result = polished_result(result, rows, settings, observer) if of.polish else result
    return rows.at_home(result) if rows.n_copies > 1 else result

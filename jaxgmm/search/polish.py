"""Polishing: once restarts can be told apart, the best few are run on to their optima.

`tol` decides when a restart ends, and where clusters overlap a fit may then be some nats under its optimum: enough for
another cell of a search to win. Tightening `tol` for all restarts would cost more than the restarts. So all end at
`tol`, and of each group of rivals the best, and those that might overtake it, go on, accelerated (see `ascent.py`),
until the gain still to come is estimated below 1e-6 nats per unit of weight, or is hidden by rounding.

Which one is the best often shows only below `tol`, at which runs stop under different optima. So before, where a group
has five runs or more, the different fits among the best quarter make a few more steps of plain EM.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from .. import em
from .._base import check
from .._base.status import FAILED, Status
from ..mixture import Mixture
from ..rows.rows import Rows
from .ascent import ended
from .driver import driver_of
from .observer import Observer
from .progress import Snapshot
from .result import HISTORY, FitResult, best, trimmed, unfinished
from .runs import padded, put_back, taken
from .spurious import spurious_on_host

FINALISTS = 3
"""Most runs of a group that are polished because they might win. One that would win unpolished is polished too."""

SIFTED = 1 / 4
"""Share of a group's runs, rounded up, of which the different fits are run on before the best is chosen. With 16
restarts 192 of 200 cells are then as high as scikit-learn's, and not 183 (`benchmarks/searches.py`)."""

FINER = 1e-2
"""To what part of the search's `tol` they are run on."""

MORE = 50
"""Most steps that each of them then makes: over a plateau an ascent is faster."""

SAME = 0.5
"""Two runs are the same fit where each mean of one lies within so many standard deviations, of the components on
average, of a mean of the other."""


def is_polished(settings: em.Settings) -> bool:
    """Whether runs under these settings are to be polished: `tol=0` asks for an exact number of steps."""
    check.concrete(settings, "polish")
    return float(np.max(np.asarray(settings.tol))) > 0.0


def polished(
    states: em.State,
    histories: Any,
    rows: Rows,
    settings: em.Settings,
    observer: Observer,
    rivals: np.ndarray | None = None,
) -> tuple[em.State, Any]:
    """Ended runs (R, ...), of which the best of each group stand at their optima.

    rivals (G, R / G): the groups of runs that compete with one another; a single group if None. Histories are as long
    as the longest run, or HISTORY.
    """
    if not is_polished(settings):
        return states, histories
    n_runs = len(states.objective)
    rivals = np.arange(n_runs)[None] if rivals is None else rivals
    states, histories = _sifted(states._replace(memory=None), histories, rows, settings, observer, rivals)
    tight = replace(settings, tol=0.0, acceleration=None, stopping="gain")
    is_done, before = np.zeros(n_runs, bool), _ranks(states, settings)
    chosen = _best_of(before, rivals)
    mixtures: Any = jax.device_get(states.mixture)
    while len(chosen) and not observer.is_interrupted:
        few, lines = jax.device_get(taken(states, histories, chosen))
        few, lines = _ascended(few, lines, rows, tight, n_runs, observer)
        states, histories = put_back(states, _long_enough(histories, lines), chosen, few, lines)
        observer.told(_snapshot(states))
        is_done[chosen] = True
        ranks = _ranks(states, settings)
        winners = _best_of(ranks, rivals)
        # Where the winner of a group has not been polished, or turned out spurious while it was, the next one is.
        chosen = winners[~is_done[winners]]
        if not len(chosen):
            chosen = _challengers(before, ranks, is_done, rivals, mixtures)
    return states, histories


def _sifted(
    states: em.State, histories: Any, rows: Rows, settings: em.Settings, observer: Observer, rivals: np.ndarray
) -> tuple[em.State, Any]:
    """Ended runs (R, ...), of the best `SIFTED` of each group those that are different fits run on, if these are at
    least two. Only runs that `tol` ended are; their status stays, and one that fails or falls on the way stays what it
    was."""
    ranks, is_settled = _ranks(states, settings), np.asarray(states.status) == Status.CONVERGED
    mixtures: Any = jax.device_get(states.mixture)
    found: list[int] = []
    for group in map(np.unique, rivals):
        best = group[np.argsort(-ranks[group], kind="stable")][: math.ceil(SIFTED * len(group))]
        unlike: list[int] = []
        for run in best:
            if np.isfinite(ranks[run]) and not any(_are_same(mixtures, run, other) for other in unlike):
                unlike.append(run)
        if len(unlike) > 1:
            found += [run for run in unlike if is_settled[run]]
    if not found or observer.is_interrupted:
        return states, histories
    chosen = np.array(sorted(found), np.int32)
    few, lines = jax.device_get(taken(states, histories, chosen))
    # Steps are counted from here, so that what a run may make does not depend on other groups'.
    zero = np.zeros(len(chosen), np.int32)
    going = few._replace(status=np.full_like(zero, Status.RUNNING), n_steps=zero)
    finer = replace(settings, tol=FINER * float(np.max(np.asarray(settings.tol))), acceleration=None, stopping="gain")
    nobody_told, empty = observer._replace(tell=None), np.full((len(chosen), MORE + 1), np.nan, lines.dtype)
    on, made = jax.device_get(driver_of(rows).run_on(going, empty, finer, MORE, len(ranks), nobody_told))
    stands = np.flatnonzero(~np.isin(on.status, (*FAILED, Status.NOT_MONOTONE)) & (on.objective >= few.objective))
    n_before, n_after = few.n_steps, few.n_steps + on.n_steps
    lines = padded(lines, min(int(n_after.max()) + 1, HISTORY))
    for line, first, each in zip(lines, n_before, made, strict=True):
        _append(line, first, each[1:])
    on = on._replace(status=few.status, n_steps=n_after, memory=None, **_unknown(few))
    few, lines = jax.tree.map(lambda leaf: leaf[stands], (on, lines))
    return put_back(states, _long_enough(histories, lines), chosen[stands], few, lines)


def _append(line: np.ndarray, n_steps: int, more: np.ndarray) -> None:
    """Write the objectives of more steps, NaN past their end, behind the first `n_steps` of a history that has room."""
    made = more[~np.isnan(more)][: max(0, len(line) - 1 - n_steps)]
    line[n_steps + 1 : n_steps + 1 + len(made)] = made


def _best_of(ranks: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """The best run of each group that has a sound one."""
    best = np.take_along_axis(rivals, np.argmax(ranks[rivals], axis=1)[:, None], axis=1)[:, 0]
    return np.unique(best[np.isfinite(ranks[best])]).astype(np.int32)


def _challengers(
    before: np.ndarray, ranks: np.ndarray, is_done: np.ndarray, rivals: np.ndarray, mixtures: Mixture
) -> np.ndarray:
    """Of each group the next best run that would win if it gained as much as that which gained most in its ascent, and
    is not the same fit as one that is polished."""
    found = []
    for group in map(np.unique, rivals):
        done = group[is_done[group]]
        if not 0 < len(done) < FINALISTS:
            continue
        gained = ranks[done] - before[done]
        reach = np.max(gained, initial=0.0, where=np.isfinite(gained))
        near = [run for run in group[~is_done[group]] if ranks[run] + reach > ranks[done].max()]
        for run in sorted(near, key=lambda run: -ranks[run]):
            if not any(_are_same(mixtures, run, other) for other in done):
                found.append(run)
                break
    return np.array(found, np.int32)


def polished_result(result: FitResult, rows: Rows, settings: em.Settings, observer: Observer) -> FitResult:
    """A result that stands at its optimum; how the restarts ended is left as it was."""
    if not is_polished(settings) or int(result.status) in FAILED or np.asarray(result.spurious).any():
        return result
    states = driver_of(rows).from_mixture(result.mixture, settings)
    states = jax.device_get(states)._replace(n_steps=np.asarray(result.n_steps)[None])
    histories = np.asarray(result.history)[None]
    states, histories = polished(states, histories, rows, settings, observer)
    found = best(states, histories, settings.floor, length=histories.shape[1])
    count = result.mixture.n_components
    found = trimmed(found, count) if found.mixture.n_components > count else found
    return replace(found, restarts=result.restarts, escapes=result.escapes)


def _ascended(
    few: em.State, lines: np.ndarray, rows: Rows, tight: em.Settings, n_runs: int, observer: Observer
) -> tuple[em.State, np.ndarray]:
    n_before = np.array(few.n_steps)
    ends = driver_of(rows).ascended(few, tight, n_runs, observer)
    n_after = n_before + np.array([np.count_nonzero(~np.isnan(each.line)) for each in ends])
    lines = padded(lines, min(int(n_after.max()) + 1, HISTORY))
    for line, first, each in zip(lines, n_before, ends, strict=True):
        _append(line, first, each.line)
    found = [ended(each) for each in ends]
    states = jax.tree.map(lambda *leaves: np.stack(leaves), *found)._replace(**_unknown(few))
    if observer.is_interrupted:
        states = unfinished(states, np.array([not each.is_done for each in ends]))
    return states, lines


def _unknown(states: em.State) -> dict[str, None]:
    """What these states do not carry from step to step, but their continuations do."""
    return {name: None for name in ("ridge_trace", "is_far") if getattr(states, name) is None}


def _long_enough(histories: Any, lines: np.ndarray) -> Any:
    return padded(np.asarray(histories), lines.shape[1]) if histories.shape[1] < lines.shape[1] else histories


def _ranks(states: em.State, settings: em.Settings) -> np.ndarray:
    """Objectives by which sound runs compete, −inf for others. -> (R,)."""
    is_spiked = spurious_on_host(states, settings.floor).any(axis=1)
    return np.where(is_spiked, -np.inf, _snapshot(states).ranks())


def _snapshot(states: em.State) -> Snapshot:
    return Snapshot(*(np.array(leaf) for leaf in (states.objective, states.status, states.n_steps)))


def _are_same(mixtures: Mixture, run: int, other: int) -> bool:
    """Whether two runs stand near the same optimum, by the other's standard deviations. Of host mixtures (R, ...)."""
    one, two = (jax.tree.map(lambda leaf, run=run: leaf[run], mixtures) for run in (run, other))
    there = np.isfinite(two.log_weights)
    within = np.sqrt(np.diagonal(two.scales.weighted_sum(np.exp(two.log_weights))))
    apart = np.abs(one.means[np.isfinite(one.log_weights)][:, None] - two.means[there]) / within
    near = apart.max(axis=-1) < SAME
    return bool(near.any(axis=1).all() and near.any(axis=0).all())

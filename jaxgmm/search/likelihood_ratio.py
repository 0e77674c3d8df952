"""The bootstrapped likelihood-ratio test of the number of components."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from .._base import check
from .._base.mesh import outside_meshes
from .._base.precision import precision_for
from .._base.status import FAILED
from ..families import Family
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.door import admit
from ..rows.options import RowOptions, Workload
from . import _check
from .bootstrap import settled
from .fit import search
from .observer import Interrupt, Observer, saying_what_is_lost, warn_of_interrupt
from .plan import Plan
from .progress import Count, listening
from .result import FitResult


@dataclass(frozen=True)
class LikelihoodRatio:
    """A test of K components against K + 1, and the statistics from which its p-value is computed."""

    statistic: float  # 2 (log L of K + 1 components − log L of K), totals in nats; NaN if a fit is not sound
    p_value: float  # NaN if the statistic is, or if all replicates are
    replicates: np.ndarray  # (B,): the statistic of each sample from the fit with K; NaN if a fit is not sound
    n_components: int  # K
    family: str

    @property
    def n_failed(self) -> int:
        """Number of replicates with a fit that failed or stands on the ridge. The p-value leaves them out."""
        return int(np.sum(np.isnan(self.replicates)))

    def __repr__(self) -> str:
        k, of = self.n_components, len(self.replicates)
        return (
            f"LikelihoodRatio: {k} against {k + 1} components of family {self.family!r}: statistic "
            f"{self.statistic:.3f}, p-value {self.p_value:.4g} by {of} replicates, {self.n_failed} of them failed"
        )


def likelihood_ratio_test(
    key: Array,
    x: Any,
    n_components: int,
    family: str | Family = "full",
    n_replicates: int = 99,
    *,
    n_restarts: int = 8,
    tol: float | None = None,
    max_steps: int = 1000,
    ridge: float = 1e-6,
    acceleration: str | None = None,
    escape: str | None = None,
    polish: bool = True,
    chunk_size: int | None = None,
    dtype: Any = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> LikelihoodRatio:
    """Whether rows x (N, D) call for K + 1 components rather than K, by a parametric bootstrap (McLachlan 1987).

    The statistic, 2 (log L_{K+1} − log L_K) with the best of R fits for each, has no known distribution: under K
    components the larger mixture is not identified. So B samples of N rows are drawn from the fit with K and fitted in
    the same way; the p-value is (1 + the number of them whose statistic is at least as large) / (1 + B). The rows of a
    sample all have weight 1, so those of x must too: sample weights are not supported, except that `Batches` may have
    rows of weight 0, which count as none.

    The statistics of the rows and of the samples come from the same search: as many starts, drawn in the same way, run
    to the same tolerance. So with K components they are exchangeable, but for the parameters being estimated, and
    p-values are uniform even where searches miss the best optimum. (They are too large where some of the K components
    cannot be told apart.) The mixture that samples are drawn from is no start for them: the rows have none like it, and
    p-values would be too small. What a search misses costs power: take `n_restarts` so large that more change nothing,
    or escape="split-merge" (see `fit`). Statistics are clipped at 0, since the larger mixture nests the smaller; a
    sample's that equals the rows' counts as larger.

    A fit is sound unless it failed or has a component on the ridge (`spurious`), where the likelihood depends on the
    ridge and not on the rows. A search takes such a run only if it has no other.

    key: a JAX random key. x: an array, or `Batches` without weights; what `fit` reads in blocks is read into memory.
    n_components: K. n_replicates: B. n_restarts: R, for each fit. tol: as for `fit`, in nats of the mean; if None,
    1e-3, from where the best fits are polished (see `fit`), or with polish=False a change of 1e-4 nats of the total. In
    float32 the statistic has an error of about 1e-6 · N: use float64 past some ten thousand rows. progress: True for a
    bar on standard error, or a function that is called with (done, B) after each replicate. Everything else as for
    `fit`.

    Ctrl-C ends the work early: the p-value is then by the samples that are done, with a warning; NaN before the first.
    Where the statistic itself is not there yet, it is a KeyboardInterrupt.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is fitted; after that
    never: replicates with a fit that is not sound are NaN, and are left out and counted.
    """
    check.random_key(key)
    n_replicates = check.count(n_replicates, "n_replicates", least=1)
    _check.progress(progress)
    plan = Plan.of(
        n_components,
        family,
        n_restarts=n_restarts,
        init="k-means++",
        tol=1e-3 if tol is None else tol,
        max_steps=max_steps,
        ridge=ridge,
        acceleration=acceleration,
        escape=escape,
        polish=polish,
    )
    n_components, n_restarts = plan.n_components, plan.search.n_restarts
    with outside_meshes(), saying_what_is_lost("The test"):
        batches = admit(x, RowOptions(None, chunk_size, dtype), Workload(n_components + 1, n_restarts))
    n_rows = rows_check.unweighted(batches.row_weights())
    rows_check.enough_rows(n_rows, None, n_components + 1)
    if not plan.search.polish:
        plan = replace(plan, settings=replace(plan.settings, tol=settled(tol, n_rows)))
    plan = plan.for_rows(batches)

    def statistic(key: Array, batches: Batches) -> tuple[float, Mixture]:
        """The statistic of the user's rows or of a sample, and their best fit of K components."""
        with outside_meshes(), precision_for(batches.dtype):
            smaller, larger = both_fits(key, batches, plan)
        gain = _log_likelihood(larger) - _log_likelihood(smaller)
        return float(np.maximum(0.0, 2.0 * n_rows * gain)), smaller.mixture

    of_rows, of_samples = jax.random.split(key)
    with saying_what_is_lost("The test"):
        observed, null = statistic(of_rows, batches)
    replicates = np.full(n_replicates, np.nan)
    tell = (lambda now: progress(now.n_done, now.n_parts)) if callable(progress) else progress
    observer, index = Observer(interrupt=Interrupt()), 0
    with observer.heeding(), listening(tell, None) as listener:
        for index in range(n_replicates):
            of_sample, of_fits = jax.random.split(jax.random.fold_in(of_samples, index))
            with outside_meshes():
                sample = Batches.of(null.sample(of_sample, n_rows), chunk_size=batches.chunk_size, dtype=batches.dtype)
            replicates[index], _ = statistic(of_fits, sample)
            if listener is not None:
                listener(Count(index + 1, n_replicates, "samples"))
    if observer.is_interrupted:
        replicates = replicates[:index]
        what_for = "and the p-value is by those" if index else "so there is no p-value"
        warn_of_interrupt(f"of {n_replicates} samples {index} are done, {what_for}.")
    sound = replicates[~np.isnan(replicates)]
    # There is no p-value if a fit to the rows themselves is not sound, or if none to the samples are.
    has_failed = np.isnan(observed) or not len(sound)
    p_value = np.nan if has_failed else (1 + np.sum(sound >= observed)) / (1 + len(sound))
    return LikelihoodRatio(observed, float(p_value), replicates, n_components, plan.family.name)


def both_fits(key: Array, batches: Batches, plan: Plan) -> tuple[FitResult, FitResult]:
    """The best fits of K and of K + 1 components. All that they depend on is here, so that rows and samples get the
    same search. plan: a single fit's, with K components."""
    of_smaller, of_larger = jax.random.split(key)
    # All starts with K = 1 converge to the same fit.
    n_restarts = 1 if plan.n_components == 1 else plan.search.n_restarts
    smaller = replace(plan, search=plan.search._replace(n_restarts=n_restarts))
    larger = replace(plan, counts=(plan.n_components + 1,))
    return search(of_smaller, batches, smaller), search(of_larger, batches, larger)


def _log_likelihood(result: FitResult) -> float:
    """Mean log-likelihood, nats; NaN for a fit that failed or stands on the ridge."""
    is_sound = int(result.status) not in FAILED and not np.asarray(result.spurious).any()
    return float(result.objective) if is_sound else np.nan

"""What a call of `fit` is asked for: an estimator's parameters and rows, checked, as the plan of a search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from .._base.memory import own
from .._base.mesh import one_copy_of
from .._base.precision import precision_for
from .._base.programs import program
from .._base.status import Status, explain
from ..families import Family, is_matrix_shape, shown_shape
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows.conversion import observations
from ..rows.door import head_of, in_batches
from ..rows.names import names_of
from ..rows.options import RowOptions, Workload
from ..rows.rows import Rows
from ..rows.shares import is_sharded
from ..search.fingerprint import digest
from ..search.fixed_start import NOTHING_FIXED, FixedStart
from ..search.plan import Plan
from ..search.result import FitResult
from ..search.unresolved import decided_by_rounding
from . import _check, _sklearn
from ._arrays import column_names, named
from ._evaluating import placed

SKLEARN_INITS = {
    "kmeans": "k-means",
    "k-means++": "k-means++",
    "random": "random_responsibilities",
    "random_from_data": "random_rows",
}
"""scikit-learn's names for `init_params`, mapped to ours. Ours are accepted too."""

CALLED = {"families": "covariance_type", "n_restarts": "n_init", "max_steps": "max_iter"}
"""Arguments of a `Plan`, mapped to scikit-learn's names."""


class Task(NamedTuple):
    """A call of `fit`, checked as far as it can be before its rows are placed."""

    plan: Plan
    x: Any  # rows (N, D), an array; or what is read in blocks
    head: Any  # rows (n, D) of the shape and dtype that x has: x itself, or its first row
    names: np.ndarray | None  # (D,) of the columns
    key: Array
    fixed: FixedStart
    is_apart: bool  # whether this process may hold only part of the rows: then they are checked where they are read

    @property
    def dtype(self) -> Any:
        return self.plan.rows.dtype

    def continuing(self, mixture: Mixture) -> Task:
        """The same, from the mixture of the last fit."""
        _check.same_mixture(mixture, self.plan.n_components, self.head.shape[1], self.plan.family)
        return self._replace(plan=self.plan.beginning_with(mixture), fixed=NOTHING_FIXED)

    def together(self) -> AbstractContextManager[None]:
        """A context for the search, as `Plan.together`."""
        if self.plan.rows.device is None and not is_sharded(self.head):
            return nullcontext()
        return self.plan.together(self.key, self.head, "GaussianMixture.fit", fixed=digest(self.fixed))

    def admit(self, estimator: Any) -> Rows:
        """The rows, where the estimator's device or the plan has them."""
        if self.is_apart:
            return self.plan.admit(self.key, self.x)
        n_runs = self.plan.search.n_restarts
        work = Workload(self.plan.n_components, n_runs, None if self.plan.settings.acceleration else n_runs)
        return in_batches(one_copy_of(placed(estimator, self.x)), self.plan.rows, work)


def task_of(estimator: Any, X: Any, sample_weight: Any) -> Task:
    """The task of fitting an estimator to rows X (N, D). ValueError or TypeError for invalid parameters and data."""
    _check.parameters(estimator)
    plan = Plan.of(
        estimator.n_components,
        estimator.covariance_type,
        n_restarts=estimator.n_init,
        init=_check.init_params(estimator.init_params, SKLEARN_INITS),
        tol=estimator.tol,
        max_steps=estimator.max_iter,
        ridge=estimator.reg_covar,
        relative_ridge=estimator.relative_ridge,
        acceleration=estimator.acceleration,
        stopping=estimator.stopping,
        race=estimator.race,
        escape=estimator.escape,
        polish=estimator.polish,
        called=CALLED,
    )
    chunk_size = rows_check.chunk_size(estimator.chunk_size)
    first = head_of(X, sample_weight)
    head = observations(X) if first is None else first.rows
    is_everywhere = isinstance(estimator.device, str) and estimator.device == "all"
    is_apart = is_everywhere or first is not None or is_sharded(head)
    if not is_apart:
        sample_weight = rows_check.row_weights(sample_weight, len(head))
        rows_check.finite(head, "X", sample_weight, names_of(X))
        rows_check.enough_rows(len(head), sample_weight, plan.n_components)
        if not isinstance(plan.search.init, str):
            _check.own_start(plan.search.init, (len(head), head.shape[1]), plan.n_components, plan.family)
    names = column_names(X) if first is None else named(first.names)
    dtype = _check.dtype_of(head, estimator.dtype)
    if not is_apart:
        rows_check.within(head, dtype, weights=sample_weight)
    fixed = _fixed_start(estimator, plan.family, head.shape[1], dtype)
    if (whole := fixed.whole(plan.family)) is not None:
        plan = plan.beginning_with(whole)
    key = _check.random_key(estimator.random_state)
    plan = plan.with_rows(RowOptions(sample_weight, chunk_size, dtype, "all" if is_everywhere else None))
    return Task(plan, head if first is None else X, head, names, key, fixed, is_apart)


def require_finite(result: FitResult, n_restarts: int) -> None:
    """ValueError, with scikit-learn's words, where no restart ended with a finite objective."""
    if not np.isfinite(result.objective):
        raise ValueError(
            "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
            "instance caused by singleton or collapsed samples). Try to decrease the number of components, "
            f"increase reg_covar, or scale the input data. None of {n_restarts} restarts ended finite: "
            f"{explain(result.status)}."
        )


def doubts(result: FitResult, plan: Plan) -> Iterator[tuple[str, type[Warning]]]:
    """What a user is to be warned of: a run that did not converge, and a covariance that only rounding decides."""
    status = Status(int(result.status))
    if status != Status.CONVERGED and plan.search.max_steps > 0:
        yield (
            "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
            f"tol, or check for degenerate data. Status {status.name}: {explain(status)}.",
            _sklearn.convergence_warning(),
        )
    faint = np.flatnonzero(decided_by_rounding(result.mixture, plan.settings.ridge))
    if len(faint):
        dtype = result.mixture.means.dtype
        yield (
            f"The covariance of component {', '.join(map(str, faint))} is in some direction little more than the "
            f"rounding errors of {dtype}, in which reg_covar is lost beside the variances: densities are not to be "
            "relied on. Fit in float64, scale the features to unit variance, or enlarge reg_covar.",
            _sklearn.convergence_warning(),
        )


def _fixed_start(estimator: Any, family: Family, n_features: int, dtype: Any) -> FixedStart:
    """The initial parameters that the user fixes, checked, as leaves of a mixture."""
    n_components = estimator.n_components
    with precision_for(dtype):
        weights = means = scales = None
        if estimator.weights_init is not None:
            with np.errstate(divide="ignore"):
                weights = np.log(_check.weights_init(estimator.weights_init, n_components))
            weights = own(weights, dtype)
        if estimator.means_init is not None:
            means = own(_check.means_init(estimator.means_init, n_components, n_features), dtype)
        if estimator.precisions_init is not None:
            shape = shown_shape(family, n_components, n_features)
            is_matrix = is_matrix_shape(family, shape)
            covariances = _check.precisions_init(estimator.precisions_init, shape, is_matrix, family.name)
            scales = _scales_of(own(covariances, dtype), family=family, n_features=n_features)
        return FixedStart(weights, means, scales)


@program(static=("family", "n_features"), hurried=True)
def _scales_of(covariances: Array, *, family: Family, n_features: int) -> Any:
    # As a program: operation by operation it would be a dozen.
    return family.read(covariances, n_features)

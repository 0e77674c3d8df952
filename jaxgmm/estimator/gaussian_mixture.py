"""scikit-learn's interface without scikit-learn: parameters, attributes and array types; no mathematics."""

from __future__ import annotations

import inspect
import warnings
from contextlib import ExitStack
from typing import Any

import numpy as np

from .. import online
from .._base import check
from .._base.mesh import outside_meshes
from .._base.programs import next_power_of_two
from .._base.status import Status
from ..evaluation import labels_of, log_prob_of, responsibilities_of
from ..families import SHELF, Family
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows.conversion import observations
from ..rows.door import admit
from ..rows.options import RowOptions, Workload
from ..search import criteria
from ..search.fit import observer_of, search_or_part
from ..search.observer import saying_what_is_lost
from ..search.race import Race
from ..search.result import FitResult
from . import _check, _sklearn, _state
from ._arrays import as_labels, like, read
from ._evaluating import admitted, computing, evaluated, placed
from ._figures import dtype_within, mean_log_likelihood, number
from ._fitting import doubts, require_finite, task_of
from ._report import Report


class GaussianMixture:
    """A Gaussian mixture with scikit-learn's `GaussianMixture` interface, computed in JAX.

    Parameters, attributes and methods of that class (1.9) keep their names, meanings and shapes. Beyond them:

    covariance_type: any family of `jaxgmm.families.SHELF`, by name or as an object; beyond scikit-learn's four,
    `covariances_` and `precisions_init` are (K, D, D). n_init: restarts, all in one program. init_params:
    scikit-learn's names, or what `init` of `jaxgmm.fit` takes. random_state: an integer, a RandomState, a Generator,
    a JAX key, or None. dtype: if None the data's own, or float64 for integers. chunk_size: rows per chunk.
    device: None for JAX's default, "cpu", "gpu", a JAX device, or "all" (see `jaxgmm.fit`). acceleration: None,
    "squarem", "anderson" or "lbfgs", for fewer iterations if clusters overlap and tol is below 1e-4. stopping: "gain",
    or "aitken", which compares the estimated gain of all further iterations with tol. relative_ridge: added to
    variances like reg_covar, in units of each feature's variance. race: with True (or a `Race`) only the best of n_init
    continue after a short run. escape: "split-merge" tries to leave the local optimum that was found.
    polish: True runs the best of n_init on to their optima (see `jaxgmm.fit`); their iterations count.

    `fit`, `score`, `aic`, `bic` and `icl` take `sample_weight` (N,). Fitted attributes, besides scikit-learn's:
    `mixture_` (a `Mixture`), `result_` (a `FitResult`), `status_` (a `Status`), `effective_counts_` (K,).

    The arrays that show the parameters may be set, in whole or in part, in place or anew, on an estimator that was
    fitted or not: `weights_`, `means_`, and one or all of `covariances_`, `precisions_` and `precisions_cholesky_`, in
    the shapes that `covariance_type` has. So may `mixture_` and `result_`. What was set is read where it is next used,
    and everything shows it from then on; ValueError or TypeError there if it makes no mixture.

    `lower_bound_` is the objective of the fitted parameters: it equals `score(X)`. `lower_bounds_` is its history, one
    entry per iteration. `tol=0` makes exactly `max_iter` iterations.
    """

    weights_: Any  # (K,)
    means_: Any  # (K, D)
    covariances_: Any  # in the shape of covariance_type, as the next two
    precisions_: Any
    precisions_cholesky_: Any
    effective_counts_: Any  # (K,)

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str | Family = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Any = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        dtype: Any = None,
        chunk_size: int | None = None,
        device: Any = None,
        acceleration: str | None = None,
        stopping: str = "gain",
        relative_ridge: float = 0.0,
        race: bool | Race = False,
        escape: str | None = None,
        polish: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.dtype = dtype
        self.chunk_size = chunk_size
        self.device = device
        self.acceleration = acceleration
        self.stopping = stopping
        self.relative_ridge = relative_ridge
        self.race = race
        self.escape = escape
        self.polish = polish

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Fit to rows X (N, D) with weights (N,): an array or data frame, or what `jaxgmm.fit` reads in blocks, such as
        `Blocks`, a path, a dask collection. ValueError or TypeError for invalid arguments and data; a warning
        (scikit-learn's, if it is imported) if the best restart did not converge, or rounding decides a covariance."""
        del y
        task = task_of(self, X, sample_weight)
        with ExitStack() as searching, outside_meshes(), saying_what_is_lost("The fit"), computing(self, task.dtype):
            if self.warm_start and not _state.is_empty(self):
                task = task.continuing(self.mixture_)
            searching.enter_context(task.together())
            rows = task.admit(self)
            plan = task.plan.for_rows(rows)
            report = Report(self.verbose) if self.verbose else None
            observer = observer_of(report, plan, every=self.verbose_interval if report else None)
            result = search_or_part(task.key, rows, plan, observer, task.fixed)
        require_finite(result, plan.search.n_restarts)
        if task.names is not None:
            self.feature_names_in_ = task.names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self._like = like(X)
        self._keep(result)
        for said, category in doubts(result, plan):
            warnings.warn(said, category, stacklevel=2)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and the most probable component of each row; −1 for a row of weight 0 that holds NaN or infinity.
        -> (N,)."""
        self.fit(X, y, sample_weight)
        labels = evaluated(self, X, "predict", labels_of, sample_weight)
        if sample_weight is None:
            return labels
        uncounted = np.flatnonzero(np.asarray(rows_check.row_weights(sample_weight, len(labels))) == 0.0)
        unknown = uncounted[~np.isfinite(np.asarray(observations(X))[uncounted]).all(axis=1)]
        if len(unknown):
            host = np.array(labels)
            host[unknown] = -1
            labels = as_labels(host, like(X))
        return labels

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Update the fit with a batch of rows X (N, D) with weights (N,), which need not be kept afterwards.

        The first call fits, unless there is a fit; each later call makes one step of stepwise EM (see `jaxgmm.online`,
        which has more options). The existing fit counts as one batch. A batch after which the mixture would not be
        usable changes nothing, and warns (RuntimeWarning). After a step `lower_bound_` is that of the batch under the
        mixture before the step, `n_iter_` is the number of batches, and `result_` is removed. `fit` starts over.
        ValueError if n_components or covariance_type has changed since.
        """
        if _state.is_empty(self):
            self.fit(X, y, sample_weight)
            self.stream_ = online.init(self.mixture_)
        else:
            _check.parameters(self)
            X, sample_weight = read(X, sample_weight)
            x, mixture = admitted(self, X, sample_weight), self.mixture_
            family: Family = check.family(self.covariance_type, SHELF, "covariance_type")
            _check.same_mixture(mixture, self.n_components, x.shape[1], family, "partial_fit")
            before = self.stream_ if hasattr(self, "stream_") else online.init(mixture)
            with computing(self, mixture.means.dtype):
                state = online.update(before, placed(self, x), sample_weight, ridge=self.reg_covar)
            if int(state.n_batches) == int(before.n_batches):
                warnings.warn(
                    f"A batch of {len(x)} rows changed nothing: after it the mixture would not be usable, because rows "
                    "are too far from all components. Leave such rows out, scale the data, or use dtype=np.float64.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return self
            for name in ("result_", "lower_bounds_", "effective_counts_"):
                vars(self).pop(name, None)
            self.lower_bound_ = float(state.objective)
            self.status_, self.converged_, self.n_iter_ = Status.RUNNING, False, 1 + int(state.n_batches)
            self.stream_ = state
            _state.show(self, state.mixture)
        return self

    def _keep(self, result: FitResult) -> None:
        """Take over the mixture and the figures of a fit."""
        vars(self).pop("stream_", None)
        vars(self)["result_"] = result
        self.status_ = Status(int(result.status))
        self.converged_ = self.status_ is Status.CONVERGED
        self.n_iter_ = int(result.n_steps)
        self.lower_bound_ = float(result.objective)
        self.lower_bounds_ = [float(v) for v in np.asarray(result.history)[1 : self.n_iter_ + 1]]
        _state.show(self, result.mixture)

    # --- using -------------------------------------------------------------------------------------------------------

    @property
    def mixture_(self) -> Mixture:
        """The mixture that everything is computed from, as the arrays that show it stand now. It may be set."""
        return _state.mixture_of(self)

    @mixture_.setter
    def mixture_(self, mixture: Mixture) -> None:
        _state.assign(self, mixture)

    @mixture_.deleter
    def mixture_(self) -> None:
        _state.delete(self, "mixture_")

    @property
    def result_(self) -> FitResult:
        """The `FitResult` of the last fit. Setting one takes over its mixture and its figures."""
        _state.forget_if_changed(self)
        if "result_" not in vars(self):
            raise AttributeError(
                f"This {type(self).__name__} has no result_: only fit leaves one, and parameters that are set later, "
                "by partial_fit or by hand, remove it."
            )
        return vars(self)["result_"]

    @result_.setter
    def result_(self, result: FitResult) -> None:
        self._keep(_check.result(result, FitResult))

    @result_.deleter
    def result_(self) -> None:
        _state.delete(self, "result_")

    def predict(self, X: Any) -> Any:
        """The most probable component of each row. X (N, D) -> (N,), int64, or JAX's own int for JAX arrays."""
        return evaluated(self, X, "predict", labels_of)

    def predict_proba(self, X: Any) -> Any:
        """Probability of each component given the row. X (N, D) -> (N, K)."""
        return evaluated(self, X, "responsibilities", responsibilities_of)

    def score_samples(self, X: Any) -> Any:
        """Log-density of each row, nats. X (N, D) -> (N,)."""
        return evaluated(self, X, "log_prob", log_prob_of)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-likelihood, nats per unit of weight."""
        del y
        return number(self._mean(X, sample_weight)[0])

    def _mean(self, X: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Mean log-likelihood, nats per unit of weight, and total weight."""
        X, sample_weight = read(X, sample_weight)
        log_prob = evaluated(self, X, "log_prob", log_prob_of, sample_weight)
        return mean_log_likelihood(log_prob, rows_check.row_weights(sample_weight, log_prob.shape[0]))

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike's criterion: smaller is better. With weights, their sum is used as N."""
        mean, weight = self._mean(X, sample_weight)
        return number(criteria.aic(mean * weight, self._n_parameters()))

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Schwarz's criterion: smaller is better. With weights, their sum is used as N."""
        mean, weight = self._mean(X, sample_weight)
        return number(criteria.bic(mean * weight, self._n_parameters(), weight))

    def icl(self, X: Any, sample_weight: Any = None, kind: str = "soft") -> float:
        """Integrated completed likelihood: bic + 2 · entropy of the responsibilities; smaller is better.

        kind "hard" counts the most probable component only, as mclust does. Biernacki, Celeux and Govaert 2000.
        """
        X, sample_weight = read(X, sample_weight)
        mixture, x = self.mixture_, admitted(self, X, sample_weight)
        dtype = dtype_within(mixture, (x, sample_weight))
        with computing(self, dtype):
            batches = admit(x, RowOptions(sample_weight, rows_check.chunk_size(self.chunk_size), dtype), Workload(1))
            entropy = number(criteria.entropy(mixture, batches, kind))
        return self.bic(X, sample_weight) + 2.0 * entropy

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Random rows of the fitted mixture. -> X (n, D), y (n,), the component of each."""
        mixture = self.mixture_
        try:
            n_samples = check.count(n_samples, "n_samples", least=1)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Invalid value for 'n_samples': {n_samples}. {error}") from None
        size = next_power_of_two(n_samples)  # so that other sizes nearby reuse the program
        with computing(self, mixture.means.dtype):
            drawn = mixture.sample(_check.random_key(self.random_state), size, return_labels=True)
            x, labels = (np.asarray(part)[:n_samples] for part in drawn)
        return self._like(x), as_labels(labels, self._like)

    def _n_parameters(self) -> int:
        return criteria.n_parameters(self.mixture_)

    def __getstate__(self) -> dict[str, Any]:
        return _state.packed(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        _state.unpack(self, state, self._defaults())

    # --- scikit-learn's protocol -------------------------------------------------------------------------------------

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        signature = inspect.signature(cls.__init__).parameters
        return {name: signature[name].default for name in cls._parameter_names()}

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return sorted(name for name in inspect.signature(cls.__init__).parameters if name != "self")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters by name."""
        del deep
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> GaussianMixture:
        """Change parameters by name. ValueError for a name that the constructor does not have."""
        for name in params:
            if name not in self._parameter_names():
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self}. "
                    f"Valid parameters are: {self._parameter_names()!r}."
                )
        vars(self).update(params)
        return self

    def __repr__(self) -> str:
        defaults = self._defaults()
        shown = [f"{k}={v!r}" for k, v in self.get_params().items() if repr(v) != repr(defaults[k])]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_tags__(self) -> Any:
        return _sklearn.density_tags()

    def get_metadata_routing(self) -> Any:
        """For scikit-learn's metadata routing."""
        return _sklearn.metadata_request(type(self).__name__)

    def to_sklearn(self) -> Any:
        """The fitted mixture as scikit-learn's estimator. It must be installed; other families become `full`."""
        mixture = self.mixture_
        known = mixture.family.name in _sklearn.COVARIANCE_TYPES
        covariances = np.asarray(self.covariances_ if known else mixture.covariances)
        precisions, factors = _state.precisions_of(covariances.astype(np.float64), mixture)
        arrays = {
            "weights_": np.asarray(self.weights_),
            "means_": np.asarray(self.means_),
            "covariances_": covariances,
            "precisions_": precisions.astype(covariances.dtype),
            "precisions_cholesky_": factors.astype(covariances.dtype),
        }
        return _sklearn.to_sklearn(self, mixture.n_components, mixture.family.name if known else "full", arrays)

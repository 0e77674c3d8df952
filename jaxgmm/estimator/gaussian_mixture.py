"""scikit-learn's interface without scikit-learn: parameters, attributes and array types; no mathematics."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import online
from .._base import check
from .._base.memory import own
from .._base.precision import is_traced, precision_for
from .._base.programs import next_power_of_two
from .._base.status import Status, explain
from ..evaluation import evaluate, evaluate_few, is_few, labels_of, log_prob_of, responsibilities_of
from ..families import SHELF, Family, is_matrix_shape, shown_shape
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows.chunks import cut
from ..rows.door import admit, in_batches
from ..rows.sizes import choose_chunk_size
from ..rows.units import from_unit, scaled
from ..search import criteria
from ..search.fit import observer_of, search
from ..search.fixed_start import NOTHING_FIXED, FixedStart
from ..search.plan import Plan, RowOptions
from ..search.progress import Progress
from ..search.race import Race
from . import _check, _sklearn
from ._arrays import column_names, like

SKLEARN_INITS = {
    "kmeans": "k-means",
    "k-means++": "k-means++",
    "random": "random_responsibilities",
    "random_from_data": "random_rows",
}
"""scikit-learn's names for `init_params`, mapped to ours. Ours are accepted too."""

CALLED = {"n_restarts": "n_init", "max_steps": "max_iter"}
"""Arguments of a `Plan`, mapped to scikit-learn's names."""

SHOWN = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "effective_counts_")
"""The fitted attributes that show `mixture_` and `result_` as the user's kind of array."""


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

    `fit`, `score`, `aic`, `bic` and `icl` take `sample_weight` (N,). Fitted attributes, besides scikit-learn's:
    `mixture_` (a `Mixture`), `result_` (a `FitResult`), `status_` (a `Status`), `effective_counts_` (K,).

    `lower_bound_` is the objective of the fitted parameters: it equals `score(X)`. `lower_bounds_` is its history, one
    entry per iteration. `tol=0` makes exactly `max_iter` iterations.
    """

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

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Fit to rows X (N, D) with weights (N,). ValueError or TypeError for invalid arguments and data; a warning
        (scikit-learn's, if it is imported) if the best restart did not converge."""
        del y
        plan = Plan.of(
            self.n_components,
            self.covariance_type,
            n_restarts=self.n_init,
            init=_check.init_params(self.init_params, SKLEARN_INITS),
            tol=self.tol,
            max_steps=self.max_iter,
            ridge=check.nonnegative(self.reg_covar, "reg_covar"),
            relative_ridge=self.relative_ridge,
            acceleration=self.acceleration,
            stopping=self.stopping,
            race=self.race,
            escape=self.escape,
            called=CALLED,
        )
        check.count(self.verbose_interval, "verbose_interval", least=1)
        chunk_size = rows_check.chunk_size(self.chunk_size)
        n_components, family = plan.n_components, plan.family

        x = rows_check.observations(X)
        is_everywhere = isinstance(self.device, str) and self.device == "all"
        if not is_everywhere:  # else this process may hold only part of the rows: they are checked together
            sample_weight = rows_check.row_weights(sample_weight, len(x))
            rows_check.finite(x, weights=sample_weight)
            rows_check.enough_rows(len(x), sample_weight, n_components)
        names = column_names(X)
        dtype = _check.dtype_of(x, self.dtype)
        if not is_everywhere:
            rows_check.within(x, dtype, weights=sample_weight)
        fixed = self._fixed_start(family, x.shape[1], dtype)
        if (whole := fixed.whole(family)) is not None:
            plan = plan.beginning_with(whole)
        key = _check.random_key(self.random_state)

        with self._computing(dtype):
            if self.warm_start and hasattr(self, "mixture_"):
                _check.same_mixture(self.mixture_, n_components, x.shape[1], family)
                plan, fixed = plan.beginning_with(self.mixture_), NOTHING_FIXED
            if is_everywhere:
                batches = plan.with_rows(RowOptions(sample_weight, chunk_size, dtype, "all")).admit(key, x)
            else:
                n_lanes = plan.search.n_restarts
                n_runs = None if self.acceleration else n_lanes
                batches = in_batches(self._place(x), sample_weight, n_components, n_lanes, chunk_size, dtype, n_runs)
            report = _Report(self.verbose) if self.verbose else None
            plan = plan.for_rows(batches)
            observer = observer_of(report, plan, every=self.verbose_interval if report else None)
            result = search(key, batches, plan, observer, fixed)
        if not np.isfinite(result.objective):
            raise ValueError(
                "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
                "instance caused by singleton or collapsed samples). Try to decrease the number of components, "
                f"increase reg_covar, or scale the input data. None of {plan.search.n_restarts} restarts ended finite: "
                f"{explain(result.status)}."
            )
        self.n_features_in_ = int(x.shape[1])
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self._like = like(X)
        self._keep(result, plan.search.max_steps)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and the most probable component of each row. -> (N,)."""
        return self.fit(X, y, sample_weight).predict(X)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Update the fit with a batch of rows X (N, D) with weights (N,), which need not be kept afterwards.

        The first call fits, unless there is a fit; each later call makes one step of stepwise EM (see `jaxgmm.online`,
        which has more options). The existing fit counts as one batch. After a step `lower_bound_` is that of the batch
        under the mixture before the step, `n_iter_` is the number of batches, and `result_` is removed. `fit` starts
        over. ValueError if n_components or covariance_type has changed since.
        """
        if not hasattr(self, "mixture_"):
            self.fit(X, y, sample_weight)
            self.stream_ = online.init(self.mixture_)
        else:
            x = self._admit(X)
            n_components = check.count(self.n_components, "n_components", least=1)
            family: Family = check.family(self.covariance_type, SHELF)
            _check.same_mixture(self.mixture_, n_components, x.shape[1], family, "partial_fit")
            before = self.stream_ if hasattr(self, "stream_") else online.init(self.mixture_)
            with self._computing(self.mixture_.means.dtype):
                ridge = check.nonnegative(self.reg_covar, "reg_covar")
                state = online.update(before, self._place(x), sample_weight, ridge=ridge)
            for name in ("result_", "lower_bounds_", "effective_counts_"):
                vars(self).pop(name, None)
            self.mixture_, self.lower_bound_ = state.mixture, float(state.objective)
            self.status_, self.converged_, self.n_iter_ = Status.RUNNING, False, 1 + int(state.n_batches)
            self.stream_ = state
            self._show()
        return self

    def _keep(self, result: Any, max_iter: int) -> None:
        vars(self).pop("stream_", None)
        self.result_ = result
        self.mixture_ = result.mixture
        self.status_ = Status(int(result.status))
        self.converged_ = self.status_ is Status.CONVERGED
        self.n_iter_ = int(result.n_steps)
        self.lower_bound_ = float(result.objective)
        self.lower_bounds_ = [float(v) for v in np.asarray(result.history)[1 : self.n_iter_ + 1]]
        self._show()
        if not self.converged_ and max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, or increase "
                f"max_iter, tol, or check for degenerate data. Status {self.status_.name}: {explain(self.status_)}.",
                _sklearn.convergence_warning(),
                stacklevel=3,
            )

    def _show(self) -> None:
        """Set the attributes with the mixture's parameters, in scikit-learn's shapes and the data's kind of array."""
        mixture, convert = self.mixture_, self._like
        # On the host, where a few numbers need no compiled program.
        shown = np.asarray(mixture.family.show(jax.tree.map(np.asarray, mixture.scales), mixture.n_components))
        precisions, factors = _precisions(np.asarray(shown, np.float64), mixture)
        self.weights_ = convert(mixture.weights)
        self.means_ = convert(mixture.means)
        self.covariances_ = convert(shown)
        self.precisions_ = convert(precisions.astype(shown.dtype))
        self.precisions_cholesky_ = convert(factors.astype(shown.dtype))
        if hasattr(self, "result_"):  # not after from_sklearn
            self.effective_counts_ = convert(self.result_.effective_counts)

    def _fixed_start(self, family: Family, n_features: int, dtype: Any) -> FixedStart:
        """The initial parameters that the user fixes, checked, as leaves of a mixture."""
        n_components = self.n_components
        with precision_for(dtype):
            weights = means = scales = None
            if self.weights_init is not None:
                weights = jnp.log(own(_check.weights_init(self.weights_init, n_components), dtype))
            if self.means_init is not None:
                means = own(_check.means_init(self.means_init, n_components, n_features), dtype)
            if self.precisions_init is not None:
                shape = shown_shape(family, n_components, n_features)
                is_matrix = is_matrix_shape(family, shape)
                covariances = _check.precisions_init(self.precisions_init, shape, is_matrix, family.name)
                scales = family.read(own(covariances, dtype), n_features)
            return FixedStart(weights, means, scales)

    # --- using -------------------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> Any:
        """The most probable component of each row. X (N, D) -> (N,) int."""
        return self._evaluate(X, labels_of)

    def predict_proba(self, X: Any) -> Any:
        """Probability of each component given the row. X (N, D) -> (N, K)."""
        return self._evaluate(X, responsibilities_of)

    def score_samples(self, X: Any) -> Any:
        """Log-density of each row, nats. X (N, D) -> (N,)."""
        return self._evaluate(X, log_prob_of)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Mean log-likelihood, nats per unit of weight. X (N, D) -> ()."""
        del y
        log_prob = self.score_samples(X)
        sample_weight = rows_check.row_weights(sample_weight, len(log_prob))
        if is_traced((log_prob, sample_weight)):
            sample_weight, _ = scaled(sample_weight, log_prob.dtype)
            return jnp.average(log_prob, weights=sample_weight)
        mean, _ = _mean_log_likelihood(log_prob, sample_weight)
        return np.asarray(log_prob).dtype.type(mean)

    def _total(self, X: Any, sample_weight: Any) -> tuple[float, float]:
        """Log-likelihood (nats) and total weight."""
        log_prob = self.score_samples(X)
        mean, weight = _mean_log_likelihood(log_prob, rows_check.row_weights(sample_weight, len(log_prob)))
        return mean * weight, weight

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike's criterion: smaller is better. With weights, their sum is used as N."""
        log_likelihood, _ = self._total(X, sample_weight)
        return criteria.aic(log_likelihood, self._n_parameters())

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Schwarz's criterion: smaller is better. With weights, their sum is used as N."""
        log_likelihood, weight = self._total(X, sample_weight)
        return criteria.bic(log_likelihood, self._n_parameters(), weight)

    def icl(self, X: Any, sample_weight: Any = None, kind: str = "soft") -> float:
        """Integrated completed likelihood: bic + 2 · entropy of the responsibilities; smaller is better.

        kind "hard" counts the most probable component only, as mclust does. Biernacki, Celeux and Govaert 2000.
        """
        self._check_fitted()
        x = self._admit(X)
        with self._computing(self.mixture_.means.dtype):
            batches = admit(x, sample_weight, 1, 1, self.chunk_size, self.mixture_.means.dtype)
            entropy = float(criteria.entropy(self.mixture_, batches, kind))
        return self.bic(X, sample_weight) + 2.0 * entropy

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Random rows of the fitted mixture. -> X (n, D), y (n,), the component of each."""
        self._check_fitted()
        try:
            n_samples = check.count(n_samples, "n_samples", least=1)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Invalid value for 'n_samples': {n_samples}. {error}") from None
        size = next_power_of_two(n_samples)  # so that other sizes nearby reuse the program
        with self._computing(self.mixture_.means.dtype):
            x, labels = self.mixture_.sample(_check.random_key(self.random_state), size, return_labels=True)
            return self._like(np.asarray(x)[:n_samples]), self._like(np.asarray(labels)[:n_samples])

    def _n_parameters(self) -> int:
        return criteria.n_parameters(self.mixture_)

    def _evaluate(self, X: Any, consume: Any) -> Any:
        self._check_fitted()
        x = self._admit(X)
        mixture = self.mixture_
        dtype = mixture.means.dtype
        if is_traced(x):  # inside a user's transformation JAX's x64 switch decides
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        if self.chunk_size is None and is_few(mixture, x):
            found = evaluate_few(mixture, x).by(consume)
            if not isinstance(X, jax.Array):
                return like(X)(found)
            with precision_for(found.dtype):
                return jax.device_put(found, X.sharding if X.committed else None)
        with self._computing(dtype):
            size = self.chunk_size or choose_chunk_size(mixture.n_features, mixture.n_components, dtype.itemsize)
            chunks = cut(self._place(x), min(size, next_power_of_two(len(x))), dtype)
            result = evaluate(mixture, chunks, consume=consume)
            if isinstance(X, jax.Array):
                return result.reshape(-1, *result.shape[2:])[: len(x)]
        host = np.asarray(result)
        return like(X)(host.reshape(-1, *host.shape[2:])[: len(x)])

    def _admit(self, X: Any) -> Any:
        """Rows to evaluate, checked against what was fitted."""
        x = rows_check.observations(X)
        _check.feature_names(column_names(X), getattr(self, "feature_names_in_", None), type(self).__name__)
        _check.feature_count(x.shape[1], self.n_features_in_, type(self).__name__)
        rows_check.finite(x)
        return x

    def _check_fitted(self) -> None:
        if not hasattr(self, "mixture_"):
            raise _sklearn.not_fitted_error()(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )

    @contextmanager
    def _computing(self, dtype: Any) -> Iterator[None]:
        """A context for one call: float64 if asked for, and the user's device."""
        device = _check.device(self.device)
        with precision_for(dtype), jax.default_device(device) if device is not None else nullcontext():
            yield

    def _place(self, x: np.ndarray | Array) -> np.ndarray | Array:
        device = _check.device(self.device)
        return jax.device_put(x, device) if device is not None and isinstance(x, jax.Array) else x

    def __getstate__(self) -> dict[str, Any]:
        """Without the attributes that `_show` recreates: float64 JAX arrays would be unpickled as float32."""
        return {name: value for name, value in vars(self).items() if name not in SHOWN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if hasattr(self, "mixture_"):
            self._show()

    # --- scikit-learn's protocol -------------------------------------------------------------------------------------

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
        defaults = {name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()}
        shown = [f"{k}={v!r}" for k, v in self.get_params().items() if repr(v) != repr(defaults[k])]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_tags__(self) -> Any:
        return _sklearn.density_tags()

    def get_metadata_routing(self) -> Any:
        """For scikit-learn's metadata routing."""
        return _sklearn.metadata_request(type(self).__name__)

    def to_sklearn(self) -> Any:
        """The fitted mixture as scikit-learn's estimator. It must be installed; other families become `full`."""
        self._check_fitted()
        family = self.mixture_.family
        known = family.name in ("full", "tied", "diag", "spherical")
        covariances = np.asarray(self.covariances_ if known else self.mixture_.covariances)
        precisions, factors = _precisions(covariances.astype(np.float64), self.mixture_)
        arrays = {
            "weights_": np.asarray(self.weights_),
            "means_": np.asarray(self.means_),
            "covariances_": covariances,
            "precisions_": precisions.astype(covariances.dtype),
            "precisions_cholesky_": factors.astype(covariances.dtype),
        }
        return _sklearn.to_sklearn(self, family.name if known else "full", arrays)


def from_sklearn(estimator: Any) -> GaussianMixture:
    """A fitted scikit-learn `GaussianMixture` as ours, in its dtype. ValueError if it is not fitted.

    Attributes that only our own fit has (`result_`, `effective_counts_`) are missing.
    """
    if not hasattr(estimator, "means_"):
        raise ValueError(f"{estimator!r} is not fitted: there is nothing to take over. Call its fit first.")
    names = set(GaussianMixture._parameter_names()) & set(estimator.get_params())
    ours = GaussianMixture(**{name: getattr(estimator, name) for name in names})
    weights, means, covariances = (np.asarray(getattr(estimator, n)) for n in ("weights_", "means_", "covariances_"))
    ours.mixture_ = Mixture.create(weights, means, covariances, estimator.covariance_type, dtype=means.dtype)
    ours._like = np.array
    ours._show()
    ours.status_ = Status.CONVERGED if estimator.converged_ else Status.MAX_STEPS
    for name in ("n_features_in_", "feature_names_in_", "converged_", "n_iter_", "lower_bound_", "lower_bounds_"):
        if hasattr(estimator, name):
            setattr(ours, name, getattr(estimator, name))
    return ours


class _Report:
    """scikit-learn's `verbose` output: at the start, every few iterations and at the end; with times from level 2."""

    def __init__(self, verbose: int) -> None:
        self.verbose = verbose
        self.began = self.last = time.perf_counter()
        self.before = -np.inf
        self.is_first = True

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        if self.is_first:
            self.is_first = False
            print(f"Initialization of {progress.n_restarts} restarts")
        elif progress.n_running:
            change = f"\t time lapse {now - self.last:.5f}s\t ll change {progress.objective - self.before:.5f}"
            print(f"  Iteration {progress.n_steps}" + (change if self.verbose >= 2 else ""))
        if not progress.n_running:
            tail = (
                f". time lapse {now - self.began:.5f}s\t lower bound {progress.objective:.5f}."
                if self.verbose >= 2
                else "."
            )
            print(f"Finished after {progress.n_steps} iterations{tail}")
        self.last, self.before = now, progress.objective


def _mean_log_likelihood(log_prob: Any, sample_weight: Any) -> tuple[float, float]:
    """Σ weight · log_prob / Σ weight, in float64 whatever the dtype of log_prob, and Σ weight."""
    host = np.asarray(log_prob, np.float64)
    weights, exponent = scaled(sample_weight, np.float64)
    weights = np.ones_like(host) if weights is None else np.asarray(weights, np.float64)
    total = np.sum(weights)
    return float(np.sum(weights * host, where=weights > 0.0) / total), float(from_unit(total, exponent))


def _precisions(covariances: np.ndarray, mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Precisions and their Cholesky factors (P = U Uᵀ, U upper triangular) in the shape of the covariances."""
    if not is_matrix_shape(mixture.family, covariances.shape):
        return 1.0 / covariances, 1.0 / np.sqrt(covariances)
    # From the factors that are kept: the product of two float32 factors may be rounded to what is not definite.
    kept = jax.tree.map(np.asarray, mixture.scales)
    factors = np.asarray(kept.as_dense().factor, np.float64) if hasattr(kept, "as_dense") else None
    factors = np.linalg.cholesky(covariances) if factors is None else factors
    inverse = np.linalg.inv(np.broadcast_to(factors, covariances.shape) if covariances.ndim == 3 else factors[0])
    upper = np.swapaxes(inverse, -1, -2)
    return np.matmul(upper, inverse), upper

"""All code that depends on scikit-learn, which is imported only if the user has imported it or asks for it."""

from __future__ import annotations

import sys
from typing import Any


class ConvergenceWarning(UserWarning):
    """A fit stopped before it converged. If scikit-learn is imported, its warning of that name is used instead."""


class NotFittedError(ValueError, AttributeError):
    """An estimator was used before `fit`. If scikit-learn is imported, its error of that name is used instead."""


def convergence_warning() -> type[Warning]:
    """The warning class: scikit-learn's, which code written for it filters on, if it is imported; else ours."""
    exceptions = sys.modules.get("sklearn.exceptions")
    return exceptions.ConvergenceWarning if exceptions else ConvergenceWarning


def not_fitted_error() -> type[Exception]:
    """The error class: scikit-learn's, which code written for it catches, if it is imported; else ours."""
    exceptions = sys.modules.get("sklearn.exceptions")
    return exceptions.NotFittedError if exceptions else NotFittedError


def density_tags() -> Any:
    """scikit-learn's tags of a density estimator. Only scikit-learn calls this."""
    from sklearn.utils import InputTags, Tags, TargetTags

    return Tags(
        estimator_type="density_estimator",
        target_tags=TargetTags(required=False),
        input_tags=InputTags(),
    )


def metadata_request(owner: Any) -> Any:
    """For scikit-learn's metadata routing, the only caller: `fit` and `score` request `sample_weight` if given."""
    from sklearn.utils.metadata_routing import MetadataRequest

    request = MetadataRequest(owner=owner)
    for method in (request.fit, request.score):
        method.add_request(param="sample_weight", alias=True)
    return request


COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def only_gaussian_mixture(estimator: Any) -> None:
    """TypeError for all but scikit-learn's `GaussianMixture`, by name: what it has learnt is another model."""
    kind = type(estimator)
    if any(of.__name__ == "GaussianMixture" and of.__module__.startswith("sklearn.mixture") for of in kind.__mro__):
        return
    if isinstance(estimator, type):
        raise TypeError(f"from_sklearn takes a fitted estimator, got the class {estimator.__name__} itself.")
    name = f"{kind.__module__}.{kind.__name__}"
    raise TypeError(f"from_sklearn takes a fitted sklearn.mixture.GaussianMixture, got {name}, {_why_not(kind)}")


def _why_not(kind: type) -> str:
    if kind.__module__.startswith("jaxgmm"):
        return "which needs no conversion."
    return _WHY_NOT.get(kind.__name__, "which is no such model.")


_CENTRES = "which has centres but no covariances. Start a fit from them: GaussianMixture(k, means_init=centres)."

_WHY_NOT = {
    "BayesianGaussianMixture": (
        "which holds a posterior over mixtures. Its point estimate is a mixture: Mixture.create(b.weights_, b.means_, "
        "b.covariances_, b.covariance_type)."
    ),
    "KMeans": _CENTRES,
    "MiniBatchKMeans": _CENTRES,
    "Pipeline": "whose last step may be one: pipeline[-1].",
    "GridSearchCV": "which may hold one: search.best_estimator_.",
}


def to_sklearn(fitted: Any, n_components: int, covariance_type: str, arrays: dict[str, Any]) -> Any:
    """scikit-learn's estimator, with the parameters of our estimator and these fitted arrays."""
    from sklearn.mixture import GaussianMixture

    estimator = GaussianMixture()
    others = {"n_components", "covariance_type", "init_params", "random_state", "precisions_init"}
    names = set(estimator.get_params()) - others
    estimator.set_params(
        n_components=n_components, covariance_type=covariance_type, **{name: getattr(fitted, name) for name in names}
    )
    for name in ("n_features_in_", "feature_names_in_", "converged_", "n_iter_", "lower_bound_", "lower_bounds_"):
        if hasattr(fitted, name):
            setattr(estimator, name, getattr(fitted, name))
    for name, value in arrays.items():
        setattr(estimator, name, value)
    return estimator

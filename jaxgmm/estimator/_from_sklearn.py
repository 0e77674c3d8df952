"""scikit-learn's fitted mixtures as ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._base.status import Status
from . import _sklearn, _state
from .gaussian_mixture import GaussianMixture


def from_sklearn(estimator: Any) -> GaussianMixture:
    """A scikit-learn `GaussianMixture`, fitted or with its parameters set, as ours, in its dtype.

    TypeError for any other estimator, ValueError if it is not fitted or its parameters contradict each other.
    Attributes that only our own fit has (`result_`, `effective_counts_`) are missing.
    """
    _sklearn.only_gaussian_mixture(estimator)
    if not hasattr(estimator, "means_"):
        raise ValueError(f"{estimator!r} is not fitted: there is nothing to take over. Call its fit first.")
    names = set(GaussianMixture._parameter_names()) & set(estimator.get_params())
    ours = GaussianMixture(**{name: getattr(estimator, name) for name in names})
    vars(ours).update({name: getattr(estimator, name) for name in _state.PARAMETERS if hasattr(estimator, name)})
    vars(ours)["_like"] = np.array
    _ = ours.mixture_  # read from them
    figures = {
        "n_features_in_": int,
        "feature_names_in_": np.asarray,
        "lower_bounds_": lambda values: [*map(float, values)],
    }
    figures |= {"converged_": bool, "n_iter_": int, "lower_bound_": float}
    for name, kind in figures.items():
        if hasattr(estimator, name):
            setattr(ours, name, kind(getattr(estimator, name)))
    if hasattr(ours, "converged_"):
        ours.status_ = Status.CONVERGED if ours.converged_ else Status.MAX_STEPS
    return ours

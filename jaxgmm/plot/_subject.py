"""What is drawn: the mixture or the history that a user's object holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..estimator import GaussianMixture, from_sklearn
from ..mixture import Mixture
from ..search.result import FitResult
from ..search.table import Sweep


def mixture_of(of: Any) -> Mixture:
    """The mixture, itself or of what holds one."""
    if isinstance(of, Sweep):
        of = of.best
    if isinstance(of, FitResult):
        of = of.mixture
    elif not isinstance(of, Mixture):
        of = _estimator(of, "clusters draws a jaxgmm.Mixture, a FitResult, a Sweep").mixture_
    if np.ndim(of.means) != 2:
        raise ValueError(
            f"clusters draws one mixture with means (K, D), got means of shape {np.shape(of.means)}. Take one, as of a "
            "result of fit_many: result[b]."
        )
    return of


def history_of(of: Any) -> Any:
    """A `FitResult`, or histories as an array."""
    if isinstance(of, Sweep):
        of = of.best
    if isinstance(of, FitResult):
        if np.ndim(of.objective):
            raise ValueError("history draws one result, got a stack of them: take one, as result[b].")
        return of
    if isinstance(of, Mixture):
        raise TypeError("history draws a FitResult, which has the objective of each step. A Mixture has none.")
    if of is None or isinstance(of, str):
        raise TypeError(f"history draws a FitResult, a Sweep, histories or an estimator, got {of!r}.")
    if not hasattr(of, "get_params"):
        return of
    estimator = _estimator(of, "history draws a FitResult, a Sweep, histories")
    if hasattr(estimator, "result_"):
        return estimator.result_
    if getattr(estimator, "lower_bounds_", None):
        return estimator.lower_bounds_
    raise TypeError(
        f"This {type(of).__name__} has no history: its parameters were set, or learnt a batch at a time. Call fit."
    )


def _estimator(of: Any, else_what: str) -> GaussianMixture:
    """A fitted estimator, ours or scikit-learn's."""
    if isinstance(of, GaussianMixture):
        _ = of.mixture_  # an error if it is not fitted
        return of
    if not hasattr(of, "get_params") or isinstance(of, type):
        raise TypeError(f"{else_what} or an estimator, got {type(of).__name__}.")
    return from_sklearn(of)

"""scikit-learn's GaussianMixture on NumPy arrays."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from ..problems import Data, Problem
from ._contender import RIDGE, Contender, Fit, Outcome


def settings(problem: Problem, data: Data, iterations: int, tol: float) -> dict[str, Any]:
    """The estimator's arguments. With all of the start given nothing is seeded; tol 0 is never undercut."""
    return {
        "n_components": problem.k,
        "covariance_type": problem.family,
        "tol": tol,
        "reg_covar": RIDGE,
        "max_iter": iterations,
        "weights_init": data.weights,
        "means_init": data.means,
        "precisions_init": data.covariances,  # units, as their inverses are
    }


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    mixture = importlib.import_module("sklearn.mixture")

    def fit(iterations: int, tol: float) -> Outcome:
        model = mixture.GaussianMixture(**settings(problem, data, iterations, tol))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it did not converge, as it was asked not to
            model.fit(data.x)
        return Outcome(model.weights_, model.means_, model.covariances_, int(model.n_iter_))

    return fit


CONTENDER = Contender("scikit-learn", prepare, ("sklearn",), devices=("cpu",))

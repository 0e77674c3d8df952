"""tgmm: EM in torch, with scikit-learn's names."""

import math
from typing import Any

from ._contender import RIDGE, Contender, Data, Fit, Outcome, Problem, from_torch, installed, to_torch

TYPES = {"full": "full", "diag": "diag", "spherical": "spherical", "tied": "tied_full"}


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    _, place, (x, weights, means, covariances) = to_torch(data, device)
    peer = installed("tgmm").GaussianMixture
    asked: dict[str, Any] = {"n_components": problem.k, "n_features": problem.d, "reg_covar": RIDGE, "device": place}
    asked |= {"covariance_type": TYPES[problem.family]}
    asked |= {"init_weights": weights, "init_means": means, "init_covariances": covariances}
    size = 1.0  # of the mean log-likelihood, as far as is known

    def fit(iterations: int, tol: float) -> Outcome:
        nonlocal size
        # Its criterion is the relative change. It refuses 0, but nothing is less than NaN.
        model = peer(**asked, max_iter=iterations, tol=tol / size if tol else math.nan)
        model.fit(x)
        size = abs(float(model.lower_bound_)) or 1.0
        # n_iter_ is the index of the last iteration, counted from 0.
        return from_torch(model.weights_, model.means_, model.covariances_, int(model.n_iter_) + 1)

    return fit


CONTENDER = Contender("tgmm", prepare, ("tgmm", "torch"))

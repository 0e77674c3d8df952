"""tgmm: EM in torch, with scikit-learn's names."""

from __future__ import annotations

import importlib
import math
import warnings

from ..problems import Data, Problem
from ._contender import RIDGE, Contender, Fit, Outcome, to_numpy, torch_device

TYPES = {"full": "full", "diag": "diag", "spherical": "spherical", "tied": "tied_full"}


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    torch = importlib.import_module("torch")
    tgmm = importlib.import_module("tgmm")
    place = torch_device(torch, device)
    x, weights, means, covariances = (torch.from_numpy(a).to(place) for a in data)
    size = 1.0  # of the mean log-likelihood, as far as is known

    def fit(iterations: int, tol: float) -> Outcome:
        nonlocal size
        model = tgmm.GaussianMixture(
            n_components=problem.k,
            n_features=problem.d,
            covariance_type=TYPES[problem.family],
            max_iter=iterations,
            # Its criterion is the relative change. It refuses 0, but nothing is less than NaN.
            tol=tol / size if tol else math.nan,
            reg_covar=RIDGE,
            init_means=means,
            init_weights=weights,
            init_covariances=covariances,
            device=place,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it did not converge, as it was asked not to
            model.fit(x)
        size = abs(float(model.lower_bound_)) or 1.0
        # n_iter_ is the index of the last iteration, counted from 0.
        fitted = map(to_numpy, (model.weights_, model.means_, model.covariances_))
        return Outcome(*fitted, n_iterations=int(model.n_iter_) + 1)

    return fit


CONTENDER = Contender("tgmm", prepare, ("tgmm", "torch"))

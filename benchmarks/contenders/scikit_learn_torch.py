"""scikit-learn's GaussianMixture on torch tensors, through the array API."""

from __future__ import annotations

import importlib
import warnings

from ..problems import Data, Problem
from ._contender import Contender, Fit, Outcome, to_numpy, torch_device
from .scikit_learn import settings


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    torch = importlib.import_module("torch")
    sklearn = importlib.import_module("sklearn")
    mixture = importlib.import_module("sklearn.mixture")
    place = torch_device(torch, device)
    tensors = Data(*(torch.from_numpy(a).to(place) for a in data))
    sklearn.set_config(array_api_dispatch=True)

    def fit(iterations: int, tol: float) -> Outcome:
        # Some other seeding than k-means has to be named, though none is used.
        model = mixture.GaussianMixture(**settings(problem, tensors, iterations, tol), init_params="random")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it did not converge, as it was asked not to
            model.fit(tensors.x)
        fitted = map(to_numpy, (model.weights_, model.means_, model.covariances_))
        return Outcome(*fitted, n_iterations=int(model.n_iter_))

    return fit


CONTENDER = Contender(
    "scikit-learn-torch", prepare, ("sklearn", "torch", "array_api_compat"), environment={"SCIPY_ARRAY_API": "1"}
)

"""scikit-learn's GaussianMixture: on NumPy arrays, and on torch tensors, through the array API."""

from typing import Any

from ._contender import RIDGE, Contender, Data, Fit, Outcome, Problem, from_torch, installed, to_torch


def prepare(problem: Problem, data: Data, device: str, **more: Any) -> Fit:
    """With all of the start given nothing is seeded; tol 0 is never undercut."""
    peer = installed("sklearn.mixture").GaussianMixture
    asked = {"n_components": problem.k, "covariance_type": problem.family, "reg_covar": RIDGE, **more}
    asked |= {"weights_init": data.weights, "means_init": data.means}
    asked |= {"precisions_init": data.covariances}  # units, as their inverses are

    def fit(iterations: int, tol: float) -> Outcome:
        model = peer(**asked, max_iter=iterations, tol=tol).fit(data.x)
        return Outcome(model.weights_, model.means_, model.covariances_, int(model.n_iter_))

    return fit


def prepare_on_torch(problem: Problem, data: Data, device: str) -> Fit:
    _, _, tensors = to_torch(data, device)
    installed("sklearn").set_config(array_api_dispatch=True)
    # Some other seeding than k-means has to be named, though none is used.
    of_tensors = prepare(problem, Data(*tensors), device, init_params="random")

    def fit(iterations: int, tol: float) -> Outcome:
        return from_torch(*of_tensors(iterations, tol))

    return fit


CONTENDER = Contender("scikit-learn", prepare, ("sklearn",), devices=("cpu",))
ON_TORCH = Contender(
    "scikit-learn-torch",
    prepare_on_torch,
    ("sklearn", "torch", "array_api_compat"),
    environment={"SCIPY_ARRAY_API": "1"},
)

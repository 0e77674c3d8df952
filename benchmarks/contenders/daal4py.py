"""oneDAL's EM through daal4py, which scikit-learn-intelex ships. All cores are its default."""

from typing import Any

import numpy as np

from ._contender import RIDGE, Contender, Data, Fit, Outcome, Problem, installed

STORAGE = {"full": "full", "diag": "diagonal"}


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    # One matrix a component; a diagonal one is a row.
    start = data.weights[None], data.means, [np.atleast_2d(covariance) for covariance in data.covariances]
    common: dict[str, Any] = {
        "nComponents": problem.k,
        "fptype": "float" if data.x.dtype == np.float32 else "double",
        "regularizationFactor": RIDGE,  # for singular covariances; others stay as they are
        "covarianceStorage": STORAGE[problem.family],
    }
    daal4py = installed("daal4py")

    def fit(iterations: int, tol: float) -> Outcome:
        # Its threshold is on the sum over rows. A threshold of 0 still stops at a change of exactly 0.
        algorithm = daal4py.em_gmm(**common, maxIterations=iterations, accuracyThreshold=tol * problem.n)
        found = algorithm.compute(data.x, *start)
        covariances = np.stack([np.asarray(one) for one in found.covariances]).reshape(data.covariances.shape)
        return Outcome(found.weights.ravel(), np.asarray(found.means), covariances, int(found.nIterations.item()))

    return fit


CONTENDER = Contender("daal4py", prepare, ("daal4py",), families=tuple(STORAGE), devices=("cpu",))

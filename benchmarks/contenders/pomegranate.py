"""pomegranate: a mixture of torch distributions, a Python loop over components."""

import numpy as np

from ._contender import Contender, Data, Fit, Outcome, Problem, from_torch, installed, to_torch

TYPES = {"full": "full", "diag": "diag", "spherical": "sphere"}


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    """It adds nothing to covariances: its `min_cov` is read by no code."""
    torch, place, (x, weights, means, covariances) = to_torch(data, device)
    normal, gmm = installed("pomegranate.distributions").Normal, installed("pomegranate.gmm")
    torch.set_default_dtype(x.dtype)  # that in which it sums weights
    if problem.family == "spherical":  # it takes one variance a feature, and keeps them equal
        covariances = covariances[:, None].expand(-1, problem.d)

    class Counting(gmm.GeneralMixtureModel):
        """With the number of M-steps, of which it keeps no count."""

        made = 0

        def from_summaries(self) -> None:
            self.made += 1
            super().from_summaries()

    def fit(iterations: int, tol: float) -> Outcome:
        normals = [
            normal(mean.clone(), covariance.clone(), covariance_type=TYPES[problem.family])
            for mean, covariance in zip(means, covariances, strict=True)
        ]
        # Its tolerance is on the sum over rows; with tol 0 a step that falls by rounding is no end either.
        threshold = tol * problem.n if tol else -np.inf
        model = Counting(normals, priors=weights.clone(), max_iter=iterations, tol=threshold).to(place)
        model.fit(x)
        found, fitted = (torch.stack([getattr(one, of) for one in model.distributions]) for of in ("means", "covs"))
        if problem.family == "spherical":
            fitted = fitted.reshape(problem.k, -1)[:, 0]
        return from_torch(model.priors, found, fitted, model.made)

    return fit


CONTENDER = Contender("pomegranate", prepare, ("pomegranate", "torch"), families=tuple(TYPES))

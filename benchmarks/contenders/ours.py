"""jaxgmm itself, by its public core: the start is a mixture, and `em.run` makes the steps."""

import numpy as np

from ..problems import shaped
from ._contender import RIDGE, Contender, Data, Fit, Outcome, Problem


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    import jax

    from jaxgmm import Batches, Mixture, em

    mixture = Mixture.create(data.weights, data.means, data.covariances, problem.family, dtype=data.x.dtype)
    batches = jax.block_until_ready(Batches.of(data.x, n_components=problem.k, dtype=data.x.dtype))

    def fit(iterations: int, tol: float) -> Outcome:
        # With the E-step under the start: a fit needs it, and the difference of two fits loses it.
        state = em.run(em.init(mixture, batches), batches, em.Settings(tol=tol, ridge=RIDGE), max_steps=iterations)
        found = (state.mixture.log_weights, state.mixture.means, state.mixture.covariances)
        weights, means, dense = map(np.asarray, jax.block_until_ready(found))
        return Outcome(np.exp(weights), means, shaped(dense, problem.family), int(state.n_steps))

    return fit


CONTENDER = Contender("jaxgmm", prepare, ("jaxgmm",))

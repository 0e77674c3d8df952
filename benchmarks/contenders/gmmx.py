"""gmmx: EM in JAX. The step limit is static in its program, so each number of iterations compiles once."""

from ._contender import RIDGE, Contender, Data, Fit, Outcome, Problem, installed


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    jax, gmmx = installed("jax"), installed("gmmx")
    x, weights, means, covariances = jax.block_until_ready([jax.numpy.asarray(a) for a in data])
    start = gmmx.GaussianMixtureModelJax.from_squeezed(means, covariances, weights, covariance_type=problem.family)

    def fit(iterations: int, tol: float) -> Outcome:
        found = gmmx.EMFitter(max_iter=iterations, tol=tol, reg_covar=RIDGE).fit(x, start)
        fitted = jax.block_until_ready(found.gmm)
        return Outcome(fitted.weights_numpy, fitted.means_numpy, fitted.covariances.values_numpy, int(found.n_iter))

    return fit


CONTENDER = Contender("gmmx", prepare, ("gmmx",), families=("full", "diag"), dtypes=("float32",))

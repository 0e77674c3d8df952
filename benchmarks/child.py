"""What the children of several sections share: rows, starts near the truth, and fits of any program that one judge can
read.

Nothing here imports jax or jaxgmm before it is called, so that a child may time those imports.
"""

import importlib
import warnings
from importlib.util import find_spec
from typing import Any, NamedTuple, Self

import numpy as np

from .isolate import Unsupported
from .problems import OVERLAP, objective


def clusters(seed: int, n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows x (N, D) of K unit Gaussians and their means (K, D), float32, as far apart as those of `problems`.

    Problem.data makes float64 and rounds it, for which ten million rows are too many.
    """
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((k, d), dtype=np.float32) * np.float32(OVERLAP / np.sqrt(d))
    x = rng.standard_normal((n, d), dtype=np.float32)
    for first in range(0, n, 100_000):  # in pieces: the means of all rows at once would be a second copy of the data
        rows = x[first : first + 100_000]
        rows += means[rng.integers(0, k, len(rows))]
    return x, means


def unlike_clusters(seed: int, n: int, d: int, k: int, dtype: str) -> np.ndarray:
    """Rows (N, D) of K overlapping clusters of unlike shapes: a task with more than one answer."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0.0, 2.0, (k, d))
    factors = 0.8 * np.eye(d) + 0.3 * rng.standard_normal((k, d, d))
    labels = rng.integers(0, k, n)
    return (means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.standard_normal((n, d)))).astype(dtype)


def near(means: np.ndarray, family: str) -> Any:
    """A mixture near the truth in float32: equal weights, unit covariances, and the means (K, D) moved by half their
    spread."""
    import jaxgmm

    k, d = means.shape
    moved = means + 0.5 * OVERLAP / np.sqrt(d) * np.random.default_rng(1).standard_normal((k, d))
    dense = np.broadcast_to(np.eye(d), (k, d, d))
    return jaxgmm.Mixture.create(np.full(k, 1.0 / k), moved, dense, family, dtype=np.dtype("float32"))


def compilations() -> list[str]:
    """A list that grows by a name for every program that JAX compiles from now on."""
    from jax import monitoring

    heard: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            heard.append(str(kwargs.get("fun_name")))

    monitoring.register_event_duration_secs_listener(listen)
    return heard


class Fitted(NamedTuple):
    """Where any program's fit ended. Covariances in scikit-learn's shape of `family`."""

    family: str
    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    covariances: np.ndarray
    steps: int  # that were made, whatever was asked for

    def objective(self, x: np.ndarray) -> float:
        """Mean log-likelihood of rows x, nats."""
        return objective(self.family, x, self.weights, self.means, self.covariances)

    def mixture(self, family: str) -> Any:
        """As a mixture of ours, in float64."""
        import jaxgmm

        return jaxgmm.Mixture.create(self.weights, self.means, self.covariances, family, dtype=np.dtype("float64"))


def of_ours(mixture: Any, steps: Any = 0) -> Fitted:
    weights, means, covariances = map(np.asarray, (mixture.weights, mixture.means, mixture.covariances))
    return Fitted("full", weights, means, covariances, int(steps))


def of_scikit_learn(model: Any) -> Fitted:
    """Of an estimator with scikit-learn's attributes."""
    return Fitted(model.covariance_type, model.weights_, model.means_, model.covariances_, int(model.n_iter_))


def in_their_names(how: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `fit` by scikit-learn's names; those that are named so already stay."""
    named = {"n_restarts": "n_init", "init": "init_params", "max_steps": "max_iter", "ridge": "reg_covar"}
    return {named.get(name, name): value for name, value in how.items()}


def estimator(contender: str) -> Any:
    """A contender's estimator: a callable of K and arguments by scikit-learn's names -> what has fit, bic, n_iter_."""
    if contender == "tgmm":
        return OnTorch
    return installed("jaxgmm" if contender == "jaxgmm" else "sklearn.mixture").GaussianMixture


class OnTorch:
    """tgmm by scikit-learn's names, on the CPU. Its tol is relative: the one given, over the size of the mean
    log-likelihood of one Gaussian."""

    def __init__(self, k: int, covariance_type: str = "full", **how: Any):
        covariance_type = {"tied": "tied_full"}.get(covariance_type, covariance_type)
        self.how = {"n_components": k, "covariance_type": covariance_type, "device": "cpu", **how}
        self.model: Any = None

    def fit(self, x: np.ndarray) -> Self:
        tgmm, how = installed("tgmm"), {"n_features": x.shape[1], **self.how}
        if "init_params" in how:
            how["init_means"] = how.pop("init_params")
        if "tol" in how:
            one = objective("full", x, np.ones(1), x.mean(0)[None], np.cov(x.T, bias=True)[None])
            how["tol"] /= abs(one)
        self.model = tgmm.GaussianMixture(**how)
        self.model.fit(installed("torch").from_numpy(x))
        self.n_iter_ = int(self.model.n_iter_)
        return self

    def bic(self, x: np.ndarray) -> float:
        return self.model.bic(installed("torch").from_numpy(x))


def installed(module: str) -> Any:
    """A program's module, its warnings silenced. `Unsupported` where it is not installed."""
    if find_spec(module.partition(".")[0]) is None:
        raise Unsupported("not installed")
    warnings.filterwarnings("ignore")
    return importlib.import_module(module)

"""The contenders: for each a function that prepares its fits, which says what had to be made up for.

`prepare(problem, data, device)` brings data and start to where the program wants them, which is not timed, and returns
fit(iterations, tol): EM from the problem's start, anew with each call, and finished when it returns. With tol 0 it
makes exactly so many iterations where the program allows it; otherwise at most so many, until the mean log-likelihood
changes by less than tol nats. `Unsupported` for what only shows once the program is imported.
"""

import importlib.util
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .child import Fitted, installed, of_scikit_learn
from .isolate import Unsupported
from .options import DEVICES, DTYPES, checked
from .problems import RIDGE, Data, Problem, shaped

QUICK = ("jaxgmm", "scikit-learn", "daal4py", "gmmx")  # those that import quickly
PACKAGES = (
    "jax jaxlib numpy scipy scikit-learn scikit-learn-intelex daal gmmx tgmm torchgmm pytorch-lightning pomegranate "
    "torch array-api-compat"
).split()
"""Whose versions are written beside the results."""

Fit = Callable[[int, float], Fitted]


@dataclass(frozen=True)
class Contender:
    """One way to fit."""

    prepare: Callable[[Problem, Data, str], Fit]
    modules: tuple[str, ...]  # that must be importable
    families: tuple[str, ...] = ("full", "tied", "diag", "spherical")
    dtypes: tuple[str, ...] = DTYPES
    devices: tuple[str, ...] = DEVICES
    environment: Mapping[str, str] = field(default_factory=dict)  # what its process needs to be told

    def missing(self, problem: Problem, dtype: str, device: str) -> str | None:
        """Why it cannot take part here, None where it can. Nothing is imported for it."""
        if any(importlib.util.find_spec(module) is None for module in self.modules):
            return "not installed"
        if device not in self.devices:
            return "runs on the CPU only"
        if problem.family not in self.families:
            return f"has no {problem.family} covariances"
        return None if dtype in self.dtypes else f"refuses {dtype}"


def ours(problem: Problem, data: Data, device: str) -> Fit:
    """By the public core: the start is a mixture, and `em.run` makes the steps."""
    import jax

    from jaxgmm import Batches, Mixture, em

    mixture = Mixture.create(data.weights, data.means, data.covariances, problem.family, dtype=data.x.dtype)
    batches = jax.block_until_ready(Batches.of(data.x, n_components=problem.k, dtype=data.x.dtype))

    def fit(iterations: int, tol: float) -> Fitted:
        # With the E-step under the start: a fit needs it, and the difference of two fits loses it.
        state = em.run(em.init(mixture, batches), batches, em.Settings(tol=tol, ridge=RIDGE), max_steps=iterations)
        found = (state.mixture.log_weights, state.mixture.means, state.mixture.covariances)
        weights, means, dense = map(np.asarray, jax.block_until_ready(found))
        return Fitted(problem.family, np.exp(weights), means, shaped(dense, problem.family), int(state.n_steps))

    return fit


def scikit_learn(problem: Problem, data: Data, device: str, **more: Any) -> Fit:
    """With all of the start given nothing is seeded; tol 0 is never undercut."""
    peer = installed("sklearn.mixture").GaussianMixture
    asked = {"n_components": problem.k, "covariance_type": problem.family, "reg_covar": RIDGE, **more}
    asked |= {"weights_init": data.weights, "means_init": data.means}
    asked |= {"precisions_init": data.covariances}  # units, as their inverses are

    def fit(iterations: int, tol: float) -> Fitted:
        return of_scikit_learn(peer(**asked, max_iter=iterations, tol=tol).fit(data.x))

    return fit


def scikit_learn_on_torch(problem: Problem, data: Data, device: str) -> Fit:
    """On torch tensors, through the array API."""
    _, _, tensors = to_torch(data, device)
    installed("sklearn").set_config(array_api_dispatch=True)
    # Some other seeding than k-means has to be named, though none is used.
    of_tensors = scikit_learn(problem, Data(*tensors), device, init_params="random")
    return lambda iterations, tol: from_torch(*of_tensors(iterations, tol))


def daal4py(problem: Problem, data: Data, device: str) -> Fit:
    """oneDAL's EM through daal4py, which scikit-learn-intelex ships. All cores are its default."""
    # One matrix a component; a diagonal one is a row.
    start = data.weights[None], data.means, [np.atleast_2d(covariance) for covariance in data.covariances]
    common: dict[str, Any] = {
        "nComponents": problem.k,
        "fptype": "float" if data.x.dtype == np.float32 else "double",
        "regularizationFactor": RIDGE,  # for singular covariances; others stay as they are
        "covarianceStorage": {"full": "full", "diag": "diagonal"}[problem.family],
    }
    peer = installed("daal4py")

    def fit(iterations: int, tol: float) -> Fitted:
        # Its threshold is on the sum over rows. A threshold of 0 still stops at a change of exactly 0.
        algorithm = peer.em_gmm(**common, maxIterations=iterations, accuracyThreshold=tol * problem.n)
        found = algorithm.compute(data.x, *start)
        covariances = np.stack([np.asarray(one) for one in found.covariances]).reshape(data.covariances.shape)
        parameters = found.weights.ravel(), np.asarray(found.means), covariances
        return Fitted(problem.family, *parameters, steps=int(found.nIterations.item()))

    return fit


def gmmx(problem: Problem, data: Data, device: str) -> Fit:
    """EM in JAX. The step limit is static in its program, so each number of iterations compiles once."""
    jax, peer = installed("jax"), installed("gmmx")
    x, weights, means, covariances = jax.block_until_ready([jax.numpy.asarray(a) for a in data])
    start = peer.GaussianMixtureModelJax.from_squeezed(means, covariances, weights, covariance_type=problem.family)

    def fit(iterations: int, tol: float) -> Fitted:
        found = peer.EMFitter(max_iter=iterations, tol=tol, reg_covar=RIDGE).fit(x, start)
        gmm = jax.block_until_ready(found.gmm)
        parameters = gmm.weights_numpy, gmm.means_numpy, gmm.covariances.values_numpy
        return Fitted(problem.family, *parameters, steps=int(found.n_iter))

    return fit


def tgmm(problem: Problem, data: Data, device: str) -> Fit:
    """EM in torch, with scikit-learn's names."""
    _, place, (x, weights, means, covariances) = to_torch(data, device)
    peer = installed("tgmm").GaussianMixture
    asked: dict[str, Any] = {"n_components": problem.k, "n_features": problem.d, "reg_covar": RIDGE, "device": place}
    asked |= {"covariance_type": {"tied": "tied_full"}.get(problem.family, problem.family)}
    asked |= {"init_weights": weights, "init_means": means, "init_covariances": covariances}
    size = 1.0  # of the mean log-likelihood, as far as is known

    def fit(iterations: int, tol: float) -> Fitted:
        nonlocal size
        # Its criterion is the relative change. It refuses 0, but nothing is less than NaN.
        model = peer(**asked, max_iter=iterations, tol=tol / size if tol else math.nan)
        model.fit(x)
        size = abs(float(model.lower_bound_)) or 1.0
        # n_iter_ is the index of the last iteration, counted from 0.
        return from_torch(problem.family, model.weights_, model.means_, model.covariances_, int(model.n_iter_) + 1)

    return fit


def torchgmm(problem: Problem, data: Data, device: str) -> Fit:
    """EM as an epoch of PyTorch Lightning.

    Its estimator takes no start but means, which it then replaces by those of a hard assignment, and it takes two
    epochs, so two E-steps, for each iteration whenever the data are one batch. So what its estimator trains is trained
    here, with the start in its buffers and an iteration in every epoch: kinder to it than its own front door.
    """
    torch, place, (x, weights, means, covariances) = to_torch(data, device)
    bayes, loading = installed("torchgmm.bayes.gmm"), installed("torchgmm.base.data")
    trained = installed("torchgmm.bayes.gmm.lightning_module").GaussianMixtureLightningModule
    trainer_of = installed("pytorch_lightning").Trainer
    torch.set_default_dtype(x.dtype)  # of its buffers
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = loading.dataset_from_tensors(x)
    loader = loading.DataLoader(rows, batch_size=problem.n, collate_fn=loading.collate_tensor)
    config = bayes.GaussianMixtureModelConfig(problem.k, problem.d, problem.family)
    how: dict[str, Any] = {"accelerator": device, "devices": 1, "logger": False}
    how |= {"precision": "64-true" if x.dtype == torch.float64 else "32-true"}
    how |= dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)

    def fit(iterations: int, tol: float) -> Fitted:
        model = bayes.GaussianMixtureModel(config).to(place)
        model.component_probs.copy_(weights)
        model.means.copy_(means)
        model.precisions_cholesky.copy_(covariances)  # units, as the factors of their inverses are
        asked = {"convergence_tolerance": tol, "covariance_regularization": RIDGE, "is_batch_training": False}
        trainer = trainer_of(**how, max_epochs=iterations)
        trainer.fit(trained(model, **asked), loader)
        parameters = model.component_probs, model.means, model.covariances
        return from_torch(problem.family, *parameters, int(trainer.current_epoch))

    return fit


def pomegranate(problem: Problem, data: Data, device: str) -> Fit:
    """A mixture of torch distributions, a Python loop over components. It adds nothing to covariances: its `min_cov`
    is read by no code."""
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

    def fit(iterations: int, tol: float) -> Fitted:
        shape = {"spherical": "sphere"}.get(problem.family, problem.family)
        starts = zip(means, covariances, strict=True)
        normals = [normal(mean.clone(), covariance.clone(), covariance_type=shape) for mean, covariance in starts]
        # Its tolerance is on the sum over rows; with tol 0 a step that falls by rounding is no end either.
        threshold = tol * problem.n if tol else -np.inf
        model = Counting(normals, priors=weights.clone(), max_iter=iterations, tol=threshold).to(place)
        model.fit(x)
        found, fitted = (torch.stack([getattr(one, of) for one in model.distributions]) for of in ("means", "covs"))
        if problem.family == "spherical":
            fitted = fitted.reshape(problem.k, -1)[:, 0]
        return from_torch(problem.family, model.priors, found, fitted, model.made)

    return fit


def to_torch(data: Data, device: str) -> tuple[Any, str, list[Any]]:
    """torch with a thread a core, its name of the device, and the data there. Unsupported where it sees no GPU."""
    torch = installed("torch")
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)
    if device == "gpu" and not torch.cuda.is_available():
        raise Unsupported("this build of torch sees no GPU")
    place = "cuda" if device == "gpu" else "cpu"
    return torch, place, [torch.from_numpy(a).to(place) for a in data]


def from_torch(family: str, weights: Any, means: Any, covariances: Any, n_iterations: int) -> Fitted:
    """Of torch tensors on any device."""
    arrays = (tensor.detach().cpu().numpy() for tensor in (weights, means, covariances))
    return Fitted(family, *arrays, steps=n_iterations)


CONTENDERS = {
    "jaxgmm": Contender(ours, ("jaxgmm",)),
    "scikit-learn": Contender(scikit_learn, ("sklearn",), devices=("cpu",)),
    "scikit-learn-torch": Contender(
        scikit_learn_on_torch, ("sklearn", "torch", "array_api_compat"), environment={"SCIPY_ARRAY_API": "1"}
    ),
    "daal4py": Contender(daal4py, ("daal4py",), families=("full", "diag"), devices=("cpu",)),
    "gmmx": Contender(gmmx, ("gmmx",), families=("full", "diag"), dtypes=("float32",)),
    "tgmm": Contender(tgmm, ("tgmm", "torch")),
    "torchgmm": Contender(torchgmm, ("torchgmm", "pytorch_lightning", "torch")),
    "pomegranate": Contender(pomegranate, ("pomegranate", "torch"), families=("full", "diag", "spherical")),
}
"""In the order in which they run and are reported."""


def chosen(names: tuple[str, ...] | None, quick: bool) -> tuple[str, ...]:
    """These contenders; where None, all, or the quick ones. ValueError for a name that is none."""
    return checked("contender", names or (QUICK if quick else tuple(CONTENDERS)), CONTENDERS)

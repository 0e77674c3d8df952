"""torchgmm: EM as an epoch of PyTorch Lightning.

Its estimator takes no start but means, which it then replaces by those of a hard assignment, and it takes two epochs,
so two E-steps, for each iteration whenever the data are one batch. So what its estimator trains is trained here, with
the start in its buffers and an iteration in every epoch: kinder to it than its own front door.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

from ..problems import Data, Problem
from ._contender import RIDGE, Contender, Fit, Outcome, to_numpy, torch_device


def prepare(problem: Problem, data: Data, device: str) -> Fit:
    torch = importlib.import_module("torch")
    lightning = importlib.import_module("pytorch_lightning")
    bayes = importlib.import_module("torchgmm.bayes.gmm")
    modules = importlib.import_module("torchgmm.bayes.gmm.lightning_module")
    loading = importlib.import_module("torchgmm.base.data")
    place = torch_device(torch, device)
    x, weights, means, covariances = (torch.from_numpy(a).to(place) for a in data)
    torch.set_default_dtype(x.dtype)  # of its buffers
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    loader = loading.DataLoader(
        loading.dataset_from_tensors(x), batch_size=problem.n, collate_fn=loading.collate_tensor
    )
    config = bayes.GaussianMixtureModelConfig(problem.k, problem.d, problem.family)
    trains: dict[str, Any] = {
        "accelerator": device,
        "devices": 1,
        "precision": "64-true" if x.dtype == torch.float64 else "32-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }

    def fit(iterations: int, tol: float) -> Outcome:
        model = bayes.GaussianMixtureModel(config).to(place)
        model.component_probs.copy_(weights)
        model.means.copy_(means)
        model.precisions_cholesky.copy_(covariances)  # units, as the factors of their inverses are
        module = modules.GaussianMixtureLightningModule(
            model, convergence_tolerance=tol, covariance_regularization=RIDGE, is_batch_training=False
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of workers for loading, which are not wanted
            trainer = lightning.Trainer(**trains, max_epochs=iterations)
            trainer.fit(module, loader)
        fitted = map(to_numpy, (model.component_probs, model.means, model.covariances))
        return Outcome(*fitted, n_iterations=int(trainer.current_epoch))

    return fit


CONTENDER = Contender("torchgmm", prepare, ("torchgmm", "pytorch_lightning", "torch"))

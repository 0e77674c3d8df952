"""torchgmm: EM as an epoch of PyTorch Lightning.

Its estimator takes no start but means, which it then replaces by those of a hard assignment, and it takes two epochs,
so two E-steps, for each iteration whenever the data are one batch. So what its estimator trains is trained here, with
the start in its buffers and an iteration in every epoch: kinder to it than its own front door.
"""

import logging
from typing import Any

from ._contender import RIDGE, Contender, Data, Fit, Outcome, Problem, from_torch, installed, to_torch


def prepare(problem: Problem, data: Data, device: str) -> Fit:
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

    def fit(iterations: int, tol: float) -> Outcome:
        model = bayes.GaussianMixtureModel(config).to(place)
        model.component_probs.copy_(weights)
        model.means.copy_(means)
        model.precisions_cholesky.copy_(covariances)  # units, as the factors of their inverses are
        asked = {"convergence_tolerance": tol, "covariance_regularization": RIDGE, "is_batch_training": False}
        trainer = trainer_of(**how, max_epochs=iterations)
        trainer.fit(trained(model, **asked), loader)
        return from_torch(model.component_probs, model.means, model.covariances, int(trainer.current_epoch))

    return fit


CONTENDER = Contender("torchgmm", prepare, ("torchgmm", "pytorch_lightning", "torch"))

"""What an adapter of a peer says and does."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..isolate import Unsupported
from ..problems import RIDGE as RIDGE
from ..problems import Data, Problem


class Outcome(NamedTuple):
    """Where a fit ended. Covariances in scikit-learn's shape of the problem's type."""

    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    covariances: np.ndarray
    n_iterations: int  # that were made, whatever was asked for


Fit = Callable[[int, float], Outcome]
"""fit(iterations, tol): EM from the problem's start, anew with each call, and finished when it returns. With tol 0 it
makes exactly so many iterations where the peer allows it; otherwise at most so many, until the mean log-likelihood
changes by less than tol nats."""


class Contender(Protocol):
    """One way to fit. `prepare` brings data and start to where the peer wants them, which is not timed."""

    @property
    def name(self) -> str: ...

    @property
    def package(self) -> str:
        """The distribution to install."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """What must be importable."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What its process needs to be told."""
        ...

    def unsupported(self, problem: Problem, dtype: str, device: str) -> str | None:
        """Why it cannot take part here, None where it can. Nothing is imported for it."""
        ...

    def prepare(self, problem: Problem, data: Data, device: str) -> Fit:
        """Unsupported for what only shows once the peer is imported."""
        ...


def missing(contender: Contender, problem: Problem, dtype: str, device: str) -> str | None:
    """Why `contender` is not in this cell; None where it is."""
    if any(importlib.util.find_spec(module) is None for module in contender.modules):
        return "not installed"
    return contender.unsupported(problem, dtype, device)


def torch_device(torch: Any, device: str) -> str:
    """torch's name of the device, with a thread a core. Unsupported where torch sees no GPU."""
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)
    if device == "gpu" and not torch.cuda.is_available():
        raise Unsupported("this build of torch sees no GPU")
    return "cuda" if device == "gpu" else "cpu"


def to_numpy(value: Any) -> np.ndarray:
    """A torch tensor of any device as an array."""
    return value.detach().cpu().numpy()

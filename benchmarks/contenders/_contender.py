"""What an adapter of a peer says and does."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..child import installed as installed
from ..isolate import Unsupported
from ..options import DEVICES, DTYPES
from ..problems import RIDGE as RIDGE
from ..problems import Data as Data
from ..problems import Problem as Problem

FAMILIES = ("full", "tied", "diag", "spherical")


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


@dataclass(frozen=True)
class Contender:
    """One way to fit."""

    name: str
    prepare: Callable[[Problem, Data, str], Fit]
    """prepare(problem, data, device) brings data and start to where the peer wants them, which is not timed.
    `Unsupported` for what only shows once the peer is imported."""
    modules: tuple[str, ...]  # that must be importable
    families: tuple[str, ...] = FAMILIES
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


def to_torch(data: Data, device: str) -> tuple[Any, str, list[Any]]:
    """torch with a thread a core, its name of the device, and the data there. Unsupported where it sees no GPU."""
    torch = installed("torch")
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)
    if device == "gpu" and not torch.cuda.is_available():
        raise Unsupported("this build of torch sees no GPU")
    place = "cuda" if device == "gpu" else "cpu"
    return torch, place, [torch.from_numpy(a).to(place) for a in data]


def from_torch(weights: Any, means: Any, covariances: Any, n_iterations: int) -> Outcome:
    """Of torch tensors on any device."""
    arrays = (tensor.detach().cpu().numpy() for tensor in (weights, means, covariances))
    return Outcome(*arrays, n_iterations=n_iterations)

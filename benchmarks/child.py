"""What the child processes of several sections share: data, a start, a stopwatch, and which form runs.

Nothing here imports jax or jaxgmm before it is called, so that a child may time those imports.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .problems import OVERLAP

LASTS, ENOUGH = 0.3, 6.0  # seconds
MOST = 5000  # iterations


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


def near(means: np.ndarray, family: str, dtype: str = "float32", seed: int = 1) -> Any:
    """A start near the truth, as a Mixture: the means moved by half their spread, unit covariances, equal weights."""
    import jaxgmm

    k, d = means.shape
    moved = means + 0.5 * OVERLAP / np.sqrt(d) * np.random.default_rng(seed).standard_normal((k, d))
    dense = np.broadcast_to(np.eye(d), (k, d, d))
    return jaxgmm.Mixture.create(np.full(k, 1.0 / k), moved.astype(np.float32), dense, family, dtype=np.dtype(dtype))


def seconds_per_step(run: Callable[[int], int], repeats: int, lasting: float = LASTS) -> dict[str, Any]:
    """Seconds of one iteration, by the difference of two counts, so that what a call costs besides cancels.

    run(count) makes `count` iterations and returns how many it made. Calls with few and many alternate; the median,
    the least and the largest of the pairwise differences come back, with the counts asked for and made. lasting:
    seconds that the longer call should take at least. After ENOUGH seconds there are no more than two such pairs.
    """
    few, many = 1, 3
    run(few)  # compiles
    while (took := stopwatch(run, many)[0]) < lasting and many < MOST:
        # By steps, since one short call says little about a long one.
        many = min(MOST, math.ceil(many * min(4.0, max(1.5, 1.2 * lasting / took))))
    runs, made, spent = [], [few, many], 0.0
    for pair in range(repeats):
        if pair >= 2 and spent >= ENOUGH:
            break
        (short, low), (long, high) = stopwatch(run, few), stopwatch(run, many)
        spent += short + long
        made = [low, high]
        if high > low:
            runs.append((long - short) / (high - low))
    return {"seconds_per_iteration": spread(runs), "iterations": {"asked": [few, many], "made": made}}


def stopwatch(call: Callable[..., Any], *arguments: Any, **more: Any) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned."""
    began = time.perf_counter()
    value = call(*arguments, **more)
    return time.perf_counter() - began, value


def spread(runs: list[float]) -> dict[str, Any] | None:
    """Median and range of repeated measurements, and the measurements; None where there are none."""
    if not runs:
        return None
    return {"median": statistics.median(runs), "low": min(runs), "high": max(runs), "runs": runs}


def form_of(mixture: Any, origin: Any) -> str:
    """The form in which the library evaluates this mixture about this origin: "fast" or "safe". It is asked itself."""
    import jax.numpy as jnp

    from jaxgmm.covariances import Form
    from jaxgmm.density import in_safe_form

    return "safe" if bool(in_safe_form(mixture, origin, lambda form: jnp.array(form is Form.SAFE))) else "fast"

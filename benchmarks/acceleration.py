"""Passes over the data until EM is within 1e-6 nats of its optimum, plain and accelerated, every E-pass counted.

Problems go from separate clusters to ones that overlap so much that plain EM takes thousands of steps; the first five
are drawn, the last is a table of real measurements. All runs of a problem begin in the same place, in float64. The
optimum is what plain EM reaches after LIMIT steps; a run that ends lower than that less WITHIN has not reached it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import isolate
from .limits import on_device
from .options import Options

WITHIN = 1e-6  # nats a row
LIMIT = 16_000  # steps
TIME_LIMIT = 300.0  # seconds
WAYS = (None, "squarem", "anderson", "lbfgs")
TARGETS = {"slow": 3.0, "fast": 1.1}
"""On the three slowest problems plain EM should need at least so many times as many passes; on the others an
accelerated run at most so many times as many as plain EM."""

TABLE = Path(__file__).resolve().parent.parent / "tests" / "data" / "faithful.csv"


class Overlap(NamedTuple):
    """N rows from K unit Gaussians whose means lie `apart` standard deviations from the origin, more or less."""

    name: str
    family: str
    n: int
    d: int
    k: int
    apart: float

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (N, D), and means (K, D) to start from."""
        rng = np.random.default_rng(7)
        means = self.apart * rng.standard_normal((self.k, self.d)) / np.sqrt(self.d)
        x = rng.standard_normal((self.n, self.d)) + means[rng.integers(0, self.k, self.n)]
        return x, means + 0.5 * rng.standard_normal(means.shape)


PROBLEMS = (
    Overlap("separate", "full", 5_000, 4, 4, 8.0),
    Overlap("touching", "diag", 5_000, 4, 5, 6.0),
    Overlap("overlapping", "full", 5_000, 3, 4, 2.5),
    Overlap("one cloud", "spherical", 5_000, 2, 4, 2.5),
    Overlap("shared", "tied", 5_000, 3, 5, 2.0),
    Overlap("faithful", "full", 0, 2, 4, 0.0),
)
"""The last are rows of TABLE, standardised, started from four of them."""


def rows(problem: Overlap) -> tuple[np.ndarray, np.ndarray]:
    if problem.n:
        return problem.data()
    table = np.loadtxt(TABLE, delimiter=",", skiprows=1)[:, : problem.d]
    x = (table - table.mean(axis=0)) / table.std(axis=0)
    return x, x[np.random.default_rng(7).choice(len(x), problem.k, replace=False)]


def measure(options: Options) -> dict[str, Any]:
    device = options.devices[0]
    found = []
    for problem in PROBLEMS[:1] if options.quick else PROBLEMS:
        request = {"name": problem.name, "limit": 200 if options.quick else LIMIT}
        answer = isolate.run("benchmarks.acceleration:passes", request, TIME_LIMIT, on_device(device))
        answer.pop("peak_bytes", None)
        found.append({**problem._asdict(), "missing": None, **answer})
        print(f"acceleration {problem.name}: {said(found[-1])}", flush=True)
    return {"within": WITHIN, "limit": LIMIT, "device": device, "targets": TARGETS, "problems": found}


def said(found: dict[str, Any]) -> str:
    if found["missing"]:
        return str(found["missing"])
    made = {run["way"]: "not reached" if run["passes"] is None else run["passes"] for run in found["runs"]}
    return ", ".join(f"{way} {passes}" for way, passes in made.items())


def passes(name: str, limit: int) -> dict[str, Any]:
    """In a child: E-passes of each way until its objective is within WITHIN of the optimum, and the largest fall."""
    import jax

    import jaxgmm

    problem = next(one for one in PROBLEMS if one.name == name)
    x, means = rows(problem)
    with jax.enable_x64(True):
        optimum, runs = None, []
        for way in WAYS:
            result = jaxgmm.fit(
                jax.random.key(0),
                x,
                problem.k,
                problem.family,
                init=_start(means, problem),
                tol=0.0,
                ridge=0.0,
                max_steps=limit,
                acceleration=way,
            )
            history = np.asarray(result.history)
            history = history[np.isfinite(history)]
            optimum = float(history[-1]) if optimum is None else optimum
            there = np.flatnonzero(history >= optimum - WITHIN)
            runs.append(
                {
                    "way": way or "plain",
                    "passes": int(there[0]) if len(there) else None,
                    "ends_above": float(history[-1]) - optimum,
                    "largest_fall": float(max(0.0, -np.min(np.diff(history)))),
                }
            )
    return {"optimum": optimum, "runs": runs}


def _start(means: np.ndarray, problem: Overlap) -> Any:
    """Equal weights and unit covariances about these means."""
    import jaxgmm

    dense = np.broadcast_to(np.eye(problem.d), (problem.k, problem.d, problem.d))
    return jaxgmm.Mixture.create(np.full(problem.k, 1.0 / problem.k), means, dense, problem.family, dtype=np.float64)

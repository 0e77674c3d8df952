"""Passes over the data until EM is within 1e-6 nats of its optimum, plain and accelerated, every E-pass counted.

Problems go from separate clusters to ones that overlap so much that plain EM takes thousands of steps; the first five
are drawn, the last is a table of real measurements. All runs of a problem begin in the same place, in float64. The
optimum is what plain EM reaches after LIMIT steps; a run that ends lower than that less WITHIN has not reached it.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxgmm

from . import isolate
from .child import about, standardised, stored
from .markdown import NONE, Columns, by_columns, digits, table
from .options import Options
from .ratios import Place

WITHIN = 1e-6  # nats a row
LIMIT = 16_000  # steps
TIME_LIMIT = 300.0  # seconds
ACCELERATED = ("squarem", "anderson", "lbfgs")
TARGETS = {"slow": 3.0, "fast": 1.1}
"""On the three slowest problems plain EM should need at least so many times as many passes; on the others an
accelerated run at most so many times as many as plain EM."""


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
"""The last are rows of a table of `tests/data`, standardised, started from four of them."""


def rows(problem: Overlap) -> tuple[np.ndarray, np.ndarray]:
    if problem.n:
        return problem.data()
    x = standardised(stored(problem.name, problem.d))
    return x, x[np.random.default_rng(7).choice(len(x), problem.k, replace=False)]


def measure(options: Options) -> dict[str, Any]:
    device, limit = options.devices[0], 200 if options.quick else LIMIT
    found = []
    for problem in PROBLEMS[:1] if options.quick else PROBLEMS:
        made = isolate.ask(passes, TIME_LIMIT, device, name=problem.name, limit=limit)
        found.append({**problem._asdict(), **made})
    return {"within": WITHIN, "limit": LIMIT, "device": device, "targets": TARGETS, "problems": found}


def passes(name: str, limit: int) -> dict[str, Any]:
    """In a child: E-passes of each way until its objective is within WITHIN of the optimum."""
    problem = next(one for one in PROBLEMS if one.name == name)
    x, means = rows(problem)
    with jax.enable_x64(True):
        optimum, runs = None, []
        for way in (None, *ACCELERATED):
            how: dict[str, Any] = {"tol": 0.0, "ridge": 0.0, "max_steps": limit, "acceleration": way}
            start = about(means, problem.family, "float64")
            result = jaxgmm.fit(jax.random.key(0), x, problem.k, problem.family, init=start, **how)
            history = np.asarray(result.history)
            history = history[np.isfinite(history)]
            optimum = float(history[-1]) if optimum is None else optimum
            there = np.flatnonzero(history >= optimum - WITHIN)
            runs.append({"way": way or "plain", "passes": int(there[0]) if len(there) else None})
    return {"optimum": optimum, "runs": runs}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """Passes of every way, and whether each keeps what was aimed at before it was written."""
    made = {problem["name"]: of_ways(problem) for problem in found.get("problems", []) if not problem["missing"]}
    slowest = sorted(made, key=lambda name: made[name]["plain"] or math.inf, reverse=True)[:3]

    def told(problem: dict[str, Any], way: str) -> str:
        plain, n = made[problem["name"]]["plain"], made[problem["name"]][way]
        return "not reached" if n is None else f"{n} ({digits(plain / n)})" if n and plain else f"{n}"

    head: Columns = {
        "problem": lambda problem: problem["name"] + (" *" if problem["name"] in slowest else ""),
        "type": "family",
    }
    body: dict[str, Any] = {"plain": lambda problem: made[problem["name"]]["plain"]}
    body |= {way: partial(told, way=way) for way in ACCELERATED}
    return [
        f"### Acceleration, {place.label}",
        f"Passes over the rows until the mean log-likelihood is within {found['within']:g} nats of what plain EM ends "
        "with, from the same start; in brackets how many times as many plain EM makes. *: the three slowest.",
        by_columns(found["problems"], head, body),
        *(targets(found["targets"], made, slowest) if found.get("targets") and made else []),
    ]


def targets(aims: dict[str, float], made: dict[str, dict[str, int | None]], slowest: list[str]) -> list[str]:
    def is_met(name: str, way: str) -> bool | None:
        plain, n = made[name]["plain"], made[name][way]
        if n is None or plain is None:
            return None if plain is None else False
        return plain >= aims["slow"] * n if name in slowest else n <= aims["fast"] * plain

    slow, fast = f"plain ≥ {aims['slow']:g} × its passes", f"passes ≤ {aims['fast']:g} × plain's"
    said = {True: "met", False: "**missed**", None: NONE}
    lines = [
        [name, slow if name in slowest else fast, *(said[is_met(name, way)] for way in ACCELERATED)] for name in made
    ]
    n_met = [sum(is_met(name, way) is True for name in made) for way in ACCELERATED]
    lines.append(["met", "", *(f"{n} of {len(made)}" for n in n_met)])
    return ["What was aimed at:", table(["problem", "target", *ACCELERATED], lines)]


def of_ways(problem: dict[str, Any]) -> dict[str, int | None]:
    """Passes by way; None where the optimum was not reached."""
    return dict.fromkeys(("plain", *ACCELERATED)) | {run["way"]: run["passes"] for run in problem["runs"]}

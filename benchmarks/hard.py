"""Two problems whose likelihood has many optima: what is found in which time.

`grid`: unit Gaussians on a square grid, neighbours APART apart. `fifty`: Gaussians of every orientation that overlap
in ten dimensions. All fits are of full covariances in float64, with the same tol, step limit and ridge, and
are judged by `problems.objective`. Compiling is not in the time of a fit, but stands beside it.

Where a race is best cut, and whether annealing helps, is settled by `2026-11-26T075518Z-suite.json`: the report shows
both of that file, and no run measures them again.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import isolate
from .child import of_ours, of_scikit_learn, scikit_learn
from .hard_tables import tables as tables
from .options import Options
from .problems import RIDGE
from .ratios import OURS, REFERENCE
from .timing import stopwatch

TOL, MAX_STEPS = 1e-4, 500
SEEDS = 3
ENOUGH = 20.0  # seconds of fits of one way, after which no other seed is begun
LIMIT = 900.0  # seconds for one child
AT_ONCE = 1e9  # a tol with which every run ends after a step: such a call compiles, and does little else
APART, SPREAD = 4.0, 1.5  # of means: standard deviations on the grid, and of a normal
PEERS = {REFERENCE: "kmeans", f"{REFERENCE}, k-means++": "k-means++"}  # init_params
WAYS: dict[str, dict[str, Any]] = {
    "1 start from k-means": {"n_restarts": 1, "init": "k-means"},
    "1 start": {"n_restarts": 1},
    "4 starts": {"n_restarts": 4},
    "16 starts": {"n_restarts": 16},
    "race of 16": {"n_restarts": 16, "race": True},
    "race of 64": {"n_restarts": 64, "race": True},
    "1 start, escapes": {"n_restarts": 1, "escape": "split-merge"},
    "race of 16, escapes": {"n_restarts": 16, "race": True, "escape": "split-merge"},
    "64 starts": {"n_restarts": 64},
}
"""How ours is asked to search: `fit`'s arguments, from k-means++ unless told."""
QUICK_WAYS = ("1 start", "race of 16, escapes")


class Hard(NamedTuple):
    """N rows, D features, K components, and for how many seconds scikit-learn makes one start after the other."""

    name: str
    n: int
    d: int
    k: int
    seconds: float

    def rows(self) -> np.ndarray:
        """(N, D)."""
        return {"grid": grid, "fifty": fifty}[self.name](np.random.default_rng(0), self.n, self.d, self.k)


def grid(rng: np.random.Generator, n: int, d: int, k: int) -> np.ndarray:
    side = np.arange(math.isqrt(k))
    means = APART * np.stack(np.meshgrid(side, side), -1).reshape(k, d)
    return means[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def fifty(rng: np.random.Generator, n: int, d: int, k: int) -> np.ndarray:
    means = SPREAD * rng.normal(size=(k, d))
    factors = np.linalg.qr(rng.normal(size=(k, d, d)))[0] * rng.uniform(0.5, 1.5, (k, 1, d))
    labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, 3.0)))
    return means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.normal(size=(n, d)))


PROBLEMS = (Hard("grid", 5_000, 2, 25, 20.0), Hard("fifty", 20_000, 10, 50, 60.0))
QUICK = (Hard("grid", 300, 2, 4, 0.5), Hard("fifty", 400, 3, 5, 0.5))


def measure(options: Options) -> dict[str, Any]:
    device, quick = options.devices[0], options.quick
    ways = [way for way in (QUICK_WAYS if quick else WAYS) if options.wants(OURS)]
    peers = [peer for peer in PEERS if options.wants(peer) and device == "cpu"]
    found = []
    for problem in QUICK if quick else PROBLEMS:
        ask: Callable[..., dict[str, Any]] = partial(
            isolate.ask, time_limit=LIMIT, device=device, problem=problem._asdict()
        )
        by_ours = [{**ask(ours, how=WAYS[way], seeds=1 if quick else SEEDS), "way": way} for way in ways]
        by_peers = [{**ask(theirs, init=PEERS[peer], seconds=problem.seconds), "peer": peer} for peer in peers]
        found.append({**problem._asdict(), "ways": by_ours, "peers": by_peers})
    return {"tol": TOL, "max_steps": MAX_STEPS, "device": device, "problems": found}


def ours(problem: dict[str, Any], how: dict[str, Any], seeds: int) -> dict[str, Any]:
    """In a child: calls of `fit`, one a seed until ENOUGH, and what the first cost to compile."""
    import jax

    import jaxgmm

    asked = Hard(**problem)
    x = asked.rows()
    more = {"init": "k-means++", "max_steps": MAX_STEPS, "ridge": RIDGE, "dtype": np.float64, **how}

    def fit(seed: int, tol: float = TOL) -> Any:
        return jax.block_until_ready(jaxgmm.fit(jax.random.key(seed), x, asked.k, tol=tol, **more))

    warm_up = [stopwatch(fit, 0, AT_ONCE)[0] for _ in range(2)]
    calls: list[dict[str, Any]] = []
    while len(calls) < seeds and sum(call["seconds"] for call in calls) < ENOUGH:
        seconds, result = stopwatch(fit, len(calls))
        made = {"seed": len(calls), "seconds": seconds, "objective": of_ours(result.mixture).objective(x)}
        made |= {} if result.escapes is None else {"moves": len(result.escapes) - 1}
        calls.append({**made, "steps": int(np.sum(result.restarts.n_steps))})
    return {"compile_s": warm_up[0] - warm_up[1], "calls": calls}


def theirs(problem: dict[str, Any], init: str, seconds: float) -> dict[str, Any]:
    """In a child: scikit-learn's starts one after the other until the time is up, and the best so far after each, as
    n_init does."""
    peer, asked = scikit_learn(), Hard(**problem)
    x = asked.rows()
    more: dict[str, Any] = {"tol": TOL, "max_iter": MAX_STEPS, "reg_covar": RIDGE, "init_params": init}
    calls: list[dict[str, Any]] = []
    spent, best = 0.0, -math.inf
    while spent < seconds:
        took, model = stopwatch(peer(asked.k, random_state=len(calls), **more).fit, x)
        spent, best = spent + took, max(best, of_scikit_learn(model).objective(x))
        calls.append({"seed": len(calls), "seconds": spent, "objective": best, "steps": int(model.n_iter_)})
    return {"calls": calls}

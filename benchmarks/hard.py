"""Two problems whose likelihood has many optima: what is found in which time, where a race is to be cut, and whether
annealing would help.

`grid`: unit Gaussians on a square grid, neighbours APART apart. `fifty`: Gaussians of every orientation that overlap
in ten dimensions. All fits are of full covariances in float64, with the same tol, step limit and ridge, and
are judged by `problems.objective`. Compiling is not in the time of a fit, but stands beside it.

What races come to is told from one pool of starts that are run whole: see `races.py`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import log_softmax

import jaxgmm
from jaxgmm import em
from jaxgmm._base.precision import precision_for
from jaxgmm.families import SHELF
from jaxgmm.mixture import Mixture
from jaxgmm.rows.door import admit
from jaxgmm.rows.options import RowOptions, Workload
from jaxgmm.search import result as results
from jaxgmm.search import runs as driver
from jaxgmm.search.start import start

from . import isolate
from .child import of_ours, of_scikit_learn, scikit_learn, standardised, stored
from .hard_tables import tables as tables
from .options import Options
from .problems import RIDGE
from .races import DRAWS, RUNNERS, TIE, Runs, races
from .ratios import OURS, REFERENCE
from .timing import stopwatch

TOL, MAX_STEPS = 1e-4, 500
SEEDS = 3
ENOUGH = 20.0  # seconds of fits of one way, after which no other seed is begun
LIMIT = 900.0  # seconds for one child
AT_ONCE = 1e9  # a tol with which every run ends after a step: such a call compiles, and does little else
APART, SPREAD = 4.0, 1.5  # of means: standard deviations on the grid, and of a normal
PEERS = {REFERENCE: "kmeans", f"{REFERENCE}, k-means++": "k-means++"}  # init_params


class Hard(NamedTuple):
    """N rows, D features, K components, and for how many seconds scikit-learn makes one start after the other."""

    name: str
    n: int
    d: int
    k: int
    seconds: float = 0.0

    def rows(self) -> np.ndarray:
        """(N, D), or a table of `tests/data`, standardised."""
        if self.name in MAKERS:
            return MAKERS[self.name](np.random.default_rng(0), self.n, self.d, self.k)
        return standardised(stored(self.name, self.d))


def grid(rng: np.random.Generator, n: int, d: int, k: int) -> np.ndarray:
    side = np.arange(math.isqrt(k))
    means = APART * np.stack(np.meshgrid(side, side), -1).reshape(k, d)
    return means[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def fifty(rng: np.random.Generator, n: int, d: int, k: int) -> np.ndarray:
    means = SPREAD * rng.normal(size=(k, d))
    factors = np.linalg.qr(rng.normal(size=(k, d, d)))[0] * rng.uniform(0.5, 1.5, (k, 1, d))
    labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, 3.0)))
    return means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.normal(size=(n, d)))


MAKERS = {"grid": grid, "fifty": fifty}
PROBLEMS = (Hard("grid", 5_000, 2, 25, 20.0), Hard("fifty", 20_000, 10, 50, 60.0))
QUICK = (Hard("grid", 300, 2, 4, 0.5), Hard("fifty", 400, 3, 5, 0.5))
TABLES = (Hard("faithful", 272, 2, 4), Hard("iris", 150, 4, 4), Hard("diabetes", 145, 3, 5))


class Way(NamedTuple):
    """How ours is asked to search."""

    name: str
    n_restarts: int
    init: str = "k-means++"
    race: bool = False
    escape: str | None = None


WAYS = (
    Way("1 start from k-means", 1, "k-means"),
    Way("1 start", 1),
    Way("4 starts", 4),
    Way("16 starts", 16),
    Way("race of 16", 16, race=True),
    Way("race of 64", 64, race=True),
    Way("1 start, escapes", 1, escape="split-merge"),
    Way("race of 16, escapes", 16, race=True, escape="split-merge"),
)
POOL = 64  # starts of a call; "64 starts" of the table, too
LARGE_POOL = 256  # of a table so small that a start costs nothing
COLDEST, WARMER, AT_EACH, JITTER = (0.2, 0.5, 0.8), 1.15, 10, 1e-3


def measure(options: Options) -> dict[str, Any]:
    device, quick = options.devices[0], options.quick
    n_seeds, n_starts = (1, 4) if quick else (SEEDS, POOL)
    found: dict[str, Any] = {"tol": TOL, "max_steps": MAX_STEPS, "device": device, "problems": [], "races": []}
    found |= {"runners": RUNNERS, "draws": DRAWS, "tie": TIE}

    def ask(function: Callable[..., dict[str, Any]], problem: Hard, **request: Any) -> dict[str, Any]:
        return isolate.ask(function, LIMIT, device, problem=problem._asdict(), **request)

    def pooled(problem: Hard, starts: int, seeds: int) -> dict[str, Any]:
        """Starts run whole; what races of them would have come to is added to what was found."""
        made = ask(pool, problem, starts=starts, seeds=seeds)
        if raced := made.pop("races", None):
            found["races"].append({"problem": problem.name, "k": problem.k, **raced})
        return {"way": f"{starts} starts", **made}

    for problem in QUICK if quick else PROBLEMS:
        of: dict[str, Any] = {**problem._asdict(), "ways": [], "peers": [], "annealing": None}
        found["problems"].append(of)
        if options.wants(OURS):
            for way in (WAYS[1], WAYS[-1]) if quick else WAYS:
                made = ask(ours, problem, way=way._asdict(), seeds=n_seeds)
                of["ways"].append({**made, "way": way.name})
            of["ways"].append(pooled(problem, n_starts, n_seeds))
            of["annealing"] = ask(anneal, problem, seeds=n_seeds)
        for peer, init in PEERS.items():
            if options.wants(peer) and device == "cpu":
                made = ask(theirs, problem, init=init, seconds=problem.seconds)
                of["peers"].append({"peer": peer, **made})
    if options.wants(OURS) and not quick:
        for table in TABLES:
            pooled(table, LARGE_POOL, 1)
    return found


# In children


def ours(problem: dict[str, Any], way: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Calls of `fit`, one a seed until ENOUGH, and what the first cost to compile."""
    asked = Hard(**problem)
    x = asked.rows()
    more: dict[str, Any] = {name: value for name, value in way.items() if name != "name"}
    more |= {"max_steps": MAX_STEPS, "ridge": RIDGE, "dtype": np.float64}

    def fit(seed: int, tol: float = TOL) -> Any:
        return jax.block_until_ready(jaxgmm.fit(jax.random.key(seed), x, asked.k, tol=tol, **more))

    made, results = by_seeds(fit, x, seeds)
    for call, result in zip(made["calls"], results, strict=True):
        call |= {} if result.escapes is None else {"moves": len(result.escapes) - 1}
    return made


def by_seeds(fit: Callable[..., Any], x: np.ndarray, seeds: int) -> tuple[dict[str, Any], list[Any]]:
    """Seconds, objectives and steps of fit(seed, tol), a seed after the other until ENOUGH; and what fit returned."""
    warm_up = [stopwatch(fit, 0, AT_ONCE)[0] for _ in range(2)]
    calls: list[dict[str, Any]] = []
    results = []
    while len(calls) < seeds and sum(call["seconds"] for call in calls) < ENOUGH:
        seconds, result = stopwatch(fit, len(calls))
        made = {"seed": len(calls), "seconds": seconds, "objective": of_ours(result.mixture).objective(x)}
        calls.append({**made, "steps": int(np.sum(result.restarts.n_steps))})
        results.append(result)
    return {"compile_s": warm_up[0] - warm_up[1], "calls": calls}, results


def pool(problem: dict[str, Any], starts: int, seeds: int) -> dict[str, Any]:
    """As `ours`, of starts run whole, and what races of them would have come to."""
    asked = Hard(**problem)
    x = asked.rows()
    spurious: list[Any] = []

    def fit(seed: int, tol: float = TOL) -> Any:
        result, which = whole(seed, x, asked.k, starts, tol)
        spurious.append(np.asarray(which))
        return result

    made, results = by_seeds(fit, x, seeds)
    of_results = zip(results, spurious[-len(results) :], strict=True)  # and not those of the warm-up
    runs = [Runs.made(jax.device_get(result.restarts), which) for result, which in of_results]
    return {**made, "races": races(Runs.joined(runs))}


def whole(seed: int, x: np.ndarray, k: int, starts: int, tol: float = TOL) -> tuple[Any, Any]:
    """`fit`'s result, and whether each run ended with a component that the ridge holds up. -> (R,) bool.

    `fit` tells that of the winner alone, so the runs are made by what `fit` is made of.
    """
    settings = em.Settings(tol=tol, ridge=RIDGE)
    batches = admit(x, RowOptions(dtype=np.float64), Workload(k, starts))
    with precision_for(batches.dtype):
        states = start(jax.random.key(seed), batches, "k-means++", k, SHELF["full"], settings, starts)
        states, histories = driver.run_to_ends(states, batches, settings, MAX_STEPS)
        result = results.best(states, histories, RIDGE, length=results.history_length(MAX_STEPS))
        spurious = lax.map(lambda mixture: results.is_spurious(mixture, RIDGE), states.mixture)
        return jax.block_until_ready((result, spurious.any(axis=1)))


def theirs(problem: dict[str, Any], init: str, seconds: float) -> dict[str, Any]:
    """scikit-learn's starts one after the other until the time is up: the best so far after each, as n_init does."""
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


def anneal(problem: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Plain EM, and EM after annealing from each of COLDEST, from the same starts. Ueda and Nakano 1998.

    Responsibilities ∝ (π N)^β are those of another mixture, `heated`. Means are jittered before β rises, since those
    that have become one would never part again.
    """
    asked, family = Hard(**problem), SHELF["full"]
    x = asked.rows()
    settings = em.Settings(tol=TOL, ridge=RIDGE)
    batches = admit(x, RowOptions(dtype=np.float64), Workload(asked.k))

    runs = []
    with precision_for(batches.dtype):
        for seed in range(seeds):
            seeded = start(jax.random.key(seed), batches, "k-means++", asked.k, family, settings, 1).mixture
            for coldest in (1.0, *COLDEST):
                mixture = jax.tree.map(lambda leaf: leaf[0], seeded)
                rng, beta, steps = np.random.default_rng(seed), coldest, 0
                while beta < 1.0:
                    for _ in range(AT_EACH):
                        mixture = em.step(em.init(heated(mixture, beta), batches), batches, settings).mixture
                    moved = mixture.means + JITTER * rng.normal(size=mixture.means.shape)
                    mixture = Mixture(mixture.log_weights, moved, mixture.scales, family)
                    beta, steps = WARMER * beta, steps + AT_EACH
                state = em.run(em.init(mixture, batches), batches, settings, MAX_STEPS)
                made = {"coldest": coldest, "seed": seed, "steps": steps + int(state.n_steps)}
                runs.append(made | {"objective": of_ours(state.mixture).objective(x)})
    return {"runs": runs}


@jax.jit
def heated(mixture: Any, beta: Any) -> Any:
    """The mixture whose ordinary responsibilities are ∝ (π N)^β: covariances Σ/β, weights ∝ π^β |Σ|^((1 − β)/2)."""
    covariances = mixture.covariances
    log_weights = log_softmax(beta * mixture.log_weights + 0.5 * (1.0 - beta) * jnp.linalg.slogdet(covariances)[1])
    scales = mixture.family.read(covariances / beta, mixture.n_features)
    return type(mixture)(log_weights, mixture.means, scales, mixture.family)

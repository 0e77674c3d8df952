"""Two problems whose likelihood has many optima: what is found in which time, where a race is to be cut, and whether
annealing would help.

`grid`: unit Gaussians on a square grid, neighbours APART apart. `fifty`: Gaussians of every orientation that overlap
in ten dimensions. All fits are of full covariances in float64, with the same tol, step limit and ridge, and
are judged by `problems.objective`. Compiling is not in the time of a fit, but stands beside it.

A race needs no timing: with the objectives of whole runs after each step, it is known who would have been in it at the
end, and how many steps would have been made. So one pool of starts, run whole, tells what races of every kind come to.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import isolate
from .child import stopwatch
from .limits import on_device
from .options import Options
from .problems import objective
from .searches import OURS, VARIANT, wanted
from .searching import RIDGE, of_scikit_learn, scikit_learn, score

TOL, MAX_STEPS = 1e-4, 500
SEEDS = 3
ENOUGH = 20.0  # seconds of fits of one way, after which no other seed is begun
LIMIT = 900.0  # seconds for one child
AT_ONCE = 1e9  # a tol with which every run ends after a step: such a call compiles, and does little else
APART, SPREAD = 4.0, 1.5  # of means: standard deviations on the grid, and of a normal
DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
PEERS = {"scikit-learn": "kmeans", VARIANT: "k-means++"}  # init_params


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
        table = np.genfromtxt(DATA / f"{self.name}.csv", delimiter=",", skip_header=1)[:, : self.d]
        return (table - table.mean(axis=0)) / table.std(axis=0)


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
STEPS, SHARES = (5, 10, 20), (1 / 16, 1 / 8, 1 / 4)
RUNNERS, DRAWS = 32, 200  # of a race (as many starts as `fit` makes unless told), and races drawn from a pool
TIE = 1e-6  # nats
COLDEST, WARMER, AT_EACH, JITTER = (0.2, 0.5, 0.8), 1.15, 10, 1e-3


def measure(options: Options) -> dict[str, Any]:
    device, quick = options.devices[0], options.quick
    environment = on_device(device)
    found: dict[str, Any] = {"tol": TOL, "max_steps": MAX_STEPS, "device": device, "problems": [], "races": []}
    found |= {"runners": RUNNERS, "draws": DRAWS, "tie": TIE}

    def ask(function: str, problem: Hard, **request: Any) -> dict[str, Any]:
        request |= {"problem": list(problem)}
        answer = isolate.run(f"benchmarks.hard:{function}", request, LIMIT, environment)
        answer.pop("peak_bytes", None)
        return {"missing": None, **answer}

    def race(problem: Hard, pool: dict[str, Any]) -> None:
        if not pool["missing"]:
            runners = RUNNERS if len(pool["runs"]["steps"]) > RUNNERS else 2
            rows = races(Runs.of(pool["runs"]), runners)
            found["races"].append({"problem": problem.name, "k": problem.k, "runners": runners, "rows": rows})

    n_seeds = 1 if quick else SEEDS
    for problem in QUICK if quick else PROBLEMS:
        of: dict[str, Any] = {**problem._asdict(), "ways": [], "peers": [], "annealing": None}
        found["problems"].append(of)
        if wanted(options, OURS):
            for way in (WAYS[1], WAYS[-1]) if quick else WAYS:
                of["ways"].append({"way": way.name, **ask("ours", problem, way=list(way), seeds=n_seeds)})
                print(f"hard {problem.name}, {way.name}: {said(of['ways'][-1])}", flush=True)
            pool = ask("pool", problem, starts=4 if quick else POOL, seeds=n_seeds)
            race(problem, pool)
            n_starts = 4 if quick else POOL
            whole = {name: value for name, value in pool.items() if name != "runs"}
            of["ways"].append({"way": f"{n_starts} starts", **whole})
            print(f"hard {problem.name}, {n_starts} starts: {said(whole)}", flush=True)
            of["annealing"] = ask("anneal", problem, seeds=n_seeds)
            print(f"hard {problem.name}, annealing: {of['annealing']['missing'] or 'done'}", flush=True)
        for peer, init in PEERS.items():
            if wanted(options, peer) and device == "cpu":
                of["peers"].append({"peer": peer, **ask("theirs", problem, init=init, seconds=problem.seconds)})
                print(f"hard {problem.name}, {peer}: {said(of['peers'][-1])}", flush=True)
    if wanted(options, OURS) and not quick:
        for table in TABLES:
            race(table, ask("pool", table, starts=LARGE_POOL, seeds=1))
    return found


def said(made: dict[str, Any]) -> str:
    if made["missing"]:
        return str(made["missing"])
    return ", ".join(f"{call['objective']:.5f} in {call['seconds']:.2f} s" for call in made["calls"][-SEEDS:])


# In children


def ours(problem: list[Any], way: list[Any], seeds: int) -> dict[str, Any]:
    """Calls of `fit`, one a seed until ENOUGH, and what the first cost to compile."""
    import jax

    import jaxgmm

    asked, how = Hard(*problem), Way(*way)
    x = asked.rows()
    more: dict[str, Any] = {"init": how.init, "n_restarts": how.n_restarts, "race": how.race, "escape": how.escape}
    more |= {"max_steps": MAX_STEPS, "ridge": RIDGE, "dtype": np.float64}

    def fit(seed: int, tol: float = TOL) -> Any:
        return jax.block_until_ready(jaxgmm.fit(jax.random.key(seed), x, asked.k, tol=tol, **more))

    warm_up = [stopwatch(fit, 0, AT_ONCE)[0] for _ in range(2)]
    calls: list[dict[str, Any]] = []
    for seed in range(seeds):
        if sum(call["seconds"] for call in calls) < ENOUGH:
            seconds, result = stopwatch(fit, seed)
            made = {"seed": seed, "seconds": seconds, "objective": judged(result.mixture, x)}
            made |= {"steps": int(np.sum(result.restarts.n_steps))}
            made |= {} if result.escapes is None else {"moves": len(result.escapes) - 1}
            calls.append(made)
    return {"compile_s": warm_up[0] - warm_up[1], "calls": calls}


def pool(problem: list[Any], starts: int, seeds: int) -> dict[str, Any]:
    """As `ours`, of starts run whole, and how each of them went.

    `fit` tells of the winner alone whether the ridge holds it up, so the runs are made by what `fit` is made of.
    """
    import jax

    asked = Hard(*problem)
    x = asked.rows()
    warm_up = [stopwatch(whole, 0, x, asked.k, starts, AT_ONCE)[0] for _ in range(2)]
    calls: list[dict[str, Any]] = []
    runs = []
    for seed in range(seeds):
        if sum(call["seconds"] for call in calls) < ENOUGH:
            seconds, (result, more) = stopwatch(whole, seed, x, asked.k, starts)
            made = {"seed": seed, "seconds": seconds, "objective": judged(result.mixture, x)}
            calls.append(made | {"steps": int(np.sum(result.restarts.n_steps))})
            runs.append(Runs.made(jax.device_get(result.restarts), np.asarray(more)))
    return {"compile_s": warm_up[0] - warm_up[1], "calls": calls, "runs": Runs.joined(runs)._asdict()}


def whole(seed: int, x: np.ndarray, k: int, starts: int, tol: float = TOL) -> tuple[Any, Any]:
    """`fit`'s result, and whether each run ended with a component that the ridge holds up. -> (R,) bool."""
    import jax
    from jax import lax

    from jaxgmm import em
    from jaxgmm._base.precision import precision_for
    from jaxgmm.families import SHELF
    from jaxgmm.rows.door import admit
    from jaxgmm.search import result as results
    from jaxgmm.search import runs as driver
    from jaxgmm.search.start import start

    settings = em.Settings(tol=tol, ridge=RIDGE)
    batches = admit(x, None, k, starts, None, np.float64)
    with precision_for(batches.dtype):
        states = start(jax.random.key(seed), batches, "k-means++", k, SHELF["full"], settings, starts)
        states, histories = driver.run_to_ends(states, batches, settings, MAX_STEPS)
        result = results.best(states, histories, RIDGE, length=results.history_length(MAX_STEPS))
        held_up = lax.map(lambda mixture: results.held_up(mixture, RIDGE), states.mixture)
        return jax.block_until_ready((result, held_up.any(axis=1)))


def theirs(problem: list[Any], init: str, seconds: float) -> dict[str, Any]:
    """scikit-learn's starts one after the other until the time is up: the best so far after each, as n_init does."""
    peer = scikit_learn()
    asked = Hard(*problem)
    x = asked.rows()
    more: dict[str, Any] = {"tol": TOL, "max_iter": MAX_STEPS, "reg_covar": RIDGE, "init_params": init}
    calls: list[dict[str, Any]] = []
    spent, best = 0.0, -math.inf
    while spent < seconds:
        took, model = stopwatch(peer(asked.k, random_state=len(calls), **more).fit, x)
        spent, best = spent + took, max(best, score(of_scikit_learn(model), x))
        calls.append({"seed": len(calls), "seconds": spent, "objective": best, "steps": int(model.n_iter_)})
    return {"calls": calls}


def anneal(problem: list[Any], seeds: int) -> dict[str, Any]:
    """Plain EM, and EM after annealing from each of COLDEST, from the same starts. Ueda and Nakano 1998.

    Responsibilities ∝ (π N)^β are those of another mixture, `heated`. Means are jittered before β rises, since those
    that have become one would never part again.
    """
    import jax
    from jax import lax

    from jaxgmm import em
    from jaxgmm._base.precision import precision_for
    from jaxgmm.em.expectation import expect
    from jaxgmm.em.maximisation import maximise
    from jaxgmm.families import SHELF
    from jaxgmm.mixture import Mixture
    from jaxgmm.priors import Ridge
    from jaxgmm.rows.door import admit
    from jaxgmm.search.start import start

    asked, family = Hard(*problem), SHELF["full"]
    x = asked.rows()
    settings = em.Settings(tol=TOL, ridge=RIDGE)
    batches = admit(x, None, asked.k, 1, None, np.float64)

    @jax.jit
    def at(mixture: Mixture, batches: Any, beta: Any) -> Mixture:
        def step(_: int, mixture: Mixture) -> Mixture:
            return maximise(expect(heated(mixture, beta), batches), mixture.means, family, None, Ridge(RIDGE))

        return lax.fori_loop(0, AT_EACH, step, mixture)

    run = jax.jit(lambda mixture, batches: em.run(em.init(mixture, batches), batches, settings, MAX_STEPS))
    runs = []
    with precision_for(batches.dtype):
        for seed in range(seeds):
            seeded = start(jax.random.key(seed), batches, "k-means++", asked.k, family, settings, 1).mixture
            for coldest in (1.0, *COLDEST):
                mixture = jax.tree.map(lambda leaf: leaf[0], seeded)
                rng, beta, steps = np.random.default_rng(seed), coldest, 0
                while beta < 1.0:
                    mixture = at(mixture, batches, beta)
                    moved = mixture.means + JITTER * rng.normal(size=mixture.means.shape)
                    mixture = Mixture(mixture.log_weights, moved, mixture.scales, family)
                    beta, steps = WARMER * beta, steps + AT_EACH
                state = run(mixture, batches)
                made = {"coldest": coldest, "seed": seed, "steps": steps + int(state.n_steps)}
                runs.append(made | {"objective": judged(state.mixture, x)})
    return {"runs": runs}


def heated(mixture: Any, beta: Any) -> Any:
    """The mixture whose ordinary responsibilities are ∝ (π N)^β: covariances Σ/β, weights ∝ π^β |Σ|^((1 − β)/2)."""
    import jax.numpy as jnp
    from jax.nn import log_softmax

    covariances = mixture.covariances
    log_weights = log_softmax(beta * mixture.log_weights + 0.5 * (1.0 - beta) * jnp.linalg.slogdet(covariances)[1])
    scales = mixture.family.read(covariances / beta, mixture.n_features)
    return type(mixture)(log_weights, mixture.means, scales, mixture.family)


def judged(mixture: Any, x: np.ndarray) -> float:
    return objective("full", x, *map(np.asarray, (mixture.weights, mixture.means, mixture.covariances)))


# Races, from runs that were made whole


class Runs(NamedTuple):
    """How R runs went. −inf where one had failed."""

    steps: np.ndarray  # (R,)
    end: np.ndarray  # (R,): objective, nats
    at: np.ndarray  # (STEPS, R): objective after so many steps, or at the end where that came before
    is_sound: np.ndarray  # (R,): whether the data hold it up

    @classmethod
    def of(cls, lists: dict[str, Any]) -> Runs:
        return cls(*(np.array(lists[name]) for name in cls._fields))

    @classmethod
    def made(cls, restarts: Any, held_up: np.ndarray) -> Runs:
        steps, end = restarts.n_steps, np.asarray(restarts.objective)
        places = np.arange(len(steps))
        at = [np.where(cut < steps, restarts.history[places, np.minimum(cut, steps)], end) for cut in STEPS]
        return cls(steps, end, np.array(at), np.isfinite(end) & ~held_up)

    @classmethod
    def joined(cls, parts: list[Runs]) -> Runs:
        """As lists, with the least finite objective in the place of −inf, of which JSON knows nothing."""
        merged = [np.concatenate(leaves, axis=-1) for leaves in zip(*parts, strict=True)]
        return cls(*(leaf.tolist() for leaf in [merged[0], *map(_finite, merged[1:3]), merged[3]]))

    def best(self, who: np.ndarray, objective: np.ndarray) -> float:
        """The highest objective of these runs, of the sound ones where there are any: as `fit` chooses."""
        sound = who[self.is_sound[who]]
        return float(np.max(objective[sound if len(sound) else who]))

    def race(self, who: np.ndarray, cut: int, finalists: int) -> tuple[float, int]:
        """The best of a race of these runs, cut after STEPS[cut] steps, and the steps that it makes."""
        order = who[np.argsort(-self.at[cut][who], kind="stable")]
        last, out = order[:finalists], order[finalists:]
        steps = np.sum(self.steps[last]) + np.sum(np.minimum(self.steps[out], STEPS[cut]))
        objective = self.end.copy()
        objective[out] = self.at[cut][out]
        return self.best(order, objective), int(steps)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.min(values[np.isfinite(values)], initial=0.0))


def races(runs: Runs, runners: int, draws: int = DRAWS) -> list[dict[str, Any]]:
    """For each way of cutting a race: how far its best lies under the best of the pool, beside that of the same starts
    run whole, and of as many whole starts as make the same number of steps. Means over races drawn from the pool.

    A share of the finalists that is more than all, or less than one, is what `Race` would make of it.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.choice(len(runs.steps), runners, replace=False) for _ in range(draws)]
    everyone = np.arange(len(runs.steps))
    top, each = runs.best(everyone, runs.end), float(np.mean(runs.steps))
    of_all = [runs.best(who, runs.end) for who in drawn]
    all_steps = np.array([np.sum(runs.steps[who]) for who in drawn])
    rows = []
    for cut, steps in enumerate(STEPS):
        for share in SHARES:
            finalists = max(1, int(runners * share))
            raced = [runs.race(who, cut, finalists) for who in drawn]
            found, made = map(np.array, zip(*raced, strict=True))
            n_equal = np.maximum(1, np.round(made / each)).astype(int)
            equal = np.array([runs.best(who[:n], runs.end) for who, n in zip(drawn, n_equal, strict=True)])
            rows.append(
                {
                    "steps": steps,
                    "share": share,
                    "finalists": finalists,
                    "gap_race": top - float(np.mean(found)),
                    "gap_equal_steps": top - float(np.mean(equal)),
                    "gap_whole": top - float(np.mean(of_all)),
                    "share_of_steps": float(np.mean(made / all_steps)),
                    "better": float(np.mean(found - equal > TIE)),
                    "worse": float(np.mean(found - equal < -TIE)),
                }
            )
    return rows

"""Two problems whose likelihood has many optima: what is found in which time.

`grid`: unit Gaussians on a square grid, neighbours APART apart. `fifty`: Gaussians of every orientation that overlap
in ten dimensions. All fits are of full covariances in float64, with the same tol, step limit and ridge, and
are judged by `problems.objective`. Compiling is not in the time of a fit, but stands beside it.
"""

import math
import statistics
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import isolate
from .child import estimator, of_ours, of_scikit_learn
from .markdown import NONE, Columns, bullets, by_columns, digits, duration, percent, size
from .options import Options
from .problems import RIDGE
from .ratios import OURS, REFERENCE, Place
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
FLOOR = 1e-5  # nats: gaps under it are drawn as it, since tol leaves as much open
TIE = 1e-6  # nats
IN_SHORT = ("1 start", "16 starts", "race of 16", "race of 16, escapes")


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
        ask = partial(isolate.ask, time_limit=LIMIT, device=device, problem=problem._asdict())
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
    peer, asked = estimator(REFERENCE), Hard(**problem)
    x = asked.rows()
    more: dict[str, Any] = {"tol": TOL, "max_iter": MAX_STEPS, "reg_covar": RIDGE, "init_params": init}
    calls: list[dict[str, Any]] = []
    spent, best = 0.0, -math.inf
    while spent < seconds:
        took, model = stopwatch(peer(asked.k, random_state=len(calls), **more).fit, x)
        spent, best = spent + took, max(best, of_scikit_learn(model).objective(x))
        calls.append({"seed": len(calls), "seconds": spent, "objective": best, "steps": int(model.n_iter_)})
    return {"calls": calls}


def annealed(problem: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs of deterministic annealing, which only older results have."""
    return (problem.get("annealing") or {}).get("runs", [])


def top(problem: dict[str, Any]) -> float:
    """The highest objective that anyone came to; −inf where nobody came to any."""
    calls = [call for one in (*problem["ways"], *problem["peers"]) for call in one.get("calls", [])]
    return max([one["objective"] for one in (*calls, *annealed(problem))], default=-math.inf)


def made(problem: dict[str, Any], whose: str) -> list[dict[str, Any]]:
    """Those of "ways" or "peers" that were measured, with their calls' gaps to the best objective of all."""
    found = [one for one in problem[whose] if not one["missing"]]
    best = top(problem)
    return [{**one, "gaps": [best - call["objective"] for call in one["calls"]]} for one in found]


def tables(found: dict[str, Any], place: Place) -> list[str]:
    return [
        f"### Hard problems, {place.label}",
        "Full covariances, float64. Times of a call of ours are without compiling, which stands apart; medians over "
        "seeds. A gap is how far the mean log-likelihood lies under the best that anyone found, in nats.",
        *(part for problem in found["problems"] if top(problem) > -math.inf for part in of_problem(problem)),
        *(races(found) if found.get("races") else []),
        *annealing(found["problems"]),
    ]


def of_problem(problem: dict[str, Any]) -> list[str]:
    """Ours by the time that it took, and what scikit-learn's starts, one after the other, had found by then."""
    peers, measured = made(problem, "peers"), {one["way"]: one for one in made(problem, "ways")}
    body: Columns = {
        "seeds": lambda one: len(one["gaps"]),
        "compiling": "compile_s",
        "time": lambda one: duration(middle(one, "seconds")),
        "gap (least–largest)": lambda one: (
            f"{digits(statistics.median(one['gaps']))} ({digits(min(one['gaps']))}–{digits(max(one['gaps']))})"
        ),
        "moves": lambda one: ", ".join(str(call["moves"]) for call in one["calls"] if "moves" in call) or NONE,
        **{f"until {peer['peer']} is as good": partial(until, peer) for peer in peers},
    }
    ended = {one["peer"]: f"missing: {one['missing']}" for one in problem["peers"]}
    for one in peers:
        last = duration(one["calls"][-1]["seconds"])
        ended[one["peer"]] = f"{len(one['gaps'])} starts in {last}, gap {digits(one['gaps'][-1])}"
    return [
        f"{problem['name']}, (N, D, K) = {size(problem)}, best found {top(problem):.5f}. Last columns: until "
        "scikit-learn's best so far was as good as the median of ours, and in brackets how many times as long that is.",
        by_columns([measured.get(one["way"]) or one for one in problem["ways"]], {"ours": "way"}, body),
        bullets(f"{peer}: {said}" for peer, said in ended.items()),
    ]


def middle(one: dict[str, Any], name: str) -> float:
    return statistics.median(call[name] for call in one["calls"])


def until(peer: dict[str, Any], ours: dict[str, Any]) -> str:
    """When this peer's best so far was as good as the median of ours, and how many times as long as ours that is."""
    reached = middle(ours, "objective") - TIE
    there = next((call["seconds"] for call in peer["calls"] if call["objective"] >= reached), None)
    if there is None:
        return f"not in {duration(peer['calls'][-1]['seconds'])}"
    return f"{duration(there)} ({digits(there / middle(ours, 'seconds'))})"


def races(found: dict[str, Any]) -> list[str]:
    """For each problem, races by where they were cut: of older results, which have them."""
    rows = [{**row, **race} for race in found["races"] for row in race["rows"]]
    body: Columns = {
        "cut after": "steps",
        "finalists": "finalists",
        "gap, race": "gap_race",
        "gap, whole at equal steps": "gap_equal_steps",
        "gap, all whole": "gap_whole",
        "steps": lambda row: percent(row["share_of_steps"]),
        "above": lambda row: percent(row["better"]),
        "below": lambda row: percent(row["worse"]),
    }
    return [
        f"Races of {max(race['runners'] for race in found['races'])} starts, drawn {found['draws']} times from a pool "
        "of starts that were run whole: mean gaps to the pool's best, beside those of as many whole starts as make the "
        "same number of steps; the steps that a race makes, of those of all its starts; and how often it ends more "
        f"than {found['tie']:g} nats above, or below, those whole starts.",
        by_columns(rows, {"problem, K": lambda row: f"{row['problem']}, {row['k']}"}, body),
    ]


def annealing(problems: list[dict[str, Any]]) -> list[str]:
    """What annealing came to from the starts of plain EM, in older results."""
    cells = []
    for problem in problems:
        runs = annealed(problem)
        plain = {run["seed"]: run["objective"] for run in runs if run["coldest"] == 1.0}
        for coldest in dict.fromkeys(run["coldest"] for run in runs):
            at = [run for run in runs if run["coldest"] == coldest]
            gaps = [top(problem) - run["objective"] for run in at]
            above = sum(run["objective"] > plain[run["seed"]] + TIE for run in at)
            cell = {"name": problem["name"], "how": f"from β = {coldest:g}", "mean": statistics.fmean(gaps)}
            cell |= {"least": min(gaps), "steps": f"{statistics.median(run['steps'] for run in at):g}"}
            cells.append(cell | ({"how": "plain EM"} if coldest == 1.0 else {"above": f"{above} of {len(at)}"}))
    body: Columns = {"mean gap": "mean", "least gap": "least", "steps": "steps", "above plain EM": "above"}
    title = "Deterministic annealing, which is not offered, from the same k-means++ starts:"
    return [by_columns(cells, {"problem": "name", "annealing": "how"}, body, title)]


def readme(place: Place) -> str:
    """In short: how long scikit-learn takes until it is as good as ours."""
    cells = [
        {**one, "name": f"{problem['name']} {size(problem)}, {one['way']}", "top": top(problem), "peer": peers[0]}
        for problem in place.section("hard").get("problems", [])
        for one in made(problem, "ways")
        if one["way"] in IN_SHORT and (peers := made(problem, "peers"))
    ]
    body: Columns = {
        OURS: lambda cell: duration(middle(cell, "seconds")),
        "gap": lambda cell: digits(cell["top"] - middle(cell, "objective")),
        f"{REFERENCE} as good after": lambda cell: until(cell["peer"], cell),
    }
    said = (
        f"Two problems with many optima in float64, {place.label}: the time of a call, without compiling; how far its "
        "mean log-likelihood lies under the best that was found, in nats; and until the best of scikit-learn's starts "
        "was as good, with how many times as long that is."
    )
    return by_columns(cells, {"problem (N, D, K), search": "name"}, body, said)


def curves(problem: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Points (seconds, gap) by name: ours a point a seed; a peer's best so far a point a start."""
    named = {one["way"]: one for one in made(problem, "ways")} | {one["peer"]: one for one in made(problem, "peers")}
    return {
        name: [(call["seconds"], max(FLOOR, gap)) for call, gap in zip(one["calls"], one["gaps"], strict=True)]
        for name, one in named.items()
    }


def whole_starts(problem: dict[str, Any]) -> list[tuple[float, float]]:
    """The medians of (seconds, gap) of few starts and of many, without a race or escapes."""
    found = [one for one in made(problem, "ways") if one["way"].split()[1:] in (["start"], ["starts"])]
    return sorted((middle(one, "seconds"), max(FLOOR, statistics.median(one["gaps"]))) for one in found)

"""Many small problems, one model each: `fit_many` against loops over scikit-learn's and tgmm's `fit`.

Every contender has a process of its own. Ours is timed whole: the first call with what it compiles, later calls on
other data. A loop's problems all take about as long, so TIMED of them are timed, and a call of all is told as so many
times longer. scikit-learn is timed as it comes and, as "scikit-learn, one thread", with the threads of its libraries
held to one: on tables this small they cost more than they bring. All choose their own starts, by default.
"""

import statistics
from typing import Any

import numpy as np

from . import isolate
from .child import estimator, unlike_clusters
from .markdown import by_columns, of_calls, size
from .options import Options
from .problems import RIDGE
from .ratios import OURS, REFERENCE, Place
from .timing import stopwatch

ALONE = f"{REFERENCE}, one thread"
CONTENDERS = (OURS, REFERENCE, ALONE, "tgmm")
ONE_THREAD = dict.fromkeys(isolate.THREADS, "1")
TASKS = ({"n_problems": 10_000, "n": 300, "d": 2, "k": 2}, {"n_problems": 1_000, "n": 2_000, "d": 8, "k": 5})
QUICK_TASKS = ({"n_problems": 20, "n": 60, "d": 2, "k": 2},)
TIMED = 200
LATER = 3
LIMIT = 900.0  # seconds for one contender


def measure(options: Options) -> dict[str, Any]:
    tasks = []
    for task in QUICK_TASKS if options.quick else TASKS:
        cells = []
        for device, dtype, contender in options.places(CONTENDERS, options.dtypes):
            asked = {"contender": contender.partition(",")[0], "dtype": dtype, **task}
            answer = isolate.ask(timed, LIMIT, device, ONE_THREAD if contender == ALONE else {}, **asked)
            cells.append({**answer, "contender": contender})
        tasks.append({**task, "cells": cells})
    return {"tasks": tasks, "timed": TIMED}


def problems(seed: int, count: int, n: int, d: int, k: int, dtype: str) -> np.ndarray:
    """Rows (B, N, D) of overlapping clusters of unlike shapes, other ones in each problem."""
    return np.stack([unlike_clusters(100_000 * seed + b, n, d, k, dtype) for b in range(count)])


def timed(n_problems: int, n: int, d: int, k: int, contender: str, dtype: str) -> dict[str, Any]:
    """In a child: seconds of a call of all problems: of ours the first and later ones, on two sets of tables by turns;
    of a peer as many times those of the TIMED problems that its loop makes."""
    if contender == OURS:
        import jax  # here, since peers' processes run this function, too

        import jaxgmm

        xs = [problems(seed, n_problems, n, d, k, dtype) for seed in range(2)]
        how: dict[str, Any] = {"dtype": np.dtype(dtype), "ridge": RIDGE}
        key = jax.random.key(0)
        calls = [stopwatch(jaxgmm.fit_many, key, xs[call % 2], k, **how) for call in range(1 + LATER)]
        (first, _), *later = calls
        mean_steps = float(np.mean(np.asarray(later[-1][1].n_steps)))
        seconds = statistics.median(seconds for seconds, _ in later)
        return {"first_call_s": first, "second_call_s": seconds, "mean_steps": mean_steps}
    peer, count = estimator(contender), min(n_problems, TIMED)
    xs = problems(0, count, n, d, k, dtype)

    def fit(seed: int, x: np.ndarray) -> int:
        return int(peer(k, random_state=seed, reg_covar=RIDGE).fit(x).n_iter_)

    fit(0, xs[0])  # what a library does once
    seconds, steps = stopwatch(lambda: [fit(b, x) for b, x in enumerate(xs)])
    return {"second_call_s": seconds * n_problems / count, "n_timed": count, "mean_steps": float(np.mean(steps))}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """Of every task, seconds of a call of all problems, and how often ours takes that."""
    parts = []
    for task in found["tasks"]:
        # Loops compile nothing: their first call is like any other.
        cells = [{"first_call_s": cell.get("second_call_s"), **cell} for cell in place.cells(task)]
        title = f"{task['n_problems']} problems of (N, D, K) = {size(task)}, full:"
        parts.append(by_columns(cells, *of_calls(cells, {"steps, mean": "mean_steps"}), title))
        if cells and task.get("common_starts"):
            said = (
                "{count} ends less scikit-learn's from common starts, float64: least {least:.1e}, median {median:.1e} "
                "nats a row; {below} lie below by more than {not_below:g}."
            )
            parts.append(said.format(**{**task, **task["common_starts"]}))
    return [f"### Many small problems, {place.label}", *parts] if any(parts) else []

"""Many small problems, one model each: `fit_many` against loops over scikit-learn's and tgmm's `fit`.

Every contender has a process of its own. Ours is timed whole: the first call with what it compiles, later calls on
other data. A loop's problems all take about as long, so TIMED of them are timed, and a call of all is told as so many
times longer. scikit-learn is timed as it comes and, as "scikit-learn, one thread", with the threads of its libraries
held to one: on tables this small they cost more than they bring. All contenders choose their own starts, at their
defaults.

Whether ours ends as high is asked from common starts: means at random rows of each of SAMPLE problems, a tol of
1e-6, and the mean log-likelihood (nats, in float64 by `problems.objective`) of what each program returns.
"""

import statistics
from itertools import product
from typing import Any

import numpy as np

from . import isolate
from .child import estimator, of_ours, of_scikit_learn, scikit_learn, unlike_clusters
from .markdown import by_columns, of_calls, size
from .options import Options
from .problems import RIDGE
from .ratios import OURS, REFERENCE, Place
from .timing import stopwatch

ALONE = f"{REFERENCE}, one thread"
CONTENDERS = (OURS, REFERENCE, ALONE, "tgmm")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TASKS: tuple[dict[str, Any], ...] = (
    {"n_problems": 10_000, "n": 300, "d": 2, "k": 2},
    {"n_problems": 1_000, "n": 2_000, "d": 8, "k": 5},
)
QUICK_TASKS: tuple[dict[str, Any], ...] = ({"n_problems": 20, "n": 60, "d": 2, "k": 2},)
TIMED = 200
LATER = 3
SAMPLE = 50
COMMON = {"tol": 1e-6, "max_steps": 500}
NOT_BELOW = 1e-6  # nats a row by which an end of ours may lie under theirs
LIMIT = 900.0  # seconds for one contender


def measure(options: Options) -> dict[str, Any]:
    tasks = []
    for task in QUICK_TASKS if options.quick else TASKS:
        cells = [
            one(task, contender, dtype, device)
            for device, dtype, contender in product(options.devices, options.dtypes, CONTENDERS)
            if is_wanted(options, contender, dtype, device)
        ]
        common = isolate.ask(common_starts, LIMIT, options.devices[0], **task)
        tasks.append({**task, "not_below": NOT_BELOW, "cells": cells, "common_starts": common})
    return {"tasks": tasks, "timed": TIMED}


def is_wanted(options: Options, contender: str, dtype: str, device: str) -> bool:
    """Ours everywhere; peers on the CPU, and all but scikit-learn as it comes in the first dtype."""
    is_here = device == "cpu" and (contender == REFERENCE or dtype == options.dtypes[0])
    return options.wants(contender) and (contender == OURS or is_here)


def one(task: dict[str, Any], contender: str, dtype: str, device: str) -> dict[str, Any]:
    environment = ONE_THREAD if contender == ALONE else {}
    program = contender.partition(",")[0]
    answer = isolate.ask(timed, LIMIT, device, environment, contender=program, dtype=dtype, **task)
    return {**answer, "contender": contender}


def problems(seed: int, count: int, n: int, d: int, k: int, dtype: str) -> np.ndarray:
    """Rows (B, N, D) of overlapping clusters of unlike shapes, other ones in each problem."""
    return np.stack([unlike_clusters(100_000 * seed + b, n, d, k, dtype) for b in range(count)])


def timed(n_problems: int, n: int, d: int, k: int, contender: str, dtype: str) -> dict[str, Any]:
    """Seconds of a call of all problems: of ours the first and later ones, on two sets of tables by turns; of a peer
    as many times those of the TIMED problems that its loop makes."""
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


def common_starts(n_problems: int, n: int, d: int, k: int) -> dict[str, Any]:
    """Ends of ours less those of scikit-learn, nats a row, from the same mixtures, in float64."""
    import jax

    import jaxgmm

    peer, count = scikit_learn(), min(n_problems, SAMPLE)
    xs = problems(0, count, n, d, k, "float64")
    means = np.stack([x[np.random.default_rng(b).choice(n, k, replace=False)] for b, x in enumerate(xs)])
    covariance = np.stack([np.cov(x.T) for x in xs])
    weights, dense = np.full(k, 1.0 / k), np.repeat(covariance[:, None], k, axis=1)
    starts = [jaxgmm.Mixture.create(weights, *of, dtype=np.float64) for of in zip(means, dense, strict=True)]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    found = jaxgmm.fit_many(jax.random.key(0), xs, k, init=stack, dtype=np.float64, ridge=RIDGE, **COMMON)
    how = {"weights_init": weights, "tol": COMMON["tol"], "max_iter": COMMON["max_steps"], "reg_covar": RIDGE}
    less = []
    for b, x in enumerate(xs):
        theirs = peer(k, means_init=means[b], precisions_init=np.linalg.inv(dense[b]), **how).fit(x)
        less.append(of_ours(found[b].mixture).objective(x) - of_scikit_learn(theirs).objective(x))
    below = sum(value < -NOT_BELOW for value in less)
    return {"count": count, "least": min(less), "median": float(np.median(less)), "below": below}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """Of every task, seconds of a call of all problems, and how often ours takes that."""
    parts = []
    for task in found["tasks"]:
        # Loops compile nothing: their first call is like any other.
        cells = [{"first_call_s": cell.get("second_call_s"), **cell} for cell in place.cells(task)]
        ends = task["common_starts"]
        said = ends["missing"] or (
            f"{ends['count']} ends less scikit-learn's from common starts, float64: least {ends['least']:.1e}, median "
            f"{ends['median']:.1e} nats a row; {ends['below']} lie below by more than {task['not_below']:g}"
        )
        if cells:
            title = f"{task['n_problems']} problems of (N, D, K) = {size(task)}, full:"
            parts += [title, by_columns(cells, *of_calls(cells, {"steps, mean": "mean_steps"})), f"{said}."]
    return [f"### Many small problems, {place.label}", *parts] if parts else []

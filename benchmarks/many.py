"""Many small problems, one model each: `fit_many` against loops over scikit-learn's and tgmm's `fit`.

Every contender has a process of its own. Ours is timed whole: the first call with what it compiles, later calls on
other data. A loop's problems all take about as long, so TIMED of them are timed, and a call of all is told as so many
times longer. scikit-learn is timed as it comes and, as "scikit-learn, one thread", with the threads of its libraries
held to one: on tables this small they cost more than they bring. All contenders choose their own starts, at their
defaults.

Whether ours ends as high is asked from common starts: means at random rows of each of SAMPLE problems, a tol of
1e-6, and the mean log-likelihood (nats, in float64 by `problems.objective`) of what each program returns.
"""

from __future__ import annotations

import importlib
import time
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np

from . import isolate
from .child import stopwatch
from .isolate import Unsupported
from .limits import on_device
from .options import Options
from .problems import objective
from .searching import RIDGE, rows, scikit_learn

OURS, PEER = "jaxgmm", "scikit-learn"
CONTENDERS = (OURS, PEER, f"{PEER}, one thread", "tgmm")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TASKS = (
    {"n_problems": 10_000, "n": 300, "d": 2, "k": 2},
    {"n_problems": 1_000, "n": 2_000, "d": 8, "k": 5},
)
TIMED = 200
LATER = 3
SAMPLE = 50
COMMON = {"tol": 1e-6, "max_steps": 500}
NOT_BELOW = 1e-6  # nats a row by which an end of ours may lie under theirs
LIMIT = 900.0  # seconds for one contender


def measure(options: Options) -> dict[str, Any]:
    tasks = []
    for task in TASKS:
        asked = {**task, "n_problems": 20, "n": 60, "d": 2, "k": 2} if options.quick else task
        cells = [
            one(asked, contender, dtype, device)
            for device in options.devices
            for dtype in options.dtypes
            for contender in CONTENDERS
            if is_wanted(options, contender, dtype, device)
        ]
        common = isolate.run(f"{__name__}:common_starts", asked, LIMIT, on_device(options.devices[0]))
        common.pop("peak_bytes", None)
        print(f"many, from common starts: {common}", flush=True)
        tasks.append({**asked, "not_below": NOT_BELOW, "cells": cells, "common_starts": {"missing": None, **common}})
        if options.quick:
            break
    return {"tasks": tasks, "timed": TIMED}


def is_wanted(options: Options, contender: str, dtype: str, device: str) -> bool:
    """Ours everywhere; peers on the CPU, and a variant of one in the first dtype."""
    if options.contenders is not None and contender.partition(",")[0] not in options.contenders:
        return False
    return contender == OURS or (device == "cpu" and (contender == PEER or dtype == options.dtypes[0]))


def one(task: dict[str, int], contender: str, dtype: str, device: str) -> dict[str, Any]:
    """A line of results, said aloud as it comes."""
    name, _, variant = contender.partition(",")
    environment = on_device(device) | (ONE_THREAD if variant else {})
    answer = isolate.run(f"{__name__}:timed", {**task, "contender": name, "dtype": dtype}, LIMIT, environment)
    answer.pop("peak_bytes", None)
    of = {"contender": contender, "dtype": dtype, "device": device}
    size = f"{task['n_problems']} of ({task['n']}, {task['d']}, {task['k']})"
    print(f"many {size} {contender} {dtype} {device}: {answer.get('missing') or answer}", flush=True)
    return {**of, "missing": None, **answer}


def problems(task: dict[str, int], seed: int, count: int, dtype: str) -> np.ndarray:
    """Rows (B, N, D) of overlapping clusters of unlike shapes, other ones in each problem."""
    return np.stack([rows(100_000 * seed + b, task["n"], task["d"], task["k"], dtype) for b in range(count)])


def timed(n_problems: int, n: int, d: int, k: int, contender: str, dtype: str) -> dict[str, Any]:
    """Seconds of a call of all problems, the first and later ones, by the clock and by the processor."""
    task = {"n": n, "d": d, "k": k}
    if contender == OURS:
        import jax

        import jaxgmm

        xs = [problems(task, seed, n_problems, dtype) for seed in range(2)]
        key = jax.random.key(0)
        spent: list[tuple[float, float]] = []
        steps = 0.0
        for call in range(1 + LATER):
            before = time.process_time()
            seconds, result = stopwatch(jaxgmm.fit_many, key, xs[call % 2], k, dtype=np.dtype(dtype), ridge=RIDGE)
            spent.append((seconds, time.process_time() - before))
            steps = float(np.mean(np.asarray(result.n_steps)))
        later = sorted(spent[1:])[LATER // 2]
        return {
            "first_call_s": spent[0][0],
            "first_call_cpu_s": spent[0][1],
            "second_call_s": later[0],
            "second_call_cpu_s": later[1],
            "mean_steps": steps,
        }
    count = min(n_problems, TIMED)
    xs = problems(task, 0, count, dtype)
    fit = looped(contender, k, d)
    fit(0, xs[0])  # what a library does once
    before, began = time.process_time(), time.perf_counter()
    steps = [fit(b, xs[b]) for b in range(count)]
    seconds, cpu = time.perf_counter() - began, time.process_time() - before
    share = n_problems / count
    return {
        "second_call_s": seconds * share,
        "second_call_cpu_s": cpu * share,
        "n_timed": count,
        "mean_steps": float(np.mean(steps)),
    }


def looped(contender: str, k: int, d: int) -> Any:
    """fit(seed, x) -> steps of one problem, by a peer at its defaults. `Unsupported` where it is not installed."""
    if contender == PEER:
        peer = scikit_learn()
        return lambda seed, x: int(peer(n_components=k, reg_covar=RIDGE, random_state=seed).fit(x).n_iter_)
    if find_spec("tgmm") is None:
        raise Unsupported("not installed")
    torch, tgmm = (importlib.import_module(name) for name in ("torch", "tgmm"))
    warnings.filterwarnings("ignore")

    def fit(seed: int, x: np.ndarray) -> int:
        model = tgmm.GaussianMixture(n_components=k, n_features=d, reg_covar=RIDGE, random_state=seed, device="cpu")
        model.fit(torch.from_numpy(x))
        return int(model.n_iter_)

    return fit


def common_starts(n_problems: int, n: int, d: int, k: int) -> dict[str, Any]:
    """Ends of ours less those of scikit-learn, nats a row, from the same mixtures, in float64."""
    import jax

    import jaxgmm

    peer, count = scikit_learn(), min(n_problems, SAMPLE)
    xs = problems({"n": n, "d": d, "k": k}, 0, count, "float64")
    means = np.stack([x[np.random.default_rng(b).choice(n, k, replace=False)] for b, x in enumerate(xs)])
    covariance = np.stack([np.cov(x.T) for x in xs])
    weights, dense = np.full(k, 1.0 / k), np.repeat(covariance[:, None], k, axis=1)
    starts = [jaxgmm.Mixture.create(weights, *of, dtype=np.float64) for of in zip(means, dense, strict=True)]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    found = jaxgmm.fit_many(jax.random.key(0), xs, k, init=stack, dtype=np.float64, ridge=RIDGE, **COMMON)
    less = []
    for b, x in enumerate(xs):
        more = {"weights_init": weights, "means_init": means[b], "precisions_init": np.linalg.inv(dense[b])}
        more |= {"tol": COMMON["tol"], "max_iter": COMMON["max_steps"], "reg_covar": RIDGE}
        theirs = peer(n_components=k, **more).fit(x)
        ours = found[b].mixture
        less.append(
            objective("full", x, *map(np.asarray, (ours.weights, ours.means, ours.covariances)))
            - objective("full", x, theirs.weights_, theirs.means_, theirs.covariances_)
        )
    return {"count": count, "least": min(less), "median": float(np.median(less)), "below": below(less)}


def below(less: list[float]) -> int:
    """How many ends of ours lie under theirs by more than is allowed."""
    return sum(value < -NOT_BELOW for value in less)

"""What people run: 64 restarts, a search over K and types, a first fit to a small table, a photograph.

Ours against scikit-learn, each in its own process, with the mean log-likelihood (nats, in float64 by
`problems.objective`) or the criterion reached beside every time. Both are given the same data, tol, step limit and
ridge. scikit-learn is timed with its own default start (a k-means of its own for every restart) and, as "scikit-learn,
k-means++", with the start that ours uses. A first call counts compiling; later calls fit other data of the same shape,
or from other seeds.
"""

from __future__ import annotations

import math
import tempfile
from typing import Any

from . import isolate
from .child import spread
from .limits import on_device
from .options import Options

OURS = "jaxgmm"
PEERS = {"scikit-learn": "kmeans", "scikit-learn, k-means++": "k-means++"}  # its init_params
STARTS = {OURS: "k-means++", **PEERS}
TOL, MAX_STEPS = 1e-3, 200
CHILDREN = "benchmarks.searching"
PROCESSES = 3
LIMIT = 1800.0  # seconds for one contender in one dtype


def measure(options: Options) -> dict[str, Any]:
    quick = options.quick
    common = {"tol": TOL, "max_steps": MAX_STEPS, "later": 1 if quick else min(3, options.repeats)}
    size = {"n": 1_000 if quick else 5_000, "d": 4}
    restarts = {**common, **size, "k": 5, "n_restarts": 8 if quick else 64}
    types = ["full", "tied", "diag", "spherical"][: 2 if quick else 4]
    sweep = {**common, **size, "counts": list(range(1, 3 if quick else 11)), "families": types}
    sweep |= {"n_restarts": 2 if quick else 8, "later": 1}
    photograph = {**common, "k": 8, "max_steps": 10 if quick else 50, "every": 64 if quick else 1}
    return {
        "restarts": section(options, "restarts", restarts),
        "sweep": section(options, "sweep", sweep),
        "small": small(options, {"n": 2_000, "d": 2, "k": 5}),
        "photograph": section(options, "photograph", photograph),
    }


def wanted(options: Options, contender: str) -> bool:
    """Whether the run asks for this contender; scikit-learn's variants go by its name."""
    return options.contenders is None or contender.partition(",")[0] in options.contenders


def section(options: Options, function: str, request: dict[str, Any]) -> dict[str, Any]:
    """A function of `searching` for every contender, dtype and device; peers run on the CPU alone."""
    cells = []
    for device in options.devices:
        for dtype in options.dtypes:
            for contender, init in STARTS.items():
                if not wanted(options, contender) or (contender != OURS and device != "cpu"):
                    continue
                asked = {**request, "contender": contender.partition(",")[0], "init": init, "dtype": dtype}
                answer = isolate.run(f"{CHILDREN}:{function}", asked, LIMIT, on_device(device))
                cells.append(cell(function, contender, dtype, device, answer))
    return {**request, "cells": cells}


def small(options: Options, size: dict[str, int]) -> dict[str, Any]:
    """A first and a second fit in a fresh process, at each program's defaults; ours also with a cache of programs.

    Of several processes, the one whose first call took the middle time.
    """
    cells = []

    def one(contender: str, how: str, dtype: str, device: str, caches: tuple[str | None, ...] = (None,)) -> None:
        asked = {**size, "contender": contender, "how": how, "dtype": dtype}
        tried: dict[str | None, list[dict[str, Any]]] = {cache: [] for cache in caches}
        for _ in range(1 if options.quick else PROCESSES):
            with tempfile.TemporaryDirectory() as folder:
                # Every program is worth keeping here, however short its compilation was.
                kept = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
                for cache in caches:
                    environment = on_device(device) | (kept if cache else {})
                    tried[cache].append(isolate.run(f"{CHILDREN}:small", asked, LIMIT, environment))
        for cache, answers in tried.items():
            answers.sort(key=lambda answer: answer.get("first_call_s", math.inf))
            middle = answers[(len(answers) - 1) // 2]
            runs = [answer["first_call_s"] for answer in answers if "first_call_s" in answer]
            more = {} if "missing" in middle else {"first_calls_s": spread(runs)}
            cells.append(cell("small", contender, dtype, device, middle | more, how=how, cache=cache))

    for device in options.devices:
        for dtype in options.dtypes:
            if device == "cpu" and wanted(options, "scikit-learn"):
                one("scikit-learn", "GaussianMixture", dtype, device)
            ways = ("fit",) if options.quick else ("GaussianMixture", "fit")
            for how in ways if wanted(options, OURS) else ():
                one(OURS, how, dtype, device)
                one(OURS, how, dtype, device, ("empty cache", "filled cache"))
    return {**size, "cells": cells}


def cell(what: str, contender: str, dtype: str, device: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One line of results, said aloud as it comes."""
    of = {"contender": contender, "dtype": dtype, "device": device, **more}
    answer = {name: value for name, value in answer.items() if name != "peak_bytes"}
    named = " ".join(str(value) for value in of.values() if value)
    times = [f"{answer[name]:.3f} s" for name in ("first_call_s", "second_call_s") if name in answer]
    print(f"{what} {named}: {answer.get('missing') or ' then '.join(times)}", flush=True)
    return {**of, "missing": None, **answer}

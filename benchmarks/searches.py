"""What people run: 64 restarts, a search over K and types, a first fit to a small table, a photograph.

Ours against scikit-learn, each in its own process, with the mean log-likelihood (nats, in float64 by
`problems.objective`) or the criterion reached beside every time. Both are given the same data, tol, step limit and
ridge. scikit-learn is timed with its own default start (a k-means of its own for every restart) and, as "scikit-learn,
k-means++" and in the first dtype, with the start that ours uses. A first call counts compiling; later calls fit other
data of the same shape, or from other seeds: LATER of ours, and one of scikit-learn, which compiles nothing; of a sweep
LATER of everyone, on the same tables. The sweep
and the first fit, where ours is mostly compilation, are done in the first dtype.

Whether ours finds as good optima is asked of every cell of such a sweep: from the same starts, where it must, and with
as many restarts of each program's own (`cells.py`).
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
VARIANT = "scikit-learn, k-means++"
STARTS = {OURS: "k-means++", "scikit-learn": "kmeans", VARIANT: "k-means++"}  # init, init_params
TOL, MAX_STEPS = 1e-3, 200
CHILDREN = "benchmarks.searching"
PROCESSES = 3
WAYS = ("GaussianMixture", "fit")  # of ours
CACHES = ((None,), ("empty cache", "filled cache"))  # of compiled programs: the second process finds those of the first
LATER = 3
LIMIT = 900.0  # seconds for one contender in one dtype
COMMON = {"tol": 1e-6, "max_steps": 500, "seeds": 3}
FREE = {"n_restarts": 8, "tol": TOL, "their_restarts": 8, "seeds": 5, "polish": 1e-9}
LONGER = {**FREE, "n_restarts": 16, "tol": 1e-4}  # where ours may take more of the time that theirs does
COMPARED = (
    ("common_starts", "common_starts", COMMON),
    ("free_starts", "free_starts", FREE),
    ("longer_starts", "free_starts", LONGER),
)
CHOICES = {"n_restarts": 16, "tol": 1e-9, "max_steps": 5_000}
NOT_BELOW = 1e-6  # nats a row by which a cell of ours may lie under theirs


def measure(options: Options) -> dict[str, Any]:
    quick = options.quick
    common = {"tol": TOL, "max_steps": MAX_STEPS}
    size = {"n": 1_000 if quick else 5_000, "d": 4}
    restarts = {**common, **size, "k": 5, "n_restarts": 2 if quick else 64}
    types = ["full", "tied", "diag", "spherical"][: 1 if quick else 4]
    sweep = {**common, **size, "counts": [2] if quick else list(range(1, 11)), "families": types}
    sweep |= {"n_restarts": 2 if quick else 8}
    photograph = {**common, "k": 8, "max_steps": 10 if quick else 50, "every": 64 if quick else 1}
    return {
        "restarts": section(options, "restarts", restarts, options.dtypes),
        "sweep": section(options, "sweep", sweep, options.dtypes[:1], {**STARTS, "tgmm": "kpp"}),
        **cells(options, {**size, "counts": sweep["counts"], "families": types}),
        **choices(options),
        "small": small(options, {"n": 2_000, "d": 2, "k": 5}, options.dtypes[:1]),
        "photograph": section(options, "photograph", photograph, options.dtypes),
    }


def wanted(options: Options, contender: str) -> bool:
    """Whether the run asks for this contender; scikit-learn's variants go by its name."""
    return options.contenders is None or contender.partition(",")[0] in options.contenders


def section(
    options: Options, function: str, request: dict[str, Any], dtypes: tuple[str, ...], starts: dict[str, str] = STARTS
) -> dict[str, Any]:
    """A function of `searching` for every contender, dtype and device; peers run on the CPU alone."""
    cells = []
    for device in options.devices:
        for dtype in dtypes:
            for contender, init in starts.items():
                if not wanted(options, contender) or (contender != OURS and device != "cpu"):
                    continue
                if contender == VARIANT and (options.quick or dtype != options.dtypes[0]):
                    continue
                asked = {**request, "contender": contender.partition(",")[0], "init": init, "dtype": dtype}
                asked["later"] = LATER if contender == OURS or function == "sweep" else 1
                answer = isolate.run(f"{CHILDREN}:{function}", asked, LIMIT, on_device(device))
                cells.append(cell(function, contender, dtype, device, answer))
    return {**request, "cells": cells}


def cells(options: Options, asked: dict[str, Any]) -> dict[str, Any]:
    """Both comparisons of cells; none where not both programs were asked for."""
    found: dict[str, Any] = {}
    if not all(wanted(options, contender) for contender in (OURS, "scikit-learn")):
        return found
    for name, function, how in COMPARED:
        request = {**asked, **how} | ({"seeds": 1} if options.quick else {})
        answer = isolate.run(f"benchmarks.cells:{function}", request, LIMIT, on_device(options.devices[0]))
        answer.pop("peak_bytes", None)
        found[name] = {**request, "not_below": NOT_BELOW, "device": options.devices[0], "missing": None, **answer}
        print(f"{name}: {answer.get('missing') or len(answer.get('cells', []))}", flush=True)
    return found


def choices(options: Options) -> dict[str, Any]:
    """What ours and mclust choose on the data sets that mclust's figures are stored for."""
    if options.quick or not wanted(options, OURS):
        return {}
    answer = isolate.run("benchmarks.cells:choices", CHOICES, LIMIT, on_device(options.devices[0]))
    answer.pop("peak_bytes", None)
    print(f"choices: {answer.get('missing') or len(answer.get('sets', []))}", flush=True)
    return {"choices": {**CHOICES, "device": options.devices[0], "missing": None, **answer}}


def small(options: Options, size: dict[str, int], dtypes: tuple[str, ...]) -> dict[str, Any]:
    """A first and a second fit in a fresh process, at each program's defaults; ours also with a cache of programs.

    Of several processes, the one whose first call took the middle time.
    """
    cells = []

    def one(contender: str, how: str, dtype: str, device: str, caches: tuple[str | None, ...] = CACHES[0]) -> None:
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
        for dtype in dtypes:
            if device == "cpu" and wanted(options, "scikit-learn"):
                one("scikit-learn", "GaussianMixture", dtype, device)
            for how in WAYS[-1:] if options.quick else WAYS:
                for caches in CACHES[-1:] if options.quick else CACHES:
                    if wanted(options, OURS):
                        one(OURS, how, dtype, device, caches)
    return {**size, "cells": cells}


def cell(what: str, contender: str, dtype: str, device: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One line of results, said aloud as it comes."""
    of = {"contender": contender, "dtype": dtype, "device": device, **more}
    answer = {name: value for name, value in answer.items() if name != "peak_bytes"}
    named = " ".join(str(value) for value in of.values() if value)
    times = [f"{answer[name]:.3f} s" for name in ("first_call_s", "second_call_s") if name in answer]
    print(f"{what} {named}: {answer.get('missing') or ' then '.join(times)}", flush=True)
    return {**of, "missing": None, **answer}

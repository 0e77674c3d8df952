"""What people run: 64 restarts, a search over K and types, a photograph.

Ours against scikit-learn, each in its own process, with the mean log-likelihood (nats, in float64 by
`problems.objective`) or the criterion reached beside every time. Both are given the same data, tol, step limit and
ridge. scikit-learn is timed with its own default start (a k-means of its own for every restart) and, as "scikit-learn,
k-means++" and in the first dtype, with the start that ours uses. A first call counts compiling; later calls fit other
data of the same shape, or from other seeds: LATER of ours, and one of scikit-learn, which compiles nothing; of a sweep
LATER of everyone, on the same tables. The sweep, where ours is mostly compilation, is done in the first dtype.

Whether ours finds as good optima is asked of every cell of such a sweep, with as many restarts of each program's own.
Older results have more: cells from the same starts, which tests hold to end alike, choices beside mclust's, and first
fits in fresh processes, which `first_calls` measures.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

from . import isolate, searching
from .options import Options
from .ratios import OURS, REFERENCE
from .searches_tables import tables as tables

VARIANT = f"{REFERENCE}, k-means++"
STARTS = {OURS: "k-means++", REFERENCE: "kmeans", VARIANT: "k-means++"}  # init, init_params
TOL, MAX_STEPS = 1e-3, 200
LATER = 3
LIMIT = 900.0  # seconds for one contender in one dtype
FREE = {"n_restarts": 8, "tol": TOL, "their_restarts": 8, "seeds": 5, "polish": 1e-6}
LONGER = {**FREE, "n_restarts": 16, "tol": 1e-4}  # where ours may take more of the time that theirs does
COMPARED = {"free_starts": FREE, "longer_starts": LONGER}
NOT_BELOW = 1e-6  # nats a row by which a cell of ours may lie under theirs


def measure(options: Options) -> dict[str, Any]:
    quick = options.quick
    common = {"tol": TOL, "max_steps": MAX_STEPS}
    size = {"n": 1_000 if quick else 5_000, "d": 4}
    restarts = {**common, **size, "k": 5, "n_restarts": 2 if quick else 64}
    types = ["full", "tied", "diag", "spherical"][: 1 if quick else 4]
    grid = {**size, "counts": [2] if quick else list(range(1, 11)), "families": types}
    sweep = {**common, **grid, "n_restarts": 2 if quick else 8}
    photograph = {**common, "k": 8, "max_steps": 10 if quick else 50, "every": 64 if quick else 1}
    return {
        "restarts": beside_peers(options, searching.restarts, restarts, options.dtypes),
        "sweep": beside_peers(options, searching.sweep, sweep, options.dtypes[:1], {**STARTS, "tgmm": "kpp"}),
        **of_cells(options, grid),
        "photograph": beside_peers(options, searching.photograph, photograph, options.dtypes),
    }


def beside_peers(
    options: Options,
    function: Callable[..., dict[str, Any]],
    request: dict[str, Any],
    dtypes: tuple[str, ...],
    starts: dict[str, str] = STARTS,
) -> dict[str, Any]:
    """A function of `searching` for every contender, dtype and device; peers run on the CPU alone."""
    found = []
    for device, dtype, (contender, init) in product(options.devices, dtypes, starts.items()):
        is_variant = contender == VARIANT and (options.quick or dtype != options.dtypes[0])
        if options.wants(contender) and not is_variant and (contender == OURS or device == "cpu"):
            asked = {**request, "contender": contender.partition(",")[0], "init": init, "dtype": dtype}
            asked["later"] = LATER if contender == OURS or function is searching.sweep else 1
            found.append({**isolate.ask(function, LIMIT, device, **asked), "contender": contender})
    return {**request, "cells": found}


def of_cells(options: Options, grid: dict[str, Any]) -> dict[str, Any]:
    """Cells beside scikit-learn's, where both programs are asked for."""
    found: dict[str, Any] = {}
    if options.wants(OURS) and options.wants(REFERENCE):
        for name, how in COMPARED.items():
            request: dict[str, Any] = {**grid, **how} | ({"seeds": 1} if options.quick else {})
            answer = isolate.ask(searching.free_starts, LIMIT, options.devices[0], **request)
            found[name] = {"not_below": NOT_BELOW, **answer}
    return found

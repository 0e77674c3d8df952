"""Seconds of one EM iteration, for every problem, dtype, device and contender.

Each cell runs in a process of its own. All contenders start from the same mixture; after calls that only warm up, calls
of few and of many iterations alternate, and each pair of them gives one figure: the difference of their times over the
difference of the iterations that were made, so that whatever a call costs besides iterations cancels. Contenders of one
problem and dtype follow each other, so that a slow moment of the machine falls on neighbours.

`objective` is the mean log-likelihood (nats) after `objective_after` iterations, the same for all, computed by
`problems.objective` from the parameters that came back: who is fast and wrong shows there. `peak_bytes_above_data` is
what the process held at most above what it held with data, start and imports in place, compilation included; None on a
GPU, whose memory is no part of it. `converged` is one fit from the same start to a change below TOL.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from . import contenders, isolate, limits, problems
from .contenders import CONTENDERS, Contender, Outcome
from .options import Options
from .problems import Problem

TIME_LIMIT = 900.0  # seconds of a cell, all included
FEW, PROBE, MOST = 1, 5, 5000  # iterations
LONG_CALL = {False: 0.3, True: 0.03}  # seconds that a timed call should last at least, by `quick`
TIMED = {False: 6.0, True: 0.3}  # seconds of timed calls after which no more are made
SLOW = 0.5  # seconds of a call above which 3 pairs are enough, and not 5
TOL, MAX_STEPS, LONG_FIT = 1e-3, 200, 60.0  # of the fit to convergence; LONG_FIT in seconds


def measure(options: Options) -> dict[str, Any]:
    """{"cells": [...], "converged": [...]}, see above."""
    cells, converged = [], []
    chosen = problems.chosen(options.problems, options.quick)
    rivals = contenders.chosen(options.contenders, options.quick)
    rates = limits.measure(options)
    for device in options.devices:
        for problem in chosen:
            for dtype in options.dtypes:
                for contender in rivals:
                    made = _measured(problem, dtype, device, contender, options)
                    head = _head(problem, dtype, device, contender)
                    converged.append({**head, **made.pop("converged", {"missing": made["missing"]})})
                    cells.append({**head, **made, **_against_limits(made, problem, dtype, rates[device][dtype])})
                    print(_line(cells[-1]), flush=True)
    return {"tol": TOL, "cells": cells, "converged": converged}


def _head(problem: Problem, dtype: str, device: str, contender: Contender) -> dict[str, Any]:
    size = {"problem": problem.name, "n": problem.n, "d": problem.d, "k": problem.k, "family": problem.family}
    return {**size, "dtype": dtype, "device": device, "contender": contender.name}


def _measured(problem: Problem, dtype: str, device: str, contender: Contender, options: Options) -> dict[str, Any]:
    reason = contenders.missing(contender, problem, dtype, device)
    if reason is not None:
        return {"missing": reason}
    request = {"problem": problem.name, "dtype": dtype, "device": device, "contender": contender.name}
    request |= {"quick": options.quick, "repeats": options.repeats}
    environment = {**limits.on_device(device), **contender.environment}
    answer = isolate.run("benchmarks.iteration:cell", request, TIME_LIMIT, environment)
    answer.pop("peak_bytes", None)  # above the data is what counts
    return {"missing": None, **answer}


def _against_limits(made: dict[str, Any], problem: Problem, dtype: str, rates: dict[str, Any]) -> dict[str, Any]:
    floor = limits.floor(problem, dtype, rates)
    counted = {
        "flops": limits.flops(problem),
        "flops_symmetric": limits.flops_symmetric(problem),
        "bytes": limits.bytes_read(problem, dtype),
        "floor_s": floor,
    }
    if floor is None or made["missing"] is not None:
        return {**counted, "fraction_of_floor": None}
    return {**counted, "fraction_of_floor": floor / made["seconds_per_iteration"]["median"]}


def _line(cell: dict[str, Any]) -> str:
    where = f"{cell['problem']:20} {cell['dtype']} {cell['device']} {cell['contender']:18}"
    if cell["missing"] is not None:
        return f"{where} -- {cell['missing']}"
    seconds, fraction = cell["seconds_per_iteration"], cell["fraction_of_floor"]
    low, median, high = (1e3 * seconds[name] for name in ("low", "median", "high"))
    share = "" if fraction is None else f"  {100 * fraction:5.1f} % of the limit"
    return f"{where} {median:10.3f} ms ({low:.3f} to {high:.3f}){share}  objective {cell['objective']:.6f}"


def cell(
    problem: str, dtype: str, device: str, contender: str, quick: bool = False, repeats: int = 9
) -> dict[str, Any]:
    """In a child: everything that is measured of one contender on one problem."""
    (chosen,) = problems.chosen((problem,), quick)
    data = chosen.data(dtype)
    fit = CONTENDERS[contender].prepare(chosen, data, device)
    before = isolate.resident_bytes() if isolate.reset_peak() else None

    def call(iterations: int, tol: float = 0.0) -> tuple[float, Outcome]:
        began = time.perf_counter()
        outcome = fit(iterations, tol)
        return time.perf_counter() - began, outcome

    first, _ = call(FEW)
    second, _ = call(FEW)
    _, outcome = call(PROBE)
    many, seconds = _many(call, quick)
    figures, made = _pairs(call, many, seconds, repeats, TIMED[quick])
    peak = isolate.peak_bytes()
    known = device == "cpu" and before is not None and peak is not None
    return {
        "seconds_per_iteration": {
            "median": statistics.median(figures), "low": min(figures), "high": max(figures), "runs": figures,
        },
        "iterations": {"asked": [FEW, many], "made": made},
        "objective": problems.objective(chosen.family, data.x, *outcome[:3]),
        "objective_after": outcome.n_iterations,
        "first_call_s": first,
        "second_call_s": second,
        "peak_bytes_above_data": max(0, (peak or 0) - (before or 0)) if known else None,
        "converged": _to_convergence(call, chosen, data, statistics.median(figures)),
    }  # fmt: skip


def _many(call: Callable[[int], tuple[float, Outcome]], quick: bool) -> tuple[int, float]:
    """How many iterations make a call last long enough, and how long it then lasts; warmed up for so many."""
    many = PROBE
    while True:
        seconds, outcome = call(many)
        if seconds < 10.0 * SLOW:  # otherwise what compiling adds does not show
            seconds, outcome = call(many)  # a peer may compile a program for each number of iterations
        if seconds >= LONG_CALL[quick] or many == MOST or outcome.n_iterations < many:
            return many, seconds
        # By steps, since one short call says little about a long one.
        many = min(MOST, math.ceil(many * min(4.0, max(1.5, 1.2 * LONG_CALL[quick] / seconds))))


def _pairs(
    call: Callable[[int], tuple[float, Outcome]], many: int, expected: float, repeats: int, timed: float
) -> tuple[list[float], list[int]]:
    """Seconds an iteration of each pair of calls, and the iterations that were made. expected: seconds of a call."""
    least = min(3 if expected > SLOW else 5, repeats)
    figures, made, spent = [], [FEW, many], 0.0
    while len(figures) < least or (spent < timed and len(figures) < repeats):
        (few_s, few_made), (many_s, many_made) = call(FEW), call(many)
        made = [few_made.n_iterations, many_made.n_iterations]
        if made[1] <= made[0]:
            raise isolate.Unsupported(f"stopped after {made[1]} of {many} iterations although told not to")
        figures.append((many_s - few_s) / (made[1] - made[0]))
        spent += few_s + many_s
    return figures, made


def _to_convergence(call: Callable[..., tuple[float, Outcome]], problem: Problem, data: Any, each: float) -> Any:
    """One fit until the mean log-likelihood changes by less than TOL, or as many steps as LONG_FIT allows."""
    limit = int(min(MAX_STEPS, max(PROBE, LONG_FIT / max(each, 1e-6))))
    runs = [call(limit, TOL)]
    if runs[0][0] < LONG_FIT / 4:  # the first may have compiled, and short ones are uneven
        runs = [call(limit, TOL) for _ in range(3)]
    seconds, outcome = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
    return {
        "missing": None,
        "seconds": seconds,
        "iterations": outcome.n_iterations,
        "limit": limit,
        "objective": problems.objective(problem.family, data.x, *outcome[:3]),
    }

"""Seconds of one EM iteration, for every problem, dtype, device and contender.

Each cell runs in a process of its own. All contenders start from the same mixture; after calls that only warm up, calls
of few and of many iterations alternate, and each pair of them gives one figure: the difference of their times over the
difference of the iterations that were made, so that whatever a call costs besides iterations cancels.

A machine has bad moments, and some outlast all repeats of a fast cell. So the repeats are made in two rounds: once all
contenders of a problem and dtype have made the first half, each of those whose iteration takes less than SLOW seconds,
ours or not, makes the second half in a new process, and the figures of both are pooled. A slower one, which takes
longer than such moments last, makes SLOW_PAIRS pairs in one round, or as many as TIMED seconds allow.

`objective` is the mean log-likelihood (nats) after `objective_after` iterations, the same for all, computed by
`problems.objective` from the parameters that came back: who is fast and wrong shows there. `peak_bytes_above_data` is
what the process held at most above what it held with data, start and imports in place, compilation included; None on a
GPU, whose memory is no part of it. `converged` is, in the first dtype, one fit from the same start to a change below
TOL, or as many iterations as LONG_FIT seconds allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import contenders, isolate, limits, problems
from .child import spread, stopwatch
from .contenders import CONTENDERS, Contender, Outcome
from .options import LEFT_OUT, Options
from .problems import Data, Problem

TIME_LIMIT = 300.0  # seconds of one round of a cell, all included
FEW, PROBE, MOST = 1, 2, 5000  # iterations
LONG_CALL = {False: 0.3, True: 0.03}  # seconds by which a call of many should outlast one of FEW, by `quick`
SLOW, SLOW_PAIRS = 0.2, 3  # seconds of an iteration, and the pairs of calls that are enough from there on
TIMED = 12.0  # seconds of timed calls after which a round makes no more
WARM, PLAIN = 2.5, 10.0  # seconds of a call: from WARM on it needs no other to warm up, from PLAIN on it is a result
TOL, MAX_STEPS = 1e-3, 200  # of the fit to convergence
LONG_FIT, AGAIN = 6.0, 2.0  # seconds: what one may take where iterations are slow; fewer than AGAIN are repeated

Call = Callable[..., tuple[float, Outcome]]
"""call(iterations, tol=0.0) -> seconds, and where the fit ended."""


def measure(options: Options) -> dict[str, Any]:
    """{"cells": [...], "converged": [...]}, see above."""
    cells, converged = [], []
    chosen = problems.chosen(options.problems, options.quick)
    rivals = contenders.chosen(options.contenders, options.quick)
    rates = limits.measure(options)
    for problem in chosen:
        for dtype in options.dtypes:
            for device in options.devices:
                firsts = [_first_round(problem, dtype, device, contender, options) for contender in rivals]
                for contender, made in zip(rivals, firsts, strict=True):
                    _second_round(made, problem, dtype, device, contender, options)
                    head = _head(problem, dtype, device, contender)
                    if dtype == options.dtypes[0]:
                        converged.append({**head, **made.pop("converged", {"missing": made["missing"]})})
                    cells.append({**head, **made, **_against_limits(made, problem, dtype, rates[device][dtype])})
                    print(_line(cells[-1]), flush=True)
    return {"tol": TOL, "cells": cells, "converged": converged}


def _head(problem: Problem, dtype: str, device: str, contender: Contender) -> dict[str, Any]:
    size = {"problem": problem.name, "n": problem.n, "d": problem.d, "k": problem.k, "family": problem.family}
    return {**size, "dtype": dtype, "device": device, "contender": contender.name}


def _first_round(problem: Problem, dtype: str, device: str, contender: Contender, options: Options) -> dict[str, Any]:
    reason = contenders.missing(contender, problem, dtype, device)
    if reason is None and options.seconds_left() <= 0.0:
        reason = LEFT_OUT
    if reason is not None:
        return {"missing": reason}
    more = {"quick": options.quick, "pairs": options.repeats - options.repeats // 2}
    more["converge"] = dtype == options.dtypes[0]
    answer = _asked("cell", problem, dtype, device, contender, more, options.limit(TIME_LIMIT))
    return {"missing": None, **answer}


def _second_round(
    made: dict[str, Any], problem: Problem, dtype: str, device: str, contender: Contender, options: Options
) -> None:
    """Add the other half of the repeats to what the first round made, unless it is slow or missing or time is up."""
    pairs = options.repeats // 2
    # By the least of its figures, since a bad moment of the machine makes nobody slow.
    if made["missing"] or made["seconds_per_iteration"]["low"] >= SLOW or pairs == 0:
        return
    if options.seconds_left() <= 0.0:
        return
    more = {"quick": options.quick, "pairs": pairs, "many": made["iterations"]["asked"][1]}
    answer = _asked("again", problem, dtype, device, contender, more, options.limit(TIME_LIMIT))
    made["rounds"].append(answer.get("runs", []))
    made["seconds_per_iteration"] = spread([seconds for runs in made["rounds"] for seconds in runs])


def _asked(
    function: str,
    problem: Problem,
    dtype: str,
    device: str,
    contender: Contender,
    more: dict[str, Any],
    time_limit: float,
) -> dict[str, Any]:
    request = {"problem": problem.name, "dtype": dtype, "device": device, "contender": contender.name, **more}
    environment = {**limits.on_device(device), **contender.environment}
    answer = isolate.run(f"benchmarks.iteration:{function}", request, time_limit, environment)
    answer.pop("peak_bytes", None)  # above the data is what counts
    return answer


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
    problem: str, dtype: str, device: str, contender: str, quick: bool, pairs: int, converge: bool
) -> dict[str, Any]:
    """In a child: everything that is measured of one contender on one problem, but for the second round's pairs."""
    chosen, data, call = _prepared(problem, dtype, device, contender, quick)
    before = isolate.resident_bytes() if isolate.reset_peak() else None
    first, _ = call(FEW)
    second, _ = call(FEW)
    many, each, seconds, outcome = _many(call, second, quick)
    begun = ([each], second + seconds) if seconds >= PLAIN else ([], 0.0)
    figures, made = _pairs(call, many, pairs if each < SLOW else min(pairs, SLOW_PAIRS), *begun)
    peak = isolate.peak_bytes()
    known = device == "cpu" and before is not None and peak is not None
    timed: Any = spread(figures)
    answer = {
        "seconds_per_iteration": timed,
        "rounds": [figures],
        "iterations": {"asked": [FEW, many], "made": made},
        "objective": problems.objective(chosen.family, data.x, *outcome[:3]),
        "objective_after": outcome.n_iterations,
        "first_call_s": first,
        "second_call_s": second,
        "peak_bytes_above_data": max(0, (peak or 0) - (before or 0)) if known else None,
    }
    return answer | ({"converged": _to_convergence(call, chosen, data, timed["median"])} if converge else {})


def again(problem: str, dtype: str, device: str, contender: str, quick: bool, pairs: int, many: int) -> dict[str, Any]:
    """In a child: more pairs of calls, of as many iterations as the first round made."""
    _, _, call = _prepared(problem, dtype, device, contender, quick)
    for iterations in (FEW, many):  # compiles
        call(iterations)
    return {"runs": _pairs(call, many, pairs, [], 0.0)[0]}


def _prepared(problem: str, dtype: str, device: str, contender: str, quick: bool) -> tuple[Problem, Data, Call]:
    (chosen,) = problems.chosen((problem,), quick)
    data = chosen.data(dtype)
    fit = CONTENDERS[contender].prepare(chosen, data, device)
    return chosen, data, lambda iterations, tol=0.0: stopwatch(fit, iterations, tol)


def _many(call: Call, short: float, quick: bool) -> tuple[int, float, float, Outcome]:
    """How many iterations the longer call of a pair makes; seconds of one of them, and of that call; and where PROBE
    iterations end. Warmed up for so many.

    short: seconds of a call of FEW.
    """
    many, probed = PROBE, None
    while True:
        seconds, outcome = call(many)
        if seconds < WARM:
            seconds, outcome = call(many)  # a peer may compile a program for each number of iterations
        probed = probed or outcome
        longer = seconds - short
        if longer >= LONG_CALL[quick] or many == MOST or outcome.n_iterations < many:
            return many, longer / (many - FEW), seconds, probed
        # By steps, since one short call says little about a long one.
        factor = 4.0 if longer <= 0.0 else 1.2 * LONG_CALL[quick] / longer
        many = min(MOST, math.ceil(many * min(4.0, max(1.5, factor))))


def _pairs(call: Call, many: int, pairs: int, begun: list[float], spent: float) -> tuple[list[float], list[int]]:
    """Seconds an iteration of each pair of calls, and the iterations that were made.

    begun: figures that are known already, from calls that took `spent` seconds.
    """
    figures, made = begun, [FEW, many]
    while not figures or (len(figures) < pairs and spent < TIMED):
        (few_s, few_made), (many_s, many_made) = call(FEW), call(many)
        made = [few_made.n_iterations, many_made.n_iterations]
        if made[1] <= made[0]:
            raise isolate.Unsupported(f"stopped after {made[1]} of {many} iterations although told not to")
        figures.append((many_s - few_s) / (made[1] - made[0]))
        spent += few_s + many_s
    return figures, made


def _to_convergence(call: Call, problem: Problem, data: Data, each: float) -> dict[str, Any]:
    """One fit until the mean log-likelihood changes by less than TOL, or MAX_STEPS; fewer where an iteration, which
    takes `each` seconds, is slow."""
    limit = MAX_STEPS if each < SLOW else int(LONG_FIT / each)
    if limit < 2:
        return {"missing": f"an iteration takes {each:.0f} s"}
    runs = [call(limit, TOL)]
    while len(runs) < 4 and sum(seconds for seconds, _ in runs) < AGAIN:
        runs.append(call(limit, TOL))
    # The first may have compiled.
    runs = sorted(runs[1:] or runs, key=lambda run: run[0])
    seconds, outcome = runs[len(runs) // 2]
    return {
        "missing": None,
        "seconds": seconds,
        "iterations": outcome.n_iterations,
        "limit": limit,
        "objective": problems.objective(problem.family, data.x, *outcome[:3]),
    }

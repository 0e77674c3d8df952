"""Seconds of one EM iteration, for every problem, dtype, device and contender.

Each cell runs in a process of its own. All contenders start from the same mixture; how iterations are timed is told in
`timing`. A machine has bad moments, and some outlast all repeats of a fast cell. So once all contenders of a problem
and dtype have made half of the repeats, each of those whose iteration takes less than SLOW seconds makes the second
half in a new process, and the figures of both are pooled. A slower one makes SLOW_PAIRS pairs, in one round.

`objective` is the mean log-likelihood (nats) after `objective_after` iterations, the same for all, of the parameters
that came back: who is fast and wrong shows there. `converged` is, in the first dtype, one fit from the same start to a
change below TOL, or as many iterations as LONG_FIT seconds allow.
"""

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from . import contenders, isolate, limits, problems
from .child import Fitted
from .contenders import CONTENDERS
from .markdown import NONE, bullets, by_columns, digits, duration, milliseconds, paragraphs, provenance, table
from .options import LEFT_OUT, Options
from .problems import Problem
from .ratios import OURS, REFERENCE, WORSE, Place, Row, against_best, against_reference, rows
from .timing import FEW, LASTS, PROBE, SLOW, Counted, of_iterations, pairs, spread, stopwatch

TIME_LIMIT = 300.0  # seconds of one round of a cell, all included
TOL, MAX_STEPS = 1e-3, 200  # of the fit to convergence
LONG_FIT, AGAIN = 6.0, 2.0  # seconds: what one may take where iterations are slow; fewer than AGAIN are repeated

Call = Callable[..., tuple[float, Fitted]]  # call(iterations, tol=0.0) -> seconds, and where the fit ended


def measure(options: Options) -> dict[str, Any]:
    """{"cells": [...], "converged": [...]}, see above."""
    cells, converged = [], []
    chosen = problems.chosen(options.problems, options.quick)
    rivals = contenders.chosen(options.contenders, options.quick)
    rates = limits.measure(options)
    for problem, dtype, device in product(chosen, options.dtypes, options.devices):
        at_all = {"problem": problem.name, "dtype": dtype, "device": device}
        places = [{**at_all, "contender": contender} for contender in rivals]
        firsts = [_first_round(problem, at, options) for at in places]
        for at, made in zip(places, firsts, strict=True):
            _second_round(made, at, options)
            of = {**at, **vars(problem)}
            fitted = made.pop("converged", {"missing": made["missing"]})
            converged += [{**of, **fitted}] if dtype == options.dtypes[0] else []
            made |= {"flops": limits.flops(problem), "bytes": limits.bytes_read(problem, dtype)}
            seconds = None if made["missing"] else made["seconds_per_iteration"]["median"]
            made |= limits.share(problem, dtype, rates[device][dtype], seconds)
            cells.append({**of, **made})
            print(f"{' '.join(at.values())}: {isolate.in_short(made)}", flush=True)
    return {"tol": TOL, "cells": cells, "converged": converged}


def _first_round(problem: Problem, at: dict[str, str], options: Options) -> dict[str, Any]:
    reason = CONTENDERS[at["contender"]].missing(problem, at["dtype"], at["device"])
    if reason is None and options.seconds_left() <= 0.0:
        reason = LEFT_OUT
    if reason is not None:
        return {"missing": reason}
    n_pairs = options.repeats - options.repeats // 2
    more = {"lasting": LASTS / 10 if options.quick else LASTS, "converge": at["dtype"] == options.dtypes[0]}
    return _asked(cell, at, options, n_pairs=n_pairs, **more)


def _second_round(made: dict[str, Any], at: dict[str, str], options: Options) -> None:
    """Add the other half of the repeats to what the first round made, unless it is slow or missing or time is up."""
    n_pairs = options.repeats // 2
    # By the least of its figures, since a bad moment of the machine makes nobody slow.
    if made["missing"] or made["seconds_per_iteration"]["low"] >= SLOW or n_pairs == 0 or options.seconds_left() <= 0.0:
        return
    answer = _asked(again, at, options, n_pairs=n_pairs, many=made["iterations"]["asked"][1])
    made["rounds"].append(answer.get("runs", []))
    made["seconds_per_iteration"] = spread([seconds for runs in made["rounds"] for seconds in runs])


def _asked(function: Callable[..., Any], at: dict[str, str], options: Options, **more: Any) -> dict[str, Any]:
    environment = CONTENDERS[at["contender"]].environment
    return isolate.run(function, {**at, **more}, options.limit(TIME_LIMIT), at["device"], environment)


def cell(n_pairs: int, lasting: float, converge: bool, **at: str) -> dict[str, Any]:
    """In a child: everything that is measured of one contender on one problem, but for the second round's pairs."""
    x, call = _prepared(**at)
    ended: dict[int, Fitted] = {}
    answer = of_iterations(_counted(call, ended), n_pairs, lasting)
    timed, end = answer["seconds_per_iteration"], ended[PROBE]
    answer |= {"rounds": [timed["runs"]], "objective_after": end.steps, "objective": end.objective(x)}
    return answer | ({"converged": _to_convergence(call, x, timed["median"])} if converge else {})


def again(n_pairs: int, many: int, **at: str) -> dict[str, Any]:
    """In a child: more pairs of calls, of as many iterations as the first round made."""
    _, call = _prepared(**at)
    counted = _counted(call, {})
    for iterations in (FEW, many):  # compiles
        counted(iterations)
    return {"runs": pairs(counted, many, n_pairs)[0]}


def _counted(call: Call, ended: dict[int, Fitted]) -> Counted:
    """Of a call only how many iterations it made; where each ended is kept beside it."""

    def counted(iterations: int) -> tuple[float, int]:
        seconds, ended[iterations] = call(iterations)
        return seconds, ended[iterations].steps

    return counted


def _prepared(problem: str, dtype: str, device: str, contender: str) -> tuple[np.ndarray, Call]:
    chosen = Problem.of(problem)
    data = chosen.data(dtype)
    fit = CONTENDERS[contender].prepare(chosen, data, device)
    return data.x, lambda iterations, tol=0.0: stopwatch(fit, iterations, tol)


def _to_convergence(call: Call, x: np.ndarray, each: float) -> dict[str, Any]:
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
    made = {"missing": None, "seconds": seconds, "iterations": outcome.steps, "limit": limit}
    return {**made, "objective": outcome.objective(x)}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    chosen = rows(place)
    if not chosen:
        return []
    names = ran(chosen)

    def line(row: Row) -> list[str]:
        ratio = against_best(row)
        beaten = NONE if ratio is None else f"{digits(ratio)} ({row.best_peer()})"
        floor = digits(row.cells.get(OURS, {}).get("fraction_of_floor"), " %", scale=100)
        times = (time_cell(row, name) for name in names)
        return [row.problem, row.dtype, *times, digits(against_reference(place, row)), beaten, floor]

    is_marked = any(row.is_worse(name) for row in chosen for name in names)
    mark = f"† its objective after the same iterations is more than {WORSE:g} nats under the reference's."
    return [
        f"### Milliseconds an EM iteration, {place.label}",
        "Median, with the range of the repeats. Ratios are their time over ours: above 1, ours is faster.",
        table(["problem", "dtype", *names, versus(place), "vs best peer", "of the floor"], map(line, chosen)),
        mark if is_marked else "",
        bullets(summary(place, chosen)),
        "Mean log-likelihood in nats after the same iterations, and by how much each contender differs from it.",
        objectives(chosen, names),
        converged(place.cells(found, "converged")),
        missing(place),
    ]


def ran(chosen: Iterable[Row]) -> list[str]:
    """Those that ran anywhere, ours first."""
    seen = dict.fromkeys(name for row in chosen for name in row.cells if row.seconds(name) is not None)
    return sorted(seen, key=lambda name: name != OURS)


def time_cell(row: Row, contender: str) -> str:
    """Milliseconds an iteration, with the range of the repeats."""
    if row.seconds(contender) is None:
        return NONE
    took = row.cells[contender]["seconds_per_iteration"]
    median, low, high = (milliseconds(took[name]) for name in ("median", "low", "high"))
    return f"{median} ({low}–{high})" + ("†" if row.is_worse(contender) else "")


def versus(place: Place) -> str:
    return f"vs {REFERENCE}{place.suffix}"


def summary(place: Place, chosen: list[Row]) -> list[str]:
    """Median and least of the ratios, a line each."""
    of_reference = partial(against_reference, place)
    kinds = {f"{REFERENCE}'s time{place.suffix}": of_reference, "the best peer's time": against_best}
    lines = []
    for whose, over_ours in kinds.items():
        found = [(ratio, row) for row in chosen if (ratio := over_ours(row)) is not None]
        if found:
            least, at = min(found, key=lambda pair: pair[0])
            median = statistics.median(ratio for ratio, _ in found)
            of = f"median {digits(median)}, least {digits(least)} ({at.problem}, {at.dtype})"
            lines.append(f"{whose} over ours, {len(found)} rows: {of}")
    return lines


def objectives(chosen: list[Row], names: list[str]) -> str:
    """The reference, and differences from it."""

    def off(value: float | None) -> str:
        return NONE if value is None else f"{value:+.1e}" if value else "0"

    def line(row: Row) -> list[str]:
        known = NONE if row.reference is None else f"{row.reference:.5f}"
        return [row.problem, row.dtype, known, *(off(row.off(name)) for name in names)]

    return table(["problem", "dtype", "reference", *names], map(line, chosen))


def converged(cells: list[dict[str, Any]]) -> str:
    """Time, iterations and objective of a fit from the same start to the same tol."""
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        if not cell.get("missing") and cell.get("seconds") is not None:
            count = f"{'all ' if cell['iterations'] >= cell['limit'] else ''}{cell['iterations']} it."
            said = f"{duration(cell['seconds'])}, {count}, {cell['objective']:.5f}"
            grouped.setdefault((cell["problem"], cell["dtype"]), {})[cell["contender"]] = said
    named = {name: name for made in grouped.values() for name in made}
    lines = [{"problem": problem, "dtype": dtype, **made} for (problem, dtype), made in grouped.items()]
    title = (
        "To convergence from the same start at the same tol: time, iterations, mean log-likelihood in nats. "
        "“all”: stopped at the limit of iterations, which is low where they are slow."
    )
    return by_columns(lines, {"problem": "problem", "dtype": "dtype"}, named, title)


def missing(place: Place) -> str:
    """Each missing contender with its reasons, and where each holds."""
    chosen = rows(place)
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in chosen:
        for of in row.missing.items():
            reasons.setdefault(of, []).append(f"{row.problem} {row.dtype}")
    held = {of: "everywhere" if len(at) == len(chosen) else ", ".join(at) for of, at in reasons.items()}
    lines = bullets(f"{name}: {reason} ({held[name, reason]})" for name, reason in reasons)
    return f"Missing:\n\n{lines}" if lines else ""


def both(row: Row | None) -> list[str]:
    """Milliseconds of ours and of the best peer, with its name."""
    best = row.best_peer() if row else None
    ours = milliseconds(row.seconds(OURS) if row else None)
    return [ours, f"{milliseconds(row.seconds(best))} ({best})" if row and best else NONE]


def side_by_side(found: list[Place]) -> str:
    """Ours and the best peer on every device, in one table."""
    held = {place.label: {(row.problem, row.dtype): row for row in rows(place)} for place in found}
    header = ["problem", "dtype", *(f"{what}, {label}" for label in held for what in (OURS, "best peer"))]
    every = dict.fromkeys(of for there in held.values() for of in there)
    lines = ([*of, *(said for there in held.values() for said in both(there.get(of)))] for of in every)
    return "### Devices side by side, milliseconds an EM iteration\n\n" + table(header, lines)


def readme(found: list[Place]) -> str:
    """The short table: one dtype, float32 where it was measured; the summary is of all rows."""
    parts = []
    for place in found:
        chosen = [row for row in rows(place) if any(row.seconds(name) is not None for name in row.cells)]
        if not chosen:
            continue
        dtype = min(row.dtype for row in chosen)
        lines = []
        for row in (row for row in chosen if row.dtype == dtype):
            ratios = map(digits, (against_best(row), against_reference(place, row)))
            lines.append([f"`{row.problem}`", *both(row), milliseconds(row.seconds(REFERENCE)), *ratios])
        parts += [
            f"Milliseconds an EM iteration in {dtype}, {place.label}; the ratios are their time over ours.",
            table(["problem (type, N, D, K)", OURS, "best peer", REFERENCE, "vs best peer", versus(place)], lines),
            "Over all dtypes that were measured:\n\n" + bullets(summary(place, chosen)),
            provenance(place) + ".",
        ]
    return paragraphs(parts)

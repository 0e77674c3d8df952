"""Seconds: of a call, of several calls by turns, and of one iteration, by the difference of two calls."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from .isolate import Unsupported

FEW, PROBE, MOST = 1, 2, 5000  # iterations
LASTS = 0.3  # seconds by which a call of many iterations should outlast one of FEW
WARM = 2.5  # seconds of a call from which on it needs no other to warm up
TIMED = 12.0  # seconds of timed calls after which no other pair is made
PLAIN = 10.0  # seconds of a call from which on it is a result, though it was to warm up
SLOW, SLOW_PAIRS = 0.2, 3  # seconds of an iteration, and the pairs of calls that are enough from there on

Counted = Callable[[int], tuple[float, int]]  # call(iterations) -> seconds, and the iterations that were made


def stopwatch(call: Callable[..., Any], *arguments: Any, **more: Any) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned."""
    began = time.perf_counter()
    value = call(*arguments, **more)
    return time.perf_counter() - began, value


def spread(runs: list[float]) -> dict[str, Any] | None:
    """Median and range of repeated measurements, and the measurements; None where there are none."""
    if not runs:
        return None
    return {"median": statistics.median(runs), "low": min(runs), "high": max(runs), "runs": runs}


def by_turns(measures: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each measures, again and again: one after the other, so that a slow moment of the machine meets all."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measured in measures.items():
            found[name].append(measured())
    return found


def long_enough(call: Counted, short: float, lasting: float = LASTS) -> tuple[int, float, float]:
    """How many iterations make a call outlast one of FEW, which takes `short` seconds, by `lasting`. -> their number,
    seconds of one of them, and of that call. Warmed up for so many."""
    many = PROBE
    while True:
        seconds, made = call(many)
        if seconds < WARM:
            seconds, made = call(many)  # a peer may compile a program for each number of iterations
        longer = seconds - short
        if longer >= lasting or many == MOST or made < many:
            return many, longer / (many - FEW), seconds
        # By steps, since one short call says little about a long one.
        factor = 4.0 if longer <= 0.0 else 1.2 * lasting / longer
        many = min(MOST, math.ceil(many * min(4.0, max(1.5, factor))))


def pairs(
    call: Counted, many: int, count: int, known: list[float] | None = None, spent: float = 0.0
) -> tuple[list[float], list[int]]:
    """Seconds an iteration by `count` pairs of calls with FEW and with many, and the iterations that the last made.

    What a call costs besides its iterations cancels. After TIMED seconds no other pair is made. known: figures from
    calls that took `spent` seconds.
    """
    figures, made = list(known or []), [FEW, many]
    while not figures or (len(figures) < count and spent < TIMED):
        (few_s, few_made), (many_s, many_made) = call(FEW), call(many)
        made = [few_made, many_made]
        if many_made <= few_made:
            raise Unsupported(f"stopped after {many_made} of {many} iterations although told not to")
        figures.append((many_s - few_s) / (many_made - few_made))
        spent += few_s + many_s
    return figures, made


def of_iterations(call: Counted, count: int, lasting: float = LASTS) -> dict[str, Any]:
    """What `count` pairs of calls say of an iteration, or SLOW_PAIRS where one is SLOW; and the first two calls."""
    (first, _), (second, _) = call(FEW), call(FEW)  # the first compiles
    many, each, seconds = long_enough(call, second, lasting)
    known = ([each], second + seconds) if seconds >= PLAIN else ([], 0.0)
    figures, made = pairs(call, many, count if each < SLOW else min(count, SLOW_PAIRS), *known)
    timed = {"seconds_per_iteration": spread(figures), "iterations": {"asked": [FEW, many], "made": made}}
    return {**timed, "first_call_s": first, "second_call_s": second}

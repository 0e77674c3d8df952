"""How the time of an EM iteration grows with rows, components and features, in float32, and the fitted exponents.

N is varied at (D, K) = (8, 16), K at (N, D) = (5e4, 8), D at (N, K) = (2e4, 8). Counting operations, the exponents
should be 1 in N, 1 in K, and in D 2 for full and 1 for diagonal covariances. The exponent in N is fitted from 1e5 rows
up: below, what a step costs besides its rows flattens the line. The same happens at small K and D, which makes those
exponents lower than counted; only one above the count, by more than its 95 % interval, is a fault, and is flagged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import isolate
from .child import LASTS, clusters, form_of, near, seconds_per_step
from .limits import on_device
from .options import Options

FAMILIES = ("full", "diag")
FIXED = {"N": {"d": 8, "k": 16}, "K": {"n": 50_000, "d": 8}, "D": {"n": 20_000, "k": 8}}
VALUES = {
    "N": (10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
    "K": (2, 8, 32, 128, 512),
    "D": (2, 8, 32, 128, 256),
}
QUICK_VALUES = {"N": (1_000, 8_000, 64_000)}
EXPECTED = {"full": {"N": 1, "K": 1, "D": 2}, "diag": {"N": 1, "K": 1, "D": 1}}
FITTED_FROM = 100_000  # rows
REPEATS = 5
LIMIT = 900.0  # seconds for one line of one family


def measure(options: Options) -> dict[str, Any]:
    values = QUICK_VALUES if options.quick else VALUES
    timing = {"repeats": min(options.repeats, REPEATS), "lasting": 0.02 if options.quick else LASTS}
    least = {"N": 0 if options.quick else FITTED_FROM}
    lines = []
    for device in options.devices:
        for family in FAMILIES[:1] if options.quick else FAMILIES:
            for axis in values:
                sizes = [{**FIXED[axis], axis.lower(): value} for value in values[axis]]
                request = {"family": family, "sizes": sizes, "timing": timing}
                answer = isolate.run("benchmarks.growth:points", request, LIMIT, on_device(device))
                line: dict[str, Any] = {"device": device, "family": family, "axis": axis, "dtype": "float32"}
                line |= {"missing": answer.get("missing"), "points": answer.get("points", [])}
                line["fitted_from"] = least.get(axis, 0)
                line |= exponent(line["points"], axis.lower(), EXPECTED[family][axis], line["fitted_from"])
                lines.append(line)
                print(f"growth {device} {family} {axis}: {said(line)}", flush=True)
    return {"lines": lines}


def points(family: str, sizes: list[dict[str, int]], timing: dict[str, Any]) -> dict[str, Any]:
    """In a child: seconds per iteration at every size."""
    return {"points": [{**size, **point(family, size, timing)} for size in sizes]}


def point(family: str, size: dict[str, int], timing: dict[str, Any]) -> dict[str, Any]:
    import jax

    import jaxgmm
    from jaxgmm import em

    x, means = clusters(0, **size)
    batches = jaxgmm.Batches.of(x, n_components=size["k"])
    del x
    settings = em.Settings(tol=0.0, ridge=1e-6)
    state = em.init(near(means, family), batches)

    def run(count: int) -> int:
        return int(jax.block_until_ready(em.run(state, batches, settings, count)).n_steps)

    form = form_of(em.run(state, batches, settings, 1).mixture, batches.origin)
    return {"form": form} | seconds_per_step(run, **timing)


def exponent(points: list[dict[str, Any]], size: str, expected: float, least: int) -> dict[str, Any]:
    """The slope of log seconds against log size by least squares, with half its 95 % interval (Student's t), of the
    points whose size is `least` or more.

    Nulls where there are fewer than three points: two fix a line and say nothing of how well.
    """
    timed = [p for p in points if p["seconds_per_iteration"] and p["seconds_per_iteration"]["median"] > 0.0]
    used = [p for p in timed if p[size] >= least]
    nothing = {"exponent": None, "half_width": None, "expected": expected, "above": None}
    if len(used) < 3:
        return nothing
    from scipy import stats  # comes with JAX

    seconds = [p["seconds_per_iteration"]["median"] for p in used]
    fitted: Any = stats.linregress(np.log([p[size] for p in used]), np.log(seconds))
    half = float(stats.t.ppf(0.975, len(used) - 2) * fitted.stderr)
    slope = float(fitted.slope)
    return {**nothing, "exponent": slope, "half_width": half, "above": bool(slope - half > expected)}


def said(line: dict[str, Any]) -> str:
    if line["missing"] or line["exponent"] is None:
        return str(line["missing"] or "too few points")
    verdict = "above" if line["above"] else "not above"
    return f"exponent {line['exponent']:.2f} ± {line['half_width']:.2f}, {verdict} {line['expected']}"

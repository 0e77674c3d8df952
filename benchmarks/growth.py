"""How the time of an EM iteration grows with rows, components and features, in float32, and the fitted exponents.

N is varied at (D, K) = (8, 16), K at (N, D) = (5e4, 8), D at (N, K) = (2e4, 8). Counting operations, the exponents
should be 1 in N, 1 in K, and in D 2 for full and 1 for diagonal covariances. The exponent in N is fitted from 1e5 rows
up: below, what a step costs besides its rows flattens the line. The same happens at small K and D, which makes those
exponents lower than counted; only one above the count, by more than its 95 % interval, is a fault, and is flagged.
"""

from itertools import product
from typing import Any

import jax
import numpy as np

import jaxgmm
from jaxgmm import em

from . import isolate
from .child import clusters, form_of, near
from .markdown import NONE, Columns, by_columns, duration
from .options import Options
from .problems import RIDGE
from .ratios import Place
from .timing import LASTS, of_iterations, stopwatch

FAMILIES = ("full", "diag")
FIXED = {"N": {"d": 8, "k": 16}, "K": {"n": 50_000, "d": 8}, "D": {"n": 20_000, "k": 8}}
VALUES = {
    "N": (10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
    "K": (2, 8, 32, 128, 512),
    "D": (2, 8, 32, 128, 256),
}
QUICK_VALUES = {"N": (1_000, 8_000, 64_000)}
FITTED_FROM = 100_000  # rows
REPEATS = 5
LIMIT = 900.0  # seconds for one line of one family


def measure(options: Options) -> dict[str, Any]:
    values = QUICK_VALUES if options.quick else VALUES
    timing = {"repeats": min(options.repeats, REPEATS), "lasting": 0.02 if options.quick else LASTS}
    lines = []
    for device, family, axis in product(options.devices, FAMILIES[:1] if options.quick else FAMILIES, values):
        sizes = [{**FIXED[axis], axis.lower(): value} for value in values[axis]]
        answer = isolate.ask(points, LIMIT, device, family=family, sizes=sizes, timing=timing)
        line = {"axis": axis, "dtype": "float32", "points": [], **answer}
        counted = 2 if (family, axis) == ("full", "D") else 1
        least = FITTED_FROM if axis == "N" and not options.quick else 0
        lines.append({**line, **exponent(line["points"], axis.lower(), counted, least)})
    return {"lines": lines}


def points(family: str, sizes: list[dict[str, int]], timing: dict[str, Any]) -> dict[str, Any]:
    """In a child: seconds per iteration at every size."""
    return {"points": [{**size, **point(family, size, timing)} for size in sizes]}


def point(family: str, size: dict[str, int], timing: dict[str, Any]) -> dict[str, Any]:
    x, means = clusters(0, **size)
    batches = jaxgmm.Batches.of(x, n_components=size["k"])
    del x
    return of_em(near(means, family), batches, **timing)


def of_em(mixture: Any, batches: Any, repeats: int, lasting: float) -> dict[str, Any]:
    """Seconds of an EM iteration of ours from this mixture, the form that it ran in, and the objective after three."""
    settings = em.Settings(tol=0.0, ridge=RIDGE)
    state = em.init(mixture, batches)

    def call(count: int) -> tuple[float, int]:
        seconds, ended = stopwatch(lambda: jax.block_until_ready(em.run(state, batches, settings, count)))
        return seconds, int(ended.n_steps)

    ended = em.run(state, batches, settings, 3)
    made = {"form": form_of(ended.mixture, batches.origin), "objective": float(ended.objective)}
    return made | of_iterations(call, repeats, lasting)


def exponent(points: list[dict[str, Any]], size: str, expected: float, least: int) -> dict[str, Any]:
    """The slope of log seconds against log size by least squares, with half its 95 % interval (Student's t), of the
    points whose size is `least` or more.

    Nulls where there are fewer than three points: two fix a line and say nothing of how well.
    """
    timed = [p for p in points if p["seconds_per_iteration"] and p["seconds_per_iteration"]["median"] > 0.0]
    used = [p for p in timed if p[size] >= least]
    nothing = {"exponent": None, "half_width": None, "expected": expected, "above": None, "fitted_from": least}
    if len(used) < 3:
        return nothing
    from scipy import stats  # comes with JAX

    seconds = [p["seconds_per_iteration"]["median"] for p in used]
    fitted: Any = stats.linregress(np.log([p[size] for p in used]), np.log(seconds))
    half = float(stats.t.ppf(0.975, len(used) - 2) * fitted.stderr)
    slope = float(fitted.slope)
    return {**nothing, "exponent": slope, "half_width": half, "above": bool(slope - half > expected)}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line for each size that grows; of exponents above the counted one it says so."""

    def grown(line: dict[str, Any]) -> str:
        return f"{line['family']}, {line['axis']}" + (f" ≥ {line['fitted_from']}" if line["fitted_from"] else "")

    def fitted(line: dict[str, Any]) -> str:
        is_fitted = line["exponent"] is not None
        return f"{line['exponent']:.2f} ± {line['half_width']:.2f}" if is_fitted else "too few points"

    def times(line: dict[str, Any]) -> str:
        return ", ".join(point_said(point, line["axis"].lower()) for point in line["points"])

    above = {True: "**above**", False: "no", None: NONE}
    head: Columns = {"in": grown, "exponent counted": "expected"}
    body: Columns = {"fitted, 95 %": fitted, "above it": lambda line: above[line["above"]]}
    title = f"### Growth of the time of an iteration, {place.label}"
    return [by_columns(place.cells(found, "lines"), head, {**body, "size: time of an iteration": times}, title)]


def point_said(point: dict[str, Any], size: str) -> str:
    took = point["seconds_per_iteration"]
    return f"{point[size]}: {duration(took and took['median'])}{' safe' if point.get('form') == 'safe' else ''}"

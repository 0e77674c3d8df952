"""What it costs to read rows in blocks that are in memory anyway: an array, and a file that is in the system's cache.

Two questions are settled, and shown of `2026-11-28T082556Z-suite.json`: a file of 20 GB is fitted where it lies at 0.9
times the rate of what is slower, to read it or to compute as many rows in memory; and what one and two devices and
processes come to on two cores.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxgmm
from jaxgmm.em import lanes
from jaxgmm.rows.door import admit_rows
from jaxgmm.rows.options import RowOptions, Workload

from . import isolate
from .child import clusters, near
from .markdown import NONE, Columns, by_columns, digits, duration, percent
from .options import Options
from .ratios import Place
from .timing import by_turns, spread, stopwatch

D, K = 16, 16
FAMILIES = ("full", "diag")
ROWS, QUICK_ROWS = 4_000_000, 100_000
REPEATS = 5
LIMIT = 900.0  # seconds
TARGETS = {"overhead": 0.15}


def measure(options: Options) -> dict[str, Any]:
    n, families = (QUICK_ROWS, FAMILIES[:1]) if options.quick else (ROWS, FAMILIES)
    made = [isolate.ask(fits, LIMIT, n=n, family=family) for family in families]
    return {"d": D, "k": K, "targets": TARGETS, "fits": made}


def fits(n: int, family: str) -> dict[str, Any]:
    """In a child: a step over rows in memory, over the same in blocks, and over them in a file that is in the cache."""
    x, means = clusters(0, n, D, K)
    start = near(means, family)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x)
        measures = {"in memory": in_memory_step(x, start)}
        measures["array"] = step_in_blocks(jaxgmm.Blocks.from_array(x), start)
        measures["memmap"] = step_in_blocks(jaxgmm.Blocks.from_file(path), start)
        timed = by_turns(measures, REPEATS)
    return {"step_s": {name: spread(seconds) for name, seconds in timed.items()}}


def in_memory_step(x: np.ndarray, start: Any) -> Callable[[], float]:
    """Seconds of a step over rows in memory."""
    batches = jaxgmm.Batches.of(x, n_components=K)
    return seconds_of(jaxgmm.em.step, jaxgmm.em.init(start, batches), batches)


def step_in_blocks(x: Any, start: Any) -> Callable[[], float]:
    """Seconds of a step over rows in blocks."""
    rows: Any = admit_rows(jax.random.key(0), x, RowOptions(dtype=np.float32), Workload(K))
    return seconds_of(lanes.step_lanes, lanes.init_lanes(jax.tree.map(lambda leaf: leaf[None], start), rows), rows)


def seconds_of(step: Callable[..., Any], state: Any, rows: Any) -> Callable[[], float]:
    """Seconds of a step from the state after a first one, which compiles."""

    def made(state: Any) -> Any:
        return jax.block_until_ready(step(state, rows, jaxgmm.em.Settings(tol=0.0)))

    state = made(state)
    return lambda: stopwatch(made, state)[0]


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """Rows in memory by both ways, and in older results a file and rows that are shared out; what misses its aim is
    marked."""
    aims = found["targets"]

    def marked(said: str, is_met: bool) -> str:
        return said if is_met else f"{said} **!**"

    def share(cell: dict[str, Any]) -> str:
        of = max(cell["read_s"]["median"], cell["in_memory_s"]) / cell["step_s"]["median"]
        return marked(percent(of), of >= aims["of_the_slower"])

    def held(cell: dict[str, Any]) -> str:
        resident = cell["resident_bytes"]
        return NONE if resident is None else marked(f"{resident / 1e6:.0f}", resident <= aims["resident_bytes"])

    def beside_memory(cell: dict[str, Any], name: str) -> str:
        seconds, whole = (cell["step_s"][way]["median"] for way in (name, "in memory"))
        more = marked(f"{100 * (seconds / whole - 1):+.0f} %", seconds <= (1 + aims["overhead"]) * whole)
        return f"{duration(seconds)} ({more})"

    def on(cell: dict[str, Any]) -> str:
        one = {"devices": "device", "processes": "process"}[cell["way"]]
        return f"{cell['number']} {one if cell['number'] == 1 else cell['way']}"

    head: Columns = {"type": "family", "N": "n"}
    of_file: Columns = {
        "GB": lambda cell: digits(cell["bytes"] / 1e9),
        "survey": "survey_s",
        "step": "step_s",
        "reading the file": "read_s",
        "step in memory": "in_memory_s",
        "slower of these / step": share,
        "RssAnon, MB": held,
    }
    of_fits: Columns = {
        "in memory": lambda cell: duration(cell["step_s"]["in memory"]["median"]),
        "an array in blocks": partial(beside_memory, name="array"),
        "a mapped file in blocks": partial(beside_memory, name="memmap"),
    }
    parts = [f"### Rows in blocks, on devices, in processes, {place.label}"]
    if found.get("streamed"):
        title = (
            f"A file, D = {found['d']}, K = {found['k']}, float32; aims: {percent(aims['of_the_slower'])} and "
            f"{aims['resident_bytes'] / 1e6:.0f} MB. **!** marks what misses its aim."
        )
        parts.append(by_columns(found["streamed"], head, of_file, title))
    title = (
        f"Rows that are in memory anyway, in memory and in blocks; aim: no more than {percent(aims['overhead'])} more."
    )
    parts.append(by_columns(found["fits"], head, of_fits, title))
    of_several: Columns = {"step": "step_s", "bytes reduced": lambda cell: cell["reduced_bytes"]}
    title = "A step of full covariances, shared out:"
    return [*parts, by_columns(found.get("scaling", []), {"on": on, "N": "n"}, of_several, title)]

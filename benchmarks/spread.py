"""Rows that are not in memory. All figures are ours.

`streamed`: a file as large as the disk and LARGEST allow, fitted where it lies; beside it the rate at which the file is
read, and that at which the same rows are computed in memory. `fits`: rows that are in memory anyway, by both ways: what
reading in blocks costs. What one and two devices and processes come to on two cores is settled by
`2026-11-28T082556Z-suite.json`, which the report shows.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

LARGEST = 20e9  # bytes of the file
OF_DISK = 0.4  # of what is free
AT_ONCE = 2**25  # bytes written or read
D, K = 16, 16
FAMILIES = ("full", "diag")
IN_MEMORY = 4_000_000  # rows
STEPS, REPEATS = 3, 5
LIMIT = 900.0  # seconds
TARGETS = {"resident_bytes": 1e9, "of_the_slower": 0.7, "overhead": 0.15}


def measure(options: Options) -> dict[str, Any]:
    quick, families = options.quick, FAMILIES[: 1 if options.quick else None]
    ask = partial(isolate.ask, time_limit=LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        n = int((1e8 if quick else min(LARGEST, OF_DISK * shutil.disk_usage(folder).free)) / (4 * D))
        path = str(Path(folder) / "rows.npy")
        files = [ask(streamed, family=family, n=n, path=path) for family in families]
    for file in files:
        del file["path"]  # results name no folder of this machine
    in_memory = [ask(fits, n=100_000 if quick else IN_MEMORY, family=family) for family in families]
    return {"d": D, "k": K, "targets": TARGETS, "streamed": files, "fits": in_memory}


def streamed(path: str, n: int, family: str) -> dict[str, Any]:
    """In a child: write the file where it is not there, and time reading, streamed steps, and steps in memory."""
    means = write(path, n)
    read = [seconds_to_read(path) for _ in range(2)]
    start, timed = near(means, family), []
    with watched() as most:
        surveyed, rows = stopwatch(admitted, np.load(path, mmap_mode="r"))
        forget(path)
        states = first_step(start, rows)
        for _ in range(STEPS):
            forget(path)
            seconds, states = stopwatch(stepped, lanes.step_lanes, states, rows)
            timed.append(seconds)
    in_memory = in_memory_step(clusters(1, IN_MEMORY, D, K)[0], start)
    return {
        "bytes": os.path.getsize(path),
        "survey_s": surveyed,
        "read_s": spread(read),
        "step_s": spread(timed),
        "in_memory_s": min(in_memory() for _ in range(REPEATS)) * n / IN_MEMORY,  # of as many rows
        "resident_bytes": most[0],
    }


def fits(n: int, family: str) -> dict[str, Any]:
    """In a child: a step over rows in memory, over the same in blocks, and over them in a file that is in the cache."""
    x, means = clusters(0, n, D, K)
    start = near(means, family)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x)
        array, file = jaxgmm.Blocks.from_array(x), jaxgmm.Blocks.from_file(path)
        measures = {"in memory": in_memory_step(x, start)}
        for name, blocks in (("array", array), ("memmap", file)):
            rows = admitted(blocks)
            measures[name] = partial(seconds_of_step, lanes.step_lanes, first_step(start, rows), rows)
        timed = by_turns(measures, REPEATS)
    return {"step_s": {name: spread(seconds) for name, seconds in timed.items()}}


def admitted(x: Any) -> Any:
    return admit_rows(jax.random.key(0), x, RowOptions(dtype=np.float32), Workload(K))


def stepped(step: Any, state: Any, rows: Any) -> Any:
    return jax.block_until_ready(step(state, rows, jaxgmm.em.Settings(tol=0.0)))


def seconds_of_step(step: Any, state: Any, rows: Any) -> float:
    return stopwatch(stepped, step, state, rows)[0]


def first_step(start: Any, rows: Any) -> Any:
    """The state of a run over rows in blocks, after a step, which compiles."""
    return stepped(lanes.step_lanes, lanes.init_lanes(jax.tree.map(lambda leaf: leaf[None], start), rows), rows)


def in_memory_step(x: np.ndarray, start: Any) -> Callable[[], float]:
    """Seconds of a step over rows in memory."""
    batches = jaxgmm.Batches.of(x, n_components=K)
    state = stepped(jaxgmm.em.step, jaxgmm.em.init(start, batches), batches)
    return partial(seconds_of_step, jaxgmm.em.step, state, batches)


def write(path: str, n: int) -> np.ndarray:
    """A file of n rows about the same means, written once. -> means (K, D)."""
    x, means = clusters(0, AT_ONCE // (4 * D), D, K)
    if not os.path.exists(path):
        file = np.lib.format.open_memmap(path, "w+", np.float32, (n, D))
        for first in range(0, n, len(x)):
            rows = file[first : first + len(x)]
            rows[:] = np.roll(x, first // len(x), axis=0)[: len(rows)]
        file.flush()
    return means


def forget(path: str) -> None:
    """Ask the system to drop the file's pages, so that the next pass reads the disk."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_to_read(path: str) -> float:
    forget(path)
    buffer = bytearray(AT_ONCE)
    with open(path, "rb", buffering=0) as file:
        return stopwatch(lambda: all(iter(lambda: file.readinto(buffer), 0)))[0]


@contextmanager
def watched() -> Iterator[list[int | None]]:
    """The most anonymous memory that this process holds while the block runs, bytes; None where Linux does not say."""
    most, ended = [isolate.held_bytes("RssAnon")], threading.Event()

    def watch() -> None:
        while most[0] is not None and not ended.wait(0.02):
            most[0] = max(most[0], isolate.held_bytes("RssAnon") or 0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """The file, rows in memory by both ways, and in older results rows that are shared out; what misses its aim is
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
    of_several: Columns = {"step": "step_s", "bytes reduced": lambda cell: cell["reduced_bytes"]}
    said = "A step of full covariances, shared out:"
    return [
        f"### Rows in blocks, on devices, in processes, {place.label}",
        f"A file, D = {found['d']}, K = {found['k']}, float32; aims: {percent(aims['of_the_slower'])} and "
        f"{aims['resident_bytes'] / 1e6:.0f} MB. **!** marks what misses its aim.",
        by_columns(found["streamed"], head, of_file),
        f"Rows that are in memory anyway, in memory and in blocks; aim: no more than {percent(aims['overhead'])} more.",
        by_columns(found["fits"], head, of_fits),
        by_columns(found.get("scaling", []), {"on": on, "N": "n"}, of_several, said),
    ]

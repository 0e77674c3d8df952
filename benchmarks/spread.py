"""Rows that are not in memory, and rows on several devices and in several processes. All figures are ours.

`streamed`: a file as large as the disk and LARGEST allow, fitted where it lies; beside it the rate at which the file is
read, and that at which the same rows are computed in memory. `fits`: rows that are in memory anyway, by both ways: what
reading in blocks costs. `scaling`: the same rows on one and two devices, and in one and two processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import isolate
from .child import clusters, near, spread, stopwatch
from .options import Options

LARGEST = 20e9  # bytes of the file
OF_DISK = 0.4  # of what is free
AT_ONCE = 2**25  # bytes written or read
D, K = 16, 16
FAMILIES = ("full", "diag")
IN_MEMORY = 4_000_000  # rows
SHARED_OUT = 2_000_000  # rows
STEPS, REPEATS = 3, 5
LIMIT = 900.0  # seconds
TARGETS = {"resident_bytes": 1e9, "of_the_slower": 0.7, "overhead": 0.15}


def measure(options: Options) -> dict[str, Any]:
    quick = options.quick
    with tempfile.TemporaryDirectory() as folder:
        size = 1e8 if quick else min(LARGEST, OF_DISK * shutil.disk_usage(folder).free)
        path = str(Path(folder) / "rows.npy")
        n = int(size / (4 * D))
        cells = []
        for family in FAMILIES[:1] if quick else FAMILIES:
            answer = isolate.run("benchmarks.spread:streamed", {"path": path, "n": n, "family": family}, LIMIT)
            cells.append({"family": family, "n": n, "missing": None, **answer})
            print(f"streamed {family}: {answer}", flush=True)
    fits = []
    for family in FAMILIES[:1] if quick else FAMILIES:
        asked = {"n": 100_000 if quick else IN_MEMORY, "family": family}
        fits.append({**asked, "missing": None, **isolate.run("benchmarks.spread:fits", asked, LIMIT)})
        print(f"fits: {fits[-1]}", flush=True)
    scaling = []
    for way, number in (("devices", 1), ("devices", 2), ("processes", 1), ("processes", 2)):
        asked = {"n": 100_000 if quick else SHARED_OUT, "way": way, "number": number}
        scaling.append({**asked, "missing": None, **isolate.run("benchmarks.spread:shared_out", asked, LIMIT)})
        print(f"scaling: {scaling[-1]}", flush=True)
    return {"d": D, "k": K, "targets": TARGETS, "streamed": cells, "fits": fits, "scaling": scaling}


def streamed(path: str, n: int, family: str) -> dict[str, Any]:
    """In a child: write the file where it is not there, and time reading, streamed steps, and steps in memory."""
    import jax

    import jaxgmm
    from jaxgmm.em import lanes

    means = write(path, n)
    read = [seconds_to_read(path) for _ in range(2)]
    key, start = jax.random.key(0), near(means, family)
    settings = jaxgmm.em.Settings(tol=0.0)
    with Watched() as watched:
        surveyed, rows = stopwatch(admitted, key, np.load(path, mmap_mode="r"))
        forget(path)
        states = lanes.init_lanes(jax.tree.map(lambda leaf: leaf[None], start), rows)
        states = lanes.step_lanes(states, rows, settings)  # compiles
        timed = []
        for _ in range(STEPS):
            forget(path)
            seconds, states = stopwatch(stepped, lanes.step_lanes, states, rows, settings)
            timed.append(seconds)
    in_memory = seconds_in_memory(start, settings)
    return {
        "bytes": os.path.getsize(path),
        "survey_s": surveyed,
        "read_s": spread(read),
        "step_s": spread(timed),
        "in_memory_s": in_memory * n / IN_MEMORY,  # of as many rows
        "resident_bytes": watched.most,
        "objective": float(states.objective[0]),
    }


def fits(n: int, family: str) -> dict[str, Any]:
    """In a child: a step over rows in memory, over the same in blocks, and over them in a file that is in the cache."""
    import jax

    import jaxgmm
    from jaxgmm import Blocks
    from jaxgmm.em import lanes

    x, means = clusters(0, n, D, K)
    key, start, settings = jax.random.key(0), near(means, family), jaxgmm.em.Settings(tol=0.0)
    batches = jaxgmm.Batches.of(x, n_components=K)
    state = jaxgmm.em.step(jaxgmm.em.init(start, batches), batches, settings)
    one = jax.tree.map(lambda leaf: leaf[None], start)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x)
        sources = {"array": Blocks.from_array(x), "memmap": Blocks.from_file(Path(folder) / "x.npy")}
        rows = {name: admitted(key, source) for name, source in sources.items()}
        states = {name: lanes.step_lanes(lanes.init_lanes(one, of), of, settings) for name, of in rows.items()}
        timed: dict[str, list[float]] = {"in memory": [], **{name: [] for name in rows}}
        for _ in range(REPEATS):  # in turn, so that a slow moment meets all
            timed["in memory"].append(stopwatch(stepped, jaxgmm.em.step, state, batches, settings)[0])
            for name, of in rows.items():
                timed[name].append(stopwatch(stepped, lanes.step_lanes, states[name], of, settings)[0])
    return {"step_s": {name: spread(seconds) for name, seconds in timed.items()}}


def shared_out(n: int, way: str, number: int) -> dict[str, Any]:
    """In a child that starts others: a step of rows on so many devices, or in so many processes."""
    command = [sys.executable, "-m", "jaxgmm.launch", "--processes", str(number if way == "processes" else 1)]
    command += [str(Path(__file__).with_name("spread_process.py")), str(n), str(number if way == "devices" else 1)]
    made = subprocess.run(command, cwd=isolate.ROOT, capture_output=True, text=True, timeout=LIMIT)
    if made.returncode:
        return {"missing": made.stderr[-500:]}
    return json.loads(next(line for line in made.stdout.splitlines() if line.startswith("{")))


def one_of_several(n: int) -> None:
    """What each process runs; the first says what it measured."""
    import jax

    import jaxgmm
    from jaxgmm.em import lanes
    from jaxgmm.rows.sharded import Sharded, shares_of

    own, of = jax.process_index(), jax.process_count()
    x, means = clusters(0, n, D, K)
    x = x[own * n // of : (own + 1) * n // of]
    start, settings = near(means, "full"), jaxgmm.em.Settings(tol=0.0)
    rows = Sharded(jax.random.key(0), *shares_of(x, None), K)
    states = lanes.step_lanes(lanes.init_lanes(jax.tree.map(lambda leaf: leaf[None], start), rows), rows, settings)
    timed = [stopwatch(stepped, lanes.step_lanes, states, rows, settings)[0] for _ in range(REPEATS)]
    reduced = sum(leaf.nbytes for leaf in jax.tree.leaves(states.moments))
    if own == 0:
        print(json.dumps({"step_s": spread(timed), "reduced_bytes": reduced}), flush=True)


def admitted(key: Any, x: Any) -> Any:
    from jaxgmm.rows.door import admit_rows

    return admit_rows(key, x, None, K, 1, None, np.float32)


def stepped(step: Any, *arguments: Any) -> Any:
    import jax

    return jax.block_until_ready(step(*arguments))


def seconds_in_memory(start: Any, settings: Any) -> float:
    """Of a step over rows in memory, the least of a few."""
    import jax

    import jaxgmm

    batches = jaxgmm.Batches.of(clusters(1, IN_MEMORY, D, K)[0], n_components=K)
    state = jaxgmm.em.step(jaxgmm.em.init(start, batches), batches, settings)
    jax.block_until_ready(state)
    return min(stopwatch(stepped, jaxgmm.em.step, state, batches, settings)[0] for _ in range(REPEATS))


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
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds_to_read(path: str) -> float:
    forget(path)
    buffer = bytearray(AT_ONCE)
    began = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began


class Watched:
    """The most anonymous memory that this process held while the block ran, bytes; None where Linux does not say."""

    def __init__(self) -> None:
        self.most: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            try:
                lines = Path("/proc/self/status").read_text().splitlines()
            except OSError:
                return
            held = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), None)
            if held is not None:
                self.most = max(self.most or 0, held)

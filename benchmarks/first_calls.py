"""What a user waits for before anything is compiled: imports, the first fit of a process, loops over K, the command
line.

Ours beside scikit-learn, each in fresh processes by turns, ours without programs on disk unless a row says so. First
calls of whole searches are in `searches`.
"""

import compileall
import math
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from . import isolate
from .child import compilations, estimator
from .markdown import by_columns, digits, duration, table
from .options import Options
from .ratios import OURS, REFERENCE, Place
from .timing import by_turns, stopwatch

TYPES = ("full", "tied", "diag", "spherical")
TARGET = 0.1  # seconds that jaxgmm adds to jax's import
LIMIT = 1800.0  # seconds for one child
NO_CACHE = {"JAXGMM_CACHE": "off"}
ON_DISK = f"{OURS}, programs on disk"
PROCESS = """
import numpy as np
from {module} import GaussianMixture
x = np.random.default_rng(0).normal(size=(2000, 2))
x[:1000] += 4
GaussianMixture(5, random_state=0).fit(x).predict(x)
"""
CACHED = "import jaxgmm; jaxgmm.enable_cache()" + PROCESS
IRIS = "--components 1-5 --families full,tied,diag --restarts 8 --quiet".split()


def measure(options: Options) -> dict[str, Any]:
    quick = options.quick
    # As installing a package does; a checkout may not have its bytecode, and where Python is told to write none, every
    # import would compile all files anew.
    compileall.compile_dir(isolate.ROOT / "jaxgmm", quiet=1)
    return {
        "imports": imports(3 if quick else 15),
        "process": processes(1 if quick else 7),
        "loops": [loops(most, 1 if quick else 3) for most in ((2,) if quick else (20, 30))],
        "others": isolate.ask(others, LIMIT, environment=NO_CACHE),
        "command_line": command_line(1 if quick else 3),
    }


def imports(repeats: int) -> dict[str, Any]:
    """Seconds to import jax, and then jaxgmm, in fresh interpreters: a slow moment falls on both alike."""
    # The first leaves files cached.
    _, *made = (isolate.ask(import_both, LIMIT) for _ in range(1 + repeats))
    runs = {name: [one[name] for one in made] for name in ("jax", "jaxgmm")}
    median = {name: statistics.median(seconds) for name, seconds in runs.items()}
    return {"unit": "s", "target": TARGET, "median": median, "runs": runs}


def processes(repeats: int) -> dict[str, Any]:
    """Seconds of whole processes that fit (2000, 2) with K = 5 and predict, imports and all."""
    with tempfile.TemporaryDirectory() as folder:
        measures = {
            OURS: partial(ran, ["-c", PROCESS.format(module="jaxgmm")], NO_CACHE),
            ON_DISK: partial(ran, ["-c", CACHED.format(module="jaxgmm")], {"JAXGMM_CACHE": folder}),
            REFERENCE: partial(ran, ["-c", PROCESS.format(module="sklearn.mixture")], {}),
        }
        found = by_turns(measures, repeats + 1)
    # The first leaves files cached and programs kept.
    return summed("process", {name: seconds[1:] for name, seconds in found.items()})


def loops(most: int, repeats: int) -> dict[str, Any]:
    """Seconds of the loop that every tutorial has, K = 1 … most and four types on (500, 4), in fresh processes."""

    def seconds(contender: str) -> float:
        answer = isolate.run(loop, {"contender": contender, "most": most}, LIMIT, environment=NO_CACHE)
        return answer.get("seconds", math.nan)

    found = by_turns({contender: partial(seconds, contender) for contender in (OURS, REFERENCE)}, repeats)
    return {"most": most, **summed(f"loop up to {most}", found)}


def command_line(repeats: int) -> dict[str, Any]:
    """Seconds of `jaxgmm fit` on iris, and of the same once more, which finds its programs on disk."""
    from sklearn.datasets import load_iris

    rows: Any = load_iris(return_X_y=True)
    found: dict[str, list[float]] = {"first": [], "second": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            table, out, cache = (str(Path(folder) / name) for name in ("iris.csv", "out", "cache"))
            np.savetxt(table, rows[0], delimiter=",", header="a,b,c,d", comments="")
            for seconds in found.values():
                seconds.append(ran(["-m", "jaxgmm", "fit", table, "--out", out, *IRIS], {"JAXGMM_CACHE": cache}))
    return {"arguments": " ".join(IRIS), **summed("jaxgmm fit iris.csv", found)}


def ran(arguments: list[str], environment: dict[str, str]) -> float:
    """Seconds that Python takes for these arguments; it must succeed."""
    how: dict[str, Any] = {"env": isolate.inherited() | environment, "cwd": isolate.ROOT}
    return stopwatch(subprocess.run, [sys.executable, *arguments], check=True, capture_output=True, **how)[0]


def summed(what: str, found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and every run that did not fail; said aloud."""
    runs = {name: [round(s, 3) for s in seconds if not math.isnan(s)] for name, seconds in found.items()}
    median = {name: round(statistics.median(seconds), 3) for name, seconds in runs.items() if seconds}
    print(f"{what}: {isolate.in_short(median)}", flush=True)
    return {"median_s": median, "runs_s": runs}


def import_both() -> dict[str, Any]:
    """In a child."""
    return {name: round(stopwatch(import_module, name)[0], 4) for name in ("jax", "jaxgmm")}


def loop(contender: str, most: int) -> dict[str, Any]:
    """In a child."""
    kind = estimator(contender)
    x = np.random.default_rng(0).normal(size=(500, 4))
    x[:250] += 3

    def fits() -> None:
        for family, k in product(TYPES, range(1, most + 1)):
            kind(k, covariance_type=family, random_state=0).fit(x).bic(x)

    return {"seconds": stopwatch(fits)[0]}


def others() -> dict[str, Any]:
    """In a child: seconds of a first fit of (2000, 2), K = 5, and of fits that differ from it in one thing, each for
    the first time in the process."""
    ours, compiled, found = estimator(OURS), compilations(), {}
    x = np.random.default_rng(0).normal(size=(6000, 2))
    tables = {"first": (2000, 5, 1), "again": (2000, 5, 1), "700 rows": (700, 5, 1), "6000 rows": (6000, 5, 1)}
    tables |= {"K = 6": (2000, 6, 1), "K = 12": (2000, 12, 1)}
    tables |= {"n_init = 3": (2000, 5, 3), "n_init = 10": (2000, 5, 10)}
    for name, (n, k, n_init) in tables.items():
        before = len(compiled)
        seconds, _ = stopwatch(ours(k, n_init=n_init, random_state=0).fit, x[:n])
        found[name] = {"seconds": round(seconds, 4), "programs": len(compiled) - before}
    return {"fits": found}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """What is waited for, ours beside scikit-learn's."""
    lines = [["a process that fits (2000, 2), K = 5, and predicts", *of_both(found["process"])]]
    lines += [[f"K = 1 to {loop['most']}, 4 types, fit and bic of (500, 4)", *of_both(loop)] for loop in found["loops"]]
    first, second = (duration(found["command_line"]["median_s"][name]) for name in ("first", "second"))
    fits = [{"after": name, **of} for name, of in found["others"].get("fits", {}).items()]
    head = {"after a first fit of (2000, 2), K = 5": "after"}
    return [
        "### First calls",
        table(["fresh process", OURS, REFERENCE, f"ours / {REFERENCE}"], lines),
        f"With programs on disk the first takes {duration(found['process']['median_s'][ON_DISK])}. "
        f"`jaxgmm fit iris.csv {found['command_line']['arguments']}` takes {first}, and {second} once more.",
        by_columns(fits, head, {"seconds": "seconds", "programs": "programs"}),
        *(import_time(found["imports"], place) if "imports" in found else []),
    ]


def import_time(found: dict[str, Any], place: Place) -> list[str]:
    """A sentence; in older results a section of its own."""
    median, target = found["median"], f"; target {found['target']} s" if "target" in found else ""
    return [f"`import jaxgmm` adds {digits(median['jaxgmm'])} s to `import jax`'s {digits(median['jax'])} s{target}."]


def of_both(measured: dict[str, Any]) -> list[str]:
    """Ours, scikit-learn's, and their ratio."""
    ours, theirs = (measured["median_s"].get(name) for name in (OURS, REFERENCE))
    return [duration(ours), duration(theirs), digits(ours / theirs if ours and theirs else None)]


def readme(place: Place) -> str:
    """In a sentence."""
    found = place.section("first_calls")
    if not found:
        return ""
    loop, fits = found["loops"][0], found["others"].get("fits", {})
    (ours, theirs, _), (our_loop, their_loop, _) = of_both(found["process"]), of_both(loop)
    again = f"; a second fit {duration(fits['again']['seconds'])}" if "again" in fits else ""
    return (
        f"A process that fits 2000 rows and predicts takes {ours}, {REFERENCE} {theirs}, imports in both; the loop "
        f"over K = 1 to {loop['most']} and four types on 500 rows {our_loop}, {REFERENCE} {their_loop}, compiling "
        f"included{again}."
    )

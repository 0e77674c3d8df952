"""What a user waits for before anything is compiled: the first fit of a process, loops over K, the command line.

Ours beside scikit-learn, each in fresh processes by turns, ours without programs on disk unless a row says so. First
calls of whole searches are in `searches`; how a process fares that fits ever other shapes is in `shapes`.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import isolate
from .options import Options

HERE = "benchmarks.first_calls"
OURS, THEIRS = "jaxgmm", "scikit-learn"
TYPES = ("full", "tied", "diag", "spherical")
LIMIT = 1800.0  # seconds for one child
MODULES = {OURS: "jaxgmm", THEIRS: "sklearn.mixture"}
OFF = {"JAXGMM_CACHE": "off"}

PROCESS = """
import numpy as np
{cache}
from {module} import GaussianMixture
x = np.random.default_rng(0).normal(size=(2000, 2))
x[:1000] += 4
GaussianMixture(5, random_state=0).fit(x).predict(x)
"""
CACHE = "import jaxgmm; jaxgmm.enable_cache()"

IRIS = "--components 1-5 --families full,tied,diag --restarts 8 --quiet".split()


def measure(options: Options) -> dict[str, Any]:
    quick = options.quick
    return {
        "process": processes(1 if quick else 7),
        "loops": [loops(most, 1 if quick else 3) for most in ((2,) if quick else (20, 30))],
        "others": child("others", {}, OFF),
        "command_line": command_line(1 if quick else 3),
    }


def child(function: str, request: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    answer = isolate.run(f"{HERE}:{function}", request, LIMIT, environment)
    print(f"{function} {request}: {answer}", flush=True)
    return {**request, "missing": None, **answer}


def processes(repeats: int) -> dict[str, Any]:
    """Seconds of whole processes that fit (2000, 2) with K = 5 and predict, imports and all."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            OURS: (PROCESS.format(cache="", module=MODULES[OURS]), OFF),
            f"{OURS}, programs on disk": (PROCESS.format(cache=CACHE, module=MODULES[OURS]), {"JAXGMM_CACHE": folder}),
            THEIRS: (PROCESS.format(cache="", module=MODULES[THEIRS]), {}),
        }
        for repeat in range(repeats + 1):  # the first leaves files cached, bytecode written and programs kept
            for name, (script, environment) in kinds.items():
                seconds = timed([sys.executable, "-c", script], environment)
                if repeat:
                    found.setdefault(name, []).append(seconds)
    return said("process", found)


def loops(most: int, repeats: int) -> dict[str, Any]:
    """Seconds of the loop that every tutorial has, K = 1 … most and four types on (500, 4), in fresh processes."""
    found: dict[str, list[float]] = {}
    more: dict[str, Any] = {}
    for _ in range(repeats):
        for contender in (OURS, THEIRS):
            answer = isolate.run(f"{HERE}:loop", {"contender": contender, "most": most}, LIMIT, OFF)
            if "seconds" in answer:
                found.setdefault(contender, []).append(answer["seconds"])
            more[contender] = {name: answer[name] for name in answer if name not in ("seconds", "peak_bytes")}
    return {"most": most, **said(f"loop up to {most}", found), "of_each": more}


def command_line(repeats: int) -> dict[str, Any]:
    """Seconds of `jaxgmm fit` on iris, and of the same once more, which finds its programs on disk."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "iris.csv"
            write_iris(table)
            asked = [sys.executable, "-m", "jaxgmm", "fit", str(table), "--out", str(Path(folder) / "out"), *IRIS]
            for name in ("first", "second"):
                found.setdefault(name, []).append(timed(asked, {"JAXGMM_CACHE": str(Path(folder) / "cache")}))
    return {"arguments": " ".join(IRIS), **said("jaxgmm fit iris.csv", found)}


def said(what: str, found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and every run; said aloud."""
    median = {name: round(statistics.median(seconds), 3) for name, seconds in found.items()}
    print(f"{what}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in median.items()), flush=True)
    return {"median_s": median, "runs_s": {name: [round(s, 3) for s in seconds] for name, seconds in found.items()}}


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Seconds that a command takes; it must succeed."""
    inherited = {name: value for name, value in os.environ.items() if name not in isolate.DROPPED}
    began = time.perf_counter()
    subprocess.run(command, env=inherited | environment, cwd=isolate.ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def write_iris(path: Path) -> None:
    from sklearn.datasets import load_iris

    with contextlib.redirect_stderr(io.StringIO()):
        table: Any = load_iris()
    np.savetxt(path, table.data, delimiter=",", header="a,b,c,d", comments="")


# --- in children -----------------------------------------------------------------------------------------------------


def loop(contender: str, most: int) -> dict[str, Any]:
    estimator, compiled = of(contender)
    x = np.random.default_rng(0).normal(size=(500, 4))
    x[:250] += 3
    began = time.perf_counter()
    for family in TYPES:
        for k in range(1, most + 1):
            estimator(k, covariance_type=family, random_state=0).fit(x).bic(x)
    return {"seconds": time.perf_counter() - began, "programs": len(compiled), "mappings": n_mappings()}


def others() -> dict[str, Any]:
    """Seconds of a first fit of (2000, 2), K = 5, and of fits that differ from it in one thing, each for the first time
    in the process."""
    estimator, compiled = of(OURS)
    x = np.random.default_rng(0).normal(size=(6000, 2))
    tables = {"first": (x[:2000], 5, 1), "again": (x[:2000], 5, 1), "700 rows": (x[:700], 5, 1)}
    tables |= {"6000 rows": (x, 5, 1), "K = 6": (x[:2000], 6, 1), "K = 12": (x[:2000], 12, 1)}
    tables |= {"n_init = 3": (x[:2000], 5, 3), "n_init = 10": (x[:2000], 5, 10)}
    found = {}
    for name, (rows, k, n_init) in tables.items():
        before, began = len(compiled), time.perf_counter()
        estimator(k, n_init=n_init, random_state=0).fit(rows)
        found[name] = {"seconds": round(time.perf_counter() - began, 4), "programs": len(compiled) - before}
    return {"fits": found}


def shapes(n_fits: int) -> dict[str, Any]:
    """Fits of random distinct shapes in one process: how many mappings at most, and memory as it goes on."""
    from jaxgmm._base import programs

    estimator, compiled = of(OURS)
    rng = np.random.default_rng(0)
    most, resident, began = 0, {}, time.perf_counter()
    for fit in range(1, n_fits + 1):
        n = int(np.exp(rng.uniform(np.log(60), np.log(20_000))))
        d, k, family = int(rng.integers(1, 33)), int(rng.integers(1, 25)), TYPES[rng.integers(4)]
        x = rng.normal(size=(n, d)) + 3 * rng.integers(0, 3, size=(n, 1))
        estimator(k, covariance_type=family, random_state=fit).fit(x)
        most = max(most, n_mappings() or 0)
        if fit % 100 == 0 or fit == n_fits:
            resident[str(fit)] = isolate.resident_bytes()
    seconds = time.perf_counter() - began
    told = {"seconds": round(seconds, 1), "programs": len(compiled), "programs_kept": programs.n_kept()}
    return {**told, "mappings": most, "resident_bytes_after": resident}


def of(contender: str) -> tuple[Callable[..., Any], list[str]]:
    """The contender's estimator, and where the programs that are compiled are noted."""
    warnings.simplefilter("ignore")  # of fits that do not converge
    compiled: list[str] = []
    if contender == THEIRS:
        from sklearn.mixture import GaussianMixture as Theirs

        return Theirs, compiled
    from jax import monitoring

    from jaxgmm import GaussianMixture

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(kwargs.get("fun_name")))

    monitoring.register_event_duration_secs_listener(listen)
    return GaussianMixture, compiled


def n_mappings() -> int | None:
    """Memory mappings of this process; None where the system does not say."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return None

"""Whether a long-lived process fares well that fits tables of ever other shapes: its programs, mappings and memory."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm._base import programs

from . import isolate
from .child import compilations, estimator
from .first_calls import LIMIT, NO_CACHE, TYPES
from .markdown import Columns, by_columns
from .options import Options
from .ratios import OURS, Place
from .timing import stopwatch


def measure(options: Options) -> dict[str, Any]:
    counts = (3,) if options.quick else (300, 1000)
    return {"processes": [isolate.ask(shapes, LIMIT, environment=NO_CACHE, n_fits=n_fits) for n_fits in counts]}


def shapes(n_fits: int) -> dict[str, Any]:
    """In a child: fits of random distinct shapes: how many mappings at most, and memory as it goes on."""
    compiled, ours, rng = compilations(), estimator(OURS), np.random.default_rng(0)
    most, resident, spent = 0, {}, 0.0
    for fit in range(1, n_fits + 1):
        n = int(np.exp(rng.uniform(np.log(60), np.log(20_000))))
        d, k, family = int(rng.integers(1, 33)), int(rng.integers(1, 25)), TYPES[rng.integers(4)]
        x = rng.normal(size=(n, d)) + 3 * rng.integers(0, 3, size=(n, 1))
        spent += stopwatch(ours(k, covariance_type=family, random_state=fit).fit, x)[0]
        most = max(most, n_mappings() or 0)
        if fit % 100 == 0 or fit == n_fits:
            resident[str(fit)] = isolate.held_bytes()
    told = {"seconds": round(spent, 1), "programs": len(compiled), "programs_kept": programs.n_kept()}
    return {**told, "mappings": most, "resident_bytes_after": resident}


def n_mappings() -> int | None:
    """Memory mappings of this process; None where the system does not say."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else None


HEAD = {"fits": "n_fits"}
BODY: Columns = {
    "programs compiled": "programs",
    "kept": "programs_kept",
    "mappings, at most": "mappings",
    "MB resident after each 100 fits": lambda made: ", ".join(
        f"{held / 2**20:.0f}" for held in made["resident_bytes_after"].values()
    ),
    "seconds": "seconds",
}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line a process."""
    return ["### Fits of many shapes in one process", by_columns(found["processes"], HEAD, BODY)]

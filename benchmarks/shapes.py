"""Whether a long-lived process fares well that fits tables of ever other shapes: its programs, mappings and memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm._base import programs

from . import isolate
from .first_calls import LIMIT, NO_CACHE, TYPES, of
from .markdown import duration, table
from .options import Options
from .ratios import OURS, Place


def measure(options: Options) -> dict[str, Any]:
    asked = [{"n_fits": n} for n in ((3,) if options.quick else (300, 1000))]
    return {
        "processes": [
            {**one, **isolate.run(fits, one, LIMIT, environment=NO_CACHE, label=f"shapes {one['n_fits']}")}
            for one in asked
        ]
    }


def fits(n_fits: int) -> dict[str, Any]:
    """In a child: fits of random distinct shapes: how many mappings at most, and memory as it goes on."""
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
    told = {"seconds": round(time.perf_counter() - began, 1), "programs": len(compiled)}
    return {**told, "programs_kept": programs.n_kept(), "mappings": most, "resident_bytes_after": resident}


def n_mappings() -> int | None:
    """Memory mappings of this process; None where the system does not say."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else None


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line a process."""
    del place
    lines = []
    for made in found["processes"]:
        resident = [f"{held / 2**20:.0f}" for held in (made.get("resident_bytes_after") or {}).values()]
        told = (made.get(name) for name in ("n_fits", "programs", "programs_kept", "mappings"))
        lines.append([*told, ", ".join(resident), duration(made.get("seconds"))])
    header = ["fits", "programs compiled", "kept", "mappings, at most", "MB resident after each 100 fits", "seconds"]
    return ["### Fits of many shapes in one process", table(header, lines)]

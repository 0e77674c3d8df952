"""What `import jaxgmm` adds to `import jax`: python -m benchmarks.import_time

Each run is a fresh interpreter that imports jax, then jaxgmm, and times both: a slow moment of the machine then falls
on both alike. The median over runs is reported, after a warm-up that leaves files cached and bytecode written.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from .options import Options
from .record import ROOT, Record

RUNS, QUICK_RUNS = 15, 3
TARGET = 0.1  # seconds

PROBE = """
import time
began = time.perf_counter()
import jax
between = time.perf_counter()
import jaxgmm
ended = time.perf_counter()
print([between - began, ended - between])
"""


def probe() -> tuple[float, float]:
    """Seconds to import jax, and then jaxgmm, in a fresh interpreter."""
    ran = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True)
    jax, jaxgmm = json.loads(ran.stdout)
    return jax, jaxgmm


def measure(options: Options) -> dict[str, Any]:
    """Seconds: the medians, and every run."""
    probe()
    pairs = [probe() for _ in range(QUICK_RUNS if options.quick else RUNS)]
    jax, jaxgmm = ([round(seconds, 4) for seconds in column] for column in zip(*pairs, strict=True))
    measured = {
        "unit": "s",
        "target": TARGET,
        "median": {"jax": statistics.median(jax), "jaxgmm": statistics.median(jaxgmm)},
        "runs": {"jax": jax, "jaxgmm": jaxgmm},
    }
    print(
        f"import jaxgmm adds {measured['median']['jaxgmm']:.3f} s (median of {len(pairs)}, {min(jaxgmm):.3f} to "
        f"{max(jaxgmm):.3f}) to import jax's {measured['median']['jax']:.3f} s; target {TARGET} s"
    )
    return measured


def main() -> None:
    record = Record.begin("import_time")
    record.write(measure(Options()))
    print(f"kept in {record.path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

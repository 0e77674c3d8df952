"""What `import jaxgmm` adds to `import jax`: python -m benchmarks.import_time

Each run is a fresh interpreter that imports jax, then jaxgmm, and times both: a slow moment of the machine then falls
on both alike. The median over runs is reported, after a warm-up that leaves files cached and bytecode written.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from .record import ROOT, record

RUNS = 15
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


def main() -> None:
    probe()
    pairs = [probe() for _ in range(RUNS)]
    jax, jaxgmm = ([round(seconds, 4) for seconds in column] for column in zip(*pairs, strict=True))
    median = statistics.median(jaxgmm)
    path = record(
        "import_time",
        {
            "unit": "s",
            "target": TARGET,
            "median": {"jax": statistics.median(jax), "jaxgmm": median},
            "runs": {"jax": jax, "jaxgmm": jaxgmm},
        },
    )
    print(
        f"import jaxgmm adds {median:.3f} s (median of {RUNS}, {min(jaxgmm):.3f} to {max(jaxgmm):.3f}) to import jax's "
        f"{statistics.median(jax):.3f} s; target {TARGET} s; kept in {path.relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main()

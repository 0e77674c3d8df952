"""What `import jaxgmm` adds to `import jax`.

Each run is a fresh interpreter that imports jax, then jaxgmm, and times both: a slow moment of the machine then falls
on both alike. The median over runs is reported, after a warm-up that leaves files cached and bytecode written.
"""

import json
import statistics
import subprocess
import sys
from typing import Any

from .isolate import ROOT, in_short
from .markdown import digits
from .options import Options
from .ratios import Place

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


def probe() -> list[float]:
    """Seconds to import jax, and then jaxgmm, in a fresh interpreter."""
    ran = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True)
    return [round(seconds, 4) for seconds in json.loads(ran.stdout)]


def measure(options: Options) -> dict[str, Any]:
    """Seconds: the medians, and every run."""
    probe()
    jax, jaxgmm = map(list, zip(*(probe() for _ in range(QUICK_RUNS if options.quick else RUNS)), strict=True))
    median = {"jax": statistics.median(jax), "jaxgmm": statistics.median(jaxgmm)}
    print(f"import_time: {in_short({'seconds': median})}", flush=True)
    return {"unit": "s", "target": TARGET, "median": median, "runs": {"jax": jax, "jaxgmm": jaxgmm}}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A sentence."""
    del place
    median = found["median"]
    target = f"; target {found['target']} s" if "target" in found else ""
    return [f"`import jaxgmm` adds {digits(median['jaxgmm'])} s to `import jax`'s {digits(median['jax'])} s{target}."]

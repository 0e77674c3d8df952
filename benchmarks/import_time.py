"""What `import jaxgmm` adds to `import jax`.

Each run is a fresh interpreter that imports jax, then jaxgmm, and times both: a slow moment of the machine then falls
on both alike. The median over runs is reported, after a warm-up that leaves files cached and bytecode written.
"""

import statistics
from importlib import import_module
from typing import Any

from . import isolate
from .markdown import digits
from .options import Options
from .ratios import Place
from .timing import stopwatch

RUNS, QUICK_RUNS = 15, 3
TARGET = 0.1  # seconds
LIMIT = 120.0  # seconds for one process


def imports() -> dict[str, Any]:
    """In a child: seconds to import jax, and then jaxgmm."""
    return {name: round(stopwatch(import_module, name)[0], 4) for name in ("jax", "jaxgmm")}


def measure(options: Options) -> dict[str, Any]:
    """Seconds: the medians, and every run."""
    _, *made = (isolate.ask(imports, LIMIT) for _ in range(1 + (QUICK_RUNS if options.quick else RUNS)))
    runs = {name: [one[name] for one in made] for name in ("jax", "jaxgmm")}
    median = {name: statistics.median(seconds) for name, seconds in runs.items()}
    return {"unit": "s", "target": TARGET, "median": median, "runs": runs}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A sentence."""
    median = found["median"]
    target = f"; target {found['target']} s" if "target" in found else ""
    return [f"`import jaxgmm` adds {digits(median['jaxgmm'])} s to `import jax`'s {digits(median['jax'])} s{target}."]

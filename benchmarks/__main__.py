"""The benchmark suite: python -m benchmarks [--quick] [--sections …] [--problems …] [--contenders …]

Runs the sections one after the other, prints as it goes, and writes one file to `results/`. See README.md beside this.
"""

import argparse
import importlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import repeat
from typing import Any

from . import contenders, problems
from .options import DEVICES, DTYPES, Options, visible_devices
from .record import ROOT, Record

SECTIONS = "limits card first_calls iteration searches starts many hard memory statistics".split()


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status: 1 where a section failed; what the others measured is kept all the same."""
    parser = _parser()
    given = parser.parse_args(arguments)
    options = Options(
        quick=given.quick,
        devices=tuple(given.devices or visible_devices()),
        dtypes=tuple(given.dtypes or (DTYPES[:1] if given.quick else DTYPES)),
        contenders=given.contenders and tuple(given.contenders),
        problems=given.problems and tuple(given.problems),
        repeats=given.repeats or (3 if given.quick else 9),
        until=given.minutes and time.monotonic() + 60.0 * given.minutes,
    )
    if "gpu" in options.devices and "gpu" not in visible_devices():
        parser.error("JAX sees no GPU here.")
    try:
        problems.chosen(options.problems, options.quick)
        contenders.chosen(options.contenders, options.quick)
    except ValueError as error:
        parser.error(str(error))
    # Fractions are of the limits, so a file with the one has the other.
    asked = given.sections or [s for s in SECTIONS if s != "card" or "gpu" in options.devices]
    sections = [s for s in SECTIONS if s in asked or (s == "limits" and "iteration" in asked)]
    if options.quick:  # its times mean nothing: sections need not take turns, nor compile well, which takes longest
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # A quick run is a rehearsal: its figures are no results, and no report looks for them.
    record = Record.begin("quick" if options.quick else "suite", contenders.PACKAGES)
    options = replace(options, sections=tuple(sections))
    measured: dict[str, Any] = {"options": {**asdict(options), "minutes": given.minutes}}
    del measured["options"]["until"]  # of a clock that is this machine's own
    with ThreadPoolExecutor(os.cpu_count() if options.quick else 1) as pool:
        for name, result in zip(sections, pool.map(_section, sections, repeat(options)), strict=True):
            measured[name] = result
            record.write(measured)
    print(f"kept in {record.path.relative_to(ROOT)}")
    return 1 if any(measured[name].get("missing") for name in sections) else 0


def _section(name: str, options: Options) -> dict[str, Any]:
    """What a section measured, or {"missing": reason}: what the others take long to measure is not to be lost."""
    print(f"== {name}", flush=True)
    began = time.perf_counter()
    try:
        result = importlib.import_module(f"benchmarks.{name}").measure(options)
    except Exception as error:
        result = {"missing": f"{type(error).__name__}: {error}"}
        print(f"{name} failed: {result['missing']}", flush=True)
    print(f"== {name}: {time.perf_counter() - began:.1f} s", flush=True)
    return result


def _parser() -> argparse.ArgumentParser:
    description = "Run the benchmarks, and keep the result."
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    some: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    named = f"of {', '.join(contenders.CONTENDERS)} (all that are installed)"
    parser.add_argument("--quick", action="store_true", help="tiny problems, to see that all of it works")
    parser.add_argument("--sections", choices=SECTIONS, help="(all; card where JAX sees a GPU)", **some)
    parser.add_argument("--problems", help="such as full_200k_16_16 (all)", **some)
    parser.add_argument("--contenders", help=named, **some)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="(both; float32 where quick)")
    parser.add_argument("--devices", nargs="+", choices=DEVICES, help="(cpu, and gpu where JAX sees one)")
    parser.add_argument("--minutes", type=float, help="after which card and iteration begin nothing more (no limit)")
    parser.add_argument("--repeats", type=int, help="pairs of timed calls of a cell at most (9; 3 where quick)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

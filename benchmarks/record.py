"""Where a measurement comes from, and the file that it is kept in. Every benchmark records through this."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Self

from jaxgmm import __version__

from .isolate import ROOT, settings

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Record:
    """A file in `results/` of what is measured from now on. Where it comes from is noted at once, before the file
    itself, or an edit made meanwhile, makes the tree another one."""

    path: Path
    provenance: dict[str, Any]

    @classmethod
    def begin(cls, name: str, packages: Iterable[str]) -> Self:
        """A new file. One that exists is never touched: a second run in the same second is an error."""
        now = datetime.now(UTC)
        provenance = {
            "benchmark": name,
            "date": now.isoformat(timespec="seconds"),
            "commit": _git("rev-parse", "HEAD"),
            # Results of runs before this one are no part of what is measured.
            "dirty": bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results")),
            "machine": machine(),
            "versions": versions(packages),
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{now:%Y-%m-%dT%H%M%SZ}-{name}.json"
        path.touch(exist_ok=False)
        record = cls(path, provenance)
        record.write({})
        return record

    def write(self, measured: dict[str, Any]) -> None:
        """Replace the file's content by all that is measured by now: a run that is ended early loses only the rest."""
        write(self.path, json.dumps({**self.provenance, **measured}, indent=2) + "\n")


def write(path: Path, content: str | bytes) -> None:
    """Write a file beside `path` and put it in its place at once: a reader sees the old one or the new one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def machine() -> dict[str, Any]:
    """What the figures depend on and a reader can compare; no names of hosts, people or folders. `cpu_details` tell
    processors of one name apart."""
    said: dict[str, str] = {}
    with contextlib.suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", said.get("Features", "")).split()
    widest = next((flag for flag in ("avx512f", "avx2", "sve", "asimd") if flag in flags), "")
    return {
        "cpu": said.get("model name") or platform.processor() or "unknown",
        "cpu_details": {"family": said.get("cpu family", ""), "model": said.get("model", ""), "vectors": widest},
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "environment": settings(),
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Python's, jaxgmm's and the packages' versions, None for one that is not installed."""
    own = {"python": platform.python_version(), "jaxgmm": __version__}  # the checkout's, installed or not
    return own | {name: next((found.version for found in distributions(name=name)), None) for name in packages}


def _git(*arguments: str) -> str | None:
    """What git prints, or None outside a checkout."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

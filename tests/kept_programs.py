"""Compiled programs of the tests, kept on disk from one process and one run to the next.

JAX writes an entry of its cache in place, so a process never shares a folder with another that may write: each test
process has its own, and what it starts writes there, too. At the end of a module its new entries are linked into the
common folder, which is atomic, and what others have put there is linked into its own. An entry that a child did not
live to write whole is dropped then. The folders lie in pytest's cache, which `--cache-clear` empties: one for each
release of jaxlib and each kind of processor, since programs are machine code.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import zlib
from pathlib import Path

import jax
import jaxlib

LIMIT = 2**30
"""Bytes of the common folder; beyond it, the oldest entries go at the start of a run."""

SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # By default the folder of XLA's own caches, which are for GPUs, is part of what an entry is found by.
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}

SUFFIX = "-cache"  # of JAX's


def processor() -> str:
    """What machine code may depend on. Linux says it in words; elsewhere the architecture has to do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")]
    return "\n".join([platform.machine(), platform.processor(), *told])


class KeptPrograms:
    """A common folder, and a folder of this process's own for as long as it runs."""

    def __init__(self, root: Path) -> None:
        machine = hashlib.sha256(processor().encode()).hexdigest()[:12]
        self.common = root / f"jaxlib-{jaxlib.__version__}-{machine}"
        self.common.mkdir(parents=True, exist_ok=True)
        self.own = Path(
            tempfile.mkdtemp(prefix=f"process-{os.getpid()}-", dir=root)
        )  # of the same file system, for links
        self.known: set[str] = set()
        self.exchange()

    def use(self) -> None:
        settings = {"JAX_COMPILATION_CACHE_DIR": str(self.own), **SETTINGS}
        for name, value in settings.items():
            os.environ[name] = value  # for the processes that tests start
            jax.config.update(name.lower(), float(value) if value.isdecimal() else value)

    def exchange(self) -> None:
        """What is new here goes to the common folder, and what is new there comes."""
        here, there = (
            {entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)}
            for folder in (self.own, self.common)
        )
        for name in here - self.known - there:
            if not whole(self.own / name):
                (self.own / name).unlink()
                here.remove(name)
                continue
            link(self.own / name, self.common / name)
        for name in there - here:
            link(self.common / name, self.own / name)
        self.known = here | there

    def close(self) -> None:
        self.exchange()
        shutil.rmtree(self.own, ignore_errors=True)


def whole(entry: Path) -> bool:
    """Whether an entry was written to its end: zlib's checksum stands there. What is packed otherwise is believed."""
    data = entry.read_bytes()
    if data[:1] != b"\x78":
        return bool(data)
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True


def link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):  # another process was first, to link or to make room
        pass


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def make_room(root: Path) -> None:
    """Before any process of the run begins: what ended processes left goes, and the oldest entries beyond LIMIT."""
    if not root.exists():
        return
    for left in root.glob("process-*"):
        if not runs(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)
    entries = sorted(
        ((entry.stat(), entry) for entry in root.glob(f"jaxlib-*/*{SUFFIX}")), key=lambda pair: -pair[0].st_mtime
    )
    total = 0
    for status, entry in entries:
        total += status.st_size
        if total > LIMIT:
            entry.unlink(missing_ok=True)

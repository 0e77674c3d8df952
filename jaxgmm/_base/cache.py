"""Compiled programs on disk, so that a later process loads what an earlier one has compiled."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
from jax.experimental.compilation_cache import compilation_cache

from .files import draft_name, is_draft

BOUND = 256 * 2**20
"""Bytes that the programs of all versions and machines in one cache folder may take."""

SUFFIX = ".program"


_stores: dict[str, Store] = {}
"""The folders that `enable_cache` has switched on in this process."""


def enable_cache(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk for later processes. -> the folder in use, or None where there is none.

    The folder lies in `path`, else in `$JAXGMM_CACHE`, else in `$XDG_CACHE_HOME/jaxgmm`, else where the system has such
    things: `~/.cache/jaxgmm`, on macOS `~/Library/Caches/jaxgmm`, on Windows `%LOCALAPPDATA%\\jaxgmm`. Each version of
    jaxlib and each kind of processor has its own subfolder; all together stay under 256 MB, with LRU eviction. Any
    number of processes may use it at once. A damaged file counts as absent. If the disk is full or read-only, programs
    are not kept; nothing else fails. Programs are code: never choose a folder that someone you do not trust can write
    to.

    This is a process-wide switch for notebooks, services and applications; importing and fitting never touch it. It
    sets JAX's `jax_compilation_cache_dir` to that folder; `jax_persistent_cache_min_compile_time_secs` to 0, as most
    programs here take less than JAX's second; `jax_persistent_cache_min_entry_size_bytes` to -1; and
    `jax_persistent_cache_enable_xla_caches` to "none", since the size of those files is not bounded. It also replaces
    JAX's reader and writer for this one folder, since they do not write files atomically. All programs of the process
    are kept, your own included. A second call changes nothing, unless it names another path; programs that were
    compiled before the first call are not written.

    Nothing is set, and None is returned, under `JAXGMM_CACHE=off`, under `JAX_ENABLE_COMPILATION_CACHE=0`, where no
    folder can be made (with a warning if it was asked for by `path` or `$JAXGMM_CACHE`), and with a future JAX that
    does not allow the replacement. A cache that you have set up yourself (`JAX_COMPILATION_CACHE_DIR`) is left as it
    is, and its folder returned.
    """
    if _asked().lower() == "off" or not _setting("jax_enable_compilation_cache"):
        return None
    current = _setting("jax_compilation_cache_dir")
    if current and (path is None or current not in _stores):
        return Path(current)
    try:
        store = Store(_root(path) / f"jaxlib-{jaxlib.version.__version__}-{_machine()}")
        store.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder is unknown
        if path is not None or _asked():
            warnings.warn(f"Compiled programs are not kept: {error}", stacklevel=2)
        return None
    name = str(store.folder)
    if name == current:
        return store.folder
    if not _take_over():
        return None
    _stores[name] = store
    jax.config.update("jax_compilation_cache_dir", name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    compilation_cache.reset_cache()  # JAX reads the folder's name only once
    return store.folder


class Store:
    """A folder of programs by key, with the two methods that JAX calls; neither raises when the disk fails.

    A file is written under a temporary name and then renamed, so no reader sees a partial file, even if the writer is
    killed. It begins with a digest of its key and content. So nothing needs to be flushed to the disk: a file that a
    machine failure leaves half written is not loaded.
    """

    def __init__(self, folder: Path, bound: int = BOUND) -> None:
        self.folder = self._path = folder  # JAX logs `_path`
        self.bound = bound
        self._budget = 0  # bytes that may be written before the folder is scanned again

    def get(self, key: str) -> bytes | None:
        """-> the program, or None."""
        path = self._file(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        program = content[32:]
        if content[:32] != _digest(key, program):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the modification time records the last use
        return program

    def put(self, key: str, value: bytes) -> None:
        """Store a program under this key, replacing an earlier one."""
        content = _digest(key, value) + value
        if len(content) > self.bound // 4:
            return
        draft = self.folder / draft_name()
        try:
            self._make_room(len(content))
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # if somebody has deleted it
            draft.write_bytes(content)
            os.replace(draft, self._file(key))
        except BaseException as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            if not isinstance(error, OSError):
                raise

    def _file(self, key: str) -> Path:
        # Keys contain names of the user's functions, and may be longer than a file name is allowed to be.
        return self.folder / (hashlib.sha256(key.encode()).hexdigest() + SUFFIX)

    def _make_room(self, size: int) -> None:
        """Delete the least recently used files until `size` more bytes are within the bound.

        Scanning thousands of files takes milliseconds, so one scan serves for a 32nd of the bound. Each other process
        that writes at the same time may exceed the bound by as much.
        """
        if size > self._budget:
            self._budget = max(size, self.bound // 32)
            files = sorted(_programs(self.folder.parent))
            excess = sum(length for _, length, _ in files) + self._budget - self.bound
            for _, length, name in files:
                if excess <= 0:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
                excess -= length
        self._budget -= size


def _programs(root: Path) -> list[tuple[int, int, str]]:
    """Time of the last use, size and path of each program of all versions and machines, and of temporary files that
    killed processes left. Other files are ignored: the user may have chosen a folder that has some."""
    found = []
    for folder in root.glob("jaxlib-*"):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) or is_draft(entry.name):
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
    return found


def _digest(key: str, program: bytes) -> bytes:
    """32 bytes."""
    digest = hashlib.sha256(f"{len(key)} {key}".encode())
    digest.update(program)
    return digest.digest()


def _take_over() -> bool:
    """Make JAX read and write our folders through their `Store`, and all others as before. -> whether it succeeded.

    JAX has no public hook for this, and its public settings do not suffice: a bound needs another package (filelock);
    without a bound files are written in place; a damaged file causes a warning at each use, and is never replaced; and
    with zstandard installed a flipped bit may reach the loader undetected.
    """
    try:
        from jax._src import compilation_cache as inside

        plain: Any = inside.get_file_cache
    except (ImportError, AttributeError):
        return False
    if getattr(plain, "is_ours", False):
        return True

    def get_file_cache(path: str) -> Any:
        store = _stores.get(path)
        return plain(path) if store is None else (store, path)

    get_file_cache.is_ours = True  # pyright: ignore[reportFunctionMemberAccess]
    inside.get_file_cache = get_file_cache
    return True


def _setting(name: str) -> Any:
    """The value of a JAX setting. JAX creates these attributes at import, so type checkers do not know them."""
    return getattr(jax.config, name)


def _asked() -> str:
    return os.environ.get("JAXGMM_CACHE", "").strip()


def _root(path: str | os.PathLike[str] | None) -> Path:
    """The folder that holds the subfolders of the versions and machines."""
    chosen = _asked() if path is None else os.fspath(path)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # "all paths must be absolute. If [not], consider the path invalid and ignore it"
        return Path(shared) / "jaxgmm"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxgmm"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "jaxgmm"
    return Path.home() / ".cache" / "jaxgmm"


CPUINFO = "/proc/cpuinfo"

PROCESSOR = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),  # x86
    *("cpu implementer", "cpu architecture", "cpu variant", "cpu part", "cpu revision", "features"),  # ARM
    *("cpu", "machine", "isa", "uarch"),  # others
)
"""Fields of CPUINFO that determine which instructions exist, and which of them are fast."""


def _machine() -> str:
    """12 hexadecimal digits that identify the processor, and the number of cores that the process may use.

    XLA compiles for both. Where machines share a home folder, a program from one may contain instructions that
    another lacks.
    """
    told = [platform.system(), platform.machine()]
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as file:
            first = file.read().split("\n\n")[0]
        lines = (line.partition(":") for line in first.splitlines())
        told += [f"{name.strip()}:{value.strip()}" for name, _, value in lines if name.strip().lower() in PROCESSOR]
    except OSError:
        told.append(platform.node())  # without CPUINFO the machine's name identifies its processor
    told.append(str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]

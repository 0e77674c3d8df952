"""Checkpoints on disk, from which a search that was killed resumes.

A search is a sequence of calls of `run_to_ends`, each of which depends only on the arguments and on the calls before
it. So the state of each call is kept under its number. A search that is started again goes through the same sequence,
resumes each call from its last checkpoint, and ends with the same bits.

about.json      fingerprint of the search: a folder belongs to one search
0003.part       last checkpoint of call 3: a title, a digest, arrays; written whole or not at all
0003.before     the checkpoint before that
.lock           held by the run that is using the folder

If several processes search together, process 0 alone reads and writes, and broadcasts what it read to the others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._base import check
from .._base.files import atomically, delete_drafts, is_draft, locked
from .._version import __version__
from ..rows._check_parts import same_in_all

T = TypeVar("T")

TITLE = b"jaxgmm-checkpoint 0001\n"

LOCK = ".lock"

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
"""Errors that say that a file cannot be written now, not that the folder is the wrong one."""


@dataclass(frozen=True)
class Checkpoint:
    """The folder that a search is checkpointed to, and the seconds between checkpoints.

    The folder is created if it does not exist. It belongs to one search, which only one run at a time may work on, and
    remains when the search has ended: the same call then returns the result again. If processes share the rows of one
    search, each gives a checkpoint, and that of process 0 is used; processes that search separately need a folder each.
    TypeError or ValueError if the folder is not a path, or the seconds are not a number ≥ 0.
    """

    folder: str | os.PathLike[str]
    every: float = 60.0

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a folder's path, or a Checkpoint, got {self.folder!r}.")
        check.nonnegative(self.every, "every")

    @classmethod
    def of(cls, value: Any) -> Checkpoint | None:
        """From a user's argument: a folder, a Checkpoint or None."""
        return value if value is None or isinstance(value, cls) else cls(value)


class Journal:
    """The checkpointed calls of one search, in order."""

    def __init__(self, checkpoint: Checkpoint, about: Callable[[], dict[str, Any]], is_shared: bool = False) -> None:
        """is_shared: whether all processes go through this search together.

        ValueError if the folder belongs to another search, holds other files, or is in use by another run.
        """
        self.folder, self.every, self.n_calls = Path(checkpoint.folder), float(checkpoint.every), 0
        self.is_shared, self.held, self.has_warned = is_shared, contextlib.ExitStack(), False
        self.unwritten: dict[str, str] | None = None  # the fingerprint, while there is no room for it
        self.on_first_process(partial(self._open, about))

    def _open(self, about: Callable[[], dict[str, Any]]) -> bytes:
        told = {"jaxgmm": __version__, "jax": jax.__version__, **{name: str(value) for name, value in about().items()}}
        try:
            self._take(told)
        except OSError as error:
            raise type(error)(
                f"The checkpoint folder {self.folder} cannot be used ({_reason(error)}). Give a folder that can be "
                "written to, or none."
            ) from error
        return b""

    def _take(self, told: dict[str, str]) -> None:
        """Lock the folder, and see that it belongs to this search."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "about.json"
        if not path.exists() and any(each.name != LOCK and not is_draft(each.name) for each in self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds other files: give an empty or a new folder as checkpoint.")
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / LOCK))
            except BlockingIOError:
                raise ValueError(
                    f"Another run is at work in {self.folder}. Wait until it ends, or give another folder."
                ) from None
            self._claim(path, told)
            delete_drafts(self.folder)
            self.held = held.pop_all()

    def _claim(self, path: Path, about: dict[str, str]) -> None:
        if not path.exists():
            self.unwritten = about
            try:
                self.written()
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                self.warn(error)
            return
        try:
            kept = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): delete {self.folder} and begin again.") from error
        if kept != about:
            names = sorted(name for name in {*kept, *about} if kept.get(name) != about.get(name))
            told = "; ".join(f"{name} was {kept.get(name)} and is {about.get(name)}" for name in names)
            raise ValueError(f"{self.folder} belongs to another search: {told}. Give another folder, or delete it.")

    def written(self) -> None:
        """Write the fingerprint, if that is still to be done: a folder without it is not a search's."""
        if self.unwritten is not None:
            with atomically(self.folder / "about.json") as file:
                file.write(json.dumps(self.unwritten, indent=1, sort_keys=True).encode())
            self.unwritten = None

    def warn(self, error: OSError) -> None:
        """Warn, once a search, that a checkpoint could not be written. What was kept before it remains."""
        if not self.has_warned:
            warnings.warn(
                f"The checkpoint in {self.folder} could not be written ({_reason(error)}). The search goes on without "
                f"it, and tries again every {self.every:g} s: free space there, or let the folder be written to. Until "
                "then a search that is killed resumes from what was kept before, if anything was.",
                stacklevel=2,
            )
        self.has_warned = True

    def close(self) -> None:
        """Release the lock on the folder."""
        self.held.close()

    def on_first_process(self, job: Callable[[], bytes]) -> bytes:
        """What the job returns. Shared: process 0 runs it and broadcasts the result; if it raises, all raise."""
        if not self.is_shared:
            return job()
        said, error = b"", None
        if jax.process_index() == 0:
            try:
                said = job()
            except BaseException as raised:
                error, said = raised, str(raised).encode() or b"it was interrupted"
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said) if error is None else -len(said))))
        if length:
            sent = np.frombuffer(said, np.uint8) if said else np.zeros(abs(length), np.uint8)
            said = np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes()
        if error is not None:
            raise error
        if length < 0:
            raise ValueError(f"Process 0, which keeps the search, says: {said.decode()}")
        return said

    def next_call(self) -> Entry:
        """The entry of the next call, which begins now."""
        self.n_calls += 1
        return Entry(self, self.n_calls - 1)


class Entry:
    """The checkpoint of one call."""

    def __init__(self, journal: Journal, number: int) -> None:
        self.journal = journal
        self.path = journal.folder / f"{number:04d}.part"
        self.before = self.path.with_suffix(".before")
        self.last = time.monotonic()
        self.is_sound = False  # whether the file at `path` was read or written by this object, and so is intact

    def found(self) -> list[np.ndarray] | None:
        """The arrays of the last checkpoint, or of the one before if that is damaged; None if there is none."""
        payload = self.journal.on_first_process(self._found)
        if not payload:
            return None
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            return [archive[f"arr_{i}"] for i in range(len(archive.files))]

    def _found(self) -> bytes:
        for path, instead in ((self.path, "What was kept before it is used."), (self.before, "The call begins anew.")):
            if path.exists():
                try:
                    payload = _read(path)
                except ValueError as error:
                    warnings.warn(f"{error} {instead}", stacklevel=2)
                else:
                    self.is_sound = path is self.path
                    return payload
        return b""

    def as_tree(self, leaves: list[np.ndarray], like: T) -> T:
        """The leaves found, in the structure of `like`. ValueError if their shapes or dtypes differ from its leaves."""
        kept, wanted = ([(leaf.shape, leaf.dtype) for leaf in of] for of in (leaves, jax.tree.leaves(like)))
        if kept != wanted:
            raise ValueError(f"{self.path} holds other arrays than this search makes. Give another folder.")
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def keep(self, tree: Any, is_done: bool = False) -> None:
        """Write the leaves of a tree, if the call is done or the last checkpoint is at least `every` seconds old."""
        self.journal.on_first_process(partial(self._keep, tree, is_done))

    def _keep(self, tree: Any, is_done: bool) -> bytes:
        if is_done or time.monotonic() - self.last >= self.journal.every:
            payload = io.BytesIO()
            np.savez(payload, *(np.asarray(leaf) for leaf in jax.tree.leaves(tree)))
            try:
                self._write(payload.getbuffer())
            except OSError as error:  # the search is worth more than its checkpoint
                self.journal.warn(error)
            self.last = time.monotonic()
        return b""

    def _write(self, payload: memoryview) -> None:
        self.journal.written()
        # Overwrite a damaged file: moving it to `before` would replace an intact one.
        if self.is_sound and self.path.exists():
            os.replace(self.path, self.before)
        with atomically(self.path) as file:
            file.write(TITLE)
            file.write(hashlib.sha256(payload).digest())
            file.write(payload)
        self.is_sound = True


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error.strerror or str(error)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    digest, payload = content[len(TITLE) :][:32], content[len(TITLE) + 32 :]
    if not content.startswith(TITLE) or hashlib.sha256(payload).digest() != digest:
        raise ValueError(f"{path} is damaged: its checksum does not match.")
    return payload


@contextlib.contextmanager
def checkpointing(
    checkpoint: Checkpoint | None, about: Callable[[], dict[str, Any]], is_shared: bool = False
) -> Iterator[Journal | None]:
    """The journal of a search while it runs; None without a checkpoint. about: the search's fingerprint.

    is_shared: whether all processes call this together. ValueError in all of them if only some have a checkpoint.
    """
    if is_shared:
        has_one = multihost_utils.process_allgather(np.array([checkpoint is not None], np.int32))
        same_in_all(has_one, ("checkpoint",))
    if checkpoint is None:
        yield None
        return
    journal = Journal(checkpoint, about, is_shared)
    try:
        yield journal
    finally:
        journal.close()

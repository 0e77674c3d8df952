"""What a long search has done so far, on disk, so that it goes on after it was killed.

A search is a sequence of calls of `run_to_ends`, each of which depends on the arguments and the calls before it alone.
So what is kept is numbered: how far each call has come. A search that begins again goes through the same sequence,
takes up each call where it was last kept, and ends with the same bits.

about.json      what the search is of: a folder belongs to one
0003.part       where call 3 stands or ended: a title, a digest, arrays; whole, or not there
0003.before     where it stood the time before
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from . import _check
from ._files import atomically
from ._version import __version__

T = TypeVar("T")

TITLE = b"jaxgmm-checkpoint 0001\n"


@dataclass(frozen=True)
class Checkpoint:
    """Where a search is kept, and after how many seconds it is kept again.

    The folder is made where it is not there; it belongs to one search and stays when that has ended: then it gives the
    result again. TypeError or ValueError for no path, or for seconds that are no number ≥ 0.
    """

    folder: str | os.PathLike[str]
    every: float = 60.0

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a folder's path, or a Checkpoint, got {self.folder!r}.")
        _check.nonnegative(self.every, "every")

    @classmethod
    def of(cls, value: Any) -> Checkpoint | None:
        """From a user's argument: a folder, a Checkpoint or None."""
        return value if value is None or isinstance(value, cls) else cls(value)


class Journal:
    """The calls of one search, in turn."""

    def __init__(self, checkpoint: Checkpoint, about: dict[str, Any]) -> None:
        """ValueError where the folder belongs to another search, or is something else."""
        self.folder, self.every, self.n_calls = Path(checkpoint.folder), float(checkpoint.every), 0
        about = {"jaxgmm": __version__, "jax": jax.__version__, **{name: str(value) for name, value in about.items()}}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "about.json"
        if not path.exists():
            if any(self.folder.iterdir()):
                raise ValueError(f"{self.folder} holds other files: give an empty or a new folder as checkpoint.")
            with atomically(path) as file:
                file.write(json.dumps(about, indent=1, sort_keys=True).encode())
            return
        try:
            kept = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): delete {self.folder} and begin again.") from error
        if kept != about:
            names = sorted(name for name in {*kept, *about} if kept.get(name) != about.get(name))
            told = "; ".join(f"{name} was {kept.get(name)} and is {about.get(name)}" for name in names)
            raise ValueError(f"{self.folder} belongs to another search: {told}. Give another folder, or delete it.")

    def next_call(self) -> Entry:
        """The entry of the call that begins now."""
        self.n_calls += 1
        return Entry(self, self.n_calls - 1)


class Entry:
    """Where one call stands."""

    def __init__(self, journal: Journal, number: int) -> None:
        self.path = journal.folder / f"{number:04d}.part"
        self.before = self.path.with_suffix(".before")
        self.every, self.last = journal.every, time.monotonic()

    def found(self) -> list[np.ndarray] | None:
        """The arrays that were last kept, or of the time before where those are damaged; None where there are none."""
        for path in (self.path, self.before):
            if path.exists():
                try:
                    return _read(path)
                except ValueError as error:
                    warnings.warn(f"{error} What was kept before it is used.", stacklevel=2)
        return None

    def as_tree(self, leaves: list[np.ndarray], like: T) -> T:
        """Leaves that were found, in the place of those of `like`. ValueError where they do not fit."""
        kept, wanted = ([(leaf.shape, leaf.dtype) for leaf in of] for of in (leaves, jax.tree.leaves(like)))
        if kept != wanted:
            raise ValueError(f"{self.path} holds other arrays than this search makes. Give another folder.")
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def keep(self, tree: Any, is_done: bool = False) -> None:
        """Write the leaves of a tree, where it is done or the last time is long enough ago."""
        if not is_done and time.monotonic() - self.last < self.every:
            return
        payload = io.BytesIO()
        np.savez(payload, *(np.asarray(leaf) for leaf in jax.tree.leaves(tree)))
        if self.path.exists():
            os.replace(self.path, self.before)
        with atomically(self.path) as file:
            file.write(TITLE)
            file.write(hashlib.sha256(payload.getbuffer()).digest())
            file.write(payload.getbuffer())
        self.last = time.monotonic()


def _read(path: Path) -> list[np.ndarray]:
    content = path.read_bytes()
    digest, payload = content[len(TITLE) :][:32], content[len(TITLE) + 32 :]
    if not content.startswith(TITLE) or hashlib.sha256(payload).digest() != digest:
        raise ValueError(f"{path} is damaged: its checksum does not match.")
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        return [archive[f"arr_{i}"] for i in range(len(archive.files))]


def digest(tree: Any) -> str:
    """Of the values of a tree of arrays and numbers, and their dtypes."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


_journal: ContextVar[Journal | None] = ContextVar("journal", default=None)


@contextlib.contextmanager
def kept(checkpoint: Checkpoint | None, about: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Within this every call of `run_to_ends` is kept; as it is where there is no checkpoint."""
    if checkpoint is None:
        yield
        return
    token = _journal.set(Journal(checkpoint, about()))
    try:
        yield
    finally:
        _journal.reset(token)


def next_entry() -> Entry | None:
    """The entry of the call that begins now, where calls are kept."""
    journal = _journal.get()
    return None if journal is None else journal.next_call()

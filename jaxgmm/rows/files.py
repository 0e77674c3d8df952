"""Files that rows are read from: that they are there, and that they remain what they were."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MUST_REMAIN = "EM reads the rows many times, and they must remain what they are: fit a copy, or wait for who writes."


class Stamp(NamedTuple):
    """What tells one state of a file from another without reading it."""

    size: int
    modified: int  # nanoseconds
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class Watched:
    """A file that must remain as it is from now on."""

    def __init__(self, path: str) -> None:
        """FileNotFoundError where there is none, ValueError for what can be read only once, such as a pipe."""
        found = os.stat(existing(path))
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(
                f"{path} is no regular file, and cannot be read again for every pass. Save the rows first."
            )
        self.path, self.stamp = path, Stamp.of(found)

    def check(self, file: BinaryIO | None = None) -> None:
        """ValueError, or FileNotFoundError, that names the file if it is another than before. file: it, if open."""
        try:
            now = Stamp.of(os.stat(self.path) if file is None else os.fstat(file.fileno()))
        except FileNotFoundError:
            raise self._gone() from None
        if now == self.stamp:
            return
        if now.size != self.stamp.size:
            what = f"it had {self.stamp.size} bytes, and has {now.size} now"
        else:
            what = "it has been written again" if now.inode == self.stamp.inode else "another file has taken its place"
        raise ValueError(f"{self.path} has changed since the fit began: {what}. {MUST_REMAIN}")

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, open for reading, and checked before and after."""
        with naming(self.path):
            try:
                file = open(self.path, "rb", buffering=0)
            except FileNotFoundError:
                raise self._gone() from None
            with file:
                self.check(file)  # pyright: ignore
                yield file  # pyright: ignore
                self.check(file)  # pyright: ignore
            self.check()

    def _gone(self) -> FileNotFoundError:
        return FileNotFoundError(f"{self.path} was there when the fit began, and is gone. {MUST_REMAIN}")


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Every error of the operating system within names the path, and remains of its kind."""
    try:
        yield
    except OSError as error:
        if path in str(error):
            raise
        raise type(error)(error.errno, error.strerror or str(error), path) from None


def root_of(x: Any) -> Any:
    """The array that owns the memory of x, or that maps it."""
    while isinstance(x, np.ndarray) and isinstance(x.base, np.ndarray):
        x = x.base
    return x


def require_whole(x: Any) -> None:
    """ValueError that names the file for a mapped array whose file has been cut off since: the system would end the
    process that looks at it."""
    root = root_of(x)
    if isinstance(root, np.memmap) and root.filename is not None and os.path.isfile(root.filename):
        size, end = os.stat(root.filename).st_size, root.offset + root.nbytes
        if size < end:
            raise ValueError(
                f"{root.filename} has been cut off since it was mapped: it has {size} bytes of {end}. "
                "Write it whole, and open it anew."
            )


def is_path(x: Any) -> bool:
    return isinstance(x, (str, os.PathLike))


def existing(path: str | os.PathLike[str]) -> str:
    """The path of what is there, as a string. FileNotFoundError where nothing is."""
    name = os.fsdecode(os.fspath(path))
    try:
        os.stat(name)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: there is no such file.") from None
    except ValueError as error:  # a character that no path may have
        raise ValueError(f"{name!r} is no path: {error}.") from None
    return name


def ending(path: str) -> str:
    """The ending of a path in lower case, as ".npy"."""
    return os.path.splitext(path)[1].lower()

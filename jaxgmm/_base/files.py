"""Files that are written whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` when the block succeeds, and is deleted when it fails.

    Links are followed. A pipe or a device cannot be replaced: it is written to directly.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as file:  # raises for a directory
            yield file
        return
    folder = os.path.dirname(target)
    draft = os.path.join(folder, draft_name())
    try:
        # "x" rather than tempfile, whose files only their owner may read.
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
        _settle(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        if not isinstance(error, OSError) or error.filename != draft:
            raise
        # The caller knows nothing of the draft.
        more = "" if os.path.isdir(folder) else f", since there is no folder {folder}"
        raise type(error)(error.errno, f"{error.strerror}{more}", os.fspath(path)) from None


def _settle(folder: str) -> None:
    """Flush a folder's entries to the disk, where the system supports it."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def draft_name() -> str:
    """The name of a temporary file that no other process chooses, and that `is_draft` knows."""
    return f".{secrets.token_hex(8)}.part"


def is_draft(name: str) -> bool:
    """Whether a file has such a name: its process was killed, or is still writing."""
    return re.fullmatch(r"\.[0-9a-f]{16}\.part", name) is not None


def delete_drafts(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files of killed processes from a folder to which no other process is writing."""
    for name in filter(is_draft, os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock this file until the block ends, or the process ends in any way.

    BlockingIOError where it is locked already. Where the system or the disk has no such locks, nothing is locked.
    """
    with open(path, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                pass
        try:
            yield
        finally:
            if fcntl is not None:
                # A process that was forked meanwhile has the file open too, and would keep the lock.
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)

"""The bytes and the text of a file: compression, encoding, pipes. Every fault names the path."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, TextIO

HEAD = 2**16
"""Bytes from which the form of a file is told, unless they hold fewer than `LINES` lines."""

LINES, MOST = 8, 2**25


def _gzip(file: Any) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file)


COMPRESSED = {b"\x1f\x8b": _gzip, b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile}
"""How compressed files begin."""

OTHERS = {
    b"PK\x03\x04": "a zip archive or a workbook of Excel: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel: save the sheet as CSV",
    b"PAR1": "Parquet: give it the ending .parquet",
    b"\x93NUMPY": "an array of NumPy: give it the ending .npy",
    b"\x89HDF": "HDF5: give its array to Blocks.from_array",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it",
}

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Opened(NamedTuple):
    """A file of text that is open, and its first bytes, which are read already."""

    file: Any
    head: bytes
    is_whole: bool  # the head is all there is
    owned: Any  # what is to be closed in the end; None where it is not ours

    def close(self) -> None:
        self.file.close()
        if self.owned is not None:
            self.owned.close()

    def text(self, encoding: str) -> TextIO:
        """All of the text, from the start. A byte that cannot be read becomes U+FFFD: it may stand in any column of
        text, and no number has one."""
        raw = io.BufferedReader(_Joined(self.head, self.file))
        return io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")


class _Joined(io.RawIOBase):
    """Bytes that are read already, and then those of a file."""

    def __init__(self, head: bytes, file: Any) -> None:
        self._head, self._file = memoryview(head), file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if len(self._head):
            n = min(len(buffer), len(self._head))
            buffer[:n], self._head = self._head[:n], self._head[n:]
            return n
        some = self._file.read(len(buffer))
        buffer[: len(some)] = some
        return len(some)


def opened(path: str, file: BinaryIO | None = None) -> Opened:
    """Open a file of text, compressed or not. ValueError for a file that is known to be of another kind."""
    with faults_of(path), contextlib.ExitStack() as stack:
        owned = stack.enter_context(open(path, "rb")) if file is None else None
        whole: Any = file or owned
        magic = whole.read(8)
        whole = _Joined(magic, whole)
        kind = next((kind for start, kind in COMPRESSED.items() if magic.startswith(start)), None)
        if kind is not None:
            whole = kind(io.BufferedReader(whole))
            magic = whole.read(8)
            whole = _Joined(magic, whole)
        for start, what in OTHERS.items():
            if magic.startswith(start):
                raise ValueError(f"{path} is no text but {what}.")
        whole = io.BufferedReader(whole)
        head, asked = whole.read(HEAD), HEAD
        while len(head) == asked < MOST and head.count(b"\n") + head.count(b"\r") < LINES:
            head, asked = head + whole.read(asked), 2 * asked
        stack.pop_all()
    return Opened(whole, head, len(head) < asked, owned)


def encoding_of(opened: Opened, asked: str | None, path: str) -> tuple[str, str | None]:
    """The encoding of a file, and a note where it was guessed and is an unusual one."""
    head = opened.head
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if asked is not None:
        try:
            io.TextIOWrapper(io.BytesIO(), encoding=asked)
            codecs.getincrementaldecoder(asked)
            if codecs.lookup(asked).name == "utf-8":
                return "utf-8-sig", None
        except (LookupError, ValueError):
            raise ValueError(
                f"There is no encoding {asked!r}. Common ones are utf-8, cp1252, latin-1, utf-16."
            ) from None
        return asked, None
    if marked is not None:
        return marked, None if marked == "utf-8-sig" else "read as UTF-16"
    if b"\0" in head:
        raise ValueError(
            f"{path} holds zero bytes: it is no text, or in an encoding that must be told, such as --encoding utf-16."
        )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, opened.is_whole)
        return "utf-8", None
    except UnicodeDecodeError:
        pass
    # cp1252 has 5 bytes without a meaning, and latin-1 none.
    name = "latin-1" if any(byte in head for byte in (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")) else "cp1252"
    return name, f"read as {name}, since it is not UTF-8"


def is_pipe(path: str) -> bool:
    """Whether a path is something that can be read only once."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def faults_of(path: str) -> Iterator[None]:
    """Every fault of a file that is read here as one error that names its path."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is damaged or cut short: what is compressed there cannot be read ({error})."
        ) from None
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table: {error}. Is a quote not closed?") from None
    except UnicodeError as error:
        raise ValueError(
            f"{path} cannot be read in this encoding: {error}. Name another with --encoding, in Python encoding=."
        ) from None
    except OSError as error:
        if error.errno is None:  # the decompressors'
            raise ValueError(f"{path} is damaged: {error}.") from None
        if error.filename is None:
            raise type(error)(error.errno, error.strerror, path) from None
        raise

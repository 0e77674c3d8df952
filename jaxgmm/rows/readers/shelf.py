"""Which reader reads a path: told from its ending, in upper or lower case, and from what lies there."""

from __future__ import annotations

import os

from .. import parquet
from .arrays import Arrays
from .opening import is_pipe
from .parquet import ParquetTable
from .source import Reading, Source
from .text import Text

PARQUET = parquet.ENDINGS

TEXT = (".csv", ".tsv", ".tab", ".txt", ".dat", ".data")

COMPRESSED = (".gz", ".bz2", ".xz")

READABLE = (".csv", ".tsv", ".txt", ".npy", ".npz", ".parquet")
"""Endings that are named to users; text may be compressed, and has some more."""


def source_of(path: str | os.PathLike[str], reading: Reading = Reading()) -> Source:  # noqa: B008
    """The file at a path, open for reading.

    FileNotFoundError and other errors of the system name the path; ImportError where Parquet needs pyarrow; ValueError
    for another ending, or what is no table.
    """
    name = os.fspath(path)
    ending = _ending(name)
    if is_pipe(name):
        return Text(name, reading)
    is_folder = os.path.isdir(name)
    if is_folder and ending in (*TEXT, ".npy", ".npz"):
        raise IsADirectoryError(f"{name} is a folder, and its ending that of a file.")
    if ending in PARQUET or is_folder:
        return ParquetTable(name)
    if ending in (".npy", ".npz"):
        return Arrays(name)
    if ending in TEXT:
        return Text(name, reading)
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name}: there is no such file.")
    raise ValueError(f"{name}: expected a file ending in one of {', '.join(READABLE)}.")


def reads_text(path: str) -> bool:
    """Whether a path is that of a file of text, by its ending."""
    return _ending(path) in TEXT and not os.path.isdir(path)


def _ending(name: str) -> str:
    """The ending in lower case; that before it where a file of text is compressed."""
    stem, ending = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if ending in COMPRESSED else ending

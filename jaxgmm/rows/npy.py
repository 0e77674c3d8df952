"""Arrays in files: the paths of `.npy` files, and `numpy.memmap`.

They are read by ordinary reads, and never through a mapping: where another process cuts off a mapped file, the system
ends the process that looks at it (SIGBUS), and no error can say why. A read says how much it got, and costs one copy
out of the system's cache, into memory that programs use in place.
"""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from . import _check
from .conversion import real_array
from .files import Watched, ending, existing, is_path, require_whole, root_of

AT_ONCE = 2**25
"""Bytes that one read takes of an array with gaps between its rows."""


def takes(x: Any) -> bool:
    return isinstance(x, np.memmap) or (is_path(x) and ending(os.fspath(x)) == ".npy" and not os.path.isdir(x))


def takes_view(x: Any) -> bool:
    """Whether x is a mapped array, or a plain view of one."""
    return isinstance(root_of(x), np.memmap)


def source(x: Any, sample_weight: Any = None) -> Stored | Mapped:
    """The rows of the path of a `.npy` file, or of a `numpy.memmap`, with weights (N,) or None."""
    if is_path(x):
        return _of_path(existing(x), sample_weight)
    _check.matrix_shape(x.shape, "x")
    weights = _check.row_weights(sample_weight, len(x))
    return mapped(x, weights) or Mapped(x, weights)


class Stored:
    """An array (N, D) in a file, at any positive strides."""

    def __init__(
        self,
        file: Watched,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: Any,
        weights: Any,
        is_view: bool = False,
    ) -> None:
        """offset and strides in bytes. is_view: whether a user's array says what is read, and not the file."""
        self.is_view = is_view
        self.file, self.name, self.weights = file, file.path, weights
        self.offset, self.shape, self.strides, self.dtype = offset, shape, strides, np.dtype(dtype)

    def again(self) -> Stored:
        """The same array for another fit, from the file as it is now."""
        if ending(self.name) == ".npy" and not self.is_view:
            return _of_path(self.name, self.weights)
        return Stored(Watched(self.name), self.offset, self.shape, self.strides, self.dtype, self.weights, True)

    def read(self, first: int, after: int) -> np.ndarray:
        """Rows `first` to `after`. -> (n, D)."""
        rows = np.empty((after - first, self.shape[1]), self.dtype)
        self.read_into(rows, first)
        return np.asarray(real_array(rows, self.name))

    def read_into(self, rows: np.ndarray, first: int) -> None:
        """Read as many rows as the array (n, D) has, of the file's dtype and contiguous; from row `first` on."""
        (by_row, by_column), size, (n_rows, n_features) = self.strides, self.dtype.itemsize, rows.shape
        with self.file.opened() as file:
            if (by_row, by_column) == (n_features * size, size):
                self._fill(file, rows.reshape(-1).view(np.uint8), first * by_row)
            elif by_row >= by_column * (n_features - 1) + size:
                step = max(1, AT_ONCE // by_row)
                for start in range(0, n_rows, step):
                    some = rows[start : start + step]
                    self._spread(file, some, (first + start) * by_row)
            else:  # column by column
                for column in range(n_features):
                    self._spread(file, rows[:, column : column + 1], first * by_row + column * by_column)

    def _spread(self, file: BinaryIO, rows: np.ndarray, start: int) -> None:
        """Read rows (n, d) that have gaps between their numbers."""
        n_rows, n_features = rows.shape
        span = (n_rows - 1) * self.strides[0] + (n_features - 1) * self.strides[1] + self.dtype.itemsize
        memory = np.empty(span, np.uint8)
        self._fill(file, memory, start)
        rows[...] = np.ndarray(rows.shape, self.dtype, memory.data, strides=self.strides)  # pyright: ignore

    def _fill(self, file: BinaryIO, memory: np.ndarray, start: int) -> None:
        file.seek(self.offset + start)
        view = memory.data
        while view:
            n_bytes = file.readinto(view)  # pyright: ignore
            if not n_bytes:
                self.file.check(file)
                raise ValueError(f"{self.name} ends before its last row. It is damaged.")
            view = view[n_bytes:]


class Mapped:
    """A `numpy.memmap` whose numbers are not those of a file at a path: changed in memory alone, or unlinked."""

    def __init__(self, x: np.memmap, weights: Any, name: str = "x") -> None:
        self.x, self.weights, self.name, self.shape, self.dtype = x, weights, name, x.shape, None
        path = getattr(root_of(x), "filename", None)
        self.file = Watched(os.fspath(path)) if path is not None and os.path.isfile(path) else None

    def again(self) -> Mapped:
        return Mapped(self.x, self.weights, self.name)

    def read(self, first: int, after: int) -> np.ndarray:
        """A copy of rows `first` to `after`, made while the file is known to be whole. -> (n, D)."""
        if self.file is not None:
            self.file.check()
        rows = np.array(real_array(np.asarray(self.x[first:after]), self.name))
        if self.file is not None:
            self.file.check()
        return rows


def _of_path(path: str, sample_weight: Any) -> Stored:
    file = Watched(path)
    with file.opened() as stream:
        try:
            if stream.read(2) == b"PK":
                raise ValueError(f"{path} is an archive of several arrays. Save the one to read with numpy.save.")
            stream.seek(0)
            if stream.read(len(npy.MAGIC_PREFIX)) not in (npy.MAGIC_PREFIX, b""):
                raise ValueError(
                    f"{path} is no NumPy file, whatever its name says. A table of text should end in .csv or .txt."
                )
            stream.seek(0)
            shape, is_fortran, dtype = _header(stream)
        except OSError:
            raise
        except Exception as error:  # whatever the parsers of headers raise
            raise error if str(error).startswith(path) else _damaged(path) from None
        offset = stream.tell()
    if dtype.hasobject:
        raise _damaged(path)
    _check.matrix_shape(shape, path)
    real_array(np.empty(0, dtype), path)
    size = math.prod(shape) * dtype.itemsize
    if file.stamp.size < offset + size:
        raise ValueError(
            f"{path} is cut off: {shape[0]} rows of {shape[1]} features, as its header says, take {offset + size} "
            f"bytes, and it has {file.stamp.size}. Copy or save it again."
        )
    itemsize = dtype.itemsize
    strides = (itemsize, shape[0] * itemsize) if is_fortran else (shape[1] * itemsize, itemsize)
    return Stored(file, offset, shape, strides, dtype, _check.row_weights(sample_weight, shape[0]))


def _header(stream: BinaryIO) -> tuple[Any, bool, np.dtype]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    return npy.read_array_header_2_0(stream)  # a third differs from it for names of fields alone


def _damaged(path: str) -> ValueError:
    return ValueError(f"{path} is no NumPy array of numbers: it is damaged, or holds Python objects.")


def mapped(x: Any, weights: Any = None) -> Stored | None:
    """The file behind an array that is, or is a view of, a `numpy.memmap`; None for any other, and for one whose
    numbers are not those of a file."""
    whole = root_of(x)
    if not isinstance(whole, np.memmap) or whole.mode == "c" or whole.filename is None or x.ndim != 2 or not x.size:
        return None
    path, is_forward = (
        os.fspath(whole.filename),
        all(by > 0 or n == 1 for n, by in zip(x.shape, x.strides, strict=True)),
    )
    if not is_forward or not os.path.isfile(path):
        return None
    if whole.mode in ("r+", "w+"):
        whole.flush()
    require_whole(x)
    offset = whole.offset + x.ctypes.data - whole.ctypes.data
    found = Stored(Watched(path), offset, x.shape, x.strides, x.dtype, weights, True)
    for row in (0, len(x) - 1):  # another file may have taken the place of the one that is mapped
        read = np.empty((1, x.shape[1]), x.dtype)
        found.read_into(read, row)
        if read.tobytes() != np.asarray(x[row : row + 1]).tobytes():
            return None
    return found

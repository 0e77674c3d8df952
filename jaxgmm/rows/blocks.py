"""Rows in blocks, read anew for every pass: data that need not fit in memory.

A source is anything that can be iterated over repeatedly: a list of arrays, a loader, a function that returns an
iterator; an array on disk; columns of Parquet files; a dask collection. Here they all become NumPy arrays of one size;
nothing is computed here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .._base.memory import ALIGNMENT
from . import _check
from .prefetch import Steps
from .sources import STREAMED, Piece, _existing, _filled, _Kind, _numbers_of, _Parquet, _Partitions, _Store, _touch


class Blocks:
    """Rows (N, D) in blocks that are read anew for every pass over them.

    blocks: what yields (n, D) arrays, or pairs of rows (n, D) and weights (n,), each time that it is iterated over: a
    list, a PyTorch loader, or a function without arguments that returns an iterator. Blocks may differ in length, and
    may be overwritten once the next is requested. The first that has rows decides the precision of all. All passes
    must give the same rows. TypeError for an iterator, which is used up after one pass.

    The second part of a pair is weights, never labels: wrap a loader of rows and labels in a function that drops the
    labels, lambda: (x for x, _ in loader).

    Memory for a few blocks is kept after a pass, and reused by the next one.

    Most passes run in another thread than the caller's, under the same settings of JAX. An object that is bound to one
    thread, such as a connection to SQLite, must be opened inside the function.

        jaxgmm.fit(key, jaxgmm.Blocks(lambda: map(np.load, sorted(folder.glob("*.npy")))), n_components=8)
    """

    def __init__(self, blocks: Iterable[Any] | Callable[[], Iterable[Any]], name: str = "x") -> None:
        if isinstance(blocks, Iterator):
            raise TypeError(
                f"Blocks need what can be gone through many times, got {type(blocks).__name__}, which is used up after "
                "one pass. Give a list, or a function that returns a new iterator."
            )
        if not callable(blocks) and not isinstance(blocks, Iterable):
            raise TypeError(f"Blocks take an iterable of arrays, or a function that returns one, got {type(blocks)}.")
        self._blocks, self.name, self._store = blocks, name, _Store()

    @classmethod
    def from_array(cls, x: Any, sample_weight: Any = None) -> Blocks:
        """Rows of an object of shape (N, D) that is read by slices: `numpy.memmap`, HDF5 and Zarr arrays and the like.

        Lists and data frames are taken as one array, which is held in memory.
        """
        if isinstance(x, (list, tuple)) or hasattr(x, "columns"):
            x = _check.observations(x, "x")
        _check.matrix_shape(np.shape(x), "x")
        return _Sliced(x, _check.row_weights(sample_weight, np.shape(x)[0]))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], columns: Sequence[str] | None = None, weights: str = "") -> Blocks:
        """Rows of a `.npy` file, or of a `.parquet` file or a folder of them.

        columns: of Parquet; where None, all but an index that pandas has stored, and those given by folder names
        (year=2024/). weights: the name of the column of row weights, if any.
        FileNotFoundError where there is no such path, ImportError where Parquet needs pyarrow, ValueError for another
        ending, a file that cannot be read, a column that is not there, or what is no matrix of numbers.
        """
        name = _existing(path)
        if name.endswith(".npy"):
            if columns is not None or weights:
                raise ValueError(f"{name}: only columns of Parquet files have names. Give slices to Blocks.from_array.")
            return _of_npy(name, None)
        if not (name.endswith(".parquet") or os.path.isdir(name)):
            raise ValueError(f"{name}: expected a path ending in one of {', '.join(STREAMED)}, or a folder of Parquet.")
        return cls(_Parquet(name, columns, weights), name)

    @classmethod
    def from_dask(cls, x: Any, sample_weight: Any = None) -> Blocks:
        """Partitions of a `dask.array` (N, D) or a `dask.dataframe`, computed one after the other, in every pass."""
        return cls(_Partitions(x, sample_weight), "x")

    def head(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The first row (1, D), and its weight (1,) or None, in their own dtypes. The source is read no further.

        ValueError where there are no rows.
        """
        for rows, weights in self._checked():
            return rows[:1].copy(), None if weights is None else weights[:1].copy()
        raise ValueError(self._without_rows())

    def pieces(self, size: int, dtype: Any) -> Steps:
        """All rows, `size` at a time, the last piece padded by repeated rows of weight 0.

        ValueError or TypeError for blocks that do not fit together, are no numbers, or have no rows.
        """
        return Steps(self._steps(size, dtype))

    def _steps(self, size: int, dtype: Any) -> Iterator[Piece | None]:
        has_rows = False
        for piece in _filled(self._checked(), size, dtype, self._store):
            has_rows = True
            yield piece
        if not has_rows:
            raise ValueError(self._without_rows())

    def _without_rows(self) -> str:
        return (
            f"{self.name} gave no rows. If it has given some before, it is used up after one pass: give a list, or a "
            "function that makes a new iterator each time that it is called."
        )

    def _checked(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """The blocks that have rows, each of which fits the first."""
        like, first = None, 0
        for block in self._from_the_start():
            where = f"The block of {self.name} from row {first} on"
            rows, weights = _numbers_of(block, where)
            if not len(rows):
                continue
            kind = _Kind(rows.shape[1], weights is not None, rows.dtype)
            like = like or kind
            kind.fits(like, where)
            yield rows, weights
            first += len(rows)

    def _from_the_start(self) -> Iterator[Any]:
        """The blocks of the source, from the first on; the source is closed together with this generator."""
        source = self._blocks() if callable(self._blocks) else self._blocks
        if not isinstance(source, Iterable):
            raise TypeError(
                f"{self.name}: expected a function that returns an iterable, got a {type(source).__name__}."
            )
        yield from source


class _Sliced(Blocks):
    """Slices of an array; not copied where their dtype, layout and alignment allow."""

    def __init__(self, x: Any, weights: Any, name: str = "x") -> None:
        self.x, self.weights, self.name, self._store = x, weights, name, _Store()

    def head(self) -> tuple[np.ndarray, np.ndarray | None]:
        rows, weights = self._slice(0, 1)
        return rows.copy(), None if weights is None else weights.copy()

    def _steps(self, size: int, dtype: Any) -> Iterator[Piece | None]:
        n_rows = self.x.shape[0]
        for first in range(0, n_rows, size):
            count = min(size, n_rows - first)
            rows, weights = self._slice(first, first + count)
            as_it_lies = rows.dtype == dtype and rows.flags.c_contiguous and rows.ctypes.data % ALIGNMENT == 0
            if count == size and as_it_lies:
                _touch(rows)
                yield Piece(rows, None if weights is None else weights.astype(np.float64), count)
            else:
                yield from _filled(iter([(rows, weights)]), size, dtype, self._store)

    def _slice(self, first: int, after: int) -> tuple[np.ndarray, np.ndarray | None]:
        rows = np.asarray(_check.real_array(self.x[first:after], self.name))
        return rows, None if self.weights is None else np.asarray(self.weights[first:after])


def _of_npy(path: str, sample_weight: Any) -> Blocks:
    """The rows of a memory-mapped `.npy` file."""
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(f"{path} is no NumPy array of numbers: it is damaged, or holds Python objects.") from None
    if not isinstance(x, np.ndarray):
        x.close()
        raise ValueError(f"{path} is an archive of several arrays. Save the one to read with numpy.save.")
    _check.matrix_shape(x.shape, path)
    return _Sliced(x, _check.row_weights(sample_weight, len(x)), path)

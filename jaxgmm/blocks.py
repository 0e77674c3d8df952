"""Rows in blocks, read anew for every pass: data that need not fit in memory.

A source is anything that can be gone through again and again: a list of arrays, a loader, a function that returns an
iterator; an array on disk; columns of Parquet files; a dask collection. Here they all become NumPy arrays of one and
the same size; nothing is computed here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._precision import ALIGNMENT

READ_AT_ONCE = 2**16
"""Rows of a Parquet file that are decoded at a time."""

STREAMED = (".npy", ".parquet")
"""Endings of the paths that are read in blocks."""


class Piece(NamedTuple):
    """Rows (n, D) of which the first `count` are meant, and their weights (n,), 0 past those."""

    rows: np.ndarray
    weights: np.ndarray | None  # None where each row weighs 1
    count: int


class Blocks:
    """Rows (N, D) in blocks that are read anew for every pass over them.

    blocks: what gives (n, D) arrays, or pairs of rows (n, D) and weights (n,), each time that it is gone through: a
    list, a PyTorch loader, or a function without arguments that returns an iterator. Blocks may differ in length. All
    passes must give the same rows. TypeError for an iterator, which is used up after one pass.

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
        self._blocks, self.name = blocks, name

    @classmethod
    def from_array(cls, x: Any, sample_weight: Any = None) -> Blocks:
        """Rows of what has a shape (N, D) and is read by slices: `numpy.memmap`, HDF5 and Zarr arrays and the like."""
        _check.matrix_shape(np.shape(x), "x")
        return _Sliced(x, _check.row_weights(sample_weight, np.shape(x)[0]))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], columns: Sequence[str] | None = None, weights: str = "") -> Blocks:
        """Rows of a `.npy` file, or of a `.parquet` file or a folder of them.

        columns: of Parquet, all where None; weights: the column that holds the rows' weights, where one does.
        FileNotFoundError where there is no such path, ImportError where Parquet needs pyarrow, ValueError for another
        ending, a column that is not there, or what is no matrix of numbers.
        """
        name = os.fspath(path)
        if not os.path.exists(name):
            raise FileNotFoundError(f"{name}: there is no such file.")
        if name.endswith(".npy"):
            if columns is not None or weights:
                raise ValueError(f"{name}: only columns of Parquet files have names. Give slices to Blocks.from_array.")
            x = np.load(name, mmap_mode="r", allow_pickle=False)
            _check.matrix_shape(x.shape, name)
            return _Sliced(x, None, name)
        if not (name.endswith(".parquet") or os.path.isdir(name)):
            raise ValueError(f"{name}: expected a path ending in one of {', '.join(STREAMED)}, or a folder of Parquet.")
        return cls(_Parquet(name, columns, weights), name)

    @classmethod
    def from_dask(cls, x: Any, sample_weight: Any = None) -> Blocks:
        """Partitions of a `dask.array` (N, D) or a `dask.dataframe`, computed one after the other, in every pass."""
        return cls(_Partitions(x, sample_weight), "x")

    @property
    def dtype(self) -> np.dtype:
        """That of the first rows."""
        for rows, _ in self._checked(None):
            return rows.dtype
        raise ValueError(f"{self.name} gave no rows.")

    def pieces(self, size: int, dtype: Any) -> Iterator[Piece]:
        """All rows, `size` at a time, the last ones padded: by repetition, with weight 0.

        ValueError for blocks that do not fit together, or have no rows.
        """
        held: list[tuple[np.ndarray, np.ndarray | None]] = []
        waiting = 0
        for rows, weights in self._checked(dtype):
            held.append((rows, weights))
            waiting += len(rows)
            while waiting >= size:
                yield _taken(held, size, size)
                waiting -= size
        if waiting:
            yield _taken(held, waiting, size)

    def _checked(self, dtype: Any) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        n_features, has_weights, first = None, None, 0
        for block in self._items():
            rows, weights = block if isinstance(block, (tuple, list)) and len(block) == 2 else (_alone(block), None)
            rows = np.asarray(rows)
            where = f"{self.name}, rows from {first} on"
            if rows.ndim != 2 or rows.shape[1] < 1 or rows.dtype.kind not in "fiub":
                raise ValueError(f"{where}: expected numbers of shape (n, D), got {rows.dtype} of shape {rows.shape}.")
            if n_features not in (None, rows.shape[1]):
                raise ValueError(f"{where}: expected {n_features} features as before, got {rows.shape[1]}.")
            if has_weights not in (None, weights is not None):
                raise ValueError(f"{where}: some blocks have weights and some have none.")
            if weights is not None:
                weights = np.asarray(weights, rows.dtype if dtype is None else dtype)
                if weights.shape != rows.shape[:1]:
                    raise ValueError(f"{where}: expected weights of shape ({len(rows)},), got {weights.shape}.")
            n_features, has_weights = rows.shape[1], weights is not None
            if len(rows):
                yield _in(rows, dtype), weights
            first += len(rows)

    def _items(self) -> Iterable[Any]:
        return self._blocks() if callable(self._blocks) else self._blocks  # pyright: ignore


class _Sliced(Blocks):
    """Slices of an array; where they can be used as they lie, nothing is copied."""

    def __init__(self, x: Any, weights: Any, name: str = "x") -> None:
        self.x, self.weights, self.name = x, weights, name

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.x.dtype)

    def pieces(self, size: int, dtype: Any) -> Iterator[Piece]:
        n_rows = self.x.shape[0]
        for first in range(0, n_rows, size):
            count = min(size, n_rows - first)
            rows = np.asarray(self.x[first : first + count])
            if rows.dtype.kind not in "fiub":
                raise ValueError(f"{self.name}: expected numbers, got dtype {rows.dtype}.")
            weights = None if self.weights is None else np.asarray(self.weights[first : first + count], dtype)
            as_it_lies = rows.dtype == dtype and rows.flags.c_contiguous and rows.ctypes.data % ALIGNMENT == 0
            if count == size and as_it_lies:
                _touch(rows)
                yield Piece(rows, weights, count)
            else:
                yield _taken([(_in(rows, dtype), weights)], count, size)


class _Parquet:
    """Columns of Parquet files, a few rows at a time."""

    def __init__(self, path: str, columns: Sequence[str] | None, weights: str) -> None:
        try:
            from pyarrow import dataset
        except ImportError as error:
            raise ImportError(f"{path}: Parquet needs pyarrow. Install jaxgmm[parquet].") from error
        self.data, self.weights = dataset.dataset(path, format="parquet"), weights
        names = self.data.schema.names
        chosen = [name for name in (names if columns is None else columns) if name != weights]
        for name in [*chosen, *([weights] if weights else [])]:
            if name not in names:
                raise ValueError(f"{path} has no column {name!r}. It has {', '.join(map(repr, names))}.")
        for name in chosen:
            kind = str(self.data.schema.field(name).type)
            if not kind.startswith(("int", "uint", "float", "double", "half", "bool")):
                raise ValueError(f"{path}: column {name!r} holds {kind}, not numbers. Leave it out with columns=.")
        self.columns = chosen

    def __iter__(self) -> Iterator[Any]:
        asked = [*self.columns, *([self.weights] if self.weights else [])]
        for batch in self.data.to_batches(columns=asked, batch_size=READ_AT_ONCE):
            columns = [np.asarray(batch.column(place)) for place in range(len(asked))]
            rows = np.stack(columns[: len(self.columns)], axis=1)
            yield (rows, columns[-1]) if self.weights else rows


class _Partitions:
    """Partitions of a dask collection as NumPy arrays."""

    def __init__(self, x: Any, sample_weight: Any) -> None:
        self.parts = delayed_partitions(x)
        self.weights = None if sample_weight is None else delayed_partitions(sample_weight)
        if self.weights is not None:
            _check.same_partitions(len(self.weights), len(self.parts))

    def __iter__(self) -> Iterator[Any]:
        for place, part in enumerate(self.parts):
            rows = np.asarray(part.compute())
            yield rows if self.weights is None else (rows, np.asarray(self.weights[place].compute()).reshape(-1))


def delayed_partitions(x: Any) -> list[Any]:
    """The partitions of a dask array, in one piece along its features, or data frame, as delayed objects."""
    if hasattr(x, "rechunk"):
        x = x.rechunk({1: -1}) if x.ndim == 2 else x
        return list(x.to_delayed().ravel())
    return list(x.to_delayed())


def is_dask(x: Any) -> bool:
    return type(x).__module__.startswith("dask") and hasattr(x, "to_delayed")


def as_blocks(x: Any, sample_weight: Any = None) -> Blocks | None:
    """What the user gives for rows as blocks, or None where it is to be held in memory."""
    if isinstance(x, Blocks):
        if sample_weight is not None:
            raise ValueError("Blocks carry their own weights: give pairs of rows and weights instead of sample_weight.")
        return x
    if isinstance(x, (str, os.PathLike)):
        if sample_weight is None:
            return Blocks.from_file(x)
        if not os.fspath(x).endswith(".npy"):
            raise ValueError("Weights of a Parquet file are one of its columns: Blocks.from_file(path, weights=name).")
        return Blocks.from_array(np.load(x, mmap_mode="r", allow_pickle=False), sample_weight)
    if isinstance(x, np.memmap):
        return Blocks.from_array(x, sample_weight)
    if is_dask(x):
        return Blocks.from_dask(x, sample_weight)
    return None


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, of which the next is made in a thread of its own while one is in use."""
    with ThreadPoolExecutor(1) as reader:
        end = object()
        coming = reader.submit(next, items, end)
        while True:
            item = coming.result()
            if item is end:
                return
            coming = reader.submit(next, items, end)
            yield item


def _in(rows: np.ndarray, dtype: Any) -> np.ndarray:
    """Rows in a dtype, or as they are; what is too large for it becomes infinite, and is refused as that."""
    if dtype is None:
        return rows
    with np.errstate(over="ignore"):
        return rows.astype(dtype, copy=False)


def _taken(held: list[tuple[np.ndarray, np.ndarray | None]], count: int, size: int) -> Piece:
    """The first `count` rows of what is held, which loses them, in a new array of `size` rows."""
    n_features, dtype = held[0][0].shape[1], held[0][0].dtype
    rows = aligned((size, n_features), dtype)
    weights = None if held[0][1] is None else np.zeros(size, dtype)
    filled = 0
    while filled < count:
        block, of_block = held[0]
        n = min(len(block), count - filled)
        rows[filled : filled + n] = block[:n]
        if weights is not None:
            weights[filled : filled + n] = of_block[:n]  # pyright: ignore
        filled += n
        if n == len(block):
            held.pop(0)
        else:
            held[0] = (block[n:], None if of_block is None else of_block[n:])
    rows[count:] = rows[count - 1]
    return Piece(rows, weights, count)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that JAX on a CPU uses where it lies. Never to be written to again once JAX has it."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + n_bytes].view(dtype).reshape(shape)


def _touch(rows: np.ndarray) -> None:
    """Have the pages of a mapped file read now, by the thread that reads, and not by the one that computes."""
    rows.reshape(-1).view(np.uint8)[::4096].max(initial=0)


def _alone(block: Any) -> Any:
    """A block that came in a list of its own, as PyTorch's loaders give it."""
    return block[0] if isinstance(block, (tuple, list)) and len(block) == 1 else block

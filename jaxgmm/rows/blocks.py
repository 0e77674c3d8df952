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
from . import _check, npy, parquet, partitions, several
from .arrays import Sliced
from .conversion import observations
from .files import ending, existing, is_path
from .parquet import Parquet
from .prefetch import Steps
from .readers import READABLE, Chosen, reading, reads_text, source_of
from .several import Several, joined
from .sources import AT_ONCE, Block, Kind, Piece, Store, filled, fitting, padded

SHELF = (npy, parquet, partitions)
"""Sources of rows that are read in blocks, each a file: the first whose `takes(x)` is true opens it."""


class Blocks:
    """Rows (N, D) in blocks that are read anew for every pass over them.

    blocks: what yields (n, D) arrays, or pairs of rows (n, D) and weights (n,), each time that it is iterated over: a
    list, a PyTorch loader, or a function without arguments that returns an iterator. Blocks may differ in length, and
    may be overwritten once the next is requested; those without rows are passed over. The first that has rows decides
    the precision of all, and, if it is a data frame or Arrow table, the columns, which are matched by name in all the
    others. All passes must give the same rows, in any order. TypeError for an iterator, which is used up after one
    pass.

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
        self._blocks, self.name, self._store = blocks, name, Store()
        self._unit, self._like, self._starts, self._names = "block", None, [], None
        self._source: Any = None  # from the shelf, where the rows do not come from the user's own iterable

    @classmethod
    def from_array(cls, x: Any, sample_weight: Any = None) -> Blocks:
        """Rows of an object of shape (N, D) that is read by slices: `numpy.memmap`, HDF5 and Zarr arrays and the like.

        Lists and data frames are taken as one array, which is held in memory.
        """
        if npy.takes_view(x):
            return cls._of(npy.source(x, sample_weight))
        if isinstance(x, (list, tuple)) or hasattr(x, "columns"):
            x = observations(x, "x")
        _check.matrix_shape(np.shape(x), "x")
        return cls._of(Sliced(x, _check.row_weights(sample_weight, np.shape(x)[0])))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        weights: str = "",
        *,
        header: bool | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
    ) -> Blocks:
        """Rows of a `.npy` file, of a `.parquet` file or a folder of them, or of text such as `.csv`.

        header, separator, decimal, encoding: of text; what is None is told from its first lines, and `notes` says how.
        Columns of text are also chosen by position, from 0. Text is parsed anew in every pass: what takes long is best
        saved as `.npy` or Parquet first.

        columns: of Parquet; where None, all but an index that pandas has stored, and those given by folder names
        (year=2024/). weights: the name of the column of row weights, if any. The columns of a folder's files are
        matched by name, and have the widest floating dtype of all. A file that changes during a fit ends it.
        FileNotFoundError where there is no such path, ImportError where Parquet needs pyarrow, ValueError for another
        ending, a file that cannot be read, a column that is not there, or what is no matrix of numbers.
        """
        name = existing(path)
        if npy.takes(name):
            if columns is not None or weights:
                raise ValueError(
                    f"{name}: columns of a .npy file have no names. Give a slice of numpy.load(path, mmap_mode='r') to "
                    "Blocks.from_array, with sample_weight."
                )
            return cls._of(npy.source(name))
        if reads_text(name) or ending(name) == ".npz":
            source = source_of(name, reading(header, separator, decimal, encoding))
            return cls._of(Chosen(source, columns, weights))
        if not parquet.takes(name):
            raise ValueError(f"{name}: expected a path ending in one of {', '.join(READABLE)}, or a folder of Parquet.")
        return cls._of(Parquet(name, columns, weights))

    @classmethod
    def from_files(cls, paths: Sequence[str | os.PathLike[str]]) -> Blocks:
        """Rows of several files, one after the other, each as `from_file` reads it.

        Their columns are matched by name, and have the widest floating dtype of all. Errors as of `from_file`.
        """
        if not paths or not all(map(is_path, paths)):
            raise TypeError(f"Blocks.from_files takes a list of paths, got {paths!r}.")
        return cls._of(Several(paths, cls.from_file))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was told from a file of text and changes which numbers are read: separator, header, row names."""
        return getattr(self._source, "notes", ())

    @classmethod
    def from_dask(cls, x: Any, sample_weight: Any = None) -> Blocks:
        """Partitions of a `dask.array` (N, D) or a `dask.dataframe`, computed one after the other, in every pass."""
        return cls._of(partitions.source(x, sample_weight))

    @classmethod
    def of(cls, x: Any, sample_weight: Any = None) -> Blocks | None:
        """The rows of anything that is read in blocks, with weights (N,); None for what is not."""
        if isinstance(x, Blocks):
            if sample_weight is not None:
                raise ValueError("Blocks carry their own weights: give pairs of rows and weights, not sample_weight.")
            return x
        for source in SHELF:
            if source.takes(x):
                return cls._of(source.source(x, sample_weight))
        if not is_path(x) and not several.takes(x):
            return None
        if sample_weight is not None:
            raise ValueError(
                "Weights of rows in files are one of their columns: Blocks.from_file(path, weights=name). Beside a "
                "path they are taken for a .npy file alone."
            )
        return cls.from_file(x) if is_path(x) else cls.from_files(x)

    @classmethod
    def _of(cls, source: Any) -> Blocks:
        """Blocks of what a file on the shelf has opened."""
        found = cls((), source.name)
        found._blocks = found._source = source
        found._unit = getattr(source, "unit", "block")
        return found

    @classmethod
    def part(cls, blocks: list[Any], name: str, like: Kind) -> Blocks:
        """One block, called `name`, of rows that must be like those of others."""
        found = cls(blocks, name)
        found._unit, found._like, found._names = "", like, like.names
        return found

    def again(self) -> Blocks:
        """The same source for another fit, as it is now: from here on it must not change."""
        if self._source is None:
            return self
        found = Blocks._of(self._source.again())
        found._store = self._store
        return found

    def head(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The first row (1, D), and its weight (1,) or None, in their own dtypes. The source is read no further.

        ValueError where there are no rows.
        """
        rows, weights, _ = self._first()
        return rows, weights

    @property
    def known_names(self) -> tuple[Any, ...] | None:
        """As `column_names`, without reading anything: of a pass that has begun."""
        return getattr(self._source, "columns", None) or self._names

    def column_names(self) -> tuple[Any, ...] | None:
        """The names of the columns, or None. ValueError where there are no rows."""
        return self.known_names or self._first().names

    def _first(self) -> Block:
        if hasattr(self._source, "read"):
            weights = self._source.weights
            return Block(self._source.read(0, 1), None if weights is None else np.asarray(weights[:1]), None)
        for rows, weights, names in self._checked():
            self._names = names
            return Block(rows[:1].copy(), None if weights is None else weights[:1].copy(), names)
        raise self._without_rows()

    def blocks(self) -> Iterator[Block]:
        """The blocks of one pass that have rows: rows (n, D), weights (n,) or None, and names or None."""
        if not hasattr(self._source, "read"):
            yield from (block._replace(names=block.names or self.known_names) for block in self._checked())
            return
        source, (n_rows, n_features) = self._source, self._source.shape
        dtype = self.head()[0].dtype if source.dtype is None else source.dtype
        step = max(1, AT_ONCE // (n_features * dtype.itemsize))
        for first in range(0, n_rows, step):
            part = slice(first, min(first + step, n_rows))
            weights = None if source.weights is None else np.asarray(source.weights[part])
            yield Block(source.read(part.start, part.stop), weights, None)

    def in_memory(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All rows (N, D), and their weights (N,) or None. ValueError where there are none, or no memory for them."""
        try:
            rows, weights = joined(self.blocks())
        except MemoryError:
            raise ValueError(f"There is no memory for all rows of {self.name} at once, which this needs.") from None
        if not len(rows):
            raise self._without_rows()
        return rows, weights

    def place_of(self, row: int) -> str:
        """Where a row of this pass comes from, as "block 3, its row 0"; "" where there is only one such place."""
        if hasattr(self._source, "place_of"):
            return self._source.place_of(row)
        first, where = next((start for start in reversed(self._starts) if start[0] <= row), (0, ""))
        return f"{where}, its row {row - first}" if where else ""

    def pieces(self, size: int, dtype: Any) -> Steps:
        """All rows, `size` at a time, the last piece padded by repeated rows of weight 0.

        ValueError or TypeError for blocks that do not fit together, are no numbers, or have no rows.
        """
        return Steps(self._steps(size, dtype))

    def _steps(self, size: int, dtype: Any) -> Iterator[Piece | None]:
        steps = self._slices if hasattr(self._source, "read") else self._filled
        has_rows = False
        for piece in steps(size, dtype):
            has_rows = has_rows or piece is not None
            yield piece and piece.counted()
        if not has_rows:
            raise self._without_rows()

    def _filled(self, size: int, dtype: Any) -> Iterator[Piece | None]:
        return filled(self._checked(dtype), size, dtype, self._store)

    def _slices(self, size: int, dtype: Any) -> Iterator[Piece | None]:
        """Pieces of a source that is read by slices, without a copy or into the memory of a piece where it can be."""
        source = self._source
        n_rows, n_features = source.shape
        for first in range(0, n_rows, size):
            count = min(size, n_rows - first)
            weights = None if source.weights is None else np.asarray(source.weights[first : first + count])
            if source.dtype == dtype and hasattr(source, "read_into"):
                piece = self._store.piece(size, n_features, weights is not None, dtype)
                source.read_into(piece.rows[:count], first)
                if piece.weights is not None:
                    piece.weights[:count] = weights
                yield padded(piece._replace(count=count)) if count < size else piece._replace(count=count)
                continue
            rows = source.read(first, first + count)
            as_it_lies = rows.dtype == dtype and rows.flags.c_contiguous and rows.ctypes.data % ALIGNMENT == 0
            if count == size and as_it_lies:
                yield Piece(rows, None if weights is None else weights.astype(np.float64), count)
            else:
                yield from filled(iter([Block(rows, weights, None)]), size, dtype, self._store)

    def _without_rows(self) -> _check.WithoutRows:
        if self._source is not None:
            return _check.WithoutRows(f"{self.name} has no rows.")
        return _check.WithoutRows(
            f"{self.name} gave no rows. If it has given some before, it is used up after one pass: give a list, or a "
            "function that makes a new iterator each time that it is called."
        )

    def _checked(self, dtype: Any = None) -> Iterator[Block]:
        """The blocks that have rows, each of which fits the first. dtype: of the computation."""
        self._starts = []
        return fitting(self._from_the_start(), self._unit, self.name, dtype, self._like, self._starts)

    def _from_the_start(self) -> Iterator[Any]:
        """The blocks of the source, from the first on; the source is closed together with this generator."""
        source = self._blocks() if callable(self._blocks) else self._blocks
        if not isinstance(source, Iterable):
            raise TypeError(
                f"{self.name}: expected a function that returns an iterable, got a {type(source).__name__}."
            )
        yield from source

"""Rows in blocks, read anew for every pass: data that need not fit in memory.

A source is anything that can be gone through again and again: a list of arrays, a loader, a function that returns an
iterator; an array on disk; columns of Parquet files; a dask collection. Here they all become NumPy arrays of one and
the same size; nothing is computed here.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._precision import ALIGNMENT, aligned, settings_here

READ_AT_ONCE = 2**16
"""Rows of a Parquet file that are decoded at a time."""

STREAMED = (".npy", ".parquet")
"""Endings of the paths that are read in blocks."""


class Piece(NamedTuple):
    """Rows (n, D) of which the first `count` are meant, and their weights (n,), 0 past those."""

    rows: np.ndarray
    weights: np.ndarray | None  # None where each row weighs 1
    count: int


class Steps(Iterator[Any]):
    """What steps give but for None, which stands for a step after which nothing is ready.

    `stop`, called in any thread, ends it after the step under way.
    """

    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps, self._is_stopped = steps, False

    def __next__(self) -> Any:
        while not self._is_stopped:
            item = next(self._steps)
            if item is not None:
                return item
        raise StopIteration

    def stop(self) -> None:
        self._is_stopped = True

    def close(self) -> None:
        """End the steps where they stand, so that what they hold open is closed."""
        self._steps.close()  # pyright: ignore


class Blocks:
    """Rows (N, D) in blocks that are read anew for every pass over them.

    blocks: what gives (n, D) arrays, or pairs of rows (n, D) and weights (n,), each time that it is gone through: a
    list, a PyTorch loader, or a function without arguments that returns an iterator. Blocks may differ in length, and
    may be written to again once the next is asked for. The first that has rows decides the precision of all. All
    passes must give the same rows. TypeError for an iterator, which is used up after one pass.

    A pair's second part is weights, never labels: a loader of rows and labels goes through a function that drops them,
    lambda: (x for x, _ in loader).

    After a pass they keep memory for a few blocks, for the next one.

    Most passes run in another thread than the caller's, under the same settings of JAX. What belongs to one thread, as
    a connection to SQLite does, must be opened inside the function.

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
        """Rows of what has a shape (N, D) and is read by slices: `numpy.memmap`, HDF5 and Zarr arrays and the like.

        Lists and data frames are taken as one array, which is held in memory.
        """
        if isinstance(x, (list, tuple)) or hasattr(x, "columns"):
            x = _check.observations(x, "x")
        _check.matrix_shape(np.shape(x), "x")
        return _Sliced(x, _check.row_weights(sample_weight, np.shape(x)[0]))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], columns: Sequence[str] | None = None, weights: str = "") -> Blocks:
        """Rows of a `.npy` file, or of a `.parquet` file or a folder of them.

        columns: of Parquet; where None, all but an index that pandas has stored, with those that the names of folders
        give (year=2024/). weights: the column that holds the rows' weights, where one does.
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
        """The first row (1, D), and its weight (1,) or None, in their own dtypes. The source is started and left.

        ValueError where there are no rows.
        """
        for rows, weights in self._checked():
            return rows[:1].copy(), None if weights is None else weights[:1].copy()
        raise ValueError(self._without_rows())

    def pieces(self, size: int, dtype: Any) -> Steps:
        """All rows, `size` at a time, the last ones padded: by repetition, with weight 0.

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
        """What the source gives; it is closed with this."""
        source = self._blocks() if callable(self._blocks) else self._blocks
        if not isinstance(source, Iterable):
            raise TypeError(
                f"{self.name}: expected a function that returns an iterable, got a {type(source).__name__}."
            )
        yield from source


class _Kind(NamedTuple):
    """What blocks must share."""

    n_features: int
    has_weights: bool
    dtype: np.dtype

    def fits(self, like: _Kind, where: str) -> None:
        """ValueError for a block that does not go with the first, or would lose digits in the first one's dtype."""
        if self.n_features != like.n_features:
            raise ValueError(f"{where}: expected {like.n_features} features as before, got {self.n_features}.")
        if self.has_weights != like.has_weights:
            raise ValueError(f"{where}: some blocks have weights and some have none.")
        widest = like.dtype.itemsize if like.dtype.kind == "f" else 0
        if self.dtype.kind == "f" and self.dtype.itemsize > widest:
            raise ValueError(
                f"{where} holds {self.dtype}, and the first block {like.dtype}, which decides the precision of all. "
                f"Give all blocks one dtype: rows.astype(np.{self.dtype})."
            )


class _Sliced(Blocks):
    """Slices of an array; where they can be used as they lie, nothing is copied."""

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
                yield Piece(rows, None if weights is None else weights.astype(dtype), count)
            else:
                yield from _filled(iter([(rows, weights)]), size, dtype, self._store)

    def _slice(self, first: int, after: int) -> tuple[np.ndarray, np.ndarray | None]:
        rows = np.asarray(_check.real_array(self.x[first:after], self.name))
        return rows, None if self.weights is None else np.asarray(self.weights[first:after])


class _Parquet:
    """Columns of Parquet files, a few rows at a time."""

    def __init__(self, path: str, columns: Sequence[str] | None, weights: str) -> None:
        try:
            import pyarrow
            from pyarrow import dataset
        except ImportError as error:
            raise ImportError(f"{path}: Parquet needs pyarrow. Install jaxgmm[parquet].") from error
        # Of a file pyarrow would take the folders above it for columns as well.
        partitioning = "hive" if os.path.isdir(path) else None
        self.path, self.error = path, pyarrow.ArrowException
        try:
            self.data = dataset.dataset(path, format="parquet", partitioning=partitioning)
        except self.error as error:
            raise ValueError(f"{path} cannot be read as Parquet: {error}.") from None
        schema = self.data.schema
        self.columns, self.weights = _chosen(path, schema, columns, weights), [weights] if weights else []
        for name in self.columns + self.weights:
            kind = schema.field(name).type
            if not _is_numeric(pyarrow.types, kind):
                raise ValueError(f"{path}: column {name!r} holds {kind}, not numbers. Leave it out with columns=.")
        # Missing cells become NaN, for which integers have no place.
        kinds = [schema.field(name).type for name in self.columns]
        is_float = pyarrow.types.is_floating
        self.dtype = np.result_type(*(kind.to_pandas_dtype() if is_float(kind) else np.float64 for kind in kinds))

    def __iter__(self) -> Iterator[Any]:
        asked = self.columns + self.weights
        try:
            for batch in self.data.to_batches(columns=asked, batch_size=READ_AT_ONCE):
                columns = [_as_floats(batch.column(place)) for place in range(len(asked))]
                rows = np.stack(columns[: len(self.columns)], axis=1, dtype=self.dtype)
                yield (rows, columns[-1]) if self.weights else rows
        except self.error as error:
            raise ValueError(f"{self.path} cannot be read as Parquet: {error}.") from None


class _Partitions:
    """Partitions of a dask collection as NumPy arrays."""

    def __init__(self, x: Any, sample_weight: Any) -> None:
        self.parts = delayed_partitions(x)
        self.weights = None if sample_weight is None else delayed_weights(sample_weight, len(self.parts))

    def __iter__(self) -> Iterator[Any]:
        for place, part in enumerate(self.parts):
            rows = np.asarray(part.compute())
            yield rows if self.weights is None else (rows, np.asarray(self.weights[place].compute()).reshape(-1))


def _chosen(path: str, schema: Any, columns: Sequence[str] | None, weights: str) -> list[str]:
    """The names of the columns that are features."""
    names = schema.names
    listed = ", ".join(map(repr, names))
    asked = names if columns is None else list(columns)
    for name in [*asked, *([weights] if weights else [])]:
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}. It has {listed}.")
        if names.count(name) > 1 or asked.count(name) > 1:
            raise ValueError(f"{path}: column {name!r} is there, or is chosen, twice. It has {listed}.")
    hidden = {weights} if columns is not None else {weights, *_of_index(schema)}
    chosen = [name for name in asked if name not in hidden]
    if not chosen:
        raise ValueError(f"{path}: no column is left as a feature. It has {listed}. Choose some with columns=.")
    return chosen


def _of_index(schema: Any) -> list[str]:
    """The columns in which pandas keeps a frame's index, and which it hides when it reads."""
    told = (schema.pandas_metadata or {}).get("index_columns", [])
    named = [name for name in told if isinstance(name, str)]  # a range is told by a dict, and has no column
    return named + [name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)]


def _is_numeric(types: Any, kind: Any) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def _as_floats(column: Any) -> np.ndarray:
    """A column of a Parquet file as it is where it holds floats, and as float64 where it does not."""
    is_floating = str(column.type) in ("halffloat", "float", "double")
    return (column if is_floating else column.cast("float64", safe=False)).to_numpy(zero_copy_only=False)


def delayed_partitions(x: Any) -> list[Any]:
    """The partitions of a dask array, in one piece along its features, or data frame, as delayed objects."""
    if hasattr(x, "rechunk"):
        x = x.rechunk({1: -1}) if x.ndim == 2 else x
        return list(x.to_delayed().ravel())
    return list(x.to_delayed())


def delayed_weights(weights: Any, n_parts: int) -> list[Any]:
    """The partitions of the weights (N,) of as many partitions of rows, as delayed objects.

    TypeError for weights that are not dask's, ValueError for other partitions than the rows'.
    """
    if not is_dask(weights):
        raise TypeError(
            f"sample_weight of a dask collection must be one, too, got {type(weights).__name__}. Give "
            "dask.array.from_array(sample_weight, chunks=x.chunks[0])."
        )
    parts = delayed_partitions(weights)
    _check.same_partitions(len(parts), n_parts)
    return parts


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
        return _of_npy(_existing(x), sample_weight)
    if isinstance(x, np.memmap):
        return Blocks.from_array(x, sample_weight)
    if is_dask(x):
        return Blocks.from_dask(x, sample_weight)
    return None


def ahead(items: Steps) -> Iterator[Any]:
    """The same items, of which the next is made in a thread of its own while one is in use."""
    reader = ThreadPoolExecutor(1, "jaxgmm-reader", initializer=settings_here())
    end = object()
    coming = reader.submit(next, items, end)
    try:
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item
    finally:
        # Who leaves early, or is interrupted, does not wait for a slow source: the thread ends after the block that it
        # is reading. It closes the source itself, since what is opened in a thread may be bound to it.
        items.stop()
        reader.submit(items.close)
        reader.shutdown(wait=coming.done())


def _existing(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name}: there is no such file.")
    return name


def _of_npy(path: str, sample_weight: Any) -> Blocks:
    """The rows of a `.npy` file, which is mapped."""
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(f"{path} is no NumPy array of numbers: it is damaged, or holds Python objects.") from None
    if not isinstance(x, np.ndarray):
        x.close()
        raise ValueError(f"{path} is an archive of several arrays. Save the one to read with numpy.save.")
    _check.matrix_shape(x.shape, path)
    return _Sliced(x, _check.row_weights(sample_weight, len(x)), path)


def _numbers_of(block: Any, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows (n, D), and weights (n,) or None, of a block."""
    rows, weights = _parted(block)
    rows = np.asarray(_check.real_array(rows, where))
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(
            f"{where}: expected numbers of shape (n, D), got {rows.dtype} of shape {rows.shape}. A matrix as a whole "
            "goes to Blocks.from_array."
        )
    if weights is None:
        return rows, None
    if _are_labels(weights):
        raise TypeError(
            f"{where} has whole numbers in a tensor beside its rows, which look like labels. Drop them: Blocks(lambda: "
            "(x for x, _ in loader)). Weights must be floating numbers there."
        )
    weights = np.asarray(_check.real_array(weights, f"{where}, in its weights,"))
    if weights.shape != rows.shape[:1]:
        raise ValueError(f"{where}: expected weights of shape ({len(rows)},), got {weights.shape}.")
    return rows, weights


def _parted(block: Any) -> tuple[Any, Any]:
    """Rows, and weights or None: of a pair, of rows alone in a list, as PyTorch's loaders give them, or of rows.

    A list whose first entry is no matrix is a list of rows.
    """
    if isinstance(block, (tuple, list)) and 1 <= len(block) <= 2 and np.ndim(block[0]) == 2:
        return block[0], block[1] if len(block) == 2 else None
    return block, None


def _are_labels(weights: Any) -> bool:
    """Whether a PyTorch loader of rows and labels has given them: whole numbers, which as weights are rare."""
    return type(weights).__module__.split(".")[0] == "torch" and np.asarray(weights).dtype.kind in "biu"


class _Store:
    """Memory for arrays that JAX on a CPU uses where they lie. New memory is cleared by the system, page by page, which
    takes longer than to copy rows into it: so what nobody holds any more, JAX least of all, is given out again."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def __reduce__(self) -> tuple[type[_Store], tuple[()]]:
        return _Store, ()  # a copy has no use for it

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array with whatever was in its place. It must not be written to once JAX has it."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) != n_bytes + ALIGNMENT:
            memory = np.empty(n_bytes + ALIGNMENT, np.uint8)
        # All arrays that are made of this one hold it, and it dies with the last of them.
        whole = np.frombuffer(memoryview(memory), np.uint8)  # pyright: ignore
        weakref.finalize(whole, self._free.append, memory).atexit = False
        return aligned(whole, shape, dtype)

    def piece(self, size: int, n_features: int, has_weights: bool, dtype: Any) -> Piece:
        """A piece to be filled. ValueError where there is no room for one."""
        try:
            weights = np.zeros(size, dtype) if has_weights else None
            return Piece(self.array((size, n_features), dtype), weights, 0)
        except (MemoryError, ValueError, OverflowError):
            raise ValueError(
                f"There is no memory for {size} rows of {n_features} features in one piece. Lower chunk_size."
            ) from None


def _filled(
    blocks: Iterator[tuple[np.ndarray, np.ndarray | None]], size: int, dtype: Any, store: _Store
) -> Iterator[Piece | None]:
    """Arrays of `size` rows as they fill, and None after each block.

    All that is to be had of a block is copied before the next is asked for: whoever gives it may write to it then. Too
    large a number for `dtype` becomes infinite, and is refused as that.
    """
    piece = None
    for rows, weights in blocks:
        done = 0
        while done < len(rows):
            piece = piece or store.piece(size, rows.shape[1], weights is not None, dtype)
            n = min(size - piece.count, len(rows) - done)
            into, of = slice(piece.count, piece.count + n), slice(done, done + n)
            with np.errstate(over="ignore"):
                piece.rows[into] = rows[of]
                if piece.weights is not None and weights is not None:
                    piece.weights[into] = weights[of]
            done += n
            piece = piece._replace(count=piece.count + n)
            if piece.count == size:
                yield piece
                piece = None
        yield None
    if piece is not None:
        piece.rows[piece.count :] = piece.rows[piece.count - 1]
        yield piece


def _touch(rows: np.ndarray) -> None:
    """Have the pages of a mapped file read now, by the thread that reads, and not by the one that computes."""
    rows.reshape(-1).view(np.uint8)[::4096].max(initial=0)

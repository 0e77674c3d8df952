"""What rows can be read from, a piece at a time: arrays on disk, Parquet, partitions, iterables."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._base.memory import ALIGNMENT, aligned
from . import _check

READ_AT_ONCE = 2**16
"""Rows of a Parquet file that are decoded at a time."""

STREAMED = (".npy", ".parquet")
"""Endings of the paths that are read in blocks."""


class Piece(NamedTuple):
    """Rows (n, D), of which the first `count` are valid, and their weights (n,), 0 for the others."""

    rows: np.ndarray
    weights: np.ndarray | None  # float64, as they were given; None where each row weighs 1
    count: int


class _Kind(NamedTuple):
    """Properties that must be the same in all blocks."""

    n_features: int
    has_weights: bool
    dtype: np.dtype

    def fits(self, like: _Kind, where: str) -> None:
        """ValueError for a block that does not match the first, or would lose digits in the first one's dtype."""
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


class _Parquet:
    """Columns of Parquet files, a few rows at a time."""

    def __init__(self, path: str, columns: Sequence[str] | None, weights: str) -> None:
        try:
            import pyarrow
            from pyarrow import dataset
        except ImportError as error:
            raise ImportError(f"{path}: Parquet needs pyarrow. Install jaxgmm[parquet].") from error
        # For a single file pyarrow would read the names of the folders above it as columns, too.
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
        # Missing cells become NaN, which integers cannot represent.
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
    """The columns in which pandas stores a frame's index, and which it does not read back as columns."""
    told = (schema.pandas_metadata or {}).get("index_columns", [])
    named = [name for name in told if isinstance(name, str)]  # a RangeIndex is a dict here, and has no column
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


def _existing(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name}: there is no such file.")
    return name


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
    """Rows, and weights or None, from a pair, from a list of one matrix, as PyTorch's loaders give, or from bare rows.

    A list whose first entry is not a matrix is a list of rows.
    """
    if isinstance(block, (tuple, list)) and 1 <= len(block) <= 2 and np.ndim(block[0]) == 2:
        return block[0], block[1] if len(block) == 2 else None
    return block, None


def _are_labels(weights: Any) -> bool:
    """Whether these look like labels from a PyTorch loader of rows and labels: integers, which are rare as weights."""
    return type(weights).__module__.split(".")[0] == "torch" and np.asarray(weights).dtype.kind in "biu"


class _Store:
    """A pool of buffers for arrays that JAX on a CPU uses without a copy. The system clears new memory page by page,
    which takes longer than copying rows into it: so a buffer that nothing references any more, JAX included, is
    reused."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def __reduce__(self) -> tuple[type[_Store], tuple[()]]:
        return _Store, ()  # a copy starts with an empty pool

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array. It must not be written to once JAX has it."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) != n_bytes + ALIGNMENT:
            memory = np.empty(n_bytes + ALIGNMENT, np.uint8)
        # All views of this array keep it alive; it is finalised with the last of them.
        whole = np.frombuffer(memoryview(memory), np.uint8)  # pyright: ignore
        weakref.finalize(whole, self._free.append, memory).atexit = False
        return aligned(whole, shape, dtype)

    def piece(self, size: int, n_features: int, has_weights: bool, dtype: Any) -> Piece:
        """A piece to be filled. ValueError where there is no memory for one."""
        try:
            weights = np.zeros(size) if has_weights else None
            return Piece(self.array((size, n_features), dtype), weights, 0)
        except (MemoryError, ValueError, OverflowError):
            raise ValueError(
                f"There is no memory for {size} rows of {n_features} features in one piece. Lower chunk_size."
            ) from None


def _filled(
    blocks: Iterator[tuple[np.ndarray, np.ndarray | None]], size: int, dtype: Any, store: _Store
) -> Iterator[Piece | None]:
    """Yield pieces of `size` rows as they fill up, and None after each block.

    A block is copied completely before the next is requested, since the source may then overwrite it. A number too
    large for `dtype` becomes infinite, and is refused as such.
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
    """Read the pages of a mapped file now, in the reader thread, instead of later in the thread that computes."""
    rows.reshape(-1).view(np.uint8)[::4096].max(initial=0)

"""Blocks of rows as a source gives them, checked against each other and cut into pieces of one size.

A source of rows is one file of this folder with two functions: `takes(x)`, whether a user's x is one, and `source(x,
sample_weight)`, which opens it; and a line on the shelf in `blocks.py`. What it opens has a `name`, and `again()` opens
it anew for another fit. It is iterated over anew for every pass (`partitions.py`), or, like an array (`arrays.py`), has
a `shape`, a `dtype` (None where only a read tells), `weights` (N,) or None, and `read(first, after)`; `read_into(rows,
first)` where it can read into given memory. Where it knows more it says so: `columns`, their names; `unit`, what a
block is called; `place_of(row)`, where a row came from. Every error names what it read.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._base.memory import ALIGNMENT, aligned
from .conversion import real_array
from .names import Names, in_order, names_of
from .npy import Stored, mapped

SAME = 1e-6
"""The share of the sum of absolute values by which the sums of two passes over the same rows may differ."""

AT_ONCE = 2**25
"""Bytes of a mapped array that are read at a time, where it is one block of many."""


class Tally(NamedTuple):
    """What is compared between passes, which must give the same rows: their number, and about their sum."""

    n_rows: int = 0
    total: float = 0.0
    size: float = 0.0  # at least the sum of the numbers' absolute values

    @classmethod
    def of(cls, rows: np.ndarray, weights: np.ndarray | None) -> Tally:
        """Of rows (n, D) with weights (n,). A source may give them in another order in every pass: a sum does not."""
        total, size = _summed(rows.reshape(-1))
        if weights is not None:
            total, size = (a + b for a, b in zip((total, size), _summed(weights), strict=True))
        return cls(len(rows), total, size)

    def plus(self, other: Tally) -> Tally:
        return Tally(self.n_rows + other.n_rows, self.total + other.total, self.size + other.size)

    def differs(self, other: Tally) -> bool:
        """Whether the rows are others. What a source computes anew may differ in its last digits."""
        return self.n_rows != other.n_rows or abs(self.total - other.total) > SAME * max(self.size, other.size)


class Piece(NamedTuple):
    """Rows (n, D), of which the first `count` are valid, and their weights (n,), 0 for the others."""

    rows: np.ndarray
    weights: np.ndarray | None  # float64, as they were given; None where each row weighs 1
    count: int
    tally: Tally = Tally()

    def counted(self) -> Piece:
        weights = None if self.weights is None else self.weights[: self.count]
        return self._replace(tally=Tally.of(self.rows[: self.count], weights))


def _summed(numbers: np.ndarray) -> tuple[float, float]:
    """The sum of contiguous numbers (n,), and a bound of that of their absolute values."""
    whole = len(numbers) // 1024 * 1024
    with np.errstate(over="ignore", invalid="ignore"):
        # Two levels: a third of the time of a sum in float64, and to more digits than are compared.
        total = numbers[:whole].reshape(-1, 1024).sum(axis=1).sum(dtype=np.float64) + numbers[whole:].sum()
        return float(total), math.sqrt(len(numbers)) * float(np.linalg.norm(numbers))


class Kind(NamedTuple):
    """Properties that must be the same in all blocks."""

    n_features: int
    has_weights: bool
    dtype: np.dtype
    names: Names | None

    def fits(self, like: Kind, dtype: Any, where: str) -> None:
        """ValueError for a block that does not match the first, or would lose digits in the dtype of the first and in
        that of the computation."""
        if self.n_features != like.n_features:
            raise ValueError(f"{where}: expected {like.n_features} features as before, got {self.n_features}.")
        if self.has_weights != like.has_weights:
            raise ValueError(
                f"{where}: some blocks have weights and some have none. Give weights with all, or with none."
            )
        widest = max((of.itemsize if of.kind == "f" else 0) for of in (like.dtype, np.dtype(dtype or like.dtype)))
        if self.dtype.kind == "f" and self.dtype.itemsize > widest:
            raise ValueError(
                f"{where} holds {self.dtype}, and the first block {like.dtype}, which decides the precision of all. "
                f"Give all blocks one dtype: rows.astype(np.{self.dtype})."
            )


class Block(NamedTuple):
    """Rows (n, D) with n > 0, weights (n,) or None, and the names of the columns or None."""

    rows: np.ndarray
    weights: np.ndarray | None
    names: Names | None


def fitting(
    blocks: Iterator[Any],
    unit: str,
    name: str,
    dtype: Any = None,
    like: Kind | None = None,
    starts: list[tuple[int, str]] | None = None,
) -> Iterator[Block]:
    """The blocks that have rows, each of which fits the first, or `like`; their columns in the order of that one's.

    dtype: of the computation. unit: what the source calls a block; if it is "", there is only one, which `name` names.
    starts: takes the first row of each block that has rows, and what it is called.
    ValueError or TypeError that says which block is wrong, and where.
    """
    of_first, first, place = "the first", 0, -1
    while True:
        place += 1
        try:
            block = next(blocks)
        except StopIteration:
            return
        except Exception as error:  # of what the user reads with: where is all that is known of it here
            error.add_note(f"Raised by what gives {unit or 'rows'} {place} of {name} (rows from {first} on).")
            raise
        where = f"{unit.capitalize()} {place} of {name}" + (f" (rows from {first} on)" if unit == "block" else "")
        where = where if unit else name
        if starts is not None and (not starts or starts[-1][0] < first):
            starts.append((first, f"{unit} {place}" if unit else ""))
        elif starts:
            starts[-1] = first, f"{unit} {place}"  # the last had no rows
        for rows, weights, names in _numbers_of(block, where):
            if like is not None:
                rows = in_order(rows, names, like.names, where, of_first)
            kind = Kind(rows.shape[1], weights is not None, rows.dtype, like.names if like else names)
            if like is None:
                like, of_first = kind, f"{unit} {place}"
            kind.fits(like, dtype, where)
            _whole_numbers_fit(rows, like.dtype, where)
            yield Block(rows, weights, like.names)
            first += len(rows)


def _whole_numbers_fit(rows: np.ndarray, dtype: np.dtype, where: str) -> None:
    """ValueError for whole numbers that lose digits among floats of this dtype."""
    if rows.dtype.kind in "iu" and rows.dtype.itemsize > 2 and dtype.kind == "f":
        most = 2 ** (np.finfo(dtype).nmant + 1)
        if int(rows.max()) > most or int(rows.min()) < -most:
            raise ValueError(
                f"{where} holds {rows.dtype} up to {max(int(rows.max()), -int(rows.min()))}, and the first block "
                f"{dtype}, which resolves whole numbers up to {most}. Give all blocks one dtype: "
                "rows.astype(np.float64)."
            )


def _numbers_of(block: Any, where: str) -> Iterator[Block]:
    """The rows (n, D) of a block, with weights (n,) or None; an array in a file a part at a time. Nothing, where the
    block has no rows, whatever its shape."""
    rows, weights = _parted(block)
    shape = np.shape(rows) if not hasattr(rows, "shape") else rows.shape
    if len(shape) and shape[0] == 0:
        return
    stored = mapped(rows)
    if stored is not None:
        _matrix(rows, where)
        step = max(1, AT_ONCE // (rows.shape[1] * rows.dtype.itemsize))
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            of_part = None if weights is None else _weights_of(weights, len(rows), where)[part]
            yield Block(np.asarray(real_array(_read(stored, part), where)), of_part, None)
        return
    names = names_of(rows)
    rows = np.asarray(real_array(rows, where))
    _matrix(rows, where)
    yield Block(rows, None if weights is None else _weights_of(weights, len(rows), where), names)


def _read(stored: Stored, part: slice) -> np.ndarray:
    return stored.read(part.start, min(part.stop, stored.shape[0]))


def _matrix(rows: np.ndarray, where: str) -> None:
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(
            f"{where}: expected numbers of shape (n, D), got {rows.dtype} of shape {rows.shape}. A matrix as a whole "
            "goes to Blocks.from_array."
        )


def _weights_of(weights: Any, n_rows: int, where: str) -> np.ndarray:
    if _are_labels(weights):
        raise TypeError(
            f"{where} has whole numbers in a tensor beside its rows, which look like labels. Drop them: Blocks(lambda: "
            "(x for x, _ in loader)). Weights must be floating numbers there."
        )
    weights = np.asarray(real_array(weights, f"{where}, in its weights,"))
    if weights.shape != (n_rows,):
        raise ValueError(f"{where}: expected weights of shape ({n_rows},), got {weights.shape}.")
    return weights


def _parted(block: Any) -> tuple[Any, Any]:
    """Rows, and weights or None, from a pair, from a list of one matrix, as PyTorch's loaders give, or from bare rows.

    A list whose first entry is neither a matrix nor an array without rows is a list of rows.
    """
    if isinstance(block, (tuple, list)) and 1 <= len(block) <= 2:
        require_array = np.ndim(block[0]) == 2 or (hasattr(block[0], "shape") and block[0].shape == (0,))
        if require_array:
            return block[0], block[1] if len(block) == 2 else None
    return block, None


def _are_labels(weights: Any) -> bool:
    """Whether these look like labels from a PyTorch loader of rows and labels: integers, which are rare as weights."""
    return type(weights).__module__.split(".")[0] == "torch" and np.asarray(weights).dtype.kind in "biu"


class Store:
    """A pool of buffers for arrays that JAX on a CPU uses without a copy. The system clears new memory page by page,
    which takes longer than copying rows into it: so a buffer that nothing references any more, JAX included, is
    reused."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def __reduce__(self) -> tuple[type[Store], tuple[()]]:
        return Store, ()  # a copy starts with an empty pool

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


def filled(blocks: Iterator[Block], size: int, dtype: Any, store: Store) -> Iterator[Piece | None]:
    """Yield pieces of `size` rows as they fill up, and None after each block.

    A block is copied completely before the next is requested, since the source may then overwrite it. A number too
    large for `dtype` becomes infinite, and is refused as such.
    """
    piece = None
    for rows, weights, _ in blocks:
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
        yield padded(piece)


def padded(piece: Piece) -> Piece:
    """A piece whose rows past the last valid one repeat it."""
    piece.rows[piece.count :] = piece.rows[piece.count - 1]
    return piece

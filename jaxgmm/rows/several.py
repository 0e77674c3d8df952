"""The rows of several files, one after the other, as those of one table. Columns are matched by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ._check import WithoutRows
from .files import ending, is_path
from .names import in_order
from .sources import Block

ENDINGS = (".npy", ".npz", ".parquet", ".pq", ".parq", ".csv", ".tsv", ".tab", ".txt", ".dat", ".data")


def takes(x: Any) -> bool:
    """Whether x is a list of paths, and not of text that stands for numbers."""
    if not isinstance(x, (list, tuple)) or not x or not all(map(is_path, x)):
        return False
    return any(isinstance(each, os.PathLike) or ending(each) in ENDINGS or os.path.exists(each) for each in x)


class Several:
    """Files, each opened by `open_file`. They have the columns of the first, in any order, and the widest dtype of all.

    All are opened, and their first rows read, before anything is computed. Those without rows are passed over.
    """

    unit, weights = "block", None

    def __init__(self, paths: Sequence[Any], open_file: Callable[[Any], Any]) -> None:
        self.paths, self.open_file = tuple(paths), open_file
        self.files, heads = [], []
        for path in paths:
            with contextlib.suppress(WithoutRows):
                file = open_file(path)
                heads.append(file.head()[0])
                self.files.append(file)
        if not self.files:
            raise WithoutRows(f"None of the {len(paths)} files has rows: the first is {os.fspath(paths[0])}.")
        self.dtype = np.result_type(np.float32, *(head.dtype for head in heads))
        self.columns = self.files[0].column_names()
        for file, head in zip(self.files, heads, strict=True):
            in_order(head, file.column_names(), self.columns, file.name, self.files[0].name)
        self.starts: list[tuple[int, Any]] = []

    @property
    def name(self) -> str:
        return f"{self.files[0].name} and {len(self.files) - 1} more" if len(self.files) > 1 else self.files[0].name

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for file in self.files for note in file.notes))

    def again(self) -> Several:
        return Several(self.paths, self.open_file)

    def place_of(self, row: int) -> str:
        """The file of a row, and its number there."""
        first, file = next(start for start in reversed(self.starts) if start[0] <= row)
        return f"{file.name}, its row {row - first}"

    def __iter__(self) -> Iterator[Any]:
        self.starts, first = [], 0
        for file in self.files:
            self.starts.append((first, file))
            for rows, weights, names in file.blocks():
                rows = in_order(rows, names, self.columns, file.name, self.files[0].name)
                first += len(rows)
                rows = rows.astype(self.dtype, copy=False)
                yield rows if weights is None else (rows, weights)


def joined(blocks: Iterator[Block]) -> tuple[np.ndarray, np.ndarray | None]:
    """Blocks as one array (N, D) with weights (N,) or None; of none, an array without rows."""
    rows: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for block in blocks:
        rows.append(np.array(block.rows))
        if block.weights is not None:
            weights.append(np.array(block.weights))
    if not rows:
        return np.zeros((0, 1)), None
    return np.concatenate(rows), np.concatenate(weights) if weights else None

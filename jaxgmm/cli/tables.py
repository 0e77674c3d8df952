"""Tables of numbers for the command line: what `rows/readers` reads as one array, and CSV and Parquet written.

Data rows are counted from 1 in messages; columns have a name or a position from 0.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .._base.files import atomically
from ..rows.readers import READABLE as READABLE
from ..rows.readers import Reading, Source, Text, positions, source_of
from ..search.table import counted

WRITABLE = (".csv", ".parquet")

Choice = Sequence[str | int] | Callable[[Source], Sequence[str | int] | None] | None
"""Columns by name or position, what chooses them when the file is open, or None for all."""


class Table(NamedTuple):
    """Numbers in named columns."""

    values: np.ndarray  # (N, D), float32 or float64
    names: tuple[str, ...]  # (D,); positions where the file has no names
    is_named: bool = True
    notes: tuple[str, ...] = ()  # what was recognised in the file
    places: tuple[int, ...] = ()  # (D,); of the columns in the file

    def without_last(self) -> Table:
        values = np.ascontiguousarray(self.values[:, :-1])
        return self._replace(values=values, names=self.names[:-1], places=self.places[:-1])

    def columns(self, is_all: bool) -> tuple[str | int, ...] | None:
        """What a model remembers of its columns: their names, or else their positions where some were chosen."""
        return self.names if self.is_named else None if is_all else self.places


def read(
    path: str | os.PathLike[str],
    columns: Choice = None,
    reading: Reading = Reading(),  # noqa: B008
    is_weighted: bool = False,
) -> Table:
    """The numbers in a file, all finite; those of standard input for the path "-".

    columns: the ones to read, in this order; the others may then hold anything. is_weighted: whether the last of them
    are weights: of a row of weight 0 no other number need be finite. Raises FileNotFoundError and the
    system's other errors, ImportError if Parquet needs pyarrow, and ValueError for a text column, a missing cell (with
    its row and column), rows of unequal length, or a file of another type.
    """
    source = _standard_input(reading) if os.fspath(path) == "-" else source_of(path, reading)
    chosen = columns(source) if callable(columns) else columns
    places = source.features() if chosen is None else positions(chosen, source.names, source.path)
    source.check(places)
    blocks = list(source.blocks(places)) if places else []
    values = blocks[0] if len(blocks) == 1 else np.concatenate([np.empty((0, len(places)), np.float32), *blocks])
    if values.shape[0] == 0 or values.shape[1] == 0:
        raise ValueError(f"{source.path} holds no data: {values.shape[0]} rows of {values.shape[1]} columns.")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    _all_finite(source, values, places, is_weighted)
    names = tuple(source.names[place] for place in places)
    return Table(values, names, source.is_named, source.notes, tuple(places))


def described(path: str | os.PathLike[str], table: Table) -> str:
    """What was read, in one line."""
    n_rows, n_columns = table.values.shape
    names = [" ".join(name.split()) for name in table.names[:12]]
    if table.is_named:
        told = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names)
    else:
        told = "without names, " + ("number " if n_columns == 1 else "numbers ") + ", ".join(names)
    more = f" and {n_columns - 12} more" if n_columns > 12 else ""
    size = f"{n_rows} row{'s' if n_rows != 1 else ''} of {n_columns} column{'s' if n_columns != 1 else ''}"
    notes = f" ({'; '.join(table.notes)})" if table.notes else ""
    return f"{called(path)}: {size}: {told}{more}{notes}."


def called(path: str | os.PathLike[str]) -> str:
    return "standard input" if os.fspath(path) == "-" else os.fspath(path)


def _standard_input(reading: Reading) -> Source:
    if sys.stdin is None:
        raise ValueError("There is no standard input.")
    return Text(called("-"), reading, sys.stdin.buffer)


def write(path: str | os.PathLike[str], names: Sequence[str], blocks: Iterable[Any]) -> None:
    """Blocks of rows (n, D), one after the other, as CSV or Parquet by the path's ending; completely or not at all.

    CSV keeps every digit of the numbers.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in WRITABLE:
        raise ValueError(f"{os.fspath(path)}: expected a file ending in one of {', '.join(WRITABLE)}.")
    with atomically(path) as file:
        if ending == ".parquet":
            _write_parquet(file, names, blocks)
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        write_csv(text, names, blocks)
        text.flush()
        text.detach()


def write_csv(file: Any, names: Sequence[str], blocks: Iterable[Any]) -> None:
    """Write a header and blocks of rows to an open text file."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for block in blocks:
        if isinstance(block, np.ndarray):
            # As text a float32 is shorter than the float64 that `tolist` would make of it.
            block = block.astype(str).tolist() if block.dtype == np.float32 else block.tolist()
        writer.writerows(block)


def _write_parquet(file: BinaryIO, names: Sequence[str], blocks: Iterable[Any]) -> None:
    pyarrow, parquet = require_pyarrow()
    writer = None
    try:
        for block in blocks:
            table = pyarrow.table({name: np.ascontiguousarray(block[:, i]) for i, name in enumerate(names)})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def require_pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module, or an ImportError that says how to get them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow. Install it with: pip install "jaxgmm[parquet]"') from error
    return pyarrow, pyarrow.parquet


def _all_finite(source: Source, values: np.ndarray, places: Sequence[int], is_weighted: bool) -> None:
    for start in range(0, len(values), 65536):  # in blocks, so that no mask of a whole large table is made
        block = values[start : start + 65536]
        wrong = ~np.isfinite(block)
        if is_weighted:
            wrong[:, :-1] &= (block[:, -1] != 0.0)[:, None]
        if wrong.any():
            row, column = map(int, np.argwhere(wrong)[0])
            value, place = values[start + row, column], places[column]
            where = f"{source.path}: data row {start + row + 1}, column {source.names[place]!r} is"
            if np.isnan(value):
                known = source.missing
                what = known[2] if known and known[:2] == (start + row, place) else "NaN"
                n_others = int(np.isnan(values).any(axis=1).sum()) - 1
                more = f", and so are cells of {counted(n_others, 'other row')}" if n_others else ""
                raise ValueError(f"{where} missing ({what}){more}. Drop or fill such rows.")
            raise ValueError(f"{where} {value}. Drop or mend such rows.")

"""Tables of numbers for the command line: CSV, TSV, NumPy and Parquet files. Errors name the row and column.

Data rows are counted from 1 in messages; columns have a name or a position from 0.
"""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .._base.files import atomically

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Texts that mark a missing cell, in upper or lower case."""

READABLE = (".csv", ".tsv", ".npy", ".npz", ".parquet")

WRITABLE = (".csv", ".parquet")


class Table(NamedTuple):
    """Numbers in named columns."""

    values: np.ndarray  # (N, D), float32 or float64
    names: tuple[str, ...]  # (D,)


def read(path: str | os.PathLike[str], columns: Sequence[str | int] | None = None) -> Table:
    """The numbers in a file, all finite. -> values (N, D) and the names of the columns.

    columns: the ones to read, in this order, by name or by position from 0; the others may then hold anything.
    Raises FileNotFoundError, ImportError if Parquet needs pyarrow, and ValueError for a text column, a missing
    cell (with its row and column), rows of unequal length, or a file of another type.
    """
    name = os.fspath(path)
    ending = os.path.splitext(name)[1].lower()
    readers = {".csv": _read_text, ".tsv": _read_text, ".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    if ending not in readers:
        raise ValueError(f"{name}: expected a file ending in one of {', '.join(READABLE)}.")
    table = readers[ending](name, columns)
    if table.values.shape[0] == 0 or table.values.shape[1] == 0:
        raise ValueError(f"{name} holds no data: {table.values.shape[0]} rows of {table.values.shape[1]} columns.")
    _all_finite(name, table)
    return table


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


def positions(columns: Sequence[str | int], names: Sequence[str], source: str) -> list[int]:
    """Positions of the chosen columns. A string is a name or, if no column has that name, a position from 0."""
    found: list[int] = []
    for column in columns:
        if isinstance(column, str) and names.count(column) > 1:
            raise ValueError(
                f"{source} has {names.count(column)} columns called {column!r}: choose one by its position, from 0."
            )
        if isinstance(column, str) and column in names:
            place = names.index(column)
        elif isinstance(column, int) or column.isdecimal():
            place = int(column)
        else:
            place = -1
        if not 0 <= place < len(names):
            raise ValueError(
                f"{source} has no column {column!r}. It has {_listed(names)} (or give a position from 0 to "
                f"{len(names) - 1})."
            )
        if place in found:
            raise ValueError(f"Column {names[place]!r} of {source} is chosen twice.")
        found.append(place)
    if not found:
        raise ValueError(f"No column of {source} is chosen. It has {_listed(names)}.")
    return found


def _read_text(path: str, columns: Sequence[str | int] | None) -> Table:
    """Read CSV or TSV with NumPy's C parser; only if it fails, row by row, to name the place of the error."""
    # A column that is not read may hold bytes that are not UTF-8.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = "\t" if path.lower().endswith(".tsv") else ","
        reader = csv.reader(file, delimiter=delimiter)
        try:
            first = next((row for row in reader if row), None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}.") from None
        if first is None:
            raise ValueError(f"{path} is empty.")
        has_header = _is_header(first)
        names = tuple(cell.strip() for cell in first) if has_header else tuple(str(i) for i in range(len(first)))
        chosen = list(range(len(names))) if columns is None else positions(columns, names, path)
        if columns is None and "" in names:
            raise ValueError(
                f"{path}: column {names.index('')} has no name, like an index that pandas or R has written. Give it a "
                "name if it is data, or leave it out with --columns."
            )
        skipped = reader.line_num if has_header else 0
        file.seek(0)
        for _ in range(skipped):
            file.readline()
        start = file.tell()
        values = _by_numpy(file, delimiter, None if columns is None else chosen)
        if values is None or columns is not None:
            file.seek(start)
            by_hand = _by_hand(path, csv.reader(file, delimiter=delimiter), names, [] if values is not None else chosen)
            values = by_hand if values is None else values
        return Table(values, tuple(names[i] for i in chosen))


def _by_numpy(file: Any, delimiter: str, columns: list[int] | None) -> np.ndarray | None:
    """The numbers, read with NumPy's C parser; None if it finds anything but finite numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "input contained no data"
        try:
            values = np.loadtxt(
                file, delimiter=delimiter, comments=None, quotechar='"', usecols=columns, ndmin=2, dtype=np.float64
            )
        except ValueError:
            return None
    return values if len(values) and np.isfinite(values).all() else None


def _by_hand(path: str, reader: Iterator[list[str]], names: Sequence[str], chosen: Sequence[int]) -> np.ndarray:
    """The numbers, read with Python's csv parser; an error names the first cell that is not a number.

    With nothing chosen it only checks that all rows have the same length, which NumPy does not if columns are chosen.
    """
    values: list[float] = []
    number = 0
    try:
        for row in reader:
            if not row:
                continue
            number += 1
            if len(row) != len(names):
                raise ValueError(f"{path}: data row {number} has {len(row)} cells, expected {len(names)}.")
            for i in chosen:
                if not _is_number(row[i]):
                    raise ValueError(_no_number(path, number, names, i, row[i].strip()))
                values.append(float(row[i]))
    except csv.Error as error:
        raise ValueError(f"{path}, near data row {number + 1}: {error}.") from None
    return np.array(values, np.float64).reshape(number, len(chosen))


def _no_number(path: str, row: int, names: Sequence[str], column: int, text: str) -> str:
    if text.lower() in MISSING:
        return _missing(path, row, names[column], repr(text) if text else "empty")
    return f"{path}: column {names[column]!r} holds text, in data row {row} {text!r}. " + _leave_out(
        names[column], names
    )


def _is_header(row: Sequence[str]) -> bool:
    """Whether a first line is a header: it has some text and no number, so it cannot be data."""
    cells = [cell.strip() for cell in row]
    return not any(map(_is_number, cells)) and any(cell.lower() not in MISSING for cell in cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.lower().lstrip("+-") != "nan"


def _read_npy(path: str, columns: Sequence[str | int] | None) -> Table:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(f"{path} is no NumPy array of numbers: it is damaged, or holds Python objects.") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of several arrays: name it .npz.")
    return _from_array(path, array, columns)


def _read_npz(path: str, columns: Sequence[str | int] | None) -> Table:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            chosen = names[0] if len(names) == 1 else next((name for name in ("x", "X") if name in names), None)
            array = None if chosen is None else archive[chosen]
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        raise ValueError(f"{path} is no NumPy archive of numbers: it is damaged, or holds Python objects.") from None
    if array is None:
        raise ValueError(f"{path} has the arrays {_listed(names)}: call the one to read 'x', or store it alone.")
    return _from_array(path, array, columns)


def _from_array(path: str, array: np.ndarray, columns: Sequence[str | int] | None) -> Table:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {array.dtype}, expected real numbers.")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{path} holds an array of shape {array.shape}, expected rows and columns (N, D).")
    names = [str(i) for i in range(array.shape[1])]
    if columns is not None:
        chosen = positions(columns, names, path)
        array, names = array[:, chosen], [names[i] for i in chosen]
    return Table(array if array.dtype in (np.float32, np.float64) else array.astype(np.float64), tuple(names))


def _read_parquet(path: str, columns: Sequence[str | int] | None) -> Table:
    pyarrow, parquet = require_pyarrow()
    with open(path, "rb") as file:
        try:
            source = parquet.ParquetFile(file)
            schema = source.schema_arrow
            # pandas stores a frame's index in columns with such names, and hides them when it reads.
            names = [name for name in schema.names if not re.fullmatch(r"__index_level_\d+__", name)]
            if len(set(names)) < len(names):
                raise ValueError(f"{path}: two columns have one name. It has {_listed(names)}.")
            kept = names if columns is None else [names[i] for i in positions(columns, names, path)]
            for name in kept:
                kind = schema.field(name).type
                if not _is_numeric(pyarrow.types, kind):
                    raise ValueError(f"{path}: column {name!r} holds {kind}, not numbers. {_leave_out(name, names)}")
            table = source.read(columns=kept)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} cannot be read as Parquet: {error}.") from None
    arrays = []
    for name in kept:
        column = table.column(name)
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy())) + 1
            raise ValueError(_missing(path, row, name, "null"))
        arrays.append(column.to_numpy())
    single = arrays and all(array.dtype == np.float32 for array in arrays)
    dtype = np.float32 if single else np.float64
    shape = (table.num_rows, len(kept))
    return Table(np.column_stack(arrays).astype(dtype) if arrays else np.empty(shape, dtype), tuple(kept))


def _is_numeric(types: Any, kind: Any) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


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


def _all_finite(path: str, table: Table) -> None:
    for start in range(0, len(table.values), 65536):  # in blocks, so that no mask of a whole large table is made
        wrong = ~np.isfinite(table.values[start : start + 65536])
        if wrong.any():
            row, column = map(int, np.argwhere(wrong)[0])
            value, name = table.values[start + row, column], table.names[column]
            if np.isnan(value):
                raise ValueError(_missing(path, start + row + 1, name, "NaN"))
            raise ValueError(f"{path}: data row {start + row + 1}, column {name!r} is {value}. Drop or mend such rows.")


def _missing(path: str, row: int, name: str, what: str) -> str:
    return f"{path}: data row {row}, column {name!r} is missing ({what}). Drop or fill such rows."


def _leave_out(name: str, names: Sequence[str]) -> str:
    others = [other for other in names if other != name]
    few = ",".join(others) if len(others) <= 12 else ",".join(others[:3]) + ",…"
    return f"Leave it out: --columns {few}" if others else "Numbers are needed."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

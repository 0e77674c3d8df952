"""Parquet files, and folders of them, read some rows at a time with pyarrow."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .source import leave_out, listed

AT_ONCE = 2**16
"""Rows that are decoded at a time."""


class Parquet:
    """Columns of a Parquet file, or of a folder of them; folder names such as year=2024/ are columns, too."""

    is_named = True

    def __init__(self, path: str) -> None:
        try:
            import pyarrow
            from pyarrow import dataset
        except ImportError as error:
            raise ImportError(
                f'{path}: Parquet needs pyarrow. Install it with: pip install "jaxgmm[parquet]"'
            ) from error
        # For a single file pyarrow would read the names of the folders above it as columns, too.
        partitioning = "hive" if os.path.isdir(path) else None
        self.path, self.notes, self._arrow = path, (), pyarrow
        self.missing: tuple[int, int, str] | None = None
        with self._named():
            if not os.path.isdir(path):
                with open(path, "rb"):  # the system's own error, which names the path
                    pass
            self._data = dataset.dataset(path, format="parquet", partitioning=partitioning)
            if not self._data.files:
                raise ValueError(f"{path} is a folder without Parquet files.")
        self._schema = self._data.schema
        self.names = tuple(self._schema.names)
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path}: column {twice!r} is there twice. It has {listed(self.names)}.")
        hidden = _of_index(self._schema)
        self._features = [place for place, name in enumerate(self.names) if name not in hidden]

    def features(self) -> list[int]:
        return self._features

    def check(self, places: Sequence[int]) -> None:
        for place in places:
            if not self._is_number(place):
                others = [self.names[other] for other in self._features if self._is_number(other)]
                raise ValueError(
                    f"{self.path}: column {self.names[place]!r} holds {self._kind(place)}, not numbers. "
                    f"{leave_out(self.names[place], others)}"
                )

    def blocks(self, places: Sequence[int], weight: int | None = None) -> Iterator[Any]:
        self.check(places)
        # Missing cells become NaN, which integers cannot represent.
        kinds, is_float = [self._kind(place) for place in places], self._arrow.types.is_floating
        dtype = np.result_type(*(kind.to_pandas_dtype() if is_float(kind) else np.float64 for kind in kinds))
        asked = [self.names[place] for place in ([*places] if weight is None else [*places, weight])]
        self.missing, n_rows = None, 0
        with self._named():
            for batch in self._data.to_batches(columns=asked, batch_size=AT_ONCE):
                self._note_missing(batch, places, n_rows)
                n_rows += batch.num_rows
                columns = [_as_floats(batch.column(place)) for place in range(len(asked))]
                rows = np.stack(columns[: len(places)], axis=1, dtype=dtype)
                yield rows if weight is None else (rows, columns[-1])

    def _note_missing(self, batch: Any, places: Sequence[int], n_rows: int) -> None:
        nulls = [
            (int(np.argmax(batch.column(i).is_null().to_numpy(zero_copy_only=False))), place)
            for i, place in enumerate(places)
            if batch.column(i).null_count
        ]
        if nulls and self.missing is None:
            row, place = min(nulls)
            self.missing = n_rows + row, place, "null"

    def _kind(self, place: int) -> Any:
        return self._schema.field(place).type

    def _is_number(self, place: int) -> bool:
        return _is_numeric(self._arrow.types, self._kind(place))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Every fault of a file that is read here as one error that names its path."""
        try:
            yield
        except self._arrow.ArrowException as error:
            raise ValueError(f"{self.path} cannot be read as Parquet: {error}.") from None
        except OSError as error:
            if error.errno is None:  # pyarrow's own
                raise ValueError(f"{self.path} cannot be read as Parquet: {error}.") from None
            if error.filename is None:
                raise type(error)(error.errno, error.strerror, self.path) from None
            raise


def _of_index(schema: Any) -> list[str]:
    """The columns in which pandas stores a frame's index, and which it does not read back as columns."""
    told = (schema.pandas_metadata or {}).get("index_columns", [])
    named = [name for name in told if isinstance(name, str)]  # a RangeIndex is a dict here, and has no column
    return named + [name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)]


def _is_numeric(types: Any, kind: Any) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def _as_floats(column: Any) -> np.ndarray:
    """A column as it is where it holds floats, and as float64 where it does not."""
    is_floating = str(column.type) in ("halffloat", "float", "double")
    return (column if is_floating else column.cast("float64", safe=False)).to_numpy(zero_copy_only=False)

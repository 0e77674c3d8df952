"""Columns of Parquet files by name or position: what `rows/parquet.py` reads, as a table."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..files import naming
from ..parquet import Parquet
from .source import leave_out, listed


class ParquetTable:
    """A Parquet file or a folder of them, of which folder names such as year=2024/ are columns, too."""

    is_named = True
    notes = ()

    def __init__(self, path: str) -> None:
        try:
            import pyarrow
            from pyarrow import dataset
            from pyarrow import parquet as files
        except ImportError as error:
            raise ImportError(
                f'{path}: Parquet needs pyarrow. Install it with: pip install "jaxgmm[parquet]"'
            ) from error
        self.path, self._types = path, pyarrow.types
        self.missing: tuple[int, int, str] | None = None
        is_folder = os.path.isdir(path)
        try:
            with naming(path):
                if is_folder:
                    self._schema = dataset.dataset(path, format="parquet", partitioning="hive").schema
                else:
                    with open(path, "rb") as file:
                        self._schema = files.read_schema(file)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            what = f"{path} cannot be read as {'a folder of Parquet files' if is_folder else 'Parquet'}"
            raise ValueError(f"{what}: {str(error).rstrip('.')}.") from None
        self.names = tuple(self._schema.names)
        if not self.names:
            raise ValueError(f"{path} has no columns{': no Parquet file is in it' if is_folder else ''}.")
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path}: two columns have one name, {twice!r}. It has {listed(self.names)}.")
        hidden = _of_index(self._schema)
        self._features = [place for place, name in enumerate(self.names) if name not in hidden]

    def again(self) -> ParquetTable:
        return ParquetTable(self.path)

    def features(self) -> list[int]:
        return self._features

    def check(self, places: Sequence[int]) -> None:
        for place in places:
            if not self._is_numeric(place):
                texts = [other for other in places if not self._is_numeric(other)]
                raise ValueError(
                    f"{self.path}: column {self.names[place]!r} holds {self._kind(place)}, not numbers. "
                    f"{leave_out(texts, places, self.names)}"
                )

    def blocks(self, places: Sequence[int], weight: int | None = None) -> Iterator[Any]:
        names = [self.names[place] for place in places]
        self.missing, n_rows = None, 0
        for block in Parquet(self.path, names, "" if weight is None else self.names[weight]):
            rows = block if weight is None else block[0]
            is_missing = np.isnan(rows)
            if self.missing is None and is_missing.any():
                row, column = map(int, np.argwhere(is_missing)[0])
                self.missing = n_rows + row, places[column], "null"
            n_rows += len(rows)
            yield block

    def _kind(self, place: int) -> Any:
        return self._schema.field(place).type

    def _is_numeric(self, place: int) -> bool:
        kind, types = self._kind(place), self._types
        return any(of(kind) for of in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal))


def _of_index(schema: Any) -> list[str]:
    """The columns in which pandas stores a frame's index, and which it does not read back as columns."""
    told = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in schema.names if name in told or re.fullmatch(r"__index_level_\d+__", name)]

"""Columns of a Parquet file, or of all files in a folder, a few rows at a time.

The files of a folder may have their columns in different orders, and of different widths: columns are chosen by name,
and the widest of all files' floating types is the dtype. The footer of every file is read before the first row is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .files import Watched, ending, existing, is_path
from .names import _listed

READ_AT_ONCE = 2**16
"""Rows that are decoded at a time."""

ENDINGS = (".parquet", ".pq", ".parq")


def takes(x: Any) -> bool:
    return is_path(x) and (ending(os.fspath(x)) in ENDINGS or os.path.isdir(x))


def source(x: Any, sample_weight: Any = None) -> Parquet:
    """The rows of the path of a Parquet file or folder."""
    if sample_weight is not None:
        raise ValueError("Weights of a Parquet file are one of its columns: Blocks.from_file(path, weights=name).")
    return Parquet(existing(x), None, "")


class Parquet:
    """Columns of Parquet files, a few rows at a time, read anew in every pass."""

    def __init__(self, path: str, columns: Sequence[str] | None, weights: str) -> None:
        try:
            import pyarrow
            from pyarrow import dataset, fs, parquet
        except ImportError as error:
            raise ImportError(f"{path}: Parquet needs pyarrow. Install jaxgmm[parquet].") from error
        self.name, self.asked, self.errors = path, (columns, weights), (pyarrow.ArrowException, OSError)
        is_folder = os.path.isdir(path)
        self.files = [Watched(name) for name in (_files_in(path) if is_folder else [path])]
        schemas = []
        for file in self.files:
            with self._reading(file):
                schemas.append(parquet.read_schema(file.path))
        with self._reading(self.files[0]):
            # For a single file pyarrow would read the names of the folders above it as columns, too.
            options = dataset.FileSystemFactoryOptions(
                partition_base_dir=path if is_folder else os.path.dirname(path),
                **({"partitioning": dataset.HivePartitioning.discover()} if is_folder else {}),
            )
            names = [file.path for file in self.files]
            format_ = dataset.ParquetFileFormat()
            whole = dataset.FileSystemDatasetFactory(fs.LocalFileSystem(), names, format_, options).finish()
            self.parts = {part.path: part for part in whole.get_fragments()}
        own = set(schemas[0].names)
        self.of_folders = [whole.schema.field(name) for name in whole.schema.names if name not in own]
        schemas = [_with(schema, self.of_folders) for schema in schemas]
        self.columns, self.weights = tuple(_chosen(path, schemas[0], columns, weights)), (weights,) if weights else ()
        self._same_columns(schemas, columns is None, {weights})
        self.schemas, self.starts = schemas, [(0, path)]
        # Missing cells become NaN, which integers cannot represent.
        kinds = [schema.field(name).type for schema in schemas for name in self.columns]
        is_float = pyarrow.types.is_floating
        self.dtype = np.result_type(*(kind.to_pandas_dtype() if is_float(kind) else np.float64 for kind in kinds))

    def place_of(self, row: int) -> str:
        """The file of a row, and its number there; "" where there is only one file."""
        first, path = next(start for start in reversed(self.starts) if start[0] <= row)
        return f"{path}, its row {row - first}" if len(self.files) > 1 else ""

    def again(self) -> Parquet:
        """The same columns for another fit, from the files as they are now."""
        return Parquet(self.name, *self.asked)

    def __iter__(self) -> Iterator[Any]:
        asked, self.starts, first = self.columns + self.weights, [], 0
        for file, schema in zip(self.files, self.schemas, strict=True):
            file.check()
            self.starts.append((first, file.path))
            with self._reading(file):
                batches = iter(self.parts[file.path].to_batches(schema, columns=list(asked), batch_size=READ_AT_ONCE))
            while True:
                with self._reading(file):
                    if (batch := next(batches, None)) is None:
                        break
                    columns = [_as_floats(batch.column(place)) for place in range(len(asked))]
                file.check()
                rows = np.stack(columns[: len(self.columns)], axis=1, dtype=self.dtype)
                first += len(rows)
                yield (rows, columns[-1]) if self.weights else rows
            file.check()

    @contextmanager
    def _reading(self, file: Watched) -> Iterator[None]:
        """Errors within name the file. ValueError for what is no Parquet, or is another file than before."""
        try:
            yield
        except self.errors as error:
            file.check()  # if it has changed, that is why
            told = f"{file.path} cannot be read as Parquet: {error}."
            raise (type(error)(told) if isinstance(error, PermissionError) else ValueError(told)) from None

    def _same_columns(self, schemas: list[Any], is_whole: bool, besides: set[str]) -> None:
        """ValueError that names the file and the column where files do not fit the first; where columns were not chosen
        (is_whole), none may have others."""
        import pyarrow

        first = self.files[0].path
        for file, schema in zip(self.files, schemas, strict=True):
            asked = self.columns + self.weights
            missing = [name for name in asked if name not in schema.names]
            if missing:
                raise ValueError(f"{file.path}: column {_listed(missing)} is missing, which {first} has.")
            hidden = {*_of_index(schema), *besides}
            extra = [name for name in schema.names if name not in asked and name not in hidden] if is_whole else []
            if extra:
                raise ValueError(
                    f"{file.path}: column {_listed(extra)} is there, which {first} has not. Choose with columns=."
                )
            for name in asked:
                if schema.names.count(name) > 1:
                    raise ValueError(f"{file.path}: column {name!r} is there twice. Rename one.")
                kind = schema.field(name).type
                if not _is_numeric(pyarrow.types, kind):
                    raise ValueError(
                        f"{file.path}: column {name!r} holds {kind}, not numbers. Leave it out with columns=."
                    )


def _files_in(folder: str) -> list[str]:
    """The Parquet files in a folder and those within, in the order of their paths; all files where none has an ending
    of Parquet's, as Hive writes them. Names that begin with a dot or an underscore are others' notes.

    ValueError where there is none.
    """
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] not in "._"]
        found += [os.path.join(here, name) for name in files if name[0] not in "._"]
    named = [path for path in found if ending(path) in ENDINGS]
    bare = [path for path in found if not ending(path)]
    if not named and not bare:
        inside = f"It holds {os.path.basename(min(found))!r}." if found else "It is empty."
        raise ValueError(
            f"{folder} is a folder, and no Parquet file is in it. {inside} Files of another kind are taken as a "
            "list of their paths."
        )
    return sorted(named or bare)


def _with(schema: Any, fields: list[Any]) -> Any:
    for field in fields:
        schema = schema if field.name in schema.names else schema.append(field)
    return schema


def _chosen(path: str, schema: Any, columns: Sequence[str] | None, weights: str) -> list[str]:
    """The names of the columns that are features."""
    names = schema.names
    listed = ", ".join(map(repr, names))
    asked = names if columns is None else [columns] if isinstance(columns, str) else list(columns)
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
    """A column as it is where it holds floats, and as float64 where it does not."""
    is_floating = str(column.type) in ("halffloat", "float", "double")
    return (column if is_floating else column.cast("float64", safe=False)).to_numpy(zero_copy_only=False)

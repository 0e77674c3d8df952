"""The names of the columns of a user's data."""

from __future__ import annotations

from typing import Any

from .rows import Rows


def names_of(x: Any, rows: Rows) -> tuple[str, ...] | None:
    """The names of the features, where the source has a text for each of them: a data frame, a Parquet file; else None.

    x: what the user gave. rows: what became of it.
    """
    blocks = getattr(rows, "blocks", None)
    for source in (x, getattr(blocks, "source", None)):
        names = getattr(source, "columns", None)
        if names is None or isinstance(source, (str, bytes)):
            continue
        names = tuple(names)
        if len(names) == rows.n_features and all(isinstance(name, str) for name in names):
            return names
    return None

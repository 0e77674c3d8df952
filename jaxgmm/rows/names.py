"""Names of columns: tables are matched by them, whatever the order in which columns stand."""

from __future__ import annotations

from typing import Any

import numpy as np

Names = tuple[Any, ...]


def names_of(table: Any) -> Names | None:
    """The names of the columns of a data frame or Arrow table; None for what has none."""
    names = getattr(table, "column_names", None)  # of Arrow, whose `columns` are the columns themselves
    if names is None:
        names = getattr(table, "columns", None)
    if names is None or callable(names):
        return None
    return tuple(names)


def in_order(rows: np.ndarray, names: Names | None, like: Names | None, where: str, of_first: str) -> np.ndarray:
    """Rows (n, D) with columns of these names, in the order of `like`. ValueError, which begins with `where` and names
    the columns, where the names are others. of_first: who has the names `like`."""
    if names == like:
        return rows
    if names is None or like is None:
        has, lacks = (where, of_first) if like is None else (of_first, where)
        raise ValueError(
            f"{where}: the columns of {has} have names, {_listed(names or like)}, and those of {lacks} have none. Give "
            "all of them as data frames, or all as arrays."
        )
    missing, extra = [name for name in like if name not in names], [name for name in names if name not in like]
    if missing or extra:
        said = f"column {_listed(missing)} is missing" if missing else ""
        said += " and " if missing and extra else ""
        said += f"column {_listed(extra)} is there, which {of_first} has not" if extra else ""
        raise ValueError(f"{where}: {said}. Expected {_listed(like)}, in any order.")
    for name in names:
        if names.count(name) > 1 or like.count(name) > 1:
            raise ValueError(
                f"{where}: column {name!r} is there twice, so columns cannot be told apart by name. Rename one."
            )
    return rows[:, [names.index(name) for name in like]]


def _listed(names: Any) -> str:
    shown = [repr(name) for name in names[:12]]
    return ", ".join(shown) + (f" … ({len(names)} in all)" if len(names) > 12 else "")


def text_names(x: Any, rows: Any) -> tuple[str, ...] | None:
    """The names of the features, where there is a text for each of them; else None.

    x: what the user gave. rows: what became of it, which knows the names of files.
    """
    blocks = getattr(rows, "blocks", None)
    for names in (names_of(x), None if blocks is None else blocks.known_names):
        if names is not None and len(names) == rows.n_features and all(isinstance(name, str) for name in names):
            return names
    return None

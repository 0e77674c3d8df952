"""What a reader gives, and how columns of it are chosen."""

from __future__ import annotations

import csv
import io
import operator
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

NAMED_SIGNS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "space": " ", "bar": "|"}
"""Words that stand for signs."""


class Reading(NamedTuple):
    """What a user says about a file of text; None is guessed from its first lines."""

    header: bool | None = None  # whether the first line has the names of the columns
    separator: str | None = None  # of cells: one character; a space stands for any number of spaces and tabs
    decimal: str | None = None  # "." or ","
    encoding: str | None = None


def reading(
    header: bool | None = None, separator: str | None = None, decimal: str | None = None, encoding: str | None = None
) -> Reading:
    """What a user says, checked. ValueError for what is no sign."""
    separator = NAMED_SIGNS.get(separator or "", separator)
    decimal = {"comma": ",", "point": "."}.get(decimal or "", decimal)
    if separator is not None and (len(separator) != 1 or separator in '"\r\n' or separator.isalnum()):
        raise ValueError(f"separator must be one character, or one of {', '.join(NAMED_SIGNS)}, got {separator!r}.")
    if decimal not in (None, ".", ","):
        raise ValueError(f"decimal must be a point or a comma, got {decimal!r}.")
    return Reading(header, separator, decimal, encoding)


class Source(Protocol):
    """A file that is open for reading, as often as it can be."""

    path: str
    names: tuple[str, ...]  # of all columns, as they stand
    is_named: bool  # False where the file has no names: they are then the positions, from 0
    notes: tuple[str, ...]  # what was recognised and changes which numbers are read, a few words each
    missing: tuple[int, int, str] | None  # of a missing cell in this pass, the first: its row, its place, what is there

    def again(self) -> Source:
        """The file as it is now, opened as this was."""
        ...

    def features(self) -> list[int]:
        """The places of the columns that are taken where none are chosen. ValueError where that cannot be told."""
        ...

    def check(self, places: Sequence[int]) -> None:
        """ValueError for a column of which it is known, before it is read, that it holds no numbers."""
        ...

    def blocks(self, places: Sequence[int], weight: int | None = None) -> Iterator[Any]:
        """The columns at these places, some rows (n, D) at a time, or pairs of rows and weights (n,).

        NaN where a cell is missing. ValueError, with the path and the place, for what is no number.
        """
        ...


class Chosen:
    """Some columns of a source, and weights, as blocks that are read anew each time that this is iterated over."""

    unit = "block"

    def __init__(self, source: Source, columns: Sequence[str | int] | None = None, weights: str = "") -> None:
        self.source = source
        self._asked = columns, weights
        self.weight = positions([weights], source.names, source.path)[0] if weights else None
        if columns is None:
            places = source.features()
        else:
            places = positions(columns, source.names, source.path) if len(columns) else []
        self.places = [place for place in places if place != self.weight]
        if not self.places:
            raise ValueError(
                f"{source.path}: no column is left as a feature. It has {listed(source.names)}. Choose some with "
                "columns=."
            )
        source.check(self.places if self.weight is None else [*self.places, self.weight])

    @property
    def name(self) -> str:
        return self.source.path

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the chosen columns (D,); None where the file has none."""
        return tuple(self.source.names[place] for place in self.places) if self.source.is_named else None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.notes

    def again(self) -> Chosen:
        """The same columns for another fit, from the file as it is now."""
        return Chosen(self.source.again(), *self._asked)

    def __iter__(self) -> Iterator[Any]:
        return self.source.blocks(self.places, self.weight)


def positions(columns: Sequence[str | int], names: Sequence[str], path: str) -> list[int]:
    """Positions of the chosen columns, or of a single one. A string is a name or, if no column has that name, a
    position from 0."""
    found: list[int] = []
    for column in [columns] if isinstance(columns, str) else columns:
        if isinstance(column, str) and names.count(column) > 1:
            raise ValueError(
                f"{path} has {names.count(column)} columns called {column!r}: choose one by its position, from 0."
            )
        if isinstance(column, str) and column in names:
            place = names.index(column)
        elif isinstance(column, str):
            place = int(column) if column.isdecimal() and len(column) < 10 else -1
        else:
            place = _position(column)
        if not 0 <= place < len(names):
            raise ValueError(
                f"{path} has no column {column!r}. It has {listed(names)} (or give a position from 0 to "
                f"{len(names) - 1})."
            )
        if place in found:
            raise ValueError(f"Column {names[place]!r} of {path} is chosen twice.")
        found.append(place)
    if not found:
        raise ValueError(f"No column of {path} is chosen. It has {listed(names)}.")
    return found


def _position(column: Any) -> int:
    """A whole number, of Python or NumPy. TypeError for what is neither that nor a name."""
    try:
        if not isinstance(column, (bool, np.bool_)):
            return operator.index(column)
    except TypeError:
        pass
    raise TypeError(f"columns must be names or positions from 0, got {column!r} of type {type(column).__name__}.")


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Names for a message, cut short where they are many or long."""
    few = [repr(name if len(name) <= 60 else name[:57] + "…") for name in names[:limit]]
    return ", ".join(few) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def as_arguments(names: Sequence[str]) -> str:
    """Names as `--columns` takes them, and as a shell does; cut short where they are many."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names if len(names) <= 12 else names[:3])
    return shlex.quote(text.getvalue()) if len(names) <= 12 else text.getvalue() + ",…"


def leave_out(texts: Sequence[int], places: Sequence[int], names: Sequence[str], begin: str = "Leave it out") -> str:
    """What to do about columns that hold no numbers: `texts`, some of the `places` that were read."""
    others = [place for place in places if place not in texts and names[place]]
    if not others:
        return "Numbers are needed."
    # By position where a name would not do.
    asked = [names[place] if names.count(names[place]) == 1 else str(place) for place in others]
    more = listed([names[place] for place in texts[1:]])
    too = f", and {more} too" if more else ""
    return f"{begin}{too}: --columns {as_arguments(asked)} (in Python columns=)."

"""Text in columns, such as CSV, read some rows at a time."""

from __future__ import annotations

import codecs
import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any, BinaryIO

import numpy as np

from ..files import Watched
from .cells import DECORATION, WITH_COMMA, is_text, number
from .form import SEPARATORS, Form, cells_of, form_of, named
from .opening import Opened, encoding_of, faults_of, is_pipe, opened
from .source import Reading, leave_out

AT_ONCE = 2**16
"""Cells that are read at a time."""


class Text:
    """A file of text whose form is told from its first lines, as far as it is not given."""

    def __init__(self, path: str, reading: Reading = Reading(), file: BinaryIO | None = None) -> None:  # noqa: B008
        self.path, self._reading = path, reading
        self._is_once = file is not None or is_pipe(path)
        self._opened: Opened | None = opened(path, file)
        self._watched = None if self._is_once else Watched(path)
        with faults_of(path), contextlib.ExitStack() as stack:
            stack.callback(self._opened.close)
            self._encoding, note = encoding_of(self._opened, reading.encoding, path)
            head = _head(self._opened, self._encoding)
            if "\0" in head:
                raise ValueError(f"{path} holds zero characters: it is no text in {self._encoding}. Give --encoding.")
            self._form: Form = form_of(head, self._opened.is_whole, reading, path)
            if self._is_once:
                stack.pop_all()
            else:
                stack.close()
                self._opened = None
        self.names, self.is_named = self._form.names, self._form.is_named
        self.notes = (*self._form.notes, *([note] if note else []))
        self.missing: tuple[int, int, str] | None = None

    def again(self) -> Text:
        return Text(self.path, self._reading)

    def features(self) -> list[int]:
        for place in self._form.features:
            if not self.names[place]:
                raise ValueError(
                    f"{self.path}: column {place} has no name, like an index that pandas or R has written. Give it a "
                    "name if it is data, or leave it out with --columns (in Python columns=)."
                )
        return list(self._form.features)

    def check(self, places: Sequence[int]) -> None:
        """Nothing: what cells hold is known when they are read."""

    def blocks(self, places: Sequence[int], weight: int | None = None) -> Iterator[Any]:
        asked = [place + self._form.shift for place in ([*places] if weight is None else [*places, weight])]
        if self._is_once and self._opened is None:
            raise ValueError(f"{self.path} is a pipe, which can be read only once. Write it to a file first.")
        now = self._opened or opened(self.path)
        self._opened, self.missing = None, None
        with faults_of(self.path), contextlib.closing(now):
            self._same()
            for rows in _Pass(self, now.text(self._encoding), asked).blocks():
                self._same()
                yield rows if weight is None else (rows[:, :-1], rows[:, -1])

    def _same(self) -> None:
        """ValueError where the file has changed since it was opened first."""
        if self._watched is not None:
            self._watched.check()

    def name(self, place: int) -> str:
        """The name of the column that has this place among the cells of a row."""
        return self.names[place - self._form.shift]


class _Pass:
    """One pass over the lines of a file."""

    def __init__(self, source: Text, text: Iterable[str], places: Sequence[int]) -> None:
        self.source, self.form, self.places = source, source._form, list(places)
        self.lines = iter(text)
        self.n_rows = 0  # before this block
        self.n_lines = self.form.n_before  # before this block
        self.held: list[str] = []  # the lines of this block
        self.has_underscores = False
        self.n_blank = 0  # rows without any content, which count if others come after them

    def blocks(self) -> Iterator[np.ndarray]:
        form = self.form
        for _ in range(form.n_before):
            next(self.lines, None)
        rows = cells_of(self._fed(), form.separator)
        if form.has_header:
            next(filter(any, rows), [])
        self._next_block()
        at_once = max(1, AT_ONCE // form.n_cells)
        pick = itemgetter(*self.places) if len(self.places) > 1 else lambda row: (row[self.places[0]],)
        while some := list(islice(rows, at_once)):
            block = self._fast(some, pick)
            yield self._slow() if block is None else block
            self._next_block()

    def _fed(self) -> Iterator[str]:
        for line in self.lines:
            self.held.append(line)
            if "_" in line:
                self.has_underscores = True
            yield line

    def _next_block(self) -> None:
        self.n_lines += len(self.held)
        self.held.clear()
        self.has_underscores = False

    def _fast(self, rows: list[list[str]], pick: Any) -> np.ndarray | None:
        """A block in which all is in order; None where a closer look is needed."""
        if self.has_underscores or self.n_blank or set(map(len, rows)) != {self.form.n_cells}:
            return None
        cells, n_cells = chain.from_iterable(map(pick, rows)), len(rows) * len(self.places)
        if self.form.decimal == ",":
            text = "\0".join(cells)
            if "." in text:
                return None
            cells = text.replace(",", ".").split("\0")
            if len(cells) != n_cells:
                return None
        try:
            values = np.fromiter(map(float, cells), np.float64, n_cells)
        except ValueError:
            return None
        if np.isnan(values).any():
            return None  # which notes where
        self.n_rows += len(rows)
        return values.reshape(len(rows), len(self.places))

    def _slow(self) -> np.ndarray:
        """A block, cell by cell: missing cells, booleans, blank lines, and errors with their place."""
        values: list[float] = []
        for line, row in self._numbered():
            if not any(map(str.strip, row)):
                self.n_blank += len(row) > 1
                continue
            for _ in range(self.n_blank):
                self._note_missing(self.places[0], "")
                self.n_rows += 1
                values += [math.nan] * len(self.places)
            self.n_blank = 0
            if len(row) != self.form.n_cells:
                raise ValueError(self._ragged(line, row))
            for place in self.places:
                value = number(row[place], self.form.decimal)
                if value is None:
                    raise ValueError(self._no_number(place, row))
                if value != value:
                    self._note_missing(place, row[place].strip())
                values.append(value)
            self.n_rows += 1
        return np.array(values, np.float64).reshape(-1, len(self.places))

    def _note_missing(self, place: int, text: str) -> None:
        if self.source.missing is None:
            self.source.missing = self.n_rows, place - self.form.shift, repr(text) if text else "empty"

    def _numbered(self) -> Iterator[tuple[int, list[str]]]:
        """The rows of the block, and the line on which each begins."""
        rows = cells_of(self.held, self.form.separator)
        if self.form.separator == " ":
            yield from enumerate(rows, self.n_lines + 1)
            return
        before = 0
        for row in rows:
            yield self.n_lines + before + 1, row
            before = rows.line_num  # pyright: ignore

    def _ragged(self, line: int, row: list[str]) -> str:
        form = self.form
        hint = ""
        if any("\n" in cell or "\r" in cell for cell in row):
            hint = " Is a quote not closed there?"
        elif form.n_cells == 1 or len(row) == 1:
            hint = f" Are cells separated by {named(form.separator)}? --separator says another sign."
        expected = f"{form.n_cells}{' as the header' if form.is_named and form.n_cells == len(form.names) else ''}"
        return (
            f"{self.source.path}, line {line}: data row {self.n_rows + 1} has {len(row)} "
            f"cell{'s' if len(row) != 1 else ''}, expected {expected}." + hint
        )

    def _no_number(self, place: int, row: list[str]) -> str:
        name, text = self.source.name(place), row[place].strip()
        shown = text if len(text) <= 60 else text[:57] + "…"
        said = f"{self.source.path}: column {name!r} holds text, in data row {self.n_rows + 1} {shown!r}. "
        if WITH_COMMA.fullmatch(text) and self.form.decimal == ".":
            return said + "If that is a decimal comma, add --decimal , (in Python decimal=',')."
        parts = [what for sign, what in SEPARATORS.items() if sign in text and sign != self.form.separator]
        if self.form.n_cells == 1 and parts:
            return said + f"If cells are separated by {parts[0]}, say so with --separator."
        plain = DECORATION.sub("", text)
        if plain != text and number(plain, self.form.decimal) is not None and any(map(str.isdigit, plain)):
            return said + f"Write such numbers without signs for thousands, percent or a currency, as {plain}."
        if self.form.decimal == "," and "." in text:
            return said + "The other numbers have decimal commas: --decimal says which it is."
        shift, decimal = self.form.shift, self.form.decimal
        texts = [other - shift for other in self.places if is_text(row[other], decimal)]
        places, names = [other - shift for other in self.places], self.source.names
        if self.n_rows and len(texts) == 1:  # below numbers
            said += "Drop or fill such rows if it marks a missing cell. "
            return said + leave_out(texts, places, names, "Or leave the column out")
        return said + leave_out(texts, places, names)


def _head(opened: Opened, encoding: str) -> str:
    """The first characters; an incomplete one at the end of the bytes is left out."""
    return codecs.getincrementaldecoder(encoding)("replace").decode(opened.head, opened.is_whole)

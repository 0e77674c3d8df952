"""The form of a table of text, told from its first lines: separator, decimal sign, header, row names."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .cells import decimal_of, is_number, is_text, is_whole, number
from .header import is_header
from .source import Reading, listed

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "spaces"}
"""Those that are tried; of equals, the first."""

ROWS, CELLS = 100, 20_000
"""Rows that are looked at, at most, and cells of them."""

OF_ROWS = ("rownames", "row.names", "index")
"""Names of columns, in lower case, that number or name the rows where their cells do."""

_UNNAMED = re.compile(r"unnamed: \d+(\.\d+)?", re.IGNORECASE)
"""What pandas calls a column without a name, as that of an index which was written and read back as a column."""

_PIECES = re.compile(r'"((?:[^"]|"")*)"(?!\S)|(\S+)')

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


class Form(NamedTuple):
    """How to read the rows of a table."""

    separator: str
    decimal: str
    names: tuple[str, ...]  # of the columns; of those without a header, their positions
    is_named: bool
    features: tuple[int, ...]  # places among `names`
    n_before: int  # lines before the header, or before the rows
    has_header: bool  # as a line of its own, after those
    shift: int  # 1 where rows begin with a name for which the header has no cell
    n_cells: int  # of a row
    notes: tuple[str, ...]


def cells_of(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """The cells of each row; none of a blank line."""
    if separator == " ":
        return map(_by_spaces, lines)
    return csv.reader(lines, delimiter=separator, skipinitialspace=separator != "\t")


def _by_spaces(line: str) -> list[str]:
    if '"' not in line:
        return line.split()
    return [found[1].replace('""', '"') if found[2] is None else found[2] for found in _PIECES.finditer(line)]


def named(separator: str) -> str:
    """What a separator is called."""
    return SEPARATORS.get(separator, repr(separator))


def form_of(head: str, is_whole_file: bool, reading: Reading, path: str) -> Form:
    """ValueError, with the path, for a file that has no rows, or whose first line might be either names or a row."""
    lines = list(io.StringIO(head, newline=""))
    if not is_whole_file and len(lines) > 1:
        lines.pop()
    n_before, comment, told = _before(lines)
    lines = lines[n_before:]
    if not lines and not comment:
        raise ValueError(f"{path} is empty.")
    separator = reading.separator or told or _separator(lines, reading.decimal, ".tsv" in path.lower())
    rows = _some_rows(lines, separator, is_whole_file)
    cells = [cell for row in rows[1:] or rows for cell in row]
    decimal = reading.decimal or ("." if separator == "," else decimal_of(cells))
    notes = [f"separated by {named(separator)}"] if separator != "," else []
    if decimal == ",":
        notes.append("decimal commas")

    above = _names_in(comment, rows, separator, decimal) if reading.header is None else None
    if above is not None:
        notes.append("names from the comment above the rows")
    names, body = (above, rows) if above is not None else (rows[0] if rows else [], rows[1:])
    n_cells = _most(body) or len(names)
    if len(names) == n_cells + 1 and not names[-1]:
        names = names[:-1]  # a separator at the end of the header alone
    ends_empty = len(body) > 0 and all(len(row) == n_cells and not row[-1] for row in body)
    has_row_names = body and len(names) == n_cells - 1 and not ends_empty
    has_names = reading.header if above is None else True
    if has_names is None:
        has_names = _has_names(names, body, n_cells, decimal, _are_quoted(lines))
    if has_names is None:
        raise ValueError(
            f"{path}: its first line, {listed(names, 4)}, may have names of columns or be a row of data. Say which "
            "with --header or --no-header (in Python header=True or False)."
        )
    if not has_names:
        places = tuple(map(str, range(n_cells)))
        notes.append("no header")
        if len(places) > 1 and len(rows) > 2 and _counts(rows):
            notes.append("column 0 counts the rows: if it is an index, leave it out with --columns")
        return Form(separator, decimal, places, False, tuple(range(n_cells)), n_before, False, 0, n_cells, tuple(notes))

    names = [name.lstrip("\ufeff").strip() for name in names]
    features = list(range(len(names)))
    if names and all(is_number(name) for name in names if name):
        notes.append("a header of numbers")
    if has_row_names:
        _require_row_names(body, names, n_cells, separator, decimal, _begin_quoted(lines), path)
        notes.append("row names left out, for which the header has no cell")
    elif body:
        for place in _of_rows(names, body, decimal):
            notes.append(f"{f'row names, {names[place]!r},' if names[place] else 'an index without a name'} left out")
            features.remove(place)
    if ends_empty and len(names) == n_cells > 1 and not names[-1]:
        features.pop()  # a separator at the end of every line
    if not (has_row_names or ends_empty):
        n_cells = len(names)  # rows of another length are refused
    has_header, shift = above is None, int(bool(has_row_names))
    return Form(
        separator, decimal, tuple(names), True, tuple(features), n_before, has_header, shift, n_cells, tuple(notes)
    )


def _before(lines: Sequence[str]) -> tuple[int, str, str | None]:
    """The number of lines before the table: blank ones, comments, and Excel's `sep=;`; the last comment; that sign."""
    comment, told = "", None
    for n_before, line in enumerate(lines):
        found = None if n_before else _SEPARATOR_LINE.fullmatch(line.lstrip("\ufeff").rstrip("\r\n"))
        if found:
            told = found[1]
        elif line.lstrip("\ufeff").startswith("#"):
            comment = line.lstrip("\ufeff#").strip() or comment
        elif line.strip(",;\t| \r\n\ufeff"):
            return n_before, comment, told
    return len(lines), comment, told


def _separator(lines: Sequence[str], decimal: str | None, has_tabs: bool) -> str:
    """The separator that parts the first rows into equally many cells, the most of them numbers."""
    best, found = (0.0, 0.0), "\t" if has_tabs else ","
    for separator in SEPARATORS:
        rows = _some_rows(lines, separator, True)
        body = rows[1:] or rows
        n_cells = _most(body)
        if n_cells < 2:
            continue
        like = [row for row in body if len(row) == n_cells]
        cells = [cell for row in like for cell in row]
        sign = decimal or ("." if separator == "," else decimal_of(cells))
        fits = len(like) / len(body)
        if not -1 <= len(rows[0]) - n_cells <= 1:
            fits /= 2
        share = sum(number(cell, sign) is not None for cell in cells) / len(cells)
        score = round(share * fits, 2), fits
        if score > best:
            best, found = score, separator
    return found


def _some_rows(lines: Sequence[str], separator: str, is_whole_file: bool) -> list[list[str]]:
    """The first rows, their cells stripped, without blank ones and without one that may be cut off."""
    rows: list[list[str]] = []
    n_cells = 0
    try:
        for row in cells_of(lines, separator):
            if any(map(str.strip, row)):
                rows.append([cell.strip() for cell in row])
                n_cells += len(row)
            if len(rows) > ROWS or (n_cells > CELLS and len(rows) > 5):
                return rows
    except csv.Error:
        return rows  # which is said, with its place, when that row is read
    return rows if is_whole_file or len(rows) < 3 else rows[:-1]


def _most(rows: Sequence[Sequence[str]]) -> int:
    """The number of cells that most rows have; 0 where there are no rows."""
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _names_in(comment: str, rows: list[list[str]], separator: str, decimal: str) -> list[str] | None:
    """The names in a comment above rows without a header, as `numpy.savetxt` writes them; None where it has none."""
    names = [cell.strip() for cell in next(cells_of([comment], separator), [])] if comment else []
    n_cells = _most(rows) or len(names)
    if len(names) != n_cells or all(is_number(name, decimal) for name in names):
        return None
    like = [row for row in rows[1:] if len(row) == n_cells]
    if rows and len(rows[0]) == n_cells and is_header(rows[0], like, decimal):
        return None
    return names


def _has_names(names: list[str], body: list[list[str]], n_cells: int, decimal: str, are_quoted: bool) -> bool | None:
    """Whether the first line has names of columns; None where it might be a row as well."""
    if are_quoted and body:
        return True
    if len(names) == n_cells:
        return is_header(names, [row for row in body if len(row) == n_cells], decimal)
    if len(names) == n_cells - 1:  # R's row names, below names that may be numbers
        return all(is_text(name, decimal) or is_whole(name) for name in names)
    return not any(is_number(name, decimal) for name in names)


def _are_quoted(lines: Sequence[str]) -> bool:
    """Whether quotes are on all cells of the first line, and on none of the second."""
    if len(lines) < 2 or '"' in lines[1]:
        return False
    return re.fullmatch(r'("[^"]*"[,;\t| ]?)+', lines[0].strip()) is not None


def _begin_quoted(lines: Sequence[str]) -> bool:
    """Whether quotes are on the first cell of all lines but the first, as on R's row names."""
    rest = [line for line in lines[1:] if line.strip()]
    return bool(rest) and all(line.lstrip().startswith('"') for line in rest)


def _counts(rows: Sequence[Sequence[str]], place: int = 0) -> bool:
    """Whether a column counts the rows, from 0 or 1."""
    cells = [row[place] for row in rows]
    return any(cells == [str(start + i) for i in range(len(cells))] for start in (0, 1))


def _of_rows(names: Sequence[str], rows: Sequence[Sequence[str]], decimal: str) -> list[int]:
    """The first columns that number or name the rows, but for the last column of all."""
    found: list[int] = []
    for place in range(len(names) - 1):
        whole = [row for row in rows if len(row) > place]
        if (place and not _UNNAMED.fullmatch(names[place])) or not _names_rows(names[place], whole, place, decimal):
            break
        found.append(place)
    return found


def _names_rows(name: str, rows: Sequence[Sequence[str]], place: int, decimal: str) -> bool:
    """Whether a column numbers or names the rows, as indices of pandas and row names of R do."""
    cells = [row[place] for row in rows]
    are_texts = all(is_text(cell, decimal) for cell in cells)
    if _UNNAMED.fullmatch(name):  # rows of an index may have been left out, or tables been joined
        return are_texts or all(map(is_whole, cells))
    if not name:
        return (are_texts or all(map(is_whole, cells))) and len(set(cells)) == len(cells)
    return name.lower() in OF_ROWS and (_counts(rows, place) or (are_texts and len(set(cells)) == len(cells)))


def _require_row_names(
    rows: Sequence[Sequence[str]],
    names: Sequence[str],
    n_cells: int,
    separator: str,
    decimal: str,
    are_quoted: bool,
    path: str,
) -> None:
    """Row names are all different, and quoted, or texts, or count the rows: else the header, or the separator, is not
    what it seems. Between commas whole numbers may be those before decimal commas, elsewhere they number rows."""
    like = [row for row in rows if len(row) == n_cells]
    cells = [row[0] for row in like]
    reason = "since they repeat" if len(set(cells)) < len(cells) else ""
    if not (reason or are_quoted or _counts(like) or all(is_text(cell, decimal) for cell in cells)):
        if separator == "," or not all(map(is_whole, cells)):
            reason = f"but numbers, such as {listed(cells, 2)}"
    if reason:
        raise ValueError(
            f"{path}: the header has {len(names)} cell{'' if len(names) == 1 else 's'} and the rows have {n_cells}, "
            f"the first of which are no row names, {reason}. Mend the header, or take away a title above it, or say "
            f"what separates cells, now {named(separator)}, with --separator, and what decimals, with --decimal."
        )

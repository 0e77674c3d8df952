"""Whether the first line of a table has the names of its columns: told by comparing it with the rows below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .cells import is_missing, is_number, is_text, is_whole, number

DIGITS = 3
"""Decimal digits of the rows below from which a first line of whole numbers is no row: the chance that as many are all
zero, and not written, is 10^-DIGITS."""


def is_header(first: Sequence[str], rows: Sequence[Sequence[str]], decimal: str) -> bool | None:
    """Whether the first of some lines is a header; None where it might be a row as well.

    It is one where it has text above numbers, or where its numbers are such as number columns (0, 1, 2; years;
    wavelengths) and the rows below are not like it.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(first)
    numeric = [d for d, column in enumerate(columns) if _holds_numbers(column, decimal)]
    if not numeric:
        has_number = any(is_number(cell, decimal) for cell in first)
        return not has_number and any(is_text(cell, decimal) for cell in first)
    cells = [first[d] for d in numeric]
    others = [cell for cell in cells if is_number(cell, decimal)]
    if any(is_text(cell, decimal) for cell in cells):
        if all(is_whole(cell) for cell in others):
            return True
        places = [d for d in numeric if is_number(first[d], decimal)]
        below = [[row[d] for d in places] for row in rows]
        return _are_names(others, below, decimal) or None
    # An index has no name above it; a missing cell elsewhere is one of a row.
    is_unnamed = numeric[0] == 0 and not cells[0] and not any(is_missing(row[0], decimal) for row in rows)
    if is_unnamed and len(others) == len(cells) - 1:
        if not others:
            return None
        are_whole = all(map(is_whole, others))
        return True if are_whole and len(set(others)) == len(others) else None
    if len(others) < len(cells) or len(set(cells)) < len(cells):
        return False
    below = [[row[d] for d in numeric] for row in rows]
    if cells in below:
        return False
    return _are_names(cells, below, decimal)


def _holds_numbers(column: Sequence[str], decimal: str) -> bool:
    return any(is_number(cell, decimal) for cell in column) and not any(is_text(cell, decimal) for cell in column)


def _are_names(cells: list[str], rows: list[list[str]], decimal: str) -> bool | None:
    """Whether different numbers are names of columns, above rows of numbers and missing cells."""
    values = [_value(cell, decimal) for cell in cells]
    below = [[_value(cell, decimal) for cell in row] for row in rows]
    n = len(cells)
    is_even = _is_even(values) and not any(map(_is_even, below))
    is_ordered = _is_ordered(values) and len(below) >= 3 and not any(map(_is_ordered, below))
    if not all(is_whole(cell) for cell in cells):
        if is_ordered and (n >= 6 or (n >= 4 and is_even)):
            return True
        return None if n >= 4 and (is_even or is_ordered) else False
    digits = sum(_digits(column) for column in zip(*rows, strict=True))
    if digits >= DIGITS:
        return True
    counts = values == list(range(n)) or values == list(range(1, n + 1))
    if is_even and n >= 3 and (counts or n >= 4 or _is_apart(values, below)):
        return True
    if is_ordered and n >= 6:
        return True
    if digits:
        return None
    return None if is_even and (counts or _is_apart(values, below)) else False


def _value(cell: str, decimal: str) -> float:
    value = number(cell, decimal)
    return float("nan") if value is None else value


def _digits(column: Sequence[str]) -> int:
    """Decimal digits of a column: none where some cell is a whole number or has an exponent."""
    found = []
    for cell in column:
        _, _, fraction = cell.replace(",", ".").partition(".")
        if fraction.isdecimal():
            found.append(len(fraction))
        elif cell and is_whole(cell):
            return 0
    return sorted(found)[len(found) // 2] if found else 0


def _is_even(values: Sequence[float]) -> bool:
    """Whether numbers have equal steps; of two whether the step is 1, of a single one whether it is 0."""
    if len(values) < 3:
        return values[-1] - values[0] == 1.0 if len(values) == 2 else values[0] == 0.0
    step = values[1] - values[0]
    size = max(map(abs, values))
    return step != 0.0 and all(abs(b - a - step) <= 1e-9 * size for a, b in pairwise(values[1:]))


def _is_ordered(values: Sequence[float]) -> bool:
    pairs = list(pairwise(values))
    return len(pairs) > 0 and (all(a < b for a, b in pairs) or all(a > b for a, b in pairs))


def _is_apart(values: Sequence[float], rows: Sequence[Sequence[float]]) -> bool:
    """Whether each number lies outside the range of the column below it."""
    columns = [[v for v in column if v == v] for column in zip(*rows, strict=True)]
    return all(
        not column or value < min(column) or value > max(column) for value, column in zip(values, columns, strict=True)
    )

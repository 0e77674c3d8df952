"""Whether the first line of a table has the names of its columns: told by comparing it with the rows below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from .cells import is_missing, is_number, is_text, is_whole, number

PRIOR = 0.05
"""How many first lines of numbers are names, as odds."""

SURE, DOUBTFUL = 20.0, 1.0
"""Odds from which a first line of numbers is a header, and from which it might be one."""


TINY = 1e-300

FREE = {"counts": 0, "ones": 1, "even": 2}
"""Patterns in which all numbers follow from the first few."""


def is_header(first: Sequence[str], rows: Sequence[Sequence[str]], decimal: str) -> bool | None:
    """Whether the first of some lines is a header; None where it might be a row as well.

    It is one where it has text above numbers, or where its numbers are such as number columns (0, 1, 2; years;
    wavelengths) and are hardly to be expected among the rows below.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(first)
    numeric = [d for d, column in enumerate(columns) if _holds_numbers(column, decimal)]
    if not numeric:
        has_number = any(is_number(cell, decimal) for cell in first)
        return not has_number and any(is_text(cell, decimal) for cell in first)
    cells = [first[d] for d in numeric]
    others = [d for d in numeric if is_number(first[d], decimal)]
    if any(is_text(cell, decimal) for cell in cells):
        # A row in which a number is mistyped looks so, too; but hardly if the others are no numbers of a row.
        return True if not others or _odds(first, rows, others, decimal) >= DOUBTFUL else _or_doubt(first, others)
    # An index has no name above it; a missing cell elsewhere is one of a row.
    is_unnamed = numeric[0] == 0 and not cells[0] and not any(is_missing(row[0], decimal) for row in rows)
    if is_unnamed and len(others) == len(cells) - 1:
        return True if others and _odds(first, rows, others, decimal) >= DOUBTFUL else _or_doubt(first, others)
    if len(others) < len(cells):
        return False
    odds = _odds(first, rows, numeric, decimal)
    return True if odds >= SURE else None if odds >= DOUBTFUL else False


def _or_doubt(first: Sequence[str], places: Sequence[int]) -> bool | None:
    """Whether numbers beside a name are different and whole, as names are; else there is doubt."""
    cells = [first[place] for place in places]
    return True if cells and all(map(is_whole, cells)) and len(set(cells)) == len(cells) else None


def _holds_numbers(column: Sequence[str], decimal: str) -> bool:
    return any(is_number(cell, decimal) for cell in column) and not any(is_text(cell, decimal) for cell in column)


def _odds(first: Sequence[str], rows: Sequence[Sequence[str]], places: Sequence[int], decimal: str) -> float:
    """The odds that numbers are names of columns and not a row like those below: Bayes' rule for each pattern that
    such names have, with the chance of it among rows whose cells are independent, or the share of rows that have it."""
    cells = [first[place] for place in places]
    below = [[row[place] for place in places] for row in rows]
    if len(set(cells)) < len(cells) or cells in below:
        return 0.0
    values = [_value(cell, decimal) for cell in cells]
    exact, alike = zip(
        *(_chances(*of, decimal) for of in zip(cells, zip(*below, strict=True), strict=True)), strict=True
    )
    others = [[_value(cell, decimal) for cell in row] for row in below]
    series = list(zip(values, *others[:3], strict=True))
    if any(_goes_on(column, 3) for column in series) or all(_goes_on(column, 2) for column in series):
        return 0.0  # a row of a series, whose first may be as whole as names are
    n, odds = len(cells), 0.0
    are_whole = all(map(is_whole, cells))
    # Some cell or other of a long row is rare.
    n_rare = sum(chance < 1.0 for chance in alike)
    ways = math.lgamma(n + 1) - math.lgamma(n_rare + 1) - math.lgamma(n - n_rare + 1)
    strange = math.exp(min(0.0, ways + sum(math.log(max(chance, TINY)) for chance in alike)))
    for name, share in _patterns(values, are_whole):
        if name in FREE:
            chance = math.prod(alike[: FREE[name]]) * math.prod(exact[FREE[name] :])
        else:
            chance = strange * (2.0 / math.factorial(min(n, 20)) if name == "ordered" else 1.0)
        seen = sum(name in dict(_patterns(row, are_whole)) for row in others) / len(others)
        chance = max(chance, strange * seen)
        odds = max(odds, PRIOR * share / max(chance, TINY))
    return odds


def _goes_on(column: Sequence[float], least: int) -> bool:
    """Whether numbers, the first of them the first line's, go on in at least so many equal steps."""
    steps = [b - a for a, b in pairwise(column)]
    size = 1e-6 * max(map(abs, column))
    return len(steps) >= least and steps[0] != 0.0 and all(abs(step - steps[0]) <= size for step in steps)


def _patterns(values: Sequence[float], are_whole: bool) -> Iterator[tuple[str, float]]:
    """The patterns in numbers, and the share of headers of numbers that have one."""
    n = len(values)
    steps = [b - a for a, b in pairwise(values)]
    size = 1e-9 * max(map(abs, values))
    if list(values) == list(range(n)):
        yield "counts", 0.5  # pandas' own
    elif list(values) == list(range(1, n + 1)):
        yield "counts", 0.1
    if n > 1 and all(step == 1.0 for step in steps):
        yield "ones", 0.2
    if n > 2 and steps[0] and all(abs(step - steps[0]) <= size for step in steps):
        yield "even", 0.05
    if n > 2 and (all(step > 0.0 for step in steps) or all(step < 0.0 for step in steps)):
        yield "ordered", 0.1
    yield "any", 0.02 if are_whole else 0.002


def _chances(cell: str, column: Sequence[str], decimal: str) -> tuple[float, float]:
    """The chance that a row has just this number in a column, and that it has one of its looks: whole or not, within
    the range of the others, and as much beside it, or not."""
    value, others = _value(cell, decimal), [other for other in column if is_number(other, decimal)]
    values = [_value(other, decimal) for other in others]
    n, least, span = len(values), min(values), max(values) - min(values)
    rare = 2.0 / (n + 1)
    digits = sorted(len(other.replace(",", ".").partition(".")[2]) for other in others)
    alike = 1.0
    if not least - span <= value <= least + 2.0 * span:  # a series may begin just beside it
        alike = rare
    if is_whole(cell) and not any(map(is_whole, others)):
        alike = min(alike, 10.0 ** -digits[len(digits) // 2]) if digits[0] else alike * rare
    elif not is_whole(cell) and all(map(is_whole, others)):
        alike = min(alike, rare)
    n_values = span * (n + 1) / max(n - 1, 1) * 10.0 ** min(digits[-1], 15) + 1.0
    return min(alike, max(values.count(value) / n, 1.0 / n_values)), alike


def _value(cell: str, decimal: str) -> float:
    value = number(cell, decimal)
    return math.nan if value is None else value

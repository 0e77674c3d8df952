"""One cell of a file of text: a number, missing, or text."""

from __future__ import annotations

import math
import re

MISSING = frozenset(
    "na n/a n.a. nan -nan null none nil nat missing ? . - -- <na> <nan> <null> \\n #n/a #na #n/a!"
    " #div/0! #num! #value! #ref! #name? #null! 1.#ind -1.#ind 1.#qnan -1.#qnan".split()
) | {""}
"""Texts that mark a missing cell, in upper or lower case: of R, pandas, SAS, databases and spreadsheets."""

BOOLEANS = {"true": 1.0, "false": 0.0}

WITH_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)

WITH_POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)

DECORATION = re.compile(r"(?<=\d)[,'’_\s](?=\d{3})|\s*[$€£¥%]\s*")
"""What stands in a number but is no part of it: signs for thousands, percent and currencies."""

_WHOLE = re.compile(r"[+-]?\d+")


def number(text: str, decimal: str = ".") -> float | None:
    """The number that a cell holds, NaN where it is missing, None where it is text."""
    text = text.strip()
    if "_" not in text:  # Python reads 1_000, no one else does
        plain = text.replace("\N{MINUS SIGN}", "-")
        if decimal == ",":
            plain = plain.replace(",", ".") if "." not in plain else "text"
        try:
            return float(plain)
        except ValueError:
            pass
    lower = text.lower()
    return BOOLEANS.get(lower, math.nan if lower in MISSING else None)


def is_whole(text: str) -> bool:
    """Whether a cell is a whole number, written as one."""
    return _WHOLE.fullmatch(text) is not None


def is_missing(text: str, decimal: str = ".") -> bool:
    value = number(text, decimal)
    return value is not None and math.isnan(value)


def is_number(text: str, decimal: str = ".") -> bool:
    value = number(text, decimal)
    return value is not None and not math.isnan(value)


def is_text(text: str, decimal: str = ".") -> bool:
    return number(text, decimal) is None


def decimal_of(cells: list[str]) -> str:
    """The decimal sign of cells: a comma where some need one and none has a point."""
    has_comma = any(WITH_COMMA.fullmatch(cell) for cell in cells)
    return "," if has_comma and not any(WITH_POINT.fullmatch(cell) for cell in cells) else "."

"""Quantities and tables as Markdown, and where the figures come from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from .ratios import OURS, Place, section

NONE = "–"

Columns = Mapping[str, str | Callable[[Any], Any]]
"""By header what a column shows of a measurement: a field in its unit, a format of fields, or what a function says."""


def table(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, marks, *lines])


def by_columns(cells: Iterable[dict[str, Any]], head: Columns, body: Columns, title: str = "") -> str:
    """A table with a line a measurement, under its title; nothing where there is none. Of one that is missing the first
    column of the body says why."""

    def shown(cell: dict[str, Any], of: str | Callable[[Any], Any]) -> Any:
        if callable(of):
            return of(cell)
        return of.format(**cell) if "{" in of else quantity(of, cell.get(of))

    def line(cell: dict[str, Any]) -> list[Any]:
        is_missing = cell.get("missing") and body
        reason = [f"missing: {cell['missing']}", *[NONE] * (len(body) - 1)] if is_missing else []
        return [*(shown(cell, of) for of in head.values()), *(reason or (shown(cell, of) for of in body.values()))]

    lines = list(map(line, cells))
    return paragraphs([title, table([*head, *body], lines)]) if lines else ""


def of_calls(cells: list[dict[str, Any]], more: Columns) -> tuple[Columns, Columns]:
    """Columns of a first call and later ones, both also over those of ours in the same dtype (where there is more than
    one of ours, the first)."""

    def over_ours(name: str, cell: dict[str, Any]) -> str:
        ours = [c for c in cells if (c["contender"], c["dtype"]) == (OURS, cell["dtype"]) and not c["missing"]]
        return digits(cell[name] / ours[0][name]) if ours else NONE

    body: Columns = {
        "first call": "first_call_s",
        "later calls": "second_call_s",
        "first / ours": partial(over_ours, "first_call_s"),
        "later / ours": partial(over_ours, "second_call_s"),
    }
    return {"contender": "contender", "dtype": "dtype"}, {**body, **more}


def quantity(name: str, value: Any) -> str:
    """A measured value, of repeats the median, in the unit that its field's name says."""
    if isinstance(value, dict):
        value = value["median"]
    if value is None:
        return NONE
    if name.endswith("_per_s"):
        return digits(value / 1e9, " G/s")
    if name.endswith(("_s", "seconds")):
        return duration(value)
    if name.endswith("_bytes"):
        return digits(value / 1e6, " MB")
    if name.startswith("fraction"):
        return digits(100 * value, " %")
    if name.endswith("_error"):
        return f"{value:.1e}"
    return digits(value) if isinstance(value, float) else str(value)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def paragraphs(parts: Iterable[str]) -> str:
    """Those that are not empty."""
    return "\n\n".join(part for part in parts if part)


def digits(value: float | None, unit: str = "", scale: float = 1.0) -> str:
    """`scale` times a value: three significant digits, or all before the point; a dash for None."""
    if value is None:
        return NONE
    value = scale * value
    if abs(value) < 1:
        return f"{value:.3g}{unit}"
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{places}f}{unit}"


milliseconds = partial(digits, scale=1e3)


def duration(seconds: float | None) -> str:
    """In the unit in which it reads best."""
    if seconds is None:
        return NONE
    unit, size = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if abs(seconds) >= s), ("µs", 1e-6))
    return digits(seconds / size, f" {unit}")


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def size(of: Mapping[str, Any]) -> str:
    return f"({of['n']}, {of['d']}, {of['k']})"


def provenance(place: Place) -> str:
    """One line that says where a file's figures come from."""
    result = place.result
    machine, made = result.get("machine") or {}, result.get("versions") or {}
    commit = (result.get("commit") or "unknown")[:12] + (" (dirty)" if result.get("dirty") else "")
    used = ", ".join(f"{name} {version}" for name, version in made.items() if version)
    rates = section(result, "limits").get(place.device) or {}
    kind = next((of["device_kind"] for of in rates.values() if of.get("device_kind")), None)
    accelerator = f", {kind or 'a GPU'}" if place.device != "cpu" else ""
    return (
        f"{place.label}: {machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores{accelerator}; "
        f"commit {commit}, {str(result.get('date', ''))[:10]}; {used}"
    )

"""The iteration section as Markdown: times, objectives, fits to convergence, who is missing, and the README's table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from . import ratios
from .ratios import OURS, REFERENCE, WORSE, Place, Row

NONE = "–"


def table(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, marks, *lines])


def digits(value: float | None, unit: str = "") -> str:
    """Three significant digits, or all before the point; a dash for None."""
    if value is None:
        return NONE
    if abs(value) < 1:
        return f"{value:.3g}{unit}"
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{places}f}{unit}"


def duration(seconds: float | None) -> str:
    """In the unit in which it reads best."""
    if seconds is None:
        return NONE
    unit, size = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if abs(seconds) >= s), ("µs", 1e-6))
    return digits(seconds / size, f" {unit}")


def provenance(place: Place) -> str:
    """One line that says where a file's figures come from."""
    result = place.result
    machine, made = result.get("machine") or {}, result.get("versions") or {}
    commit = (result.get("commit") or "unknown")[:12] + (" (dirty)" if result.get("dirty") else "")
    used = ", ".join(f"{name} {version}" for name, version in made.items() if version)
    rates = ratios.section(result, "limits").get(place.device) or {}
    kind = next((of["device_kind"] for of in rates.values() if of.get("device_kind")), None)
    accelerator = f", {kind or 'a GPU'}" if place.device != "cpu" else ""
    return (
        f"{place.label}: {machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores{accelerator}; "
        f"commit {commit}, {str(result.get('date', ''))[:10]}; {used}"
    )


def contenders(chosen: Iterable[Row]) -> list[str]:
    """Those that ran anywhere, ours first."""
    seen = dict.fromkeys(name for row in chosen for name in row.cells if row.seconds(name) is not None)
    return sorted(seen, key=lambda name: name != OURS)


def time_cell(row: Row, contender: str) -> str:
    """Milliseconds an iteration, with the range of the repeats."""
    if row.seconds(contender) is None:
        return NONE
    took = row.cells[contender]["seconds_per_iteration"]
    median, low, high = (digits(1e3 * took[name]) for name in ("median", "low", "high"))
    return f"{median} ({low}–{high})" + ("†" if row.is_worse(contender) else "")


def percent(fraction: float | None) -> str:
    return NONE if fraction is None else digits(100 * fraction, " %")


def versus(place: Place) -> str:
    return f"vs {REFERENCE}" + (" on the CPU" if place.device != "cpu" else "")


def iteration(place: Place) -> str:
    """All about the iteration section on one device."""
    chosen = ratios.rows(place)
    if not chosen:
        return ""
    names = contenders(chosen)
    header = ["problem", "dtype", *names, versus(place), "vs best peer", "of the floor"]
    lines = []
    for row in chosen:
        best, against = row.best_peer(), ratios.against_best(row)
        fraction = row.cells.get(OURS, {}).get("fraction_of_floor")
        beaten = NONE if against is None else f"{digits(against)} ({best})"
        own = [digits(ratios.against_reference(place, row)), beaten, percent(fraction)]
        lines.append([row.problem, row.dtype, *(time_cell(row, name) for name in names), *own])
    parts = [
        f"### Milliseconds an EM iteration, {place.label}",
        "Median, with the range of the repeats. Ratios are their time over ours: above 1, ours is faster.",
        table(header, lines),
    ]
    if any(row.is_worse(name) for row in chosen for name in names):
        parts.append(f"† its objective after the same iterations is more than {WORSE:g} nats under the reference's.")
    parts.append("\n".join(f"- {line}" for line in summary(place, chosen)))
    parts += [objectives(chosen, names), converged(place), missing(place)]
    return "\n\n".join(part for part in parts if part)


def summary(place: Place, chosen: list[Row]) -> list[str]:
    """Median and least of the ratios, a line each."""
    lines = []
    named = {REFERENCE: lambda row: ratios.against_reference(place, row), "the best peer": ratios.against_best}
    for name, ratio_of in named.items():
        found = [(ratio, row) for row in chosen if (ratio := ratio_of(row)) is not None]
        if not found:
            continue
        least, at = min(found, key=lambda pair: pair[0])
        median = statistics.median(ratio for ratio, _ in found)
        beyond = " on the CPU" if place.device != "cpu" and name == REFERENCE else ""
        lines.append(
            f"{name}'s time{beyond} over ours, {len(found)} rows: median {digits(median)}, least {digits(least)} "
            f"({at.problem}, {at.dtype})"
        )
    return lines


def objectives(chosen: list[Row], names: list[str]) -> str:
    """Differences from the reference."""

    def off(row: Row, name: str) -> str:
        value = row.off(name)
        return NONE if value is None else f"{value:+.1e}" if value else "0"

    def line(row: Row) -> list[str]:
        known = NONE if row.reference is None else f"{row.reference:.5f}"
        return [row.problem, row.dtype, known, *(off(row, name) for name in names)]

    lines = [line(row) for row in chosen]
    note = "Mean log-likelihood in nats after the same iterations, and by how much each contender differs from it."
    return f"{note}\n\n" + table(["problem", "dtype", "reference", *names], lines)


def converged(place: Place) -> str:
    """Time, iterations and objective of a fit from the same start to the same tol."""
    grouped: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for cell in ratios.section(place.result, "iteration").get("converged", []):
        if cell["device"] == place.device and not cell.get("missing"):
            grouped.setdefault((cell["problem"], cell["dtype"]), {})[cell["contender"]] = cell
    if not grouped:
        return ""
    names = list(dict.fromkeys(name for cells in grouped.values() for name in cells))

    def said(cell: dict[str, Any] | None) -> str:
        if cell is None or cell.get("seconds") is None:
            return NONE
        count = f"{'all ' if cell['iterations'] >= cell['limit'] else ''}{cell['iterations']} it."
        return f"{duration(cell['seconds'])}, {count}, {cell['objective']:.5f}"

    lines = [[*key, *(said(cells.get(name)) for name in names)] for key, cells in grouped.items()]
    note = (
        "To convergence from the same start at the same tol: time, iterations, mean log-likelihood in nats. "
        "“all”: stopped at the limit of iterations, which is low where they are slow."
    )
    return f"{note}\n\n" + table(["problem", "dtype", *names], lines)


def missing(place: Place) -> str:
    """Each missing contender with its reasons, and where each holds."""
    chosen = ratios.rows(place)
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in chosen:
        for name, cell in row.cells.items():
            if cell.get("missing"):
                reasons.setdefault((name, cell["missing"]), []).append(f"{row.problem} {row.dtype}")
    lines = []
    for (name, reason), where in reasons.items():
        held = "everywhere" if len(where) == len(chosen) else ", ".join(where)
        lines.append(f"- {name}: {reason} ({held})")
    return "Missing:\n\n" + "\n".join(lines) if lines else ""


def side_by_side(found: list[Place]) -> str:
    """Ours and the best peer on every device, in one table."""
    all_rows = {place.label: {(row.problem, row.dtype): row for row in ratios.rows(place)} for place in found}
    keys = list(dict.fromkeys(key for held in all_rows.values() for key in held))
    header = ["problem", "dtype", *(f"{what}, {label}" for label in all_rows for what in (OURS, "best peer"))]
    lines = []
    for key in keys:
        line: list[str] = [*key]
        for held in all_rows.values():
            row = held.get(key)
            best = row.best_peer() if row else None
            line.append(digits(ms(row, OURS)))
            line.append(f"{digits(ms(row, best))} ({best})" if best else NONE)
        lines.append(line)
    return "### Devices side by side, milliseconds an EM iteration\n\n" + table(header, lines)


def ms(row: Row | None, contender: str | None) -> float | None:
    seconds = row.seconds(contender) if row and contender else None
    return None if seconds is None else 1e3 * seconds


def readme(found: list[Place]) -> str:
    """The short table: one dtype, float32 where it was measured; the summary is of all rows."""
    parts = []
    for place in found:
        chosen = [row for row in ratios.rows(place) if any(row.seconds(name) is not None for name in row.cells)]
        if not chosen:
            continue
        dtype = min(row.dtype for row in chosen)
        lines = []
        for row in (row for row in chosen if row.dtype == dtype):
            best = row.best_peer()
            peer = f"{digits(ms(row, best))} ({best})" if best else NONE
            compared = [digits(ratios.against_best(row)), digits(ratios.against_reference(place, row))]
            on_cpu = row.seconds(REFERENCE) is None and place.device != "cpu"
            theirs = NONE if on_cpu else digits(ms(row, REFERENCE))
            lines.append([f"`{row.problem}`", digits(ms(row, OURS)), peer, theirs, *compared])
        header = ["problem (type, N, D, K)", OURS, "best peer", REFERENCE, "vs best peer", versus(place)]
        note = f"Milliseconds an EM iteration in {dtype}, {place.label}; the ratios are their time over ours."
        summed = "\n".join(f"- {line}" for line in summary(place, chosen))
        parts += [
            note,
            table(header, lines),
            "Over all dtypes that were measured:\n\n" + summed,
            provenance(place) + ".",
        ]
    return "\n\n".join(parts)

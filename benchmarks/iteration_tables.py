"""The section iteration as Markdown: times, objectives, fits to convergence, who is missing, and the README's table."""

import statistics
from collections.abc import Iterable
from typing import Any

from .markdown import NONE, bullets, digits, duration, milliseconds, paragraphs, provenance, table
from .ratios import OURS, REFERENCE, WORSE, Place, Row, against_best, against_reference, rows


def tables(found: dict[str, Any], place: Place) -> list[str]:
    chosen = rows(place)
    if not chosen:
        return []
    names = contenders(chosen)

    def line(row: Row) -> list[str]:
        ratio = against_best(row)
        beaten = NONE if ratio is None else f"{digits(ratio)} ({row.best_peer()})"
        floor = digits(row.cells.get(OURS, {}).get("fraction_of_floor"), " %", scale=100)
        times = (time_cell(row, name) for name in names)
        return [row.problem, row.dtype, *times, digits(against_reference(place, row)), beaten, floor]

    is_marked = any(row.is_worse(name) for row in chosen for name in names)
    return [
        f"### Milliseconds an EM iteration, {place.label}",
        "Median, with the range of the repeats. Ratios are their time over ours: above 1, ours is faster.",
        table(["problem", "dtype", *names, versus(place), "vs best peer", "of the floor"], map(line, chosen)),
        f"† its objective after the same iterations is more than {WORSE:g} nats under the reference's."
        if is_marked
        else "",
        bullets(summary(place, chosen)),
        "Mean log-likelihood in nats after the same iterations, and by how much each contender differs from it.",
        objectives(chosen, names),
        *converged(place.cells(found, "converged")),
        missing(place),
    ]


def contenders(chosen: Iterable[Row]) -> list[str]:
    """Those that ran anywhere, ours first."""
    seen = dict.fromkeys(name for row in chosen for name in row.cells if row.seconds(name) is not None)
    return sorted(seen, key=lambda name: name != OURS)


def time_cell(row: Row, contender: str) -> str:
    """Milliseconds an iteration, with the range of the repeats."""
    if row.seconds(contender) is None:
        return NONE
    took = row.cells[contender]["seconds_per_iteration"]
    median, low, high = (milliseconds(took[name]) for name in ("median", "low", "high"))
    return f"{median} ({low}–{high})" + ("†" if row.is_worse(contender) else "")


def versus(place: Place) -> str:
    return f"vs {REFERENCE}{place.suffix}"


def summary(place: Place, chosen: list[Row]) -> list[str]:
    """Median and least of the ratios, a line each."""
    by_reference = [(against_reference(place, row), row) for row in chosen]
    by_best = [(against_best(row), row) for row in chosen]
    lines = []
    for whose, ratios in ((f"{REFERENCE}'s time{place.suffix}", by_reference), ("the best peer's time", by_best)):
        found = [(ratio, row) for ratio, row in ratios if ratio is not None]
        if found:
            least, at = min(found, key=lambda pair: pair[0])
            median = statistics.median(ratio for ratio, _ in found)
            of = f"median {digits(median)}, least {digits(least)} ({at.problem}, {at.dtype})"
            lines.append(f"{whose} over ours, {len(found)} rows: {of}")
    return lines


def objectives(chosen: list[Row], names: list[str]) -> str:
    """The reference, and differences from it."""

    def off(value: float | None) -> str:
        return NONE if value is None else f"{value:+.1e}" if value else "0"

    def line(row: Row) -> list[str]:
        known = NONE if row.reference is None else f"{row.reference:.5f}"
        return [row.problem, row.dtype, known, *(off(row.off(name)) for name in names)]

    return table(["problem", "dtype", "reference", *names], map(line, chosen))


def converged(cells: list[dict[str, Any]]) -> list[str]:
    """Time, iterations and objective of a fit from the same start to the same tol."""
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        if not cell.get("missing") and cell.get("seconds") is not None:
            count = f"{'all ' if cell['iterations'] >= cell['limit'] else ''}{cell['iterations']} it."
            said = f"{duration(cell['seconds'])}, {count}, {cell['objective']:.5f}"
            grouped.setdefault((cell["problem"], cell["dtype"]), {})[cell["contender"]] = said
    if not grouped:
        return []
    names = list(dict.fromkeys(name for made in grouped.values() for name in made))
    lines = [[*of, *(made.get(name, NONE) for name in names)] for of, made in grouped.items()]
    return [
        "To convergence from the same start at the same tol: time, iterations, mean log-likelihood in nats. "
        "“all”: stopped at the limit of iterations, which is low where they are slow.",
        table(["problem", "dtype", *names], lines),
    ]


def missing(place: Place) -> str:
    """Each missing contender with its reasons, and where each holds."""
    chosen = rows(place)
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in chosen:
        for of in row.missing.items():
            reasons.setdefault(of, []).append(f"{row.problem} {row.dtype}")
    held = {of: "everywhere" if len(at) == len(chosen) else ", ".join(at) for of, at in reasons.items()}
    lines = bullets(f"{name}: {reason} ({held[name, reason]})" for name, reason in reasons)
    return f"Missing:\n\n{lines}" if lines else ""


def both(row: Row | None) -> list[str]:
    """Milliseconds of ours and of the best peer, with its name."""
    best = row.best_peer() if row else None
    ours = milliseconds(row.seconds(OURS) if row else None)
    return [ours, f"{milliseconds(row.seconds(best))} ({best})" if row and best else NONE]


def side_by_side(found: list[Place]) -> str:
    """Ours and the best peer on every device, in one table."""
    held = {place.label: {(row.problem, row.dtype): row for row in rows(place)} for place in found}
    header = ["problem", "dtype", *(f"{what}, {label}" for label in held for what in (OURS, "best peer"))]
    every = dict.fromkeys(of for there in held.values() for of in there)
    lines = ([*of, *(said for there in held.values() for said in both(there.get(of)))] for of in every)
    return "### Devices side by side, milliseconds an EM iteration\n\n" + table(header, lines)


def readme(found: list[Place]) -> str:
    """The short table: one dtype, float32 where it was measured; the summary is of all rows."""
    parts = []
    for place in found:
        chosen = [row for row in rows(place) if any(row.seconds(name) is not None for name in row.cells)]
        if not chosen:
            continue
        dtype = min(row.dtype for row in chosen)
        lines = []
        for row in (row for row in chosen if row.dtype == dtype):
            ratios = map(digits, (against_best(row), against_reference(place, row)))
            lines.append([f"`{row.problem}`", *both(row), milliseconds(row.seconds(REFERENCE)), *ratios])
        parts += [
            f"Milliseconds an EM iteration in {dtype}, {place.label}; the ratios are their time over ours.",
            table(["problem (type, N, D, K)", OURS, "best peer", REFERENCE, "vs best peer", versus(place)], lines),
            "Over all dtypes that were measured:\n\n" + bullets(summary(place, chosen)),
            provenance(place) + ".",
        ]
    return paragraphs(parts)

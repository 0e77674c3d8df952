"""The other sections as Markdown: limits, searches, growth, memory, accuracy, import time."""

from __future__ import annotations

from typing import Any

from .markdown import NONE, digits, table
from .ratios import OURS, Place, section


def limits(place: Place) -> str:
    found = section(place.result, "limits").get(place.device) or {}
    lines = [
        [dtype, digits(rates["gemm_flops_per_s"] / 1e9), digits(rates["copy_bytes_per_s"] / 1e9)]
        for dtype, rates in found.items()
        if "missing" not in rates
    ]
    if not lines:
        return ""
    return f"### The machine's limits, {place.label}\n\n" + table(
        ["dtype", "GFlop/s, one product", "GB/s, copy"], lines
    )


def searches(place: Place) -> str:
    found = section(place.result, "searches")
    parts = [part(found.get(name) or {}, place) for name, part in PARTS.items()]
    parts = [part for part in parts if part]
    return "\n\n".join([f"### Searches, {place.label}", *parts]) if parts else ""


def on(found: dict[str, Any], place: Place) -> list[dict[str, Any]]:
    return [cell for cell in found.get("cells", []) if cell["device"] == place.device]


def compared(cell: dict[str, Any], cells: list[dict[str, Any]], name: str) -> str:
    """A cell's time over that of ours in the same dtype (where there is more than one of ours, the first)."""
    ours = [c for c in cells if (c["contender"], c["dtype"]) == (OURS, cell["dtype"]) and not c["missing"]]
    return digits(cell[name] / ours[0][name]) if ours else NONE


HEADER = ["contender", "dtype", "first call, s", "later calls, s", "first / ours", "later / ours"]


def timed(cell: dict[str, Any], cells: list[dict[str, Any]]) -> list[str]:
    """The columns of HEADER."""
    head = [cell["contender"], cell["dtype"]]
    if cell["missing"]:
        return [*head, f"missing: {cell['missing']}", *[NONE] * 3]
    names = ("first_call_s", "second_call_s")
    return [*head, *(digits(cell[name]) for name in names), *(compared(cell, cells, name) for name in names)]


def reached(cell: dict[str, Any]) -> list[str]:
    if cell["missing"]:
        return [NONE, NONE]
    return [", ".join(f"{value:.5f}" for value in cell["objectives"]), ", ".join(map(str, cell["steps"]))]


def restarts(found: dict[str, Any], place: Place) -> str:
    cells = on(found, place)
    if not cells:
        return ""
    title = f"{found['n_restarts']} restarts, full, (N, D, K) = ({found['n']}, {found['d']}, {found['k']}):"
    header = [*HEADER, "mean log-likelihoods, nats", "steps of the best"]
    return f"{title}\n\n" + table(header, [[*timed(cell, cells), *reached(cell)] for cell in cells])


def sweep(found: dict[str, Any], place: Place) -> str:
    cells = on(found, place)
    if not cells:
        return ""
    counts = found["counts"]
    title = (
        f"K from {counts[0]} to {counts[-1]}, {len(found['families'])} types, {found['n_restarts']} restarts, "
        f"(N, D) = ({found['n']}, {found['d']}), chosen by BIC:"
    )

    def chosen(cell: dict[str, Any]) -> str:
        return ", ".join(f"{c['family']} {c['k']} ({c['bic']:.1f})" for c in cell.get("chosen") or []) or NONE

    return f"{title}\n\n" + table([*HEADER, "chosen (BIC)"], [[*timed(cell, cells), chosen(cell)] for cell in cells])


def small(found: dict[str, Any], place: Place) -> str:
    cells = on(found, place)
    if not cells:
        return ""

    def line(cell: dict[str, Any]) -> list[str]:
        head = [" ".join(filter(None, [cell["contender"], cell["how"], cell["cache"]])), cell["dtype"]]
        if cell["missing"]:
            return [*head, f"missing: {cell['missing']}", *[NONE] * 4]
        return [*head, *(digits(cell[name]) for name in ("import_s", "first_call_s", "second_call_s")), *reached(cell)]

    title = f"A first fit in a fresh process, (N, D, K) = ({found['n']}, {found['d']}, {found['k']}), at the defaults:"
    header = ["contender", "dtype", "import, s", "first fit, s", "second fit, s", "mean log-likelihoods, nats", "steps"]
    return f"{title}\n\n" + table(header, [line(cell) for cell in cells])


def photograph(found: dict[str, Any], place: Place) -> str:
    cells = on(found, place)
    if not cells:
        return ""
    n = next((cell["n"] for cell in cells if not cell["missing"]), "?")
    title = f"The pixels of a photograph ({n} × 3), K = {found['k']}, full, at most {found['max_steps']} steps:"
    header = [*HEADER, "mean log-likelihoods, nats", "steps"]
    return f"{title}\n\n" + table(header, [[*timed(cell, cells), *reached(cell)] for cell in cells])


PARTS = {"restarts": restarts, "sweep": sweep, "small": small, "photograph": photograph}


def growth(place: Place) -> str:
    lines = [line for line in section(place.result, "growth").get("lines", []) if line["device"] == place.device]
    if not lines:
        return ""

    def said(line: dict[str, Any]) -> list[str]:
        points = ", ".join(point_said(point, line["axis"]) for point in line["points"])
        head = [f"{line['family']}, {line['axis']}", line["expected"]]
        if line["exponent"] is None:
            return [*head, line["missing"] or "too few points", NONE, points]
        slope = f"{line['exponent']:.2f} ± {line['half_width']:.2f}"
        return [*head, slope, "**above**" if line["above"] else "no", points]

    header = ["in", "counted", "fitted, 95 %", "above", "size: ms an iteration"]
    return f"### Growth of the time of an iteration, {place.label}\n\n" + table(header, [said(line) for line in lines])


def point_said(point: dict[str, Any], axis: str) -> str:
    took = point["seconds_per_iteration"]
    slow = " safe" if point.get("form") == "safe" else ""
    return f"{point[axis.lower()]}: {digits(1e3 * took['median'] if took else None)}{slow}"


def memory(place: Place) -> str:
    found = section(place.result, "memory")
    cells = on(found, place)
    if not cells:
        return ""

    def megabytes(value: float | None) -> str:
        return digits(None if value is None else value / 1e6)

    def line(cell: dict[str, Any]) -> list[Any]:
        above = cell["above_bytes"]
        within = NONE if above is None else "yes" if above <= found["target_bytes"] else "**no**"
        size = [cell["what"], cell["family"], cell["n"], cell["d"], cell["k"]]
        return [*size, megabytes(cell["data_bytes"]), cell["missing"] or megabytes(above), within]

    header = ["call", "type", "N", "D", "K", "data, MB", "above, MB", f"within {megabytes(found['target_bytes'])} MB"]
    lines = [
        f"- {g['what']}, {g['family']}: {g['bytes_per_row']:.3f} bytes a row, {'grows' if g['grows'] else 'no growth'}"
        for g in found["growth"]
        if g["device"] == place.device and g["grows"] is not None
    ]
    title = f"### Memory above one copy of the data, {place.label}"
    return "\n\n".join([title, table(header, [line(cell) for cell in cells]), "\n".join(lines)])


def accuracy(place: Place) -> str:
    found = section(place.result, "accuracy")
    rows = [row for row in found.get("rows", []) if row["device"] == place.device]
    if not rows:
        return ""

    def line(row: dict[str, Any]) -> list[Any]:
        head = [row["family"], row["n"]]
        if row["missing"]:
            return [*head, f"missing: {row['missing']}", *[NONE] * 6]
        errors = [
            f"{row[f'{name}_error']:.1e} ({row['promised'][name]:.1e})"
            for name in ("objective", "means", "covariances")
        ]
        situation = [f"{row['shift']:g}", f"{row['apart']:g}", row["form"]]
        return [*head, *situation, *errors, "yes" if row["kept"] else "**no**"]

    header = ["family", "N", "shift, sd", "apart, sd", "form", "objective, nats", "means, sd", "covariances", "kept"]
    title = f"### float32 against float64 after {found['steps']} steps, {place.label}"
    note = "Worst errors, and in brackets what tests/tolerances.py promises."
    return "\n\n".join([title, note, table(header, [line(row) for row in rows])])


def import_time(place: Place) -> str:
    found = section(place.result, "import_time")
    median = found.get("median") or {}
    if place.device != "cpu" or "jaxgmm" not in median:
        return ""
    target = f"; target {found['target']} s" if "target" in found else ""
    return f"`import jaxgmm` adds {digits(median['jaxgmm'])} s to `import jax`'s {digits(median['jax'])} s{target}."

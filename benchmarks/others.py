"""The other sections as Markdown: limits, card, searches, acceleration, growth, memory, accuracy, import time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .markdown import NONE, digits, duration, table
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


CARD_IN_SHORT = ("products", "loop", "kernels", "large", "large_fused")
"""The parts of the section card that the short report shows."""


def card(place: Place, parts: Sequence[str] | None = None) -> str:
    """Every part as a table of its own, of the columns that its rows have; all of them, or those named."""
    found = section(place.result, "card").get(place.device) or {}
    shown = [card_part(name, found[name]) for name in parts or found if name in found]
    return "\n\n".join([f"### What the device can do, {place.label}", *shown]) if shown else ""


def card_part(name: str, part: dict[str, Any]) -> str:
    rows = part.get("rows", [])
    columns = list(dict.fromkeys(column for row in rows for column in row))
    said = [f"{name}:" if rows else f"{name}: {part.get('missing') or 'nothing was measured'}"]
    if rows:
        header = [column.removesuffix("_s").replace("_", " ").removesuffix(" per") for column in columns]
        said.append(table(header, [[quantity(column, row.get(column)) for column in columns] for row in rows]))
    said += ["Left out: " + "; ".join(part["left_out"])] if part.get("left_out") else []
    return "\n\n".join(said)


def quantity(column: str, value: Any) -> str:
    """A measured value in the unit that its column's name says."""
    if value is None:
        return NONE
    if column.endswith("_per_s"):
        return digits(value / 1e9, " G/s")
    if column.endswith(("_s", "seconds")):
        return duration(value)
    if column.endswith("_bytes"):
        return digits(value / 1e6, " MB")
    if column.startswith("fraction"):
        return digits(100.0 * value, " %")
    if column.endswith("_error"):
        return f"{value:.1e}"
    return digits(value) if isinstance(value, float) else str(value)


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


HEADER = ["contender", "dtype", "first call", "later calls", "first / ours", "later / ours"]


def timed(cell: dict[str, Any], cells: list[dict[str, Any]]) -> list[str]:
    """The columns of HEADER."""
    head = [cell["contender"], cell["dtype"]]
    if cell["missing"]:
        return [*head, f"missing: {cell['missing']}", *[NONE] * 3]
    names = ("first_call_s", "second_call_s")
    return [*head, *(duration(cell[name]) for name in names), *(compared(cell, cells, name) for name in names)]


def reached(cell: dict[str, Any]) -> list[str]:
    if cell["missing"]:
        return [NONE, NONE]
    return [", ".join(f"{value:.5f}" for value in cell["objectives"]), ", ".join(map(str, cell["steps"]))]


def many(place: Place) -> str:
    """Many small problems: seconds of a call of all of them, and how often ours takes that."""
    found = section(place.result, "many")
    parts = []
    for task in found.get("tasks", []):
        cells = on(task, place)
        if not cells:
            continue
        lines = []
        for cell in cells:
            first = {"first_call_s": cell.get("second_call_s"), **cell}  # a loop compiles nothing
            lines.append([*timed(first, cells), digits(cell.get("mean_steps"))])
        ends = task["common_starts"]
        said = ends["missing"] or (
            f"{ends['count']} ends less scikit-learn's from common starts, float64: least {ends['least']:.1e}, median "
            f"{ends['median']:.1e} nats a row; {ends['below']} lie below by more than {task['not_below']:g}"
        )
        title = f"{task['n_problems']} problems of (N, D, K) = ({task['n']}, {task['d']}, {task['k']}), full:"
        parts.append(f"{title}\n\n" + table([*HEADER, "steps, mean"], lines) + f"\n\n{said}.")
    return "\n\n".join([f"### Many small problems, {place.label}", *parts]) if parts else ""


def first_calls(place: Place) -> str:
    """What is waited for before anything is compiled."""
    found = section(place.result, "first_calls")
    if not found or place.device != "cpu":
        return ""
    lines = [["a process that fits (2000, 2), K = 5, and predicts", *of_both(found["process"])]]
    lines += [[f"K = 1 to {loop['most']}, 4 types, fit and bic of (500, 4)", *of_both(loop)] for loop in found["loops"]]
    parts = ["### First calls", table(["fresh process", OURS, "scikit-learn", "ours / scikit-learn"], lines)]
    commands = found["command_line"]["median_s"]
    parts.append(
        f"With programs on disk the first takes {duration(found['process']['median_s'][f'{OURS}, programs on disk'])}. "
        f"`jaxgmm fit iris.csv {found['command_line']['arguments']}` takes {duration(commands['first'])}, and "
        f"{duration(commands['second'])} once more."
    )
    fits = found["others"].get("fits")
    if fits:
        header = ["after a first fit of (2000, 2), K = 5", "seconds", "programs"]
        lines = [[name, duration(fit["seconds"]), str(fit["programs"])] for name, fit in fits.items()]
        parts.append(table(header, lines))
    return "\n\n".join(parts)


def of_both(measured: dict[str, Any]) -> list[str]:
    """Ours, scikit-learn's, and their ratio."""
    ours, theirs = (measured["median_s"].get(name) for name in (OURS, "scikit-learn"))
    return [duration(ours), duration(theirs), digits(ours / theirs) if ours and theirs else NONE]


def shapes(place: Place) -> str:
    """How a process fares that fits tables of ever other shapes."""
    found = section(place.result, "shapes")
    if not found or place.device != "cpu":
        return ""
    lines = []
    for of in found["processes"]:
        resident = [f"{bytes_ / 2**20:.0f}" for bytes_ in (of.get("resident_bytes_after") or {}).values()]
        told = [of["n_fits"], of.get("programs"), of.get("programs_kept"), of.get("mappings")]
        lines.append([*map(str, told), ", ".join(resident), duration(of.get("seconds"))])
    header = ["fits", "programs compiled", "kept", "mappings, at most", "MB resident after each 100 fits", "seconds"]
    return "### Fits of many shapes in one process\n\n" + table(header, lines)


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

    shown = table([*HEADER, "chosen (BIC)"], [[*timed(cell, cells), chosen(cell)] for cell in cells])
    return "\n\n".join([title, shown, *map(shared, (cell for cell in cells if cell.get("programs")))])


def shared(cell: dict[str, Any]) -> str:
    """How many programs a sweep of ours compiled, and what several K in one program cost."""
    first, later = cell["programs"]
    padding = [100 * one["padding"] for one in cell["chosen"]]
    together = "; ".join(", ".join(map(str, group)) for group in cell["chosen"][0]["groups"])
    return (
        f"{cell['contender']}, {cell['dtype']}: {first} programs compiled by the first call, {later} by the second; "
        f"{digits(min(padding))} to {digits(max(padding))} % of the components stepped were padding; the K that shared "
        f"a program: {together}."
    )


def beside(found: dict[str, Any], place: Place) -> str:
    """Every cell of a sweep, ours beside scikit-learn's: a line for each type, and the worst cells."""
    if not found or found["device"] != place.device:
        return ""
    starts, how = "from the same starts", f"tol {found.get('tol', math.nan):g}, {found.get('max_steps')} steps at most"
    if "polish" in found:  # an older result tells neither tol nor their restarts, which were ours
        restarts, theirs = found["n_restarts"], found.get("their_restarts", found["n_restarts"])
        starts = (
            f"{restarts} restarts of ours to tol {found.get('tol', 1e-3):g} and {theirs} of scikit-learn's by default"
        )
        how = f"each end then run on to tol {found['polish']:g}"
    title = (
        f"K from {found['counts'][0]} to {found['counts'][-1]}, {len(found['families'])} types, (N, D) = "
        f"({found['n']}, {found['d']}), {found['seeds']} tables, {starts}, {how}, float64: mean "
        "log-likelihood, ours less scikit-learn's, nats."
    )
    if found["missing"]:
        return f"{title}\n\nmissing: {found['missing']}"
    least, cells = found["not_below"], found["cells"]

    def line(name: str, cells: list[dict[str, Any]]) -> list[str]:
        off = [cell["ours"] - cell["theirs"] for cell in cells]
        fine, above, far = (sum(map(t, off)) for t in (lambda o: o >= -least, lambda o: o > least, lambda o: o < -FAR))
        return [name, f"{fine} of {len(off)}", str(above), str(far), f"{min(off):+.1e}", f"{max(off):+.1e}"]

    lines = [line(family, [c for c in cells if c["family"] == family]) for family in found["families"]]
    header = ["type", f"no more than {least:g} below", f"more than {least:g} above", f"more than {FAR:g} below"]
    worst = sorted(cells, key=lambda cell: cell["ours"] - cell["theirs"])[:5]
    said = [
        f"- {c['family']} {c['k']}, table {c['seed']}: {c['ours'] - c['theirs']:+.1e} ({c['our_steps']} steps, "
        f"scikit-learn {c['their_steps']})"
        for c in worst
        if c["ours"] - c["theirs"] < -least
    ]
    parts = [title, table([*header, "least", "largest"], [*lines, line("all", cells)])]
    if found.get("our_s") and found.get("their_s"):
        ours, theirs = (duration(found[of]["median"]) for of in ("our_s", "their_s"))
        parts.append(f"A table took ours {ours} and scikit-learn {theirs}, in the middle.")
    return "\n\n".join([*parts, *(["The lowest cells:\n\n" + "\n".join(said)] if said else [])])


def choices(found: dict[str, Any], place: Place) -> str:
    """What is chosen by BIC on real data, ours beside mclust's, and how the likelihoods of the cells compare."""
    if not found or found["device"] != place.device:
        return ""
    title = (
        f"K and family by BIC on real data, {found['n_restarts']} restarts, tol {found['tol']:g}, beside mclust's "
        "choice among the same; cells by log-likelihood (the total, nats), ours against mclust's:"
    )
    if found["missing"]:
        return f"{title}\n\nmissing: {found['missing']}"
    lines = []
    for one in found["sets"]:
        off = [fit["ours"] - fit["theirs"] for fit in one["fits"] if fit["status"] not in ("COLLAPSED", "NON_FINITE")]
        ours, theirs = (f"{family} {k} ({bic:.2f})" for family, k, bic in one["chosen"].values())
        same = sum(abs(value) <= SAME for value in off)
        higher, lower = sum(value > SAME for value in off), sum(value < -SAME for value in off)
        size = f"{one['n']} × {one['d']}"
        failed = len(one["fits"]) - len(off)
        lines.append([one["data"], size, ours, theirs, str(same), str(higher), str(lower), str(failed)])
    header = ["data", "size", "ours (BIC)", "mclust (BIC)", "same", "ours higher", "ours lower", "ours failed"]
    return f"{title}\n\n" + table(header, lines)


SAME = 0.05  # nats of the total: mclust stops at a relative change of 1e-5
FAR = 1e-3  # nats: below that a tol of as much may be all there is to a difference


def small(found: dict[str, Any], place: Place) -> str:
    cells = on(found, place)
    if not cells:
        return ""

    def line(cell: dict[str, Any]) -> list[str]:
        head = [" ".join(filter(None, [cell["contender"], cell["how"], cell["cache"]])), cell["dtype"]]
        if cell["missing"]:
            return [*head, f"missing: {cell['missing']}", *[NONE] * 4]
        return [
            *head,
            *(duration(cell[name]) for name in ("import_s", "first_call_s", "second_call_s")),
            *reached(cell),
        ]

    title = f"A first fit in a fresh process, (N, D, K) = ({found['n']}, {found['d']}, {found['k']}), at the defaults:"
    header = ["contender", "dtype", "import", "first fit", "second fit", "mean log-likelihoods, nats", "steps"]
    return f"{title}\n\n" + table(header, [line(cell) for cell in cells])


def photograph(found: dict[str, Any], place: Place) -> str:
    cells = on(found, place)
    if not cells:
        return ""
    n = next((cell["n"] for cell in cells if not cell["missing"]), "?")
    title = f"The pixels of a photograph ({n} × 3), K = {found['k']}, full, at most {found['max_steps']} steps:"
    header = [*HEADER, "mean log-likelihoods, nats", "steps"]
    return f"{title}\n\n" + table(header, [[*timed(cell, cells), *reached(cell)] for cell in cells])


def readme(found: list[Place]) -> str:
    """The searches in a few lines, ours against scikit-learn's own way, in the first dtype."""
    parts = []
    for place in found:
        searches = section(place.result, "searches")
        asked = {name: (part, on(part, place)) for name in IN_SHORT if (part := searches.get(name))}
        rows = [[IN_SHORT[name](part), *took(cells)] for name, (part, cells) in asked.items() if cells]
        if rows:
            dtype = next(cells[0]["dtype"] for _, cells in asked.values() if cells)
            header = ["search", "ours, first call", "ours, later", "scikit-learn", "scikit-learn / ours, later"]
            parts.append(f"Searches in {dtype}, {place.label}:\n\n" + table(header, rows))
        first = section(place.result, "first_calls")
        if first and place.device == "cpu":
            loop, fits = first["loops"][0], first["others"].get("fits", {})
            ours, theirs, _ = of_both(first["process"])
            told = f"A process that fits 2000 rows and predicts takes {ours}, scikit-learn {theirs}"
            told += f", imports in both; the loop over K = 1 to {loop['most']} and four types on 500 rows "
            told += f"{of_both(loop)[0]}, scikit-learn {of_both(loop)[1]}, compiling included"
            told += f"; a second fit {duration(fits['again']['seconds'])}." if "again" in fits else "."
            parts.append(told)
        small = {cell["cache"]: cell for cell in on(searches.get("small") or {}, place) if cell["how"] == "fit"}
        is_told = any(section(other.result, "first_calls") for other in found)
        if not is_told and all("first_call_s" in small.get(cache, {}) for cache in (None, "filled cache")):
            first, cached = (duration(small[cache]["first_call_s"]) for cache in (None, "filled cache"))
            parts.append(
                f"A first `fit` of one restart to {searches['small']['n']} rows takes {first}, nearly all of it to "
                f"compile; {cached} in a process that finds the programs of an earlier one in JAX's cache; and the "
                f"next fit {duration(small[None]['second_call_s'])}."
            )
    return "\n\n".join(parts)


def took(cells: list[dict[str, Any]]) -> list[str]:
    """First and later calls of ours, scikit-learn's call, and their ratio."""
    dtype = cells[0]["dtype"]
    by_name = {cell["contender"]: cell for cell in cells if cell["dtype"] == dtype and not cell["missing"]}
    ours, theirs = by_name.get(OURS), by_name.get("scikit-learn")
    said = [duration(ours[name]) if ours else NONE for name in ("first_call_s", "second_call_s")]
    if theirs is None:
        return [*said, NONE, NONE]
    ratio = digits(theirs["second_call_s"] / ours["second_call_s"]) if ours else NONE
    return [*said, duration(theirs["second_call_s"]), ratio]


IN_SHORT = {
    "restarts": lambda part: f"{part['n_restarts']} restarts, full, ({part['n']}, {part['d']}, {part['k']})",
    "sweep": lambda part: (
        f"K = {part['counts'][0]} to {part['counts'][-1]}, {len(part['families'])} types, "
        f"{part['n_restarts']} restarts, ({part['n']}, {part['d']})"
    ),
}

PARTS = {
    "restarts": restarts,
    "sweep": sweep,
    "common_starts": beside,
    "free_starts": beside,
    "longer_starts": beside,
    "choices": choices,
    "small": small,
    "photograph": photograph,
}


def acceleration(place: Place) -> str:
    found = section(place.result, "acceleration")
    if not found or found.get("device") != place.device:
        return ""
    made = {problem["name"]: passes(problem) for problem in found["problems"] if not problem["missing"]}
    slowest = sorted(made, key=lambda name: made[name]["plain"] or math.inf, reverse=True)[:3]

    def line(problem: dict[str, Any]) -> list[str]:
        name, head = problem["name"], [problem["family"]]
        if problem["missing"]:
            return [name, *head, f"missing: {problem['missing']}", *[NONE] * (len(WAYS) - 1)]
        counts = made[name]
        plain = counts["plain"]

        def told(n: int | None) -> str:
            return "not reached" if n is None else f"{n} ({digits(plain / n)})" if n and plain else f"{n}"

        shown = f"{name} *" if name in slowest else name
        return [shown, *head, str(plain), *(told(counts[way]) for way in WAYS[1:])]

    said = (
        f"Passes over the rows until the mean log-likelihood is within {found['within']:g} nats of what plain EM ends "
        "with, from the same start; in brackets how many times as many plain EM makes. *: the three slowest."
    )
    shown = table(["problem", "type", *WAYS], map(line, found["problems"]))
    parts = [f"### Acceleration, {place.label}", said, shown, targets(found, made, slowest)]
    return "\n\n".join(part for part in parts if part)


def targets(found: dict[str, Any], made: dict[str, dict[str, int | None]], slowest: Sequence[str]) -> str:
    """Whether each way keeps what was aimed at before it was written, problem by problem."""
    aims = found.get("targets")
    if not aims or not made:
        return ""

    def told(name: str, way: str) -> str:
        plain, n = made[name]["plain"], made[name][way]
        if n is None or plain is None:
            return "**missed**" if plain is not None else NONE
        met = plain >= aims["slow"] * n if name in slowest else n <= aims["fast"] * plain
        return "met" if met else "**missed**"

    def aim(name: str) -> str:
        return f"plain ≥ {aims['slow']:g} × its passes" if name in slowest else f"passes ≤ {aims['fast']:g} × plain's"

    lines = [[name, aim(name), *(told(name, way) for way in WAYS[1:])] for name in made]
    n_met = [sum(line[2 + i] == "met" for line in lines) for i in range(len(WAYS) - 1)]
    lines.append(["met", "", *(f"{n} of {len(made)}" for n in n_met)])
    return "What was aimed at:\n\n" + table(["problem", "target", *WAYS[1:]], lines)


WAYS = ("plain", "squarem", "anderson", "lbfgs")


def passes(problem: dict[str, Any]) -> dict[str, int | None]:
    """By way; None where the optimum was not reached."""
    return dict.fromkeys(WAYS) | {run["way"]: run["passes"] for run in problem["runs"]}


def growth(place: Place) -> str:
    lines = [line for line in section(place.result, "growth").get("lines", []) if line["device"] == place.device]
    if not lines:
        return ""

    def said(line: dict[str, Any]) -> list[str]:
        points = ", ".join(point_said(point, line["axis"]) for point in line["points"])
        least = line["fitted_from"]
        head = [f"{line['family']}, {line['axis']}" + (f" ≥ {least}" if least else ""), line["expected"]]
        if line["exponent"] is None:
            return [*head, line["missing"] or "too few points", NONE, points]
        slope = f"{line['exponent']:.2f} ± {line['half_width']:.2f}"
        return [*head, slope, "**above**" if line["above"] else "no", points]

    header = ["in", "exponent counted", "fitted, 95 %", "above it", "size: time of an iteration"]
    return f"### Growth of the time of an iteration, {place.label}\n\n" + table(header, [said(line) for line in lines])


def point_said(point: dict[str, Any], axis: str) -> str:
    took = point["seconds_per_iteration"]
    slow = " safe" if point.get("form") == "safe" else ""
    return f"{point[axis.lower()]}: {duration(took['median'] if took else None)}{slow}"


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


def spread(place: Place) -> str:
    """Rows in blocks, on devices and in processes; measured on the CPU."""
    found = section(place.result, "spread")
    if not found or place.device != "cpu":
        return ""
    aims = found["targets"]

    def of_file(cell: dict[str, Any]) -> list[Any]:
        if cell["missing"]:
            return [cell["family"], cell["n"], f"missing: {cell['missing']}", *[NONE] * 6]
        step, read, memory = cell["step_s"]["median"], cell["read_s"]["median"], cell["in_memory_s"]
        share, resident = max(read, memory) / step, cell["resident_bytes"]
        held = (
            NONE
            if resident is None
            else f"{resident / 1e6:.0f}{'' if resident <= aims['resident_bytes'] else ' **!**'}"
        )
        told = f"{100 * share:.0f} %{'' if share >= aims['of_the_slower'] else ' **!**'}"
        times = map(duration, (cell["survey_s"], step, read, memory))
        return [cell["family"], cell["n"], digits(cell["bytes"] / 1e9), *times, told, held]

    def of_both(cell: dict[str, Any]) -> list[Any]:
        if cell["missing"]:
            return [cell["family"], cell["n"], f"missing: {cell['missing']}", NONE, NONE]
        whole = cell["step_s"]["in memory"]["median"]
        others = [cell["step_s"][name]["median"] for name in ("array", "memmap")]
        told = [
            f"{duration(s)} ({100 * (s / whole - 1):+.0f} %{'' if s <= (1 + aims['overhead']) * whole else ' **!**'})"
            for s in others
        ]
        return [cell["family"], cell["n"], duration(whole), *told]

    def of_several(cell: dict[str, Any]) -> list[Any]:
        way = {"devices": "device", "processes": "process"}[cell["way"]] if cell["number"] == 1 else cell["way"]
        head = [f"{cell['number']} {way}", cell["n"]]
        if cell["missing"]:
            return [*head, f"missing: {cell['missing']}", NONE]
        return [*head, duration(cell["step_s"]["median"]), cell["reduced_bytes"]]

    size = f"D = {found['d']}, K = {found['k']}, float32"
    share, over = (f"{100 * aims[name]:.0f} %" for name in ("of_the_slower", "overhead"))
    file = [
        "type",
        "N",
        "GB",
        "survey",
        "step",
        "reading the file",
        "step in memory",
        "slower of these / step",
        "RssAnon, MB",
    ]
    parts = [
        f"### Rows in blocks, on devices, in processes, {place.label}",
        f"A file, {size}; aims: {share} and {aims['resident_bytes'] / 1e6:.0f} MB. **!** marks what misses its aim.",
        table(file, map(of_file, found["streamed"])),
        f"Rows that are in memory anyway, in memory and in blocks; aim: no more than {over} more.",
        table(["type", "N", "in memory", "an array in blocks", "a mapped file in blocks"], map(of_both, found["fits"])),
        "A step of full covariances, shared out:",
        table(["on", "N", "step", "bytes reduced"], map(of_several, found["scaling"])),
    ]
    return "\n\n".join(parts)


QUANTITIES = {"objective": "nats", "means": "sd", "covariances": "sd²"}


def accuracy(place: Place) -> str:
    """A line for each family and number of rows: the worst of its situations. Those that break the promise in full."""
    found = section(place.result, "accuracy")
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in found.get("rows", []):
        if row["device"] == place.device:
            grouped.setdefault((row["family"], row["n"]), []).append(row)
    if not grouped:
        return ""

    def line(family: str, n: int, rows: list[dict[str, Any]]) -> list[Any]:
        made = [row for row in rows if not row["missing"]]
        if not made:
            return [family, n, f"missing: {rows[0]['missing']}", *[NONE] * 5]
        kept, safe = (sum(map(test, made)) for test in (lambda row: row["kept"], lambda row: row["form"] == "safe"))
        held = f"{kept} of {len(made)}" if kept == len(made) else f"**{kept} of {len(made)}**"
        return [family, n, f"{len(made)} ({safe})", *(worst(made, name) for name in QUANTITIES), held]

    header = [
        "family",
        "N",
        "situations (safe form)",
        *(f"{name}, {unit}" for name, unit in QUANTITIES.items()),
        "kept",
    ]
    broken = [
        f"- {row['family']}, N = {row['n']}, {row['shift']:g} sd from the origin, {row['apart']:g} sd apart, "
        f"{row['form']} form: " + ", ".join(f"{name} {worst([row], name)}" for name in QUANTITIES)
        for rows in grouped.values()
        for row in rows
        if not row["missing"] and not row["kept"]
    ]
    parts = [
        f"### float32 against float64 after {found['steps']} steps, {place.label}",
        "The error that comes nearest to what tests/tolerances.py promises, or exceeds it, and its share of that.",
        table(header, [line(*of, rows) for of, rows in grouped.items()]),
        "\n".join(broken),
    ]
    return "\n\n".join(part for part in parts if part)


def worst(rows: list[dict[str, Any]], name: str) -> str:
    shares = [(row[f"{name}_error"] / row["promised"][name], row[f"{name}_error"]) for row in rows]
    share, error = max(shares, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])
    return f"{error:.1e} ({100.0 * share:.3g} %)"


def import_time(place: Place) -> str:
    found = section(place.result, "import_time")
    median = found.get("median") or {}
    if place.device != "cpu" or "jaxgmm" not in median:
        return ""
    target = f"; target {found['target']} s" if "target" in found else ""
    return f"`import jaxgmm` adds {digits(median['jaxgmm'])} s to `import jax`'s {digits(median['jax'])} s{target}."

"""The section searches as Markdown: times beside ours, cells beside scikit-learn's, choices beside mclust's."""

from collections.abc import Callable
from typing import Any

from .markdown import NONE, Columns, bullets, by_columns, digits, duration, of_calls, paragraphs, size, table
from .ratios import OURS, REFERENCE, Place

SAME = 0.05  # nats of the total: mclust stops at a relative change of 1e-5
FAR = 1e-3  # nats: below that a tol of as much may be all there is to a difference


def tables(found: dict[str, Any], place: Place) -> list[str]:
    parts = [said for name, show in SHOWN.items() if found.get(name) for said in show(found[name], place)]
    return [f"### Searches, {place.label}", *parts] if any(parts) else []


def joined(name: str) -> Callable[[dict[str, Any]], str]:
    """What shows all values of a field, a call each."""
    return lambda cell: ", ".join(f"{one:.5f}" if isinstance(one, float) else str(one) for one in cell[name])


REACHED: Columns = {"mean log-likelihoods, nats": joined("objectives")}


def restarts(found: dict[str, Any], place: Place) -> list[str]:
    cells = place.cells(found)
    columns = of_calls(cells, {**REACHED, "steps of the best": joined("steps")})
    return [by_columns(cells, *columns, f"{found['n_restarts']} restarts, full, (N, D, K) = {size(found)}:")]


def photograph(found: dict[str, Any], place: Place) -> list[str]:
    cells = place.cells(found)
    n = next((cell["n"] for cell in cells if not cell["missing"]), "?")
    title = f"The pixels of a photograph ({n} × 3), K = {found['k']}, full, at most {found['max_steps']} steps:"
    return [by_columns(cells, *of_calls(cells, {**REACHED, "steps": joined("steps")}), title)]


def sweep(found: dict[str, Any], place: Place) -> list[str]:
    """Times and choices; how many programs a sweep of ours compiled, and what several K in one program cost."""

    def chosen(cell: dict[str, Any]) -> str:
        return ", ".join("{family} {k} ({bic:.1f})".format(**of) for of in cell.get("chosen") or []) or NONE

    def shared(cell: dict[str, Any]) -> str:
        first, later = cell["programs"]
        padding = [100 * one["padding"] for one in cell["chosen"]]
        together = "; ".join(", ".join(map(str, group)) for group in cell["chosen"][0]["groups"])
        return (
            f"{cell['contender']}, {cell['dtype']}: {first} programs compiled by the first call, {later} by the "
            f"second; {digits(min(padding))} to {digits(max(padding))} % of the components stepped were padding; the "
            f"K that shared a program: {together}."
        )

    cells = place.cells(found)
    title = f"{grid(found)}, {found['n_restarts']} restarts, (N, D) = ({found['n']}, {found['d']}), chosen by BIC:"
    times = by_columns(cells, *of_calls(cells, {"chosen (BIC)": chosen}), title)
    return [times, *(shared(cell) for cell in cells if cell.get("programs"))]


def grid(found: dict[str, Any], word: str = "from") -> str:
    return f"K {word} {found['counts'][0]} to {found['counts'][-1]}, {len(found['families'])} types"


def small(found: dict[str, Any], place: Place) -> list[str]:
    """First fits in fresh processes, which only older results have."""
    head: Columns = {
        "contender": lambda cell: " ".join(filter(None, [cell["contender"], cell["how"], cell["cache"]])),
        "dtype": "dtype",
    }
    body: Columns = {"import": "import_s", "first fit": "first_call_s", "second fit": "second_call_s", **REACHED}
    title = f"A first fit in a fresh process, (N, D, K) = {size(found)}, at the defaults:"
    return [by_columns(place.cells(found), head, {**body, "steps": joined("steps")}, title)]


def beside(found: dict[str, Any], place: Place) -> list[str]:
    """Every cell of a sweep, ours beside scikit-learn's: a line for each type, and the worst cells."""
    if found["device"] != place.device:
        return []
    # An older result tells neither its tol nor their restarts, which were ours.
    found = {"tol": 1e-3, "their_restarts": found.get("n_restarts"), **found}
    starts, how = "from the same starts", f"tol {found['tol']:g}, {found.get('max_steps')} steps at most"
    if "polish" in found:
        ours, theirs = found["n_restarts"], found["their_restarts"]
        starts = f"{ours} restarts of ours to tol {found['tol']:g} and {theirs} of scikit-learn's by default"
        how = f"each end then run on to its optimum (tol {found['polish']:g})"
    title = (
        f"{grid(found)}, (N, D) = ({found['n']}, {found['d']}), {found['seeds']} tables, {starts}, {how}, float64: "
        "mean log-likelihood, ours less scikit-learn's, nats."
    )
    if found["missing"]:
        return [title, f"missing: {found['missing']}"]
    least, cells = found["not_below"], [{**cell, "off": cell["ours"] - cell["theirs"]} for cell in found["cells"]]
    of_types = {of: [cell["off"] for cell in cells if cell["family"] == of] for of in found["families"]}
    offs = [{"type": of, "offs": some} for of, some in {**of_types, "all": [cell["off"] for cell in cells]}.items()]
    body: Columns = {
        f"no more than {least:g} below": lambda of: f"{sum(o >= -least for o in of['offs'])} of {len(of['offs'])}",
        f"more than {least:g} above": lambda of: sum(o > least for o in of["offs"]),
        f"more than {FAR:g} below": lambda of: sum(o < -FAR for o in of["offs"]),
        "least": lambda of: f"{min(of['offs']):+.1e}",
        "largest": lambda of: f"{max(of['offs']):+.1e}",
    }
    took = ""
    if found.get("our_s") and found.get("their_s"):
        ours, theirs = (duration(found[of]["median"]) for of in ("our_s", "their_s"))
        took = f"A table took ours {ours} and scikit-learn {theirs}, in the middle."
    lowest = [cell for cell in sorted(cells, key=lambda cell: cell["off"])[:5] if cell["off"] < -least]
    said = "{family} {k}, table {seed}: {off:+.1e} ({our_steps} steps, scikit-learn {their_steps})"
    worst = "The lowest cells:\n\n" + bullets(said.format(**cell) for cell in lowest) if lowest else ""
    return [title, by_columns(offs, {"type": "type"}, body), took, worst]


def choices(found: dict[str, Any], place: Place) -> list[str]:
    """What was chosen by BIC on real data, ours beside mclust's, and how the likelihoods of the cells compare, in older
    results."""
    if found["device"] != place.device:
        return []
    title = (
        f"K and family by BIC on real data, {found['n_restarts']} restarts, tol {found['tol']:g}, beside mclust's "
        "choice among the same; cells by log-likelihood (the total, nats), ours against mclust's:"
    )

    def offs(of: dict[str, Any]) -> list[float]:
        return [fit["ours"] - fit["theirs"] for fit in of["fits"] if fit["status"] not in ("COLLAPSED", "NON_FINITE")]

    def chosen(whose: str) -> Callable[[dict[str, Any]], str]:
        return lambda of: "{} {} ({:.2f})".format(*of["chosen"][whose])

    body: Columns = {
        "size": "{n} × {d}",
        "ours (BIC)": chosen("ours"),
        "mclust (BIC)": chosen("theirs"),
        "same": lambda of: sum(abs(off) <= SAME for off in offs(of)),
        "ours higher": lambda of: sum(off > SAME for off in offs(of)),
        "ours lower": lambda of: sum(off < -SAME for off in offs(of)),
        "ours failed": lambda of: len(of["fits"]) - len(offs(of)),
    }
    return [by_columns(found["sets"], {"data": "data"}, body, title)]


SHOWN = {
    **{"restarts": restarts, "sweep": sweep},
    **dict.fromkeys(("common_starts", "free_starts", "longer_starts"), beside),
    **{"choices": choices, "small": small, "photograph": photograph},
}


def readme(place: Place) -> str:
    """The searches in a few lines, ours against scikit-learn's own way, in the first dtype."""
    searches, lines, dtype = place.section("searches"), [], ""
    for name in ("restarts", "sweep"):
        of = searches.get(name) or {}
        if cells := place.cells(of):
            what = f"full, {size(of)}" if name == "restarts" else f"({of['n']}, {of['d']})"
            over = "" if name == "restarts" else f"{grid(of, '=')}, "
            dtype = dtype or cells[0]["dtype"]
            lines.append([f"{over}{of['n_restarts']} restarts, {what}", *took(cells)])
    header = ["search", "ours, first call", "ours, later", REFERENCE, f"{REFERENCE} / ours, later"]
    return paragraphs([f"Searches in {dtype}, {place.label}:", table(header, lines)]) if lines else ""


def took(cells: list[dict[str, Any]]) -> list[str]:
    """First and later calls of ours, scikit-learn's call, and their ratio."""
    dtype = cells[0]["dtype"]
    by_name = {cell["contender"]: cell for cell in cells if cell["dtype"] == dtype and not cell["missing"]}
    ours, theirs = by_name.get(OURS, {}), by_name.get(REFERENCE, {}).get("second_call_s")
    first, later = ours.get("first_call_s"), ours.get("second_call_s")
    return [*map(duration, (first, later, theirs)), digits(theirs / later if theirs and later else None)]

"""The section searches as Markdown: times beside ours, cells beside scikit-learn's, choices beside mclust's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .markdown import NONE, Columns, by_columns, digits, duration, paragraphs, size, table
from .ratios import OURS, REFERENCE, Place

SAME = 0.05  # nats of the total: mclust stops at a relative change of 1e-5
FAR = 1e-3  # nats: below that a tol of as much may be all there is to a difference


def tables(found: dict[str, Any], place: Place) -> list[str]:
    parts = [part for name, show in PARTS.items() if found.get(name) for part in show(found[name], place)]
    return [f"### Searches, {place.label}", *parts] if parts else []


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


def objectives(cell: dict[str, Any]) -> str:
    return ", ".join(f"{value:.5f}" for value in cell["objectives"])


def steps(cell: dict[str, Any]) -> str:
    return ", ".join(map(str, cell["steps"]))


def timed(title: Callable[[dict[str, Any]], str], more: Columns) -> Callable[[dict[str, Any], Place], list[str]]:
    """A part that is a line a contender and dtype, with these columns beside its times."""

    def show(found: dict[str, Any], place: Place) -> list[str]:
        cells = place.cells(found)
        return [title(found), by_columns(cells, *of_calls(cells, more))] if cells else []

    return show


def photograph_title(found: dict[str, Any]) -> str:
    n = next((cell["n"] for cell in found["cells"] if not cell["missing"]), "?")
    return f"The pixels of a photograph ({n} × 3), K = {found['k']}, full, at most {found['max_steps']} steps:"


def sweep(found: dict[str, Any], place: Place) -> list[str]:
    def chosen(cell: dict[str, Any]) -> str:
        return ", ".join(f"{of['family']} {of['k']} ({of['bic']:.1f})" for of in cell.get("chosen") or []) or NONE

    def title(found: dict[str, Any]) -> str:
        asked = f"{grid(found)}, {found['n_restarts']} restarts, (N, D) = ({found['n']}, {found['d']})"
        return f"{asked}, chosen by BIC:"

    cells = [cell for cell in place.cells(found) if cell.get("programs")]
    return [*timed(title, {"chosen (BIC)": chosen})(found, place), *map(shared, cells)]


def grid(found: dict[str, Any]) -> str:
    return f"K from {found['counts'][0]} to {found['counts'][-1]}, {len(found['families'])} types"


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
        how = f"each end then run on to tol {found['polish']:g}"
    title = (
        f"{grid(found)}, (N, D) = ({found['n']}, {found['d']}), {found['seeds']} tables, {starts}, {how}, float64: "
        "mean log-likelihood, ours less scikit-learn's, nats."
    )
    if found["missing"]:
        return [title, f"missing: {found['missing']}"]
    least, cells = found["not_below"], [{**cell, "off": cell["ours"] - cell["theirs"]} for cell in found["cells"]]

    def line(name: str, offs: list[float]) -> list[Any]:
        fine, above, far = (sum(test) for test in zip(*((o >= -least, o > least, o < -FAR) for o in offs), strict=True))
        return [name, f"{fine} of {len(offs)}", above, far, f"{min(offs):+.1e}", f"{max(offs):+.1e}"]

    of_types = (line(of, [cell["off"] for cell in cells if cell["family"] == of]) for of in found["families"])
    header = ["type", f"no more than {least:g} below", f"more than {least:g} above", f"more than {FAR:g} below"]
    worst = [
        f"- {c['family']} {c['k']}, table {c['seed']}: {c['off']:+.1e} ({c['our_steps']} steps, scikit-learn "
        f"{c['their_steps']})"
        for c in sorted(cells, key=lambda cell: cell["off"])[:5]
        if c["off"] < -least
    ]
    took = ""
    if found.get("our_s") and found.get("their_s"):
        ours, theirs = (duration(found[of]["median"]) for of in ("our_s", "their_s"))
        took = f"A table took ours {ours} and scikit-learn {theirs}, in the middle."
    shown = table([*header, "least", "largest"], [*of_types, line("all", [cell["off"] for cell in cells])])
    return [title, shown, took, "The lowest cells:\n\n" + "\n".join(worst) if worst else ""]


def choices(found: dict[str, Any], place: Place) -> list[str]:
    """What is chosen by BIC on real data, ours beside mclust's, and how the likelihoods of the cells compare."""
    if found["device"] != place.device:
        return []
    title = (
        f"K and family by BIC on real data, {found['n_restarts']} restarts, tol {found['tol']:g}, beside mclust's "
        "choice among the same; cells by log-likelihood (the total, nats), ours against mclust's:"
    )
    if found["missing"]:
        return [title, f"missing: {found['missing']}"]

    def line(of: dict[str, Any]) -> list[Any]:
        offs = [fit["ours"] - fit["theirs"] for fit in of["fits"] if fit["status"] not in ("COLLAPSED", "NON_FINITE")]
        chosen = (f"{family} {k} ({bic:.2f})" for family, k, bic in of["chosen"].values())
        higher, lower = sum(off > SAME for off in offs), sum(off < -SAME for off in offs)
        counts = (len(offs) - higher - lower, higher, lower, len(of["fits"]) - len(offs))
        return [of["data"], f"{of['n']} × {of['d']}", *chosen, *counts]

    header = ["data", "size", "ours (BIC)", "mclust (BIC)", "same", "ours higher", "ours lower", "ours failed"]
    return [title, table(header, map(line, found["sets"]))]


def small(found: dict[str, Any], place: Place) -> list[str]:
    head: Columns = {
        "contender": lambda cell: " ".join(filter(None, [cell["contender"], cell["how"], cell["cache"]])),
        "dtype": "dtype",
    }
    body: Columns = {
        "import": "import_s",
        "first fit": "first_call_s",
        "second fit": "second_call_s",
        "mean log-likelihoods, nats": objectives,
        "steps": steps,
    }
    cells = place.cells(found)
    title = f"A first fit in a fresh process, (N, D, K) = {size(found)}, at the defaults:"
    return [title, by_columns(cells, head, body)] if cells else []


PARTS: dict[str, Callable[[dict[str, Any], Place], list[str]]] = {
    "restarts": timed(
        lambda found: f"{found['n_restarts']} restarts, full, (N, D, K) = {size(found)}:",
        {"mean log-likelihoods, nats": objectives, "steps of the best": steps},
    ),
    "sweep": sweep,
    "common_starts": beside,
    "free_starts": beside,
    "longer_starts": beside,
    "choices": choices,
    "small": small,
    "photograph": timed(photograph_title, {"mean log-likelihoods, nats": objectives, "steps": steps}),
}

IN_SHORT = {
    "restarts": lambda part: f"{part['n_restarts']} restarts, full, {size(part)}",
    "sweep": lambda part: (
        f"K = {part['counts'][0]} to {part['counts'][-1]}, {len(part['families'])} types, "
        f"{part['n_restarts']} restarts, ({part['n']}, {part['d']})"
    ),
}


def readme(place: Place) -> str:
    """The searches in a few lines, ours against scikit-learn's own way, in the first dtype."""
    searches = place.section("searches")
    asked = {name: (part, place.cells(part)) for name in IN_SHORT if (part := searches.get(name))}
    rows = [[IN_SHORT[name](part), *took(cells)] for name, (part, cells) in asked.items() if cells]
    if not rows:
        return ""
    dtype = next(cells[0]["dtype"] for _, cells in asked.values() if cells)
    header = ["search", "ours, first call", "ours, later", REFERENCE, f"{REFERENCE} / ours, later"]
    return paragraphs([f"Searches in {dtype}, {place.label}:", table(header, rows)])


def first_fit(place: Place) -> str:
    """What a first fit takes, in a sentence."""
    found = place.section("searches").get("small") or {}
    of = {cell["cache"]: cell for cell in place.cells(found) if cell["how"] == "fit"}
    if not all("first_call_s" in of.get(cache, {}) for cache in (None, "filled cache")):
        return ""
    first, cached = (duration(of[cache]["first_call_s"]) for cache in (None, "filled cache"))
    return (
        f"A first `fit` of one restart to {found['n']} rows takes {first}, nearly all of it to compile; {cached} in a "
        "process that finds the programs of an earlier one in JAX's cache; and the next fit "
        f"{duration(of[None]['second_call_s'])}."
    )


def took(cells: list[dict[str, Any]]) -> list[str]:
    """First and later calls of ours, scikit-learn's call, and their ratio."""
    dtype = cells[0]["dtype"]
    by_name = {cell["contender"]: cell for cell in cells if cell["dtype"] == dtype and not cell["missing"]}
    ours, theirs = by_name.get(OURS, {}), by_name.get(REFERENCE, {}).get("second_call_s")
    first, later = ours.get("first_call_s"), ours.get("second_call_s")
    return [*map(duration, (first, later, theirs)), digits(theirs / later if theirs and later else None)]

"""The section searches as Markdown: times beside ours, cells beside scikit-learn's, choices beside mclust's."""

from collections.abc import Callable
from typing import Any

from .markdown import NONE, Columns, bullets, by_columns, digits, duration, of_calls, paragraphs, size, table
from .ratios import OURS, REFERENCE, Place

SAME = 0.05  # nats of the total: mclust stops at a relative change of 1e-5
FAR = 1e-3  # nats: below that a tol of as much may be all there is to a difference


def objectives(cell: dict[str, Any]) -> str:
    return ", ".join(f"{value:.5f}" for value in cell["objectives"])


def steps(cell: dict[str, Any]) -> str:
    return ", ".join(map(str, cell["steps"]))


def chosen(cell: dict[str, Any]) -> str:
    return ", ".join(f"{of['family']} {of['k']} ({of['bic']:.1f})" for of in cell.get("chosen") or []) or NONE


def grid(found: dict[str, Any], word: str = "from") -> str:
    return f"K {word} {found['counts'][0]} to {found['counts'][-1]}, {len(found['families'])} types"


def photograph_title(found: dict[str, Any]) -> str:
    n = next((cell["n"] for cell in found["cells"] if not cell["missing"]), "?")
    return f"The pixels of a photograph ({n} × 3), K = {found['k']}, full, at most {found['max_steps']} steps:"


REACHED = {"mean log-likelihoods, nats": objectives}
TIMED: dict[str, tuple[Callable[[dict[str, Any]], str], Columns]] = {
    "restarts": (
        lambda found: f"{found['n_restarts']} restarts, full, (N, D, K) = {size(found)}:",
        {**REACHED, "steps of the best": steps},
    ),
    "sweep": (
        lambda found: (
            f"{grid(found)}, {found['n_restarts']} restarts, (N, D) = ({found['n']}, {found['d']}), chosen by BIC:"
        ),
        {"chosen (BIC)": chosen},
    ),
    "photograph": (photograph_title, {**REACHED, "steps": steps}),
}
"""Parts that are a line a contender and dtype: the title, and the columns beside the times."""

PARTS = ("restarts", "sweep", "common_starts", "free_starts", "longer_starts", "choices", "small", "photograph")

SMALL_HEAD: Columns = {
    "contender": lambda cell: " ".join(filter(None, [cell["contender"], cell["how"], cell["cache"]])),
    "dtype": "dtype",
}
SMALL_BODY: Columns = {
    "import": "import_s",
    "first fit": "first_call_s",
    "second fit": "second_call_s",
    **REACHED,
    "steps": steps,
}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    parts = [said for name in PARTS if found.get(name) for said in part(name, found[name], place)]
    return [f"### Searches, {place.label}", *parts] if parts else []


def part(name: str, found: dict[str, Any], place: Place) -> list[str]:
    if name not in (*TIMED, "small"):
        show = choices if name == "choices" else beside
        return show(found) if found["device"] == place.device else []
    cells = place.cells(found)
    if not cells:
        return []
    if name == "small":
        title = f"A first fit in a fresh process, (N, D, K) = {size(found)}, at the defaults:"
        return [title, by_columns(cells, SMALL_HEAD, SMALL_BODY)]
    title_of, more = TIMED[name]
    compiled = [shared(cell) for cell in cells if cell.get("programs")]
    return [title_of(found), by_columns(cells, *of_calls(cells, more)), *compiled]


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


def beside(found: dict[str, Any]) -> list[str]:
    """Every cell of a sweep, ours beside scikit-learn's: a line for each type, and the worst cells."""
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

    def line(name: str, offs: list[float]) -> list[Any]:
        fine, above, far = (sum(test) for test in zip(*((o >= -least, o > least, o < -FAR) for o in offs), strict=True))
        return [name, f"{fine} of {len(offs)}", above, far, f"{min(offs):+.1e}", f"{max(offs):+.1e}"]

    of_types = (line(of, [cell["off"] for cell in cells if cell["family"] == of]) for of in found["families"])
    header = ["type", f"no more than {least:g} below", f"more than {least:g} above", f"more than {FAR:g} below"]
    worst = bullets(
        f"{c['family']} {c['k']}, table {c['seed']}: {c['off']:+.1e} ({c['our_steps']} steps, scikit-learn "
        f"{c['their_steps']})"
        for c in sorted(cells, key=lambda cell: cell["off"])[:5]
        if c["off"] < -least
    )
    took = ""
    if found.get("our_s") and found.get("their_s"):
        ours, theirs = (duration(found[of]["median"]) for of in ("our_s", "their_s"))
        took = f"A table took ours {ours} and scikit-learn {theirs}, in the middle."
    shown = table([*header, "least", "largest"], [*of_types, line("all", [cell["off"] for cell in cells])])
    return [title, shown, took, f"The lowest cells:\n\n{worst}" if worst else ""]


def choices(found: dict[str, Any]) -> list[str]:
    """What is chosen by BIC on real data, ours beside mclust's, and how the likelihoods of the cells compare."""
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

"""Sections that no run measures any more, as the report shows the results that README quotes; there stands what was
asked, and why it is settled. Each is called with what a result file holds of its section, and comes to Markdown.
"""

import math
from functools import partial
from typing import Any

from .first_calls import import_time
from .markdown import NONE, Columns, by_columns, digits, duration, percent, table
from .ratios import Place

ACCELERATED = ("squarem", "anderson", "lbfgs")
ONE = {"devices": "device", "processes": "process"}


def acceleration(found: dict[str, Any], place: Place) -> list[str]:
    """Passes of every way, and whether each keeps what was aimed at before it was written."""
    aims = found.get("targets") or {}
    ways = dict.fromkeys(("plain", *ACCELERATED))  # None where the optimum was not reached
    cells = [{**problem, **ways} for problem in found["problems"]]
    for cell in cells:
        cell.update((run["way"], run["passes"]) for run in cell.get("runs", []))
    made = [cell for cell in cells if not cell["missing"]]
    slowest = sorted(made, key=lambda cell: cell["plain"] or math.inf, reverse=True)[:3]

    def told(cell: dict[str, Any], way: str) -> str:
        plain, n = cell["plain"], cell[way]
        return "not reached" if n is None else f"{n} ({digits(plain / n)})" if n and plain else f"{n}"

    def kept(cell: dict[str, Any], way: str) -> str:
        plain, n = cell["plain"], cell[way]
        if None in (plain, n):
            return NONE if plain is None else "**missed**"
        is_met = plain >= aims["slow"] * n if cell in slowest else n <= aims["fast"] * plain
        return "met" if is_met else "**missed**"

    head: Columns = {"problem": lambda cell: cell["name"] + (" *" if cell in slowest else ""), "type": "family"}
    body: Columns = {"plain": "plain", **{way: partial(told, way=way) for way in ACCELERATED}}
    parts = [
        f"### Acceleration, {place.label}",
        f"Passes over the rows until the mean log-likelihood is within {found['within']:g} nats of what plain EM ends "
        "with, from the same start; in brackets how many times as many plain EM makes. *: the three slowest.",
        by_columns(cells, head, body),
    ]
    if aims and made:
        aim = {True: f"plain ≥ {aims['slow']:g} × its passes", False: f"passes ≤ {aims['fast']:g} × plain's"}
        lines = [[cell["name"], aim[cell in slowest], *(kept(cell, way) for way in ACCELERATED)] for cell in made]
        met = (f"{sum(kept(cell, way) == 'met' for cell in made)} of {len(made)}" for way in ACCELERATED)
        parts += ["What was aimed at:", table(["problem", "target", *ACCELERATED], [*lines, ["met", "", *met]])]
    return parts


def shapes(found: dict[str, Any], place: Place) -> list[str]:
    """A line a process."""

    def resident(made: dict[str, Any]) -> str:
        return ", ".join(f"{held / 2**20:.0f}" for held in made["resident_bytes_after"].values())

    body: Columns = {"programs compiled": "programs", "kept": "programs_kept", "mappings, at most": "mappings"}
    body = {**body, "MB resident after each 100 fits": resident, "seconds": "seconds"}
    return ["### Fits of many shapes in one process", by_columns(found["processes"], {"fits": "n_fits"}, body)]


def spread(found: dict[str, Any], place: Place) -> list[str]:
    """The file, rows in memory by both ways, and rows that are shared out; what misses its aim is marked."""
    aims = found["targets"]

    def marked(said: str, is_met: bool) -> str:
        return said if is_met else f"{said} **!**"

    def share(cell: dict[str, Any]) -> str:
        of = max(cell["read_s"]["median"], cell["in_memory_s"]) / cell["step_s"]["median"]
        return marked(percent(of), of >= aims["of_the_slower"])

    def held(cell: dict[str, Any]) -> str:
        resident = cell["resident_bytes"]
        return NONE if resident is None else marked(f"{resident / 1e6:.0f}", resident <= aims["resident_bytes"])

    def beside_memory(cell: dict[str, Any], name: str) -> str:
        seconds, whole = (cell["step_s"][way]["median"] for way in (name, "in memory"))
        more = marked(f"{100 * (seconds / whole - 1):+.0f} %", seconds <= (1 + aims["overhead"]) * whole)
        return f"{duration(seconds)} ({more})"

    def on(cell: dict[str, Any]) -> str:
        return f"{cell['number']} {ONE[cell['way']] if cell['number'] == 1 else cell['way']}"

    head: Columns = {"type": "family", "N": "n"}
    of_file: Columns = {
        "GB": lambda cell: digits(cell["bytes"] / 1e9),
        **{"survey": "survey_s", "step": "step_s", "reading the file": "read_s", "step in memory": "in_memory_s"},
        "slower of these / step": share,
        "RssAnon, MB": held,
    }
    of_fits: Columns = {
        "in memory": lambda cell: duration(cell["step_s"]["in memory"]["median"]),
        "an array in blocks": partial(beside_memory, name="array"),
        "a mapped file in blocks": partial(beside_memory, name="memmap"),
    }
    slower, over = (percent(aims[name]) for name in ("of_the_slower", "overhead"))
    return [
        f"### Rows in blocks, on devices, in processes, {place.label}",
        f"A file, D = {found['d']}, K = {found['k']}, float32; aims: {slower} and {aims['resident_bytes'] / 1e6:.0f} "
        "MB. **!** marks what misses its aim.",
        by_columns(found["streamed"], head, of_file),
        f"Rows that are in memory anyway, in memory and in blocks; aim: no more than {over} more.",
        by_columns(found["fits"], head, of_fits),
        "A step of full covariances, shared out:",
        by_columns(found["scaling"], {"on": on, "N": "n"}, {"step": "step_s", "bytes reduced": "{reduced_bytes}"}),
    ]


SECTIONS = {section.__name__: section for section in (acceleration, import_time, shapes, spread)}

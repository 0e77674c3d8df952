"""Sections that no run measures any more, since their question is answered: how the report shows the results that
README quotes. What was asked, and why it is settled, is told there; and which sections only older reports show.

Each is called with what a result file holds of its section, and comes to Markdown.
"""

import math
from functools import partial
from typing import Any

from .markdown import NONE, Columns, by_columns, digits, duration, percent, table
from .ratios import Place

ACCELERATED = ("squarem", "anderson", "lbfgs")


def acceleration(found: dict[str, Any], place: Place) -> list[str]:
    """Passes of every way, and whether each keeps what was aimed at before it was written."""
    ways = ("plain", *ACCELERATED)
    made: dict[str, dict[str, int | None]] = {
        problem["name"]: dict.fromkeys(ways) | {run["way"]: run["passes"] for run in problem["runs"]}
        for problem in found["problems"]
        if not problem["missing"]
    }  # None where the optimum was not reached
    slowest = sorted(made, key=lambda name: made[name]["plain"] or math.inf, reverse=True)[:3]

    def told(problem: dict[str, Any], way: str) -> str:
        plain, n = made[problem["name"]]["plain"], made[problem["name"]][way]
        return "not reached" if n is None else f"{n} ({digits(plain / n)})" if n and plain else f"{n}"

    head: Columns = {
        "problem": lambda problem: problem["name"] + (" *" if problem["name"] in slowest else ""),
        "type": "family",
    }
    body: dict[str, Any] = {"plain": lambda problem: made[problem["name"]]["plain"]}
    body |= {way: partial(told, way=way) for way in ACCELERATED}
    return [
        f"### Acceleration, {place.label}",
        f"Passes over the rows until the mean log-likelihood is within {found['within']:g} nats of what plain EM ends "
        "with, from the same start; in brackets how many times as many plain EM makes. *: the three slowest.",
        by_columns(found["problems"], head, body),
        *(targets(found["targets"], made, slowest) if found.get("targets") and made else []),
    ]


def targets(aims: dict[str, float], made: dict[str, dict[str, int | None]], slowest: list[str]) -> list[str]:
    def is_met(name: str, way: str) -> bool | None:
        plain, n = made[name]["plain"], made[name][way]
        if n is None or plain is None:
            return None if plain is None else False
        return plain >= aims["slow"] * n if name in slowest else n <= aims["fast"] * plain

    slow, fast = f"plain ≥ {aims['slow']:g} × its passes", f"passes ≤ {aims['fast']:g} × plain's"
    said = {True: "met", False: "**missed**", None: NONE}
    lines = []
    for name in made:
        lines.append([name, slow if name in slowest else fast, *(said[is_met(name, way)] for way in ACCELERATED)])
    n_met = (sum(is_met(name, way) is True for name in made) for way in ACCELERATED)
    lines.append(["met", "", *(f"{n} of {len(made)}" for n in n_met)])
    return ["What was aimed at:", table(["problem", "target", *ACCELERATED], lines)]


def starts(found: dict[str, Any], place: Place) -> list[str]:
    """A line for each `init_params`."""
    body: Columns = {
        "won / tied / lost": "{won} / {tied} / {lost}",
        "spiked": "spiked",
        "higher by, nats a row": "{higher_by:+.4f}",
        "distinct ends": "{ends:.1f}",
        "ours / theirs": lambda of: f"{duration(of['seconds'])} / {duration(of['peer_seconds'])}",
    }
    title = "### Best of {n_init} starts against scikit-learn's, {problems} problems of {n} × {d}, K = {k}, "
    return [title.format(**found) + place.label, by_columns(found["rows"], {"init_params": "init"}, body)]


def statistics(found: dict[str, Any], place: Place) -> list[str]:
    """A line for each number of clusters."""
    body: Columns = {
        f"p ≤ {found['level']}": lambda cell: f"{100 * cell['share']:.1f} %",
        "mean p": "{mean:.3f}",
        "Kolmogorov–Smirnov p": lambda cell: f"{cell['ks_p']:.3f}" if cell["is_null"] else "(not K clusters)",
        "no p-value": "n_left_out",
    }
    title = "### K against K + 1 components, {n_tables} tables, {n_samples} samples each, {family}, "
    head: Columns = {"clusters": "clusters", "N": "n", "K": "k"}
    return [title.format(**found) + place.label, by_columns(found["cells"], head, body)]


def shapes(found: dict[str, Any], place: Place) -> list[str]:
    """A line a process."""

    def resident(made: dict[str, Any]) -> str:
        return ", ".join(f"{held / 2**20:.0f}" for held in made["resident_bytes_after"].values())

    body: Columns = {"programs compiled": "programs", "kept": "programs_kept", "mappings, at most": "mappings"}
    body = {**body, "MB resident after each 100 fits": resident, "seconds": "seconds"}
    return ["### Fits of many shapes in one process", by_columns(found["processes"], {"fits": "n_fits"}, body)]


def import_time(found: dict[str, Any], place: Place) -> list[str]:
    """A sentence."""
    median = found["median"]
    target = f"; target {found['target']} s" if "target" in found else ""
    return [f"`import jaxgmm` adds {digits(median['jaxgmm'])} s to `import jax`'s {digits(median['jax'])} s{target}."]


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
        one = {"devices": "device", "processes": "process"}[cell["way"]]
        return f"{cell['number']} {one if cell['number'] == 1 else cell['way']}"

    head: Columns = {"type": "family", "N": "n"}
    of_file: Columns = {
        "GB": lambda cell: digits(cell["bytes"] / 1e9),
        "survey": "survey_s",
        "step": "step_s",
        "reading the file": "read_s",
        "step in memory": "in_memory_s",
        "slower of these / step": share,
        "RssAnon, MB": held,
    }
    of_fits: Columns = {
        "in memory": lambda cell: duration(cell["step_s"]["in memory"]["median"]),
        "an array in blocks": partial(beside_memory, name="array"),
        "a mapped file in blocks": partial(beside_memory, name="memmap"),
    }
    of_several: Columns = {"step": "step_s", "bytes reduced": lambda cell: cell["reduced_bytes"]}
    slower, over = (percent(aims[name]) for name in ("of_the_slower", "overhead"))
    return [
        f"### Rows in blocks, on devices, in processes, {place.label}",
        f"A file, D = {found['d']}, K = {found['k']}, float32; aims: {slower} and {aims['resident_bytes'] / 1e6:.0f} "
        "MB. **!** marks what misses its aim.",
        by_columns(found["streamed"], head, of_file),
        f"Rows that are in memory anyway, in memory and in blocks; aim: no more than {over} more.",
        by_columns(found["fits"], head, of_fits),
        "A step of full covariances, shared out:",
        by_columns(found["scaling"], {"on": on, "N": "n"}, of_several),
    ]


SECTIONS = {section.__name__: section for section in (acceleration, import_time, shapes, spread, starts, statistics)}

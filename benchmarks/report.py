"""Result files as tables and a picture: python -m benchmarks.report [RESULT.json …] [--short] [--plot …] …

Prints tables for every device of every file (the newest file of the suite where none is named, and acceleration from
the newest that has it). Nothing is measured here, and no figure comes from elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import hard_tables, markdown, others, picture, ratios
from .record import RESULTS, replace

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
KINDS = ("suite", "quick")
SECTIONS = (
    markdown.iteration,
    others.limits,
    others.first_calls,
    others.shapes,
    others.card,
    others.searches,
    others.many,
    hard_tables.hard,
    others.acceleration,
    others.growth,
    others.memory,
    others.spread,
    others.accuracy,
    others.import_time,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Results as tables and a picture.")
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULT.json", help="(the newest of the suite)")
    parser.add_argument("--short", action="store_true", help="only what fits on a screen")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the ratios to this PNG file")
    parser.add_argument("--hard", type=Path, metavar="PATH", help="draw the search on hard problems to this PNG file")
    parser.add_argument("--readme", type=Path, metavar="README.md", help="put the short table between its markers")
    given = parser.parse_args(arguments)
    try:
        results = [load(path) for path in given.results or [newest(RESULTS)]]
        print(short(results) if given.short else report(results))
        if not given.results and not given.short and not ratios.section(results[0], "acceleration"):
            print("\n" + earlier(RESULTS, "acceleration"))
        if given.plot is not None:
            picture.draw(ratios.places(results), given.plot)
        if given.hard is not None:
            picture.draw_hard(ratios.places(results), given.hard)
        if given.readme is not None:
            update(given.readme, results)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def newest(folder: Path) -> Path:
    """The suite's last file: names begin with the date."""
    found = sorted(folder.glob("*-suite.json"))
    if not found:
        raise ValueError(f"no result of the suite in {folder.name}/: run python -m benchmarks first.")
    return found[-1]


def earlier(folder: Path, name: str) -> str:
    """A section from the last file of the suite that has it: its targets are to be seen whatever was measured since."""
    for path in sorted(folder.glob("*-suite.json"), reverse=True):
        result = load(path)
        if ratios.section(result, name):
            kept = {
                key: value for key, value in result.items() if not isinstance(value, dict) or key in (*WHENCE, name)
            }
            return report([kept])
    return ""


WHENCE = ("machine", "versions", "options")  # beside the date and the commit


def load(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or result.get("benchmark") not in KINDS:
        raise ValueError(f"{path.name} is no result of the suite.")
    return result


def report(results: Sequence[dict[str, Any]]) -> str:
    """Everything that the files hold, as Markdown."""
    found = ratios.places(results)
    parts = ["## Benchmarks", "\n".join(f"- {markdown.provenance(place)}" for place in found)]
    if any((ratios.section(result, "options")).get("quick") for result in results):
        parts.append("A quick run, which shows that the suite works, and nothing about speed.")
    parts += [markdown.side_by_side(found)] if sum(bool(ratios.rows(place)) for place in found) > 1 else []
    parts += [part(place) for place in found for part in SECTIONS]
    return "\n\n".join(part for part in [*parts, *failures(results)] if part)


def short(results: Sequence[dict[str, Any]]) -> str:
    """The tables of README, and what a card can do."""
    found = ratios.places(results)
    parts = [markdown.readme(found)]
    for place in found:
        parts += [markdown.missing(place), others.card(place, others.CARD_IN_SHORT)]
    return "\n\n".join(part for part in [*parts, *failures(results)] if part)


def failures(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each section that failed."""
    held = [(name, section) for result in results for name, section in result.items() if is_failed(section)]
    return [f"The section {name} failed: {section['missing']}" for name, section in held]


def is_failed(held: Any) -> bool:
    return isinstance(held, dict) and bool(held.get("missing"))


def latest(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results, in the order of their dates, without the sections that a later one has."""
    ordered = sorted(results, key=lambda result: str(result.get("date")))
    always = {*WHENCE, "date", "commit", "kind"}
    kept = []
    for place, result in enumerate(ordered):
        newer = {name for other in ordered[place + 1 :] for name in other if name not in always}
        kept.append({name: value for name, value in result.items() if name not in newer})
    return kept


def update(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Replace what stands between the markers. ValueError where they are not there once each, in order."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"{path.name} needs the lines {BEGIN} and {END}, once each and in this order.")
    found = ratios.places(latest(results))
    told = [markdown.readme(found), others.readme(found), *map(hard_tables.readme, found)]
    if len(results) > 1:  # the first says itself where it is from
        told += [f"{markdown.provenance(place)}." for place in found if not ratios.rows(place)]
    short = "\n\n".join(part for part in told if part)
    new = f"{before}{BEGIN}\n{short}\n{END}{after}"
    replace(path, lambda unfinished: unfinished.write_text(new, encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(main())

"""Result files as tables and a picture: python -m benchmarks.report [RESULT.json …] [--short] [--plot …] …

Prints tables for every device of every file (the newest file of the suite where none is named, and what is settled from
the newest that has it). Nothing is measured here, and no figure comes from elsewhere.
"""

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import card, first_calls, hard, iteration, picture, ratios, searches, settled
from .markdown import bullets, paragraphs, provenance
from .ratios import Place
from .record import RESULTS, write

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
KINDS = ("suite", "quick")
WHENCE = ("machine", "versions", "options")  # beside the date and the commit
SECTIONS = (
    "iteration limits first_calls shapes card searches starts many hard acceleration memory spread statistics "
    "import_time"
).split()
"""In the order in which they are shown: by `tables` of a section's module, or by what `settled` has of that name."""


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
        if not given.results and not given.short:
            print("\n" + paragraphs(earlier(RESULTS, name) for name in settled.SECTIONS if not results[0].get(name)))
        for path, drawn in ((given.plot, picture.draw), (given.hard, picture.draw_hard)):
            if path is not None:
                drawn(ratios.places(results), path)
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
    """A section from the last file of the suite that has it: what is settled is seen whatever was measured since."""
    found = (load(path) for path in sorted(folder.glob("*-suite.json"), reverse=True))
    result = next((result for result in found if ratios.section(result, name)), {})
    kept = {of: value for of, value in result.items() if not isinstance(value, dict) or of in (*WHENCE, name)}
    return report([kept]) if kept else ""


def load(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or result.get("benchmark") not in KINDS:
        raise ValueError(f"{path.name} is no result of the suite.")
    return result


def of_section(name: str, place: Place) -> list[str]:
    """Its paragraphs, by its module's `tables`, or by `settled`."""
    found = place.section(name)
    tables = settled.SECTIONS.get(name) or importlib.import_module(f"benchmarks.{name}").tables
    return tables(found, place) if found else []


def report(results: Sequence[dict[str, Any]]) -> str:
    """Everything that the files hold, as Markdown."""
    found = ratios.places(results)
    parts = ["## Benchmarks", bullets(map(provenance, found))]
    if any(ratios.section(result, "options").get("quick") for result in results):
        parts.append("A quick run, which shows that the suite works, and nothing about speed.")
    if sum(bool(ratios.rows(place)) for place in found) > 1:
        parts.append(iteration.side_by_side(found))
    parts += [said for place in found for name in SECTIONS for said in of_section(name, place)]
    return paragraphs([*parts, *failures(results)])


def short(results: Sequence[dict[str, Any]]) -> str:
    """The tables of README, and what a card can do."""
    found = ratios.places(results)
    parts = [iteration.readme(found)]
    for place in found:
        parts += [iteration.missing(place), *card.tables(place.section("card"), place, card.IN_SHORT)]
    return paragraphs([*parts, *failures(results)])


def failures(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each section that failed."""
    held = [(name, section) for result in results for name, section in result.items() if isinstance(section, dict)]
    return [f"The section {name} failed: {found['missing']}" for name, found in held if found.get("missing")]


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
    write(path, f"{before}{BEGIN}\n{readme(results)}\n{END}{after}")


def readme(results: Sequence[dict[str, Any]]) -> str:
    """What README shows. Of several files, those that are not in its table of iterations are told of at the end."""
    found = ratios.places(latest(results))
    parts = [iteration.readme(found)]
    parts += [module.readme(place) for place in found for module in (searches, first_calls)]
    parts += map(hard.readme, found)
    if len(results) > 1:
        parts += [f"{provenance(place)}." for place in found if not ratios.rows(place)]
    return paragraphs(parts)


if __name__ == "__main__":
    raise SystemExit(main())

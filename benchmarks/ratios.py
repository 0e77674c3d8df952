"""Result files by device, and their section iteration as rows that can be compared: who is best, and by how much.

A peer whose objective after the same iterations from the same start lies more than WORSE nats under the reference's
did not do the same work. It is shown and marked, and is nobody's best peer. The reference is scikit-learn in float64
where it ran, else scikit-learn, else ours.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

OURS, REFERENCE = "jaxgmm", "scikit-learn"
WORSE = 1e-3  # nats
CPU_ALONE = ("first_calls", "shapes", "starts", "spread", "statistics", "import_time")  # name no device


class Place(NamedTuple):
    """One kind of device in one result file."""

    label: str  # "cpu", or "cpu, run 2" where several files have one
    device: str
    result: dict[str, Any]

    @property
    def suffix(self) -> str:
        """What to say of scikit-learn, which runs on the CPU alone."""
        return " on the CPU" if self.device != "cpu" else ""

    def section(self, name: str) -> dict[str, Any]:
        """A section of this file; empty where it was not run, failed, or is of another device."""
        found = section(self.result, name)
        device = "cpu" if name in CPU_ALONE else found.get("device", self.device)
        return found if device == self.device else {}

    def cells(self, found: dict[str, Any], name: str = "cells") -> list[dict[str, Any]]:
        """Those of a section's measurements that are of this device."""
        return [cell for cell in found.get(name, []) if cell["device"] == self.device]


class Row(NamedTuple):
    """One problem in one dtype, with the cell of every contender that is not missing, and why the others are."""

    problem: str
    dtype: str
    cells: dict[str, dict[str, Any]]
    missing: dict[str, str]
    reference: float | None  # objective, nats

    def seconds(self, contender: str | None) -> float | None:
        """Median seconds of an iteration; None where missing."""
        took = self.cells.get(contender or "", {}).get("seconds_per_iteration")
        return took["median"] if took else None

    def off(self, contender: str) -> float | None:
        """Objective above (or below) the reference, nats."""
        objective = self.cells.get(contender, {}).get("objective")
        return None if objective is None or self.reference is None else objective - self.reference

    def is_worse(self, contender: str) -> bool:
        off = self.off(contender)
        return off is not None and not off >= -WORSE  # NaN is worse

    def best_peer(self) -> str | None:
        """The fastest peer that did the work."""
        times = {name: self.seconds(name) for name in self.cells if name != OURS and not self.is_worse(name)}
        present = {name: seconds for name, seconds in times.items() if seconds is not None}
        return min(present, key=lambda name: present[name]) if present else None

    def over_ours(self, seconds: float | None) -> float | None:
        """How many times as long as ours a time is."""
        ours = self.seconds(OURS)
        return seconds / ours if ours and seconds is not None else None


def section(result: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a result file; empty where it was not run or failed."""
    found = result.get(name) or {}
    return {} if found.get("missing") else found


def places(results: Iterable[dict[str, Any]]) -> list[Place]:
    """Every device of every file, CPUs first."""
    found = sorted(((device, result) for result in results for device in devices(result)), key=lambda pair: pair[0])
    named = []
    for device, result in found:
        same = [other for kind, other in found if kind == device]
        number = next(i for i, other in enumerate(same, 1) if other is result)
        named.append(Place(device if len(same) == 1 else f"{device}, run {number}", device, result))
    return named


def devices(result: dict[str, Any]) -> list[str]:
    asked = section(result, "options").get("devices") or []
    return list(dict.fromkeys([*asked, *(cell["device"] for cell in section(result, "iteration").get("cells", []))]))


def rows(place: Place) -> list[Row]:
    """In the order of the file."""
    found: dict[tuple[str, str], Row] = {}
    for cell in place.cells(section(place.result, "iteration")):
        of = (cell["problem"], cell["dtype"])
        row = found.setdefault(of, Row(*of, {}, {}, reference(place, cell["problem"], cell["dtype"])))
        if cell.get("missing"):
            row.missing[cell["contender"]] = cell["missing"]
        else:
            row.cells[cell["contender"]] = cell
    return list(found.values())


def reference(place: Place, problem: str, dtype: str) -> float | None:
    """The objective that this problem should come to."""
    cells = [cell for cell in section(place.result, "iteration").get("cells", []) if cell["problem"] == problem]
    theirs = sorted((c for c in cells if c["contender"] == REFERENCE), key=lambda c: c["dtype"], reverse=True)
    ours = [c for c in place.cells({"cells": cells}) if (c["contender"], c["dtype"]) == (OURS, dtype)]
    known = (cell.get("objective") for cell in [*theirs, *ours] if not cell.get("missing"))  # float64 first
    return next((objective for objective in known if objective is not None), None)


def against_reference(place: Place, row: Row) -> float | None:
    """scikit-learn's time over ours; its time on the CPU of the same file where it does not run on this device."""
    theirs = row.seconds(REFERENCE)
    if theirs is None and place.device != "cpu":
        on_cpu = {(other.problem, other.dtype): other for other in rows(place._replace(device="cpu"))}
        other = on_cpu.get((row.problem, row.dtype))
        theirs = other.seconds(REFERENCE) if other else None
    return row.over_ours(theirs)


def against_best(row: Row) -> float | None:
    """The best peer's time over ours."""
    return row.over_ours(row.seconds(row.best_peer()))

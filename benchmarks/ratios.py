"""The iteration section of result files as rows that can be compared: who is best, and by how much.

A peer whose objective after the same iterations from the same start lies more than WORSE nats under the reference's
did not do the same work. It is shown and marked, and is nobody's best peer. The reference is scikit-learn in float64
where it ran, else scikit-learn, else ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

OURS, REFERENCE = "jaxgmm", "scikit-learn"
WORSE = 1e-3  # nats


class Place(NamedTuple):
    """One kind of device in one result file."""

    label: str  # "cpu", or "cpu, run 2" where several files have one
    device: str
    result: dict[str, Any]


class Row(NamedTuple):
    """One problem in one dtype, with the cell of every contender."""

    problem: str
    dtype: str
    cells: dict[str, dict[str, Any]]
    reference: float | None  # objective, nats

    def seconds(self, contender: str) -> float | None:
        """Median seconds of an iteration; None where missing."""
        cell = self.cells.get(contender)
        if not cell or cell.get("missing") or not cell.get("seconds_per_iteration"):
            return None
        return cell["seconds_per_iteration"]["median"]

    def off(self, contender: str) -> float | None:
        """Objective above (or below) the reference, nats."""
        cell = self.cells.get(contender)
        if not cell or cell.get("missing") or cell.get("objective") is None or self.reference is None:
            return None
        return cell["objective"] - self.reference

    def is_worse(self, contender: str) -> bool:
        off = self.off(contender)
        return off is not None and not off >= -WORSE  # NaN is worse

    def best_peer(self) -> str | None:
        """The fastest peer that did the work."""
        times = {name: self.seconds(name) for name in self.cells if name != OURS and not self.is_worse(name)}
        present = {name: seconds for name, seconds in times.items() if seconds is not None}
        return min(present, key=lambda name: present[name]) if present else None


def section(result: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a result file; empty where it was not run or failed."""
    found = result.get(name) or {}
    return {} if "missing" in found else found


def places(results: Iterable[dict[str, Any]]) -> list[Place]:
    """Every device of every file, CPUs first."""
    found = [(device, result) for result in results for device in devices(result)]
    found.sort(key=lambda pair: pair[0])
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
    grouped: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for cell in section(place.result, "iteration").get("cells", []):
        if cell["device"] == place.device:
            grouped.setdefault((cell["problem"], cell["dtype"]), {})[cell["contender"]] = cell
    return [Row(*key, cells, reference(place.result, key[0], cells)) for key, cells in grouped.items()]


def reference(result: dict[str, Any], problem: str, cells: dict[str, dict[str, Any]]) -> float | None:
    """The objective that this problem should come to."""
    all_cells = section(result, "iteration").get("cells", [])
    peer = [cell for cell in all_cells if (cell["problem"], cell["contender"]) == (problem, REFERENCE)]
    peer.sort(key=lambda cell: cell["dtype"], reverse=True)  # float64 first
    for cell in [*peer, cells.get(OURS, {})]:
        if not cell.get("missing") and cell.get("objective") is not None:
            return cell["objective"]
    return None


def against_reference(place: Place, row: Row) -> float | None:
    """scikit-learn's time over ours; its time on the CPU of the same file where it does not run on this device."""
    ours, theirs = row.seconds(OURS), row.seconds(REFERENCE)
    if theirs is None and place.device != "cpu":
        on_cpu = rows(place._replace(device="cpu"))
        key = (row.problem, row.dtype)
        theirs = next((other.seconds(REFERENCE) for other in on_cpu if (other.problem, other.dtype) == key), None)
    return None if not ours or theirs is None else theirs / ours


def against_best(row: Row) -> float | None:
    """The best peer's time over ours."""
    ours, best = row.seconds(OURS), row.best_peer()
    theirs = row.seconds(best) if best else None
    return None if not ours or theirs is None else theirs / ours

"""The section `hard` as Markdown, and the curves of its picture."""

from __future__ import annotations

import statistics
from typing import Any

from .markdown import NONE, digits, duration, table
from .ratios import OURS, Place, section

FLOOR = 1e-5  # nats: gaps under it are drawn as it, since tol leaves as much open


def held(place: Place) -> dict[str, Any]:
    """The section, where it was measured on this device."""
    found = section(place.result, "hard")
    return found if found.get("device") == place.device else {}


def objectives(problem: dict[str, Any]) -> list[float]:
    """All that anyone came to."""
    made = [*problem["ways"], *problem["peers"]]
    calls = [call["objective"] for one in made for call in one.get("calls", [])]
    return [*calls, *(run["objective"] for run in (problem["annealing"] or {}).get("runs", []))]


def size(problem: dict[str, Any]) -> str:
    return f"({problem['n']}, {problem['d']}, {problem['k']})"


def hard(place: Place) -> str:
    found = held(place)
    if not found:
        return ""
    parts = [
        f"### Hard problems, {place.label}",
        "Full covariances, float64. Times of a call of ours are without compiling, which stands apart; medians over "
        "seeds. A gap is how far the mean log-likelihood lies under the best that anyone found, in nats.",
        *(problem_table(problem) for problem in found["problems"]),
        races(found),
        annealing(found),
    ]
    return "\n\n".join(part for part in parts if part)


def problem_table(problem: dict[str, Any]) -> str:
    """Ours by the time that it took, and what scikit-learn's starts, one after the other, had found by then."""
    made = objectives(problem)
    if not made:
        return ""
    top = max(made)
    peers = [one for one in problem["peers"] if not one["missing"]]
    lines = []
    for one in problem["ways"]:
        if one["missing"]:
            lines.append([one["way"], f"missing: {one['missing']}", *[NONE] * (4 + len(peers))])
            continue
        seconds, reached = middle(one, "seconds"), middle(one, "objective")
        gaps = [top - call["objective"] for call in one["calls"]]
        spread = f"{digits(statistics.median(gaps))} ({digits(min(gaps))}–{digits(max(gaps))})"
        head = [one["way"], len(gaps), duration(one["compile_s"]), duration(seconds), spread]
        lines.append([*head, moves(one), *(until(peer, reached, seconds) for peer in peers)])
    header = ["ours", "seeds", "compiling", "time", "gap (least–largest)", "moves"]
    best = [
        f"- {one['peer']}: "
        + (
            f"missing: {one['missing']}"
            if one["missing"]
            else f"{len(one['calls'])} starts in {duration(one['calls'][-1]['seconds'])}, gap "
            f"{digits(top - one['calls'][-1]['objective'])}"
        )
        for one in problem["peers"]
    ]
    said = (
        f"{problem['name']}, (N, D, K) = {size(problem)}, best found {top:.5f}. Last columns: until scikit-learn's "
        "best so far was as good as the median of ours, and in brackets how many times as long that is."
    )
    asked = [f"until {peer['peer']} is as good" for peer in peers]
    return "\n\n".join(filter(None, [said, table([*header, *asked], lines), "\n".join(best)]))


def middle(one: dict[str, Any], name: str) -> float:
    return statistics.median(call[name] for call in one["calls"])


def moves(one: dict[str, Any]) -> str:
    """Moves out of an optimum that stood, of each seed."""
    made = [str(call["moves"]) for call in one["calls"] if "moves" in call]
    return ", ".join(made) or NONE


def until(peer: dict[str, Any], reached: float, seconds: float) -> str:
    """When this peer's best so far was as good."""
    there = next((call["seconds"] for call in peer["calls"] if call["objective"] >= reached - TIE), None)
    if there is None:
        return f"not in {duration(peer['calls'][-1]['seconds'])}"
    return f"{duration(there)} ({digits(there / seconds)})"


TIE = 1e-6  # nats


def races(found: dict[str, Any]) -> str:
    """For each problem, races by where they were cut."""
    lines = []
    for race in found["races"]:
        for row in race["rows"]:
            gaps = [digits(row[name]) for name in ("gap_race", "gap_equal_steps", "gap_whole")]
            shares = [f"{100 * row[name]:.0f} %" for name in ("share_of_steps", "better", "worse")]
            lines.append([f"{race['problem']}, {race['k']}", row["steps"], row["finalists"], *gaps, *shares])
    if not lines:
        return ""
    header = ["problem, K", "cut after", "finalists", "gap, race", "gap, whole at equal steps", "gap, all whole"]
    runners = max(race["runners"] for race in found["races"])
    said = (
        f"Races of {runners} starts, drawn {found['draws']} times from a pool of starts that were run whole: mean gaps "
        "to the pool's best, beside those of as many whole starts as make the same number of steps; the steps that a "
        f"race makes, of those of all its starts; and how often it ends more than {found['tie']:g} nats above, or "
        "below, those whole starts."
    )
    return f"{said}\n\n" + table([*header, "steps", "above", "below"], lines)


def annealing(found: dict[str, Any]) -> str:
    """What annealing came to from the starts of plain EM."""
    lines = []
    for problem in found["problems"]:
        of = problem["annealing"] or {}
        top = max(objectives(problem), default=0.0)
        runs = of.get("runs", [])
        plain = {run["seed"]: run["objective"] for run in runs if run["coldest"] == 1.0}
        for coldest in dict.fromkeys(run["coldest"] for run in runs):
            at = [run for run in runs if run["coldest"] == coldest]
            gaps = [top - run["objective"] for run in at]
            steps = statistics.median(run["steps"] for run in at)
            above = sum(run["objective"] > plain[run["seed"]] + TIE for run in at)
            shown = "plain EM" if coldest == 1.0 else f"from β = {coldest:g}"
            mean = digits(statistics.fmean(gaps))
            against = NONE if coldest == 1.0 else f"{above} of {len(at)}"
            lines.append([problem["name"], shown, mean, digits(min(gaps)), f"{steps:g}", against])
    if not lines:
        return ""
    header = ["problem", "annealing", "mean gap", "least gap", "steps", "above plain EM"]
    return "Deterministic annealing, which is not offered, from the same k-means++ starts:\n\n" + table(header, lines)


def readme(place: Place) -> str:
    """In short: how long scikit-learn takes until it is as good as ours."""
    lines = []
    for problem in held(place).get("problems", []):
        peers = [one for one in problem["peers"] if not one["missing"]]
        ways = [one for one in problem["ways"] if not one["missing"] and one["way"] in IN_SHORT]
        top = max(objectives(problem), default=0.0)
        for one in ways if peers else []:
            seconds, reached = middle(one, "seconds"), middle(one, "objective")
            name = f"{problem['name']} {size(problem)}, {one['way']}"
            lines.append([name, duration(seconds), digits(top - reached), until(peers[0], reached, seconds)])
    if not lines:
        return ""
    said = (
        f"Two problems with many optima in float64, {place.label}: the time of a call, without compiling; how far its "
        "mean log-likelihood lies under the best that was found, in nats; and until the best of scikit-learn's starts "
        "was as good, with how many times as long that is."
    )
    header = ["problem (N, D, K), search", OURS, "gap", "scikit-learn as good after"]
    return f"{said}\n\n" + table(header, lines)


IN_SHORT = ("1 start", "16 starts", "race of 16", "race of 16, escapes")


def curves(problem: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Points (seconds, gap) by name: ours a point a seed; a peer's best so far a point a start."""
    top = max(objectives(problem), default=0.0)
    made = [(one["way"], one) for one in problem["ways"]] + [(one["peer"], one) for one in problem["peers"]]
    return {
        name: [(call["seconds"], max(FLOOR, top - call["objective"])) for call in one["calls"]]
        for name, one in made
        if not one["missing"]
    }


def whole_starts(problem: dict[str, Any]) -> list[tuple[float, float]]:
    """The medians of (seconds, gap) of few starts and of many, without a race or escapes."""
    top = max(objectives(problem), default=0.0)
    made = [one for one in problem["ways"] if not one["missing"] and one["way"].split()[1:] in (["start"], ["starts"])]
    return sorted((middle(one, "seconds"), max(FLOOR, top - middle(one, "objective"))) for one in made)

"""Pictures: for every problem, how much longer than ours each peer takes for an iteration; and for the hard ones, how
far from the best optimum each way of searching is after how many seconds."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import hard
from .iteration import ran
from .markdown import size
from .ratios import OURS, Place, Row, rows
from .record import write

INK = "#7d7d7d"  # a grey that reads on white and on black: the ground is transparent
MARKERS = "osD^vPX*<>"
COLOURS = ("#3b8fd4", "#e08a1e", "#2aa079", "#c773ad", "#d9603b", "#8f7ae0", "#a59a2c", "#4fb0c6")
INKED = "axes.edgecolor axes.labelcolor grid.color legend.labelcolor text.color xtick.color ytick.color".split()
STYLE: dict[Any, Any] = {
    **dict.fromkeys(INKED, INK),
    **{"axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.25, "grid.linewidth": 0.6},
    **{"axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False},
    **{"savefig.dpi": 150, "savefig.transparent": True},
}


@contextmanager
def panels(
    n_rows: int, n_columns: int, inches: tuple[float, float], path: Path
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Axes, and a list for the handles of a legend above them all: what the block draws is written as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(n_rows, n_columns, figsize=inches, squeeze=False)
        handles: list[Any] = []
        yield list(axes.flat), handles
        figure.legend(handles=handles, loc="upper center", ncols=min(4, len(handles)))
        n_lines = -(-len(handles) // 4)
        figure.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.22 * n_lines) / inches[1]))
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        plt.close(figure)
    write(path, drawn.getvalue())


def draw(found: Sequence[Place], path: Path) -> None:
    """A panel for every device and dtype, written as PNG. ValueError where nothing can be compared."""
    shown = [(place, dtype, chosen) for place in found for dtype, chosen in by_dtype(rows(place)).items()]
    if not shown:
        raise ValueError("there is no iteration of ours with a peer's to compare: nothing to draw.")
    from matplotlib.patches import Patch

    every = [row for _, _, chosen in shown for row in chosen]
    peers = [name for name in ran(every) if name != OURS]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(peers)}
    widest = max(len(chosen) for _, _, chosen in shown)
    width = 3.0 + widest * max(0.9, 0.18 * (len(peers) + 1))
    with panels(len(shown), 1, (width, 3.6 * len(shown)), path) as (axes, handles):
        for ax, (place, dtype, chosen) in zip(axes, shown, strict=True):
            panel(ax, chosen, colours)
            ax.set_title(f"{place.label}, {dtype}")
        handles += [Patch(color=colour, label=name) for name, colour in colours.items()]
        if any(row.is_worse(name) for row in every for name in peers):
            handles.append(Patch(fill=False, edgecolor=INK, hatch="////", label="its objective is too low"))


def by_dtype(chosen: list[Row]) -> dict[str, list[Row]]:
    """The rows in which ours and a peer can be compared."""
    grouped: dict[str, list[Row]] = {}
    for row in chosen:
        if row.seconds(OURS) and any(row.seconds(name) is not None for name in row.cells if name != OURS):
            grouped.setdefault(row.dtype, []).append(row)
    return grouped


def panel(ax: Any, chosen: list[Row], colours: dict[str, str]) -> None:
    """Bars from 1 to the ratio, since on a logarithmic axis they have no other foot that means something."""
    each = 0.8 / len(colours)
    for i, (name, colour) in enumerate(colours.items()):
        for at, row in enumerate(chosen):
            if ratio := row.over_ours(row.seconds(name)):
                worse = {"fill": False, "edgecolor": colour, "hatch": "////"} if row.is_worse(name) else {}
                left = at + (i - (len(colours) - 1) / 2) * each
                ax.bar(left, ratio - 1.0, 0.9 * each, bottom=1.0, color=colour, **worse)
    ax.set_yscale("log", subs=[2, 5])
    low, high = ax.get_ylim()
    ax.set(xlim=(-0.6, len(chosen) - 0.4), ylim=(min(low, 0.5), max(high, 2.0)), ylabel="their time / ours")
    ax.axhline(1.0, color=INK, linewidth=1)
    ax.set_xticks(range(len(chosen)), [row.problem for row in chosen], rotation=20, ha="right")
    for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        which(lambda value, _: f"{value:g}")
    ax.grid(False, axis="x")


def draw_hard(found: Sequence[Place], path: Path) -> None:
    """A panel for each hard problem of the first place that has any, written as PNG. ValueError where none has."""
    problems = next((of["problems"] for place in found if (of := place.section("hard"))), [])
    problems = [problem for problem in problems if hard.top(problem) > -math.inf]
    if not problems:
        raise ValueError("no hard problem was measured: nothing to draw.")
    shown = [hard.curves(problem) for problem in problems]
    peers = list(dict.fromkeys(one["peer"] for problem in problems for one in problem["peers"]))
    ways = list(dict.fromkeys(name for curves in shown for name in curves if name not in peers))
    with panels(1, len(problems), (5.5 * len(problems), 4.6), path) as (axes, handles):
        for ax, problem, curves in zip(axes, problems, shown, strict=True):
            for name, points in curves.items():
                if name in peers:
                    style = {"color": INK, "linestyle": ("-", "--")[peers.index(name) % 2], "marker": "."}
                    ax.step(*zip(*points, strict=True), where="post", label=name, **style)
                else:
                    at = ways.index(name)
                    style = {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[at % len(MARKERS)], "markersize": 7}
                    ax.plot(*zip(*points, strict=True), linestyle="none", label=name, **style)
            more = hard.whole_starts(problem)
            if len(more) > 1:
                ax.plot(*zip(*more, strict=True), color=COLOURS[0], linewidth=1, label="starts run whole, medians")
            title = f"{problem['name']}, (N, D, K) = {size(problem)}"
            ax.set(xscale="log", yscale="log", title=title, xlabel="seconds, without compiling")
            ax.set_ylabel("nats under the best found")
        named = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        handles += named.values()

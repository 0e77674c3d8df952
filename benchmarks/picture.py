"""Pictures: for every problem, how much longer than ours each peer takes for an iteration; and for the hard ones, how
far from the best optimum each way of searching is after how many seconds."""

import io
import math
from collections.abc import Sequence
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
TITLE: dict[str, Any] = {"color": INK, "fontsize": 10, "loc": "left"}


def draw(found: Sequence[Place], path: Path) -> None:
    """A panel for every device and dtype, written as PNG. ValueError where nothing can be compared."""
    from matplotlib.patches import Patch

    panels = [(place, dtype, chosen) for place in found for dtype, chosen in by_dtype(rows(place)).items()]
    if not panels:
        raise ValueError("there is no iteration of ours with a peer's to compare: nothing to draw.")
    peers = [name for name in ran(row for _, _, chosen in panels for row in chosen) if name != OURS]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(peers)}
    widest = max(len(chosen) for _, _, chosen in panels)
    width = 3.0 + widest * max(0.9, 0.18 * (len(peers) + 1))
    figure, axes = empty(len(panels), 1, (width, 3.6 * len(panels)))
    for ax, (place, dtype, chosen) in zip(axes, panels, strict=True):
        panel(ax, chosen, colours)
        ax.set_title(f"{place.label}, {dtype}", **TITLE)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    if any(row.is_worse(name) for _, _, chosen in panels for row in chosen for name in peers):
        handles.append(Patch(fill=False, edgecolor=INK, hatch="////", label="its objective is too low"))
    finish(figure, handles, path)


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
    ax.set_ylim(min(low, 0.5), max(high, 2.0))
    ax.set_xlim(-0.6, len(chosen) - 0.4)
    ax.axhline(1.0, color=INK, linewidth=1)
    ax.set_ylabel("their time / ours", color=INK)
    ax.set_xticks(range(len(chosen)), [row.problem for row in chosen], rotation=20, ha="right")
    for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        which(lambda value, _: f"{value:g}")
    in_ink(ax, axis="y")


def draw_hard(found: Sequence[Place], path: Path) -> None:
    """A panel for each hard problem of the first place that has any, written as PNG. ValueError where none has."""
    problems = next((of["problems"] for place in found if (of := place.section("hard"))), [])
    problems = [problem for problem in problems if hard.top(problem) > -math.inf]
    if not problems:
        raise ValueError("no hard problem was measured: nothing to draw.")
    shown = [hard.curves(problem) for problem in problems]
    peers = list(dict.fromkeys(one["peer"] for problem in problems for one in problem["peers"]))
    ways = list(dict.fromkeys(name for curves in shown for name in curves if name not in peers))
    figure, axes = empty(1, len(problems), (5.5 * len(problems), 4.6))
    for ax, problem, curves in zip(axes, problems, shown, strict=True):
        for name, points in curves.items():
            if name in peers:
                style = {"where": "post", "color": INK, "linestyle": ("-", "--")[peers.index(name) % 2], "marker": "."}
                ax.step(*zip(*points, strict=True), label=name, **style)
            else:
                at = ways.index(name)
                style = {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[at % len(MARKERS)], "markersize": 7}
                ax.plot(*zip(*points, strict=True), linestyle="none", label=name, **style)
        more = hard.whole_starts(problem)
        if len(more) > 1:
            ax.plot(*zip(*more, strict=True), color=COLOURS[0], linewidth=1, label="starts run whole, medians")
        ax.set(xscale="log", yscale="log")
        ax.set_title(f"{problem['name']}, (N, D, K) = {size(problem)}", **TITLE)
        ax.set_xlabel("seconds, without compiling", color=INK)
        ax.set_ylabel("nats under the best found", color=INK)
        in_ink(ax, which="major")
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    finish(figure, list(handles.values()), path)


def empty(n_rows: int, n_columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure of so many inches, and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False)
    return figure, list(axes.flat)


def in_ink(ax: Any, **grid: Any) -> None:
    """In ink, on a transparent ground."""
    ax.tick_params(which="both", colors=INK)
    ax.set_axisbelow(True)
    ax.patch.set_alpha(0.0)
    for side in ax.spines.values():
        side.set_color(INK)
    ax.grid(color=INK, alpha=0.25, linewidth=0.6, **grid)


def finish(figure: Any, handles: list[Any], path: Path) -> None:
    """With a legend above all panels, written as PNG."""
    import matplotlib.pyplot as plt

    figure.legend(handles=handles, loc="upper center", ncols=min(4, len(handles)), frameon=False, labelcolor=INK)
    n_lines = -(-len(handles) // 4)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.22 * n_lines) / figure.get_figheight()))
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150, transparent=True)
    write(path, drawn.getvalue())
    plt.close(figure)

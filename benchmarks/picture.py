"""The ratios as a picture: for every problem, how much longer than ours each peer takes for an iteration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .markdown import contenders
from .ratios import OURS, Place, Row, rows
from .record import replace

INK = "#7d7d7d"  # a grey that reads on white and on black: the ground is transparent
COLOURS = ("#3b8fd4", "#e08a1e", "#2aa079", "#c773ad", "#d9603b", "#8f7ae0", "#a59a2c", "#4fb0c6")


def draw(found: Sequence[Place], path: Path) -> None:
    """A panel for every device and dtype, written as PNG. ValueError where nothing can be compared."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    panels = [(place, dtype, chosen) for place in found for dtype, chosen in by_dtype(rows(place)).items()]
    if not panels:
        raise ValueError("there is no iteration of ours with a peer's to compare: nothing to draw.")
    peers = [name for name in contenders(row for _, _, chosen in panels for row in chosen) if name != OURS]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(peers)}
    widest = max(len(chosen) for _, _, chosen in panels)
    width = 3.0 + widest * max(0.9, 0.18 * (len(peers) + 1))
    figure, axes = plt.subplots(len(panels), 1, figsize=(width, 3.6 * len(panels)), squeeze=False)
    for ax, (place, dtype, chosen) in zip(axes[:, 0], panels, strict=True):
        panel(ax, chosen, peers, colours)
        ax.set_title(f"{place.label}, {dtype}", color=INK, fontsize=10, loc="left")
    handles = [Patch(color=colours[name], label=name) for name in peers]
    if any(row.is_worse(name) for _, _, chosen in panels for row in chosen for name in peers):
        handles.append(Patch(fill=False, edgecolor=INK, hatch="////", label="its objective is too low"))
    figure.legend(handles=handles, loc="upper center", ncols=min(4, len(handles)), frameon=False, labelcolor=INK)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.22 * -(-len(handles) // 4)) / (3.6 * len(panels))))
    replace(path, lambda unfinished: figure.savefig(unfinished, format="png", dpi=150, transparent=True))
    plt.close(figure)


def by_dtype(chosen: list[Row]) -> dict[str, list[Row]]:
    """The rows in which ours and a peer can be compared."""
    grouped: dict[str, list[Row]] = {}
    for row in chosen:
        if row.seconds(OURS) and any(row.seconds(name) is not None for name in row.cells if name != OURS):
            grouped.setdefault(row.dtype, []).append(row)
    return grouped


def panel(ax: Any, chosen: list[Row], peers: list[str], colours: dict[str, str]) -> None:
    each = 0.8 / len(peers)
    for i, name in enumerate(peers):
        for at, row in enumerate(chosen):
            ours, theirs = row.seconds(OURS), row.seconds(name)
            if ours and theirs and theirs > 0.0:
                worse = {"fill": False, "edgecolor": colours[name], "hatch": "////"} if row.is_worse(name) else {}
                left = at + (i - (len(peers) - 1) / 2) * each
                # From 1, since a bar on a logarithmic axis has no other foot that means something.
                ax.bar(left, theirs / ours - 1.0, 0.9 * each, bottom=1.0, color=colours[name], **worse)
    ax.set_yscale("log", subs=[2, 5])
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.5), max(high, 2.0))
    ax.set_xlim(-0.6, len(chosen) - 0.4)
    ax.axhline(1.0, color=INK, linewidth=1)
    ax.set_ylabel("their time / ours", color=INK)
    ax.set_xticks(range(len(chosen)), [row.problem for row in chosen], rotation=20, ha="right")
    for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        which(lambda value, _: f"{value:g}")
    ax.tick_params(which="both", colors=INK)
    ax.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.patch.set_alpha(0.0)
    for side in ax.spines.values():
        side.set_color(INK)

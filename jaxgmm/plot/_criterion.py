"""A sweep's criterion against the number of components."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..search.table import FAILURES, Cell, Sweep
from ._style import GREY, INK, MARKERS, colours_for, styled_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def criterion(sweep: Sweep, *, ax: Axes | None = None) -> Axes:
    """A sweep's criterion against K, one line per family, with a ring around the best fit.

    Failed fits leave a gap in the line. So do fits with a spurious component, which are chosen last whatever their
    criterion; a hollow mark shows its value. Returns the Axes. TypeError for anything but a `Sweep`.
    """
    if not isinstance(sweep, Sweep):
        raise TypeError(
            f"criterion draws a jaxgmm.Sweep, which jaxgmm.sweep(...) gives, got {type(sweep).__name__}: a single fit "
            "has no curve."
        )
    ax = styled_axes(ax)
    of_ridge = False
    families = list(dict.fromkeys(cell.family for cell in sweep.cells))
    colours = colours_for(len(families))
    for number, family in enumerate(families):
        cells = sorted((cell for cell in sweep.cells if cell.family == family), key=lambda cell: cell.K)
        values = [_value(cell, sweep.criterion) for cell in cells]
        is_sound = np.array([sweep.is_sound(cell) for cell in cells])
        ax.plot(
            [cell.K for cell in cells],
            np.where(is_sound, values, np.nan),
            marker=MARKERS[number % len(MARKERS)],
            color=colours[number],
            lw=1.6,
            ms=6,
            mec="white",
            mew=0.8,
            label=family,
        )
        spikes = [(cell.K, value) for cell, value, sound in zip(cells, values, is_sound, strict=True) if not sound]
        spikes = np.array([spike for spike in spikes if math.isfinite(spike[1])], float).reshape(-1, 2)
        if len(spikes):
            marker = MARKERS[number % len(MARKERS)]
            ax.plot(*spikes.T, marker, color=colours[number], ms=6, mfc="white", mew=1.2)
            of_ridge = True
    best = sweep.best_cell
    value = _value(best, sweep.criterion)
    if math.isfinite(value):
        ax.plot(
            best.K,
            value,
            "o",
            ms=15,
            mfc="none",
            mec=INK,
            mew=1.4,
            zorder=5,
            label=f"best: {best.family}, K = {best.K}",
        )
    if of_ridge:
        ax.plot([], [], "o", color=GREY, ms=6, mfc="white", mew=1.2, label="hollow: stands on the ridge")
    ax.set_xlabel("number of components K")
    name = "held-out log-likelihood, nats a row" if sweep.criterion == "held_out" else sweep.criterion.upper()
    ax.set_ylabel(f"{name} ({'larger' if sweep.larger_is_better else 'smaller'} is better)")
    ax.set_xticks(
        sorted({cell.K for cell in sweep.cells}) if len({c.K for c in sweep.cells}) <= 20 else ax.get_xticks()
    )
    for text in ax.legend(frameon=False).get_texts():
        text.set_parse_math(False)  # a family of a user's may be called anything
    return ax


def _value(cell: Cell, criterion: str) -> float:
    """A cell's criterion; NaN if it has none, or if the fit failed."""
    value = cell.by(criterion)
    return math.nan if value is None or cell.status in FAILURES else float(value)

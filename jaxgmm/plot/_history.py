"""The objective by step, of one run or of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._base.status import FAILED, Status
from ..search.result import FitResult
from ..search.table import Sweep
from ._style import GREY, PALETTE, styled_axes
from ._subject import history_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALE = "#D8B98A"
"""For runs that a race eliminated: paler than its finalists, and of another colour."""


def history(result: FitResult | Sweep | Any, *, ax: Axes | None = None) -> Axes:
    """Mean log-likelihood by step. For a `FitResult`: the best restart in bold, the others thin and grey behind it.

    Restarts that a race eliminated are paler than its finalists. If an escape made moves, they are drawn to the right
    of the restart they started from: a dot for the objective after each move, joined by a rising staircase, and the
    run after the last move, which starts below the objective that it surpasses. (Of earlier moves only the final
    objectives are kept.)

    Of a `Sweep` its best fit is drawn, and of an estimator its `result_`, or its `lower_bounds_` where there is none.

    For an array: one history (T,), or several (R, T); NaN ends a history. Returns the Axes. TypeError for what has
    none.
    """
    result = history_of(result)
    ax = styled_axes(ax)
    if isinstance(result, FitResult):
        _restarts(ax, result)
    else:
        lines = np.atleast_2d(np.asarray(result, np.float64))
        if lines.ndim != 2 or lines.size == 0:
            raise ValueError(f"Expected a FitResult or histories (T,) or (R, T), got shape {lines.shape}.")
        if len(lines) == 1:
            values = lines[0][np.isfinite(lines[0])]
            ax.plot(np.arange(len(values)), values, color=PALETTE[0], lw=2.2, zorder=3)
        else:
            _thin_lines(ax, lines, "restarts")
    ax.set_xlabel("EM step")
    ax.set_ylabel("mean log-likelihood (nats)")
    _whole_ticks(ax)
    ax.autoscale_view()
    return ax


def _restarts(ax: Axes, result: FitResult) -> None:
    """The histories of all restarts, the winner's bold, and the moves of an escape."""
    lines = np.asarray(result.restarts.history, np.float64)
    ended = np.asarray(result.restarts.status)
    winner = _winner(result)
    is_winner = np.arange(len(lines)) == winner
    # MAX_STEPS with fewer steps than the limit means that a race eliminated the run.
    is_out = (ended == Status.MAX_STEPS) & (np.asarray(result.restarts.n_steps) < lines.shape[1] - 1) & ~is_winner
    _thin_lines(ax, lines[is_out], "out of the race", colour=PALE)
    _thin_lines(ax, lines[~is_winner & ~is_out], "other restarts")
    _failures(ax, lines[np.isin(ended, FAILED)])
    best = lines[winner][np.isfinite(lines[winner])]
    name = Status(int(ended[winner])).name.lower().replace("_", " ")
    ax.plot(np.arange(len(best)), best, color=PALETTE[0], lw=2.2, zorder=3, label=f"best restart ({name})")
    heights = np.empty(0) if result.escapes is None else np.asarray(result.escapes, np.float64)
    if len(best):
        ax.plot(len(best) - 1, best[-1], "o", color=PALETTE[0], ms=6, mec="white", mew=1.0, zorder=4)
        if len(heights) > 1:
            _moves(ax, result, len(best) - 1, heights)
    if len(lines) > 1 or len(heights) > 1:
        ax.legend(loc="lower right", frameon=False)


def _winner(result: FitResult) -> int:
    """The index of the best restart: found by the result's history, or after an escape by its starting objective."""
    if result.escapes is not None and len(result.escapes) > 1:
        return int(np.argmax(np.asarray(result.restarts.objective) == np.asarray(result.escapes)[0]))
    lines, best = np.asarray(result.restarts.history), np.asarray(result.history)
    return int(np.argmax(np.all((lines == best) | (np.isnan(lines) & np.isnan(best)), axis=1)))


def _moves(ax: Axes, result: FitResult, start: int, heights: np.ndarray) -> None:
    """A staircase from the end of the best restart over the objectives after each move, and the last move's run."""
    last = np.asarray(result.history, np.float64)
    last = last[np.isfinite(last)]
    n_moves = len(heights) - 1
    longest = max(start, int(np.max(result.restarts.n_steps)), 1)
    places = start + max(1.0, 0.06 * longest) * np.arange(n_moves)
    places = np.append(places, places[-1] + max(len(last) - 1, 1))
    colour = PALETTE[1]
    ax.plot(places[-1] - np.arange(len(last))[::-1], last, color=colour, lw=1.4, zorder=3)
    ax.step(places, heights, where="pre", color=colour, lw=1.0, ls=(0, (2, 2)), zorder=2)
    name = Status(int(result.status)).name.lower().replace("_", " ")
    label = f"{n_moves} split-merge move{'' if n_moves == 1 else 's'} ({name})"
    ax.plot(places[1:], heights[1:], "o", color=colour, ms=6, mec="white", mew=1.0, zorder=4, label=label)


def _thin_lines(ax: Axes, lines: np.ndarray, name: str, colour: str = GREY) -> None:
    from matplotlib.collections import LineCollection

    segments = [np.column_stack([np.arange(np.isfinite(line).sum()), line[np.isfinite(line)]]) for line in lines]
    segments = [segment for segment in segments if len(segment)]
    if segments:
        alpha = float(np.clip(12.0 / len(segments), 0.25, 0.9))
        label = f"{len(segments)} {name}"
        ax.add_collection(LineCollection(segments, colors=colour, linewidths=0.9, alpha=alpha, zorder=2, label=label))
        ends = np.array([segment[-1] for segment in segments])
        ax.plot(*ends.T, ".", color=colour, ms=3.5, zorder=2)


def _failures(ax: Axes, lines: np.ndarray) -> None:
    """A cross at the end of each failed restart."""
    ends = [
        (int(np.isfinite(line).sum()) - 1, line[np.isfinite(line)][-1]) for line in lines if np.isfinite(line).any()
    ]
    if ends:
        label = f"{len(ends)} failed"
        ax.plot(*np.array(ends, float).T, "x", color=PALETTE[1], ms=6, mew=1.6, zorder=3, label=label)


def _whole_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))

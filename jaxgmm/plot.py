"""Pictures of mixtures, fits and searches, each drawn on one matplotlib Axes.

matplotlib is imported when a picture is drawn, and none of its global settings is touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._base import check
from ._base.status import FAILED, Status
from .estimator.gaussian_mixture import GaussianMixture, from_sklearn
from .mixture import Mixture
from .rows import _check as rows_check
from .search.result import FitResult
from .search.table import FAILURES, Cell, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 20_000
"""Most rows that are drawn: more would hide each other, and be slow to draw."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#4D4D4D")
"""Okabe and Ito's colours for all kinds of colour vision; violet replaces the yellow, too pale on white."""

MARKERS = "osD^vPX*<>h8dp"

GREY, INK = "#9AA0A6", "#222222"

PALE = "#D8B98A"
"""For runs that a race eliminated: paler than its finalists, and of another colour."""


def clusters(
    mixture: Mixture | FitResult | Sweep | Any,
    x: Any = None,
    *,
    dims: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    labels: Any = None,
) -> Axes:
    """The components in two features (or one): rows by component, means, ellipses at 1 and 2 standard deviations.

    mixture: a `Mixture`, or what holds one: a `FitResult`, a `Sweep` (its best), an estimator (scikit-learn's too).
    x: rows (N, D), of which at most 20 000, evenly spaced, are drawn. dims: the two features, whose marginal is shown;
    a single feature gives a histogram with the densities. labels: (N,) components to colour rows by; predicted if None.
    Returns the Axes. ValueError if shapes do not match, TypeError if there is no mixture.
    """
    mixture = _mixture_of(mixture)
    pair = _dims(dims, mixture.n_features)
    rows, of_row = _rows(mixture, x, labels)
    ax = _axes(ax)
    weights, means, covariances = (
        np.asarray(a, np.float64) for a in (mixture.weights, mixture.means, mixture.covariances)
    )
    colours = _colours(mixture.n_components)
    if len(pair) == 1:
        d = pair[0]
        _densities(
            ax, weights, means[:, d], np.sqrt(covariances[:, d, d]), colours, None if rows is None else rows[:, d]
        )
        ax.set_xlabel(f"feature {d}")
        ax.set_ylabel("density")
        return ax
    chosen = list(pair)
    if rows is not None:
        size = float(np.clip(4000.0 / len(rows), 2.0, 20.0))
        ax.scatter(
            *rows[:, chosen].T,
            s=size,
            c=[colours[k % len(colours)] for k in of_row],
            alpha=0.75 if len(rows) < 2000 else 0.35,
            linewidths=0,
            rasterized=len(rows) > 2000,
            zorder=1,
        )
    _ellipses(ax, weights, means[:, chosen], covariances[:, chosen][:, :, chosen], colours)
    ax.set_xlabel(f"feature {pair[0]}")
    ax.set_ylabel(f"feature {pair[1]}")
    ax.autoscale_view()
    return ax


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
    result = _history_of(result)
    ax = _axes(ax)
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
    ax = _axes(ax)
    of_ridge = False
    families = list(dict.fromkeys(cell.family for cell in sweep.cells))
    colours = _colours(len(families))
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


def _mixture_of(of: Any) -> Mixture:
    """The mixture, itself or of what holds one."""
    if isinstance(of, Sweep):
        of = of.best
    if isinstance(of, FitResult):
        of = of.mixture
    elif not isinstance(of, Mixture):
        of = _estimator(of, "clusters draws a jaxgmm.Mixture, a FitResult, a Sweep").mixture_
    if np.ndim(of.means) != 2:
        raise ValueError(
            f"clusters draws one mixture with means (K, D), got means of shape {np.shape(of.means)}. Take one, as of a "
            "result of fit_many: result[b]."
        )
    return of


def _history_of(of: Any) -> Any:
    """A `FitResult`, or histories as an array."""
    if isinstance(of, Sweep):
        of = of.best
    if isinstance(of, FitResult):
        if np.ndim(of.objective):
            raise ValueError("history draws one result, got a stack of them: take one, as result[b].")
        return of
    if isinstance(of, Mixture):
        raise TypeError("history draws a FitResult, which has the objective of each step. A Mixture has none.")
    if of is None or isinstance(of, str):
        raise TypeError(f"history draws a FitResult, a Sweep, histories or an estimator, got {of!r}.")
    if not hasattr(of, "get_params"):
        return of
    estimator = _estimator(of, "history draws a FitResult, a Sweep, histories")
    if hasattr(estimator, "result_"):
        return estimator.result_
    if getattr(estimator, "lower_bounds_", None):
        return estimator.lower_bounds_
    raise TypeError(
        f"This {type(of).__name__} has no history: its parameters were set, or learnt a batch at a time. Call fit."
    )


def _estimator(of: Any, else_what: str) -> GaussianMixture:
    """A fitted estimator, ours or scikit-learn's."""
    if isinstance(of, GaussianMixture):
        _ = of.mixture_  # an error if it is not fitted
        return of
    if not hasattr(of, "get_params") or isinstance(of, type):
        raise TypeError(f"{else_what} or an estimator, got {type(of).__name__}.")
    return from_sklearn(of)


def _axes(ax: Axes | None) -> Axes:
    """The Axes given, or a new one, with the style that all pictures share."""
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError('Pictures need matplotlib. Install it with: pip install "jaxgmm[plot]"') from error
        _, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#666666")
    ax.tick_params(colors="#444444")
    ax.grid(True, color="#E6E6E6", lw=0.7)
    ax.set_axisbelow(True)
    return ax


def _dims(dims: Sequence[int], n_features: int) -> tuple[int, ...]:
    if n_features == 1:
        return (0,)
    pair = tuple(check.count(d, "dims", least=0) for d in np.atleast_1d(np.asarray(dims)))
    if len(pair) not in (1, 2) or len(set(pair)) != len(pair) or max(pair) >= n_features:
        raise ValueError(f"dims must name one or two different features from 0 to {n_features - 1}, got {dims!r}.")
    return pair


def _rows(mixture: Mixture, x: Any, labels: Any) -> tuple[np.ndarray | None, np.ndarray]:
    """The rows to draw, evenly thinned, and their components."""
    if x is None:
        return None, np.empty(0, int)
    rows = rows_check.observations(x, "x")
    rows_check.last_axis(rows.shape, mixture.n_features)
    n_rows = len(rows)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (n_rows,):
            raise ValueError(f"labels must have shape ({n_rows},), one a row, got {labels.shape}.")
    kept = np.linspace(0, n_rows - 1, POINTS).round().astype(int) if n_rows > POINTS else np.arange(n_rows)
    rows = np.asarray(rows)[kept]
    of_row = np.asarray(mixture.predict(rows)) if labels is None else labels[kept]
    return rows.astype(np.float64), of_row.astype(int)


def _colours(n: int) -> list[Any]:
    """n colours from the palette, or, for more, from a perceptually uniform scale, with neighbours far apart on it."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    import matplotlib

    places = (0.5 + np.arange(n) * 0.6180339887498949) % 1.0  # golden-ratio steps keep successive colours apart
    ranks = places.argsort().argsort() / (n - 1)
    return [tuple(colour) for colour in matplotlib.colormaps["viridis"](0.95 * ranks)]


def _ellipses(ax: Axes, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, colours: list[Any]) -> None:
    """Ellipses at 1 and 2 standard deviations, and the means, numbered if there are few."""
    from matplotlib.patches import Ellipse

    lengths, axes = np.linalg.eigh(covariances)
    radii = np.sqrt(np.maximum(lengths, 0.0))
    numbered = len(means) <= 12
    for k, (mean, radius, axis, colour) in enumerate(zip(means, radii, axes, colours, strict=True)):
        if not weights[k] > 0.0:
            continue
        angle = math.degrees(math.atan2(axis[1, 1], axis[0, 1]))
        for deviations, width in ((1.0, 1.8), (2.0, 1.0)):
            # The larger radius comes last from eigh, and its direction is the ellipse's first axis.
            size = (2.0 * deviations * radius[1], 2.0 * deviations * radius[0])
            ax.add_patch(
                Ellipse(mean, *size, angle=angle, fill=False, edgecolor="white", lw=width + 1.6, alpha=0.7, zorder=2)
            )
            ax.add_patch(Ellipse(mean, *size, angle=angle, fill=False, edgecolor=colour, lw=width, zorder=3))
        marker = {"ms": 12, "mew": 1.4, "mfc": "white"} if numbered else {"ms": 5, "mew": 0.8, "mfc": colour}
        ax.plot(*mean, "o", mec=colour if numbered else "white", zorder=4, **marker)
        if numbered:
            ax.annotate(str(k), mean, ha="center", va="center_baseline", fontsize=8, color=INK, zorder=5)


def _densities(
    ax: Axes,
    weights: np.ndarray,
    means: np.ndarray,
    deviations: np.ndarray,
    colours: list[Any],
    values: np.ndarray | None,
) -> None:
    """A histogram of the values, each component's share of the density, and their sum."""
    low, high = np.min(means - 3.5 * deviations), np.max(means + 3.5 * deviations)
    if values is not None:
        values = values[np.isfinite(values)]
        low, high = min(low, values.min()), max(high, values.max())
        bins = int(np.clip(2.0 * len(values) ** (1 / 2), 12, 120))
        ax.hist(values, bins=bins, density=True, color="#D5D9DE", edgecolor="white", lw=0.4, zorder=1, label="data")
    grid = np.linspace(low, high, 1000)
    # A narrow component could fall between the points of an even grid.
    grid = np.unique(
        np.concatenate([grid, *(m + s * np.linspace(-4, 4, 81) for m, s in zip(means, deviations, strict=True))])
    )
    shares = weights / (np.sqrt(2.0 * np.pi) * deviations) * np.exp(-0.5 * ((grid[:, None] - means) / deviations) ** 2)
    for k, colour in enumerate(colours):
        ax.plot(
            grid, shares[:, k], color=colour, lw=1.6, zorder=2, label=f"component {k}" if len(colours) <= 8 else None
        )
    ax.plot(grid, shares.sum(axis=1), color=INK, lw=1.4, ls=(0, (4, 2)), zorder=3, label="mixture")
    ax.set_ylim(bottom=0.0)
    ax.legend(frameon=False)


def _value(cell: Cell, criterion: str) -> float:
    """A cell's criterion; NaN if it has none, or if the fit failed."""
    value = cell.by(criterion)
    return math.nan if value is None or cell.status in FAILURES else float(value)


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

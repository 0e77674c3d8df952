"""The components of a mixture in two features, or in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base import check
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows.conversion import observations
from ..search.result import FitResult
from ..search.table import Sweep
from ._style import INK, colours_for, styled_axes
from ._subject import mixture_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 20_000
"""Most rows that are drawn: more would hide each other, and be slow to draw."""


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
    mixture = mixture_of(mixture)
    pair = _dims(dims, mixture.n_features)
    rows, of_row = _rows(mixture, x, labels)
    ax = styled_axes(ax)
    weights, means, covariances = (
        np.asarray(a, np.float64) for a in (mixture.weights, mixture.means, mixture.covariances)
    )
    colours = colours_for(mixture.n_components)
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
    rows = observations(x, "x")
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

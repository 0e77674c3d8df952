"""The pictures that `fit` leaves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._base.files import atomically
from ..mixture import Mixture
from ..search.table import Sweep

LONGEST = 60
"""Characters of a column's name that are drawn."""


def pictures(out: Path, found: Sweep, x: np.ndarray, labels: np.ndarray, names: Sequence[str] | None) -> list[str]:
    """Draw the three pictures without pyplot, so that no display is needed. -> their file names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .. import plot

    dims = telling_features(found.best.mixture)

    def clusters(ax: Any) -> None:
        plot.clusters(found.best.mixture, x, dims=dims, ax=ax, labels=labels)
        if names is not None:
            ax.set_xlabel(drawable(names[dims[0]]), parse_math=False)
            if len(dims) > 1:
                ax.set_ylabel(drawable(names[dims[1]]), parse_math=False)

    def history(ax: Any) -> None:
        plot.history(found.best, ax=ax)

    def criterion(ax: Any) -> None:
        plot.criterion(found, ax=ax)

    written = []
    for name, draw in (("clusters", clusters), ("history", history), ("criterion", criterion)):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        with atomically(out / f"{name}.png") as file, warnings.catch_warnings():
            # The name of a column may be in a script that the font has not: it is drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(file, format="png", dpi=150)
        written.append(f"{name}.png")
    return written


def drawable(text: str) -> str:
    """Any text as one short line of characters that fonts can have."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def telling_features(mixture: Mixture) -> tuple[int, ...]:
    """The two features in which the components differ most: the largest share of variance between means."""
    weights, means = np.asarray(mixture.weights)[:, None], np.asarray(mixture.means)
    within = np.sum(weights * np.diagonal(np.asarray(mixture.covariances), axis1=1, axis2=2), axis=0)
    between = np.sum(weights * np.square(means - np.sum(weights * means, axis=0)), axis=0)
    share = between / (within + between)
    return tuple(int(d) for d in np.sort(np.argsort(-share, kind="stable")[:2]))

"""What all pictures have in common: colours, marks and the Axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#4D4D4D")
"""Okabe and Ito's colours for all kinds of colour vision; violet replaces the yellow, too pale on white."""

MARKERS = "osD^vPX*<>h8dp"

GREY, INK = "#9AA0A6", "#222222"


def styled_axes(ax: Axes | None) -> Axes:
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


def colours_for(n: int) -> list[Any]:
    """n colours from the palette, or, for more, from a perceptually uniform scale, with neighbours far apart on it."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    import matplotlib

    places = (0.5 + np.arange(n) * 0.6180339887498949) % 1.0  # golden-ratio steps keep successive colours apart
    ranks = places.argsort().argsort() / (n - 1)
    return [tuple(colour) for colour in matplotlib.colormaps["viridis"](0.95 * ranks)]

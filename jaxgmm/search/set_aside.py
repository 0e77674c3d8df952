"""Which fits a search set aside: those with a component whose width the ridge decides, and in which columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..mixture import Mixture, covariance_of
from .result import FitResult
from .spurious import SPURIOUS_ABOVE

SHOWN = 8
"""Components that are named below a printed table."""


class SetAside(NamedTuple):
    """A column in which a component of a fit is no wider than the ridge explains: why the fit was set aside."""

    family: str
    K: int
    component: int
    column: str | int  # its name, or its index where the source has no names
    deviation: float  # the component's standard deviation in it, in the column's unit
    resolution: float  # of the column over all rows, in its unit (see `rows/resolution.py`); NaN where it is not known
    given_others: bool = False  # whether the deviation is that given the other columns: the component lies in a plane

    def __str__(self) -> str:
        name = repr(self.column) if isinstance(self.column, str) else str(self.column)
        how = " given the other columns" if self.given_others else ""
        return f"column {name} (standard deviation{how} {self.deviation:.3g}, resolution {self.resolution:.3g})"


class Columns(NamedTuple):
    """What a search knows of the columns of its rows."""

    ridge: np.ndarray  # () or (D,)
    resolutions: np.ndarray  # (D,)
    names: tuple[str, ...] | None = None  # None where the source has none

    def name(self, place: int) -> str | int:
        return place if self.names is None else self.names[place]


def all_set_aside(
    results: Mapping[tuple[str, int], FitResult], order: Iterable[tuple[str, int]], columns: Columns | None
) -> list[SetAside]:
    """The columns in which components of these fits stand on the ridge, by fit and component."""
    found = []
    for of in filter(results.__contains__, order):
        spurious = np.flatnonzero(np.asarray(results[of].spurious))
        if not len(spurious):
            continue
        mixture = jax.device_get(results[of].mixture)
        for component in map(int, spurious):
            known = columns or Columns(np.zeros(()), np.full(mixture.means.shape[1], np.nan))
            for place, deviation, given_others in _columns_of(mixture, component, known.ridge):
                own = float(known.resolutions[place])
                found.append(SetAside(*of, component, known.name(place), deviation, own, given_others))
    return found


def _columns_of(mixture: Mixture, component: int, ridge: Any) -> list[tuple[int, float, bool]]:
    """The columns whose variance the ridge decides, with the standard deviations in them; or, where it decides that of
    a combination of columns alone, the one that is known best from the others, and how well."""
    only = np.zeros(mixture.means.shape[0], mixture.means.dtype)
    only[component] = 1.0
    covariance = np.asarray(mixture.scales.weighted_sum(only), np.float64)  # pyright: ignore
    variances = np.diagonal(covariance)
    each = np.broadcast_to(np.asarray(ridge, np.float64), len(variances))
    stands = each > SPURIOUS_ABOVE * variances
    of_all = each > SPURIOUS_ABOVE * np.diagonal(np.asarray(covariance_of(mixture)))  # as in a constant column
    alone = np.flatnonzero(stands & ~of_all if (stands & ~of_all).any() else stands)
    if len(alone):
        return [(int(place), float(np.sqrt(variances[place])), False) for place in alone]
    scale = np.sqrt(variances)
    given = 1.0 / np.diagonal(np.linalg.pinv(covariance / scale / scale[:, None], hermitian=True)) * variances
    place = int(np.argmin(given / np.where(each > 0.0, each, np.inf) if each.any() else given))
    return [(place, float(np.sqrt(given[place])), True)]


def cells_of(entries: Sequence[SetAside]) -> dict[tuple[str, int], str]:
    """For each fit that was set aside its components and columns, as text for a cell of a table."""
    components: dict[tuple[str, int], dict[int, list[str]]] = {}
    for entry in entries:
        components.setdefault((entry.family, entry.K), {}).setdefault(entry.component, []).append(str(entry.column))
    return {
        of: "; ".join(f"component {k}: {', '.join(names)}" for k, names in those.items())
        for of, those in components.items()
    }


def lines_of(entries: Sequence[SetAside]) -> list[str]:
    """Lines below a printed table: each component that was set aside, and its columns."""
    lines: dict[tuple[str, int, int], list[str]] = {}
    for entry in entries:
        lines.setdefault((entry.family, entry.K, entry.component), []).append(str(entry))
    shown = [
        f"    {family} K = {count}, component {component}: {', '.join(columns)}"
        for (family, count, component), columns in list(lines.items())[:SHOWN]
    ]
    left = len(lines) - len(shown)
    return [*shown, f"    and {left} more: Sweep.set_aside() names all"] if left else shown

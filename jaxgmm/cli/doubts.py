"""What is to be doubted of the columns of a table, and of a search: sentences for the user."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from .._base.status import Status, explain
from ..rows.readers import listed
from ..search.table import Sweep, counted


def of_columns(names: Sequence[str], x: np.ndarray) -> list[str]:
    """Sentences on columns of rows x (N, D) that seldom belong in a fit: of one value, or the numbers of the rows."""
    if len(x) < 3:
        return []
    columns = list(zip(names, x.T, strict=True))
    same = [name for name, column in columns if column.min() == column.max()]
    numbers = [name for name, column in columns if column[1] == column[0] + 1 and (np.diff(column) == 1).all()]
    said = []
    if same:
        said.append(
            f"the same value in every row of column {listed(same)}: that tells no rows apart, and its variance is the "
            "ridge alone."
        )
    if numbers:
        said.append(f"column {listed(numbers)} counts the rows, as an index does, and is fitted like the others.")
    return said


def of_search(found: Sweep, arguments: argparse.Namespace) -> Iterator[str]:
    """Where it was interrupted, and what its best fit does not hold."""
    if not found.is_complete:
        wanted = len(arguments.components) * len(dict.fromkeys(arguments.families))
        is_any_done = any(cell.status != Status.RUNNING.name for cell in found.cells)
        when = f"after {len(found.cells)} of {counted(wanted, 'fit')}" if is_any_done else "within the first fits"
        yield f"interrupted {when}: what follows is the best of those."
    status = Status(int(found.best.status))
    if status is not Status.CONVERGED:
        yield f"the best fit is {status.name}: {explain(status)}."
    if found.best.unresolved.any():
        more = "Fit with --dtype float64, or scale" if arguments.dtype == "float32" else "Scale"
        yield (
            "a covariance of the best fit is in some direction little more than the rounding errors of "
            f"{arguments.dtype}. {more} the columns, or leave out one that follows from the others."
        )
    if not found.is_sound(found.best_cell):
        yield ("a component of every fit, and of the best, stands on the ridge alone; the table says in which columns.")

"""The result of a sweep as a table of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from .._base import html
from .._base.deprecation import renamed
from .._base.status import FAILED, Status
from ..covariances import Form
from ..rows.batches import Batches
from ..rows.names import text_names
from ..rows.resolution import resolutions, rows_to_look_at
from ..rows.rows import Rows
from .criteria import CRITERIA, Criterion, Evidence, evidence, n_parameters
from .result import FitResult
from .set_aside import Columns, SetAside, all_set_aside, cells_of, lines_of


class Cell(NamedTuple):
    """One row of a sweep's table. The figures are those of the fit in `Sweep.results`."""

    family: str
    K: int
    log_likelihood: float  # total, nats
    n_params: int
    aic: float
    bic: float
    icl: float  # with the soft entropy
    n_steps: int
    status: str  # the name of a `Status`
    held_out: float | None = None  # mean over rows that the fits have not seen, nats; None without folds
    polished: bool = False  # whether the fit was run on to its optimum, beyond `tol`
    others: tuple[tuple[str, float | None], ...] = ()  # names and values of criteria besides these four

    def by(self, criterion: str) -> float | None:
        """The value of a criterion for the fit."""
        others = dict(self.others)
        return others[criterion] if criterion in others else getattr(self, criterion)


@dataclass(frozen=True)
class Sweep:
    """All fits of a search over families and numbers of components, and the values to choose by."""

    results: dict[tuple[str, int], FitResult]  # by (family, K)
    cells: tuple[Cell, ...]
    criterion: str  # its name
    spurious: frozenset[tuple[str, int]] = frozenset()  # (family, K) of fits with a spurious component
    groups: tuple[tuple[int, ...], ...] = ()  # the K that shared a program, for each family
    padding: float = 0.0  # share of padding among the components that were stepped; 0 where steps skip it
    is_complete: bool = True  # False if the search was interrupted: cells are then the finished ones, or, where none
    # is, those that were being fitted
    chosen_by: Criterion | None = None  # the criterion object, which may be a user's own
    of_columns: Columns | None = None  # of the rows: the ridge, resolutions and names; None where nothing was set aside

    @property
    def held_up(self) -> frozenset[tuple[str, int]]:
        """The old name of `spurious`, for one version."""
        return renamed("Sweep.held_up", "spurious", self.spurious)

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger value of the criterion is better."""
        return (self.chosen_by or CRITERIA[self.criterion]).larger_is_better

    @property
    def best_cell(self) -> Cell:
        """The best cell by the criterion. A fit with a spurious component wins only if all fits have one or failed, and
        a failed fit only if all failed."""
        return min(self.cells, key=self._rank)

    @property
    def best(self) -> FitResult:
        """The fit of the best cell."""
        return self.results[self.best_cell.family, self.best_cell.K]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the table's columns."""
        has_folds = any(cell.held_out is not None for cell in self.cells)
        left_out = {"others"}
        left_out |= set() if has_folds else {"held_out"}
        left_out |= set() if any(cell.polished for cell in self.cells) else {"polished"}
        own = tuple(name for name in Cell._fields if name not in left_out)
        own += tuple(name for name, _ in self.cells[0].others) if self.cells else ()
        return own + (("set_aside",) if self.spurious else ())

    def set_aside(self) -> list[SetAside]:
        """Why fits were set aside: for every component that stands on the ridge the columns in which it does, with its
        standard deviation there and the resolution of the column (the smallest difference between distinct values that
        is not rare). In the order of the table."""
        return all_set_aside(self.results, [(cell.family, cell.K) for cell in self.cells], self.of_columns)

    def with_names(self, names: Sequence[str]) -> Sweep:
        """The same, with these names for the columns (D,) of its rows."""
        return (
            self if self.of_columns is None else replace(self, of_columns=self.of_columns._replace(names=tuple(names)))
        )

    def table(self) -> list[dict[str, Any]]:
        """One dict per cell: family, K, log_likelihood (total, nats), n_params, aic, bic, icl, n_steps, status; also
        held_out (mean, nats) with folds, polished (bool) if a fit is, and set_aside, the components and columns, if a
        fit was set aside."""
        columns, why = self.columns, cells_of(self.set_aside())
        aside = [{"set_aside": why.get((cell.family, cell.K), "")} if self.spurious else {} for cell in self.cells]
        own = [name for name in columns if name != "set_aside"]
        return [{name: cell.by(name) for name in own} | more for cell, more in zip(self.cells, aside, strict=True)]

    def plot(self, ax: Any = None) -> Any:
        """The criterion against K, one line per family, on a matplotlib Axes. See `jaxgmm.plot.criterion`."""
        from ..plot import criterion

        return criterion(self, ax=ax)

    def is_sound(self, cell: Cell) -> bool:
        """Whether the fit of a cell did not fail and has no spurious component."""
        return cell.status not in FAILURES and (cell.family, cell.K) not in self.spurious

    def _rank(self, cell: Cell) -> tuple[bool, bool, float]:
        value = cell.by(self.criterion)
        value = math.inf if value is None or not math.isfinite(value) else value
        value = -value if self.larger_is_better and math.isfinite(value) else value
        return cell.status in FAILURES, not self.is_sound(cell), value

    @property
    def _title(self) -> str:
        best, interrupted = self.best_cell, "" if self.is_complete else ", interrupted"
        winner = f"the best by {self.criterion} is {best.family!r} with K = {best.K} (*)"
        return f"Sweep of {counted(len(self.cells), 'fit')}{interrupted}; {winner}"

    @property
    def _marks(self) -> list[str]:
        """For each cell "*" if it is the best, "^" if a component stands on the ridge alone, or " "."""
        best, spurious = self.best_cell, self.spurious
        return ["*" if cell is best else "^" if (cell.family, cell.K) in spurious else " " for cell in self.cells]

    @property
    def _best_is_spurious(self) -> bool:
        return (self.best_cell.family, self.best_cell.K) in self.spurious

    @property
    def _header(self) -> tuple[str, ...]:
        """The columns that are shown: what was set aside is said below the table."""
        return tuple(name for name in self.columns if name != "set_aside")

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return [tuple(_shown(cell.by(name)) for name in self._header) for cell in self.cells]

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        if not self.cells:
            return html.plain("Sweep of 0 fits")
        marks = self._marks
        rows = [(mark.strip(), *row) for mark, row in zip(marks, self._rows, strict=True)]
        notes = [NOTE] * ("^" in marks) + [BEST_NOTE] * self._best_is_spurious + lines_of(self.set_aside())
        table = html.table(self._title, ("", *self._header), rows, bold={marks.index("*")})
        return table + "".join(map(html.paragraph, notes))

    def __repr__(self) -> str:
        header, rows, marks = self._header, self._rows, self._marks
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        left = {"family", "status"}

        def line(mark: str, row: tuple[str, ...]) -> str:
            cells = zip(header, row, widths, strict=True)
            return f"{mark} " + "  ".join(t.ljust(w) if name in left else t.rjust(w) for name, t, w in cells).rstrip()

        body = [line(mark, row) for mark, row in zip(marks, rows, strict=True)]
        if "^" in marks:
            body.append(NOTE)
        if self._best_is_spurious:
            body.append(BEST_NOTE)
        body += lines_of(self.set_aside())
        return "\n".join([self._title, line(" ", header), *body])


NOTE = "^ a component stands on the ridge alone: such a fit is chosen last"

BEST_NOTE = "* a component stands on the ridge alone, and no fit without one succeeded"

SETTLED = (Status.CONVERGED, Status.NOT_MONOTONE)


def with_columns(found: Sweep, x: Any, rows: Rows, ridge: Any) -> Sweep:
    """The sweep with what is known of the columns of its rows, which a user gave as x, if it has set fits aside."""
    if not found.spurious:
        return found
    known = Columns(np.asarray(ridge), resolutions(rows_to_look_at(rows)), text_names(x, rows))
    return replace(found, of_columns=known)


FAILURES = {Status(status).name for status in FAILED}


def counted(number: int, thing: str) -> str:
    """A count with its noun in singular or plural, such as "1 fit" and "2 fits"."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if not abs(value) < 1e15:  # of weights in whatever unit
        return f"{value:.6g}"
    return f"{value:.2f}" if abs(value) >= 100.0 else f"{value:.4f}"


def _total(result: FitResult, said: Any, n: float) -> float:
    """The log-likelihood of rows of total weight n, nats."""
    # said[0] is Σ w (log density − objective): a float32 total over 1e6 rows is resolved only to about a nat.
    return float(result.objective) * n + float(said[0])


def held_out_total(result: FitResult, said: Any, n: float) -> float:
    """The log-likelihood of held-out rows, nats; NaN for a fit that failed or has a spurious component."""
    is_sound = int(result.status) not in FAILED and not np.asarray(result.spurious).any()
    return _total(result, said, n) if is_sound else math.nan


def cell_of(
    family: str,
    count: int,
    result: FitResult,
    said: tuple[Any, Any],
    n: float,
    held_out: float | None,
    chosen_by: Criterion,
    is_polished: bool = False,
) -> Cell:
    """The cell of one fit to rows of total weight n. is_polished: whether the search runs its best fits on to their
    optima. One that failed, has a spurious component or did not get there is not polished all the same."""
    log_likelihood = _total(result, said, n)
    p = int(n_parameters(result.mixture))
    known = Evidence(log_likelihood, p, n, float(said[1]), held_out)
    # Of the shelf, those that every table has: another one is a column where it is chosen by.
    asked = {name: each for name, each in CRITERIA.items() if name in Cell._fields} | {chosen_by.name: chosen_by}
    figures = {name: each.of(known) for name, each in asked.items()}
    own = {name: figures.pop(name) for name in Cell._fields if name in figures}
    return Cell(
        family=family,
        K=count,
        log_likelihood=log_likelihood,
        n_params=p,
        n_steps=int(result.n_steps),
        status=Status(int(result.status)).name,
        polished=is_polished and int(result.status) in SETTLED and not np.asarray(result.spurious).any(),
        others=tuple(figures.items()),
        **own,  # pyright: ignore
    )


def evidence_of(result: FitResult, batches: Batches) -> tuple[Array, Array]:
    # SAFE form only: run once per fit, its speed does not matter, and the program compiles in half the time.
    return evidence(result.mixture, batches, result.objective, kind="soft", form=Form.SAFE)

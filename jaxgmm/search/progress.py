"""Progress reports to a callback, and a progress bar on a terminal.

`fit` and `sweep` call the callback a few times a second, and with every block for rows that are read in blocks. The bar
is drawn ten times a second at most, so that showing it takes no measurable time.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from .._base.status import FAILED, Status
from . import _check


class Snapshot(NamedTuple):
    """The part of the states that progress reports are made from."""

    objective: np.ndarray  # (R,)
    status: np.ndarray  # (R,)
    n_steps: np.ndarray  # (R,)

    def ranks(self) -> np.ndarray:
        """Objectives by which runs compete: −inf for one that failed. -> (R,)."""
        has_failed = np.isin(self.status, FAILED) | ~np.isfinite(self.objective)
        return np.where(has_failed, -np.inf, self.objective)


class Progress(NamedTuple):
    """The argument of a progress callback of `fit`."""

    n_steps: int  # of the unfinished restart with the most steps; of all restarts if all have ended
    max_steps: int
    n_running: int  # restarts that have not ended, the waiting ones included
    n_restarts: int
    objective: float  # the best so far of those that have not failed
    n_read: int = 0  # rows read in the current pass, if rows are read in blocks
    n_rows: int = 0  # in all; 0 in the pass that counts them

    @classmethod
    def of(cls, runs: Snapshot, max_steps: int) -> Progress:
        """From a snapshot of the runs (R, ...)."""
        going = is_going(runs, max_steps)
        n_steps = int(np.max(runs.n_steps[going] if going.any() else runs.n_steps))
        return cls(n_steps, max_steps, int(going.sum()), len(going), float(np.max(runs.ranks())))


def is_going(runs: Snapshot, max_steps: int) -> np.ndarray:
    """Which of the runs have not ended. -> (R,) bool."""
    return (runs.status == Status.RUNNING) & (runs.n_steps < max_steps)


EVERY = 0.1
"""Least seconds between two redraws of the bar."""

EVERY_IN_FILE = 10.0
"""Least seconds between two lines where the bar cannot be redrawn."""

PATIENCE = 1.0
"""Seconds of work before the remaining time is shown."""

CELLS = 10
"""Characters of a full bar."""


class SweepProgress(NamedTuple):
    """The argument of a progress callback of `sweep`."""

    n_done: int  # fits done; with folds, every fold's fit counts
    n_cells: int  # fits in all
    family: str
    n_components: int
    cell: Progress  # of the current fit
    best: Any = None  # the best `Cell` so far


class CellsInTurn:
    """Reports the cells whose runs are made together, from snapshots of all: those that have ended since the last
    snapshot, and the first that has not."""

    def __init__(
        self, report: Callable[[int, Progress, int], None], runs_of: Mapping[int, np.ndarray], max_steps: int
    ) -> None:
        """report: takes a cell's number of components, its progress, and how many cells before it have ended. runs_of:
        the places of a cell's runs among all, by its number of components."""
        self.report, self.left, self.max_steps, self.n_ended = report, list(runs_of.items()), max_steps, 0

    def __call__(self, snapshot: Snapshot) -> None:
        while self.left:
            count, runs = self.left[0]
            cell = Progress.of(Snapshot(*(value[runs] for value in snapshot)), self.max_steps)
            self.report(count, cell, self.n_ended)
            if cell.n_running:
                return
            self.left.pop(0)
            self.n_ended += 1


class Count(NamedTuple):
    """Progress of work that consists of similar parts."""

    n_done: int
    n_parts: int
    name: str


Callback = Callable[[Any], None]


class Listener:
    """Wraps a callback, and repeats its last report whenever more rows of a pass have been read."""

    def __init__(self, tell: Callback, last: Any) -> None:
        """last: the report before anything is computed."""
        self.tell, self.last = tell, last

    def __call__(self, now: Any) -> None:
        self.last = now
        self.tell(now)

    def read(self, n_read: int, n_rows: int = 0) -> None:
        """Report that n_read rows of the current pass have been read, of n_rows; 0 if those are not counted yet."""
        rows = {"n_read": n_read, "n_rows": n_rows}
        last = self.last
        again = last._replace(**rows) if isinstance(last, Progress) else last._replace(cell=last.cell._replace(**rows))
        self.tell(again)


@contextlib.contextmanager
def listening(progress: bool | Callback | None, first: Any, criterion: str = "bic") -> Iterator[Listener | None]:
    """The listener for a user's `progress`: None for None and False; for True a `Bar`, which is cleared at the end, in
    process 0 only, and None where there is no standard error; else the user's function.

    first: the report before anything is computed. TypeError if progress is none of these.
    """
    is_shown = _check.progress(progress)
    if callable(progress):
        yield Listener(progress, first)
    elif not is_shown or sys.stderr is None or jax.process_index():
        yield None
    else:
        bar = Bar(sys.stderr, criterion)
        try:
            yield Listener(bar, first)
        finally:
            bar.clear()


class Bar:
    """A line on a terminal that is redrawn in place; a callback for `fit` and `sweep`.

    In a file, as of a service's log, nothing can be redrawn: there it is a line every `EVERY_IN_FILE` seconds, and the
    last one. What cannot be written, because the terminal is gone, is not shown: no fit ends for it.
    """

    def __init__(self, file: TextIO | None, criterion: str = "bic", every: float | None = None) -> None:
        self.file, self.criterion = file, criterion
        self.redraws = _is_terminal(file)
        self.every = every if every is not None else EVERY if self.redraws else EVERY_IN_FILE
        self.unwritten = ""
        self.n_drawn, self.share, self.what = 0, 0.0, None
        self.began, self.last = 0.0, -math.inf

    def __call__(self, now: Progress | SweepProgress | Count) -> None:
        seconds = time.monotonic()
        self.began = self.began or seconds
        share, what, text = self._told(now)
        # The bar never goes back, even if a run that ended is replaced by one at step 0.
        self.share = max(self.share, share)
        filled = round(CELLS * self.share)
        line = f"[{'#' * filled}{'.' * (CELLS - filled)}] {what}{text}{self._left(seconds - self.began)}"
        is_next = seconds - self.last >= self.every
        if is_next or (self.redraws and (what != self.what or self.share >= 1.0)):
            self.what, self.last = what, seconds
            self._draw(line)
        else:
            self.unwritten = line

    def _told(self, now: Progress | SweepProgress | Count) -> tuple[float, str, str]:
        """The share that is done, the current fit, and its figures as text."""
        if isinstance(now, Count):
            return now.n_done / now.n_parts, "", f"{now.n_done}/{now.n_parts} {now.name}"
        if isinstance(now, Progress):
            return _share(now), "", _in_figures(now, "best")
        what = f"{now.n_done + 1}/{now.n_cells} {now.family} K={now.n_components}  "
        share = (now.n_done + _share(now.cell)) / now.n_cells
        if now.best is None:
            return share, what, _in_figures(now.cell, "best")
        value = now.best.by(self.criterion)
        best = f"best {now.best.family} K={now.best.K} {self.criterion}={value:.6g}  "
        return share, what, best + _in_figures(now.cell, "this fit")

    def clear(self) -> None:
        """Erase the line; in a file, write the last one."""
        if not self.redraws and self.unwritten:
            self._draw(self.unwritten)
        if self.redraws and self.n_drawn:
            self._write("\r" + " " * self.n_drawn + "\r")
            self.n_drawn = 0

    def _left(self, seconds: float) -> str:
        """The remaining time, if no run ends before max_steps."""
        if seconds < PATIENCE or not 0.0 < self.share < 1.0:
            return ""
        return f"  {_in_words(seconds * (1.0 - self.share) / self.share)} left at most"

    def _draw(self, text: str) -> None:
        self.unwritten = ""
        if not self.redraws:
            self._write(text + "\n")
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + text.ljust(self.n_drawn))
        self.n_drawn = len(text)

    def _write(self, text: str) -> None:
        if self.file is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self.file.write(text)
            self.file.flush()


def _is_terminal(file: TextIO | None) -> bool:
    try:
        return file is not None and file.isatty()
    except (AttributeError, OSError, ValueError):
        return False


def _share(run: Progress) -> float:
    """The share of a fit that is done, by the restarts that have ended and the steps and rows of those that run."""
    read = run.n_read / run.n_rows if run.n_rows else 0.0
    return 1.0 - run.n_running / run.n_restarts * (1.0 - min(1.0, (run.n_steps + read) / max(run.max_steps, 1)))


def _in_figures(run: Progress, of: str) -> str:
    text = f"step {run.n_steps}/{run.max_steps}  "
    if run.n_read:
        text += f"row {run.n_read:.3g}" + (f"/{run.n_rows:.3g}  " if run.n_rows else "  ")
    text += f"{run.n_running}/{run.n_restarts} running"
    return text if run.objective == -math.inf else f"{text}  {of} {run.objective:.4f}"


def _in_words(seconds: float) -> str:
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2.0 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"

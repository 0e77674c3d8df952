"""How long work goes: what is told of it, and a line on a terminal that shows it.

`fit` and `sweep` tell a callback a few times a second, and for rows that are read in blocks with every block. A line is
drawn ten times a second at most, so that to be watched costs nothing that a clock would show.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from .._base.status import FAILED, Status
from . import _check


class Snapshot(NamedTuple):
    """The part of a state that progress is told from."""

    objective: np.ndarray  # (R,)
    status: np.ndarray  # (R,)
    n_steps: np.ndarray  # (R,)

    def ranks(self) -> np.ndarray:
        """Objectives by which runs compete: −inf for one that failed. -> (R,)."""
        has_failed = np.isin(self.status, FAILED) | ~np.isfinite(self.objective)
        return np.where(has_failed, -np.inf, self.objective)


class Progress(NamedTuple):
    """What a progress callback of `fit` is told."""

    n_steps: int  # of the restart that is furthest among those that have not ended; of all where all have
    max_steps: int
    n_running: int  # and waiting: those that have not ended
    n_restarts: int
    objective: float  # the best so far of those that have not failed
    n_read: int = 0  # rows of the pass under way, where each reads them anew and in blocks
    n_rows: int = 0  # in all; 0 in the pass that counts them

    @classmethod
    def of(cls, runs: Snapshot, max_steps: int) -> Progress:
        """Where the runs (R, ...) stand."""
        going = is_going(runs, max_steps)
        n_steps = int(np.max(runs.n_steps[going] if going.any() else runs.n_steps))
        return cls(n_steps, max_steps, int(going.sum()), len(going), float(np.max(runs.ranks())))


def is_going(runs: Snapshot, max_steps: int) -> np.ndarray:
    """Which of the runs are not at their ends. -> (R,) bool."""
    return (runs.status == Status.RUNNING) & (runs.n_steps < max_steps)


EVERY = 0.1
"""Seconds between two drawings of a line."""

PATIENCE = 1.0
"""Seconds of work before it is said how long the rest may take."""

CELLS = 10
"""Marks that a full bar has."""


class SweepProgress(NamedTuple):
    """What a progress callback of `sweep` is told."""

    n_done: int  # fits done; with folds, those without a fold count as well
    n_cells: int  # fits in all
    family: str
    n_components: int
    cell: Progress  # of the fit under way
    best: Any = None  # the best `Cell` of those that are done


class Count(NamedTuple):
    """Of work in parts that are alike."""

    n_done: int
    n_parts: int
    name: str


Callback = Callable[[Any], None]


class Listener:
    """A callback, which is told again what it was told last whenever more rows of a pass have been read."""

    def __init__(self, tell: Callback, last: Any) -> None:
        """last: what there is to tell before anything is computed."""
        self.tell, self.last = tell, last

    def __call__(self, now: Any) -> None:
        self.last = now
        self.tell(now)

    def read(self, n_read: int, n_rows: int = 0) -> None:
        """So many rows of the pass under way have been read, of n_rows; 0 where those are not counted yet."""
        rows = {"n_read": n_read, "n_rows": n_rows}
        last = self.last
        again = last._replace(**rows) if isinstance(last, Progress) else last._replace(cell=last.cell._replace(**rows))
        self.tell(again)


@contextlib.contextmanager
def listening(progress: bool | Callback | None, first: Any, criterion: str = "bic") -> Iterator[Listener | None]:
    """Who is told: nobody for None and False; for True a `Bar`, in the first of several processes, gone at the end.

    first: what there is to tell before anything is computed. TypeError for what is neither these nor a function.
    """
    is_shown = _check.progress(progress)
    if callable(progress):
        yield Listener(progress, first)
    elif not is_shown or jax.process_index():
        yield None
    else:
        bar = Bar(sys.stderr, criterion)
        try:
            yield Listener(bar, first)
        finally:
            bar.clear()


class Bar:
    """One line on a terminal, drawn over itself: callable as the progress of `fit` and `sweep`."""

    def __init__(self, file: TextIO, criterion: str = "bic", every: float = EVERY) -> None:
        self.file, self.criterion, self.every = file, criterion, every
        self.n_drawn, self.share, self.what = 0, 0.0, None
        self.began, self.last = 0.0, -math.inf

    def __call__(self, now: Progress | SweepProgress | Count) -> None:
        seconds = time.monotonic()
        self.began = self.began or seconds
        share, what, text = self._told(now)
        # A run that takes the place of one that ended begins at step 0, which is no reason to go back.
        self.share = max(self.share, share)
        if what == self.what and self.share < 1.0 and seconds - self.last < self.every:
            return
        self.what, self.last = what, seconds
        filled = round(CELLS * self.share)
        self._draw(f"[{'#' * filled}{'.' * (CELLS - filled)}] {what}{text}{self._left(seconds - self.began)}")

    def _told(self, now: Progress | SweepProgress | Count) -> tuple[float, str, str]:
        """How much is done, what is under way, and how it stands."""
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
        """Leave the line empty."""
        if self.n_drawn:
            self.file.write("\r" + " " * self.n_drawn + "\r")
            self.file.flush()
            self.n_drawn = 0

    def _left(self, seconds: float) -> str:
        """How long the rest takes if no run ends before its last step."""
        if seconds < PATIENCE or not 0.0 < self.share < 1.0:
            return ""
        return f"  {_in_words(seconds * (1.0 - self.share) / self.share)} left at most"

    def _draw(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]
        self.file.write("\r" + text.ljust(self.n_drawn))
        self.file.flush()
        self.n_drawn = len(text)


def _share(run: Progress) -> float:
    """How much of a fit is done: restarts that have ended count, and the steps and the pass of those that run."""
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

"""What the estimator prints while it fits."""

from __future__ import annotations

import time

import numpy as np

from ..search.progress import Progress


class Report:
    """scikit-learn's `verbose` output: at the start, every few iterations and at the end; with times from level 2."""

    def __init__(self, verbose: int) -> None:
        self.verbose = verbose
        self.began = self.last = time.perf_counter()
        self.before = -np.inf
        self.is_first = True

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        if self.is_first:
            self.is_first = False
            print(f"Initialization of {progress.n_restarts} restarts")
        elif progress.n_running:
            change = f"\t time lapse {now - self.last:.5f}s\t ll change {progress.objective - self.before:.5f}"
            print(f"  Iteration {progress.n_steps}" + (change if self.verbose >= 2 else ""))
        if not progress.n_running:
            tail = (
                f". time lapse {now - self.began:.5f}s\t lower bound {progress.objective:.5f}."
                if self.verbose >= 2
                else "."
            )
            print(f"Finished after {progress.n_steps} iterations{tail}")
        self.last, self.before = now, progress.objective

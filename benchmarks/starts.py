"""The best of n_init restarts, ours against scikit-learn's, by each `init_params`: who ends higher, and in which time.

Problems are N rows of K Gaussians of unit variance in two dimensions, from overlapping to apart; both programs run with
their defaults. One wins where its mean log-likelihood is higher by more than TIE. A problem on which either ends with a
component of a variance under SPIKE is told of apart: such a likelihood has no bound but the ridge. `ends` counts the
objectives of our restarts that differ by more than TIE.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from jaxgmm import GaussianMixture

from . import isolate
from .markdown import NONE, duration, table
from .options import Options
from .ratios import Place

INITS = ("kmeans", "k-means++", "random_from_data", "random")
N, D, K, N_INIT, PROBLEMS = 300, 2, 5, 4, 200
SPREADS = (1.0, 1.5, 2.5, 4.0)  # of the means, in standard deviations of a cluster
TIE, SPIKE = 1e-3, 1e-3
LIMIT = 600.0  # seconds for one of INITS
ALONE = {"OMP_NUM_THREADS": "1"}  # on so few rows a second thread costs scikit-learn more than it saves


def measure(options: Options) -> dict[str, Any]:
    count = 4 if options.quick else PROBLEMS
    rows = []
    for init in INITS:
        answer = isolate.run(compare, {"init": init, "count": count}, LIMIT, "cpu", ALONE, label=f"starts {init}")
        rows.append({"init": init, **answer})
    return {"n": N, "d": D, "k": K, "n_init": N_INIT, "problems": count, "tie": TIE, "rows": rows}


def compare(init: str, count: int) -> dict[str, Any]:
    """In a child: how often each of the two ends higher, and the seconds of all fits but the first."""
    from sklearn.mixture import GaussianMixture as Peer

    warnings.simplefilter("ignore")  # of runs that reach max_iter
    differences, ends, spiked, seconds = [], [], 0, np.zeros(2)
    for index in range(count):
        x = problem(index)
        fits = []
        for place, kind in enumerate((GaussianMixture, Peer)):
            began = time.perf_counter()
            fits.append(kind(K, n_init=N_INIT, init_params=init, random_state=index).fit(x))
            seconds[place] += (time.perf_counter() - began) * (index > 0)
        reached = np.sort(np.asarray(fits[0].result_.restarts.objective))
        ends.append(1 + int(np.sum(np.diff(reached[np.isfinite(reached)]) > TIE)))
        if min(np.linalg.eigvalsh(fit.covariances_).min() for fit in fits) < SPIKE:
            spiked += 1
        else:
            differences.append(float(fits[0].score(x)) - float(fits[1].score(x)))
    apart = np.array(differences)
    won, lost = int(np.sum(apart > TIE)), int(np.sum(apart < -TIE))
    found = {"won": won, "tied": len(apart) - won - lost, "lost": lost, "spiked": spiked}
    times = {"seconds": seconds[0], "peer_seconds": seconds[1]}
    return {**found, "higher_by": float(np.mean(apart)) if len(apart) else None, "ends": float(np.mean(ends)), **times}


def problem(index: int) -> np.ndarray:
    """Rows (N, D) of a problem."""
    rng = np.random.default_rng(index)
    means = rng.normal(size=(K, D)) * SPREADS[index % len(SPREADS)]
    return means[rng.integers(0, K, N)] + rng.normal(size=(N, D))


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line for each `init_params`."""

    def line(of: dict[str, Any]) -> list[Any]:
        if of["missing"]:
            return [of["init"], of["missing"], *[NONE] * 4]
        counts = f"{of['won']} / {of['tied']} / {of['lost']}"
        by = NONE if of["higher_by"] is None else f"{of['higher_by']:+.4f}"
        times = f"{duration(of['seconds'])} / {duration(of['peer_seconds'])}"
        return [of["init"], counts, of["spiked"], by, f"{of['ends']:.1f}", times]

    header = ["init_params", "won / tied / lost", "spiked", "higher by, nats a row", "distinct ends", "ours / theirs"]
    title = (
        f"### Best of {found['n_init']} starts against scikit-learn's, {found['problems']} problems of {found['n']} × "
        f"{found['d']}, K = {found['k']}, {place.label}"
    )
    return [title, table(header, map(line, found["rows"]))]

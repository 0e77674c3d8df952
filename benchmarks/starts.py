"""The best of n_init restarts, ours against scikit-learn's, by each `init_params`: who ends higher, and in which time.

Problems are rows of Gaussians of unit variance, from overlapping to apart; both programs run with their defaults. One
wins where its mean log-likelihood is higher by more than TIE. A problem on which either ends with a component of a
variance under SPIKE is told of apart: such a likelihood has no bound but the ridge. `ends` counts the objectives of our
restarts that differ by more than TIE.
"""

from typing import Any

import numpy as np

from . import isolate
from .child import estimator
from .markdown import NONE, Columns, by_columns, duration
from .options import Options
from .ratios import OURS, REFERENCE, Place
from .timing import stopwatch

INITS = ("kmeans", "k-means++", "random_from_data", "random")
SIZE = {"n": 300, "d": 2, "k": 5, "n_init": 4}
SPREADS = (1.0, 1.5, 2.5, 4.0)  # of the means, in standard deviations of a cluster
TIE, SPIKE = 1e-3, 1e-3
LIMIT = 600.0  # seconds for one of INITS
ALONE = {"OMP_NUM_THREADS": "1"}  # on so few rows a second thread costs scikit-learn more than it saves


def measure(options: Options) -> dict[str, Any]:
    count = 4 if options.quick else 200
    rows = [isolate.ask(compare, LIMIT, "cpu", ALONE, init=init, count=count, **SIZE) for init in INITS]
    return {**SIZE, "problems": count, "tie": TIE, "rows": rows}


def compare(init: str, count: int, n: int, d: int, k: int, n_init: int) -> dict[str, Any]:
    """In a child: how often each of the two ends higher, and the seconds of all fits but the first."""
    differences, ends, seconds = [], [], np.zeros(2)
    kinds = [estimator(contender) for contender in (OURS, REFERENCE)]
    for index in range(count):
        x = problem(index, n, d, k)
        models = [kind(k, n_init=n_init, init_params=init, random_state=index) for kind in kinds]
        times, (ours, theirs) = zip(*(stopwatch(model.fit, x) for model in models), strict=True)
        seconds += np.array(times) * (index > 0)
        reached = np.sort(np.asarray(ours.result_.restarts.objective))
        ends.append(1 + int(np.sum(np.diff(reached[np.isfinite(reached)]) > TIE)))
        if min(np.linalg.eigvalsh(fit.covariances_).min() for fit in (ours, theirs)) >= SPIKE:
            differences.append(float(ours.score(x)) - float(theirs.score(x)))
    apart = np.array(differences)
    won, lost = int(np.sum(apart > TIE)), int(np.sum(apart < -TIE))
    found = {"won": won, "tied": len(apart) - won - lost, "lost": lost, "spiked": count - len(apart)}
    found |= {"higher_by": float(np.mean(apart)) if len(apart) else None, "ends": float(np.mean(ends))}
    return {**found, "seconds": seconds[0], "peer_seconds": seconds[1]}


def problem(index: int, n: int, d: int, k: int) -> np.ndarray:
    """Rows (N, D) of a problem."""
    rng = np.random.default_rng(index)
    means = rng.normal(size=(k, d)) * SPREADS[index % len(SPREADS)]
    return means[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line for each `init_params`."""
    body: Columns = {
        "won / tied / lost": "{won} / {tied} / {lost}",
        "spiked": "spiked",
        "higher by, nats a row": lambda of: NONE if of["higher_by"] is None else f"{of['higher_by']:+.4f}",
        "distinct ends": "{ends:.1f}",
        "ours / theirs": lambda of: f"{duration(of['seconds'])} / {duration(of['peer_seconds'])}",
    }
    title = "### Best of {n_init} starts against scikit-learn's, {problems} problems of {n} × {d}, K = {k}, "
    return [by_columns(found["rows"], {"init_params": "init"}, body, title.format(**found) + place.label)]

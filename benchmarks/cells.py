"""Every cell of a sweep, ours beside scikit-learn's, from the same starts and each from its own; and beside mclust's.

All are float64. In child processes.
"""

import json
from itertools import product
from typing import Any

import jax
import numpy as np

import jaxgmm

from .child import Fitted, of_ours, of_scikit_learn, scikit_learn, stored, unlike_clusters
from .isolate import ROOT
from .problems import RIDGE, shaped
from .timing import spread, stopwatch

OF_MCLUST = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical", "EEI": "EEI", "VEI": "VEI"}
IN_ONE_DIMENSION = {"V": "full", "E": "tied"}


def common_starts(
    n: int, d: int, counts: list[int], families: list[str], seeds: int, tol: float, max_steps: int
) -> dict[str, Any]:
    """Each cell fitted by both from one k-means++ start of ours, given as weights, means and precisions."""
    peer = scikit_learn()
    found = []
    for seed, family, k in product(range(seeds), families, counts):
        x, key = unlike_clusters(seed, n, d, 5, "float64"), jax.random.key(seed)
        more: dict[str, Any] = {"ridge": RIDGE, "dtype": np.float64}
        start = of_ours(jaxgmm.fit(key, x, k, family, n_restarts=1, max_steps=0, **more).mixture)
        # Read back from what the peer is given, so that both begin with the same numbers.
        init = jaxgmm.Mixture.create(start.weights, start.means, start.covariances, family, dtype=np.float64)
        result = jaxgmm.fit(key, x, k, family, init=init, tol=tol, max_steps=max_steps, **more)
        asked = {"weights_init": start.weights, "means_init": start.means}
        asked |= {"precisions_init": shaped(np.linalg.inv(start.covariances), family)}
        how = {"tol": tol, "max_iter": max_steps, "reg_covar": RIDGE, "covariance_type": family}
        theirs = of_scikit_learn(peer(k, **how, **asked).fit(x))
        found.append(cell(seed, family, k, of_ours(result.mixture, result.n_steps), theirs, x))
    return {"cells": found}


def free_starts(
    n: int,
    d: int,
    counts: list[int],
    families: list[str],
    seeds: int,
    n_restarts: int,
    tol: float,
    their_restarts: int,
    polish: float,
) -> dict[str, Any]:
    """Each cell of a sweep of ours beside scikit-learn's fit, which but for its restarts is by default.

    Both mixtures are then run on by ours to the tol `polish`, and polished: what is compared is the optimum that was
    found, and not how near to it a tol stops. Seconds are of a table, without that, and of ours without the first,
    which compiles.
    """
    peer = scikit_learn()
    found: list[dict[str, Any]] = []
    our_s, their_s = [], []
    for seed in range(seeds):
        x = unlike_clusters(seed, n, d, 5, "float64")
        how: dict[str, Any] = {"tol": tol, "dtype": np.float64}
        seconds, swept = stopwatch(jaxgmm.sweep, jax.random.key(seed), x, counts, families, n_restarts, **how)
        our_s.append(seconds)
        their_s.append(0.0)
        for (family, k), result in swept.results.items():
            model = peer(k, covariance_type=family, n_init=their_restarts, random_state=seed)
            seconds, model = stopwatch(model.fit, x)
            their_s[-1] += seconds
            ends = (of_ours(result.mixture, result.n_steps), of_scikit_learn(model))
            ours, theirs = (polished(x, end, family, polish) for end in ends)
            found.append(cell(seed, family, k, ours, theirs, x))
    return {"cells": found, "our_s": spread(our_s[1:]), "their_s": spread(their_s)}


def polished(x: np.ndarray, found: Fitted, family: str, tol: float) -> Fitted:
    """The optimum that a mixture lies under, with the steps that were made to the mixture.

    EM goes on to `tol`, and an ascent from there. By the program of all steps: with an acceleration every type and K
    would compile one of its own.
    """
    init = jaxgmm.Mixture.create(found.weights, found.means, found.covariances, family, dtype=np.float64)
    more: dict[str, Any] = {"tol": tol, "max_steps": 5_000, "polish": True, "ridge": RIDGE}
    result = jaxgmm.fit(jax.random.key(0), x, len(init.weights), family, init=init, dtype=np.float64, **more)
    return of_ours(result.mixture, found.steps)


def cell(seed: int, family: str, k: int, ours: Fitted, theirs: Fitted, x: np.ndarray) -> dict[str, Any]:
    """Objectives (nats a row) and steps of both."""
    of = {"seed": seed, "family": family, "k": k, "ours": ours.objective(x), "theirs": theirs.objective(x)}
    return {**of, "our_steps": ours.steps, "their_steps": theirs.steps}


def choices(n_restarts: int, tol: float, max_steps: int) -> dict[str, Any]:
    """Sweeps of the data sets that mclust's fits are stored for, over the families and K that both have, by BIC.

    mclust begins each fit from one hierarchical clustering. Without a ridge, which it has not.
    """
    found = []
    for path in sorted((ROOT / "tests" / "data" / "mclust").glob("*.json")):
        truth = json.loads(path.read_text())
        names = OF_MCLUST if truth["d"] > 1 else IN_ONE_DIMENSION
        theirs = {(names[f["model"]], f["G"]): f for f in truth["grid_default"] if f["model"] in names and "df" in f}
        x = stored(path.stem, truth["d"])
        counts = sorted({k for _, k in theirs})
        more: dict[str, Any] = {"tol": tol, "max_steps": max_steps, "ridge": 0.0, "dtype": np.float64}
        swept = jaxgmm.sweep(jax.random.key(0), x, counts, list(names.values()), n_restarts, **more)
        cells = [
            {"family": of.family, "k": of.K, "ours": of.log_likelihood, "theirs": fit["loglik"], "status": of.status}
            for of in swept.cells
            if (fit := theirs.get((of.family, of.K)))
        ]
        best = max(theirs, key=lambda of: theirs[of]["bic_mclust"])
        chosen = {"ours": [swept.best_cell.family, swept.best_cell.K, swept.best_cell.bic]}
        chosen["theirs"] = [*best, -theirs[best]["bic_mclust"]]
        found.append({"data": path.stem, "n": len(x), "d": x.shape[1], "chosen": chosen, "fits": cells})
    return {"sets": found}

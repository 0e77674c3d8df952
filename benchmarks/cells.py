"""Every cell of a sweep, ours beside scikit-learn's, from the same starts and each from its own; and beside mclust's.

All are float64. In child processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .child import spread, stopwatch
from .searching import RIDGE, Fitted, of_scikit_learn, rows, scikit_learn, score

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
OF_MCLUST = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical", "EEI": "EEI", "VEI": "VEI"}
IN_ONE_DIMENSION = {"V": "full", "E": "tied"}


def common_starts(
    n: int, d: int, counts: list[int], families: list[str], seeds: int, tol: float, max_steps: int
) -> dict[str, Any]:
    """Each cell fitted by both from one k-means++ start of ours, given as weights, means and precisions."""
    import jax

    import jaxgmm

    peer = scikit_learn()
    found = []
    for seed in range(seeds):
        x = rows(seed, n, d, 5, "float64")
        for family in families:
            for k in counts:
                key = jax.random.key(seed)
                more: dict[str, Any] = {"ridge": RIDGE, "dtype": np.float64}
                begun = jaxgmm.fit(key, x, k, family, n_restarts=1, max_steps=0, **more).mixture
                start = fitted(begun, 0)
                # Read back from what the peer is given, so that both begin with the same numbers.
                init = jaxgmm.Mixture.create(start.weights, start.means, start.covariances, family, dtype=np.float64)
                result = jaxgmm.fit(key, x, k, family, init=init, tol=tol, max_steps=max_steps, **more)
                asked = {"weights_init": start.weights, "means_init": start.means}
                asked |= {"precisions_init": precisions(start.covariances, family)}
                how = {"tol": tol, "max_iter": max_steps, "reg_covar": RIDGE, "covariance_type": family}
                theirs = of_scikit_learn(peer(k, **how, **asked).fit(x))
                found.append(cell(seed, family, k, fitted(result.mixture, int(result.n_steps)), theirs, x))
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

    Both mixtures are then run on by ours to the tol `polish`: what is compared is the optimum that was found, and not
    how near to it a tol stops. Seconds are of a table, without that, and of ours without the first, which compiles.
    """
    import jax

    import jaxgmm

    peer = scikit_learn()
    found, took = [], []
    for seed in range(seeds):
        x = rows(seed, n, d, 5, "float64")
        how: dict[str, Any] = {"tol": tol, "dtype": np.float64}
        our_s, swept = stopwatch(jaxgmm.sweep, jax.random.key(seed), x, counts, families, n_restarts, **how)
        their_s = 0.0
        for (family, k), result in swept.results.items():
            model = peer(k, covariance_type=family, n_init=their_restarts, random_state=seed)
            seconds, model = stopwatch(model.fit, x)
            their_s += seconds
            ours, theirs = fitted(result.mixture, int(result.n_steps)), of_scikit_learn(model)
            ours, theirs = (polished(x, of, family, polish) for of in (ours, theirs))
            found.append(cell(seed, family, k, ours, theirs, x))
        took.append((our_s, their_s))
    ours, theirs = spread([ours for ours, _ in took[1:]]), spread([theirs for _, theirs in took])
    return {"cells": found, "our_s": ours, "their_s": theirs}


def polished(x: np.ndarray, found: Fitted, family: str, tol: float) -> Fitted:
    """The optimum that a mixture lies under, with the steps that were made to the mixture."""
    import jax

    import jaxgmm

    init = jaxgmm.Mixture.create(found.weights, found.means, found.covariances, family, dtype=np.float64)
    more: dict[str, Any] = {"tol": tol, "max_steps": 5_000, "acceleration": "lbfgs", "ridge": RIDGE}
    result = jaxgmm.fit(jax.random.key(0), x, len(init.weights), family, init=init, dtype=np.float64, **more)
    return fitted(result.mixture, found.steps)


def choices(n_restarts: int, tol: float, max_steps: int) -> dict[str, Any]:
    """Sweeps of the data sets that mclust's fits are stored for, over the families and K that both have, by BIC.

    mclust begins each fit from one hierarchical clustering. Without a ridge, which it has not.
    """
    import jax

    import jaxgmm

    found = []
    for path in sorted((DATA / "mclust").glob("*.json")):
        truth = json.loads(path.read_text())
        names = OF_MCLUST if truth["d"] > 1 else IN_ONE_DIMENSION
        theirs = {(names[f["model"]], f["G"]): f for f in truth["grid_default"] if f["model"] in names and "df" in f}
        lines = (DATA / f"{path.stem}.csv").read_text().splitlines()[1:]
        x = np.array([[float(value) for value in line.split(",")[: truth["d"]]] for line in lines])
        counts = sorted({k for _, k in theirs})
        more: dict[str, Any] = {"tol": tol, "max_steps": max_steps, "ridge": 0.0, "dtype": np.float64}
        swept = jaxgmm.sweep(jax.random.key(0), x, counts, list(names.values()), n_restarts, **more)
        cells = [
            {
                "family": cell.family,
                "k": cell.K,
                "ours": cell.log_likelihood,
                "theirs": theirs[cell.family, cell.K]["loglik"],
                "status": cell.status,
            }
            for cell in swept.cells
            if (cell.family, cell.K) in theirs
        ]
        best = max(theirs, key=lambda of: theirs[of]["bic_mclust"])
        chosen = {"ours": [swept.best_cell.family, swept.best_cell.K, swept.best_cell.bic]}
        chosen["theirs"] = [*best, -theirs[best]["bic_mclust"]]
        found.append({"data": path.stem, "n": len(x), "d": x.shape[1], "chosen": chosen, "fits": cells})
    return {"sets": found}


def cell(seed: int, family: str, k: int, ours: Fitted, theirs: Fitted, x: np.ndarray) -> dict[str, Any]:
    """Objectives (nats a row) and steps of both."""
    return {
        "seed": seed,
        "family": family,
        "k": k,
        "ours": score(ours, x),
        "theirs": score(theirs, x),
        "our_steps": ours.steps,
        "their_steps": theirs.steps,
    }


def fitted(mixture: Any, steps: int) -> Fitted:
    weights, means, covariances = map(np.asarray, (mixture.weights, mixture.means, mixture.covariances))
    return Fitted(weights, means, covariances, steps)


def precisions(covariances: np.ndarray, family: str) -> np.ndarray:
    """Dense covariances (K, D, D) as scikit-learn's precisions of the type."""
    inverse = np.linalg.inv(covariances)
    return {
        "full": lambda: inverse,
        "tied": lambda: inverse[0],
        "diag": lambda: np.diagonal(inverse, axis1=1, axis2=2),
        "spherical": lambda: inverse[:, 0, 0],
    }[family]()

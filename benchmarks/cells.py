"""Every cell of a sweep, ours beside scikit-learn's: from the same starts, and each from its own. In child processes.

Both are float64, and judged by `problems.objective`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .searching import RIDGE, Fitted, of_scikit_learn, rows, scikit_learn, score


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


def free_starts(n: int, d: int, counts: list[int], families: list[str], seeds: int, n_restarts: int) -> dict[str, Any]:
    """Each cell of a sweep of ours beside scikit-learn's fit, both with as many restarts and otherwise by default."""
    import jax

    import jaxgmm

    peer = scikit_learn()
    found = []
    for seed in range(seeds):
        x = rows(seed, n, d, 5, "float64")
        swept = jaxgmm.sweep(jax.random.key(seed), x, counts, families, n_restarts, dtype=np.float64)
        for (family, k), result in swept.results.items():
            theirs = of_scikit_learn(peer(k, covariance_type=family, n_init=n_restarts, random_state=seed).fit(x))
            found.append(cell(seed, family, k, fitted(result.mixture, int(result.n_steps)), theirs, x))
    return {"cells": found}


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

"""The children of `searches`: each function runs in a fresh process and times one contender at one task, or compares
the ends of two. The comparisons are in float64."""

import statistics
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from .child import Fitted, compilations, estimator, in_their_names, installed, of_ours, of_scikit_learn, scikit_learn
from .child import unlike_clusters as unlike_clusters
from .problems import RIDGE
from .timing import spread, stopwatch


def our_fit(seed: int, x: Any, k: int, family: str = "full", **how: Any) -> Fitted:
    """A fit of ours in the dtype of the rows. how: `fit`'s arguments."""
    import jax

    import jaxgmm

    result = jaxgmm.fit(jax.random.key(seed), x, k, family, dtype=x.dtype, ridge=RIDGE, **how)
    return of_ours(result.mixture, result.n_steps)


def their_fit(seed: int, x: Any, k: int, family: str = "full", **how: Any) -> Fitted:
    """A fit of scikit-learn's. how: by our names, or theirs."""
    model = scikit_learn()(k, covariance_type=family, random_state=seed, reg_covar=RIDGE, **in_their_names(how))
    return of_scikit_learn(model.fit(x))


def calls(contender: str, tables: list[np.ndarray], **how: Any) -> dict[str, Any]:
    """The first call and the later ones, each with its own table and seed, and what each of them reached."""
    estimator(contender)  # so that no import is in the time of a first call
    fit = our_fit if contender == "jaxgmm" else their_fit
    timed = [stopwatch(fit, seed, x, **how) for seed, x in enumerate(tables)]
    first, *later = (seconds for seconds, _ in timed)
    return {
        "first_call_s": first,
        "second_call_s": statistics.median(later),
        "objectives": [fitted.objective(x) for (_, fitted), x in zip(timed, tables, strict=True)],
        "steps": [fitted.steps for _, fitted in timed],
    }


def restarts(contender: str, dtype: str, n: int, d: int, k: int, later: int, **how: Any) -> dict[str, Any]:
    """Many restarts on a table of full covariances; later calls on other tables of its shape."""
    return calls(contender, [unlike_clusters(seed, n, d, k, dtype) for seed in range(1 + later)], k=k, **how)


def photograph(contender: str, dtype: str, k: int, every: int, later: int, **how: Any) -> dict[str, Any]:
    """The colours of every pixel, or of every `every`-th; later calls from other seeds."""
    image = installed("sklearn.datasets").load_sample_image("china.jpg")
    x = (image.reshape(-1, 3)[::every] / 255.0).astype(dtype)
    return {"n": len(x), "d": 3} | calls(contender, [x] * (1 + later), k=k, n_restarts=1, **how)


def sweep(contender: str, dtype: str, n: int, d: int, later: int, **how: Any) -> dict[str, Any]:
    """Every K with every type, chosen by BIC; K = 1 has one start, since all end in the same place."""
    tables = [unlike_clusters(seed, n, d, 5, dtype) for seed in range(1 + later)]
    is_ours = contender == "jaxgmm"
    heard = compilations() if is_ours else []
    search: Callable[..., dict[str, Any]] = our_sweep if is_ours else partial(their_sweep, contender)
    timed, compiled = [], [0]
    for seed, x in enumerate(tables):
        timed.append(stopwatch(search, seed, x, **how))
        compiled.append(len(heard))
    (first, *later_s), chosen = zip(*timed, strict=True)
    made = {"first_call_s": first, "second_call_s": statistics.median(later_s), "chosen": chosen}
    return made | ({"programs": np.diff(compiled).tolist()[:2]} if is_ours else {})


def our_sweep(seed: int, x: np.ndarray, counts: list[int], **how: Any) -> dict[str, Any]:
    import jax

    import jaxgmm

    swept = jaxgmm.sweep(jax.random.key(seed), x, counts, ridge=RIDGE, dtype=x.dtype, **how)
    best = swept.best_cell
    return {"family": best.family, "k": best.K, "bic": best.bic, "padding": swept.padding, "groups": swept.groups}


def their_sweep(
    contender: str, seed: int, x: np.ndarray, counts: list[int], families: list[str], n_restarts: int, **how: Any
) -> dict[str, Any]:
    """The best cell by a peer that is fitted one cell after the other."""
    peer, found = estimator(contender), []
    more = {"random_state": seed, "reg_covar": RIDGE, **in_their_names(how)}
    for family, k in product(families, counts):
        model = peer(k, covariance_type=family, n_init=n_restarts if k > 1 else 1, **more)
        found.append({"family": family, "k": k, "bic": float(model.fit(x).bic(x))})
    return min(found, key=lambda cell: cell["bic"])


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
    import jax

    import jaxgmm

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
    how: dict[str, Any] = {"tol": tol, "max_steps": 5_000, "polish": True, "init": found.mixture(family)}
    return our_fit(0, x, len(found.weights), family, **how)._replace(steps=found.steps)


def cell(seed: int, family: str, k: int, ours: Fitted, theirs: Fitted, x: np.ndarray) -> dict[str, Any]:
    """Objectives (nats a row) and steps of both."""
    of = {"seed": seed, "family": family, "k": k, "ours": ours.objective(x), "theirs": theirs.objective(x)}
    return {**of, "our_steps": ours.steps, "their_steps": theirs.steps}

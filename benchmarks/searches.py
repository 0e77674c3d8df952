"""What people run: 64 restarts, and a search over K and types.

Ours against scikit-learn, each in its own process, with the mean log-likelihood (nats, in float64 by
`problems.objective`) or the criterion reached beside every time. Both are given the same data, tol, step limit and
ridge. scikit-learn is timed with its own default start (a k-means of its own for every restart) and, as "scikit-learn,
k-means++" and in the first dtype, with the start that ours uses. A first call counts compiling; later calls fit other
data of the same shape: LATER of ours, and one of scikit-learn, which compiles nothing; of a sweep
LATER of everyone, on the same tables. The sweep, where ours is mostly compilation, is done in the first dtype.

Whether ours finds as good optima is asked of every cell of such a sweep, with as many restarts of each program's own.
Older results have more: cells from the same starts, which tests hold to end alike, choices beside mclust's, first fits
in fresh processes, which `first_calls` measures, and fits of the colours of a photograph.
"""

import statistics
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from . import isolate
from .child import Fitted, compilations, estimator, in_their_names, of_ours, of_scikit_learn, unlike_clusters
from .options import Options
from .problems import RIDGE
from .ratios import OURS, REFERENCE
from .searches_tables import tables as tables
from .timing import spread, stopwatch

VARIANT = f"{REFERENCE}, k-means++"
STARTS = {OURS: "k-means++", REFERENCE: "kmeans", VARIANT: "k-means++"}  # init, init_params
TOL = 1e-3
COMMON = {"tol": TOL, "max_steps": 200}
LATER = 3
LIMIT = 900.0  # seconds for one contender in one dtype
FREE = {"n_restarts": 8, "tol": TOL, "their_restarts": 8, "seeds": 5, "polish": 1e-6}
COMPARED = {"free_starts": FREE, "longer_starts": {**FREE, "n_restarts": 16, "tol": 1e-4}}
"""The longer ones are where ours may take more of the time that theirs does."""
NOT_BELOW = 1e-6  # nats a row by which a cell of ours may lie under theirs


def measure(options: Options) -> dict[str, Any]:
    quick, dtypes, device = options.quick, options.dtypes, options.devices[0]
    size = {"n": 1_000 if quick else 5_000, "d": 4}
    types = ["full", "tied", "diag", "spherical"][: 1 if quick else 4]
    grid = {**size, "counts": [2] if quick else list(range(1, 11)), "families": types}
    of_restarts = {**COMMON, **size, "k": 5, "n_restarts": 2 if quick else 64}
    of_sweep = {**COMMON, **grid, "n_restarts": 2 if quick else 8}
    found = {
        "restarts": beside_peers(options, restarts, of_restarts, dtypes, STARTS),
        "sweep": beside_peers(options, sweep, of_sweep, dtypes[:1], {**STARTS, "tgmm": "kpp"}),
    }
    if options.wants(OURS) and options.wants(REFERENCE):
        for name, how in COMPARED.items():
            request: dict[str, Any] = {**grid, **how} | ({"seeds": 1} if quick else {})
            found[name] = {"not_below": NOT_BELOW, **isolate.ask(free_starts, LIMIT, device, **request)}
    return found


def beside_peers(
    options: Options, function: isolate.Child, request: dict[str, Any], dtypes: tuple[str, ...], starts: dict[str, str]
) -> dict[str, Any]:
    """What a function below measures, for every contender, dtype and device."""
    found = []
    for device, dtype, contender in options.places(starts, dtypes):
        asked = {**request, "contender": contender.partition(",")[0], "init": starts[contender], "dtype": dtype}
        asked["later"] = LATER if contender == OURS or function is sweep else 1
        found.append({**isolate.ask(function, LIMIT, device, **asked), "contender": contender})
    return {**request, "cells": found}


def our_fit(seed: int, x: Any, k: int, family: str = "full", **how: Any) -> Fitted:
    """A fit of ours in the dtype of the rows. how: `fit`'s arguments."""
    import jax

    import jaxgmm

    result = jaxgmm.fit(jax.random.key(seed), x, k, family, dtype=x.dtype, ridge=RIDGE, **how)
    return of_ours(result.mixture, result.n_steps)


def their_fit(seed: int, x: Any, k: int, family: str = "full", **how: Any) -> Fitted:
    """A fit of scikit-learn's. how: by our names."""
    model = estimator(REFERENCE)(k, covariance_type=family, random_state=seed, reg_covar=RIDGE, **in_their_names(how))
    return of_scikit_learn(model.fit(x))


def restarts(contender: str, dtype: str, n: int, d: int, k: int, later: int, **how: Any) -> dict[str, Any]:
    """Many restarts on a table of full covariances, and later calls on other tables of its shape: seconds of the first
    and of the later ones, and what each of them reached."""
    estimator(contender)  # so that no import is in the time of a first call
    tables = [unlike_clusters(seed, n, d, k, dtype) for seed in range(1 + later)]
    fit = our_fit if contender == OURS else their_fit
    timed = [stopwatch(fit, seed, x, k, **how) for seed, x in enumerate(tables)]
    first, *later_s = (seconds for seconds, _ in timed)
    return {
        "first_call_s": first,
        "second_call_s": statistics.median(later_s),
        "objectives": [fitted.objective(x) for (_, fitted), x in zip(timed, tables, strict=True)],
        "steps": [fitted.steps for _, fitted in timed],
    }


def sweep(contender: str, dtype: str, n: int, d: int, later: int, **how: Any) -> dict[str, Any]:
    """Every K with every type, chosen by BIC; K = 1 has one start, since all end in the same place."""
    tables = [unlike_clusters(seed, n, d, 5, dtype) for seed in range(1 + later)]
    is_ours = contender == OURS
    heard = compilations() if is_ours else []
    search = partial(our_sweep if is_ours else their_sweep, contender)
    timed, compiled = [], [0]
    for seed, x in enumerate(tables):
        timed.append(stopwatch(search, seed, x, **how))
        compiled.append(len(heard))
    (first, *later_s), chosen = zip(*timed, strict=True)
    made = {"first_call_s": first, "second_call_s": statistics.median(later_s), "chosen": chosen}
    return made | ({"programs": np.diff(compiled).tolist()[:2]} if is_ours else {})


def our_sweep(contender: str, seed: int, x: np.ndarray, **how: Any) -> dict[str, Any]:
    swept = swept_by_ours(seed, x, **how)
    best = swept.best_cell
    return {"family": best.family, "k": best.K, "bic": best.bic, "padding": swept.padding, "groups": swept.groups}


def swept_by_ours(seed: int, x: np.ndarray, counts: list[int], **how: Any) -> Any:
    import jax

    import jaxgmm

    return jaxgmm.sweep(jax.random.key(seed), x, counts, ridge=RIDGE, dtype=x.dtype, **how)


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


def free_starts(n: int, d: int, seeds: int, their_restarts: int, polish: float, **ours: Any) -> dict[str, Any]:
    """Each cell of a sweep of ours, `ours`, beside scikit-learn's fit, which but for its restarts is by default.

    Both mixtures are then run on by ours to the tol `polish`, and polished: what is compared is the optimum that was
    found, and not how near to it a tol stops. Seconds are of a table, without that, and of ours without the first,
    which compiles.
    """
    found: list[dict[str, Any]] = []
    our_s, their_s = [], []
    for seed in range(seeds):
        x = unlike_clusters(seed, n, d, 5, "float64")
        seconds, swept = stopwatch(swept_by_ours, seed, x, **ours)
        our_s.append(seconds)
        their_s.append(0.0)
        for (family, k), result in swept.results.items():
            seconds, theirs = stopwatch(their_fit, seed, x, k, family, n_restarts=their_restarts)
            their_s[-1] += seconds
            ends = {"our": of_ours(result.mixture, result.n_steps), "their": theirs}
            made = {f"{whose}s": polished(x, end, family, polish).objective(x) for whose, end in ends.items()}
            made |= {f"{whose}_steps": end.steps for whose, end in ends.items()}
            found.append({"seed": seed, "family": family, "k": k, **made})
    return {"cells": found, "our_s": spread(our_s[1:]), "their_s": spread(their_s)}


def polished(x: np.ndarray, found: Fitted, family: str, tol: float) -> Fitted:
    """The optimum that a mixture lies under.

    EM goes on to `tol`, and an ascent from there. By the program of all steps: with an acceleration every type and K
    would compile one of its own.
    """
    how: dict[str, Any] = {"tol": tol, "max_steps": 5_000, "polish": True, "init": found.mixture(family)}
    return our_fit(0, x, len(found.weights), family, **how)

"""The children of `searches`: each function runs in a fresh process and times one contender at one task."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .child import Fitted, compilations, installed, of_ours, of_scikit_learn, scikit_learn, unlike_clusters
from .problems import RIDGE, objective
from .timing import stopwatch

Bic = Callable[[int, str, dict[str, Any]], float]
"""bic(k, family, more) of a fit to a table; more: n_init, random_state and reg_covar, by scikit-learn's names."""


def fit_of(contender: str, dtype: str, seed: int, x: Any, k: int, **how: Any) -> Fitted:
    """A fit of full covariances by one contender. how: n_restarts, init, tol and max_steps, by our names."""
    if contender == "jaxgmm":
        import jax

        import jaxgmm

        more: dict[str, Any] = {"dtype": np.dtype(dtype), "ridge": RIDGE}
        result = jaxgmm.fit(jax.random.key(seed), x, k, "full", **how, **more)
        return of_ours(result.mixture, result.n_steps)
    theirs = {"n_init": how["n_restarts"], "init_params": how["init"], "tol": how["tol"], "max_iter": how["max_steps"]}
    return of_scikit_learn(scikit_learn()(k, random_state=seed, reg_covar=RIDGE, **theirs).fit(x))


def calls(fit: Callable[..., Fitted], tables: list[np.ndarray], **how: Any) -> dict[str, Any]:
    """The first call and the later ones, each with its own table and seed, and what each of them reached."""
    timed = [stopwatch(fit, seed, x, **how) for seed, x in enumerate(tables)]
    first, *later = (seconds for seconds, _ in timed)
    return {
        "first_call_s": first,
        "second_call_s": statistics.median(later),
        "objectives": [fitted.objective(x) for (_, fitted), x in zip(timed, tables, strict=True)],
        "steps": [fitted.steps for _, fitted in timed],
    }


def imported(contender: str) -> None:
    """So that no import is in the time of a first call. `Unsupported` where it is not installed."""
    if contender == "jaxgmm":
        import_module("jaxgmm")
    else:
        scikit_learn()


def restarts(contender: str, dtype: str, n: int, d: int, k: int, later: int, **how: Any) -> dict[str, Any]:
    """Many restarts on a table of full covariances; later calls on other tables of its shape."""
    imported(contender)
    tables = [unlike_clusters(seed, n, d, k, dtype) for seed in range(1 + later)]
    return calls(partial(fit_of, contender, dtype), tables, k=k, **how)


def photograph(contender: str, dtype: str, k: int, every: int, later: int, **how: Any) -> dict[str, Any]:
    """The colours of every pixel, or of every `every`-th; later calls from other seeds."""
    scikit_learn()  # has the photograph
    imported(contender)
    image = import_module("sklearn.datasets").load_sample_image("china.jpg")
    x = (image.reshape(-1, 3)[::every] / 255.0).astype(dtype)
    return {"n": len(x), "d": 3} | calls(partial(fit_of, contender, dtype), [x] * (1 + later), k=k, n_restarts=1, **how)


def sweep(contender: str, dtype: str, n: int, d: int, later: int, **how: Any) -> dict[str, Any]:
    """Every K with every type, chosen by BIC; K = 1 has one start, since all end in the same place."""
    tables = [unlike_clusters(seed, n, d, 5, dtype) for seed in range(1 + later)]
    is_ours = contender == "jaxgmm"
    heard = compilations() if is_ours else []
    search = our_sweep if is_ours else partial(their_sweep, of_tgmm if contender == "tgmm" else of_sklearn)
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
    peer: Callable[..., Bic], seed: int, x: np.ndarray, counts: list[int], families: list[str], **how: Any
) -> dict[str, Any]:
    """The best cell by a peer that is fitted one cell after the other."""
    n_restarts, found = how.pop("n_restarts"), []
    bic = peer(x, **how)
    for family in families:
        for k in counts:
            more = {"n_init": n_restarts if k > 1 else 1, "random_state": seed, "reg_covar": RIDGE}
            found.append({"family": family, "k": k, "bic": float(bic(k, family, more))})
    return min(found, key=lambda cell: cell["bic"])


def of_sklearn(x: np.ndarray, init: str, tol: float, max_steps: int) -> Bic:
    peer, how = scikit_learn(), {"init_params": init, "tol": tol, "max_iter": max_steps}
    return lambda k, family, more: peer(k, covariance_type=family, **how, **more).fit(x).bic(x)


def of_tgmm(x: np.ndarray, init: str, tol: float, max_steps: int) -> Bic:
    """By torch, on the CPU. Its tol is relative: ours over the size of the mean log-likelihood of one Gaussian."""
    torch, tgmm = installed("torch"), installed("tgmm")
    size = abs(objective("full", x, np.ones(1), x.mean(0)[None], np.cov(x.T, bias=True)[None]))
    how: dict[str, Any] = {"init_means": init, "tol": tol / size, "max_iter": max_steps, "device": "cpu"}
    rows = torch.from_numpy(x)

    def bic(k: int, family: str, more: dict[str, Any]) -> float:
        covariance_type = {"tied": "tied_full"}.get(family, family)
        model = tgmm.GaussianMixture(
            n_components=k, n_features=x.shape[1], covariance_type=covariance_type, **how, **more
        )
        model.fit(rows)
        return model.bic(rows)

    return bic


def small(contender: str, how: str, dtype: str, n: int, d: int, k: int) -> dict[str, Any]:
    """A first and a second fit, the import apart, at the program's defaults; "fit" is `jaxgmm.fit` with one restart."""
    tables = [unlike_clusters(seed, n, d, k, dtype) for seed in range(2)]
    is_fresh = "jax" not in sys.modules and "sklearn" not in sys.modules
    seconds, _ = stopwatch(imported, contender)
    import_s = {"import_s": seconds if is_fresh else None}
    if how == "fit":
        defaults: dict[str, Any] = {"n_restarts": 1, "init": "k-means++", "tol": 1e-3, "max_steps": 200}
        return import_s | calls(partial(fit_of, contender, dtype), tables, k=k, **defaults)
    peer: Any = import_module("jaxgmm").GaussianMixture if contender == "jaxgmm" else scikit_learn()

    def fit(seed: int, x: np.ndarray) -> Fitted:
        return of_scikit_learn(peer(n_components=k, random_state=seed).fit(x))  # ours has its attributes

    return import_s | calls(fit, tables)

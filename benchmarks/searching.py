"""The children of `searches`: each function runs in a fresh process and times one contender at one task."""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from .child import Fitted, compilations, estimator, installed, of_ours, of_scikit_learn, scikit_learn, unlike_clusters
from .problems import RIDGE
from .timing import stopwatch


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


def restarts(contender: str, dtype: str, n: int, d: int, k: int, later: int, **how: Any) -> dict[str, Any]:
    """Many restarts on a table of full covariances; later calls on other tables of its shape."""
    estimator(contender)  # so that no import is in the time of a first call
    tables = [unlike_clusters(seed, n, d, k, dtype) for seed in range(1 + later)]
    return calls(partial(fit_of, contender, dtype), tables, k=k, **how)


def photograph(contender: str, dtype: str, k: int, every: int, later: int, **how: Any) -> dict[str, Any]:
    """The colours of every pixel, or of every `every`-th; later calls from other seeds."""
    image = installed("sklearn.datasets").load_sample_image("china.jpg")
    estimator(contender)
    x = (image.reshape(-1, 3)[::every] / 255.0).astype(dtype)
    return {"n": len(x), "d": 3} | calls(partial(fit_of, contender, dtype), [x] * (1 + later), k=k, n_restarts=1, **how)


def sweep(contender: str, dtype: str, n: int, d: int, later: int, **how: Any) -> dict[str, Any]:
    """Every K with every type, chosen by BIC; K = 1 has one start, since all end in the same place."""
    tables = [unlike_clusters(seed, n, d, 5, dtype) for seed in range(1 + later)]
    is_ours = contender == "jaxgmm"
    heard = compilations() if is_ours else []
    search = our_sweep if is_ours else partial(their_sweep, contender)
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
    contender: str,
    seed: int,
    x: np.ndarray,
    counts: list[int],
    families: list[str],
    n_restarts: int,
    init: str,
    tol: float,
    max_steps: int,
) -> dict[str, Any]:
    """The best cell by a peer that is fitted one cell after the other."""
    peer = estimator(contender)
    how = {"init_params": init, "tol": tol, "max_iter": max_steps, "random_state": seed, "reg_covar": RIDGE}
    found = []
    for family, k in product(families, counts):
        model = peer(k, covariance_type=family, n_init=n_restarts if k > 1 else 1, **how)
        found.append({"family": family, "k": k, "bic": float(model.fit(x).bic(x))})
    return min(found, key=lambda cell: cell["bic"])


def small(contender: str, how: str, dtype: str, n: int, d: int, k: int) -> dict[str, Any]:
    """A first and a second fit, the import apart, at the program's defaults; "fit" is `jaxgmm.fit` with one restart."""
    tables = [unlike_clusters(seed, n, d, k, dtype) for seed in range(2)]
    is_fresh = "jax" not in sys.modules and "sklearn" not in sys.modules
    seconds, peer = stopwatch(estimator, contender)
    import_s = {"import_s": seconds if is_fresh else None}
    if how == "fit":
        defaults: dict[str, Any] = {"n_restarts": 1, "init": "k-means++", "tol": 1e-3, "max_steps": 200}
        return import_s | calls(partial(fit_of, contender, dtype), tables, k=k, **defaults)

    def fit(seed: int, x: np.ndarray) -> Fitted:
        return of_scikit_learn(peer(k, random_state=seed).fit(x))  # ours has its attributes

    return import_s | calls(fit, tables)

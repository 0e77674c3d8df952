"""The children of `searches`: each function runs in a fresh process and times one contender at one task."""

from __future__ import annotations

import importlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from .child import spread, stopwatch
from .isolate import Unsupported
from .problems import objective

RIDGE = 1e-6


class Fitted(NamedTuple):
    """What any contender's fit is judged by."""

    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    covariances: np.ndarray  # (K, D, D)
    steps: int


def rows(seed: int, n: int, d: int, k: int, dtype: str) -> np.ndarray:
    """Rows (N, D) of K overlapping clusters of unlike shapes: a task with more than one answer."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0.0, 2.0, (k, d))
    factors = 0.8 * np.eye(d) + 0.3 * rng.standard_normal((k, d, d))
    labels = rng.integers(0, k, n)
    return (means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.standard_normal((n, d)))).astype(dtype)


def fitter(contender: str, family: str, dtype: str) -> Callable[..., Fitted]:
    """fit(seed, x, k, n_restarts, init, tol, max_steps) of one contender. `Unsupported` where it is not installed."""
    if contender == "jaxgmm":
        import jax

        import jaxgmm

        def ours(seed: int, x: Any, k: int, n_restarts: int, init: str, tol: float, max_steps: int) -> Fitted:
            key = jax.random.key(seed)
            more: dict[str, Any] = {"n_restarts": n_restarts, "init": init, "tol": tol, "max_steps": max_steps}
            result = jaxgmm.fit(key, x, k, family, dtype=np.dtype(dtype), ridge=RIDGE, **more)
            mixture = result.mixture
            weights, means, covariances = map(np.asarray, (mixture.weights, mixture.means, mixture.covariances))
            return Fitted(weights, means, covariances, int(result.n_steps))

        return ours

    peer = scikit_learn()

    def theirs(seed: int, x: Any, k: int, n_restarts: int, init: str, tol: float, max_steps: int) -> Fitted:
        more = {"n_init": n_restarts, "init_params": init, "tol": tol, "max_iter": max_steps, "reg_covar": RIDGE}
        return of_scikit_learn(peer(k, covariance_type=family, random_state=seed, **more).fit(x))

    return theirs


def scikit_learn() -> Any:
    """Its GaussianMixture, silent about step limits."""
    if find_spec("sklearn") is None:
        raise Unsupported("not installed")
    warnings.filterwarnings("ignore")
    return importlib.import_module("sklearn.mixture").GaussianMixture


def of_scikit_learn(model: Any) -> Fitted:
    return Fitted(model.weights_, model.means_, dense(model), int(model.n_iter_))


def dense(model: Any) -> np.ndarray:
    """The covariances in scikit-learn's four shapes as (K, D, D)."""
    k, d = model.means_.shape
    own = np.asarray(model.covariances_, np.float64)
    return {
        "full": lambda: own,
        "tied": lambda: np.broadcast_to(own, (k, d, d)),
        "diag": lambda: own[:, :, None] * np.eye(d),
        "spherical": lambda: own[:, None, None] * np.eye(d),
    }[model.covariance_type]()


def score(fitted: Fitted, x: np.ndarray) -> float:
    return objective("full", x, fitted.weights, fitted.means, fitted.covariances)


def calls(fit: Callable[..., Fitted], tables: list[np.ndarray], **how: Any) -> dict[str, Any]:
    """The first call and the later ones, each with its own table and seed, and what each of them reached."""
    timed = [stopwatch(fit, i, x, **how) for i, x in enumerate(tables)]
    seconds = [one for one, _ in timed]
    return {
        "first_call_s": seconds[0],
        "second_call_s": statistics.median(seconds[1:]),
        "later_calls_s": spread(seconds[1:]),
        "objectives": [score(fitted, x) for (_, fitted), x in zip(timed, tables, strict=True)],
        "steps": [fitted.steps for _, fitted in timed],
    }


def restarts(contender: str, dtype: str, n: int, d: int, k: int, later: int, **how: Any) -> dict[str, Any]:
    """Many restarts on a table of full covariances; later calls on other tables of its shape."""
    fit = fitter(contender, "full", dtype)
    return calls(fit, [rows(seed, n, d, k, dtype) for seed in range(1 + later)], k=k, **how)


def photograph(contender: str, dtype: str, k: int, later: int, every: int, **how: Any) -> dict[str, Any]:
    """The pixels (273,280 × 3) of scikit-learn's sample image, colours from 0 to 1; later calls with other seeds."""
    if find_spec("sklearn") is None:
        raise Unsupported("the image is scikit-learn's, which is not installed")
    image = importlib.import_module("sklearn.datasets").load_sample_image("china.jpg")
    x = (image.reshape(-1, 3)[::every] / 255.0).astype(dtype)
    timed = calls(fitter(contender, "full", dtype), [x] * (1 + later), k=k, n_restarts=1, **how)
    return {"n": len(x), "d": 3} | timed


def sweep(contender: str, dtype: str, n: int, d: int, later: int, **how: Any) -> dict[str, Any]:
    """Every K with every type, chosen by BIC; K = 1 has one start, since all end in the same place."""
    tables = [rows(seed, n, d, 5, dtype) for seed in range(1 + later)]
    search = {"jaxgmm": our_sweep, "tgmm": tgmm_sweep}.get(contender, their_sweep)
    heard = compilations() if contender == "jaxgmm" else []
    timed, compiled = [], [0]
    for i, x in enumerate(tables):
        timed.append(stopwatch(search, i, x, dtype, **how))
        compiled.append(len(heard))
    seconds, chosen = zip(*timed, strict=True)
    made = {"first_call_s": seconds[0], "second_call_s": statistics.median(seconds[1:]), "chosen": chosen}
    return made | ({"programs": np.diff(compiled).tolist()[:2]} if contender == "jaxgmm" else {})


def compilations() -> list[str]:
    """A list that grows by one for every program that is compiled from now on."""
    from jax import monitoring

    heard: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            heard.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    return heard


def our_sweep(seed: int, x: Any, dtype: str, max_steps: int, **how: Any) -> dict[str, Any]:
    import jax

    import jaxgmm

    more: dict[str, Any] = {"max_steps": max_steps, "ridge": RIDGE, "dtype": np.dtype(dtype)}
    swept = jaxgmm.sweep(jax.random.key(seed), x, how.pop("counts"), **how, **more)
    best = swept.best_cell
    shared = {"padding": swept.padding, "groups": swept.groups}
    return {"family": best.family, "k": best.K, "bic": best.bic} | shared


def their_sweep(
    seed: int, x: Any, dtype: str, counts: list[int], families: list[str], n_restarts: int, **how: Any
) -> dict[str, Any]:
    del dtype  # the table's
    peer, found = scikit_learn(), []
    more = {"init_params": how["init"], "tol": how["tol"], "max_iter": how["max_steps"], "reg_covar": RIDGE}
    for family in families:
        for k in counts:
            n_init = n_restarts if k > 1 else 1
            model = peer(k, covariance_type=family, n_init=n_init, random_state=seed, **more).fit(x)
            found.append({"family": family, "k": k, "bic": float(model.bic(x))})
    return min(found, key=lambda cell: cell["bic"])


def tgmm_sweep(
    seed: int, x: Any, dtype: str, counts: list[int], families: list[str], n_restarts: int, **how: Any
) -> dict[str, Any]:
    """By torch, on the CPU. Its tol is relative: ours over the size of the mean log-likelihood of one Gaussian."""
    if find_spec("tgmm") is None:
        raise Unsupported("not installed")
    torch, tgmm = (importlib.import_module(name) for name in ("torch", "tgmm"))
    warnings.filterwarnings("ignore")
    rows, found = torch.from_numpy(x.astype(dtype)), []
    size = abs(objective("full", x, np.ones(1), x.mean(0)[None], np.cov(x.T, bias=True)[None]))
    more = {"init_means": how["init"], "tol": how["tol"] / size, "max_iter": how["max_steps"], "reg_covar": RIDGE}
    for family in families:
        more["covariance_type"] = {"tied": "tied_full"}.get(family, family)
        for k in counts:
            more |= {"n_init": n_restarts if k > 1 else 1, "random_state": seed, "device": "cpu"}
            model = tgmm.GaussianMixture(n_components=k, n_features=x.shape[1], **more)
            model.fit(rows)
            found.append({"family": family, "k": k, "bic": float(model.bic(rows))})
    return min(found, key=lambda cell: cell["bic"])


def small(contender: str, how: str, dtype: str, n: int, d: int, k: int) -> dict[str, Any]:
    """A first and a second fit, the import apart, at the program's defaults; "fit" is `jaxgmm.fit` with one restart."""
    tables = [rows(seed, n, d, k, dtype) for seed in range(2)]
    began = time.perf_counter()
    fresh = "jax" not in sys.modules and "sklearn" not in sys.modules
    if contender == "jaxgmm":
        import jaxgmm

        imported = time.perf_counter() - began
        if how == "fit":
            one = fitter(contender, "full", dtype)
            defaults: dict[str, Any] = {"n_restarts": 1, "init": "k-means++", "tol": 1e-3, "max_steps": 200}
            return {"import_s": imported if fresh else None} | calls(one, tables, k=k, **defaults)
        peer: Any = jaxgmm.GaussianMixture
    else:
        peer = scikit_learn()
        imported = time.perf_counter() - began

    def fit(seed: int, x: np.ndarray) -> Fitted:
        return of_scikit_learn(peer(n_components=k, random_state=seed).fit(x))  # ours has its attributes

    return {"import_s": imported if fresh else None} | calls(fit, tables)

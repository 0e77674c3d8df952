"""Whether p-values of the likelihood-ratio test are uniform where K components are the truth, and its power.

Tables of clusters of unit covariance are tested for K against K + 1 components at the test's defaults, with 19 samples
each. Of K clusters the p-values are uniform on 1/20, 2/20 … 1, except that the samples are drawn from a fit, not from
the truth: where two of the K clusters cannot be told apart, they are larger. Kolmogorov and Smirnov's test is about a
continuous distribution, so a p-value is spread evenly between its neighbours: (larger statistics + u · (1 + equal
ones)) / 20, u uniform on [0, 1]. Power is the share of p-values of at most LEVEL where there are more clusters than K.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import isolate
from .markdown import Columns, by_columns
from .options import Options
from .ratios import Place

CASES: dict[str, dict[str, Any]] = {
    "four, 4 deviations apart": {"k": 4, "n": 200, "centres": [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]]},
    "one cluster": {"k": 1, "n": 100, "centres": [[0.0, 0.0]]},
    "two, 3 deviations apart": {"k": 2, "n": 100, "centres": [[0.0, 0.0], [3.0, 0.0]]},
    "three, 4.5 deviations apart": {"k": 2, "n": 100, "centres": [[0.0, 0.0], [4.5, 0.0], [2.25, 3.9]]},
}
LEVEL = 0.05
LIMIT = 1800.0  # seconds for one case


def measure(options: Options) -> dict[str, Any]:
    request = {"n_tables": 2 if options.quick else 200, "n_samples": 3 if options.quick else 19, "family": "full"}

    def one(case: str) -> dict[str, Any]:
        made = isolate.ask(p_values, LIMIT, "cpu", **request, **CASES[case])
        return {"clusters": case, "is_null": made["k"] == len(made["centres"]), **made}

    with ThreadPoolExecutor(2) as pool:  # a test keeps about one core busy
        return {**request, "level": LEVEL, "cells": list(pool.map(one, CASES))}


def p_values(k: int, n: int, centres: list[list[float]], n_tables: int, n_samples: int, family: str) -> dict[str, Any]:
    """In a child: how many tables have each p-value, the share of small ones, and how uniform they are."""
    import jax
    from scipy import stats  # comes with JAX

    import jaxgmm

    values, spread_out = [], []
    for seed in range(n_tables):
        rng = np.random.default_rng(seed)
        x = np.asarray(centres)[rng.integers(0, len(centres), n)] + rng.normal(size=(n, 2))
        found = jaxgmm.likelihood_ratio_test(jax.random.key(seed), x, k, family, n_samples, dtype="float64")
        if np.isfinite(found.p_value):
            values.append(found.p_value)
            spread_out.append(continuous(found.statistic, found.replicates, rng.uniform()))
    return {
        "counts": np.histogram(values, (np.arange(n_samples + 2) + 0.5) / (n_samples + 1))[0].tolist(),
        "n_left_out": n_tables - len(values),
        "share": float(np.mean(np.array(values) <= LEVEL)),
        "mean": float(np.mean(spread_out)),
        "ks_p": float(stats.kstest(spread_out, "uniform").pvalue),  # pyright: ignore
    }


def continuous(statistic: float, replicates: np.ndarray, u: float) -> float:
    """The p-value, spread evenly between its neighbours: uniform on [0, 1] where all statistics are exchangeable."""
    sound = replicates[~np.isnan(replicates)]
    return float((np.sum(sound > statistic) + u * (1 + np.sum(sound == statistic))) / (1 + len(sound)))


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line for each number of clusters."""
    head: Columns = {"clusters": "clusters", "N": "n", "K": "k"}
    body: Columns = {
        f"p ≤ {found['level']}": lambda cell: f"{100 * cell['share']:.1f} %",
        "mean p": "{mean:.3f}",
        "Kolmogorov–Smirnov p": lambda cell: f"{cell['ks_p']:.3f}" if cell["is_null"] else "(not K clusters)",
        "no p-value": "n_left_out",
    }
    title = "### K against K + 1 components, {n_tables} tables, {n_samples} samples each, {family}, "
    return [by_columns(found["cells"], head, body, title.format(**found) + place.label)]

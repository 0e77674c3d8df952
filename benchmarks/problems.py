"""The named problems: rows from overlapping clusters, a start near the truth, and what a mixture of them is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

OVERLAP = 1.7
"""√D times the spread of the means in each feature: two means then lie about 2.4 sd apart whatever D is, so the
clusters overlap, and EM does not come to rest within the steps that are timed."""

RIDGE = 1e-6
"""Added to the diagonals of covariances by all who can."""

BLOCK = 8192
"""Rows whose log-density is computed at a time: few enough to stay in a processor's cache."""


class Data(NamedTuple):
    """Rows and the start that all contenders are given. Covariances (and precisions: they are units) in
    scikit-learn's shapes: full (K, D, D), tied (D, D), diag (K, D), spherical (K,)."""

    x: np.ndarray  # (N, D)
    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    covariances: np.ndarray


@dataclass(frozen=True)
class Problem:
    """N rows, D features, K components of one of scikit-learn's four types."""

    family: str
    n: int
    d: int
    k: int

    @classmethod
    def of(cls, name: str) -> Problem:
        """Of a name such as full_200k_16_16."""
        family, n, d, k = name.split("_")
        return cls(family, int(n[:-1]) * {"k": 10**3, "M": 10**6}[n[-1]], int(d), int(k))

    @property
    def name(self) -> str:
        size = f"{self.n // 10**6}M" if self.n % 10**6 == 0 else f"{self.n // 1000}k"
        return f"{self.family}_{size}_{self.d}_{self.k}"

    def unit_covariances(self) -> np.ndarray:
        """Identity matrices in scikit-learn's shape of the type."""
        return shaped(np.broadcast_to(np.eye(self.d), (self.k, self.d, self.d)), self.family).copy()

    def data(self, dtype: str) -> Data:
        """The same rows in every dtype, up to rounding, and the start."""
        rng = np.random.default_rng(0)
        spread = OVERLAP / np.sqrt(self.d)
        means = rng.normal(0.0, spread, (self.k, self.d))
        x = rng.standard_normal((self.n, self.d))
        x += means[rng.integers(0, self.k, self.n)]
        start = means + rng.normal(0.0, 0.5 * spread, means.shape)
        return Data(*(a.astype(dtype) for a in (x, np.full(self.k, 1.0 / self.k), start, self.unit_covariances())))


NAMES = (
    "full_200k_16_16 diag_500k_8_32 full_1M_3_8 diag_100k_64_256 full_50k_64_32 tied_300k_16_16 spherical_500k_8_32 "
    "full_20k_128_8 full_2k_2_5"
)
PROBLEMS = tuple(map(Problem.of, NAMES.split()))


def shaped(dense: np.ndarray, family: str) -> np.ndarray:
    """Covariances or precisions (K, D, D) in scikit-learn's shape of the type."""
    return {
        "full": lambda: dense,
        "tied": lambda: dense[0],
        "diag": lambda: np.diagonal(dense, axis1=1, axis2=2),
        "spherical": lambda: dense[:, 0, 0],
    }[family]()


QUICK_ROWS = 2_000
QUICK_NAMES = ("full_2k_2_5",)
"""What a quick run measures unless told which: of the type that all peers have."""


def chosen(names: tuple[str, ...] | None, quick: bool) -> tuple[Problem, ...]:
    """The problems of these names, in order; all where None. Quick ones have the same D and K, and few rows.

    ValueError for a name that is none.
    """
    shelf = {p.name: p for p in (replace(p, n=QUICK_ROWS) if quick else p for p in PROBLEMS)}
    if names is None:
        names = QUICK_NAMES if quick else tuple(shelf)
    for name in names:
        if name not in shelf:
            raise ValueError(f"no problem is called {name!r}. Expected one of {', '.join(shelf)}.")
    return tuple(shelf[name] for name in names)


def objective(family: str, x: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    """Mean log-likelihood of rows x (N, D), nats, in float64 and NumPy alone: the same judge for all contenders."""
    x, weights, means, covariances = (np.asarray(a, np.float64) for a in (x, weights, means, covariances))
    (n, d), k = x.shape, len(weights)
    if family in ("diag", "spherical"):
        factors = 1.0 / np.sqrt(covariances if family == "diag" else np.repeat(covariances[:, None], d, axis=1))
        log_det = np.log(factors).sum(axis=1)
    else:
        dense = covariances if family == "full" else covariances[None]
        factors = np.linalg.inv(np.linalg.cholesky(dense)).transpose(0, 2, 1)  # (K or 1, D, D)
        log_det = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    with np.errstate(divide="ignore"):
        constant = np.log(weights) + log_det - 0.5 * d * np.log(2.0 * np.pi)
    total = 0.0
    for first in range(0, n, BLOCK):
        rows = x[first : first + BLOCK]
        log_joint = np.empty((len(rows), k))
        for j in range(k):
            shifted = rows - means[j]
            factor = factors[j % len(factors)]
            whitened = shifted * factor if factor.ndim == 1 else shifted @ factor
            log_joint[:, j] = constant[j] - 0.5 * np.einsum("nd,nd->n", whitened, whitened)
        top = log_joint.max(axis=1)
        total += float(np.sum(top + np.log(np.exp(log_joint - top[:, None]).sum(axis=1))))
    return total / n

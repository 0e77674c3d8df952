"""The named problems: rows from overlapping clusters, a start near the truth, and what a mixture of them is worth."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from .options import checked

OVERLAP = 1.7
"""√D times the spread of the means in each feature: two means then lie about 2.4 sd apart whatever D is, so the
clusters overlap, and EM does not come to rest within the steps that are timed."""

RIDGE = 1e-6  # added to the diagonals of covariances by all who can
BLOCK = 16384  # rows whose log-density is computed at a time: few enough to stay in a processor's cache


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
    def of(cls, name: str) -> Self:
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


QUICK_ROWS, QUICK_NAMES = 2_000, ("full_2k_2_5",)
"""What a quick run measures unless told which: of the type that all peers have."""


def chosen(names: tuple[str, ...] | None, quick: bool) -> tuple[Problem, ...]:
    """The problems of these names, in order; all where None. Quick ones have the same D and K, and few rows.

    ValueError for a name that is none.
    """
    shelf = {p.name: p for p in (replace(p, n=QUICK_ROWS) if quick else p for p in PROBLEMS)}
    return tuple(shelf[name] for name in checked("problem", names or (QUICK_NAMES if quick else tuple(shelf)), shelf))


def objective(family: str, x: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    """Mean log-likelihood of rows x (N, D), nats, in float64 and by SciPy alone: the same judge for all contenders."""
    from scipy.special import logsumexp  # both come with JAX
    from scipy.stats import Covariance, multivariate_normal

    x, weights, means, covariances = (np.asarray(a, np.float64) for a in (x, weights, means, covariances))
    of_type: dict[str, Callable[[int], Any]] = {
        "full": lambda j: Covariance.from_eigendecomposition(np.linalg.eigh(covariances[j])),
        "tied": lambda j: Covariance.from_eigendecomposition(np.linalg.eigh(covariances)),
        "diag": lambda j: Covariance.from_diagonal(covariances[j]),
        "spherical": lambda j: Covariance.from_diagonal(np.full(x.shape[1], covariances[j])),
    }
    total = 0.0
    for rows in np.split(x, range(BLOCK, len(x), BLOCK)):
        log_prob = [multivariate_normal.logpdf(rows, mean, of_type[family](j)) for j, mean in enumerate(means)]
        total += float(np.sum(logsumexp(np.reshape(log_prob, (len(means), -1)), axis=0, b=weights[:, None])))
    return total / len(x)

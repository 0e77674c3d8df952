"""Standard errors of a mixture's parameters, by fitting the same rows again under random weights.

Efron 1979; Newton and Raftery 1994; for mixtures O'Hagan, Murphy, Scrucca and Gormley 2019. (The test for one more
component, in `likelihood_ratio.py`, fits samples of the fit itself instead: McLachlan 1987.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import em
from .._base import check
from .._base.memory import from_host, to_host
from .._base.precision import is_traced, precision_for
from .._base.programs import program
from .._base.status import FAILED
from ..em.lanes import in_waves
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.chunks import Chunked
from ..rows.door import admit

KINDS = ("rows", "weights")

SETTLED = 1e-4
"""Change of the total log-likelihood, nats, below which a replicate has converged.

A parameter that is off by d standard errors costs d²/2 nats of the total, however many rows there are, so a tol on the
mean has to fall with N. For 20000 rows of two clusters 2.5 deviations apart, in float64, 1e-5 of the mean gave 29 to 57
percent of the standard errors, because replicates stopped close to the fit that they start from; this gives 95 to 97.
"""

LATTICE = 2**32
"""Integer points to draw rows by: a float32 has 2^23 in [0, 1), too few to draw one of a million rows fairly."""


class Parameters(NamedTuple):
    """A figure for each parameter of a mixture."""

    weights: np.ndarray  # (..., K)
    means: np.ndarray  # (..., K, D)
    covariances: np.ndarray  # (..., K, D, D)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bootstrap:
    """Parameters estimated from B replicates of the data, and how each replicate's fit ended."""

    mixture: Mixture  # the fit from which all replicates start
    weights: Array  # (B, K)
    means: Array  # (B, K, D)
    covariances: Array  # (B, K, D, D), dense
    objective: Array  # (B,): mean log-likelihood of the replicate's rows, nats per unit of weight
    status: Array  # (B,): a `Status`

    __getstate__, __setstate__ = to_host, from_host

    @property
    def n_failed(self) -> int:
        """Replicates whose fit collapsed or was not finite. They are left out of every figure."""
        return int(np.sum(~self._is_sound()))

    def standard_error(self) -> Parameters:
        """Standard deviations over the sound replicates, in the parameters' units; NaN for fewer than two.

        -> weights (K,), means (K, D), covariances (K, D, D).
        """
        return self._over_replicates(lambda values: np.std(values, axis=0, ddof=1), least=2)

    def interval(self, level: float = 0.95) -> Parameters:
        """Percentile intervals over the sound replicates: lower and upper ends. Efron and Tibshirani 1993, chapter 13.

        -> weights (2, K), means (2, K, D), covariances (2, K, D, D). ValueError for a level not between 0 and 1.
        """
        level = check.share(level, "level")
        ends = 0.5 * (1.0 - level), 0.5 * (1.0 + level)
        return self._over_replicates(lambda values: np.quantile(values, ends, axis=0), least=1)

    def _is_sound(self) -> np.ndarray:
        return ~np.isin(np.asarray(self.status), FAILED)

    def _over_replicates(self, figure: Callable[[np.ndarray], np.ndarray], least: int) -> Parameters:
        """`figure` of each parameter's values (float64) over the sound replicates; NaN if these are under `least`."""

        def one(values: Array) -> np.ndarray:
            sound = np.asarray(values, np.float64)[self._is_sound()]
            return figure(sound if len(sound) >= least else np.full((least, *sound.shape[1:]), np.nan))

        return Parameters(one(self.weights), one(self.means), one(self.covariances))

    def __repr__(self) -> str:
        if is_traced(self) or self.status.ndim != 1:
            return f"Bootstrap(status={self.status!r}, mixture={self.mixture!r})"
        error = self.standard_error()
        lines = [
            f"Bootstrap of {len(self.status)} replicates, {self.n_failed} of them failed: the fit ± standard errors"
        ]
        fitted = zip(np.asarray(self.mixture.weights), np.asarray(self.mixture.means), strict=True)
        for k, (weight, mean) in enumerate(fitted):
            if k == 10 and self.mixture.n_components > 11:
                lines.append(f"  … and {self.mixture.n_components - 10} more")
                break
            centre, spread = (np.array2string(a, precision=4, threshold=8) for a in (mean, error.means[k]))
            lines.append(f"  {k}: weight {weight:.4f} ± {error.weights[k]:.4f}  mean {centre} ± {spread}")
        return "\n".join(lines)


def bootstrap(
    key: Array,
    x: Any,
    mixture: Mixture,
    n_replicates: int = 200,
    *,
    kind: str = "rows",
    sample_weight: Any = None,
    sample_size: int | None = None,
    tol: float | None = None,
    max_steps: int = 1000,
    ridge: float = 1e-6,
    acceleration: str | None = None,
    chunk_size: int | None = None,
    dtype: Any = None,
) -> Bootstrap:
    """Standard errors of a mixture fitted to rows x (N, D), from B fits of the same rows under random weights.

    Every replicate starts from the fitted mixture, so that its components keep their order; the errors describe the
    optimum that the mixture is at, and no other optimum. Fit the mixture with the same ridge, and with a `tol` so small
    that it has converged.

    key: a JAX random key. x: an array, or `Batches`. mixture: the fit, `result.mixture`. n_replicates: B, at least 2.
    kind: "rows" draws rows with replacement, so a row counts as often as it was drawn (Efron 1979). "weights" gives the
    rows Dirichlet weights: exponential weights over their sum, if all rows weigh the same (Newton and Raftery 1994:
    the weighted-likelihood bootstrap). No row is left out, so small components collapse less often.
    sample_weight: (N,), on any scale: only a row's share of the total matters. sample_size: the number of independent
    observations that all rows together stand for; if None, the number of rows with positive weight. If weights count
    repeated rows, give their sum: the errors are then those of the repeated rows. If weights correct for how rows were
    sampled, (Σ weight)² / Σ weight² is the usual effective size (Kish 1965).
    tol: as for `fit`, in nats of the mean; if None, a replicate has converged at a change of 1e-4 nats of the total. In
    float32 a mean has too few digits for that past some thousand rows, and replicates of overlapping clusters stay too
    close to the fit: use float64 there. dtype: the mixture's if None. max_steps, ridge, acceleration, chunk_size: as
    for `fit`.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is fitted; after that
    never: how each replicate ended is in `status`, and failed ones are left out of the figures.
    """
    if not isinstance(mixture, Mixture):
        raise TypeError(
            f"mixture must be a jaxgmm.Mixture, got {type(mixture).__name__}. A fit's is result.mixture; known "
            "parameters make one by Mixture.create."
        )
    check.one_of(kind, KINDS, "kind of bootstrap")
    n_replicates = check.count(n_replicates, "n_replicates", least=2)
    max_steps = check.count(max_steps, "max_steps", least=0)
    wanted = mixture.means.dtype if dtype is None else dtype
    batches = admit(x, sample_weight, mixture.n_components, n_replicates, chunk_size, wanted)
    rows_check.last_axis((batches.n_features,), mixture.n_features)
    expected = _flat(batches)
    if sample_size is None:
        sample_size = int(np.count_nonzero(expected))
    sample_size = min(check.count(sample_size, "sample_size", least=1), np.iinfo(np.int32).max)
    settings = em.Settings(tol=settled(tol, sample_size), ridge=ridge, acceleration=acceleration)
    expected *= sample_size / expected.sum()
    with precision_for(batches.dtype):
        mixture = jax.tree.map(lambda leaf: leaf.astype(batches.dtype), mixture)
        found = _replicates(
            key,
            mixture,
            batches,
            _law(kind, expected, batches.dtype),
            np.int32(sample_size),
            settings,
            check.steps(max_steps),
            n_replicates=n_replicates,
        )
    return Bootstrap(mixture, *found)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Multinomial:
    """Draws with replacement: how often each row was drawn."""

    ends: Any  # (S,) uint32: a point in [ends[i - 1], ends[i]) draws row i

    @classmethod
    def of(cls, expected: np.ndarray) -> Multinomial:
        # The last point of the lattice is never drawn, so that every end fits into a uint32.
        ends = np.cumsum(expected)
        return cls(np.floor(ends / ends[-1] * (LATTICE - 1)).astype(np.uint32))

    def draw(self, key: Array, sample_size: Array, dtype: Any) -> Array:
        n = len(self.ends)

        # n draws at a time, as many as there are rows, so that the program does not depend on the number of draws.
        def some(index: Array, counts: Array) -> Array:
            points = jax.random.bits(jax.random.fold_in(key, index), (n,), jnp.uint32)
            points = jnp.minimum(points, np.uint32(LATTICE - 2))
            is_drawn = jnp.arange(n, dtype=jnp.int32) < sample_size - index * n
            rows = jnp.searchsorted(self.ends, points, side="right")
            return counts.at[rows].add(is_drawn.astype(dtype))

        return lax.fori_loop(0, (sample_size - 1) // n + 1, some, jnp.zeros(n, dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gamma:
    """Weights Gamma(expected); divided by their sum they are Dirichlet(expected)."""

    expected: Any  # (S,)

    def draw(self, key: Array, sample_size: Array, dtype: Any) -> Array:
        del sample_size, dtype
        counts = self.expected > 0.0
        return jnp.where(counts, jax.random.gamma(key, jnp.where(counts, self.expected, 1.0)), 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponential:
    """`Gamma` for rows that are each expected once or never: a hundred times as fast to draw."""

    expected: Any  # (S,)

    def draw(self, key: Array, sample_size: Array, dtype: Any) -> Array:
        del sample_size
        return self.expected * jax.random.exponential(key, self.expected.shape, dtype)


Law = Multinomial | Gamma | Exponential
"""A distribution of random weights (S,) of S rows: `draw(key, sample_size, dtype)`."""


def _law(kind: str, expected: np.ndarray, dtype: Any) -> Law:
    """expected (S,): how many observations each row stands for."""
    if kind == "rows":
        return Multinomial.of(expected)
    is_plain = np.allclose(expected[expected > 0.0], 1.0, rtol=1e-6, atol=0.0)
    return (Exponential if is_plain else Gamma)(expected.astype(dtype))


@program(static="n_replicates")
def _replicates(
    key: Array,
    mixture: Mixture,
    batches: Batches,
    law: Law,
    sample_size: Array,
    settings: em.Settings,
    max_steps: Array,
    *,
    n_replicates: int,
) -> tuple[Array, Array, Array, Array, Array]:
    """Weights, means, dense covariances, objectives and statuses of all replicates."""

    def one(key: Array) -> tuple[Array, Array, Array, Array, Array]:
        drawn = _reweighted(batches, law.draw(key, sample_size, batches.dtype), sample_size)
        state = em.run(em.init(mixture, drawn, settings), drawn, settings, max_steps)
        found = state.mixture
        return found.weights, found.means, found.covariances, state.objective, state.status

    return in_waves(one, jax.random.split(key, n_replicates), mixture.n_components, batches.chunk_size)


def _reweighted(batches: Batches, weights: Array, sample_size: Array) -> Batches:
    """The same rows under other weights (C·n,), on any scale: only a row's share matters to a fit.

    The origin is kept: any point among the data will do, and one that all replicates share is subtracted only once.
    """
    whole = (batches.n_chunks - 1) * batches.chunk_size
    chunked = Chunked(weights[:whole] if whole else None, weights[whole:], batches.n_chunks)
    # The kernels of `fused` are not yet tested with weights that differ between lanes.
    drawn = replace(batches, weights=chunked, exponent=np.int32(0), fused=False)
    total = drawn.sum(lambda chunk: jnp.sum(chunk.weights))
    # The weight of one observation: a component must keep half of it. The smallest of N exponential weights is about
    # 1/N of that, and would let a component survive with almost no weight.
    return replace(drawn, total_weight=total, min_weight=total / sample_size.astype(total.dtype))


def _flat(batches: Batches) -> np.ndarray:
    """The weights of all rows, and zeros for the padding: (C·n,) in float64, the largest of them 1."""
    weights = batches.row_weights()
    weights /= weights.max()  # their sum might overflow
    return np.pad(weights, (0, batches.n_chunks * batches.chunk_size - len(weights)))


def settled(tol: float | None, sample_size: int) -> float:
    return SETTLED / sample_size if tol is None else check.nonnegative(tol, "tol")

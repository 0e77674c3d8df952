"""Standard errors of a mixture's parameters, by fitting the same rows again under random weights.

Efron 1979; Newton and Raftery 1994; for mixtures O'Hagan, Murphy, Scrucca and Gormley 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import em
from .._base import check
from .._base.memory import from_host, to_host
from .._base.mesh import outside_meshes
from .._base.precision import is_traced, precision_for
from .._base.programs import program
from .._base.status import FAILED
from ..em.lanes import in_waves
from ..mixture import Mixture
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.chunks import Chunked
from ..rows.door import admit
from ..rows.options import RowOptions, Workload
from .laws import Exponential, Gamma, Law, Multinomial
from .observer import saying_what_is_lost
from .replicates import replicated
from .spurious import is_spurious

KINDS = ("rows", "weights")

SETTLED = 1e-4
"""Change of the total log-likelihood, nats, below which a replicate has converged.

A parameter that is off by d standard errors costs d²/2 nats of the total, however many rows there are, so a tol on the
mean has to fall with N. For 20000 rows of two clusters 2.5 deviations apart, in float64, 1e-5 of the mean gave 29 to 57
percent of the standard errors, because replicates stopped close to the fit that they start from; this gives 95 to 97.
"""


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
    spurious: Array  # (B, K) bool: whether the ridge, and not the data, decides a component's smallest variance

    __getstate__, __setstate__ = to_host, from_host

    @property
    def n_failed(self) -> int:
        """Replicates whose fit collapsed, was not finite, or has a spurious component. All figures leave them out."""
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
        return ~np.isin(np.asarray(self.status), FAILED) & ~np.asarray(self.spurious).any(axis=-1)

    def _over_replicates(self, figure: Callable[[np.ndarray], np.ndarray], least: int) -> Parameters:
        """`figure` of each parameter's values (float64) over the sound replicates; NaN if these are under `least`."""

        def one(values: Array) -> np.ndarray:
            sound = np.asarray(values, np.float64)[self._is_sound()]
            return figure(sound if len(sound) >= least else np.full((least, *sound.shape[1:]), np.nan))

        return Parameters(one(self.weights), one(self.means), one(self.covariances))

    def __repr__(self) -> str:
        if is_traced(self) or self.status.ndim != 1:
            return f"Bootstrap(status={self.status!r}, mixture={self.mixture!r})"
        error, of = self.standard_error(), len(self.status)
        lines = [f"Bootstrap of {of} replicates, {self.n_failed} of them failed: the fit ± standard errors"]
        fitted = zip(np.asarray(self.mixture.weights), np.asarray(self.mixture.means), strict=True)
        for k, (weight, mean) in enumerate(fitted):
            if k == 10 and self.mixture.n_components > 11:
                lines.append(f"  … and {self.mixture.n_components - 10} more")
                break
            centre, spread = (np.array2string(a, precision=4, threshold=8) for a in (mean, error.means[k]))
            lines.append(f"  {k}: weight {weight:.4f} ± {error.weights[k]:.4f}  mean {centre} ± {spread}")
        often = np.asarray(self.spurious).sum(axis=0)
        named = ", ".join(f"component {k} in {often[k]} replicates" for k in np.flatnonzero(often))
        return "\n".join([*lines, *([f"held up by the ridge alone, so counted as failed: {named}"] if named else [])])


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
    that it has converged. Where it has a spurious component (`FitResult.spurious`), so have most replicates.

    key: a JAX random key. x: an array, or `Batches`; a file, `Blocks` and whatever else `fit` reads in blocks is read
    into memory. mixture: the fit, `result.mixture`. n_replicates: B, at least 2.
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

    Ctrl-C ends the work early: the replicates that are done come back, with a warning. Where not even two are, which a
    standard error needs, it is a KeyboardInterrupt.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is fitted; after that
    never: `status` and `spurious` say how each replicate ended, and the figures leave out those that are not sound.
    """
    check.random_key(key)
    if not isinstance(mixture, Mixture):
        raise TypeError(
            f"mixture must be a jaxgmm.Mixture, got {type(mixture).__name__}. A fit's is result.mixture; known "
            "parameters make one by Mixture.create."
        )
    check.one_of(kind, KINDS, "kind of bootstrap")
    n_replicates = check.count(n_replicates, "n_replicates", least=2)
    max_steps = check.count(max_steps, "max_steps", least=0)
    wanted = mixture.means.dtype if dtype is None else dtype
    with outside_meshes(), saying_what_is_lost("The bootstrap"):
        batches = admit(x, RowOptions(sample_weight, chunk_size, wanted), Workload(mixture.n_components, n_replicates))
    rows_check.last_axis((batches.n_features,), mixture.n_features)
    expected = _flat(batches)
    if sample_size is None:
        sample_size = int(np.count_nonzero(expected))
    sample_size = min(check.count(sample_size, "sample_size", least=1), np.iinfo(np.int32).max)
    settings = em.Settings(tol=settled(tol, sample_size), ridge=ridge, acceleration=acceleration)
    expected *= sample_size / expected.sum()
    with outside_meshes(), saying_what_is_lost("The bootstrap"), precision_for(batches.dtype):
        mixture = jax.tree.map(lambda leaf: leaf.astype(batches.dtype), mixture)
        law, size, limit = _law(kind, expected, batches.dtype), np.int32(sample_size), check.steps(max_steps)
        begin = partial(_begun, batches, mixture, law, size, settings)
        go = partial(_replicates, batches, size, settings)
        found = replicated(key, n_replicates, begin, go, mixture, batches, limit)
    return Bootstrap(mixture, *found)


def _law(kind: str, expected: np.ndarray, dtype: Any) -> Law:
    """expected (S,): how many observations each row stands for."""
    if kind == "rows":
        return Multinomial.of(expected)
    is_plain = np.allclose(expected[expected > 0.0], 1.0, rtol=1e-6, atol=0.0)
    return (Exponential if is_plain else Gamma)(expected.astype(dtype))


@program(static="impl")
def _begun(
    batches: Batches,
    mixture: Mixture,
    law: Law,
    sample_size: Array,
    settings: em.Settings,
    keys: Array,
    *,
    impl: Any,
) -> tuple[Array, em.State]:
    """The weights of replicates (G, S), and their states (G, ...) before the first step. keys: as key data (G, ·)."""

    def one(key: Array) -> tuple[Array, em.State]:
        weights = law.draw(jax.random.wrap_key_data(key, impl=impl), sample_size, batches.dtype)
        return weights, em.init(mixture, _reweighted(batches, weights, sample_size), settings)

    return in_waves(one, keys, mixture.n_components, batches.chunk_size)


@program
def _replicates(
    batches: Batches, sample_size: Array, settings: em.Settings, weights: Array, states: em.State, limit: Array
) -> tuple[em.State, tuple[Array, ...]]:
    """Replicates (G, ...) run on until they have made `limit` steps in all, and what is kept of each: weights, means,
    dense covariances, objective, status and spurious components."""

    def one(lane: tuple[Array, em.State]) -> tuple[em.State, tuple[Array, ...]]:
        weights, state = lane
        state = em.run(state, _reweighted(batches, weights, sample_size), settings, limit)
        found = state.mixture
        figures = found.weights, found.means, found.covariances, state.objective, state.status
        return state, (*figures, is_spurious(found, settings.floor))

    return in_waves(one, (weights, states), states.mixture.means.shape[1], batches.chunk_size)


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

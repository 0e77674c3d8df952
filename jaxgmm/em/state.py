"""The settings and the state of a run of EM."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base import check
from .._base.namespace import choose
from .._base.precision import is_traced
from .._base.status import Status
from ..density import FAST_UP_TO
from ..families import SHELF, Family, shape_of_scales
from ..mixture import Mixture
from ..moments import Moments
from ..priors import Prior, Ridge, Ridged, in_dtype
from ..priors.in_unit import InUnit
from ..rows.batches import Batches
from ..rows.chunks import Scale
from .steppers.memory import METHODS, Memory

STOPPING = ("gain", "aitken")


class Floor(NamedTuple):
    """A ridge that is the variance of the cells in which values were recorded.

    The density of a component that holds one value of a column is then bounded by the column's own resolution, and not
    by a number of the user's, so that its objective can be compared with others.
    """

    ridge: Any  # (D,)
    least_share: Any  # (): share of the rows below which such a component does not count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Settings:
    """The settings of a run. The numbers are traced: changing them compiles nothing.

    family: name or object; the mixture's own where it is None. tol: nats of the mean log-likelihood; 0 runs to the step
    limit. ridge: added to the diagonal of every covariance, () or one for each feature (D,). Where the sum would break
    a family's constraint, it is added to the scatter instead, which is the same for all of scikit-learn's types.
    acceleration: "squarem", "anderson" or "lbfgs" (see `steppers/`); None is plain EM. stopping: a run has converged
    when a step gains less than tol ("gain"; under acceleration, when two of EM's own in turn do, and all remaining ones
    together would, by the rate at which the two shrink), or when three in turn did and all remaining steps together
    would ("aitken": the gains are assumed to shrink at a constant rate, as EM's do in the end; Böhning et al. 1994; the
    rate is the larger of the last two). prior: an object with the
    methods of `jaxgmm.priors.Prior`, whose log-density, per unit of weight, is part of the objective; it and the ridge
    both apply. A state that was made under a prior is to be continued under the same prior.
    least_share: set by a search under `ridge="resolution"`, and no part of a step; see `Floor`.
    ValueError for a negative or NaN number, or an unknown family, acceleration or stopping; TypeError for an object
    that is no prior.
    """

    family: Family | None = field(default=None, metadata={"static": True})
    tol: Any = 1e-3
    ridge: Any = 1e-6
    acceleration: str | None = field(default=None, metadata={"static": True})
    stopping: str = field(default="gain", metadata={"static": True})
    prior: Prior | None = None
    least_share: Any = None

    def __post_init__(self) -> None:
        # JAX rebuilds this from placeholders when it maps over trees: only values that a user gave are checked.
        for name, checked in (("tol", check.nonnegative), ("ridge", check.ridge)):
            value = getattr(self, name)
            if isinstance(value, (bool, str, int, float, np.number, np.ndarray, list, tuple)):
                object.__setattr__(self, name, checked(value, name))
        if self.family is not None:
            object.__setattr__(self, "family", check.family(self.family, SHELF))
        check.acceleration(self.acceleration, METHODS)
        check.one_of(self.stopping, STOPPING, "stopping")
        check.prior(self.prior, Ridge)

    @property
    def prior_with_ridge(self) -> Prior:
        """The ridge, together with the prior where there is one."""
        ridge = Ridge(self.ridge)
        return ridge if self.prior is None else Ridged(self.prior, ridge)

    @property
    def floor(self) -> Any:
        """The ridge for `search.spurious.is_spurious`: as a `Floor` where it is the resolution of the columns."""
        return self.ridge if self.least_share is None else Floor(self.ridge, self.least_share)

    def in_unit(self, exponent: Any) -> Settings:
        """The same for rows whose weights are in units of 2^exponent."""
        if self.prior is None or not (is_traced(exponent) or int(exponent)):
            return self
        return replace(self, prior=InUnit(self.prior, exponent))

    @property
    def steps_to_judge(self) -> int:
        """How many consecutive plain EM steps it takes to tell whether a run has converged."""
        if self.stopping == "aitken":
            return 3
        # An accelerated run soon comes to where EM's own steps are small: an optimum or a saddle. Only the rate at
        # which they shrink tells one from the other.
        return 1 if self.acceleration is None else 2


class State(NamedTuple):
    """The state of a run. Every field belongs to `mixture`."""

    mixture: Mixture
    moments: Moments
    objective: Array  # (): mean log-likelihood, plus the prior's log-density, nats per unit of weight
    n_steps: Array  # (): int32
    status: Array  # (): a `Status`, int32
    fell: Array  # (): whether the objective ever fell by more than rounding and the ridge explain
    gain: Array  # (): by how much the last step raised what EM raises, nats; infinite where unknown
    gain_before: Array  # (): likewise the step before it
    memory: Memory | None = None  # of an accelerated run
    ridge_trace: Array | None = None  # (K,): tr(ridge Σ⁻¹) of each component, if the loop carries it
    # (): whether FAST is too inaccurate for the next step, likewise; a guess where no step is made in FAST.
    is_far: Array | None = None


class Fixed(NamedTuple):
    """Parts of a mixture that the first M-step does not estimate, and which parts these are."""

    mixture: Mixture
    parts: Any  # (3,) bool: whether its weights, means and covariances are fixed

    def onto(self, mixture: Mixture) -> Mixture:
        """The mixture with the fixed parts put in place of its own."""
        pairs = zip(self.parts, mixture_parts(self.mixture), mixture_parts(mixture), strict=True)
        chosen = (choose(stands, own, found) for stands, own, found in pairs)
        return Mixture(*chosen, mixture.family)  # pyright: ignore


def mixture_parts(mixture: Mixture) -> tuple[Array, Array, Any]:
    return mixture.log_weights, mixture.means, mixture.scales


NOT_BEGUN = -1
"""`n_steps` of a run that has not begun: its moments are those of a first assignment of the rows, and its first step is
the M-step from there, with no verdict on the gain. So one program serves the start and the steps."""


def unstarted(seeds: np.ndarray, meant: np.ndarray, moments: Moments, family: Family) -> State:
    """States (R, ...) of runs that have not begun, on the host.

    seeds (R, K, D), about which `moments` (R, ...) are taken, of the family's kind; meant (R, K) bool: which components
    are no padding. A run in which one of these gets no rows collapses in its first step.
    """
    n_runs, n_components, n_features = seeds.shape
    dtype = seeds.dtype

    def start(leaf: Any) -> np.ndarray:
        return np.array(np.broadcast_to(start_of_scales(leaf.shape, n_features, leaf.dtype), (n_runs, *leaf.shape)))

    scales = jax.tree.map(start, shape_of_scales(family, n_components, n_features, dtype))
    log_weights = np.where(meant, 0.0, -np.inf).astype(dtype)
    return State(
        mixture=Mixture(log_weights, seeds, scales, family),  # pyright: ignore
        moments=moments,
        objective=np.full(n_runs, -np.inf, dtype),  # pyright: ignore
        n_steps=np.full(n_runs, NOT_BEGUN, np.int32),  # pyright: ignore
        status=np.full(n_runs, Status.RUNNING, np.int32),  # pyright: ignore
        fell=np.zeros(n_runs, bool),  # pyright: ignore
        gain=np.full(n_runs, np.inf, dtype),  # pyright: ignore
        gain_before=np.full(n_runs, np.inf, dtype),  # pyright: ignore
        ridge_trace=np.zeros((n_runs, n_components), dtype),  # pyright: ignore
    )


def start_of_scales(shape: tuple[int, ...], n_features: int, dtype: Any) -> np.ndarray:
    """What a leaf of K covariances, of this shape, holds before a run has begun, as a start for a family's inner
    iteration: identity matrices, and 1 for everything else."""
    is_matrix = shape[-2:] == (n_features, n_features) and len(shape) > 2
    return np.eye(n_features, dtype=dtype) if is_matrix else np.ones((), dtype)


def objective_of(mixture: Mixture, moments: Moments, rows: Batches | Scale, prior: Prior | None) -> Array:
    """Log-likelihood of a mixture that has these moments, plus the prior's log-density, nats per unit of weight."""
    if prior is None:
        return moments.objective / rows.total_weight
    return (
        moments.objective + in_dtype(prior, mixture.means.dtype).log_density(mixture, moments.mass)
    ) / rows.total_weight


def initial(mixture: Mixture, moments: Moments, rows: Batches | Scale, prior: Prior | None = None) -> State:
    """The state before the first step, from a mixture and its moments."""
    objective = objective_of(mixture, moments, rows, prior)
    broken = ~jnp.all(mixture.scales.is_definite())
    status = jnp.select([broken, ~jnp.isfinite(objective)], [Status.COLLAPSED, Status.NON_FINITE], Status.RUNNING)
    unknown = jnp.full_like(objective, jnp.inf)
    return State(
        mixture, moments, objective, jnp.int32(0), status.astype(jnp.int32), jnp.array(False), unknown, unknown
    )


def lost_if_empty(state: State, seeded: Mixture, count: Array | int) -> State:
    """The state, COLLAPSED if a seed has no rows: it could never get any.

    seeded: the mixture from the first M-step; all but its first `count` components are padding.
    """
    is_meant = jnp.arange(seeded.n_components, dtype=jnp.int32) < count
    empty = jnp.any((seeded.log_weights == -jnp.inf) & is_meant)
    return state._replace(status=jnp.where(empty, Status.COLLAPSED, state.status).astype(jnp.int32))


class Proposal(NamedTuple):
    """The mixture that a step proposes. It is judged once the rows have been summed under it."""

    mixture: Mixture
    tried: Memory | None = None  # of an accelerated run: its memory if the proposal is accepted
    is_plain: Array | None = None  # likewise: () bool, whether the step is a plain EM step


def resume(state: State, max_steps: Array) -> State:
    """The state with which a run begins: one that was stopped by a lower limit is set to RUNNING again."""
    resumable = (state.status == Status.MAX_STEPS) & (state.n_steps < max_steps)
    return state._replace(status=jnp.where(resumable, Status.RUNNING, state.status).astype(jnp.int32))


def is_running(state: State, max_steps: Array) -> Array:
    """Whether a run makes another step."""
    return (state.status == Status.RUNNING) & (state.n_steps < max_steps)


def finish(state: State) -> State:
    """The state with which a run ends: one that is still running has reached the limit, MAX_STEPS."""
    status = jnp.where(state.status == Status.RUNNING, Status.MAX_STEPS, state.status)
    return state._replace(status=status.astype(jnp.int32))


def guessed_far(states: State, batches: Batches) -> np.ndarray:
    """Which runs (R, ...) are likely to need the SAFE form: those with a mean further from the origin, in standard
    deviations within components, than FAST allows. A wrong guess costs compiling one more program. -> (R,) bool."""
    means, mass, second = (np.asarray(of) for of in (states.mixture.means, states.moments.mass, states.moments.second))
    n_runs, _, n_features = means.shape
    is_matrix = second.ndim == 4 and second.shape[-2:] == (n_features, n_features)
    total = second.trace(axis1=-2, axis2=-1) if is_matrix else second
    with np.errstate(all="ignore"):
        within = total.reshape(n_runs, -1).sum(axis=1) / (mass.sum(axis=1) * n_features)
        distance = np.square(means - np.asarray(batches.origin)).sum(axis=-1)
        furthest = np.where(np.isfinite(states.mixture.log_weights), distance, 0.0).max(axis=1)
        return ~(furthest <= FAST_UP_TO[means.dtype.itemsize] * within)

"""The verdict on a step: whether it failed, lowered the objective, or gained so little that the run has converged."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.linalg import of_rank
from .._base.namespace import choose, xp_of
from .._base.status import Status
from ..mixture import Mixture
from ..priors import Ridge
from ..rows.batches import Batches
from ..rows.chunks import Scale
from .state import Settings, State


def judge(old: State, new: State, rows: Batches | Scale, settings: Settings, put_off: Array | bool = False) -> State:
    """The state after a step, with its status: the only place that judges a step.

    A step to an invalid covariance or objective is undone, so that a state always holds a usable mixture. A step that
    is `put_off` leaves the old state unchanged.
    """
    xp: Any = xp_of(new.objective)
    change = new.objective - old.objective
    # By how much the step lowers the ridge's penalty, nats. The M-step maximises Q − ½ Σ_k π_k tr(ridge Σ_k⁻¹) and not
    # Q, so the objective may fall by as much as the penalty does.
    ridge = Ridge(settings.ridge)
    before = ridge.traces(old.mixture) if old.ridge_trace is None else old.ridge_trace
    after = ridge.traces(new.mixture)
    penalty_drop = 0.5 * (old.moments.mass * (before - after)).sum(axis=-1) / old.moments.mass.sum(axis=-1)
    gain = change + penalty_drop
    broken = ~_is_sound(new.mixture, settings).all(axis=-1) | _is_point(new.mixture, settings)
    # Half a row and not one: a sound component with a single row shares a little of it with the others.
    lost = ((new.moments.mass < 0.5 * rows.min_weight) & xp.isfinite(old.mixture.log_weights)).any(axis=-1)
    lost &= old.n_steps >= 0
    finite = xp.isfinite(new.objective)
    rounding = _rounding(new)
    fell = old.fell | (change < -64.0 * rounding - xp.maximum(penalty_drop, 0.0))
    settled = xp.where(fell, Status.NOT_MONOTONE, Status.CONVERGED)
    status = xp.where(_has_settled(change, gain, old, rounding, settings), settled, Status.RUNNING)
    status = xp.where(~broken & ~finite, Status.NON_FINITE, xp.where(broken | lost, Status.COLLAPSED, status))
    status = status.astype(np.int32)
    new = new._replace(
        status=status,
        fell=fell,
        gain=gain,
        gain_before=old.gain,
        ridge_trace=None if old.ridge_trace is None else after,
        is_far=old.is_far,
    )
    taken_back = old._replace(status=xp.where(put_off, old.status, status))
    return choose(broken | ~finite | put_off, taken_back, new)


def _is_sound(mixture: Mixture, settings: Settings) -> Array:
    """Whether each matrix is positive definite; without a ridge, by more than rounding. -> (K,) or (1,)."""
    has_ridge = (xp_of(mixture.means).asarray(settings.ridge) > 0).all()
    return mixture.scales.is_definite() & (has_ridge | mixture.scales.is_resolved())


def _has_settled(change: Array, gain: Array, old: State, rounding: Array, settings: Settings) -> Array:
    """Whether a step that changed the objective by `change`, and raised what EM raises by `gain`, ends the run.

    Both must be small: under a large ridge the objective's change passes through 0 long before EM has converged. A
    fall that cancels the rise before it ends the run, too: in float32 a run can oscillate between two such mixtures.
    """
    xp: Any = xp_of(gain)
    last, before, tol = old.gain, old.gain_before, xp.asarray(settings.tol, gain.dtype)
    to_and_fro = (last > 0.0) & (gain <= -0.5 * last) & (xp.abs(gain + last) < tol)
    small = xp.maximum(xp.abs(change), xp.abs(gain)) < tol
    if settings.steps_to_judge == 1:
        return to_and_fro | small
    # The gains that rates are made of must be small as well, and no run ends that plain EM by "gain" would go on with.
    small &= xp.abs(last) < tol
    rate = gain / last
    shrinks = (rate >= 0.0) & (rate < 1.0)
    if settings.stopping == "aitken":
        # Two rates must agree that little is to come: one alone ended runs in their first steps, where gains fall by
        # an order each.
        small &= xp.abs(before) < tol
        then = last / before
        shrinks &= (then >= 0.0) & (then < 1.0) & xp.isfinite(before)
        rate = xp.maximum(rate, then)
    to_come = gain * rate / xp.where(shrinks, 1.0 - rate, 1.0)
    at_rest = (xp.abs(gain) < 4.0 * rounding) & (tol > 0.0)  # rates would be ratios of rounding errors
    return to_and_fro | (small & xp.where(shrinks, xp.abs(to_come) < tol, at_rest))


def _rounding(state: State) -> Array:
    """The rounding error of a mean of log-densities whose terms are of the size of D and log det Σ."""
    log_det = abs(state.mixture.scales.log_det()).max(axis=-1)
    return jnp.finfo(state.objective.dtype).eps * (abs(state.objective) + log_det + state.mixture.n_features)


def _is_point(mixture: Mixture, settings: Settings) -> Array:
    """Whether a component has shrunk to a single value: its standard deviation is within the rounding of its mean.

    With a ridge such a component counts as an estimate, and `Covariance.ridge_share` shows it.
    """
    xp: Any = xp_of(mixture.means)
    resolution = 4.0 * jnp.finfo(mixture.means.dtype).eps * abs(mixture.means)
    has_none = of_rank(xp.asarray(settings.ridge) <= 0, 2)
    is_point = (mixture.scales.variances() <= resolution**2) & has_none
    return (is_point.any(axis=-1) & xp.isfinite(mixture.log_weights)).any(axis=-1)

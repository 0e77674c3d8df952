"""Spurious components: those of which the ridge, and not the data, decides the smallest variance."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array, lax

from .. import em
from .._base.linalg import cholesky, of_rank
from .._base.namespace import xp_of
from .._base.programs import program
from ..covariances import Dense
from ..em.state import Floor
from ..mixture import Mixture, covariance_of

SPURIOUS_ABOVE = 0.5
"""Share of the ridge in a component's smallest variance above which the ridge, and not the data, decides it. Such a
component lies on a few rows or on one repeated value, where only the ridge bounds the likelihood."""


def spurious_on_host(states: em.State, ridge: Any) -> np.ndarray:
    """`is_spurious` for every run (R, ...), evaluated only if its ridge traces do not rule it out. -> (R, K) bool."""
    if states.ridge_trace is None:
        return np.asarray(_is_spurious_each(states.mixture, ridge))
    found = np.zeros(states.mixture.log_weights.shape, bool)
    # NaN must be examined, too.
    for run in np.flatnonzero(np.any(~(np.asarray(states.ridge_trace) <= SPURIOUS_ABOVE), axis=1)):
        found[run] = is_spurious_on_host(jax.tree.map(lambda leaf, run=run: leaf[run], states.mixture), ridge)
    return found


def is_spurious_on_host(mixture: Mixture, ridge: Any) -> Any:
    """`is_spurious` for a mixture with NumPy leaves, by NumPy. -> (K,) bool."""
    with np.errstate(all="ignore"):
        return is_spurious(mixture, ridge)


@program(hurried=True)
def _is_spurious_each(mixtures: Mixture, ridge: Any) -> Array:
    """`is_spurious` for mixtures (R, ...). -> (R, K) bool."""
    return lax.map(lambda mixture: is_spurious(mixture, ridge), mixtures)


def is_spurious(mixture: Mixture, ridge: Any) -> Any:
    """Which components have a smallest variance decided by the ridge, if that of all rows is not. -> (K,) bool, by
    `jax.numpy`, or by NumPy for a mixture with NumPy leaves.

    With a constant or a collinear column the ridge decides that of every component, which is no sign of spikes. Then a
    component is spurious that stands on the ridge in another column.

    ridge: () or (D,), or a `Floor`. Under that a component counts that holds one value of some columns, if the ridge
    decides nothing in the others and the component has more rows than a few: the values coincide because they were
    rounded, or repeat, and its density is bounded by their resolution. A component that lies in a plane across
    columns is spurious all the same: a few rows always do.
    """
    xp: Any = xp_of(mixture.means)
    amount, least_share = ridge if isinstance(ridge, Floor) else (ridge, None)
    each = xp.broadcast_to(xp.asarray(amount, mixture.means.dtype), mixture.n_features)
    covariance, scales = covariance_of(mixture), mixture.scales
    is_whole = Dense(cholesky(covariance)[None]).ridge_share(each) > SPURIOUS_ABOVE
    alone = of_rank(each, 2) > SPURIOUS_ABOVE * scales.variances()
    among = alone & of_rank(~(each > SPURIOUS_ABOVE * covariance.diagonal()), 2)
    found = scales.ridge_share(each) > SPURIOUS_ABOVE
    found = found & xp.isfinite(mixture.log_weights) & (~is_whole | xp.any(among, axis=-1))
    if least_share is None:
        return found
    is_plane = (scales.ridge_share(xp.where(alone, xp.zeros_like(each[None]), each[None])) > SPURIOUS_ABOVE) & ~is_whole
    return found & (is_plane | (xp.exp(mixture.log_weights) < least_share))

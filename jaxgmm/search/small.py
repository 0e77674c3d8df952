"""Starts for small problems: seeds and first assignments in NumPy, with shapes that nearly all small problems share.

The cost of a small fit is compilation. So shapes are bucketed (see `programs.py`): rows lie in an array with room for
more, components are padded with components of weight 0, and no shape depends on the number of runs (see
`one_by_one.py`). The first M-step is made as all others are, so that a start needs no program of its own.
States are those of `em`, with NumPy leaves (R, ...).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .. import em
from .._base import threefry
from .._base.linalg import einsum
from .._base.programs import components
from ..em.state import mixture_parts, unstarted
from ..families import Family
from ..mixture import Mixture
from ..moments import Moments
from ..rows.batches import Batches
from . import one_by_one
from .fixed_start import FixedStart
from .result import is_on_host
from .seeding import host
from .seeding.sample import Columns


def seeds(
    keys: np.ndarray, counts: np.ndarray, restarts: np.ndarray, batches: Batches, seeding: str, n_components: int
) -> np.ndarray:
    """Seeds (R, K, D) for runs with these numbers of components and indices (R,). keys: pairs (R, 2, 2)."""
    rows, origin = _columns(batches), np.asarray(batches.origin)
    found = np.empty((len(keys), n_components, batches.n_features), batches.dtype)
    for count in np.unique(counts):
        of = counts == count
        found[of] = host.seeds(keys[of], rows, seeding, n_components, int(count), restarts[of])
    return found + origin


def are_on_host(key: Any, batches: Batches) -> bool:
    """Whether `seeds` are drawn on the host: NumPy needs a half to a twentieth of the time of a hurried program, which
    every number of runs would compile anew besides."""
    return batches.has_room and threefry.matches(key)


def from_seeds(
    seeds: np.ndarray, counts: np.ndarray, batches: Batches, family: Family, broad: bool = False
) -> em.State:
    """Unstarted runs (R, ...) from seeds (R, K, D), of which the first `counts` (R,) are used; each row belongs to the
    nearest, or if `broad` to all of them (see `em.hard.on_all_rows`)."""
    rows, origin, seeds = _columns(batches), np.asarray(batches.origin), np.asarray(seeds)
    meant = np.arange(seeds.shape[1]) < np.asarray(counts)[:, None]
    moments = []
    with host.quiet():
        for points, is_meant in zip(seeds, meant, strict=True):
            if broad:
                moments.append(_on_all_rows(is_meant, rows, family))
                continue
            labels, _ = host.nearest(rows.x, points[None, is_meant] - origin)
            moments.append(_of_labels(labels[0], points - origin, rows, family))
    return unstarted(seeds, meant, _stacked(moments), family)


def from_mixture(mixture: Mixture, batches: Batches, settings: em.Settings) -> em.State:
    """A run (1, ...) from a user's mixture: all that its first M-step would estimate is fixed."""
    states = _from_nothing(components(mixture.n_components), batches, mixture.family)
    return started(states, FixedStart(*mixture_parts(mixture)), mixture.n_components, batches, settings)


def from_values(
    values: np.ndarray,
    n_components: int,
    batches: Batches,
    family: Family,
    settings: em.Settings,
    fixed: FixedStart,
) -> em.State:
    """A run (1, ...) from checked means (K, D), labels (N,) or responsibilities (N, K)."""
    if values.ndim == 1:
        values = (values[:, None] == np.arange(n_components)).astype(batches.dtype)
    elif values.shape == (n_components, batches.n_features):
        means: Any = values.astype(batches.dtype)
        fixed = fixed._replace(means=means if fixed.means is None else fixed.means)
        values = _nearest(means, batches)
    states = from_responsibilities(values, components(n_components), batches, family)
    return started(states, fixed, n_components, batches, settings)


def started(
    states: em.State, fixed: FixedStart, n_components: int, batches: Batches, settings: em.Settings
) -> em.State:
    """Make the first M-step of unstarted runs (R, ...) if parts of its result are fixed, of which later steps do not
    know, or if the states are too large to be run one by one. Otherwise return them unchanged."""
    if fixed.is_nothing and is_on_host(states):
        return states
    _, room, n_features = states.mixture.means.shape
    parts = fixed.fixed(states.mixture.family, n_components, room, n_features, batches.dtype)
    histories = np.empty((len(states.objective), 1), batches.dtype)
    return one_by_one.run(states, histories, batches, settings, 0, parts)[0]


def _from_nothing(n_components: int, batches: Batches, family: Family) -> em.State:
    """An unstarted run (1, ...) with arbitrary moments, for a start in which all parts are fixed."""
    about = np.zeros((n_components, batches.n_features), batches.dtype)
    one_each = Columns(
        np.zeros((batches.n_features, n_components), batches.dtype), np.ones(n_components, batches.dtype)
    )
    moments = _of_labels(np.arange(n_components), about, one_each, family, spread=1.0)
    meant = np.zeros((1, n_components), bool)  # the user's weights are kept, a weight of 0 included
    return unstarted(about[None], meant, _stacked([moments]), family)


def _nearest(means: np.ndarray, batches: Batches) -> np.ndarray:
    """Responsibilities (N, K): 1 for the nearest mean, 0 for the others."""
    with host.quiet():
        labels, _ = host.nearest(_columns(batches).x, (means - np.asarray(batches.origin))[None])
    return (labels[0][:, None] == np.arange(len(means))).astype(means.dtype)


def from_responsibilities(
    responsibilities: np.ndarray, n_components: int, batches: Batches, family: Family
) -> em.State:
    """An unstarted run (1, ...) from responsibilities (N, count)."""
    rows, origin = _columns(batches), np.asarray(batches.origin)
    count, n_features = responsibilities.shape[1], len(rows.x)
    weighted = responsibilities.T.astype(np.float64) * rows.weights
    mass, means = np.zeros(n_components), np.zeros((n_components, n_features))
    mass[:count] = weighted.sum(axis=1)
    means[:count] = einsum("kn,dn->kd", weighted, rows.x) / np.where(mass > 0.0, mass, 1.0)[:count, None]
    second = np.zeros((n_components, n_features, n_features))
    for k in range(count):
        centred = rows.x - means[k][:, None]
        second[k] = einsum("in,jn->ij", centred * weighted[k], centred)
    moments = _moments(mass, np.zeros_like(means), second, batches.dtype, family)
    meant = (np.arange(n_components) < count)[None]
    return unstarted((means + origin).astype(batches.dtype)[None], meant, _stacked([moments]), family)


def _columns(batches: Batches) -> Columns:
    """The rows about their origin as columns (D, N), on the host; rows of weight 0 are moved to the origin."""
    n_rows = int(batches.n_rows)
    weights = np.asarray(batches.weights.body)[:n_rows]
    rows, origin = np.asarray(batches.rows.body)[:n_rows], np.asarray(batches.origin)
    counted = weights > 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        centred = rows - origin if counted.all() else np.where(counted[:, None], rows - origin, 0.0)
    return Columns(np.ascontiguousarray(centred.T), weights)


def _of_labels(labels: np.ndarray, about: np.ndarray, rows: Columns, family: Family, spread: float = 0.0) -> Moments:
    """Moments of rows about points (K, D), with each row assigned to one point by labels (N,).

    spread: what is added to each component's variances.
    """
    n_components, n_features = about.shape
    weights = np.asarray(rows.weights, np.float64)
    centred = np.asarray(rows.x, np.float64) - np.asarray(about, np.float64)[labels].T

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(labels, values, n_components)

    mass = sums(weights)
    first = np.stack([sums(weights * feature) for feature in centred], axis=-1)
    second = np.empty((n_components, n_features, n_features))
    for k in range(n_components):
        own = labels == k
        mine = centred[:, own]
        second[k] = einsum("in,jn->ij", mine * weights[own], mine)
    second += spread * mass[:, None, None] * np.eye(n_features)
    return _moments(mass, first, second, about.dtype, family)


def _on_all_rows(is_meant: np.ndarray, rows: Columns, family: Family) -> Moments:
    """`em.hard.on_all_rows` for components (K,), of which those that are meant share the rows."""
    weights, x = np.asarray(rows.weights, np.float64), np.asarray(rows.x, np.float64)
    share = weights.sum() * is_meant / is_meant.sum()
    centred = x - (einsum("n,dn->d", weights, x) / weights.sum())[:, None]
    covariance = einsum("in,jn->ij", centred * weights, centred) / weights.sum() * is_meant.sum() ** (-2.0 / len(x))
    nothing = np.zeros((len(share), len(x)))
    return _moments(share, nothing, share[:, None, None] * covariance, rows.x.dtype, family)


def _moments(mass: np.ndarray, first: np.ndarray, second: np.ndarray, dtype: Any, family: Family) -> Moments:
    of_kind = np.asarray(family.kind.project(second), dtype)  # pyright: ignore
    return Moments(mass.astype(dtype), first.astype(dtype), of_kind, np.zeros((), dtype))  # pyright: ignore


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

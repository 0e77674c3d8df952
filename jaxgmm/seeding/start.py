"""From seeds, or from whatever the user starts with, to a mixture: all rows are assigned, then one M-step follows.

Giving each seed its one row alone (scikit-learn's way for k-means++ and random rows) leaves tied covariances at the
scatter of the whole data, from which EM settles at once where all components are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from .._linalg import columns
from ..batches import Batches, Chunked
from ..expectation import assign
from ..families import Family
from ..maximisation import maximise
from ..mixture import Mixture
from ..moments import TRACE, Kind, Moments
from ._rows import Rows, nearest, rows_for_seeding
from .kmeans import kmeans, kmeans_plus_plus
from .random import random_responsibilities, random_rows

SEEDINGS: Mapping[str, Callable[[Array, Rows, int, Array | int], Array]] = {
    "k-means++": kmeans_plus_plus,
    "k-means": kmeans,
    "random_rows": random_rows,
    "random_responsibilities": random_responsibilities,
}
"""The shelf of seedings: (key, rows, K, count) -> seeds (K, D). A new one is a function and a line here.

Only the first `count` of the K seeds, a traced number, are meant; they are those that K = count would give, so that one
program serves several numbers of components.
"""


def seeds_from(keys: Array, batches: Batches, seeding: str, n_components: int, count: Array | int) -> Array:
    """Seeds by the named way, of which the first `count` are meant; the others are the origin. -> (K, D).

    keys (2,): one for the rows to choose from, one to choose with.
    """
    rows = rows_for_seeding(keys[0], batches, n_components)
    seeds = SEEDINGS[seeding](keys[1], rows, n_components, count)
    return jnp.where((jnp.arange(n_components) < count)[:, None], seeds, 0.0) + batches.origin


def from_means(means: Array, batches: Batches, family: Family, ridge: Any, count: Array | int | None = None) -> Mixture:
    """Each row to its nearest mean (K, D), one M-step. Means past the first `count` get no rows, and so no weight."""
    given = _to_nearest(means, count)
    return _one_step(given, _means_of(given, means, batches), batches, family, ridge)


def by_nearest(kind: Kind, seeds: Array, batches: Batches, count: Array | int | None = None) -> Moments:
    """The moments about seeds (K, D) where each row belongs to the nearest of the first `count`.

    One M-step from there is `from_means` in one pass: about seeds that lie among the rows little is lost.
    """
    return assign(kind, seeds, batches, _to_nearest(seeds, count))


def _to_nearest(means: Array, count: Array | int | None) -> Responsibilities:
    def given(index: Array, rows: Array) -> Array:
        del index
        return _one_hot(nearest(columns(rows), means, count)[0], len(means), rows.dtype)

    return given


def from_labels(labels: Chunked, n_components: int, batches: Batches, family: Family, ridge: Any) -> Mixture:
    """One M-step from given labels (N,)."""

    def given(index: Array, rows: Array) -> Array:
        return _one_hot(labels.take(index), n_components, rows.dtype)

    return _one_step(given, _means_of(given, _origins(n_components, batches), batches), batches, family, ridge)


def from_responsibilities(responsibilities: Chunked, batches: Batches, family: Family, ridge: Any) -> Mixture:
    """One M-step from given responsibilities (N, K)."""

    def given(index: Array, rows: Array) -> Array:
        del rows
        return responsibilities.take(index).T

    return _one_step(
        given, _means_of(given, _origins(responsibilities.tail.shape[1], batches), batches), batches, family, ridge
    )


Responsibilities = Callable[[Array, Array], Array]


def _one_step(given: Responsibilities, about: Array, batches: Batches, family: Family, ridge: Any) -> Mixture:
    return maximise(assign(family.kind, about, batches, given), about, family, None, ridge)


def _origins(n_components: int, batches: Batches) -> Array:
    return jnp.broadcast_to(batches.origin, (n_components, batches.n_features))


def _means_of(given: Responsibilities, about: Array, batches: Batches) -> Array:
    """The component means, by a pass of their own, so that second moments can be taken about them.

    A component without rows stays at its point of `about` (K, D).
    """
    moments = assign(TRACE, about, batches, given)
    return about + moments.first / jnp.where(moments.mass > 0.0, moments.mass, 1.0)[:, None]


def _one_hot(labels: Array, n_components: int, dtype: Any) -> Array:
    return (labels == jnp.arange(n_components)[:, None]).astype(dtype)

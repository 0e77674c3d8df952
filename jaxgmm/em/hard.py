"""M-steps from given assignments of the rows: nearest means, labels, responsibilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ..covariances import Form
from ..families import Family
from ..mixture import Mixture
from ..moments import TRACE, Kind, Moments, Statistics, recentre
from ..priors import Ridge
from ..rows.batches import Batches
from ..rows.chunks import Chunk, Chunked
from .expectation import finish, statistics
from .maximisation import maximise

Responsibilities = Callable[[Chunk], Array]
"""The responsibilities of one chunk, (K, n)."""


def assign(kind: Kind, means: Array, batches: Batches, responsibilities: Responsibilities) -> Moments:
    """Moments about `means` (K, D) under given responsibilities; objective 0."""

    def of_chunk(chunk: Chunk) -> Statistics:
        weighted = responsibilities(chunk) * chunk.weights[None]
        nothing = jnp.zeros((), chunk.rows.dtype)
        return statistics(kind, Form.SAFE, means, batches.origin, chunk, weighted, nothing)

    return finish(kind, Form.SAFE, means, batches.origin, batches.sum(of_chunk))


def nearest(x: Array, points: Array, n_points: Array | int | None = None) -> tuple[Array, Array]:
    """Index of the nearest of the first `n_points` (None: all), and its squared distance. (D, S), (P, D) -> (S,), (S,).

    One point at a time: with many components and restarts, distances to all would need more memory than the data.
    """

    def compare(best: tuple[Array, Array], candidate: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        index, point = candidate
        distance = jnp.sum(jnp.square(x - point[:, None]), axis=0)
        closer = distance < best[1]
        if n_points is not None:
            closer &= index < n_points
        return (jnp.where(closer, index, best[0]), jnp.where(closer, distance, best[1])), None

    none = (jnp.zeros(x.shape[1], jnp.int32), jnp.full(x.shape[1], jnp.inf, x.dtype))
    return lax.scan(compare, none, (jnp.arange(len(points), dtype=jnp.int32), points))[0]


def from_means(means: Array, batches: Batches, family: Family, ridge: Any, count: Array | int | None = None) -> Mixture:
    """One M-step with each row assigned to its nearest mean (K, D). Means past the first `count` get weight 0."""
    given = _to_nearest(means, count)
    return _one_step(given, _means_of(given, means, batches), batches, family, ridge)


def by_nearest(kind: Kind, seeds: Array, batches: Batches, count: Array | int | None = None) -> Moments:
    """The moments about seeds (K, D) where each row belongs to the nearest of the first `count`.

    An M-step from these moments is `from_means` in one pass: about seeds among the rows few digits are lost.
    """
    return assign(kind, seeds, batches, _to_nearest(seeds, count))


def assigned(kind: Kind, seeds: Array, count: Array | int, batches: Batches, broad: bool) -> Moments:
    """`by_nearest`, or if `broad` `on_all_rows`."""
    nearest = by_nearest(kind, seeds, batches, count)
    return on_all_rows(kind, nearest, seeds, count) if broad else nearest


def on_all_rows(kind: Kind, nearest: Moments, seeds: Array, count: Array | int) -> Moments:
    """The moments about seeds (K, D) where each of the first `count` has an equal share of all rows, its mean at the
    seed, and the covariance of all rows, shrunk so that together they fill as much space: by count^(-2/D).

    nearest: the moments of the same rows by `by_nearest`, whose sum is that of all rows.
    """
    mass, first, second, objective = nearest
    total, n_features = jnp.sum(mass), seeds.shape[-1]
    total = jnp.where(total > 0.0, total, 1.0)
    origin = seeds[0]
    centre = origin + jnp.sum(first + mass[:, None] * (seeds - origin[None]), axis=0) / total
    _, about_centre = recentre(kind, mass, first, second, centre[None] - seeds)
    count = jnp.asarray(count, mass.dtype)
    share = jnp.where(jnp.arange(len(mass), dtype=mass.dtype) < count, total / count, 0.0)
    each = share if len(second) == len(mass) else total[None]
    covariance = jnp.sum(about_centre, axis=0, keepdims=True) / total * count ** (-2.0 / n_features)
    return Moments(share, jnp.zeros_like(first), each.reshape(-1, *[1] * (second.ndim - 1)) * covariance, objective)


def _to_nearest(means: Array, count: Array | int | None) -> Responsibilities:
    def given(chunk: Chunk) -> Array:
        return _one_hot(nearest(chunk.x, means, count)[0], len(means), chunk.rows.dtype)

    return given


def from_labels(labels: Chunked, n_components: int, batches: Batches, family: Family, ridge: Any) -> Mixture:
    """One M-step from given labels (N,)."""

    def given(chunk: Chunk) -> Array:
        return _one_hot(labels.take(chunk.index), n_components, chunk.rows.dtype)

    return _one_step(given, _means_of(given, _origins(n_components, batches), batches), batches, family, ridge)


def from_responsibilities(responsibilities: Chunked, batches: Batches, family: Family, ridge: Any) -> Mixture:
    """One M-step from given responsibilities (N, K)."""

    def given(chunk: Chunk) -> Array:
        return responsibilities.take(chunk.index).T

    return _one_step(
        given, _means_of(given, _origins(responsibilities.tail.shape[1], batches), batches), batches, family, ridge
    )


def _one_step(given: Responsibilities, about: Array, batches: Batches, family: Family, ridge: Any) -> Mixture:
    return maximise(assign(family.kind, about, batches, given), about, family, None, Ridge(ridge))


def _origins(n_components: int, batches: Batches) -> Array:
    return jnp.broadcast_to(batches.origin, (n_components, batches.n_features))


def _means_of(given: Responsibilities, about: Array, batches: Batches) -> Array:
    """The component means, by a separate pass, so that second moments can be taken about them.

    A component without rows stays at its point of `about` (K, D).
    """
    moments = assign(TRACE, about, batches, given)
    return about + moments.first / jnp.where(moments.mass > 0.0, moments.mass, 1.0)[:, None]


def _one_hot(labels: Array, n_components: int, dtype: Any) -> Array:
    return (labels[None] == jnp.arange(n_components, dtype=jnp.int32)[:, None]).astype(dtype)

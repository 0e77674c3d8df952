"""Rows that no one program sees whole: read in blocks, shared out to devices, or lying with other machines.

What all of them have is a sum over the rows of what a function says of some of them as `Batches`. Moments are such a
sum, and nothing else passes between the two steps of EM. So a step here is one sum, made by whoever holds the rows, and
the M-step and the verdict on it, made once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _check, em
from ._linalg import einsum
from .batches import Batches, Scale
from .covariances import Form
from .expectation import expect
from .families import Family
from .lanes import for_fits
from .maximisation import maximise
from .mixture import Mixture
from .moments import Kind, Moments, projected
from .programs import program
from .seeding import by_nearest

T = TypeVar("T")

How = tuple[Callable[..., Any], tuple[tuple[str, Any], ...]]
"""A function of `Batches`, and the values by name that it is compiled for."""


LOOKED_AT = 2**10
"""Rows among which one that is sound is looked for at a time."""


class Spread(ABC):
    """Rows (N, D), wherever they are. Has what `Batches` have besides the rows themselves."""

    name: str  # what messages call the rows
    dtype: np.dtype
    n_rows: int
    n_features: int
    chunk_size: int
    origin: Array  # (D,)
    total: Array  # ()
    lightest: Array  # ()
    sample: Batches  # rows that seeds are chosen from

    def sum(self, function: Callable[..., T], *shared: Any, **static: Any) -> T:
        """Σ over the rows of function(Batches, *shared, **static), a pytree of arrays.

        Compiled once for one and the same function and static values, whatever the number of rows.
        """
        return self._sum((function, tuple(sorted(static.items()))), shared)

    @abstractmethod
    def _sum(self, how: How, shared: Any) -> Any: ...

    @property
    def scale(self) -> Scale:
        return Scale(self.total, self.lightest)

    def variances(self) -> Array:
        """The variance of each feature over the weighted rows. -> (D,)."""
        return jnp.asarray(self._variances, self.dtype)

    def _describe(self, survey: Survey, n_components: int) -> None:
        """Set what a first pass has found. ValueError where too few rows count."""
        _check.some_weight(survey.total, self.name)
        _check.enough_rows(survey.n_weighted, None, n_components)
        self.n_rows = survey.n_rows
        self.sample = Batches.of(*survey.sample(), n_components=n_components, dtype=self.dtype)
        self._variances = survey.scatter / survey.total
        self.origin = jnp.asarray(survey.mean, self.dtype)
        self.total = jnp.asarray(survey.total, self.dtype)
        self.lightest = jnp.asarray(survey.lightest, self.dtype)


class Survey:
    """What a first pass finds: how many rows there are, what they weigh, where they lie, and a sample of them.

    The sample is drawn by weight and without replacement: the rows with the largest log(u) / w of all (Efraimidis and
    Spirakis 2006), in the order in which they came; or all rows, where they are few.
    """

    def __init__(self, rng: np.random.Generator, n_kept: int) -> None:
        self.rng, self.n_kept = rng, n_kept
        self.n_rows, self.n_weighted, self.total, self.lightest = 0, 0, 0.0, np.inf
        self.mean: Any = 0.0  # (D,) in float64
        self.scatter: Any = 0.0  # (D,) in float64: Σ w (x − mean)²
        self.kept: list[np.ndarray] = []  # draws, rows, weights

    def describe(self, about: Any, mass: Any, first: Any, second: Any) -> None:
        """Add sums over some of the rows, or over all: Σ w, Σ w (x − about) and Σ w (x − about)²."""
        mass = float(mass)
        if mass:
            shift = np.asarray(first, np.float64) / mass
            scatter = np.asarray(second, np.float64) - mass * shift**2
            self._add(mass, np.asarray(about, np.float64) + shift, np.maximum(scatter, 0.0))

    def _add(self, mass: float, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Join sums about the means of two sets of rows (Chan, Golub and LeVeque 1983, eqs. 2.1)."""
        total = self.total + mass
        apart = mean - self.mean
        self.scatter = self.scatter + scatter + apart**2 * (self.total * mass / total)
        self.mean = self.mean + apart * (mass / total)
        self.total = total

    def draw(self, rows: Any, weights: np.ndarray | None) -> None:
        """Take some of the rows (n, D) into the sample."""
        n_rows = len(rows)
        self.n_rows += n_rows
        if weights is None:
            weights = np.ones(n_rows, rows.dtype)
        counts = weights > 0.0
        self.n_weighted += int(counts.sum())
        self.lightest = min(self.lightest, float(weights.min(where=counts, initial=np.inf)))
        draws = np.log(1.0 - self.rng.random(n_rows))
        draws = np.divide(draws, weights, out=np.full(n_rows, -np.inf), where=counts)  # a row of weight 0 comes last
        is_full = bool(self.kept) and len(self.kept[0]) == self.n_kept
        chosen = np.flatnonzero(draws > self.kept[0].min()) if is_full else np.arange(n_rows)
        if len(chosen) > self.n_kept:
            chosen = np.sort(chosen[np.argpartition(-draws[chosen], self.n_kept)[: self.n_kept]])
        if len(chosen) or not self.kept:
            self.merge([draws[chosen], np.asarray(rows[chosen]), weights[chosen]])

    def merge(self, more: list[np.ndarray]) -> None:
        """Join what others have drawn."""
        if self.kept:
            more = [np.concatenate(parts) for parts in zip(self.kept, more, strict=True)]
        if len(more[0]) > self.n_kept:
            best = np.sort(np.argpartition(-more[0], self.n_kept)[: self.n_kept])
            more = [part[best] for part in more]
        self.kept = more

    def join(self, other: Survey) -> None:
        """Add what was found elsewhere."""
        self.n_rows += other.n_rows
        self.n_weighted += other.n_weighted
        self.lightest = min(self.lightest, other.lightest)
        if other.total:
            self._add(other.total, other.mean, other.scatter)
        self.merge(other.kept)

    def sample(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows to choose seeds from, and their weights: those that were drawn from more of them count alike."""
        _, rows, weights = self.kept
        has_all = int((weights > 0.0).sum()) == self.n_weighted
        return rows, weights if has_all and not (weights == 1.0).all() else None


def described(block: Batches) -> tuple[Array, Array, Array]:
    """Σ w, Σ w (x − o) and Σ w (x − o)²."""

    def term(_: Array, rows: Array, weights: Array) -> tuple[Array, Array, Array]:
        centred = rows - block.origin
        return jnp.sum(weights), einsum("n,nd->d", weights, centred), einsum("n,nd->d", weights, centred * centred)

    return block.sum(term)


def moved(about: Any, mass: Any, first: Any) -> Any:
    """The mean, near enough, of rows with Σ w and Σ w (x − about): sums of squares about it lose nothing.

    About a row that lies far off, or far from 0, they would be all that float32 holds.
    """
    return about + first / jnp.where(mass > 0.0, mass, 1.0)


def sound_row(rows: Any, weights: np.ndarray | None) -> np.ndarray | None:
    """The first of rows (n, D) that is finite and counts."""
    for start in range(0, len(rows), LOOKED_AT):
        some = np.asarray(rows[start : start + LOOKED_AT])
        is_sound = np.isfinite(some).all(axis=1)
        if weights is not None:
            is_sound &= np.asarray(weights[start : start + LOOKED_AT]) > 0.0
        if is_sound.any():
            return some[np.argmax(is_sound)]
    return None


def rng_of(key: Array) -> np.random.Generator:
    """The generator that draws the sample, from a key of JAX's."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def nearest_to_partitioned(seeds: Array, counts: Any, rows: Spread, kind: Kind) -> Moments:
    """Moments (R, ...) about seeds (R, K, D) of the rows nearest to each of the first `counts` (R,) of them."""
    return rows.sum(_assigned, seeds, counts, kind=kind)


def mixtures_from(
    seeds: Array, counts: Any, rows: Spread, family: Family, ridge: Any, nearest: Moments | None = None
) -> Mixture:
    """Mixtures (R, ...) of one M-step from `nearest_to`, which is of kind `FULL` where it is known already."""
    moments = nearest_to_partitioned(seeds, counts, rows, family.kind) if nearest is None else nearest
    return _maximised(moments, seeds, ridge, family=family, is_dense=nearest is not None)


def init_lanes(mixtures: Mixture, rows: Spread) -> em.State:
    """`em.init` of mixtures (R, ...)."""
    return _begun(mixtures, rows.sum(_moments, mixtures, form=Form.SAFE), rows.scale)


def step_lanes(states: em.State, rows: Spread, settings: em.Settings) -> em.State:
    """`em.step` of states (R, ...): one pass over the rows for all of them."""
    states, proposals = _proposed(states, settings)
    return _concluded(states, proposals, rows.sum(_moments, proposals.mixture, form=None), rows.scale, settings)


def _moments(block: Batches, mixtures: Mixture, *, form: Form | None) -> Moments:
    return for_fits(lambda mixture: expect(mixture, block, form), mixtures, mixtures.means.shape, block)


def _assigned(block: Batches, seeds: Array, counts: Array, *, kind: Kind) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return by_nearest(kind, lane[0], block, lane[1])

    return for_fits(one, (seeds, counts), seeds.shape, block)


@program(static=("family", "is_dense"), hurried=True)
def _maximised(moments: Moments, about: Array, ridge: Any, *, family: Family, is_dense: bool) -> Mixture:
    def one(moments: Moments, about: Array) -> Mixture:
        moments = projected(moments, family.kind) if is_dense else moments
        return maximise(moments, about, family, None, ridge)

    return jax.vmap(one)(moments, about)


@program(hurried=True)
def _begun(mixtures: Mixture, moments: Moments, scale: Scale) -> em.State:
    return jax.vmap(lambda mixture, moments: em.begun(mixture, moments, scale))(mixtures, moments)


@program
def _proposed(states: em.State, settings: em.Settings) -> tuple[em.State, em.Proposal]:
    return jax.vmap(lambda state: em.proposed(state, settings))(states)


@program
def _concluded(
    states: em.State, proposals: em.Proposal, moments: Moments, scale: Scale, settings: em.Settings
) -> em.State:
    def one(state: em.State, proposal: em.Proposal, moments: Moments) -> em.State:
        return em.concluded(state, proposal, moments, scale, settings)

    return jax.vmap(one)(states, proposals, moments)

"""Rows that no one program sees whole: read in blocks, shared out to devices, or lying with other machines.

What all of them have is a sum over the rows of what a function says of some of them as `Batches`. Moments are such a
sum, and nothing else passes between the two steps of EM. So a step here is one sum, made by whoever holds the rows, and
the M-step and the verdict on it, made once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
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
from .seeding import by_nearest

T = TypeVar("T")

How = tuple[Callable[..., Any], tuple[tuple[str, Any], ...]]
"""A function of `Batches`, and the values by name that it is compiled for."""


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

    def _describe(self, first: np.ndarray, survey: Survey, n_components: int) -> None:
        """Set what a first pass has found, with sums about `first` (D,)."""
        _check.some_weight(survey.total, self.name)
        self.n_rows = survey.n_rows
        self.sample = Batches.of(*survey.sample(), n_components=n_components, dtype=self.dtype)
        shift = survey.first / survey.total
        self._variances = np.maximum(survey.second / survey.total - shift**2, 0.0)
        self.origin = jnp.asarray(np.asarray(first, np.float64) + shift, self.dtype)
        self.total = jnp.asarray(survey.total, self.dtype)
        self.lightest = jnp.asarray(survey.lightest, self.dtype)


class Survey:
    """What a first pass finds: how many rows there are, what they weigh, where they lie, and a sample of them.

    The sample is drawn by weight and without replacement: the rows with the largest log(u) / w of all (Efraimidis and
    Spirakis 2006), in the order in which they came; or all rows, where they are few.
    """

    def __init__(self, rng: np.random.Generator, n_kept: int) -> None:
        self.rng, self.n_kept = rng, n_kept
        self.n_rows, self.total, self.lightest = 0, 0.0, np.inf
        self.first: Any = 0.0
        self.second: Any = 0.0
        self.kept: list[np.ndarray] = []  # draws, rows, weights

    def describe(self, mass: Any, first: Any, second: Any) -> None:
        """Add sums over some of the rows, or over all."""
        self.total += float(mass)
        self.first = self.first + np.asarray(first, np.float64)
        self.second = self.second + np.asarray(second, np.float64)

    def draw(self, rows: Any, weights: np.ndarray | None) -> None:
        """Take some of the rows (n, D) into the sample."""
        n_rows = len(rows)
        self.n_rows += n_rows
        if weights is None:
            weights = np.ones(n_rows, rows.dtype)
        if (weights > 0.0).any():
            self.lightest = min(self.lightest, float(weights[weights > 0.0].min()))
        with np.errstate(divide="ignore"):
            draws = np.log(1.0 - self.rng.random(n_rows)) / weights
        is_full = bool(self.kept) and len(self.kept[0]) == self.n_kept
        chosen = np.flatnonzero(draws > self.kept[0].min()) if is_full else np.arange(n_rows)
        if len(chosen) > self.n_kept:
            chosen = np.sort(chosen[np.argpartition(-draws[chosen], self.n_kept)[: self.n_kept]])
        if len(chosen):
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
        """Add what was found elsewhere, with sums about the same point."""
        self.n_rows += other.n_rows
        self.lightest = min(self.lightest, other.lightest)
        self.describe(other.total, other.first, other.second)
        self.merge(other.kept)

    def sample(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows to choose seeds from, and their weights: those that were drawn count alike."""
        _, rows, weights = self.kept
        return rows, weights if len(rows) == self.n_rows and not (weights == 1.0).all() else None


def described(block: Batches) -> tuple[Array, Array, Array]:
    """Σ w, Σ w (x − o) and Σ w (x − o)²."""

    def term(_: Array, rows: Array, weights: Array) -> tuple[Array, Array, Array]:
        centred = rows - block.origin
        return jnp.sum(weights), einsum("n,nd->d", weights, centred), einsum("n,nd->d", weights, centred * centred)

    return block.sum(term)


def rng_of(key: Array) -> np.random.Generator:
    """The generator that draws the sample, from a key of JAX's."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def nearest_to(seeds: Array, counts: Any, rows: Spread, kind: Kind) -> Moments:
    """Moments (R, ...) about seeds (R, K, D) of the rows nearest to each of the first `counts` (R,) of them."""
    return rows.sum(_assigned, seeds, counts, kind=kind)


def mixtures_from(
    seeds: Array, counts: Any, rows: Spread, family: Family, ridge: Any, nearest: Moments | None = None
) -> Mixture:
    """Mixtures (R, ...) of one M-step from `nearest_to`, which is of kind `FULL` where it is known already."""
    moments = nearest_to(seeds, counts, rows, family.kind) if nearest is None else nearest
    return _maximised(moments, seeds, ridge, family=family, is_dense=nearest is not None)


def init(mixtures: Mixture, rows: Spread) -> em.State:
    """`em.init` of mixtures (R, ...)."""
    return _begun(mixtures, rows.sum(_moments, mixtures, form=Form.SAFE), rows.scale)


def step(states: em.State, rows: Spread, settings: em.Settings) -> em.State:
    """`em.step` of states (R, ...): one pass over the rows for all of them."""
    states, proposals = _proposed(states, settings)
    return _concluded(states, proposals, rows.sum(_moments, proposals.mixture, form=None), rows.scale, settings)


def _moments(block: Batches, mixtures: Mixture, *, form: Form | None) -> Moments:
    return for_fits(lambda mixture: expect(mixture, block, form), mixtures, mixtures.means.shape, block)


def _assigned(block: Batches, seeds: Array, counts: Array, *, kind: Kind) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return by_nearest(kind, lane[0], block, lane[1])

    return for_fits(one, (seeds, counts), seeds.shape, block)


@partial(jax.jit, static_argnames=("family", "is_dense"))
def _maximised(moments: Moments, about: Array, ridge: Any, *, family: Family, is_dense: bool) -> Mixture:
    def one(moments: Moments, about: Array) -> Mixture:
        moments = projected(moments, family.kind) if is_dense else moments
        return maximise(moments, about, family, None, ridge)

    return jax.vmap(one)(moments, about)


@jax.jit
def _begun(mixtures: Mixture, moments: Moments, scale: Scale) -> em.State:
    return jax.vmap(lambda mixture, moments: em.begun(mixture, moments, scale))(mixtures, moments)


@jax.jit
def _proposed(states: em.State, settings: em.Settings) -> tuple[em.State, em.Proposal]:
    return jax.vmap(lambda state: em.proposed(state, settings))(states)


@jax.jit
def _concluded(
    states: em.State, proposals: em.Proposal, moments: Moments, scale: Scale, settings: em.Settings
) -> em.State:
    def one(state: em.State, proposal: em.Proposal, moments: Moments) -> em.State:
        return em.concluded(state, proposal, moments, scale, settings)

    return jax.vmap(one)(states, proposals, moments)

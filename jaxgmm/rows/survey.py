"""The first pass over rows that no program sees whole: their weight, mean and scatter, and a sample of them."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.linalg import einsum
from .._base.programs import next_power_of_two
from .batches import Batches
from .chunks import Chunk
from .sources import Tally
from .units import exponent_above, exponent_of

T = TypeVar("T")

LOOKED_AT = 2**10
"""Rows that are searched at a time for a finite one of positive weight."""


class Survey:
    """What a first pass finds: the number of rows, their weight, mean and scatter, and a sample of them.

    The sample is drawn by weight and without replacement: the rows with the largest log(u) / w of all (Efraimidis and
    Spirakis 2006), in the order in which they came; or all rows, where they are few.

    Weights are in units of 2^exponent, the power of two just above the largest so far; after `settle`, in the unit of
    `units.py`.
    """

    def __init__(self, rng: np.random.Generator, n_kept: int) -> None:
        self.rng, self.n_kept = rng, n_kept
        self.n_rows, self.n_weighted, self.total_weight, self.min_weight = 0, 0, 0.0, np.inf
        self.largest, self.exponent = 0.0, 0  # the largest weight, as users gave it
        self.mean: Any = 0.0  # (D,) in float64
        self.scatter: Any = 0.0  # (D,) in float64: Σ w (x − mean)²
        self.kept: list[np.ndarray] = []  # draws, rows, weights
        self.tally = Tally()

    def in_unit(self, weights: np.ndarray) -> np.ndarray:
        """Weights of more rows, in a unit that suits these, too. -> (n,) in float64."""
        self._grow(float(weights.max(initial=0.0)))
        return np.ldexp(weights.astype(np.float64), -self.exponent)

    def settle(self) -> None:
        """Bring all to the unit in which weights are kept from now on."""
        if self.largest:
            self._move(exponent_of(self.largest))

    def _grow(self, largest: float) -> None:
        """Take a unit in which a weight is no more than 1."""
        if largest > self.largest:
            is_first, self.largest = not self.largest, largest
            exponent = exponent_above(largest)
            if is_first:
                self.exponent = exponent
            self._move(exponent)

    def _move(self, exponent: int) -> None:
        by = self.exponent - exponent
        if by:
            of_sums = self.total_weight, self.scatter, self.min_weight
            self.total_weight, self.scatter, self.min_weight = (np.ldexp(of, by) for of in of_sums)
            if self.kept:
                draws, rows, weights = self.kept
                self.kept = [np.ldexp(draws, -by), rows, np.ldexp(weights, by)]
        self.exponent = exponent

    def describe(self, about: Any, mass: Any, first: Any, second: Any) -> None:
        """Add sums over some of the rows, or over all: Σ w, Σ w (x − about) and Σ w (x − about)²."""
        mass = float(mass)
        if mass:
            shift = np.asarray(first, np.float64) / mass
            scatter = np.asarray(second, np.float64) - mass * shift**2
            self._add(mass, np.asarray(about, np.float64) + shift, np.maximum(scatter, 0.0))

    def _add(self, mass: float, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Join sums about the means of two sets of rows (Chan, Golub and LeVeque 1983, eqs. 2.1)."""
        total = self.total_weight + mass
        apart = mean - self.mean
        self.scatter = self.scatter + scatter + apart**2 * (self.total_weight * mass / total)
        self.mean = self.mean + apart * (mass / total)
        self.total_weight = total

    def draw(self, rows: Any, weights: np.ndarray | None) -> None:
        """Take some of the rows (n, D) into the sample."""
        n_rows = len(rows)
        self.n_rows += n_rows
        if weights is None:
            weights = np.ones(n_rows, rows.dtype)
        counts = weights > 0.0
        self.n_weighted += int(counts.sum())
        self.min_weight = min(self.min_weight, float(weights.min(where=counts, initial=np.inf)))
        draws = np.log(1.0 - self.rng.random(n_rows))
        draws = np.divide(draws, weights, out=np.full(n_rows, -np.inf), where=counts)  # a row of weight 0 comes last
        is_full = bool(self.kept) and len(self.kept[0]) == self.n_kept
        chosen = np.flatnonzero(draws > self.kept[0].min()) if is_full else np.arange(n_rows)
        if len(chosen) > self.n_kept:
            chosen = np.sort(chosen[np.argpartition(-draws[chosen], self.n_kept)[: self.n_kept]])
        if len(chosen) or not self.kept:
            self.merge([draws[chosen], np.asarray(rows[chosen]), weights[chosen]])

    def merge(self, more: list[np.ndarray]) -> None:
        """Merge draws from other rows into the sample."""
        if self.kept:
            more = [np.concatenate(parts) for parts in zip(self.kept, more, strict=True)]
        if len(more[0]) > self.n_kept:
            best = np.sort(np.argpartition(-more[0], self.n_kept)[: self.n_kept])
            more = [part[best] for part in more]
        self.kept = more

    def join(self, other: Survey) -> None:
        """Add the survey of other rows."""
        self._grow(other.largest)
        if other.largest:
            other._move(self.exponent)
        self.n_rows += other.n_rows
        self.tally = self.tally.plus(other.tally)
        self.n_weighted += other.n_weighted
        self.min_weight = min(self.min_weight, other.min_weight)
        if other.total_weight:
            self._add(other.total_weight, other.mean, other.scatter)
        self.merge(other.kept)

    def sample(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows to choose seeds from, and their weights; no weights where only some rows were drawn, by weight."""
        _, rows, weights = self.kept
        has_all = int((weights > 0.0).sum()) == self.n_weighted
        return rows, weights if has_all and not (weights == 1.0).all() else None


def described(block: Batches) -> tuple[Array, Array, Array]:
    """Σ w, Σ w (x − o) and Σ w (x − o)²."""

    def term(chunk: Chunk) -> tuple[Array, Array, Array]:
        centred, weights = chunk.rows - block.origin[None], chunk.weights
        return jnp.sum(weights), einsum("n,nd->d", weights, centred), einsum("n,nd->d", weights, centred * centred)

    return block.sum(term)


def moved(about: Any, mass: Any, first: Any) -> Any:
    """The approximate mean of rows with Σ w and Σ w (x − about): sums of squares about it lose no digits.

    About a point that is far from the rows, the squared distance would take up all digits of float32.
    """
    return about + first / jnp.where(mass > 0.0, mass, 1.0)


def sound_row(rows: Any, weights: np.ndarray | None) -> np.ndarray | None:
    """The first of rows (n, D) that is finite and has positive weight; None where there is none."""
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


SAMPLE = 8192
"""Least number of rows that seeds are chosen from; and no fewer than 16 per component."""


def rows_kept(n_components: int) -> int:
    """The largest number of rows held for seeding: a table of no more rows is held whole."""
    return 2 * next_power_of_two(max(SAMPLE, 16 * n_components))

"""Distributions of random weights, under which rows are fitted again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

LATTICE = 2**32
"""Integer points to draw rows by: a float32 has 2^23 in [0, 1), too few to draw one of a million rows fairly."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Multinomial:
    """Draws with replacement: how often each row was drawn."""

    ends: Any  # (S,) uint32: a point in [ends[i - 1], ends[i]) draws row i

    @classmethod
    def of(cls, expected: np.ndarray) -> Multinomial:
        # The last point of the lattice is never drawn, so that every end fits into a uint32.
        ends = np.cumsum(expected)
        return cls(np.floor(ends / ends[-1] * (LATTICE - 1)).astype(np.uint32))

    def draw(self, key: Array, sample_size: Array, dtype: Any) -> Array:
        n = len(self.ends)

        # n draws at a time, as many as there are rows, so that the program does not depend on the number of draws.
        def some(index: Array, counts: Array) -> Array:
            points = jax.random.bits(jax.random.fold_in(key, index), (n,), jnp.uint32)
            points = jnp.minimum(points, np.uint32(LATTICE - 2))
            is_drawn = jnp.arange(n, dtype=jnp.int32) < sample_size - index * n
            rows = jnp.searchsorted(self.ends, points, side="right")
            return counts.at[rows].add(is_drawn.astype(dtype))

        return lax.fori_loop(0, (sample_size - 1) // n + 1, some, jnp.zeros(n, dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gamma:
    """Weights Gamma(expected); divided by their sum they are Dirichlet(expected)."""

    expected: Any  # (S,)

    def draw(self, key: Array, sample_size: Array, dtype: Any) -> Array:
        del sample_size, dtype
        counts = self.expected > 0.0
        return jnp.where(counts, jax.random.gamma(key, jnp.where(counts, self.expected, 1.0)), 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponential:
    """`Gamma` for rows that are each expected once or never: a hundred times as fast to draw."""

    expected: Any  # (S,)

    def draw(self, key: Array, sample_size: Array, dtype: Any) -> Array:
        del sample_size
        return self.expected * jax.random.exponential(key, self.expected.shape, dtype)


Law = Multinomial | Gamma | Exponential
"""A distribution of random weights (S,) of S rows: `draw(key, sample_size, dtype)`."""

"""Several draws of one run's seeds, and the one that is kept: by a figure of the draws, the highest first."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._base.linalg import einsum
from ...em.hard import nearest
from .sample import Columns, sums_by_label

CONSTANT = 1e-4
"""A feature whose variance is a smaller share of its mean square, about the middle of the table, is constant: its
variance is rounding, and tells nothing of a draw."""


def best_of(draw: Callable[[Array], tuple[Array, Array]], n_tries: Array | int, like: Array) -> Array:
    """The seeds of the draw with the highest figure; the first, where none has one. draw: index -> seeds, figure."""

    def one(index: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        seeds, figure = draw(index)
        is_better = (figure > best[1]) | (index == 0)
        figure = jnp.where(jnp.isnan(figure), -jnp.inf, figure)
        return jnp.where(is_better, seeds, best[0]), jnp.where(is_better, figure, best[1])

    none = like, jnp.array(-jnp.inf, like.dtype)
    return lax.fori_loop(jnp.int32(0), jnp.asarray(n_tries, jnp.int32), one, none)[0]


def log_likelihood(seeds: Array, rows: Columns, count: Array | int) -> Array:
    """How likely the rows are under the start from seeds (K, D): each belongs to the nearest of the first `count`, the
    rows of which are one Gaussian with independent features. Nats less a constant; −inf if a seed has no rows.

    It tells better than the sum of squared distances how high EM ends from there: of four draws of k-means++ the
    likeliest ends 0.002 nats a row higher than any one of them, the one with the smallest sum no higher (400 tables of
    300 × 2, five clusters). Of independent features, since it is to cost little beside a step of any family; with full
    covariances the gain is a fifth more. A cluster's variances are those of its rows and one row's worth of the whole
    table, so that none is 0 where a value repeats; constant features do not count.
    """
    x, weights = rows
    labels, _ = nearest(x, seeds, count)
    sums = sums_by_label(rows, labels, len(seeds), degree=2)
    total, spread, square = _mass_and_spread(jnp.sum(sums, axis=0))
    varies = spread > CONSTANT * square
    total, spread = jnp.where(total > 0.0, total, 1.0), jnp.where(varies, spread, 1.0)
    row = einsum("s,s->", weights, weights) / total

    def of(component: Array, sums: Array) -> Array:
        mass, own, _ = _mass_and_spread(sums)
        shrunk = jnp.where(varies, (mass * own / spread + row) / (mass + row), 1.0)
        term = mass * (jnp.log(mass / total) - 0.5 * jnp.sum(jnp.log(shrunk)))
        return jnp.where(mass > 0.0, term, jnp.where(component < count, -jnp.inf, 0.0))

    return jnp.sum(jax.vmap(of)(jnp.arange(len(seeds), dtype=jnp.int32), sums))


def _mass_and_spread(sums: Array) -> tuple[Array, Array, Array]:
    """Mass, variances and mean squares of weighted rows, from the sums of their powers 0, 1 and 2, (1 + 2 D,). -> (),
    (D,), (D,).

    In one pass: x is about the middle of the table, and a figure of draws needs few digits.
    """
    mass, (first, second) = sums[0], jnp.split(sums[1:] / jnp.where(sums[0] > 0.0, sums[0], 1.0), 2)
    return mass, jnp.maximum(second - jnp.square(first), 0.0), second

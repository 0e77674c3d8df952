"""The expectation step with one component after the other, for as many as there are.

Small problems are padded with components of weight 0, so that fits of any number of components share one program. Where
all components are evaluated together, padding costs as much as components do; here the loops over them end with the
last that has weight, and what stands after it does not matter. What is computed is that of the SAFE form. By hand, Zen
4: of ten runs of 2,000 × 2, K = 5, all steps of HURRIED programs take 45 ms and not 90.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..covariances import Form
from ..density import joint, prepare
from ..mixture import Mixture
from ..moments import Kind, Moments, Statistics
from ..rows.batches import Batches
from ..rows.chunks import Chunk


def suits(kind: Kind) -> bool:
    """Whether each component keeps a second moment of its own. One of all together is summed over all at once, and a
    step in turn would take a third longer."""
    return kind.shape(2, 1)[0] == 2


def expect(mixture: Mixture, batches: Batches) -> Moments:
    """Moments of the rows under the mixture, about its means (see `expectation.expect`), of a kind that `suits`."""
    kind, means = mixture.family.kind, mixture.means
    operands = prepare(mixture, batches.origin, Form.SAFE)
    assert suits(kind)
    assert all(len(leaf) in (1, len(means)) for leaf in jax.tree.leaves(operands))
    number = jnp.arange(1, len(means) + 1, dtype=jnp.uint32)  # unsigned: an index is not looked at for its sign
    count = jnp.max(jnp.where(mixture.log_weights == -jnp.inf, jnp.uint32(0), number))

    def for_each(one: Callable[[Array], Any], *shapes: tuple[int, ...]) -> Any:
        """Arrays of these shapes, of which component k has one(k), with an axis of length 1, and the others 0."""

        def with_one(k: Array, found: Any) -> Any:
            each = zip(found, one(k), strict=True)
            return tuple(lax.dynamic_update_slice_in_dim(whole, own, k, 0) for whole, own in each)

        nothing = tuple(jnp.zeros(shape, means.dtype) for shape in shapes)
        return lax.fori_loop(jnp.uint32(0), count, with_one, nothing)

    def of_chunk(chunk: Chunk) -> Statistics:
        of_rows = len(means), len(chunk.weights)
        (found,) = for_each(lambda k: (joint(mixture, component(operands, k), chunk),), of_rows)
        largest = jnp.max(jnp.where((number <= count)[:, None], found, -jnp.inf), axis=0, keepdims=True)
        # A row with log-density −inf under every component is shared equally by those that the loops reach; with such
        # a row the objective is −inf, and the step is taken back.
        is_out = largest == -jnp.inf
        (shares,) = for_each(lambda k: (jnp.exp(jnp.where(is_out, 0.0, component(found, k) - largest)),), of_rows)
        total = jnp.sum(shares, axis=0)
        log_prob = largest[0] + jnp.log(total)
        objective = jnp.sum(jnp.where(chunk.weights > 0.0, chunk.weights * log_prob, 0.0))
        factor = (chunk.weights / total)[None]

        def sums(k: Array) -> tuple[Array, Array, Array]:
            weighted = component(shares, k) * factor
            return jnp.sum(weighted, axis=1), *kind.about_means(weighted, chunk.x, component(means, k))

        shapes = means.shape[:1], means.shape, kind.shape(*means.shape)
        mass, first, second = for_each(sums, *shapes)
        return Statistics(mass, first, second, objective)

    sums = batches.sum(of_chunk)
    return Moments(sums.mass, sums.first, kind.from_means(sums.second, means), sums.objective)


def component(tree: Any, k: Array) -> Any:
    """Component k of arrays over components, with an axis of length 1; what all share is left as it is."""
    return jax.tree.map(lambda leaf: leaf if len(leaf) == 1 else lax.dynamic_slice_in_dim(leaf, k, 1, 0), tree)

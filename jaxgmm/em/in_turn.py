"""The expectation step with components in turn, for as many as there are.

Fits of different numbers of components share one program by padding with components of weight 0. Where all components
are evaluated together, padding costs as much as components do; here the loops over them end with the last that has
weight. Where a turn has several components, the last may have some of weight 0: they are to be finite. What is computed
is that of the SAFE form. By hand, Zen 4: a step of 2,000 × 2 rows, K = 5 of 32, takes 0.5 ms in HURRIED programs, where
all together take 0.9 of 16; and one of 5,000 × 4 rows in BRISK ones 0.04 to 0.25 ms for K = 1 to 10, where all together
take 0.2 of 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._base.programs import Effort
from ..covariances import Form
from ..density import joint, prepare
from ..mixture import Mixture
from ..moments import FULL, Moments, Statistics
from ..rows.batches import Batches
from ..rows.chunks import Chunk

AT_A_TIME = 4
"""Components of a turn where chunks are short and compiled BRISK: those of small tables, which are padded to a multiple
of it. Each turn costs some microseconds, for which 500 rows of a component are computed: four at a time take 1.4 times
as long as all together for K = 16, and half as long for K = 1 to 4; one at a time 2 and a third (by hand, Zen 4)."""


def expect(mixture: Mixture, batches: Batches, how: Effort = Effort.HURRIED) -> Moments:
    """Moments of the rows under the mixture, about its means (see `expectation.expect`). how: how the program is
    compiled."""
    kind, means = mixture.family.kind, mixture.means
    is_whole = len(means) % AT_A_TIME == 0  # not where an escape steps a mixture that is not padded
    width = AT_A_TIME if batches.has_room and how is Effort.BRISK and is_whole else 1
    operands = prepare(mixture, batches.origin, Form.SAFE)
    assert all(len(leaf) in (1, len(means)) for leaf in jax.tree.leaves(operands))
    # Of a kind that is pooled every turn adds to what is kept, and what its components add is computed as if it were
    # not: the sums that need no other component.
    of_turn = FULL if kind.shape(2, 1)[0] == 1 else kind
    # Unsigned: an index is then not looked at for its sign.
    turn = jnp.arange(len(means), dtype=jnp.uint32) // jnp.uint32(width)
    n_turns = jnp.max(jnp.where(mixture.log_weights == -jnp.inf, jnp.uint32(0), turn + jnp.uint32(1)))

    def in_turn(one: Callable[[Array, Any], Any], found: Any) -> Any:
        """one(first, found), for the index of each turn's first component, from what was found before."""
        return lax.fori_loop(jnp.uint32(0), n_turns, lambda turn, found: one(turn * jnp.uint32(width), found), found)

    def of_chunk(chunk: Chunk) -> Statistics:
        nothing = jnp.zeros_like(chunk.weights)[None]
        of_nobody = jnp.zeros((len(means), len(chunk.weights)), means.dtype)

        def evaluate(first: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            own = joint(mixture, taken(operands, first, width), chunk)
            return put(found[0], own, first), jnp.maximum(found[1], jnp.max(own, axis=0, keepdims=True))

        every, largest = in_turn(evaluate, (of_nobody, nothing - jnp.inf))
        # A row with log-density −inf under every component is shared equally by those that the loops reach; with such
        # a row the objective is −inf, and the step is taken back.
        is_out = largest == -jnp.inf

        def share(first: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            own = jnp.exp(jnp.where(is_out, 0.0, taken(found[0], first, width) - largest))
            return put(found[0], own, first), found[1] + jnp.sum(own, axis=0, keepdims=True)

        shares, total = in_turn(share, (every, nothing))
        log_prob = (largest + jnp.log(total))[0]
        objective = jnp.sum(jnp.where(chunk.weights > 0.0, chunk.weights * log_prob, 0.0))
        factor = chunk.weights[None] / total

        def add(first: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
            weighted = taken(shares, first, width) * factor
            moved, second = of_turn.about_means(weighted, chunk.x, taken(means, first, width))
            mass, sums = put(found[0], jnp.sum(weighted, axis=1), first), put(found[1], moved, first)
            if of_turn is kind:
                return mass, sums, put(found[2], second, first)
            return mass, sums, found[2] + kind.project(second)

        shapes = means.shape[:1], means.shape, kind.shape(*means.shape)
        mass, sums, second = in_turn(add, tuple(jnp.zeros(shape, means.dtype) for shape in shapes))
        return Statistics(mass, sums, second, objective)

    return Moments(*batches.sum(of_chunk))


def taken(tree: Any, first: Array, width: int) -> Any:
    """So many components from the first on, of arrays over components; what all share is left as it is."""
    return jax.tree.map(lambda leaf: leaf if len(leaf) == 1 else lax.dynamic_slice_in_dim(leaf, first, width, 0), tree)


def put(all_: Array, own: Array, first: Array) -> Array:
    """An array over components with a turn's own put in its place."""
    return lax.dynamic_update_slice_in_dim(all_, own, first, 0)

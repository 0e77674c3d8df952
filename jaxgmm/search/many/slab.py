"""The programs, which run many runs of many problems to their ends, one stack of lanes at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ... import em
from ..._base import threefry
from ..._base.programs import Effort, program
from ...covariances import Form
from ...em.hard import assigned
from ...em.lanes import side_by_side
from ...em.loop import advance
from ...em.state import Fixed, is_running, unstarted
from ...families import Family
from ...mixture import Mixture
from ...moments import Moments
from ...rows.batches import Batches
from ...rows.chunks import Chunked
from ..packing import Packing
from ..seeding.shelf import ON_ALL_ROWS, seeds_from

LINE = 32
"""Most rounds of a stack before lanes are sorted again; also the number of objectives written at a time."""

IN_ONE_CHUNK = 8192
"""Most rows of a problem that are one chunk; longer problems are cut into chunks of a quarter of that."""


class Tables(NamedTuple):
    """The rows of P problems, and the figures of them that a step needs."""

    x: Any  # (P, n, D)
    weights: Any  # (P, n)
    figures: Any  # (P, 2 D + 3): origin, ridge, total, min_weight, and how many rows there are

    @property
    def ridge(self) -> Any:
        """The ridge of one problem, (D,), or of all, (P, D)."""
        n_features = self.x.shape[-1]
        return self.figures[..., n_features : 2 * n_features]

    def batches(self) -> Batches:
        """The `Batches` of a single problem, after these tables were indexed by it."""
        size = self.x.shape[0] if self.x.shape[0] <= IN_ONE_CHUNK else IN_ONE_CHUNK // 4
        n_chunks = self.x.shape[0] // size
        whole = (n_chunks - 1) * size
        rows, weights = (
            Chunked(part[:whole] if whole else None, part[whole:], n_chunks) for part in (self.x, self.weights)
        )
        total, min_weight, n_rows = self.figures[-3:]
        return Batches(rows, weights, self.figures[: self.x.shape[1]], total, min_weight, n_rows.astype(jnp.int32))


class Lanes(NamedTuple):
    """L runs, of which the first `n_used` are real and the others padding."""

    problem: Array  # (L,): the index of its problem in the tables
    keys: Array | None  # (L, 2, ·)
    restart: Array | None  # (L,): its index among those of its problem
    n_used: Array  # ()


class Ended(NamedTuple):
    """How runs (L, ...) ended."""

    state: em.State  # (L, ...)
    history: np.ndarray  # (L, capacity)


@program(static=("impl", "seeding", "family", "n_components", "width"))
def begin_slab(
    tables: Tables,
    lanes: Lanes,
    given: Fixed | None,
    *,
    impl: Any,
    seeding: str | None,
    family: Family,
    n_components: int,
    width: int,
) -> Array:
    """The runs of a slab before their first M-step: rows (L, F) of a `Packing`."""
    blank = blank_state(family, n_components, tables.x.shape[2], tables.x.dtype)
    packing = Packing.of(blank)

    def begun(lane: tuple[Tables, Fixed | None, tuple[Array, Array] | None]) -> em.State:
        table, fixed, drawn = lane
        batches = table.batches()
        if fixed is None:
            assert drawn is not None
            assert seeding is not None
            meant, keys = jnp.array(True), jax.random.wrap_key_data(drawn[0], impl=impl)
            seeds = seeds_from(keys, batches, seeding, n_components, n_components, drawn[1])
        else:
            meant, seeds = ~jnp.all(fixed.parts), fixed.mixture.means  # a user's weights of 0 are kept
        log_weights = jnp.where(meant, blank.mixture.log_weights, -jnp.inf)
        mixture = Mixture(log_weights, seeds, blank.mixture.scales, family)
        return blank._replace(
            mixture=mixture, moments=assigned(family.kind, seeds, n_components, batches, seeding in ON_ALL_ROWS)
        )

    def begin(index: Array, packed: Array) -> Array:
        which = index * width + jnp.arange(width, dtype=jnp.int32)
        drawn = None
        if lanes.keys is not None and lanes.restart is not None:
            drawn = lanes.keys[which], lanes.restart[which]
        own = *_of_lanes(which, tables, lanes, given), drawn
        # Under `vmap`, the draws of JAX's other generators for a lane depend on the other lanes.
        few = packing.pack(side_by_side(begun, own) if threefry.is_threefry(impl) else lax.map(begun, own))
        return lax.dynamic_update_slice_in_dim(packed, few, index * width, axis=0)

    nothing = packing.pack(jax.tree.map(lambda leaf: leaf[None], blank))
    packed = jnp.broadcast_to(nothing, (len(lanes.problem), nothing.shape[1]))
    return lax.fori_loop(jnp.int32(0), (lanes.n_used + width - 1) // width, begin, packed)


@program(static=("family", "n_components", "width", "capacity"))
def run_slab(
    packed: Array,
    history: Array,
    n_made: Array,
    until: Array,
    tables: Tables,
    lanes: Lanes,
    given: Fixed | None,
    settings: em.Settings,
    limit: Array,
    *,
    family: Family,
    n_components: int,
    width: int,
    capacity: int,
) -> tuple[Array, Array, Array, Array]:
    """Run the lanes of a slab, rows (L, F), to their ends, or until they have made `until` steps, and a few more.

    history (L, capacity + LINE): objectives after t steps; n_made: steps so far, NOT_BEGUN at first. -> rows, history,
    steps so far, and whether any lane goes on. Results do not depend on how the steps are divided into calls.
    """
    n_lanes, dtype = packed.shape[0], tables.x.dtype
    packing = Packing.of(blank_state(family, n_components, tables.x.shape[2], dtype))
    is_meant = jnp.arange(n_lanes, dtype=jnp.int32) < lanes.n_used

    def stepped_once(lane: tuple[em.State, Tables, Fixed | None]) -> em.State:
        state, table, fixed = lane
        own = replace(settings, ridge=table.ridge)
        return advance(state, table.batches(), own, fixed, Form.SAFE, Effort.BRISK)[0]  # as most units are compiled

    def stack(which: Array, packed: Array, history: Array, n_made: Array, n_rounds: Array) -> tuple[Array, Array]:
        """Make the rounds of one stack. which (W,): its lanes; n_made: steps that they have already made."""
        tables_, fixed = _of_lanes(which, tables, lanes, given)

        def going(carry: tuple[em.State, Array, Array]) -> Array:
            few, _, made = carry
            return (made < n_rounds) & jnp.any(is_running(few, limit))

        def step(carry: tuple[em.State, Array, Array]) -> tuple[em.State, Array, Array]:
            few, line, made = carry
            goes_on = is_running(few, limit)
            stepped = side_by_side(stepped_once, (few, tables_, fixed))
            few = jax.tree.map(lambda new, old: jnp.where(_like(goes_on, new), new, old), stepped, few)
            # A step that was undone does not count.
            stands = goes_on & (few.n_steps == n_made + made + 1)
            objective = jnp.where(stands, few.objective, jnp.nan)
            return few, lax.dynamic_update_slice_in_dim(line, objective[:, None], made, axis=1), made + 1

        line = jnp.full((width, LINE), jnp.nan, dtype)
        few, line, _ = lax.while_loop(going, step, (packing.unpack(packed[which]), line, jnp.int32(0)))
        rows, column = packing.pack(few), jnp.minimum(n_made + 1, capacity)

        def write(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            packed, history = carry
            own, objectives = (lax.dynamic_slice_in_dim(part, index, 1) for part in (rows, line))
            return (
                lax.dynamic_update_slice(packed, own, (which[index], jnp.int32(0))),
                lax.dynamic_update_slice(history, objectives, (which[index], column)),
            )

        return lax.fori_loop(jnp.int32(0), jnp.int32(width), write, (packed, history))

    def rounds(carry: _Round) -> _Round:
        goes_on = carry.goes_on
        order = jnp.argsort(~goes_on).astype(jnp.int32)
        n_stacks = (jnp.sum(goes_on, dtype=jnp.int32) + width - 1) // width
        # A quarter of the steps so far, so that lanes that end in between take up slots for a short time only.
        n_rounds = jnp.clip(carry.n_steps // 4, 2, LINE)

        def one(index: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
            which = lax.dynamic_slice_in_dim(order, index * width, width)
            return stack(which, *carried, carry.n_steps, n_rounds)

        packed, history = lax.fori_loop(jnp.int32(0), n_stacks, one, (carry.packed, carry.history))
        goes_on = is_meant & is_running(packing.unpack(packed), limit)
        return _Round(packed, history, goes_on, carry.n_steps + n_rounds)

    first = _Round(packed, history, is_meant & is_running(packing.unpack(packed), limit), n_made)
    last = lax.while_loop(lambda carry: jnp.any(carry.goes_on) & (carry.n_steps < until), rounds, first)
    return last.packed, last.history, last.n_steps, jnp.any(last.goes_on)


def no_history(n_lanes: int, capacity: int, dtype: Any) -> np.ndarray:
    """The histories of lanes that have not begun."""
    return np.full((n_lanes, capacity + LINE), np.nan, dtype)


class _Round(NamedTuple):
    """The state of a slab between rounds."""

    packed: Array  # (L, F)
    history: Array  # (L, capacity + LINE)
    goes_on: Array  # (L,) bool
    n_steps: Array  # (): steps made by every lane that goes on


def _of_lanes(which: Array, tables: Tables, lanes: Lanes, given: Fixed | None) -> tuple[Tables, Fixed | None]:
    """The tables of a stack of lanes (W,), and the user's starts for them, if given."""
    problem = lanes.problem[which]
    fixed = None
    if given is not None:
        parts = jnp.broadcast_to(given.parts, (len(which), 3))
        fixed = Fixed(jax.tree.map(lambda leaf: leaf[which], given.mixture), parts)
    return jax.tree.map(lambda leaf: leaf[problem], tables), fixed


def blank_state(family: Family, n_components: int, n_features: int, dtype: Any) -> em.State:
    """The state of an unstarted run, with placeholders for its seeds and moments."""
    seeds, meant = np.zeros((1, n_components, n_features), dtype), np.ones((1, n_components), bool)
    second = np.zeros((1, *family.kind.shape(n_components, n_features)), dtype)
    moments = Moments(seeds[..., 0], seeds, second, np.zeros(1, dtype))  # pyright: ignore
    several = unstarted(seeds, meant, moments, family)
    return jax.tree.map(lambda leaf: leaf[0], several)


def _like(chosen: Array, leaf: Array) -> Array:
    """A mask (W,), reshaped to broadcast over a leaf (W, ...)."""
    return chosen.reshape(-1, *[1] * (leaf.ndim - 1))

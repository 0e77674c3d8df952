"""Initial states of the runs from any kind of start: seeds, means, labels, responsibilities or a mixture."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array

from .. import em
from .._base import threefry
from .._base.precision import is_traced, is_transforming
from .._base.programs import Effort, components, effort, program
from ..em.lanes import in_waves
from ..families import Family
from ..mixture import Mixture
from ..rows.batches import Batches
from ..rows.rows import Rows
from . import small
from .driver import driver_of
from .fixed_start import NOTHING_FIXED, FixedStart
from .observer import lanes_of_a_burst
from .pool import pool_for
from .seeding.shelf import ON_ALL_ROWS, seeds_from


def start(
    key: Array,
    rows: Rows,
    init: Any,
    n_components: int,
    family: Family,
    settings: em.Settings,
    n_restarts: int,
    fixed: FixedStart = NOTHING_FIXED,
) -> em.State:
    """The initial states (R, ...) of the restarts."""
    driver = driver_of(rows)
    if isinstance(init, Mixture):
        return driver.from_mixture(fixed.onto(_checked(init, rows, n_components, family)), settings)
    if not isinstance(init, str):
        values = init if isinstance(init, jax.Array) else np.asarray(init)
        return driver.from_values(values, n_components, family, settings, fixed)
    counts = np.full(n_restarts, n_components, np.int32)
    if not rows.has_room:  # with room, seeds are drawn before a program could be compiled
        driver.prepare([family], n_components, settings, n_restarts)
    keys, room = pairs_of_keys(key, n_restarts), room_for(n_components, rows)
    seeds = seeds_of(keys, counts, rows, seeding=init, n_components=room)
    return driver.from_seeds(seeds, counts, family, settings, fixed, broad=init in ON_ALL_ROWS)


def _checked(init: Mixture, rows: Rows, n_components: int, family: Family) -> Mixture:
    """A user's mixture in the rows' dtype. ValueError if it has another family or number of components or features."""
    if init.family != family or init.n_components != n_components:
        raise ValueError(
            f"init is a mixture of {init.n_components} components of family {init.family.name!r}; "
            f"{n_components} of family {family.name!r} were asked for."
        )
    if init.n_features != rows.n_features:
        raise ValueError(f"init is a mixture of {init.n_features} features, and the rows have {rows.n_features}.")
    return jax.tree.map(lambda leaf: leaf.astype(rows.dtype), init)


def room_for(n_components: int, rows: Rows) -> int:
    """The number of components to which runs with `n_components` are padded."""
    return components(n_components) if rows.has_room else n_components


def pairs_of_keys(key: Array, n_restarts: int) -> Array:
    """A pair of keys for each run, (R, 2)."""
    if is_transforming() or not threefry.matches(key):
        return jax.random.split(key, (n_restarts, 2))
    split = threefry.split(np.asarray(jax.random.key_data(key)), (n_restarts, 2))
    return jax.random.wrap_key_data(split, impl=jax.random.key_impl(key))  # pyright: ignore


def seeds_of(
    keys: Array, counts: Any, rows: Rows, *, seeding: str, n_components: int, restarts: np.ndarray | None = None
) -> Array:
    """Seeds (R, K, D), of which the first `counts` (R,) of each run are used; all families share the program.

    keys (R, 2): a pair per run, split beforehand, so that no program has to. restarts (R,): the index of each run among
    those of its search and number of components; None if all runs are of one.
    """
    if restarts is None:
        restarts = np.arange(len(counts), dtype=np.int32)
    batches = rows.sample
    if small.are_on_host(keys, batches):
        data = np.asarray(jax.random.key_data(keys))  # pyright: ignore
        return small.seeds(data, counts, restarts, batches, seeding, n_components)  # pyright: ignore
    lanes = jax.random.key_data(keys), counts, restarts
    how = {"impl": jax.random.key_impl(keys), "seeding": seeding, "n_components": n_components}
    if is_traced(lanes):
        return _seeds_of(lanes, batches, **how)
    how_well = Effort.HURRIED if batches.has_room else effort(int(batches.n_rows), n_components, len(counts))
    program = _seeds_of.at(how_well)
    pool, at_most = pool_for(len(counts), n_components, batches), lanes_of_a_burst(n_components, batches)
    return pool.each(program, lanes, batches, at_most=at_most, **how)


@program(static=("impl", "seeding", "n_components"))
def _seeds_of(
    lanes: tuple[Array, Array, Array], batches: Batches, *, impl: Any, seeding: str, n_components: int
) -> Array:
    def one(lane: tuple[Array, Array, Array]) -> Array:
        return seeds_from(jax.random.wrap_key_data(lane[0], impl=impl), batches, seeding, n_components, *lane[1:])

    return in_waves(one, lanes, n_components, batches.chunk_size)

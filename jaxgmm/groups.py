"""Fits with several numbers of components through one program: those with fewer are padded with components of weight 0.

A program is compiled for the largest K of a group. What a padded component costs is its share of the arithmetic; what
it saves is a program, which takes longer to compile than many fits to a small table take to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax

from . import em
from .batches import Batches, next_power_of_two
from .families import Family
from .fit import NOTHING_GIVEN, FitResult, Restarts, Told, begin, best_of, history_length, run_to_ends, seeds_of
from .mixture import Mixture

SHARED_UP_TO = 16
"""Components up to which all counts share a program, where the table is small."""

SMALL_TABLE = 2**20
"""Numbers in a table (N·D) up to which compiling for another K takes longer than what its padding costs."""


class Group(NamedTuple):
    """The runs of several numbers of components."""

    counts: tuple[int, ...]
    n_starts: tuple[int, ...]  # runs of each count: one component has one, since all starts end in the same place
    seeds: Array  # (L, K, D), K the largest of the counts
    lane_counts: np.ndarray  # (L,) int32: the number of components of each run
    members: np.ndarray  # (counts, R) int32: the runs of each count, the first repeated where they are fewer


def groups(counts: Iterable[int], batches: Batches) -> list[tuple[int, ...]]:
    """Which counts share a program.

    For a small table all up to `SHARED_UP_TO`, and above it those between two powers of two; for a large one none.
    """
    is_small = int(batches.n_rows) * batches.n_features <= SMALL_TABLE
    shared: dict[int, list[int]] = {}
    for count in counts:
        shared.setdefault(max(SHARED_UP_TO, next_power_of_two(count)) if is_small else count, []).append(count)
    return [tuple(group) for group in shared.values()]


def group_of(key: Array, counts: tuple[int, ...], batches: Batches, seeding: str, n_restarts: int) -> Group:
    """Seeds for `n_restarts` runs of every count, which do not depend on the other counts."""
    starts = tuple(1 if count == 1 else n_restarts for count in counts)
    lane_counts = np.repeat(np.array(counts, np.int32), starts)
    restart = np.concatenate([np.arange(n, dtype=np.int32) for n in starts])
    first = np.cumsum([0, *starts[:-1]])
    members = np.stack([f + np.arange(n_restarts) % n for f, n in zip(first, starts, strict=True)]).astype(np.int32)
    keys = _keys(key, lane_counts, restart, n_restarts=n_restarts)
    seeds = seeds_of(keys, lane_counts, batches, seeding=seeding, n_components=max(counts))
    return Group(counts, starts, seeds, lane_counts, members)


def fit_group(
    group: Group,
    batches: Batches,
    family: Family,
    settings: em.Settings,
    max_steps: int,
    also: Callable[[FitResult, Batches], Any],
    watch: Callable[[Told], None] | None = None,
) -> list[tuple[FitResult, Any]]:
    """For every count the best of its runs, and what `also` says of it; `watch` is shown all runs as they go."""
    states = begin(group.seeds, group.lane_counts, batches, settings.ridge, NOTHING_GIVEN, family=family)
    states, histories = run_to_ends(states, batches, settings, max_steps, watch)
    length = history_length(max_steps)
    results, more = jax.device_get(_finish(states, histories, group.members, batches, length=length, also=also))
    found = []
    for index, count in enumerate(group.counts):
        result, said = jax.tree.map(lambda leaf, index=index: leaf[index], (results, more))
        trimmed = _trimmed(result, count, group.n_starts[index])
        found.append((jax.device_put(trimmed, batches.origin.sharding), said))
    return found


@partial(jax.jit, static_argnames="n_restarts")
def _keys(key: Array, counts: Array, restart: Array, *, n_restarts: int) -> Array:
    """The pair of keys that `fit` gives the restart, were it given this key and its count folded into one."""

    def one(count: Array, restart: Array) -> Array:
        return jax.random.split(jax.random.fold_in(key, count), (n_restarts, 2))[restart]

    return jax.vmap(one)(counts, restart)


@partial(jax.jit, static_argnames=("length", "also"))
def _finish(
    states: em.State,
    histories: Array,
    members: Array,
    batches: Batches,
    *,
    length: int,
    also: Callable[[FitResult, Batches], Any],
) -> tuple[FitResult, Any]:
    def one(lanes: Array) -> FitResult:
        return best_of(*jax.tree.map(lambda leaf: leaf[lanes], (states, histories[:, :length])))

    results = jax.vmap(one)(members)
    return results, lax.map(lambda result: also(result, batches), results)


def _trimmed(result: FitResult, count: int, n_restarts: int) -> FitResult:
    """A result of host arrays without the components that pad it; on a device each cut would be a program."""
    padded = result.mixture
    scales = jax.tree.map(lambda leaf: leaf[:count], padded.scales)
    mixture = Mixture(padded.log_weights[:count], padded.means[:count], scales, padded.family)
    restarts = Restarts(*(leaf[:n_restarts] for leaf in jax.tree.leaves(result.restarts)))
    return FitResult(
        mixture=mixture,
        objective=result.objective,
        status=result.status,
        n_steps=result.n_steps,
        history=result.history,
        effective_counts=result.effective_counts[:count],
        restarts=restarts,
    )

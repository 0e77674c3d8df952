"""Fits with several numbers of components in one program: smaller fits are padded with components of weight 0.

A program is compiled for the largest K of a bucket. A padded component costs its share of the arithmetic; it saves a
program, which takes longer to compile than many fits to a small table take to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .. import em
from .._base import threefry
from .._base.programs import next_power_of_two, program
from ..families import Family, Full
from ..moments import FULL, Moments
from ..rows.batches import Batches
from ..rows.rows import Rows
from ..rows.sizes import bytes_of_fit
from .driver import driver_of, sees_all
from .escape import ESCAPES
from .observer import NOBODY, Observer
from .plan import Plan
from .polish import polished, polished_result
from .race import race_to_ends
from .result import ON_HOST, FitResult, Restarts, best, best_of, history_length, trimmed
from .runs import padded
from .seeding.shelf import ON_ALL_ROWS
from .start import room_for, seeds_of

SMALL_TABLE = 2**20
"""Largest table, in numbers (N·D), for which compiling for another K takes longer than padding to a larger one."""

TOGETHER_UP_TO = 16
"""Number of components up to which all cells of a search of such a table share a program."""

HELD = 2**33
"""Upper bound on the bytes of all runs of a bucket."""

PADDING = 0.5
"""Largest share of a bucket's components that may be padding: at most twice the arithmetic that a search needs."""


class Bucket(NamedTuple):
    """Runs with several numbers of components, which share a program."""

    counts: tuple[int, ...]
    n_starts: tuple[int, ...]  # runs of each count (`starts_of`)
    seeds: Array  # (L, K, D), K the largest of the counts
    lane_counts: np.ndarray  # (L,) int32: the number of components of each run
    members: np.ndarray  # (counts, R) int32: the runs of each count; if fewer than R, repeated in turn
    nearest: Moments | None  # (L, ...), of the rows nearest to each seed, if families of several kinds use it


def buckets(
    counts: Iterable[int],
    batches: Rows,
    n_restarts: int = 1,
    families: Iterable[Family] = (Full(),),
) -> list[tuple[int, ...]]:
    """Group the counts into buckets that share a program: their runs take at most `HELD` bytes, and unless padding is
    skipped (`Batches.in_turn`), at most `PADDING` of a bucket's components are padding.

    Where it is skipped all counts share one, within these bounds, or, with room for more rows, those that are padded to
    the same number; otherwise, for a table of few numbers, all up to `TOGETHER_UP_TO` and those between two powers of
    two above it, and for a larger one each count has its own.
    """
    is_small = int(batches.n_rows) * batches.n_features <= SMALL_TABLE

    def widest(count: int) -> int:
        if batches.in_turn:
            return room_for(count, batches) if batches.has_room else 0
        return max(TOGETHER_UP_TO, next_power_of_two(count)) if is_small else count

    shared: dict[int, list[int]] = {}
    for count in counts:
        shared.setdefault(widest(count), []).append(count)
    all_diagonal = all(family.kind.is_diagonal for family in families)
    bounded: list[list[int]] = []
    for together in shared.values():
        rest = sorted(together, reverse=True)
        while rest:  # take the largest count, and as many of the others as the bounds allow
            each = n_restarts * bytes_of_fit(rest[0], batches.n_features, batches.dtype.itemsize, all_diagonal)
            within = max(1, min(len(rest), HELD // each))
            most = next(n for n in range(within, 0, -1) if batches.in_turn or padding(rest[:n]) <= PADDING)
            bounded.append(rest[:most])
            rest = rest[most:]
    order = {count: place for place, count in enumerate(counts)}
    return sorted((tuple(sorted(bucket, key=order.__getitem__)) for bucket in bounded), key=lambda g: order[g[0]])


def padding(counts: Sequence[int]) -> float:
    """The share of a bucket's components that is padding, if each count is run equally often."""
    return 1.0 - sum(counts) / (max(counts) * len(counts))


def stepped_padding(results: dict[tuple[str, int], FitResult], shared: Iterable[tuple[int, ...]]) -> float:
    """The share of padding among the components that were stepped."""
    stepped = wanted = 0
    for (_, count), result in results.items():
        steps = int(np.asarray(result.restarts.n_steps).sum())
        wanted += steps * count
        stepped += steps * max((max(bucket) for bucket in shared if count in bucket), default=count)
    return 1.0 - wanted / stepped if stepped else 0.0


def starts_of(counts: Iterable[int], n_restarts: int) -> tuple[int, ...]:
    """How many runs each count has: a single one for K = 1, since all starts converge to the same fit."""
    return tuple(1 if count == 1 else n_restarts for count in counts)


def bucket_of(
    key: Array,
    counts: tuple[int, ...],
    batches: Rows,
    seeding: str,
    n_restarts: int,
    families: Iterable[Family],
) -> Bucket:
    """Seeds for `n_restarts` runs of every count, which do not depend on the other counts."""
    starts = starts_of(counts, n_restarts)
    lane_counts = np.repeat(np.array(counts, np.int32), starts)
    restart = np.concatenate([np.arange(n, dtype=np.int32) for n in starts])
    first = np.cumsum([0, *starts[:-1]])
    members = np.stack([f + np.arange(n_restarts) % n for f, n in zip(first, starts, strict=True)]).astype(np.int32)
    keys = keys_of(key, lane_counts, restart, n_restarts)
    room = room_for(max(counts), batches)
    seeds = seeds_of(keys, lane_counts, batches, seeding=seeding, n_components=room, restarts=restart)
    kinds, nearest = {family.kind for family in families}, None
    if FULL in kinds and len(kinds) > 1 and not batches.has_room:
        # One pass serves all families: a family of kind FULL needs it anyway, and its sums give those of the others.
        nearest = driver_of(batches).nearest_to(seeds, lane_counts, FULL, seeding in ON_ALL_ROWS)
    if nearest is not None and seeds.size * batches.n_features <= ON_HOST:
        nearest = jax.device_get(nearest)
    return Bucket(counts, starts, seeds, lane_counts, members, nearest)


def fit_bucket(
    bucket: Bucket,
    batches: Rows,
    judged: Rows,
    family: Family,
    plan: Plan,
    also: Callable[[FitResult, Batches], Any],
    observer: Observer = NOBODY,
) -> list[tuple[FitResult, Any]]:
    """For every count, the best of its runs and the value of `also` for it and the rows `judged`; None in its place if
    an interrupt ended the runs and a pass over the rows would be due.

    `observer` is shown the progress of all runs.
    """
    states = driver_of(batches).from_seeds(
        bucket.seeds,
        bucket.lane_counts,
        family,
        plan.settings,
        nearest=bucket.nearest,
        broad=plan.search.init in ON_ALL_ROWS,
    )
    with observer.noting():
        return _best_of_bucket(states, bucket, batches, judged, plan, also, observer)


def _best_of_bucket(
    states: em.State,
    bucket: Bucket,
    batches: Rows,
    judged: Rows,
    plan: Plan,
    also: Callable[[FitResult, Batches], Any],
    observer: Observer,
) -> list[tuple[FitResult, Any]]:
    """As `fit_bucket`, from states (L, ...) at their start."""
    search, settings = plan.search, plan.settings
    states, histories = race_to_ends(states, batches, settings, search.max_steps, search.race, bucket.members, observer)
    length = history_length(search.max_steps)
    if search.polish and search.escape is None:
        states, histories = polished(states, histories, batches, settings, observer, bucket.members)
        length = histories.shape[1]
    if isinstance(states.objective, np.ndarray):
        each = [best(*_lanes(states, histories, of), settings.floor, length=length) for of in bucket.members]  # pyright: ignore
        results = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    else:
        results = _best_of_each(states, histories, bucket.members, settings.floor, length=length)
    escapes: list[Any] = [None] * len(bucket.counts)
    if search.escape is not None and not observer.is_interrupted:
        escaped = []
        for index in range(len(bucket.counts)):
            single = jax.tree.map(lambda leaf, index=index: leaf[index], results)
            # No progress from here: the runs that the observer was shown have ended.
            found = ESCAPES[search.escape](single, batches, settings, search.max_steps, observer._replace(tell=None))
            if search.polish:
                found = polished_result(found, batches, settings, observer)
            escapes[index] = np.asarray(found.escapes)
            escaped.append(replace(found, escapes=None))
        longest = max(len(of.history) for of in escaped)
        escaped = [replace(of, history=padded(np.asarray(of.history), longest)) for of in escaped]
        results = jax.tree.map(lambda *leaves: np.stack(list(map(np.asarray, leaves))), *escaped)
    asks = sees_all(judged) or not observer.is_interrupted
    results, more = jax.device_get((results, driver_of(judged).of_each(results, also) if asks else None))
    cut, said = [], []
    for index, count in enumerate(bucket.counts):
        result, of_it = jax.tree.map(lambda leaf, index=index: leaf[index], (results, more))
        cut.append(_trimmed(result, count, bucket.n_starts[index], escapes[index]))
        said.append(of_it)
    return list(zip(batches.at_home(cut), said, strict=True))


def _lanes(states: em.State, histories: np.ndarray, lanes: np.ndarray) -> tuple[em.State, np.ndarray]:
    return jax.tree.map(lambda leaf: leaf[lanes], (states, histories))


def keys_of(key: Array, counts: np.ndarray, restart: np.ndarray, n_restarts: int) -> Array:
    """`_keys`, computed on the host if `threefry` implements this key."""
    if not threefry.matches(key):
        return _keys(key, counts, restart, n_restarts=n_restarts)
    data = np.asarray(jax.random.key_data(key))
    of = {count: threefry.split(threefry.fold_in(data, count), (n_restarts, 2)) for count in set(counts.tolist())}
    pairs = np.stack([of[count][index] for count, index in zip(counts.tolist(), restart.tolist(), strict=True)])
    return jax.random.wrap_key_data(pairs, impl=jax.random.key_impl(key))  # pyright: ignore


@program(static="n_restarts", hurried=True)
def _keys(key: Array, counts: Array, restart: Array, *, n_restarts: int) -> Array:
    """The pair of keys that `fit` would give each restart, were it called with fold_in(key, count)."""

    def one(count: Array, restart: Array) -> Array:
        return jax.random.split(jax.random.fold_in(key, count), (n_restarts, 2))[restart]

    return jax.vmap(one)(counts, restart)


@program(static="length", hurried=True)
def _best_of_each(states: em.State, histories: Array, members: Array, ridge: Any, *, length: int) -> FitResult:
    def one(lanes: Array) -> FitResult:
        runs, lines = jax.tree.map(lambda leaf: leaf[lanes], (states, histories[:, :length]))
        return best_of(runs, lines, ridge)

    return jax.vmap(one)(members)


def _trimmed(result: FitResult, count: int, n_restarts: int, escapes: Any) -> FitResult:
    """A result of host arrays, without its padded components and repeated runs."""
    return replace(
        trimmed(result, count),
        restarts=Restarts(*(leaf[:n_restarts] for leaf in jax.tree.leaves(result.restarts))),
        escapes=escapes,
    )

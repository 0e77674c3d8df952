"""Many fits of the same rows under other weights: a group of them at a time, in bursts, so that Ctrl-C is seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from .._base import threefry
from .._base.precision import is_traced, is_transforming
from .._base.status import Status
from ..mixture import Mixture
from ..rows.batches import Batches
from ..rows.sizes import choose_width
from .observer import BURST, Interrupt, Observer, steps_of_a_burst, warn_of_interrupt

STEPS = 8
"""Least steps of a burst, by arithmetic, that a group is sized for: fewer would mean many returns to Python."""


def replicated(
    key: Array,
    n: int,
    begin: Callable[..., Any],
    go: Callable[..., Any],
    mixture: Mixture,
    batches: Batches,
    limit: Any,
) -> tuple[Any, ...]:
    """What `go` finds of n replicates, leaves (n, ...); of those that were done if interrupted, with a warning.

    begin(keys (G, ·), impl=) -> weights and states (G, ...). go(weights, states, limit) -> states after so many steps,
    and what is kept of each. KeyboardInterrupt where not even two were done.
    """
    impl = jax.random.key_impl(key)
    if is_traced((key, mixture, batches)) or is_transforming():
        return go(*begin(jax.random.key_data(jax.random.split(key, n)), impl=impl), limit)[1]
    keys, kind = _split(key, n), mixture.family.kind
    in_a_burst = steps_of_a_burst(
        batches.n_chunks * batches.chunk_size * mixture.n_components, mixture.n_features, kind
    )
    width = choose_width(mixture.n_components, n, batches.chunk_size)
    group = min(n, max(1, in_a_burst // STEPS // width) * width)
    burst, limit, observer = max(1, in_a_burst // group), int(limit), Observer(interrupt=Interrupt())
    parts: list[Any] = []
    with observer.heeding():
        for first in range(0, n, group):
            own = keys[np.minimum(np.arange(first, first + group), n - 1)]  # the last are repeated, for one program
            weights, states = jax.block_until_ready(begin(own, impl=impl))
            made, kept, goes_on = 0, None, True
            while goes_on:
                began, made = time.perf_counter(), min(made + burst, limit)
                states, kept = jax.block_until_ready(go(weights, states, np.int32(made)))
                goes_on = made < limit and np.any(np.asarray(states.status) == Status.MAX_STEPS)
                in_time = burst * BURST / max(time.perf_counter() - began, 1e-6)
                burst = max(1, int(min(in_time, 64 * burst)))
            parts.append(jax.tree.map(lambda leaf, first=first: np.asarray(leaf)[: n - first], kept))
    if observer.is_interrupted:
        n_done = sum(len(part[0]) for part in parts)
        if n_done < 2:
            raise KeyboardInterrupt("The bootstrap was interrupted before two replicates were done.")
        warn_of_interrupt(f"of {n} replicates {n_done} are done, and come back.", stacklevel=4)
    return jax.device_put(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


def _split(key: Array, n: int) -> np.ndarray:
    """`jax.random.split(key, n)` as key data."""
    if threefry.matches(key):
        return threefry.split(np.asarray(jax.random.key_data(key)), (n,))
    return np.asarray(jax.random.key_data(jax.random.split(key, n)))

"""Lanes dealt out to the cores of a CPU, each of which takes its own through the same program.

XLA gives a loop to one core and shares out single operations, and those of a fit to a small table are too short to be
shared. Threads that run one program on different lanes keep every core busy, and a lane's result is the same. A GPU,
and a program that is being traced, have one crew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array

from ._precision import is_traced, settings_here
from .batches import Batches, choose_width

T = TypeVar("T")

WORTH_A_CREW = 2**18
"""Responsibilities of a step of all lanes that are worth a thread."""


def n_crews(n_lanes: int, n_components: int, batches: Batches, bytes_each: int = 0) -> int:
    """Among how many cores so many lanes are dealt out: all there are, as long as each has a whole width of them and
    enough to do."""
    origin = batches.origin
    if is_traced(batches) or any(one.platform != "cpu" for one in origin.devices()):
        return 1
    # A mesh belongs to one thread, and settings of a mesh would have to.
    if jax.config.jax_disable_jit or not jax.sharding.get_abstract_mesh().empty:  # pyright: ignore
        return 1
    width = choose_width(n_components, n_lanes, batches.chunk_size, bytes_each)
    worth = n_lanes * n_components * batches.n_chunks * batches.chunk_size // WORTH_A_CREW
    return max(1, min(n_cores(), -(-n_lanes // width), worth))


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_crews(program: Callable[[Any], T], lanes: Any, crews: int, batches: Batches) -> T:
    """program(lanes (L, ...)) -> leaves (L, ...), computed by so many crews at the same time."""
    n_lanes = len(jax.tree.leaves(lanes)[0])
    parts = at_once([partial(program, part) for part in deal(lanes, crews, batches)])
    return collect(parts, n_lanes, batches)


def deal(lanes: Any, crews: int, batches: Batches) -> list[Any]:
    """Lanes (L, ...) as equal parts in turn, filled up with the last: part p holds p, p + crews, p + 2 crews ..."""
    if crews == 1:
        return [lanes]
    n_lanes = len(jax.tree.leaves(lanes)[0])
    places = np.minimum(np.arange(-(-n_lanes // crews) * crews), n_lanes - 1)
    held = jax.tree.map(np.asarray, lanes)
    parts = [jax.tree.map(lambda leaf, of=places[first::crews]: leaf[of], held) for first in range(crews)]
    # What lies nowhere yet goes where the program runs, at once and for nothing.
    return [_placed(part, batches) for part in parts] if batches.origin.committed else parts


def collect(parts: Sequence[T], n_lanes: int, batches: Batches) -> T:
    """The parts that `deal` made, or what became of them, as lanes (L, ...)."""
    return parts[0] if len(parts) == 1 else _placed(gathered(parts, n_lanes), batches)


def gathered(parts: Sequence[T], n_lanes: int) -> T:
    """As `collect`, in host memory."""

    def one(*leaves: Array) -> np.ndarray:
        in_turn = np.stack([np.asarray(leaf) for leaf in leaves], axis=1)
        return in_turn.reshape(-1, *leaves[0].shape[1:])[:n_lanes]

    return jax.tree.map(one, *parts)


def at_once(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs return, each of which runs in a thread of its own; the first in this one.

    JAX's settings belong to threads, and go along. Where there is one that cannot, all jobs run in this thread.
    """
    if len(jobs) == 1:
        return [jobs[0]()]
    settings, asked = settings_here(), jax.config.values

    def with_settings(job: Callable[[], T]) -> list[T]:
        with settings():
            return [jax.block_until_ready(job())] if jax.config.values == asked else []

    with ThreadPoolExecutor(len(jobs) - 1) as pool:
        others = [pool.submit(with_settings, job) for job in jobs[1:]]
        first = jax.block_until_ready(jobs[0]())
        done = [other.result() for other in others]
    return [first, *(of[0] if of else job() for of, job in zip(done, jobs[1:], strict=True))]


def _placed(tree: Any, batches: Batches) -> Any:
    """On the device of the batches, and bound to it only if they are. A slice on a device would be a program."""
    return jax.device_put(tree, batches.origin.sharding if batches.origin.committed else None)

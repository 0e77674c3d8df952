"""Lanes scattered over a pool of threads or devices, which all run the same program on their own lanes; this does not
change a lane's result.

Threads, on a CPU: XLA runs a loop on one core and parallelises single operations only, and those of a fit to a small
table are too short for that. Threads that run one program on different lanes keep every core busy. Devices, if each
has all rows: no step of a lane waits for another device. A single device that is not a CPU, and a program that is being
traced, have a pool of one thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._base.precision import is_traced, settings_here
from .._base.programs import program
from ..rows.batches import Batches
from ..rows.chunks import T
from ..rows.replicated import AXIS, Replicated
from ..rows.sizes import choose_width

WORTH_A_THREAD = 2**18
"""Responsibilities in a step that make one more thread worthwhile."""

PATIENCE = 0.5
"""Seconds that an interrupt waits for other threads, which look for it every `BURST` seconds."""


class Pool(ABC):
    """Threads or devices over which lanes (L, ...) are scattered. Scattered lanes and results are lists of parts."""

    def __init__(self, number: int, batches: Batches) -> None:
        self.number, self.batches = number, batches

    def each(
        self, program: Callable[..., Any], lanes: Any, *shared: Any, at_most: int | None = None, **static: Any
    ) -> Any:
        """program(lanes (L, ...), *shared, **static) -> leaves (L, ...), computed by all workers at the same time.

        at_most: lanes of a worker after which threads return to Python, so that Ctrl-C is seen.
        """
        del at_most
        n_lanes = len(jax.tree.leaves(lanes)[0])
        return self.gather(self.run(program, self.scatter(lanes), *shared, **static), n_lanes)

    @abstractmethod
    def scatter(self, lanes: Any) -> list[Any]:
        """Lanes (L, ...) as P equal parts, padded with the last lane: part p holds lanes p, p + P, p + 2 P ..."""

    @abstractmethod
    def run(self, program: Callable[..., Any], parts: list[Any], *shared: Any, **static: Any) -> list[Any]:
        """program(part, *shared, **static) for every part. The program must be a module-level function."""

    @abstractmethod
    def placed(self, parts: list[Any]) -> list[Any]:
        """Move parts of host arrays to where the workers expect them."""

    @abstractmethod
    def gather(self, parts: list[Any], n_lanes: int) -> Any:
        """Parts joined to lanes (L, ...), in order and without padding."""

    @abstractmethod
    def gather_on_host(self, parts: list[Any], n_lanes: int) -> Any:
        """As `gather`, in host memory."""


class Threads(Pool):
    """One thread per worker; a single worker uses the caller's thread."""

    def each(
        self, program: Callable[..., Any], lanes: Any, *shared: Any, at_most: int | None = None, **static: Any
    ) -> Any:
        n_lanes = len(jax.tree.leaves(lanes)[0])
        together = n_lanes if at_most is None else self.number * max(1, at_most)
        if together >= n_lanes:
            return super().each(program, lanes, *shared, **static)
        held, found = jax.tree.map(np.asarray, lanes), []
        for first in range(0, n_lanes, together):
            places = np.minimum(np.arange(first, first + together), n_lanes - 1)  # the last are repeated
            parts = self.scatter(jax.tree.map(lambda leaf, of=places: leaf[of], held))
            found.append(self.gather_on_host(self.run(program, parts, *shared, **static), together))
        return self.placed(jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n_lanes], *found))

    def scatter(self, lanes: Any) -> list[Any]:
        if self.number == 1:
            return [lanes]
        parts = _in_turn(lanes, self.number)
        # Host arrays go to the device when the program runs, at no extra cost, unless the rows are committed to one.
        return self.placed(parts) if self.batches.origin.committed else parts

    def run(self, program: Callable[..., Any], parts: list[Any], *shared: Any, **static: Any) -> list[Any]:
        return at_once([partial(program, part, *shared, **static) for part in parts])

    def placed(self, parts: Any) -> Any:
        # Committed to the device of the batches only if they are.
        return jax.device_put(parts, self.batches.origin.sharding if self.batches.origin.committed else None)

    def gather(self, parts: list[Any], n_lanes: int) -> Any:
        # On the host: slicing on a device would compile a program.
        return parts[0] if self.number == 1 else self.placed(self.gather_on_host(parts, n_lanes))

    def gather_on_host(self, parts: list[Any], n_lanes: int) -> Any:
        return jax.tree.map(lambda *leaves: _in_order(np.stack(list(map(np.asarray, leaves))), n_lanes), *parts)


class Devices(Pool):
    """One device per worker. There is a single part: its leaves have an additional leading axis over the devices."""

    def __init__(self, batches: Replicated) -> None:
        super().__init__(batches.n_copies, batches)
        self.mesh = batches.mesh

    def scatter(self, lanes: Any) -> list[Any]:
        return self.placed([jax.tree.map(lambda *leaves: np.stack(leaves), *_in_turn(lanes, self.number))])

    def run(self, program: Callable[..., Any], parts: list[Any], *shared: Any, **static: Any) -> list[Any]:
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        shared = jax.tree.map(lambda x: jax.device_put(x, everywhere) if isinstance(x, Array) else x, shared)
        return [_on_devices(parts[0], shared, how=(program, tuple(sorted(static.items()))), mesh=self.mesh)]

    def placed(self, parts: Any) -> Any:
        return jax.device_put(parts, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def gather(self, parts: list[Any], n_lanes: int) -> Any:
        return self.batches.at_home(self.gather_on_host(parts, n_lanes))

    def gather_on_host(self, parts: list[Any], n_lanes: int) -> Any:
        return jax.tree.map(lambda leaf: _in_order(np.asarray(leaf), n_lanes), parts[0])


def pool_for(n_lanes: int, n_components: int, batches: Batches, bytes_each: int = 0) -> Pool:
    """The pool for so many lanes: the devices if each has all rows, else one thread per core, as long as each thread
    has a full width of lanes and enough work."""
    # A mesh that the user has set applies to this thread only, and excludes a mesh of our own.
    if is_traced(batches) or jax.config.jax_disable_jit or not jax.sharding.get_abstract_mesh().empty:  # pyright: ignore
        return Threads(1, batches)
    if isinstance(batches, Replicated):
        return Devices(batches)
    if any(one.platform != "cpu" for one in batches.origin.devices()):
        return Threads(1, batches)
    width = choose_width(n_components, n_lanes, batches.chunk_size, bytes_each)
    worth = n_lanes * n_components * batches.n_chunks * batches.chunk_size // WORTH_A_THREAD
    return Threads(max(1, min(n_cores(), -(-n_lanes // width), worth)), batches)


def are_singles(n_lanes: int, n_components: int, batches: Batches) -> bool:
    """Whether the rows are on a CPU and a single lane keeps a core busy."""
    if len(batches.origin.devices()) > 1 or any(one.platform != "cpu" for one in batches.origin.devices()):
        return False
    return choose_width(n_components, n_lanes, batches.chunk_size) == 1


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(jobs: Sequence[Callable[[], T]], stop: threading.Event | None = None) -> list[T]:
    """The results of the jobs, each run in its own thread, the first in this one. If that is interrupted or fails,
    `stop` is set, and the other jobs, which look at it, are waited for; if interrupted, no longer than `PATIENCE`,
    since one that compiles does not look: it ends by itself, and what it writes then is not to be read.

    JAX's settings are per thread, and are copied. If one cannot be copied, all jobs run in this thread.
    """
    if len(jobs) == 1:
        return [jobs[0]()]
    settings, asked, stop = settings_here(), jax.config.values, stop or threading.Event()

    def with_settings(job: Callable[[], T]) -> list[T]:
        with settings():
            return [jax.block_until_ready(job())] if jax.config.values == asked else []

    pool = ThreadPoolExecutor(len(jobs) - 1, thread_name_prefix="jaxgmm works")
    others: list[Future[list[T]]] = []
    try:
        others = [pool.submit(with_settings, job) for job in jobs[1:]]
        first = jax.block_until_ready(jobs[0]())
        done = [other.result() for other in others]
    except BaseException as error:
        stop.set()
        wait(others, PATIENCE if isinstance(error, KeyboardInterrupt) else None)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [first, *(of[0] if of else job() for of, job in zip(done, jobs[1:], strict=True))]


def in_background(jobs: Sequence[Callable[[], Any]]) -> None:
    """Run jobs in turn in a background thread, with this thread's JAX settings. Errors are ignored: the code that later
    needs the result will meet the same error."""
    settings, asked = settings_here(), jax.config.values

    def all_of_them() -> None:
        with settings():
            for job in jobs if jax.config.values == asked else []:
                with contextlib.suppress(Exception):
                    job()

    # Not a daemon: a process that exits while XLA compiles may crash, so it waits those seconds.
    threading.Thread(target=all_of_them, name="jaxgmm prepares").start()


def _in_turn(lanes: Any, n_parts: int) -> list[Any]:
    n_lanes = len(jax.tree.leaves(lanes)[0])
    places = np.minimum(np.arange(-(-n_lanes // n_parts) * n_parts), n_lanes - 1)
    held = jax.tree.map(np.asarray, lanes)
    return [jax.tree.map(lambda leaf, of=places[first::n_parts]: leaf[of], held) for first in range(n_parts)]


def _in_order(leaf: np.ndarray, n_lanes: int) -> np.ndarray:
    """A leaf of all parts (P, L / P, ...) as that of the lanes (L, ...), in order."""
    return np.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:])[:n_lanes]


@program(static=("how", "mesh"))
def _on_devices(parts: Any, shared: Any, *, how: tuple[Callable[..., Any], Any], mesh: Mesh) -> Any:
    program, static = how

    def local(parts: Any, shared: Any) -> Any:
        done = program(jax.tree.map(lambda leaf: leaf[0], parts), *shared, **dict(static))
        return jax.tree.map(lambda leaf: leaf[None], done)

    # No collectives: devices do not wait for each other.
    each, everywhere = PartitionSpec(AXIS), PartitionSpec()
    shared_out: Callable[..., Any] = jax.shard_map(
        local, mesh=mesh, in_specs=(each, everywhere), out_specs=each, check_vma=False
    )
    return shared_out(parts, shared)

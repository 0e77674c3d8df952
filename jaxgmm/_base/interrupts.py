"""Ctrl-C while something is under way that does not look for it.

Python acts on a signal between two of its own instructions, in the main thread. While XLA compiles, there are none, for
seconds: so what compiles does so in another thread, and the main thread waits for it in a way that Ctrl-C ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import jax

from .precision import is_transforming, settings_here

T = TypeVar("T")

LOOKED_AT_EVERY = 0.5
"""Seconds after which a wait looks for a signal: one that comes just before the wait begins does not end it."""


def interruptibly(job: Callable[[], T]) -> T:
    """The result of a job that may compile. In the main thread Ctrl-C is a KeyboardInterrupt at once: the job goes on
    in its own thread, and what it compiles is there for the next call.

    JAX's settings are per thread, and are copied. If one cannot be copied, the job runs in this thread.
    """
    if threading.current_thread() is not threading.main_thread() or _is_bound_to_this_thread():
        return job()
    settings, asked, outcome = settings_here(), jax.config.values, Future()

    def in_this_thread() -> None:
        try:
            with settings():
                is_same = jax.config.values == asked
                outcome.set_result([job()] if is_same else [])
        except BaseException as error:
            outcome.set_exception(error)

    # Not a daemon: a process that exits while XLA compiles may crash, so it waits those seconds.
    threading.Thread(target=in_this_thread, name="jaxgmm compiles").start()
    while not outcome.done():
        wait([outcome], LOOKED_AT_EVERY)
    found: list[Any] = outcome.result()
    return found[0] if found else job()


def _is_bound_to_this_thread() -> bool:
    """Whether a transformation is under way, a mesh is set or nothing is compiled: of these another thread knows
    nothing."""
    return (
        bool(jax.config.jax_disable_jit)  # pyright: ignore
        or not jax.sharding.get_abstract_mesh().empty  # pyright: ignore
        or is_transforming()
    )

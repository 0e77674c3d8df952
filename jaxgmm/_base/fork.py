"""Whether this process was forked from one in which JAX had been used already.

`fork` copies a process with only one of its threads. JAX's other threads, which compute, do not exist in the copy, so
that whatever it hands to them is waited for without end. So that is an error here. A process that is forked before JAX
is used starts threads of its own, and one that starts anew (spawn, forkserver, joblib's loky) has nothing of this.
"""

from __future__ import annotations

import os
import threading

_is_forked = False


def refuse_if_forked() -> None:
    """RuntimeError where a computation would never end, because JAX's threads are those of the parent process."""
    if _is_forked:
        raise RuntimeError(
            "This process was forked from one that had used JAX before: JAX's threads are not copied by a fork, so a "
            "computation would wait for them for ever. Start processes by multiprocessing.get_context('spawn') or "
            "'forkserver', or with joblib's default backend (loky); or fork before JAX is used."
        )


def _jax_is_in_use() -> bool:
    """Whether JAX has started its threads. It has no public function that says so without starting them."""
    try:
        from jax._src.xla_bridge import backends_are_initialized
    except ImportError:  # moved in a later version: better a wait than an error without cause
        return False
    return backends_are_initialized()


def _in_child() -> None:
    global _is_forked
    _is_forked = _is_forked or _jax_is_in_use()


def _threads_are_missing() -> bool:
    """Whether JAX is in use, and this process has no threads but Python's own: it was forked before this import.

    Only Linux says which threads there are; elsewhere a process is rarely forked.
    """
    try:
        n_threads = len(os.listdir("/proc/self/task"))
    except OSError:
        return False
    return n_threads <= threading.active_count() and _jax_is_in_use()


if hasattr(os, "register_at_fork"):
    _is_forked = _threads_are_missing()
    os.register_at_fork(after_in_child=_in_child)

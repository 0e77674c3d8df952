"""Several processes that search together: that they ask for the same, and that none waits for one that is gone.

Every sum over the rows of all processes is a wait for the last of them, inside of XLA, where nothing can end it. So
they meet before the first one, through the key-value store of JAX's coordination service: each says what it was asked
for, process 0 compares, and all raise where that differs. A process that ends, or whose search is ended by an error of
its own, says so in the same place, and the others look there while they wait.

jaxgmm/3/1         what process 1 was asked for in the fourth search
jaxgmm/3/verdict   what process 0 found: nothing, or what is wrong
jaxgmm/3/gone/1    why process 1 is no longer in that search, if its end may be its own alone
jaxgmm/ended/1     process 1 makes no more searches
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

LOOKS = 1.0
"""Seconds from one look for processes that have gone to the next."""

GRACE = 5.0
"""Seconds that a search has to end by itself after another process has left it: most errors are raised in all."""

_numbers = itertools.count()


def client() -> Any:
    """The client of JAX's coordination service; None where there is one process, or where JAX keeps it elsewhere.

    JAX has no public function for the store or for a barrier.
    """
    try:
        from jax._src.distributed import global_state
    except ImportError:
        return None
    return global_state.client


@contextlib.contextmanager
def together(asked: Mapping[str, Any]) -> Iterator[None]:
    """A search that all processes make together, each of which was asked for this.

    ValueError, in all of them, if they were asked for different things; RuntimeError if one has ended. If one leaves
    the search while others are in it, those end: a sum that waits for it cannot be stopped in any other way.
    """
    store = client()
    if store is None:
        yield
        return
    number, own, is_over = next(_numbers), jax.process_index(), threading.Event()
    if number == 0:
        atexit.register(ended)  # before JAX's own, which waits for the others
    _meet(store, number, {name: str(value) for name, value in asked.items()})
    watch = threading.Thread(target=_watch, args=(store, number, is_over), daemon=True)
    watch.start()
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Exception):
            store.key_value_set(f"jaxgmm/{number}/gone/{own}", type(error).__name__)
        raise
    finally:
        is_over.set()


def ended() -> None:
    """Say that this process makes no more searches."""
    store = client()
    if store is not None:
        with contextlib.suppress(Exception):  # the service may have ended, and this may have been said
            store.key_value_set(f"jaxgmm/ended/{jax.process_index()}", "")


def _meet(store: Any, number: int, asked: dict[str, str]) -> None:
    own, everyone = jax.process_index(), range(jax.process_count())
    store.key_value_set(f"jaxgmm/{number}/{own}", json.dumps(asked))
    if own:
        verdict = _awaited(store, f"jaxgmm/{number}/verdict", 0)
    else:
        found = [_awaited(store, f"jaxgmm/{number}/{process}", process) for process in everyone]
        missing = [str(process) for process, said in zip(everyone, found, strict=True) if said is None]
        verdict = _gone(missing) if missing else _differences([json.loads(said) for said in found if said])
        store.key_value_set(f"jaxgmm/{number}/verdict", verdict)
    if verdict is None:
        verdict = _gone(["0"])
    if verdict and own:
        store.key_value_set(f"jaxgmm/{number}/read/{own}", "")
    elif verdict:  # the service ends with process 0, which raises last for that
        until = time.monotonic() + GRACE
        while time.monotonic() < until and len(store.key_value_dir_get(f"jaxgmm/{number}/read/")) < len(everyone) - 1:
            time.sleep(0.05)
    if verdict:
        raise (ValueError if verdict.startswith("All") else RuntimeError)(verdict)


def _awaited(store: Any, key: str, process: int) -> str | None:
    """What another process writes under this key, however long that takes; None if it has ended instead."""
    while True:
        has_ended = _found(store, f"jaxgmm/ended/{process}") is not None  # before the look at what it may have said
        try:
            return store.blocking_key_value_get(key, int(LOOKS * 1000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            if has_ended:
                return None


def _found(store: Any, key: str) -> str | None:
    try:
        return store.key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return None


def _gone(processes: list[str]) -> str:
    of, have = ("process", "has") if len(processes) == 1 else ("processes", "have")
    return (
        f"This fit waits for {of} {', '.join(processes)}, which {have} ended. All processes must make the same calls: "
        "the same fits and sweeps, in the same order."
    )


def _differences(asked: list[dict[str, str]]) -> str:
    """Which arguments differ between the processes, in words; nothing if none does."""
    first, told = asked[0], []
    for name in dict.fromkeys(name for each in asked for name in each):
        for process, each in enumerate(asked):
            if each.get(name) != first.get(name):
                told.append(f"{name} is {first.get(name)} in process 0 and {each.get(name)} in process {process}")
                break
    return f"All processes must be given the same arguments: {'; '.join(told)}." if told else ""


def _watch(store: Any, number: int, is_over: threading.Event) -> None:
    """End this process if another has left this search, and it does not end by itself."""
    while not is_over.wait(LOOKS):
        try:
            left = store.key_value_dir_get(f"jaxgmm/{number}/gone/")
        except Exception:  # the service has ended; a missing heartbeat then ends this process
            return
        if left:
            break
    else:
        return
    began = time.monotonic()
    while time.monotonic() - began < GRACE:
        if is_over.wait(LOOKS):
            return
    said = ", ".join(f"process {key.rsplit('/', 1)[-1]} ({error})" for key, error in left)
    sys.stderr.write(
        f"jaxgmm: this process waits in a fit that others have left: {said}. Such a wait has no end, so it ends here. "
        "All processes must make the same calls of fit and sweep, and leave them together.\n"
    )
    sys.stderr.flush()
    os._exit(1)

"""Run one script in several processes, joined by JAX: python -m jaxgmm.launch --processes 4 script.py [argument …]

Every process runs the whole script, with its own rows, and `jaxgmm.fit(..., device="all")` fits the rows of all:

    rows = np.load(f"part-{jax.process_index()}.npy")
    result = jaxgmm.fit(jax.random.key(0), rows, n_components=8, device="all")  # the same in every process

On several machines, run it on each with the address of the first machine and the number of its own first process:

    python -m jaxgmm.launch --processes 2 --of 4 --first 0 --coordinator 10.0.0.1:7777 script.py
    python -m jaxgmm.launch --processes 2 --of 4 --first 2 --coordinator 10.0.0.1:7777 script.py

All processes must make the same calls of `fit` and `sweep`, with the same arguments but for their rows: where they
differ, or one has ended before its last fit, that is an error in all.

If a process ends with an error, all others on this machine are killed too; also if the launcher ends, even by being
killed. Processes on other machines notice only the missing heartbeat: they end with an error after `--patience`
seconds. A process that has finished waits for the others as long as they live.
"""

from __future__ import annotations

import argparse
import os
import queue
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

from ._base import processes

WORKER = "JAXGMM_LAUNCHED"
"""The environment variable that marks a process as one of several.

It holds the address, the number of processes, the number of this one, the patience, and the read end of a pipe that is
closed when the launcher ends (-1: none).
"""

PATIENCE = 30
"""Seconds without a heartbeat after which a process is considered dead."""

GRACE = 5.0
"""Seconds that the other processes have to end by themselves after one failed, to print their own errors."""

FOR_THE_OTHERS = 365 * 24 * 60 * 60
"""Seconds that a finished process waits for the others. Missing heartbeats reveal their death long before."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxgmm.launch", description="Run a script in several processes that JAX joins."
    )
    parser.add_argument("--processes", type=int, default=2, metavar="P", help="on this machine")
    parser.add_argument("--of", type=int, metavar="P", help="on all machines (as many as here)")
    parser.add_argument("--first", type=int, default=0, metavar="P", help="the number of the first one here")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens (a free port here)")
    parser.add_argument("--patience", type=int, default=PATIENCE, metavar="S", help="seconds until silence is death")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    given = parser.parse_args(arguments)
    n_processes = given.of or given.processes
    if min(given.processes, given.patience) < 1 or not 0 <= given.first <= n_processes - given.processes:
        parser.error(
            f"processes {given.first} to {given.first + given.processes - 1} of {n_processes}: there are none."
        )
    if given.coordinator is None and n_processes != given.processes:
        parser.error("where there are other machines, say by --coordinator at which address process 0 listens.")
    if not os.path.exists(given.script):
        parser.error(f"{given.script}: there is no such file.")
    address = given.coordinator or f"127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "jaxgmm.launch", given.script, *given.arguments]
    theirs, ours = os.pipe()
    passed = [theirs] if os.name == "posix" else []  # Popen cannot pass a pipe on other systems
    started: list[subprocess.Popen[bytes]] = []
    try:
        with _sigterm_as_exit():
            for number in range(given.first, given.first + given.processes):
                told = f"{address} {n_processes} {number} {given.patience} {theirs if passed else -1}"
                started.append(subprocess.Popen(command, env={**os.environ, WORKER: told}, pass_fds=passed))
            return _wait(started)
    finally:
        os.close(ours)  # also ends a process that a signal kept out of `started`
        os.close(theirs)
        _end(started, grace=0.0)


def work(arguments: Sequence[str]) -> None:
    """Run the script as one of several processes."""
    address, n_processes, number, patience, pipe = os.environ.pop(WORKER).split()
    if int(pipe) >= 0:
        _end_with_launcher(int(pipe))

    import jax

    jax.distributed.initialize(
        address, int(n_processes), int(number), initialization_timeout=300, heartbeat_timeout_seconds=int(patience)
    )
    jax.distributed.shutdown = partial(_shut_down, jax.distributed.shutdown)  # also if the script calls it
    sys.argv[:] = list(arguments)
    if not sys.flags.safe_path:  # with safe_path, neither `-m` nor `python script.py` puts a folder there
        sys.path[0] = os.path.dirname(os.path.realpath(arguments[0]))
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            _die(1, f"{end.code}\n")
        if end.code:
            _die(end.code)
    except BaseException:
        _die(1, traceback.format_exc())
    sys.stdout.flush()  # do not hold output back while waiting, nor lose it if others fail
    jax.distributed.shutdown()


def _shut_down(shutdown: Callable[[], None]) -> None:
    """JAX's own `shutdown`, after a wait for the other processes: by itself it waits at most five minutes for them.

    In jax 0.10.2 `shutdown_timeout_seconds` does not change that: `initialize` passes it to the service, but not to the
    client, which then gives up. JAX has no public function for a longer wait; if the private one used here is removed,
    the limit is five minutes.
    """
    processes.ended()  # those that would wait for this one in a fit are to know
    wait = getattr(processes.client(), "wait_at_barrier", None)  # the script may have called `shutdown` itself
    if wait is not None:
        wait("jaxgmm.launch: done", FOR_THE_OTHERS * 1000)
    shutdown()


def _end_with_launcher(pipe: int) -> None:
    """End this process when the launcher ends: the other end of the pipe is then closed, however it ended."""
    os.set_inheritable(pipe, False)  # child processes of the script do not need it

    def watch() -> None:
        os.read(pipe, 1)  # nobody writes: this returns when the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _die(status: int, said: str = "") -> NoReturn:
    """Exit at once: a normal exit would first wait for the others, which wait for this process in a collective."""
    try:
        sys.stderr.write(said)
        sys.stderr.flush()
        sys.stdout.flush()
    finally:  # also if the output pipe is closed
        os._exit(status)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit: by default it skips every `finally`. Only the main thread may set a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(started: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended or one has failed, and then end the others. -> the exit status of the first to fail.

    The first failure is the cause, since the others soon fail by a lost connection. One thread per process records the
    order, which polling would miss.
    """
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    for process in started:
        threading.Thread(target=lambda process=process: ended.put(process.wait()), daemon=True).start()
    for _ in started:
        status = ended.get()
        if status:
            print(f"jaxgmm.launch: a process ended with {status}; the others are ended.", file=sys.stderr)
            _end(started)
            return status if status > 0 else 128 - status
    return 0


def _end(started: list[subprocess.Popen[bytes]], grace: float = GRACE) -> None:
    until = time.monotonic() + grace
    while time.monotonic() < until and any(process.poll() is None for process in started):
        time.sleep(0.05)
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    if WORKER in os.environ:
        work(sys.argv[1:])
    else:
        sys.exit(main())

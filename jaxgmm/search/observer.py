"""The observer of a search: a callback for progress, the journal for checkpoints, and what an interrupt leads to.

A compiled loop does not see Ctrl-C before it returns. So long searches return to Python every `BURST` seconds or so,
whether or not anybody is told of progress; what is over within that time is made in one piece.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from .._base.precision import is_traced
from ..moments import DIAGONAL, Kind
from ..rows.batches import Batches
from ..rows.sizes import choose_width
from .checkpoint import Entry, Journal
from .progress import Snapshot

T = TypeVar("T")

BURST = 0.3
"""Seconds from one return to Python to the next."""

OF_A_STEP = 1e-8
"""Rough seconds for a responsibility in a step, on one core and for few features. It sizes the first burst only, before
there is anything to time."""


HURRIED = 8.0
"""How many times slower than others a program is that was compiled in a hurry."""


class Interrupt:
    """Whether a search was interrupted that gives back what there is.

    As a block: Ctrl-C within it is noted, and ends the search where it looks next, instead of leaving the block with
    nothing; in a part that `heeds` it, or if it is pressed twice, it is raised at once. So what is found is not lost
    where Ctrl-C comes between two bursts. Handlers of signals are left alone in other threads than the main one, and
    where the user has set one.
    """

    def __init__(self) -> None:
        self.came, self.heeds = False, 0

    def __enter__(self) -> Interrupt:
        is_main = threading.current_thread() is threading.main_thread()
        self.is_noted = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.is_noted:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_noted:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.heeds or self.came:
            signal.default_int_handler(number, frame)
        self.came = True


class Observer(NamedTuple):
    """A search passes this to every call that makes steps. It does not change the bits of the results."""

    tell: Callable[[Snapshot], None] | None = None
    journal: Journal | None = None  # for checkpoints on disk
    every: int | None = None  # steps from one report to the next; timed by the clock if None
    interrupt: Interrupt | None = None  # if None, an interrupt is raised; else it ends the runs where they are

    @property
    def looks(self) -> bool:
        """Whether somebody waits for reports or checkpoints: a first burst is then short."""
        return self.tell is not None or self.journal is not None

    @property
    def is_interrupted(self) -> bool:
        return self.interrupt is not None and self.interrupt.came

    def stop(self) -> threading.Event:
        """What threads look at: set where an interrupt was noted before they begin."""
        stop = threading.Event()
        if self.is_interrupted:
            stop.set()
        return stop

    @contextlib.contextmanager
    def heeding(self) -> Iterator[None]:
        """A block that an interrupt ends: it then goes on after the block, with `is_interrupted`."""
        if self.interrupt is None:
            yield
            return
        try:
            self.interrupt.heeds += 1
            yield
        except KeyboardInterrupt:
            self.interrupt.came = True
        finally:
            self.interrupt.heeds -= 1

    def attempted(self, job: Callable[..., T], *arguments: Any) -> T | None:
        """The result of a job; None if an interrupt came before or ends it."""
        if not self.is_interrupted:
            with self.heeding():
                return job(*arguments)
        return None

    def noting(self) -> contextlib.AbstractContextManager[Any]:
        """A block in which an interrupt is noted where nothing heeds it (see `Interrupt`)."""
        return contextlib.nullcontext() if self.interrupt is None else self.interrupt

    def told(self, snapshot: Snapshot) -> None:
        if self.tell is not None:
            self.tell(snapshot)

    def next_call(self) -> Entry | None:
        """The checkpoint entry of the call that begins now; None without a journal."""
        return None if self.journal is None else self.journal.next_call()

    def seen_through(self, whole: Callable[[Snapshot], Snapshot]) -> Observer:
        """The same observer, with each snapshot passed through `whole` first."""
        tell = self.tell
        return self if tell is None else self._replace(tell=lambda part: tell(whole(part)))


NOBODY = Observer()


def steps_of_a_burst(n_responsibilities: int, n_features: int, kind: Kind, slower: float = 1.0) -> int:
    """Steps that take about `BURST` seconds, estimated, so low that no machine of today takes longer."""
    of_features = n_features if kind.is_diagonal else n_features**2
    seconds = OF_A_STEP * slower * n_responsibilities * (1.0 + of_features / 32.0)
    return int(np.clip(BURST / seconds, 1, np.iinfo(np.int32).max))


def lanes_of_a_burst(n_components: int, rows: Batches) -> int | None:
    """Lanes of one core that are started in about `BURST` seconds, estimated; None, for no limit, except on a CPU."""
    if is_traced(rows) or jax.default_backend() != "cpu":
        return None
    n_responsibilities = n_components * rows.n_chunks * rows.chunk_size
    width = choose_width(n_components, 16, rows.chunk_size)  # lanes are stepped side by side by so many
    return -(-steps_of_a_burst(n_responsibilities, rows.n_features, DIAGONAL) // width) * width


@contextlib.contextmanager
def saying_what_is_lost(what: str) -> Iterator[None]:
    """A KeyboardInterrupt that leaves this block says that there is nothing to give back."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not getattr(error, "__notes__", None):
            error.add_note(f"{what} was interrupted before there was anything to give back.")
        raise


def warn_of_interrupt(what: str, stacklevel: int = 3) -> None:
    """Warn that a search was interrupted, and say what comes back."""
    warnings.warn(f"The search was interrupted: {what}", stacklevel=stacklevel)

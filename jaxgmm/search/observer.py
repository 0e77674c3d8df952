"""The observer of a search: a callback for progress, and the journal for checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .checkpoint import Entry, Journal
from .progress import Snapshot

BURST = 0.3
"""Seconds from one report to an observer to the next."""


class Observer(NamedTuple):
    """A search passes this to every call that makes steps. It does not change the bits of the results."""

    tell: Callable[[Snapshot], None] | None = None
    journal: Journal | None = None  # for checkpoints on disk
    every: int | None = None  # steps from one report to the next; timed by the clock if None
    pauses: bool = False  # whether to return to Python now and then even without reports, so that Ctrl-C works

    @property
    def looks(self) -> bool:
        """Whether steps are made in bursts rather than in one go."""
        return self.tell is not None or self.journal is not None or self.pauses

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

"""Who looks on while runs make their steps: who is told how they stand, and where they are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .checkpoint import Entry, Journal
from .progress import Snapshot

BURST = 0.3
"""Seconds after which an observer is told of a run again."""


class Observer(NamedTuple):
    """What a search passes on to every call that makes steps. Steps come to the same bits whoever looks on."""

    tell: Callable[[Snapshot], None] | None = None
    journal: Journal | None = None  # on disk
    every: int | None = None  # steps from one look to the next; by the clock where it is None
    pauses: bool = False  # whether steps come back to Python now and then though nobody looks, so that Ctrl-C works

    @property
    def looks(self) -> bool:
        """Whether steps are made in bursts rather than in one go."""
        return self.tell is not None or self.journal is not None or self.pauses

    def told(self, snapshot: Snapshot) -> None:
        if self.tell is not None:
            self.tell(snapshot)

    def next_call(self) -> Entry | None:
        """Where the call that begins now is kept, if calls are kept."""
        return None if self.journal is None else self.journal.next_call()

    def seen_through(self, whole: Callable[[Snapshot], Snapshot]) -> Observer:
        """The same observer, who is shown what `whole` makes of each snapshot."""
        tell = self.tell
        return self if tell is None else self._replace(tell=lambda part: tell(whole(part)))


NOBODY = Observer()

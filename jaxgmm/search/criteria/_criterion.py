"""The protocol of criteria, which give a fit a value to choose by."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Evidence(NamedTuple):
    """The figures of a fit to rows of total weight n from which criteria are computed."""

    log_likelihood: float  # total, nats
    n_parameters: int
    n: float
    entropy: float  # of the responsibilities, total, nats (the soft one: see `entropy`)
    held_out: float | None = None  # mean log-density of rows that the fits did not see, nats; None without folds


class Criterion(Protocol):
    """A value to choose fits by. Stateless; its name is that of its column in `Sweep.table()`."""

    @property
    def name(self) -> str: ...

    @property
    def larger_is_better(self) -> bool: ...

    @property
    def needs_folds(self) -> bool:
        """Whether the search has to hold out rows in folds."""
        ...

    def of(self, evidence: Evidence) -> float | None:
        """The value, computed from host numbers; None if the evidence lacks what it needs."""
        ...

"""What every criterion can do: say what a fit is worth."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Evidence(NamedTuple):
    """What is known of a fit to rows of total weight n."""

    log_likelihood: float  # total, nats
    n_parameters: int
    n: float
    entropy: float  # of the responsibilities, total, nats (the soft one: see `entropy`)
    held_out: float | None = None  # mean log-density of rows that the fits did not see, nats; None without folds


class Criterion(Protocol):
    """A figure to choose a fit by. Stateless; its name is the column in which `Sweep.table()` shows it."""

    @property
    def name(self) -> str: ...

    @property
    def larger_is_better(self) -> bool: ...

    @property
    def needs_folds(self) -> bool:
        """Whether the search has to hold rows out."""
        ...

    def of(self, evidence: Evidence) -> float | None:
        """The figure, of host numbers; None where the evidence does not hold what it needs."""
        ...

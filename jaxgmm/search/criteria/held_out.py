"""The held-out log-likelihood (Smyth 2000): larger is better."""

from __future__ import annotations

from dataclasses import dataclass

from ._criterion import Evidence


@dataclass(frozen=True)
class HeldOut:
    """The mean log-density of every row under the fit that has not seen it, nats."""

    name: str = "held_out"
    larger_is_better: bool = True
    needs_folds: bool = True

    def of(self, evidence: Evidence) -> float | None:
        return evidence.held_out


HELD_OUT = HeldOut()

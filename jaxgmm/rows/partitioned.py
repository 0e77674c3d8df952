"""Rows that no one program sees whole: read in blocks, shared out to devices, or lying with other machines.

What all of them have is a sum over the rows of what a function says of some of them as `Batches`. Moments are such a
sum, and nothing else passes between the two steps of EM. So a step here is one sum, made by whoever holds the rows, and
the M-step and the verdict on it, made once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.memory import beside
from . import _check
from .batches import Batches
from .chunks import Scale
from .survey import Survey, T

How = tuple[Callable[..., Any], tuple[tuple[str, Any], ...]]
"""A function of `Batches`, and the values by name that it is compiled for."""


class PartitionedRows(ABC):
    """Rows (N, D), wherever they are. Has what `Batches` have besides the rows themselves."""

    name: str  # what messages call the rows
    dtype: np.dtype
    n_rows: int
    n_features: int
    chunk_size: int
    origin: Array  # (D,)
    total_weight: Array  # ()
    min_weight: Array  # ()
    sample: Batches  # rows that seeds are chosen from
    has_room = False  # as `Batches` of a small table have
    n_copies = 1
    advice = ""  # what a user may do besides giving an array, where the rows must be in one place

    def sum(self, function: Callable[..., T], *shared: Any, **static: Any) -> T:
        """Σ over the rows of function(Batches, *shared, **static), a pytree of arrays.

        Compiled once for one and the same function and static values, whatever the number of rows.
        """
        return self._sum((function, tuple(sorted(static.items()))), shared)

    @abstractmethod
    def _sum(self, how: How, shared: Any) -> Any: ...

    @property
    def scale(self) -> Scale:
        return Scale(self.total_weight, self.min_weight)

    @property
    def is_multiprocess(self) -> bool:
        """Whether other processes have rows of the same table, and go through the same search."""
        return False

    def at_home(self, tree: T) -> T:
        """A tree of arrays on the device of the rows' origin, and bound to it only if that is."""
        return beside(self.origin, tree)

    def whole(self, what: str, why: str) -> Batches:
        """ValueError: `what` was asked needs rows that a program sees whole, for this reason."""
        _check.in_memory(what, why, self.advice)

    def fingerprint(self) -> Any:
        """A tree that tells these rows from others: what a pass has found stands for what is not here."""
        return self.origin, self.total_weight, self.min_weight, self._variances, self.sample

    def variances(self) -> Array:
        """The variance of each feature over the weighted rows. -> (D,)."""
        return jnp.asarray(self._variances, self.dtype)

    def _describe(self, survey: Survey, n_components: int) -> None:
        """Set what a first pass has found. ValueError where too few rows count."""
        _check.some_weight(survey.total_weight, self.name)
        _check.enough_rows(survey.n_weighted, None, n_components)
        self.n_rows = survey.n_rows
        self.sample = Batches.of(*survey.sample(), n_components=n_components, dtype=self.dtype)
        self._variances = survey.scatter / survey.total_weight
        self.origin = jnp.asarray(survey.mean, self.dtype)
        self.total_weight = jnp.asarray(survey.total_weight, self.dtype)
        self.min_weight = jnp.asarray(survey.min_weight, self.dtype)

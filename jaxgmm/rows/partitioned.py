"""Rows that no one program sees whole: read in blocks, sharded over devices, or held by other machines.

All of them can sum a function of `Batches` over their rows, part by part. Moments are such a sum, and nothing else
passes from the E-step to the M-step. So a step here is one sum, computed where the rows are, and then one M-step and
one verdict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.memory import beside
from . import _check, _check_parts
from .batches import Batches
from .chunks import Scale
from .survey import Survey, T
from .units import from_unit

How = tuple[Callable[..., Any], tuple[tuple[str, Any], ...]]
"""A function of `Batches`, and its static arguments by name."""


class PartitionedRows(ABC):
    """Rows (N, D), wherever they are. Has the attributes of `Batches`, except for the rows themselves."""

    name: str  # what messages call the rows
    dtype: np.dtype
    n_rows: int
    n_features: int
    chunk_size: int
    origin: Array  # (D,)
    total_weight: Array  # (), in the unit of `exponent`
    min_weight: Array  # ()
    exponent: int = 0  # weights are kept in units of 2^exponent
    sample: Batches  # rows that seeds are chosen from
    has_room = False  # as `Batches` of a small table have
    in_turn = False
    n_copies = 1
    advice = ""  # for errors that ask for rows in one place: what a user may do besides giving an array

    def sum(self, function: Callable[..., T], *shared: Any, **static: Any) -> T:
        """Σ over the rows of function(Batches, *shared, **static), a pytree of arrays.

        Compiled once for each function and its static values, whatever the number of rows.
        """
        return self._sum((function, tuple(sorted(static.items()))), shared)

    @abstractmethod
    def _sum(self, how: How, shared: Any) -> Any: ...

    @property
    def scale(self) -> Scale:
        return Scale(self.total_weight, self.min_weight)

    @property
    def is_multiprocess(self) -> bool:
        """Whether other processes hold rows of the same table, and run the same search."""
        return False

    def at_home(self, tree: T) -> T:
        """A tree of arrays on the device of the rows' origin, and committed to it only if that is."""
        return beside(self.origin, tree)

    def whole(self, what: str, why: str) -> Batches:
        """ValueError: `what` needs all rows in one program, for the reason `why`."""
        _check.in_memory(what, why, self.advice)

    def fingerprint(self) -> Any:
        """A tree that identifies these rows: the results of the first pass stand for the rows themselves."""
        return self.origin, self.total_weight, self.min_weight, self.exponent, self._variances, self.sample

    def in_users_unit(self, value: Any) -> Any:
        """A sum of weights, or of products with them, in the unit of the user's own weights; on the host in float64."""
        return from_unit(value, self.exponent)

    def variances(self) -> Array:
        """The variance of each feature over the weighted rows. -> (D,)."""
        return jnp.asarray(self._variances, self.dtype)

    def _describe(self, survey: Survey, n_components: int) -> None:
        """Set the attributes that a first pass has found. ValueError where too few rows have positive weight."""
        _check_parts.some_weight(survey.total_weight, self.name)
        _check.enough_rows(survey.n_weighted, None, n_components)
        self.n_rows, self.exponent = survey.n_rows, survey.exponent
        self.sample = Batches.of(*survey.sample(), n_components=n_components, dtype=self.dtype)
        self._variances = survey.scatter / survey.total_weight
        self.origin = jnp.asarray(survey.mean, self.dtype)
        self.total_weight = jnp.asarray(survey.total_weight, self.dtype)
        self.min_weight = jnp.asarray(survey.min_weight, self.dtype)

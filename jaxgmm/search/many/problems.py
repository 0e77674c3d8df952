"""The problems of a call, concatenated in one array."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from ... import em
from ...families import Family
from ...mixture import Mixture
from ...rows.conversion import floating_dtype
from ...rows.units import exponents_of, in_unit
from .. import _check


class Problems(NamedTuple):
    """B tables, concatenated, on the host."""

    rows: np.ndarray  # (ΣN, D)
    weights: np.ndarray | None  # (ΣN,), each problem's in units of 2^exponent
    lengths: np.ndarray  # (B,): N of each
    dtype: np.dtype  # of all computations
    exponents: np.ndarray  # (B,)

    @classmethod
    def of(cls, xs: Any, sample_weight: Any, dtype: Any) -> Problems:
        """From a user's arguments, checked."""
        rows, lengths, dtypes = _check.problems(xs)
        if dtype is None:
            own = xs if isinstance(xs, (list, tuple)) else (xs,)
            is_wide = any(isinstance(x, jax.Array) and x.dtype == np.float64 for x in own)  # float64 is kept
            dtype = np.dtype(np.float64 if is_wide else jax.dtypes.canonicalize_dtype(floating_dtype(dtypes)))
        weights = _check.weights_of_problems(sample_weight, lengths)
        _check.values_of_problems(rows, lengths, dtype, weights)
        exponents = np.zeros(len(lengths), int)
        if weights is not None:
            largest = np.zeros(len(lengths))
            has_rows = lengths > 0
            largest[has_rows] = np.maximum.reduceat(weights, (np.cumsum(lengths) - lengths)[has_rows])
            exponents = exponents_of(largest)
            weights = in_unit(weights, np.repeat(exponents, lengths), dtype)
        return cls(rows, weights, lengths, dtype, exponents)

    def counted(self) -> np.ndarray:
        """The number of rows with positive weight in each problem. -> (B,)."""
        if self.weights is None:
            return self.lengths
        ends = np.cumsum(self.lengths)
        so_far = np.append(0, np.cumsum(self.weights > 0))
        return so_far[ends] - so_far[ends - self.lengths]


class Given(NamedTuple):
    """A user's starts for B problems."""

    mixture: Mixture  # (B, ...); if only means are given, the other parts are placeholders
    parts: np.ndarray  # (3,) bool: whether weights, means and covariances are given


class Common(NamedTuple):
    """Settings that all problems of a call share."""

    family: Family
    settings: em.Settings
    relative_ridge: float
    max_steps: int
    seeding: str | None
    impl: Any  # of the keys

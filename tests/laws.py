"""Over what laws are run.

A law about estimates holds for every family on the shelf. A law about rows, loops, devices, dtypes or files knows no
family: it is run for each kind of second moments, with a family that has a closed form. Where size does not matter,
there are at most 256 rows of 3 features and 3 components, so that tests share programs.
"""

from __future__ import annotations

import numpy as np
import pytest

from jaxgmm import Mixture
from jaxgmm.families import SHELF, Family
from tests.stranger import SharedSpherical

KINDS = {name: SHELF[name] for name in ("full", "tied", "diag", "spherical")}

WITH_STRANGERS = {**SHELF, "a stranger's": SharedSpherical()}

ITERATIVE = {"VEI"}
"""Families whose estimate is an inner iteration, which a step does not run to its last digit."""

every_family = pytest.mark.parametrize("family", SHELF.values(), ids=SHELF)
even_a_strangers = pytest.mark.parametrize("family", WITH_STRANGERS.values(), ids=WITH_STRANGERS)
every_kind = pytest.mark.parametrize("family", KINDS.values(), ids=KINDS)

PAIRS = dict(zip(KINDS, ("float64", "float32", "float32", "float64"), strict=True))

each_kind_in_a_dtype = pytest.mark.parametrize(
    ("family", "dtype"),
    [(KINDS[kind], dtype) for kind, dtype in PAIRS.items()],
    ids=[f"{kind}-{dtype}" for kind, dtype in PAIRS.items()],
    indirect=["dtype"],
)
"""For laws about loops that need programs of their own: each dtype with matrices and without, instead of all pairs."""


def is_closed_under_scaling(family: Family) -> bool:
    """Whether covariances of the family stay in it when each feature gets a unit of its own, by its own projection."""
    factors = np.random.default_rng(0).normal(size=(4, 3, 3))
    inside = _projected(family, factors @ factors.swapaxes(1, 2))
    scaled = inside * np.outer([1.0, 2.0, 4.0], [1.0, 2.0, 4.0])
    return np.allclose(_projected(family, scaled), scaled, rtol=1e-3)


def _projected(family: Family, covariances: np.ndarray) -> np.ndarray:
    mixture = Mixture.create(np.full(4, 0.25), np.zeros((4, 3)), covariances, family)
    return np.asarray(mixture.scales.dense() + np.zeros((4, 1, 1)))

"""Over what laws are run.

A law about estimates holds for every family on the shelf. A law about rows, loops, devices, dtypes or files knows no
family: it is run for each kind of second moments, with a family that has a closed form. Where size does not matter,
there are at most 256 rows of 3 features and 3 components, so that tests share programs.
"""

from __future__ import annotations

import pytest

from jaxgmm.families import SHELF
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

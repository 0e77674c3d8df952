"""How many rows a chunk has, what a fit needs of memory, and whether one form of its steps will do."""

from __future__ import annotations

import jax
import numpy as np

from .._base.programs import Effort, next_power_of_two

SIDE_BY_SIDE = 2**30
"""Bytes that fits side by side may hold, apart from their chunks."""

AT_ONCE = 2**14
"""Responsibilities of a chunk, of one fit or of several side by side, that suit one CPU core: with fewer the overhead
of each operation matters; with more XLA splits operations over several cores, and loses more than it gains."""


ONE_FORM_UP_TO = 8
"""Features up to which a medium search (see `programs.effort`) makes all its steps in the SAFE form. A step then takes
0.7 to 1.8 times as long as in the FAST one (5,000 rows, K = 10), but where clusters lie apart some runs need SAFE
sooner or later, and each family would compile a second program, for longer than its runs take (by hand, Zen 3: see "One
form or two" in `benchmarks/README.md`)."""


def has_one_form(how: Effort, n_features: int) -> bool:
    """Whether a search on a CPU makes all its steps in the SAFE form. how: how its programs are compiled."""
    return how is Effort.BRISK and n_features <= ONE_FORM_UP_TO and jax.default_backend() == "cpu"


def choose_width(n_components: int, n_lanes: int, n_rows: int, bytes_each: int = 0) -> int:
    """How many of `n_lanes` fits run side by side on chunks of `n_rows`: enough for long operations, and no more.

    All lanes wait for the slowest one. What they hold apart from chunks, `bytes_each` per fit, stays under
    SIDE_BY_SIDE, unless there is only one.
    """
    most = int(np.clip(AT_ONCE // (n_components * n_rows), 1, 16)) if jax.default_backend() == "cpu" else 256
    return max(1, min(most, n_lanes, SIDE_BY_SIDE // max(1, bytes_each)))


def chunk_size_in_turn(n_rows: int, n_features: int, itemsize: int) -> int:
    """Rows per chunk where components are taken in turn: all of up to 8192, as long as a component's residuals stay in
    a core's cache, since each turn costs some microseconds. Rounded up to an eighth of a power of two, so that similar
    numbers of rows share programs."""
    most = max(1024, min(8192, 2**18 // (n_features * itemsize)))
    each = -(-n_rows // -(-n_rows // most))
    step = max(64, next_power_of_two(each) // 8)
    return -(-each // step) * step


def bytes_of_fit(n_components: int, n_features: int, itemsize: int, is_diagonal: bool = False) -> int:
    """The most bytes that a fit holds besides rows: moments and covariances, before and after a step; where all
    covariances are diagonal, D numbers for each matrix."""
    return 4 * n_components * n_features ** (1 if is_diagonal else 2) * itemsize


def choose_chunk_size(n_features: int, n_components: int, itemsize: int, n_lanes: int = 1) -> int:
    """Rows per chunk: as many as keep a chunk's K responsibilities and D features in cache, a power of two.

    On CPU about 1.5 MB (half a core's share of the cache), and between 2048 rows, below which the overhead of each
    operation matters, and 8192, above which the cache does. From 1024 with more features than components, whose matrix
    products are long enough; up to 16 kB a column for few components, whose operations are then small enough to stay
    on one core, which is faster than splitting them. 16 MB on GPU (of 50 MB of L2, where larger chunks hide the launch
    of kernels). Several fits with few components run on one core each, with `AT_ONCE` responsibilities; a small table
    then wastes less of its last chunk, too.
    """
    least, largest, budget = 2048, 2**20, 16e6
    if jax.default_backend() == "cpu" and n_lanes > 1 and n_components <= AT_ONCE // 512:
        return min(2048, 1 << (AT_ONCE // n_components).bit_length() - 1)
    if jax.default_backend() == "cpu":
        least = 1024 if n_features > max(24, n_components) else 2048
        largest = 16384 // itemsize if n_components <= 8 else 8192
        budget = 1.5e6
    width = 1 if jax.default_backend() == "cpu" else min(256, n_lanes)
    rows = budget / (itemsize * (width * n_components + 2 * n_features))
    return int(np.clip(2 ** round(np.log2(rows)), least, largest))

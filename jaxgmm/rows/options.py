"""What a user says of rows, and what rows are cut for."""

from __future__ import annotations

from typing import Any, NamedTuple


class RowOptions(NamedTuple):
    """A user's arguments about rows, with the names that public functions give them."""

    sample_weight: Any = None  # (N,)
    chunk_size: int | None = None
    dtype: Any = None
    device: Any = None


class Workload(NamedTuple):
    """The fits that rows are cut for: a chunk and its responsibilities, under all fits side by side, stay in cache."""

    n_components: int
    n_lanes: int = 1  # fits side by side
    n_runs: int | None = None  # of the whole search, if it may count as small; else None
    is_padded: bool = False  # fits with fewer components share their program

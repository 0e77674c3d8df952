"""What a search is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import Array

from .. import em
from .._base import check
from .._base.programs import program
from ..rows.batches import Batches
from ..rows.partitioned import PartitionedRows
from ..rows.replicated import n_devices
from ..rows.sharded import Sharded
from . import _check
from .checkpoint import digest
from .escape import ESCAPES
from .race import Race


def of_search(
    key: Array,
    rows: Batches | PartitionedRows,
    settings: em.Settings,
    search: Search,
    max_steps: int,
    n_restarts: int,
    init: Any,
) -> dict[str, Any]:
    """What a search is of: its result depends on nothing else."""
    start = init if isinstance(init, str) else digest(init)
    shape = {"N": int(rows.n_rows), "D": rows.n_features, "dtype": rows.dtype, "chunk_size": rows.chunk_size}
    how = {"tol": settings.tol, "ridge": digest(settings.ridge), "acceleration": settings.acceleration}
    how |= {"stopping": settings.stopping, "max_steps": max_steps, "n_restarts": n_restarts, "race": search.race}
    if n_devices(rows.origin) > 1:
        how["devices"] = n_devices(rows.origin)
    key_of = digest(jax.random.key_data(key))
    return {"key": key_of, "data": digest(rows.fingerprint()), "init": start, "escape": search.escape, **shape, **how}


def with_others(rows: Batches | PartitionedRows) -> bool:
    """Whether other processes go through the same search, with rows of their own."""
    return isinstance(rows, Sharded) and jax.process_count() > 1


class Search(NamedTuple):
    """What is done besides running every start to its end."""

    race: Race | None = None
    escape: str | None = None

    @classmethod
    def of(cls, race: Any, escape: Any) -> Search:
        """From a user's arguments, checked."""
        if escape is not None:
            check.one_of(escape, ESCAPES, "escape")
        return cls(_check.race(race, Race), escape)


def with_relative_ridge(
    settings: em.Settings, relative_ridge: float, batches: Batches | PartitionedRows
) -> em.Settings:
    """The settings with a ridge (D,) that adds a share of each feature's variance; as they are where that is 0."""
    check.of_features(settings.ridge, batches.n_features)
    if n_devices(batches.origin) > 1:  # an array of one device cannot go with rows on several
        settings = replace(settings, ridge=jax.device_get(settings.ridge))
    if not relative_ridge:
        return settings
    if isinstance(batches, PartitionedRows):
        return replace(settings, ridge=settings.ridge + relative_ridge * batches.variances())
    return replace(settings, ridge=_ridge.compiled(batches.has_room, batches, settings.ridge, relative_ridge))


@program
def _ridge(batches: Batches, ridge: Any, relative: Any) -> Array:
    return ridge + relative * batches.variances()

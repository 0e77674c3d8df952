"""What a search is asked for, checked in one place, whoever asks: `fit`, `sweep`, `fit_many`, the likelihood-ratio test
and the estimator.

Fields bear the names of the public arguments (see `fit`). An argument that a face calls otherwise is refused by the
name that its user wrote: `called` says how, as {"max_steps": "max_iter"}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
from jax import Array

from .. import em
from .._base import check
from .._base.precision import is_traced
from ..families import SHELF, Family
from ..rows.door import admit_rows
from ..rows.rows import Rows
from . import _check
from .checkpoint import describe, digest
from .driver import driver_of
from .escape import ESCAPES
from .progress import Progress
from .race import Race
from .seeding import SEEDINGS


class Search(NamedTuple):
    """How many runs there are, how they begin, and what is done besides running each to its end."""

    n_restarts: int
    init: Any  # the name of a seeding, or a start of the user's own
    max_steps: int
    race: Race | None = None
    escape: str | None = None


class RowOptions(NamedTuple):
    """How rows are taken in."""

    sample_weight: Any = None
    chunk_size: int | None = None
    dtype: Any = None
    device: Any = None


AS_THEY_COME = RowOptions()


@dataclass(frozen=True)
class Plan:
    """A search that may be made: every number is of its type and in its range."""

    counts: tuple[int, ...]  # numbers of components, distinct
    families: tuple[Family, ...]  # of distinct names
    settings: em.Settings
    relative_ridge: float
    search: Search
    rows: RowOptions

    @classmethod
    def of(
        cls,
        n_components: int | Iterable[int],
        families: Any,
        *,
        n_restarts: Any,
        init: Any,
        tol: Any,
        max_steps: Any,
        ridge: Any,
        relative_ridge: Any = 0.0,
        acceleration: Any = None,
        stopping: Any = "gain",
        race: Any = None,
        escape: Any = None,
        rows: RowOptions = AS_THEY_COME,
        called: Mapping[str, str] | None = None,
    ) -> Plan:
        """From a user's arguments. TypeError or ValueError for the first that cannot be used."""

        def name(argument: str) -> str:
            return (called or {}).get(argument, argument)

        several = n_components if isinstance(n_components, (list, tuple)) else (n_components,)
        counts = [check.count(count, name("n_components"), least=1) for count in several]
        chosen = _distinct(families if isinstance(families, (list, tuple)) else (families,))
        n_restarts = check.count(n_restarts, name("n_restarts"), least=1)
        max_steps = check.count(max_steps, name("max_steps"), least=0)
        settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration, stopping=stopping)
        relative_ridge = check.nonnegative(relative_ridge, name("relative_ridge"))
        if escape is not None:
            check.one_of(escape, ESCAPES, name("escape"))
        if isinstance(init, str):
            _check.seeding(init, SEEDINGS)
        else:
            n_restarts = 1  # a given start leaves nothing to chance
        search = Search(n_restarts, init, max_steps, _check.race(race, Race), escape)
        return cls(tuple(dict.fromkeys(counts)), tuple(chosen), settings, relative_ridge, search, rows)

    @property
    def n_components(self) -> int:
        """The largest number of components: what a plan for a single fit is of."""
        return max(self.counts)

    @property
    def family(self) -> Family:
        """The family of a plan for a single fit."""
        return self.families[0]

    @property
    def first_progress(self) -> Progress:
        """What there is to tell before anything is computed."""
        runs = self.search.n_restarts
        return Progress(0, self.search.max_steps, runs, runs, -math.inf)

    def beginning_with(self, init: Any) -> Plan:
        """The same from a start of the user's own, of which there is one run."""
        return replace(self, search=self.search._replace(n_restarts=1, init=init))

    def with_rows(self, rows: RowOptions) -> Plan:
        return replace(self, rows=rows)

    def admit(self, key: Array, x: Any, read: Callable[[int, int], None] | None = None) -> Rows:
        """A user's rows, checked, where and in the chunks in which they will be summed. read: see `admit_rows`."""
        search, of = self.search, self.rows
        is_plain = self.settings.acceleration is None and not is_traced((key, self.settings, search.init))
        n_runs = search.n_restarts * len(self.counts) if is_plain else None
        rows = admit_rows(
            key,
            x,
            of.sample_weight,
            self.n_components,
            search.n_restarts,
            of.chunk_size,
            of.dtype,
            of.device,
            read,
            n_runs,
        )
        if search.escape is not None:
            rows.whole(f"escape={search.escape!r}", "its proposals are made of several passes each")
        return rows

    def for_rows(self, rows: Rows) -> Plan:
        """The plan with the ridge (D,) that its share of each feature's variance over these rows comes to."""
        settings = self.settings
        check.of_features(settings.ridge, rows.n_features)
        if rows.n_copies > 1:  # an array of one device cannot go with rows on several
            settings = replace(settings, ridge=jax.device_get(settings.ridge))
        if self.relative_ridge:
            settings = replace(settings, ridge=driver_of(rows).ridge(settings.ridge, self.relative_ridge))
        return replace(self, settings=settings, relative_ridge=0.0)

    def fingerprint(self, key: Array, rows: Rows) -> dict[str, Any]:
        """What a search with this plan, `for_rows`, depends on, and nothing else: what a checkpoint belongs to."""
        search, settings = self.search, self.settings
        start = search.init if isinstance(search.init, str) else digest(search.init)
        shape = {"N": int(rows.n_rows), "D": rows.n_features, "dtype": rows.dtype, "chunk_size": rows.chunk_size}
        how = {"tol": settings.tol, "ridge": digest(settings.ridge), "acceleration": settings.acceleration}
        how |= {"stopping": settings.stopping, "max_steps": search.max_steps, "n_restarts": search.n_restarts}
        if rows.n_copies > 1:
            how["devices"] = rows.n_copies
        how |= {"race": search.race, "escape": search.escape, "init": start}
        of = {"K": ", ".join(map(str, self.counts)), "families": ", ".join(map(describe, self.families))}
        return {"key": digest(jax.random.key_data(key)), "data": digest(rows.fingerprint()), **of, **shape, **how}


def _distinct(families: Iterable[Any]) -> list[Family]:
    chosen = list(dict.fromkeys(check.family(family, SHELF) for family in families))
    names = [family.name for family in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two different families are called {name!r}; a sweep tells its results apart by name.")
    return chosen

"""The arguments of a search, checked in one place for `fit`, `sweep`, `fit_many`, the likelihood-ratio test and the
estimator.

Fields have the names of the public arguments (see `fit`). If an interface uses other names, errors use those too:
`called` maps ours to theirs, as in {"max_steps": "max_iter"}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .. import em
from .._base import check
from .._base.precision import is_traced
from .._base.processes import together
from .._version import __version__
from ..families import SHELF, Family
from ..rows.door import admit_rows
from ..rows.options import RowOptions, Workload
from ..rows.resolution import cell_variances, rows_to_look_at
from ..rows.rows import Rows
from ..rows.shares import is_sharded
from . import _check
from .driver import driver_of
from .escape import ESCAPES
from .fingerprint import describe, digest
from .progress import Progress
from .race import Race
from .seeding import SEEDINGS

MOST_RESTARTS = 2**31 - 1
"""Programs count runs by an int32."""


class Search(NamedTuple):
    """How many runs there are, how they start, and whether they race or escape."""

    n_restarts: int
    init: Any  # the name of a seeding, or a start of the user's own
    max_steps: int
    race: Race | None = None
    escape: str | None = None
    polish: bool = False  # whether the best runs are run on to their optima


AS_GIVEN = RowOptions()


@dataclass(frozen=True)
class Plan:
    """A valid search: every argument has the right type and range."""

    counts: tuple[int, ...]  # numbers of components, distinct
    families: tuple[Family, ...]  # of distinct names
    settings: em.Settings
    relative_ridge: float
    search: Search
    rows: RowOptions
    of_resolution: bool = False  # whether the ridge is the resolution of the columns, found once the rows are there

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
        polish: Any = False,
        rows: RowOptions = AS_GIVEN,
        called: Mapping[str, str] | None = None,
    ) -> Plan:
        """From a user's arguments. TypeError or ValueError for the first invalid one."""

        def name(argument: str) -> str:
            return (called or {}).get(argument, argument)

        several = n_components if isinstance(n_components, (list, tuple)) else (n_components,)
        counts = [check.count(count, name("n_components"), least=1) for count in several]
        families = families if isinstance(families, (list, tuple)) else (families,)
        chosen = _distinct(families, (called or {}).get("families", ""))
        n_restarts = check.count(n_restarts, name("n_restarts"), least=1, most=MOST_RESTARTS)
        max_steps = check.count(max_steps, name("max_steps"), least=0)
        of_resolution = _check.is_resolution(ridge)
        ridge = 0.0 if of_resolution else ridge
        settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration, stopping=stopping)
        relative_ridge = check.nonnegative(relative_ridge, name("relative_ridge"))
        if escape is not None:
            check.one_of(escape, ESCAPES, name("escape"))
        if isinstance(init, str):
            _check.seeding(init, SEEDINGS)
        else:
            n_restarts = 1  # runs from a given start would all be the same
        polish = check.flag(polish, name("polish"))
        search = Search(n_restarts, init, max_steps, _check.race(race, Race), escape, polish)
        return cls(tuple(dict.fromkeys(counts)), tuple(chosen), settings, relative_ridge, search, rows, of_resolution)

    @property
    def n_components(self) -> int:
        """The largest number of components; for a single fit, its K."""
        return max(self.counts)

    @property
    def family(self) -> Family:
        """The family of a plan for a single fit."""
        return self.families[0]

    @property
    def first_progress(self) -> Progress:
        """The progress before anything is computed."""
        runs = self.search.n_restarts
        return Progress(0, self.search.max_steps, runs, runs, -math.inf)

    def beginning_with(self, init: Any) -> Plan:
        """The same plan with a single run from the user's start."""
        return replace(self, search=self.search._replace(n_restarts=1, init=init))

    def with_rows(self, rows: RowOptions) -> Plan:
        return replace(self, rows=rows)

    def admit(self, key: Array, x: Any, read: Callable[[int, int], None] | None = None) -> Rows:
        """A user's rows, checked, placed on their devices and cut into chunks. read: see `admit_rows`."""
        search = self.search
        is_plain = self.settings.acceleration is None and not is_traced((key, self.settings, search.init))
        n_runs = search.n_restarts * len(self.counts) if is_plain else None
        work = Workload(self.n_components, search.n_restarts, n_runs, len(self.counts) > 1)
        rows = admit_rows(key, x, self.rows, work, read)
        if search.escape is not None:
            rows.whole(f"escape={search.escape!r}", "its proposals are made of several passes each")
        return rows

    def together(self, key: Array, x: Any, call: str, **more: Any) -> AbstractContextManager[None]:
        """A context for the search, entered before the rows are admitted: if their processes search together, they are
        to be asked for the same. call: the public function; more: what it was asked for besides this plan."""
        is_shared = jax.process_count() > 1 and (self.rows.device == "all" or is_sharded(x))
        if not is_shared or is_traced((key, self.settings, self.search.init)):
            return nullcontext()
        search, settings, rows = self.search, self.settings, self.rows
        asked = {"jaxgmm": __version__, "the call": call, "key": np.asarray(jax.random.key_data(key)).tolist()}
        asked |= {"n_components": list(self.counts), "family": ", ".join(map(describe, self.families))}
        asked |= {"init": search.init if isinstance(search.init, str) else digest(search.init)}
        asked |= {"n_restarts": search.n_restarts, "max_steps": search.max_steps, "tol": settings.tol}
        asked |= {"ridge": np.asarray(settings.ridge).tolist(), "relative_ridge": self.relative_ridge}
        asked |= {"acceleration": settings.acceleration, "stopping": settings.stopping, "prior": settings.prior}
        asked |= {"race": search.race, "escape": search.escape, "chunk_size": rows.chunk_size, "device": rows.device}
        asked |= {"sample_weight": "None" if rows.sample_weight is None else "given"}
        asked |= {"dtype": "None" if rows.dtype is None else np.dtype(rows.dtype).name}
        return together({**asked, **more})

    def for_rows(self, rows: Rows) -> Plan:
        """The plan with its ridge (D,) as a number for each feature: the resolution of the columns, if that was asked
        for, and relative_ridge times each feature's variance added to it."""
        settings = self.settings
        if self.of_resolution:
            check.concrete((rows.origin, settings.tol), 'ridge="resolution"')
            ridge = cell_variances(rows_to_look_at(rows)).astype(rows.dtype)
            # A few rows coincide, or lie in a plane, by accident; of D rows the covariance is singular in any case.
            least_share = (rows.n_features + 1.5) / max(int(rows.n_rows), 1)
            settings = replace(settings, ridge=ridge, least_share=np.asarray(least_share, rows.dtype))
        check.of_features(settings.ridge, rows.n_features)
        if rows.n_copies > 1:  # an array on one device cannot be combined with rows on several
            settings = replace(settings, ridge=jax.device_get(settings.ridge))
        if self.relative_ridge:
            settings = replace(settings, ridge=driver_of(rows).ridge(settings.ridge, self.relative_ridge))
        return replace(self, settings=settings, relative_ridge=0.0, of_resolution=False)

    def fingerprint(self, key: Array, rows: Rows) -> dict[str, Any]:
        """All that the results of this plan, made `for_rows`, depend on, and no more: it identifies a checkpoint."""
        search, settings = self.search, self.settings
        start = search.init if isinstance(search.init, str) else digest(search.init)
        shape = {"N": int(rows.n_rows), "D": rows.n_features, "dtype": rows.dtype, "chunk_size": rows.chunk_size}
        how = {"tol": settings.tol, "ridge": digest(settings.ridge), "acceleration": settings.acceleration}
        how |= {"stopping": settings.stopping, "max_steps": search.max_steps, "n_restarts": search.n_restarts}
        if settings.least_share is not None:
            how["floor"] = "resolution"
        if rows.n_copies > 1:
            how["devices"] = rows.n_copies
        how |= {"race": search.race, "escape": search.escape, "init": start}
        how |= {"polish": search.polish}
        what = {"K": ", ".join(map(str, self.counts)), "families": ", ".join(map(describe, self.families))}
        return {"key": digest(jax.random.key_data(key)), "data": digest(rows.fingerprint()), **what, **shape, **how}


def _distinct(families: Iterable[Any], name: str) -> list[Family]:
    chosen = list(dict.fromkeys(check.family(family, SHELF, name) for family in families))
    names = [family.name for family in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two different families are called {name!r}, but a sweep tells its results apart by name. Give one of "
                "them another name."
            )
    return chosen

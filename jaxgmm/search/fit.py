"""Fit a mixture: many starts in one compiled program, and the best of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jax import Array

from .. import em
from .._base import check
from .._base.precision import is_traced, precision_for
from ..families import SHELF, Family
from ..mixture import Mixture
from ..rows.batches import Batches
from ..rows.door import admit_rows, in_blocks
from ..rows.partitioned import PartitionedRows
from ..rows.replicated import at_home, n_devices
from .checkpoint import Checkpoint, kept, told
from .escape import ESCAPES
from .plan import Search, of_search, with_others, with_relative_ridge
from .progress import Progress, Told, listening
from .race import Race, race_to_ends
from .result import FitResult, best, history_length, trimmed
from .start import seeding, start


def fit(
    key: Array,
    x: Any,
    n_components: int,
    family: str | Family = "full",
    *,
    sample_weight: Any = None,
    n_restarts: int = 32,
    init: str | Mixture | Any = "k-means++",
    tol: float = 1e-3,
    max_steps: int = 200,
    ridge: Any = 1e-6,
    relative_ridge: float = 0.0,
    acceleration: str | None = None,
    stopping: str = "gain",
    race: bool | Race = False,
    escape: str | None = None,
    chunk_size: int | None = None,
    dtype: Any = None,
    device: str | None = None,
    progress: bool | Callable[[Progress], None] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
) -> FitResult:
    """Fit a mixture of K Gaussians to rows x (N, D) by EM, from R starts; the best finite objective wins.

    key: a JAX random key. x: an array, or `Batches`; or what is read in blocks, for which memory need only hold a few
    of them: `Blocks`, a `numpy.memmap`, the path of a `.npy` or Parquet file, a dask array or data frame.
    n_components: K. family: a name of `jaxgmm.families.SHELF` or a Family. sample_weight: (N,), on any scale within
    the dtype's range. init: "k-means++", "k-means", "random_rows",
    "random_responsibilities", or a start of your own: a Mixture, means (K, D), integer labels (N,) or
    responsibilities (N, K), from which one run is made. tol: change of the mean log-likelihood (nats) under which a
    run has converged; 0 makes exactly max_steps steps. stopping: "gain", which compares the last step with tol, or
    "aitken", which compares what all steps to come would bring. chunk_size: rows a chunk, chosen by size where None.
    dtype: JAX's rule where None. device: "all" shares the rows out to all devices that JAX has, in all processes, each
    of which gives rows of its own; in one process, where the rows take up to 64 MB and there are as many restarts as
    devices, each device has all rows, and the restarts are shared out. An array that is shared out already is fitted
    where it lies. progress: True for a bar on standard error, or a function that is called with a `Progress` as the fit
    goes. checkpoint: a folder in which the fit is kept every minute (or a `Checkpoint`, which says how often), so that
    the same call goes on after it was killed, to the same bits.

    Covariances: ridge, () or (D,), is added to the diagonal of every one; relative_ridge times a feature's variance
    over the data, too, which does not depend on units. A run with a component that the ridge alone holds up
    (`held_up`) wins only where every run has one.

    Search: race=True lets all starts make a short run and only the best go on; a `Race` says how (see `runs.py`).
    escape="split-merge" then looks for a way out of the optimum that was found (see `escape.py`). acceleration:
    "squarem", "anderson" or "lbfgs" for fewer steps where clusters overlap and tol is below 1e-4 (see
    `acceleration.py`).

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled; after
    that never: `result.status` and `result.restarts` say how it went.
    """
    n_components = check.count(n_components, "n_components", least=1)
    n_restarts = check.count(n_restarts, "n_restarts", least=1)
    max_steps = check.count(max_steps, "max_steps", least=0)
    chosen: Family = check.family(family, SHELF)
    settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration, stopping=stopping)
    relative_ridge = check.nonnegative(relative_ridge, "relative_ridge")
    search, keeping = Search.of(race, escape), Checkpoint.of(checkpoint)
    if isinstance(init, str):
        seeding(init)
    else:
        n_restarts = 1  # a given start leaves nothing to chance
    first = Progress(0, max_steps, n_restarts, n_restarts, -math.inf)
    with listening(progress, first) as listener:
        read = listener and listener.read
        n_runs = None if acceleration or is_traced((key, settings, init)) else n_restarts
        batches = admit_rows(key, x, sample_weight, n_components, n_restarts, chunk_size, dtype, device, read, n_runs)
        in_blocks(batches, escape=search.escape)
        with precision_for(batches.dtype):
            settings = with_relative_ridge(settings, relative_ridge, batches)
            about = partial(of_search, key, batches, settings, search, max_steps, n_restarts, init)
            with kept(keeping, lambda: {"K": n_components, "family": told(chosen), **about()}, with_others(batches)):
                starts = start(key, batches, init, n_components, chosen, settings, n_restarts)
                return drive(starts, batches, settings, max_steps, search, listener, n_components=n_components)


def drive(
    states: em.State,
    batches: Batches | PartitionedRows,
    settings: em.Settings,
    max_steps: int,
    search: Search,
    progress: Callable[[Progress], None] | None = None,
    every: int | None = None,
    n_components: int | None = None,
) -> FitResult:
    """The best of all restarts, run to their ends or raced, and what an escape finds from there; without what pads its
    `n_components`."""

    for name, is_asked in (("race", search.race), ("escape", search.escape), ("progress", progress)):
        if is_asked:
            check.concrete(states, name)

    def watch(runs: Told) -> None:
        assert progress is not None
        progress(Progress.of(runs, max_steps))

    tell = watch if progress else None
    states, histories = race_to_ends(states, batches, settings, max_steps, search.race, watch=tell, every=every)
    result = best(states, histories, settings.ridge, length=history_length(max_steps))
    if isinstance(states.objective, np.ndarray):
        result = at_home(result if n_components is None else trimmed(result, n_components), batches.origin)
    if search.escape is not None:
        assert isinstance(batches, Batches)
        result = ESCAPES[search.escape](result, batches, settings, max_steps, tell)
    return at_home(result, batches.origin) if n_devices(batches.origin) > 1 else result

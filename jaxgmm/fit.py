"""Fit a mixture: many starts in one compiled program, and the best of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _check, _threefry, em, one_by_one, small, spread
from ._precision import is_traced, is_transforming, own, precision_for
from .batches import Batches, bytes_of_fit, cut
from .blocks import Blocks, as_blocks, is_dask
from .checkpoint import Checkpoint, digest, kept, told
from .crews import are_singles, at_home, crews_for, n_devices, on_all_devices
from .escape import ESCAPES
from .families import SHELF, Family, shape_of_scales
from .lanes import for_fits, in_waves
from .maximisation import maximise
from .mixture import Mixture, padded
from .moments import Kind, Moments, projected
from .programs import Effort, components, effort, is_small, program
from .progress import listening
from .runs import ON_HOST, FitResult, Progress, Race, Told, best, history_length, race_to_ends, trimmed
from .seeding import SEEDINGS, by_nearest, from_labels, from_means, from_responsibilities, seeds_from
from .sharded import Sharded, is_shared_out, one_copy, shares_of
from .spread import Spread
from .status import Status
from .stream import Streamed
from .workers import WithWorkers, client_of

T = TypeVar("T")


class Given(NamedTuple):
    """What the user fixes of a start. It replaces what the seeding's M-step would say, as given."""

    log_weights: Array | None = None  # (K,)
    means: Array | None = None  # (K, D)
    scales: Any = None  # a Covariance

    def whole(self, family: Family) -> Mixture | None:
        """The mixture itself, where nothing is left to a seeding."""
        if self.log_weights is None or self.means is None or self.scales is None:
            return None
        return Mixture(self.log_weights, self.means, self.scales, family)

    def fixed(self, family: Family, n_components: int, room: int, batches: Batches) -> em.Fixed:
        """What is given of a mixture of K components, on the host and with `room` for so many; 0 for what is not."""
        shape, dtype = (n_components, batches.n_features), batches.dtype
        of_scales = shape_of_scales(family, *shape, dtype)
        nothing: Any = (
            np.zeros(shape[0], dtype),
            np.zeros(shape, dtype),
            jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), of_scales),
        )
        parts = [part if part is not None else none for part, none in zip(self, nothing, strict=True)]
        return em.Fixed(padded(Mixture(*parts, family), room), np.array([part is not None for part in self]))  # pyright: ignore

    def onto(self, mixture: Mixture) -> Mixture:
        """The mixture with what is given in its place."""
        return replace(mixture, **{name: value for name, value in self._asdict().items() if value is not None})


NOTHING_GIVEN = Given()

ON_EACH = 2**26
"""Bytes of rows up to which every device may have them all: then restarts are shared out, and none waits for others."""


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
    n_components = _check.count(n_components, "n_components", least=1)
    n_restarts = _check.count(n_restarts, "n_restarts", least=1)
    max_steps = _check.count(max_steps, "max_steps", least=0)
    chosen: Family = _check.family(family, SHELF)
    settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration, stopping=stopping)
    relative_ridge = _check.nonnegative(relative_ridge, "relative_ridge")
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


def of_search(
    key: Array,
    rows: Batches | Spread,
    settings: em.Settings,
    search: Search,
    max_steps: int,
    n_restarts: int,
    init: Any,
) -> dict[str, Any]:
    """What a search is of: its result depends on nothing else."""
    start = init if isinstance(init, str) else digest(init)
    whole: Any = rows
    if isinstance(rows, Spread):  # what a pass has found stands for what is not here
        whole = (rows.origin, rows.total, rows.lightest, rows._variances, rows.sample)
    shape = {"N": int(rows.n_rows), "D": rows.n_features, "dtype": rows.dtype, "chunk_size": rows.chunk_size}
    how = {"tol": settings.tol, "ridge": digest(settings.ridge), "acceleration": settings.acceleration}
    how |= {"stopping": settings.stopping, "max_steps": max_steps, "n_restarts": n_restarts, "race": search.race}
    if n_devices(rows.origin) > 1:
        how["devices"] = n_devices(rows.origin)
    key_of = digest(jax.random.key_data(key))
    return {"key": key_of, "data": digest(whole), "init": start, "escape": search.escape, **shape, **how}


def with_others(rows: Batches | Spread) -> bool:
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
            _check.one_of(escape, ESCAPES, "escape")
        return cls(_check.race(race, Race), escape)


def with_relative_ridge(settings: em.Settings, relative_ridge: float, batches: Batches | Spread) -> em.Settings:
    """The settings with a ridge (D,) that adds a share of each feature's variance; as they are where that is 0."""
    _check.of_features(settings.ridge, batches.n_features)
    if n_devices(batches.origin) > 1:  # an array of one device cannot go with rows on several
        settings = replace(settings, ridge=jax.device_get(settings.ridge))
    if not relative_ridge:
        return settings
    if isinstance(batches, Spread):
        return replace(settings, ridge=settings.ridge + relative_ridge * batches.variances())
    return replace(settings, ridge=_ridge.compiled(batches.has_room, batches, settings.ridge, relative_ridge))


def seeding(name: str) -> str:
    """The name of a seeding. ValueError where there is none of that name."""
    if name not in SEEDINGS:
        raise ValueError(
            f"Unknown init {name!r}. Expected one of {', '.join(map(repr, SEEDINGS))}, or a start of your own."
        )
    return name


def admit_rows(
    key: Array,
    x: Any,
    sample_weight: Any,
    n_components: int,
    n_lanes: int,
    chunk_size: int | None,
    dtype: Any,
    device: str | None = None,
    read: Callable[[int, int], None] | None = None,
    n_runs: int | None = None,
) -> Batches | Spread:
    """The user's data, checked: as batches, or, of what is read in blocks, after a pass over it, in which the key draws
    the rows that seeds are chosen from. read: who is told of the rows that were read, in this pass and in all later
    ones. n_runs: as for `admit`."""
    everywhere = _check.devices(device)
    client = client_of() if is_dask(x) else None
    blocks = None if client is not None else as_blocks(x, sample_weight)
    if isinstance(x, Batches) and everywhere:
        _check.in_memory("device='all'", "Batches lie on one device")
    if blocks is None and client is None and not (everywhere or is_shared_out(x)):
        return admit(x, sample_weight, n_components, n_lanes, chunk_size, dtype, n_runs)
    chunk_size = _check.chunk_size(chunk_size)
    dtype = None if dtype is None else _check.floating_dtype((), dtype)
    if everywhere and (blocks is not None or client is not None):
        _check.in_memory("device='all'", "blocks and partitions are each read for one device")
    if client is not None:
        return WithWorkers(key, x, sample_weight, client, n_components, chunk_size, dtype)
    if blocks is not None:
        return Streamed(key, blocks, n_components, chunk_size, dtype, read)
    if is_shared_out(x) or jax.process_count() > 1:
        return Sharded(key, *shares_of(x, sample_weight), n_components, chunk_size, dtype)
    return _admit_here(key, x, sample_weight, n_components, n_lanes, chunk_size, dtype)


def _admit_here(
    key: Array, x: Any, sample_weight: Any, n_components: int, n_lanes: int, chunk_size: int | None, dtype: Any
) -> Batches | Spread:
    """Rows for all devices of this process, the only one: each has a share, or all rows and a share of the lanes."""
    x, n_own = _check.observations(one_copy(x), "x"), len(jax.local_devices())
    n_bytes = x.size * _dtype_of(x, dtype).itemsize
    if n_own == 1 or (n_own <= n_lanes and n_bytes <= ON_EACH):
        if isinstance(sample_weight, jax.Array) and not is_traced(sample_weight):
            sample_weight = np.asarray(sample_weight)  # it may lie on another device than the rows
        batches = admit(x, sample_weight, n_components, n_lanes, chunk_size, dtype)
        return batches if n_own == 1 else on_all_devices(batches)
    return Sharded(key, *shares_of(x, sample_weight), n_components, chunk_size, dtype)


def _dtype_of(x: Any, dtype: Any) -> np.dtype:
    """In which rows are computed."""
    return np.dtype(jax.dtypes.canonicalize_dtype(_check.floating_dtype((x,))) if dtype is None else dtype)


def admit(
    x: Any,
    sample_weight: Any,
    n_components: int,
    n_lanes: int,
    chunk_size: int | None,
    dtype: Any,
    n_runs: int | None = None,
) -> Batches:
    """The user's data, checked, as batches. n_runs: of a search that may be a small one; None where it may not."""
    if isinstance(x, Blocks):
        _check.in_memory("This", "it takes Blocks in fit and sweep alone")
    chunk_size = _check.chunk_size(chunk_size)
    dtype = None if dtype is None else _check.floating_dtype((), dtype)
    if isinstance(x, Batches):
        for name, value in (("sample_weight", sample_weight), ("chunk_size", chunk_size)):
            if value is not None:
                raise ValueError(f"Batches carry their own weights and chunks: give {name} to Batches.of instead.")
        if dtype is not None:
            _check.same_dtype(x.dtype, dtype)
        if not is_traced(x):
            _check.enough_rows(int(x.n_rows), None, n_components)
        return x
    x = _check.observations(x, "x")
    sample_weight = _check.row_weights(sample_weight, len(x))
    _check.finite(x, "x", sample_weight)
    _check.within(x, _dtype_of(x, dtype), "x", sample_weight)
    _check.enough_rows(len(x), sample_weight, n_components)
    if chunk_size is None and n_runs is not None and have_room(x, sample_weight, n_components, n_runs):
        return Batches.with_room(x, sample_weight, _dtype_of(x, dtype))
    return Batches.of(x, sample_weight, chunk_size, n_components=n_components, n_lanes=n_lanes, dtype=dtype)


def have_room(x: Any, sample_weight: Any, n_components: int, n_runs: int) -> bool:
    """Whether rows are those of a small search, known, and on one CPU."""
    if is_transforming() or not is_small(*x.shape, n_components, n_runs):  # pyright: ignore
        return False
    arrays = [each for each in (x, sample_weight) if isinstance(each, jax.Array)]
    return all([one.platform for one in each.devices()] == ["cpu"] for each in arrays)


def in_blocks(batches: Batches | Spread, escape: str | None = None, n_folds: int = 0) -> None:
    """ValueError for what cannot be had of rows that are read in blocks."""
    if isinstance(batches, Spread):
        how = ""
        if isinstance(batches, Sharded):
            how = f" Or give device='all' as many restarts as devices, and no more than {ON_EACH >> 20} MB of rows."
        if escape is not None:
            _check.in_memory(f"escape={escape!r}", "its proposals are made of several passes each", how)
        if n_folds:
            _check.in_memory("n_folds", "a fold is a weight of 0 for every row of the others", how)


def start(
    key: Array,
    batches: Batches | Spread,
    init: Any,
    n_components: int,
    family: Family,
    settings: em.Settings,
    n_restarts: int,
    given: Given = NOTHING_GIVEN,
) -> em.State:
    """The states (R, ...) that the restarts begin with."""
    if isinstance(batches, Batches) and batches.has_room:
        return _start_small(key, batches, init, n_components, family, settings, n_restarts, given)
    if isinstance(init, str):
        counts = np.full(n_restarts, n_components, np.int32)
        prepare([family], n_components, batches, settings, n_restarts)
        seeds = seeds_of(pairs_of_keys(key, n_restarts), counts, batches, seeding=init, n_components=n_components)
        if given == NOTHING_GIVEN and may_begin_later(seeds, batches, settings):
            return not_begun(seeds, counts, nearest_to(seeds, counts, batches, family.kind), family)
        return begin(seeds, counts, batches, settings.ridge, given, family=family)
    mixture = mixture_from(init, batches, n_components, family, settings)
    if isinstance(batches, Spread):
        states = spread.init_lanes(_one_lane(given.onto(mixture)), batches)
        return (
            states
            if isinstance(init, Mixture)
            else _lost_each(states, _one_lane(mixture), np.array([n_components], np.int32))
        )
    state = em.init(given.onto(mixture), batches)
    if not isinstance(init, Mixture):  # there a weight of 0 is the user's own
        state = _lost_if_empty(state, mixture, n_components)
    return _one_lane(state)


def _start_small(
    key: Array,
    batches: Batches,
    init: Any,
    n_components: int,
    family: Family,
    settings: em.Settings,
    n_restarts: int,
    given: Given,
) -> em.State:
    """`start` for few rows: what begins has made its first M-step through the program that makes all later ones."""
    room = components(n_components)
    if isinstance(init, str):
        counts = np.full(n_restarts, n_components, np.int32)
        keys = pairs_of_keys(key, n_restarts)
        seeds = seeds_of(keys, counts, batches, seeding=init, n_components=room)
        states = small.from_seeds(seeds, counts, batches, family)  # pyright: ignore
    elif isinstance(init, Mixture):
        given = Given(*em.mixture_parts(given.onto(mixture_from(init, batches, n_components, family, settings))))
        states = small.from_nothing(room, batches, family)
    else:
        values = _own_start(init, batches, n_components)
        if values.shape == (n_components, batches.n_features):
            given = Given(None, values, None)._replace(**{k: v for k, v in given._asdict().items() if v is not None})  # pyright: ignore
            values = small.nearest(values, batches)
        states = small.from_responsibilities(values, room, batches, family)
    fixed = given.fixed(family, n_components, room, batches)
    histories = np.empty((len(states.objective), 1), batches.dtype)
    return one_by_one.run(states, histories, batches, settings, 0, fixed)[0]


def _own_start(init: Any, batches: Batches, n_components: int) -> np.ndarray:
    """A start of the user's own, checked, on the host: means (K, D), or responsibilities (N, K), of labels too."""
    values, n_rows = np.asarray(init), int(batches.n_rows)
    if values.ndim == 1:
        labels = np.asarray(_check.labels(values, n_rows, n_components))
        return (labels[:, None] == np.arange(n_components)).astype(batches.dtype)
    if values.shape == (n_components, batches.n_features):
        _check.finite(values, "init")
        return values.astype(batches.dtype)
    return np.asarray(_check.responsibilities(values, n_rows, n_components))


def _one_lane(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def mixture_from(
    init: Any, batches: Batches | Spread, n_components: int, family: Family, settings: em.Settings
) -> Mixture:
    """The mixture that a start of the user's own stands for."""
    if isinstance(init, Mixture):
        if init.family != family or init.n_components != n_components:
            raise ValueError(
                f"init is a mixture of {init.n_components} components of family {init.family.name!r}; "
                f"{n_components} of family {family.name!r} were asked for."
            )
        return jax.tree.map(lambda leaf: leaf.astype(batches.dtype), init)
    values = init if isinstance(init, jax.Array) else np.asarray(init)
    n_rows = len(values) if is_traced(batches) else int(batches.n_rows)
    if isinstance(batches, Spread) and values.shape != (n_components, batches.n_features):
        _check.in_memory(
            f"A start of shape {values.shape}",
            f"for rows that are not held as one array give means ({n_components}, {batches.n_features}) or a Mixture",
        )
    if values.ndim == 1:
        values = _check.labels(values, n_rows, n_components)
        chunked = cut(values, batches.chunk_size, np.int32, pad_with_zero=True)
        return _from_labels(chunked, batches, settings.ridge, n_components=n_components, family=family)
    if values.shape == (n_components, batches.n_features):
        _check.finite(values, "init")
        means = own(values, batches.dtype)
        if isinstance(batches, Spread):
            lanes = spread.mixtures_from(
                means[None], np.array([n_components], np.int32), batches, family, settings.ridge
            )
            mixture = jax.tree.map(lambda leaf: leaf[0], lanes)
        else:
            mixture = _from_means(means, batches, family=family, ridge=settings.ridge)
        # What is given stands as given; weights and covariances are the M-step's.
        return Mixture(mixture.log_weights, means, mixture.scales, family)
    values = _check.responsibilities(values, n_rows, n_components)
    chunked = cut(values, batches.chunk_size, batches.dtype, pad_with_zero=True)
    return _from_responsibilities(chunked, batches, family=family, ridge=settings.ridge)


def drive(
    states: em.State,
    batches: Batches | Spread,
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
            _check.concrete(states, name)

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


@program
def _ridge(batches: Batches, ridge: Any, relative: Any) -> Array:
    return ridge + relative * batches.variances()


def pairs_of_keys(key: Array, n_restarts: int) -> Array:
    """A pair of keys for each run, (R, 2)."""
    if is_transforming() or not _threefry.speaks(key):
        return jax.random.split(key, (n_restarts, 2))
    split = _threefry.split(np.asarray(jax.random.key_data(key)), (n_restarts, 2))
    return jax.random.wrap_key_data(split, impl=jax.random.key_impl(key))  # pyright: ignore


def seeds_of(keys: Array, counts: Any, batches: Batches | Spread, *, seeding: str, n_components: int) -> Array:
    """Seeds (R, K, D), of each of which the first of `counts` (R,) are meant: a program that all families share.

    keys (R, 2): a pair for each, so that no program need split them.
    """
    if isinstance(batches, Spread):
        batches = batches.sample
    if small.are_on_host(keys, counts, batches):
        return small.seeds(np.asarray(jax.random.key_data(keys)), counts, batches, seeding, n_components)  # pyright: ignore
    lanes = jax.random.key_data(keys), counts
    how = {"impl": jax.random.key_impl(keys), "seeding": seeding, "n_components": n_components}
    if is_traced(lanes):
        return _seeds_of(lanes, batches, **how)
    how_well = Effort.HURRIED if batches.has_room else effort(int(batches.n_rows), n_components, len(counts))
    program = _seeds_of.at(how_well)
    return crews_for(len(counts), n_components, batches).each(program, lanes, batches, **how)


@program(static=("impl", "seeding", "n_components"))
def _seeds_of(lanes: tuple[Array, Array], batches: Batches, *, impl: Any, seeding: str, n_components: int) -> Array:
    return in_waves(
        lambda lane: seeds_from(jax.random.wrap_key_data(lane[0], impl=impl), batches, seeding, n_components, lane[1]),
        lanes,
        n_components,
        batches.chunk_size,
    )


def nearest_to(seeds: Array, counts: Any, batches: Batches | Spread, kind: Kind) -> Moments:
    """Moments (R, ...) about seeds (R, K, D) of the rows nearest to each of the first `counts` (R,) of them."""
    if isinstance(batches, Spread):
        return spread.nearest_to_partitioned(seeds, counts, batches, kind)
    how = effort(int(batches.n_rows), seeds.shape[1], len(seeds))
    return _by_crews(_nearest_to.at(how), (seeds, counts), batches, kind=kind)


def begin(
    seeds: Array,
    counts: Any,
    batches: Batches | Spread,
    ridge: Any,
    given: Given,
    *,
    family: Family,
    nearest: Moments | None = None,
) -> em.State:
    """The states (R, ...) after one M-step from the rows nearest to each seed; past its count a lane has weight 0.

    nearest: `nearest_to` of kind `FULL`, from which that of any family follows, where it is known.
    """
    if isinstance(batches, Spread):
        mixtures = spread.mixtures_from(seeds, counts, batches, family, ridge, nearest)
        return _lost_each(spread.init_lanes(jax.vmap(given.onto)(mixtures), batches), mixtures, counts)
    return _by_crews(_begin, (seeds, counts, nearest), batches, ridge, given, family=family)


def prepare(
    families: Sequence[Family], n_components: int, batches: Batches | Spread, settings: em.Settings, n_runs: int
) -> None:
    """Compile the programs of the steps while seeds are sought, where runs are made one by one."""
    if not isinstance(batches, Batches) or settings.acceleration or is_traced(settings) or is_transforming():
        return
    if n_devices(batches.origin) == 1 and are_singles(n_runs, n_components, batches):
        one_by_one.prepare(families, n_components, batches, settings, n_runs)


def may_begin_later(seeds: Array, batches: Batches | Spread, settings: em.Settings) -> bool:
    """Whether a run's first M-step may be left to the program that makes all others, which then needs none before."""
    if not isinstance(batches, Batches) or settings.acceleration or is_traced((seeds, settings)) or is_transforming():
        return False
    return seeds.size * seeds.shape[-1] <= ON_HOST and n_devices(batches.origin) == 1


def not_begun(seeds: Array, counts: Any, moments: Moments, family: Family) -> em.State:
    """Runs (R, ...) that have not begun, from `nearest_to` of the family's kind."""
    seeds_, moments = jax.device_get((seeds, moments))
    return em.unstarted(seeds_, np.arange(seeds.shape[1]) < np.asarray(counts)[:, None], moments, family)


def _by_crews(program: Callable[..., T], lanes: tuple[Any, ...], batches: Batches, *shared: Any, **static: Any) -> T:
    """program(lanes, batches, *shared, **static) of lanes of which the first are seeds (R, K, D)."""
    if is_traced((lanes, shared)):
        return program(lanes, batches, *shared, **static)
    n_lanes, n_components, n_features = lanes[0].shape
    each = bytes_of_fit(n_components, n_features, batches.dtype.itemsize)
    return crews_for(n_lanes, n_components, batches, each).each(program, lanes, batches, *shared, **static)


@program(static="kind")
def _nearest_to(lanes: tuple[Array, Array], batches: Batches, *, kind: Kind) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return by_nearest(kind, lane[0], batches, lane[1])

    return for_fits(one, lanes, lanes[0].shape, batches)


@program(static="family")
def _begin(
    lanes: tuple[Array, Array, Moments | None], batches: Batches, ridge: Any, given: Given, *, family: Family
) -> em.State:
    def one(lane: tuple[Array, Array, Moments | None]) -> em.State:
        seeds, count, known = lane
        moments = projected(known, family.kind) if known else by_nearest(family.kind, seeds, batches, count)
        mixture = maximise(moments, seeds, family, None, ridge)
        return _lost_if_empty(em.init(given.onto(mixture), batches), mixture, count)

    return for_fits(one, lanes, lanes[0].shape, batches)


def _lost_if_empty(state: em.State, seeded: Mixture, count: Array | int) -> em.State:
    """A seed without rows can never get any: such a run has lost before it began."""
    is_meant = jnp.arange(seeded.n_components) < count
    empty = jnp.any((seeded.log_weights == -jnp.inf) & is_meant)
    return state._replace(status=jnp.where(empty, Status.COLLAPSED, state.status).astype(jnp.int32))


_lost_each = program(jax.vmap(_lost_if_empty), hurried=True)
_from_means = program(from_means, static="family")
_from_responsibilities = program(from_responsibilities, static="family")


@program(static=("n_components", "family"))
def _from_labels(labels: Any, batches: Batches, ridge: Any, *, n_components: int, family: Family) -> Mixture:
    return from_labels(labels, n_components, batches, family, ridge)

"""Many small problems, one model each: all of them through one pair of programs.

A problem's runs are lanes: so many rows, a start, and their own number of steps. A program takes a slab of lanes, of a
size that depends on no number of the caller's, and steps a few at a time side by side. Every lane of a slab begins at
once and makes one step a round, so that all that go on have made as many; after every few rounds those that have ended
are sorted behind the others, and only as many stacks of lanes are stepped as still hold one that goes on. So a slot
never waits long for a slow neighbour, and nothing is scattered.

One program draws the seeds and assigns rows to them; the other makes the first M-step and all later ones. Both are
compiled at the same time, on a core each. Steps are in the SAFE form, which is right for every problem whatever its
neighbours are: FAST would save a third of a step, but a single lane for which it is wrong would call for another
program. The choice between a problem's restarts is NumPy's.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import _check, _threefry, em
from ._precision import aligned_zeros, is_traced, is_transforming, precision_for
from .batches import AT_ONCE, Batches, Chunked
from .covariances import Form
from .crews import at_once, n_cores
from .families import SHELF, Family, shape_of_scales
from .fit import seeding
from .lanes import side_by_side
from .mixture import Mixture
from .moments import Moments
from .programs import Effort, next_power_of_two, program
from .progress import Count, Listener, listening
from .runs import HELD_UP, HISTORY, FitResult, Restarts, held_up
from .seeding import by_nearest, seeds_from
from .status import FAILED, Status

STACKS = 128
"""Stacks of lanes in a slab. While the last lane of a slab goes on alone, a whole stack is stepped for it: some hundred
steps, which many stacks make a small part of the work."""

SIDE_BY_SIDE = 64
"""Lanes of a stack at most. Of problems of a few hundred rows 8 take a step almost as fast as 64, each."""

SLAB_BYTES = 2**24
"""Bytes that the rows of a slab take, about: the memory of a call beside the data is some times that for each core."""

LINE = 32
"""Rounds after which a stack is looked at again, at most; and so many objectives are written at a time."""

MOST_STEPS = 2**24
"""Steps of a run at most: so many a float32 counts exactly, as which they are kept beside the state."""

IN_ONE_CHUNK = 8192
"""Rows of a problem up to which they are one chunk; longer ones are cut into chunks of a quarter of that."""

WORTH_A_PROGRAM = 2**22
"""Responsibilities of a step of all problems of a bucket up to which they join the next larger one, and up to which its
programs are compiled in a hurry: all steps then take less time than to compile them, or to compile them well. For two
components and 320 rows that is 6,500 runs."""

WORTH_COMPILING_WELL = 2**26
"""As many up to which those of larger buckets are compiled briskly: that takes a second less, and the steps of
some 2**23 of them a tenth of a second longer."""

WORTH_A_THREAD = 2**17
"""Responsibilities of a step of all lanes from which on a second thread is felt."""

HISTORIES = 2**26
"""Objectives that are kept of all restarts of all problems together."""

LOOKED_AT = 64
"""Mixtures that are asked at a time whether a component stands on the ridge."""


def fit_many(
    key: Array,
    xs: Any,
    n_components: int,
    family: str | Family = "full",
    *,
    sample_weight: Any = None,
    n_restarts: int = 1,
    init: str | Mixture | Any = "k-means++",
    tol: float = 1e-3,
    max_steps: int = 200,
    ridge: Any = 1e-6,
    relative_ridge: float = 0.0,
    stopping: str = "gain",
    dtype: Any = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> FitResult:
    """Fit a mixture of K Gaussians to each of B small problems by EM, from R starts each, through two programs.

    key: a JAX random key. xs: an array (B, N, D), or a sequence of B arrays (N, D) of one D and any N, held in memory.
    sample_weight: (B, N), or a sequence of B arrays (N,). init: the name of a seeding, as for `fit`, or of your own
    means (B, K, D) or a stack of mixtures, from which one run is made for each. relative_ridge times a feature's
    variance over the problem's own rows is added to `ridge`. progress: True for a bar on standard error, or a function
    that is called with (done, B) as problems are done. Everything else as for `fit`.

    -> one `FitResult` whose leaves have a leading axis of problems, in the order given: objective, status and n_steps
    (B,), means (B, K, D), history (B, max_steps + 1), restarts (B, R). `result[b]` is that of problem b: what
    `fit(jax.random.fold_in(key, b), xs[b], ...)` finds, up to rounding and whatever else was in the call. Objectives
    are nats per unit of weight. Of long histories as many steps are kept as 2**26 numbers in all allow.

    How a problem ends is its status, and harms no other. One with fewer rows of positive weight than components is
    COLLAPSED from the start, and its mixture and objective are NaN. Ctrl-C ends the work with what is done: the others
    come back as RUNNING, with NaN, and there is a warning.

    Problems of about as many rows share programs, which depend on D, K and the family, and not on B or R; where there
    is little to do they are compiled in a hurry.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled; values that
    are not finite are named by problem, row and column.
    """
    n_components = _check.count(n_components, "n_components", least=1)
    n_restarts = _check.count(n_restarts, "n_restarts", least=1)
    max_steps = min(_check.count(max_steps, "max_steps", least=0), MOST_STEPS)
    chosen: Family = _check.family(family, SHELF)
    settings = em.Settings(tol=tol, ridge=ridge, stopping=stopping)
    relative_ridge = _check.nonnegative(relative_ridge, "relative_ridge")
    dtype = None if dtype is None else _check.floating_dtype((), dtype)
    if isinstance(init, str):
        seeding(init)
    else:
        n_restarts = 1
    if is_traced((key, xs, sample_weight, settings, init)) or is_transforming():
        _check.concrete((key, xs, sample_weight, settings, init), "fit_many")
    problems = Problems.of(xs, sample_weight, dtype)
    shape = (len(problems.lengths), n_components, problems.rows.shape[1])
    given = None if isinstance(init, str) else _given(init, chosen, shape, problems.dtype)
    _check.of_features(settings.ridge, shape[2])
    tell = (lambda now: progress(now.n_done, now.n_parts)) if callable(progress) else progress
    _check.progress(progress)
    with precision_for(problems.dtype), listening(tell, None) as listener:
        keys = _pairs_of_keys(key, len(problems.lengths), n_restarts)
        impl = jax.random.key_impl(key)
        how = _How(chosen, settings, relative_ridge, max_steps, None if given else str(init), impl)
        work = _Work(problems, keys, given, how, n_components, n_restarts, listener)
        work.run()
        if work.n_done < len(problems.lengths):
            if not work.n_done:
                raise KeyboardInterrupt
            warnings.warn(
                f"fit_many was interrupted: of {len(problems.lengths)} problems {work.n_done} are done. The others "
                "come back with status RUNNING, and NaN.",
                stacklevel=2,
            )
        return work.found.result()


class Problems(NamedTuple):
    """B tables, one below the other, on the host."""

    rows: np.ndarray  # (ΣN, D)
    weights: np.ndarray | None  # (ΣN,)
    lengths: np.ndarray  # (B,): N of each
    dtype: np.dtype  # in which is computed

    @classmethod
    def of(cls, xs: Any, sample_weight: Any, dtype: Any) -> Problems:
        """A user's, checked."""
        rows, lengths, dtypes = _check.problems(xs)
        if dtype is None:
            own = xs if isinstance(xs, (list, tuple)) else (xs,)
            is_wide = any(isinstance(x, jax.Array) and x.dtype == np.float64 for x in own)  # such an array keeps it
            dtype = np.dtype(np.float64 if is_wide else jax.dtypes.canonicalize_dtype(_check.floating_dtype(dtypes)))
        weights = _check.weights_of_problems(sample_weight, lengths)
        _check.values_of_problems(rows, lengths, dtype, weights)
        return cls(rows, weights, lengths, dtype)

    def counted(self) -> np.ndarray:
        """How many rows of each problem are of positive weight. -> (B,)."""
        if self.weights is None:
            return self.lengths
        ends = np.cumsum(self.lengths)
        so_far = np.append(0, np.cumsum(self.weights > 0))
        return so_far[ends] - so_far[ends - self.lengths]


class _Given(NamedTuple):
    """Starts of the user's own, of B problems."""

    mixture: Mixture  # (B, ...); of means alone, with what is not looked at in the place of the rest
    parts: np.ndarray  # (3,) bool: whether weights, means and covariances stand as they are


def _given(init: Any, family: Family, shape: tuple[int, int, int], dtype: np.dtype) -> _Given:
    if isinstance(init, Mixture):
        _check.mixtures_of_problems(init, family, shape)
        return _Given(jax.tree.map(lambda leaf: np.asarray(leaf, dtype), init), np.ones(3, bool))
    means = _check.starts_of_problems(init, shape).astype(dtype)
    like = shape_of_scales(family, *shape[1:], dtype)
    scales = jax.tree.map(lambda leaf: np.zeros((shape[0], *leaf.shape), dtype), like)
    return _Given(Mixture(np.zeros(shape[:2], dtype), means, scales, family), np.array([False, True, False]))  # pyright: ignore


def _pairs_of_keys(key: Array, n_problems: int, n_restarts: int) -> np.ndarray:
    """A pair of keys for each run, as numbers: those that `fit` would make of `fold_in(key, b)`. -> (B, R, 2, ·)."""
    if _threefry.speaks(key):
        of_each = _threefry.fold_in(np.asarray(jax.random.key_data(key)), np.arange(n_problems))
        return _threefry.split(of_each, (n_restarts, 2))
    of_each = jax.vmap(lambda b: jax.random.split(jax.random.fold_in(key, b), (n_restarts, 2)))(jnp.arange(n_problems))
    return np.asarray(jax.random.key_data(of_each))


class _How(NamedTuple):
    """What all problems of a call have in common."""

    family: Family
    settings: em.Settings
    relative_ridge: float
    max_steps: int
    seeding: str | None
    impl: Any  # of the keys


class _Unit(NamedTuple):
    """Problems that are done together."""

    problems: np.ndarray
    n_rows: int  # for which there is room
    effort: Effort


class _Work:
    """Problems, cut into units; whoever has time takes the next one."""

    def __init__(
        self,
        problems: Problems,
        keys: np.ndarray,
        given: _Given | None,
        how: _How,
        n_components: int,
        n_restarts: int,
        listener: Listener | None,
    ) -> None:
        self.problems, self.keys, self.given, self.how = problems, keys, given, how
        self.n_components, self.n_restarts, self.listener = n_components, n_restarts, listener
        self.first_row = np.cumsum(problems.lengths) - problems.lengths
        n_problems, n_features = len(problems.lengths), problems.rows.shape[1]
        kept = max(1, HISTORIES // (n_problems * n_restarts))
        self.length = min(how.max_steps + 1, HISTORY, kept)
        self.capacity = min(next_power_of_two(how.max_steps + 1), HISTORY)
        self.found = _Found.of(
            how.family, n_problems, n_restarts, n_components, n_features, self.length, problems.dtype
        )
        fits = problems.counted() >= n_components
        self.found.status[~fits] = self.found.run_status[~fits] = Status.COLLAPSED
        self.n_done, self.is_stopped, self.lock = int(np.sum(~fits)), False, threading.Lock()
        work = int(problems.lengths[fits].sum()) * n_components * n_restarts
        is_alone = jax.config.jax_disable_jit or not jax.sharding.get_abstract_mesh().empty  # pyright: ignore
        alone = is_alone or jax.default_backend() != "cpu"
        self.n_threads = 1 if alone else max(1, min(n_cores(), work // WORTH_A_THREAD))
        self.units = self._cut(np.flatnonzero(fits))[::-1]

    def _cut(self, those: np.ndarray) -> list[_Unit]:
        """Units of problems that have room for as many rows, and of no more lanes than a slab has."""
        units: list[_Unit] = []
        lengths = self.problems.lengths[those]
        # With many features the squares of their distances take longer than the exponentials.
        of_a_row = self.n_components * self.n_restarts * (1.0 + self.problems.rows.shape[1] ** 2 / 32)
        for n_rows, members in buckets(lengths, of_a_row):
            of_bucket = those[members]
            effort = _effort(len(of_bucket) * n_rows * of_a_row)
            each = max(1, self._size(n_rows) // self.n_restarts)
            # As many units for each thread, of about as many problems.
            n_units = -(-len(of_bucket) // each)
            n_units = min(len(of_bucket), -(-n_units // self.n_threads) * self.n_threads)
            units += [_Unit(part, n_rows, effort) for part in np.array_split(of_bucket, n_units)]
        return units

    def _width(self, n_rows: int) -> int:
        """Lanes that are stepped side by side."""
        if jax.default_backend() != "cpu":
            return SIDE_BY_SIDE
        most = max(1, AT_ONCE // (self.n_components * n_rows))
        return min(SIDE_BY_SIDE, 1 << (most.bit_length() - 1))

    def _size(self, n_rows: int) -> int:
        """Lanes of a slab: whole stacks of them, and at least two."""
        width, n_features = self._width(n_rows), self.problems.rows.shape[1]
        of_a_lane = n_rows * (n_features + 1) * self.problems.dtype.itemsize
        return width * int(np.clip(SLAB_BYTES // (of_a_lane * width), 2, STACKS))

    def run(self) -> None:
        """All units, or those that were done when an interrupt came."""
        n_threads = min(self.n_threads, max(1, len(self.units)))
        try:
            self._tell()
            if n_threads > 1:
                self._compile()
            at_once([partial(self._take, is_first=index == 0) for index in range(n_threads)])
            self._tell()
        except KeyboardInterrupt:
            self.is_stopped = True

    def _compile(self) -> None:
        """Both programs of every kind of unit that is worth it, at the same time: by running them on nothing."""
        jobs: list[Callable[[], Any]] = []
        for unit in {unit.n_rows: unit._replace(problems=unit.problems[:0]) for unit in self.units}.values():
            if unit.effort is not Effort.HURRIED:
                size = self._size(unit.n_rows)
                tables, nobody = self._tables(unit, size), np.zeros(0, np.intp)
                begin, run = self._programs(unit, nobody, nobody, size)
                layout = _Layout.of(_blank(self.how.family, self.n_components, tables.x.shape[2], tables.x.dtype))
                length = sum(math.prod(shape) for shape in layout.shapes)
                jobs += [partial(begin, tables), partial(run, np.zeros((size, length), tables.x.dtype), tables)]
        if jobs:
            at_once(jobs)

    def _take(self, is_first: bool) -> None:
        """Units, one after the other, until none is left. The first thread, which is the caller's, tells of them."""
        n_problems = len(self.problems.lengths)
        try:
            while True:
                with self.lock:
                    if self.is_stopped or not self.units:
                        break
                    unit = self.units.pop()
                self._do(unit)
                if is_first and self.n_done < n_problems:
                    self._tell()
        except BaseException:
            self.is_stopped = True  # the other threads end with what they have in hand
            raise

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener(Count(self.n_done, len(self.problems.lengths), "problems"))

    def _do(self, unit: _Unit) -> None:
        """All runs of the problems of a unit, and the best of each."""
        places = np.repeat(np.arange(len(unit.problems)), self.n_restarts)
        runs = np.tile(np.arange(self.n_restarts), len(unit.problems))
        size = self._size(unit.n_rows)
        tables = self._tables(unit, size)
        parts = [
            self._solved(unit, tables, places[first : first + size], runs[first : first + size], size)
            for first in range(0, len(places), size)
        ]
        state, history = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        stands_on_it = _held_up(state, tables.ridge[places])
        with self.lock:
            self.found.keep(unit.problems, state, history, stands_on_it)
            self.n_done += len(unit.problems)

    def _tables(self, unit: _Unit, size: int) -> Tables:
        """The rows of a unit's problems, padded by rows of weight 0, and by problems that no lane is of."""
        rows, weights, lengths, dtype = self.problems
        n_features = rows.shape[1]
        x = aligned_zeros((size, unit.n_rows, n_features), dtype)
        w = aligned_zeros((size, unit.n_rows), dtype)
        own = lengths[unit.problems]
        is_plain = len(own) and (own == own[0]).all() and (np.diff(unit.problems) == 1).all()
        with np.errstate(over="ignore"):  # what is too large has weight 0
            if is_plain:
                first = self.first_row[unit.problems[0]]
                block = slice(first, first + len(own) * own[0])
                x[: len(own), : own[0]] = rows[block].reshape(len(own), own[0], n_features)
                w[: len(own), : own[0]] = 1.0 if weights is None else weights[block].reshape(len(own), own[0])
            else:
                for place, (first, length) in enumerate(zip(self.first_row[unit.problems], own, strict=True)):
                    x[place, :length] = rows[first : first + length]
                    w[place, :length] = 1.0 if weights is None else weights[first : first + length]
        if weights is not None:
            x[w == 0.0] = 0.0  # there may be anything in them
        few, of_few = x[: len(own)], w[: len(own)].astype(np.float64)
        total = of_few.sum(axis=1)
        origin = np.einsum("bn,bnd->bd", of_few, few) / total[:, None]
        ridges = np.broadcast_to(self.how.settings.ridge, origin.shape)
        if self.how.relative_ridge:
            centred = np.where(of_few[..., None] > 0.0, few - origin[:, None], 0.0)
            variances = np.einsum("bn,bnd->bd", of_few, centred * centred) / total[:, None]
            ridges = ridges + self.how.relative_ridge * variances
        lightest = np.where(of_few > 0.0, of_few, np.inf).min(axis=1)
        figures = np.ones((size, 2 * n_features + 3), dtype)
        figures[: len(own)] = np.concatenate([origin, ridges, total[:, None], lightest[:, None], own[:, None]], axis=1)
        return Tables(x, w, figures)

    def _solved(self, unit: _Unit, tables: Tables, places: np.ndarray, runs: np.ndarray, size: int) -> Ended:
        """The ends of so many runs, a slab at most, of problems at these places of the unit."""
        begin, run = self._programs(unit, places, runs, size)
        packed, history = jax.device_get(run(begin(tables), tables))
        blank = _blank(self.how.family, self.n_components, tables.x.shape[2], tables.x.dtype)
        state = _Layout.of(blank).unpack(packed[: len(places)])
        status = np.where(state.status == Status.RUNNING, Status.MAX_STEPS, state.status).astype(np.int32)
        return Ended(state._replace(status=status), history[: len(places), : self.length])

    def _programs(
        self, unit: _Unit, places: np.ndarray, runs: np.ndarray, size: int
    ) -> tuple[Callable[[Tables], Any], Callable[[Any, Tables], Any]]:
        """`_begin` and `_run` for these runs of the problems at these places of a unit."""
        n, how = len(places), self.how
        filled = np.zeros(size, np.int32)
        filled[:n] = places
        keys = given = None
        if self.given is not None:
            which = unit.problems[filled] if n else filled
            given = em.Fixed(jax.tree.map(lambda leaf: leaf[which], self.given.mixture), self.given.parts)
        else:
            keys = np.zeros((size, *self.keys.shape[2:]), np.uint32)
            keys[:n] = self.keys[unit.problems[places], runs]
        lanes = Lanes(filled, keys, np.int32(n))  # pyright: ignore
        shape = {"family": how.family, "n_components": self.n_components, "width": self._width(unit.n_rows)}
        numbers = replace(how.settings, ridge=0.0), np.int32(how.max_steps)

        def begin(tables: Tables) -> Any:
            return _begin.compiled(unit.effort, tables, lanes, given, impl=how.impl, seeding=how.seeding, **shape)

        def run(packed: Any, tables: Tables) -> Any:
            return _run.compiled(unit.effort, packed, tables, lanes, given, *numbers, capacity=self.capacity, **shape)

        return begin, run


def _effort(n_responsibilities: float) -> Effort:
    """How well to compile for a bucket, by the responsibilities of a step of all its problems."""
    if n_responsibilities <= WORTH_A_PROGRAM:
        return Effort.HURRIED
    return Effort.BRISK if n_responsibilities <= WORTH_COMPILING_WELL else Effort.WELL


def buckets(lengths: np.ndarray, of_a_row: float) -> list[tuple[int, np.ndarray]]:
    """Problems of these lengths (B,) by how many rows they are padded to: the longest first.

    of_a_row: responsibilities of a row. The longest are padded by a quarter at most and the others to a power of two;
    and those that are not worth a program of their own go with the next longer.
    """
    if not len(lengths):
        return []
    largest = _room(int(lengths.max()))
    rooms = np.minimum(largest, np.maximum(16, 2 ** np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)))
    found: list[tuple[int, np.ndarray]] = []
    for room in np.unique(rooms)[::-1]:
        members = np.flatnonzero(rooms == room)
        if found and len(members) * found[-1][0] * of_a_row <= WORTH_A_PROGRAM:
            found[-1] = found[-1][0], np.sort(np.concatenate([found[-1][1], members]))
        else:
            found.append((int(room), members))
    return found


def _room(n_rows: int) -> int:
    """So many rows, or a little more: a multiple of an eighth of the next power of two."""
    step = max(16, next_power_of_two(n_rows) // 8)
    return -(-n_rows // step) * step


class Tables(NamedTuple):
    """The rows of P problems, and what a step must know of them."""

    x: Any  # (P, n, D)
    weights: Any  # (P, n)
    figures: Any  # (P, 2 D + 3): origin, ridge, total, lightest, and how many rows there are

    @property
    def ridge(self) -> Any:
        """Of one problem, (D,), or of all, (P, D)."""
        n_features = self.x.shape[-1]
        return self.figures[..., n_features : 2 * n_features]

    def batches(self) -> Batches:
        """Of one problem, taken from the others by its index."""
        size = self.x.shape[0] if self.x.shape[0] <= IN_ONE_CHUNK else IN_ONE_CHUNK // 4
        n_chunks = self.x.shape[0] // size
        whole = (n_chunks - 1) * size
        rows, weights = (
            Chunked(part[:whole] if whole else None, part[whole:], n_chunks) for part in (self.x, self.weights)
        )
        total, lightest, n_rows = self.figures[-3:]
        return Batches(rows, weights, self.figures[: self.x.shape[1]], total, lightest, n_rows.astype(jnp.int32))


class Lanes(NamedTuple):
    """L runs, of which the first few are meant."""

    problem: Array  # (L,): which of the tables each is of
    keys: Array | None  # (L, 2, ·)
    n_used: Array  # ()


class Ended(NamedTuple):
    """How runs (L, ...) ended."""

    state: em.State  # (L, ...)
    history: np.ndarray  # (L, capacity)


class _Layout(NamedTuple):
    """How a state is written as one row of F numbers: what is moved is then one array, and programs are shorter."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, state: em.State) -> _Layout:
        leaves, structure = jax.tree.flatten(state)
        return cls(structure, tuple(leaf.shape for leaf in leaves), tuple(leaf.dtype for leaf in leaves))

    def pack(self, states: em.State) -> Array:
        """States (W, ...) as rows (W, F). Counts, flags and statuses are small, and exact as floats."""
        leaves = jax.tree.leaves(states)
        dtype = states.objective.dtype
        return jnp.concatenate([leaf.reshape(len(leaf), -1).astype(dtype) for leaf in leaves], axis=1)

    def unpack(self, rows: Any) -> em.State:
        """Rows (W, F), of JAX or NumPy, as states (W, ...)."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = zip(ends, self.shapes, self.dtypes, strict=True)
        leaves = [
            rows[:, end - math.prod(shape) : end].reshape(-1, *shape).astype(dtype) for end, shape, dtype in parts
        ]
        return jax.tree.unflatten(self.structure, leaves)


@program(static=("impl", "seeding", "family", "n_components", "width"))
def _begin(
    tables: Tables,
    lanes: Lanes,
    given: em.Fixed | None,
    *,
    impl: Any,
    seeding: str | None,
    family: Family,
    n_components: int,
    width: int,
) -> Array:
    """The runs of a slab before their first M-step: rows (L, F) of a `_Layout`."""
    blank = _blank(family, n_components, tables.x.shape[2], tables.x.dtype)
    layout = _Layout.of(blank)

    def begun(lane: tuple[Tables, em.Fixed | None, Array | None]) -> em.State:
        table, fixed, keys = lane
        batches = table.batches()
        if fixed is None:
            assert keys is not None
            assert seeding is not None
            meant = jnp.array(True)
            seeds = seeds_from(jax.random.wrap_key_data(keys, impl=impl), batches, seeding, n_components, n_components)
        else:
            meant, seeds = ~jnp.all(fixed.parts), fixed.mixture.means  # a weight of 0 is the user's own
        log_weights = jnp.where(meant, blank.mixture.log_weights, -jnp.inf)
        mixture = Mixture(log_weights, seeds, blank.mixture.scales, family)
        return blank._replace(mixture=mixture, moments=by_nearest(family.kind, seeds, batches))

    def begin(index: Array, packed: Array) -> Array:
        which = index * width + jnp.arange(width, dtype=jnp.int32)
        keys = None if lanes.keys is None else lanes.keys[which]
        own = *_of_lanes(which, tables, lanes, given), keys
        # Under `vmap` JAX's other generators would draw for a lane what depends on its neighbours.
        few = layout.pack(side_by_side(begun, own) if _threefry.is_spoken(impl) else lax.map(begun, own))
        return lax.dynamic_update_slice_in_dim(packed, few, index * width, axis=0)

    nothing = layout.pack(jax.tree.map(lambda leaf: leaf[None], blank))
    packed = jnp.broadcast_to(nothing, (len(lanes.problem), nothing.shape[1]))
    return lax.fori_loop(jnp.int32(0), (lanes.n_used + width - 1) // width, begin, packed)


@program(static=("family", "n_components", "width", "capacity"))
def _run(
    packed: Array,
    tables: Tables,
    lanes: Lanes,
    given: em.Fixed | None,
    settings: em.Settings,
    limit: Array,
    *,
    family: Family,
    n_components: int,
    width: int,
    capacity: int,
) -> tuple[Array, Array]:
    """Runs of a slab, rows (L, F), to their ends. -> the rows, and the objectives after t steps (L, capacity)."""
    n_lanes, dtype = packed.shape[0], tables.x.dtype
    layout = _Layout.of(_blank(family, n_components, tables.x.shape[2], dtype))
    is_meant = jnp.arange(n_lanes, dtype=jnp.int32) < lanes.n_used

    def advance(lane: tuple[em.State, Tables, em.Fixed | None]) -> em.State:
        state, table, fixed = lane
        own = replace(settings, ridge=table.ridge)
        return em.advance(state, table.batches(), own, fixed, Form.SAFE)[0]

    def stack(which: Array, packed: Array, history: Array, n_made: Array, n_rounds: Array) -> tuple[Array, Array]:
        """The rounds of one stack. which (W,): its lanes; n_made: steps that they have made before."""
        tables_, fixed = _of_lanes(which, tables, lanes, given)

        def going(carry: tuple[em.State, Array, Array]) -> Array:
            few, _, made = carry
            return (made < n_rounds) & jnp.any(em.is_running(few, limit))

        def step(carry: tuple[em.State, Array, Array]) -> tuple[em.State, Array, Array]:
            few, line, made = carry
            goes_on = em.is_running(few, limit)
            stepped = side_by_side(advance, (few, tables_, fixed))
            few = jax.tree.map(lambda new, old: jnp.where(_like(goes_on, new), new, old), stepped, few)
            # A step that was taken back counts for none.
            stands = goes_on & (few.n_steps == n_made + made + 1)
            objective = jnp.where(stands, few.objective, jnp.nan)
            return few, lax.dynamic_update_slice_in_dim(line, objective[:, None], made, axis=1), made + 1

        line = jnp.full((width, LINE), jnp.nan, dtype)
        few, line, _ = lax.while_loop(going, step, (layout.unpack(packed[which]), line, jnp.int32(0)))
        rows, column = layout.pack(few), jnp.minimum(n_made + 1, capacity)

        def write(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            packed, history = carry
            own, objectives = (lax.dynamic_slice_in_dim(part, index, 1) for part in (rows, line))
            return (
                lax.dynamic_update_slice(packed, own, (which[index], jnp.int32(0))),
                lax.dynamic_update_slice(history, objectives, (which[index], column)),
            )

        return lax.fori_loop(jnp.int32(0), jnp.int32(width), write, (packed, history))

    def rounds(carry: _Round) -> _Round:
        goes_on = carry.goes_on
        order = jnp.argsort(~goes_on).astype(jnp.int32)
        n_stacks = (jnp.sum(goes_on, dtype=jnp.int32) + width - 1) // width
        # A quarter of the steps so far: so little is waited for those that end in between.
        n_rounds = jnp.clip(carry.n_steps // 4, 2, LINE)

        def one(index: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
            which = lax.dynamic_slice_in_dim(order, index * width, width)
            return stack(which, *carried, carry.n_steps, n_rounds)

        packed, history = lax.fori_loop(jnp.int32(0), n_stacks, one, (carry.packed, carry.history))
        goes_on = is_meant & em.is_running(layout.unpack(packed), limit)
        return _Round(packed, history, goes_on, carry.n_steps + n_rounds)

    history = jnp.full((n_lanes, capacity + LINE), jnp.nan, dtype)
    first = _Round(packed, history, is_meant, jnp.int32(em.NOT_BEGUN))
    last = lax.while_loop(lambda carry: jnp.any(carry.goes_on), rounds, first)
    return last.packed, last.history


class _Round(NamedTuple):
    """A slab under way."""

    packed: Array  # (L, F)
    history: Array  # (L, capacity + LINE)
    goes_on: Array  # (L,) bool
    n_steps: Array  # (): of all that go on


def _of_lanes(which: Array, tables: Tables, lanes: Lanes, given: em.Fixed | None) -> tuple[Tables, em.Fixed | None]:
    """What a stack of lanes (W,) needs of their problems, and of starts that are given."""
    problem = lanes.problem[which]
    fixed = None
    if given is not None:
        parts = jnp.broadcast_to(given.parts, (len(which), 3))
        fixed = em.Fixed(jax.tree.map(lambda leaf: leaf[which], given.mixture), parts)
    return jax.tree.map(lambda leaf: leaf[problem], tables), fixed


def _blank(family: Family, n_components: int, n_features: int, dtype: Any) -> em.State:
    """The state of a run that has not begun, without its seeds and moments."""
    seeds, meant = np.zeros((1, n_components, n_features), dtype), np.ones((1, n_components), bool)
    of_kind = family.kind.project(np.zeros((n_components, n_features, n_features), dtype))  # pyright: ignore
    moments = Moments(seeds[..., 0], seeds, of_kind[None], np.zeros(1, dtype))  # pyright: ignore
    several = em.unstarted(seeds, meant, moments, family)
    return jax.tree.map(lambda leaf: leaf[0], several)


def _like(chosen: Array, leaf: Array) -> Array:
    """A choice (W,) for a leaf (W, ...)."""
    return chosen.reshape(-1, *[1] * (leaf.ndim - 1))


def _held_up(states: em.State, ridges: np.ndarray) -> np.ndarray:
    """`held_up` of every run (L, ...), asked only where it may be. -> (L, K) bool."""
    found = np.zeros(states.mixture.log_weights.shape, bool)
    # What is no number may be anything.
    asked = np.flatnonzero(np.any(~(np.asarray(states.ridge_trace) <= HELD_UP), axis=1))
    for first in range(0, len(asked), LOOKED_AT):
        some = asked[first : first + LOOKED_AT]
        filled = some[np.minimum(np.arange(LOOKED_AT), len(some) - 1)]
        few = jax.tree.map(lambda leaf, filled=filled: leaf[filled], states.mixture)
        found[some] = np.asarray(_stand_on_ridge(few, ridges[filled]))[: len(some)]
    return found


@program(hurried=True)
def _stand_on_ridge(mixtures: Mixture, ridges: Array) -> Array:
    return lax.map(lambda each: held_up(*each), (mixtures, ridges))


def winners(objective: np.ndarray, status: np.ndarray, stands_on_it: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the rule of `runs.best_of`: the objectives (B, R) by which runs compete, and the best of each problem (B,).

    objective, status: (B, R). stands_on_it: (B, R, K).
    """
    failed = np.isin(status, FAILED) | ~np.isfinite(objective)
    competing = np.where(failed, -np.inf, objective)
    sound = ~failed & ~stands_on_it.any(axis=2)
    last_held = np.where(np.isfinite(objective), objective, -np.inf)
    otherwise = np.where(failed.all(axis=1, keepdims=True), last_held, competing)
    among = np.where(sound.any(axis=1, keepdims=True), np.where(sound, competing, -np.inf), otherwise)
    return competing, among.argmax(axis=1)


@dataclass
class _Found:
    """Results of B problems, as far as they are there; what is not is NaN, and RUNNING."""

    mixture: Mixture  # (B, ...)
    mass: np.ndarray  # (B, K)
    held_up: np.ndarray  # (B, K)
    objective: np.ndarray  # (B,)
    status: np.ndarray  # (B,)
    n_steps: np.ndarray  # (B,)
    history: np.ndarray  # (B, H)
    run_objective: np.ndarray  # (B, R)
    run_status: np.ndarray  # (B, R)
    run_steps: np.ndarray  # (B, R)
    run_history: np.ndarray  # (B, R, H)

    @classmethod
    def of(
        cls, family: Family, n_problems: int, n_runs: int, n_components: int, n_features: int, length: int, dtype: Any
    ) -> _Found:
        def unknown(*shape: int) -> np.ndarray:
            return np.full((n_problems, *shape), np.nan, dtype)

        scales = jax.tree.map(
            lambda leaf: unknown(*leaf.shape), shape_of_scales(family, n_components, n_features, dtype)
        )
        mixture: Any = (unknown(n_components), unknown(n_components, n_features), scales, family)
        histories = unknown(n_runs, length)
        return cls(
            mixture=Mixture(*mixture),
            mass=unknown(n_components),
            held_up=np.zeros((n_problems, n_components), bool),
            objective=unknown(),
            status=np.full(n_problems, Status.RUNNING, np.int32),
            n_steps=np.zeros(n_problems, np.int32),
            history=histories[:, 0] if n_runs == 1 else unknown(length),
            run_objective=np.full((n_problems, n_runs), -np.inf, dtype),
            run_status=np.full((n_problems, n_runs), Status.RUNNING, np.int32),
            run_steps=np.zeros((n_problems, n_runs), np.int32),
            run_history=histories,
        )

    def keep(self, problems: np.ndarray, states: em.State, histories: np.ndarray, stands_on_it: np.ndarray) -> None:
        """The runs of these problems (P,), those of one after the other: (P · R, ...)."""

        def by_problem(leaf: Any) -> np.ndarray:
            return leaf.reshape(len(problems), -1, *leaf.shape[1:])

        objective, status = by_problem(states.objective), by_problem(states.status)
        competing, winner = winners(objective, status, by_problem(stands_on_it))
        every = np.arange(len(problems))

        def put(many: np.ndarray, leaf: Any) -> None:
            many[problems] = by_problem(leaf)[every, winner]

        jax.tree.map(put, self.mixture, states.mixture)
        put(self.mass, states.moments.mass)
        put(self.held_up, stands_on_it)
        put(self.objective, states.objective)
        put(self.status, states.status)
        put(self.n_steps, states.n_steps)
        self.run_objective[problems], self.run_status[problems] = competing, status
        self.run_steps[problems], self.run_history[problems] = by_problem(states.n_steps), by_problem(histories)
        if self.run_history.shape[1] > 1:  # else it is the same memory
            put(self.history, histories)

    def result(self) -> FitResult:
        """All of it, on JAX's default device."""
        found = FitResult(
            mixture=self.mixture,
            objective=self.objective,  # pyright: ignore
            status=self.status,  # pyright: ignore
            n_steps=self.n_steps,  # pyright: ignore
            history=self.history,  # pyright: ignore
            effective_counts=self.mass,  # pyright: ignore
            held_up=self.held_up,  # pyright: ignore
            restarts=Restarts(self.run_objective, self.run_status, self.run_steps, self.run_history),  # pyright: ignore
        )
        return jax.device_put(found)

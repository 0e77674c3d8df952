"""Fit a mixture: many starts in one compiled program, and the best of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _check, em
from ._precision import from_host, is_traced, own, precision_for, to_host
from .batches import Batches, cut, next_power_of_two
from .families import SHELF, Family
from .lanes import Queue, ended, in_waves, queue, states_of, work
from .mixture import Mixture
from .seeding import SEEDINGS, from_labels, from_means, from_responsibilities, seeds_from
from .status import FAILED, Status, explain

HISTORY = 16384
"""Steps whose objectives are kept; a run may make more."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Restarts:
    """How each of R restarts ended. A restart that failed (collapsed, non-finite) has objective −inf."""

    objective: Array  # (R,)
    status: Array  # (R,)
    n_steps: Array  # (R,)
    history: Array  # (R, max_steps + 1), or (R, HISTORY) where that is less

    __getstate__, __setstate__ = to_host, from_host


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FitResult:
    """The best fit, and how it came about. All of it belongs to `mixture`."""

    mixture: Mixture
    objective: Array  # (): mean log-likelihood, nats per unit of weight
    status: Array  # (): a `Status`
    n_steps: Array  # ()
    history: Array  # (max_steps + 1,): the objective after t steps, NaN past the end; at most HISTORY of them
    effective_counts: Array  # (K,): Σ weight · responsibility
    restarts: Restarts

    __getstate__, __setstate__ = to_host, from_host

    def __repr__(self) -> str:
        if is_traced(self) or self.objective.ndim:
            return f"FitResult(objective={self.objective!r}, mixture={self.mixture!r})"
        status = Status(int(self.status))
        return (
            f"FitResult: {status.name} after {int(self.n_steps)} steps, mean log-likelihood "
            f"{float(self.objective):.6f} nats, best of {self.restarts.objective.size} restarts ({explain(status)})\n"
            f"{self.mixture!r}"
        )


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

    def onto(self, mixture: Mixture) -> Mixture:
        """The mixture with what is given in its place."""
        return replace(mixture, **{name: value for name, value in self._asdict().items() if value is not None})


NOTHING_GIVEN = Given()


class Progress(NamedTuple):
    """What a progress callback is told, a few times a second."""

    n_steps: int  # of the restart that is furthest among those that have not ended; of all where all have
    max_steps: int
    n_running: int  # and waiting: those that have not ended
    n_restarts: int
    objective: float  # the best so far

    @classmethod
    def of(cls, runs: Told, max_steps: int) -> Progress:
        """Where the runs (R, ...) stand."""
        going = is_going(runs, max_steps)
        n_steps = int(np.max(runs.n_steps[going] if going.any() else runs.n_steps))
        return cls(n_steps, max_steps, int(going.sum()), len(going), float(np.max(runs.objective)))


class Told(NamedTuple):
    """The part of a state that progress is told from."""

    objective: np.ndarray  # (R,)
    status: np.ndarray  # (R,)
    n_steps: np.ndarray  # (R,)


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
    ridge: float = 1e-6,
    acceleration: str | None = None,
    chunk_size: int | None = None,
    dtype: Any = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Fit a mixture of K Gaussians to rows x (N, D) by EM, from R starts; the best finite objective wins.

    key: a JAX random key. x: an array, or `Batches`. n_components: K. family: a name of `jaxgmm.families.SHELF` or a
    Family. sample_weight: (N,), on any scale within the dtype's range. init: "k-means++", "k-means", "random_rows",
    "random_responsibilities", or a start of your own: a Mixture, means (K, D), integer labels (N,) or
    responsibilities (N, K), from which one run is made. tol: change of the mean log-likelihood (nats) under which a
    run has converged; 0 makes exactly max_steps steps. ridge: added to the diagonal of every covariance.
    acceleration: "squarem", "anderson" or "lbfgs" for fewer steps where clusters overlap and tol is below 1e-4; see
    `acceleration.py`.
    chunk_size: rows a chunk, chosen by size where None. dtype: JAX's rule where None. progress: called as the fit goes.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled; after
    that never: `result.status` and `result.restarts` say how it went.
    """
    n_components = _check.count(n_components, "n_components", least=1)
    n_restarts = _check.count(n_restarts, "n_restarts", least=1)
    max_steps = _check.count(max_steps, "max_steps", least=0)
    chosen: Family = _check.family(family, SHELF)
    settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration)
    if isinstance(init, str):
        seeding(init)
    if not isinstance(init, str):
        n_restarts = 1  # a given start leaves nothing to chance
    batches = admit(x, sample_weight, n_components, n_restarts, chunk_size, dtype)
    with precision_for(batches.dtype):
        starts = start(key, batches, init, n_components, chosen, settings, n_restarts)
        return drive(starts, batches, settings, max_steps, progress)


def seeding(name: str) -> str:
    """The name of a seeding. ValueError where there is none of that name."""
    if name not in SEEDINGS:
        raise ValueError(
            f"Unknown init {name!r}. Expected one of {', '.join(map(repr, SEEDINGS))}, or a start of your own."
        )
    return name


def admit(x: Any, sample_weight: Any, n_components: int, n_lanes: int, chunk_size: int | None, dtype: Any) -> Batches:
    """The user's data, checked, as batches."""
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
    _check.finite(x, "x")
    sample_weight = _check.row_weights(sample_weight, len(x))
    _check.enough_rows(len(x), sample_weight, n_components)
    return Batches.of(x, sample_weight, chunk_size, n_components=n_components, n_lanes=n_lanes, dtype=dtype)


def start(
    key: Array,
    batches: Batches,
    init: Any,
    n_components: int,
    family: Family,
    settings: em.Settings,
    n_restarts: int,
    given: Given = NOTHING_GIVEN,
) -> em.State:
    """The states (R, ...) that the restarts begin with."""
    if isinstance(init, str):
        counts = np.full(n_restarts, n_components, np.int32)
        seeds = seeds_of(
            jax.random.split(key, (n_restarts, 2)), counts, batches, seeding=init, n_components=n_components
        )
        return begin(seeds, counts, batches, settings.ridge, given, family=family)
    mixture = mixture_from(init, batches, n_components, family, settings)
    state = em.init(given.onto(mixture), batches)
    if not isinstance(init, Mixture):  # there a weight of 0 is the user's own
        state = _lost_if_empty(state, mixture, n_components)
    return jax.tree.map(lambda leaf: leaf[None], state)


def mixture_from(init: Any, batches: Batches, n_components: int, family: Family, settings: em.Settings) -> Mixture:
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
    if values.ndim == 1:
        values = _check.labels(values, n_rows, n_components)
        chunked = cut(values, batches.chunk_size, np.int32, pad_with_zero=True)
        return _from_labels(chunked, batches, settings.ridge, n_components=n_components, family=family)
    if values.shape == (n_components, batches.n_features):
        _check.finite(values, "init")
        means = own(values, batches.dtype)
        mixture = _from_means(means, batches, family=family, ridge=settings.ridge)
        # What is given stands as given; weights and covariances are the M-step's.
        return Mixture(mixture.log_weights, means, mixture.scales, family)
    values = _check.responsibilities(values, n_rows, n_components)
    chunked = cut(values, batches.chunk_size, batches.dtype, pad_with_zero=True)
    return _from_responsibilities(chunked, batches, family=family, ridge=settings.ridge)


def drive(
    states: em.State,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    progress: Callable[[Progress], None] | None = None,
    every: int | None = None,
) -> FitResult:
    """The best of all restarts, run to their ends."""

    def watch(runs: Told) -> None:
        assert progress is not None
        progress(Progress.of(runs, max_steps))

    states, histories = run_to_ends(states, batches, settings, max_steps, watch if progress else None, every)
    return _best(states, histories, length=history_length(max_steps))


def run_to_ends(
    states: em.State,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    watch: Callable[[Told], None] | None = None,
    every: int | None = None,
) -> tuple[em.State, Array]:
    """Run states (R, ...) to their ends: in one go, or for one who watches in bursts of `every` steps, or of 0.3 s.

    Both come to the same bits.

    -> the states, and their objectives after t steps (R, `history_length` at least), NaN past the end.
    """
    # The history's length is static: a few lengths, few programs; and it rides in the loop, so it is bounded.
    max_steps = min(max_steps, np.iinfo(np.int32).max)
    capacity = min(next_power_of_two(max_steps + 1), HISTORY)
    histories: Any = np.full((len(states.objective), capacity), np.nan, states.objective.dtype)
    limit = np.int32(max_steps)
    if watch is None:
        return _run_all(states, histories, batches, settings, limit)
    under_way = _queue(states, histories, settings, limit)
    burst, n_rounds = 1, 0
    while True:
        told = Told(*map(np.asarray, _told(under_way)))
        watch(told)
        if not np.any(is_going(told, max_steps)):
            return _ended(under_way)
        began = time.perf_counter()
        n_rounds = min(n_rounds + (every or burst), np.iinfo(np.int32).max)
        under_way = jax.block_until_ready(_work(under_way, batches, settings, limit, np.int32(n_rounds)))
        burst = 2 * burst if time.perf_counter() - began < 0.3 else max(1, burst // 2)


def history_length(max_steps: int) -> int:
    """How many objectives of a run are kept."""
    return min(max_steps + 1, HISTORY)


def is_going(runs: Told, max_steps: int) -> np.ndarray:
    """Which of the runs are not at their ends. -> (R,) bool."""
    return (runs.status == Status.RUNNING) & (runs.n_steps < max_steps)


@partial(jax.jit, static_argnames=("seeding", "n_components"))
def seeds_of(keys: Array, counts: Array, batches: Batches, *, seeding: str, n_components: int) -> Array:
    """Seeds (R, K, D), of each of which the first of `counts` (R,) are meant: a program that all families share.

    keys (R, 2): a pair for each, so that no program need split them.
    """
    return in_waves(
        lambda lane: seeds_from(lane[0], batches, seeding, n_components, lane[1]), (keys, counts), n_components
    )


@partial(jax.jit, static_argnames="family")
def begin(seeds: Array, counts: Array, batches: Batches, ridge: Any, given: Given, *, family: Family) -> em.State:
    """The states (R, ...) after one M-step from the rows nearest to each seed; past its count a lane has weight 0."""

    def one(lane: tuple[Array, Array]) -> em.State:
        seeds, count = lane
        mixture = from_means(seeds, batches, family, ridge, count)
        return _lost_if_empty(em.init(given.onto(mixture), batches), mixture, count)

    return in_waves(one, (seeds, counts), seeds.shape[1])


def _lost_if_empty(state: em.State, seeded: Mixture, count: Array | int) -> em.State:
    """A seed without rows can never get any: such a run has lost before it began."""
    is_meant = jnp.arange(seeded.n_components) < count
    empty = jnp.any((seeded.log_weights == -jnp.inf) & is_meant)
    return state._replace(status=jnp.where(empty, Status.COLLAPSED, state.status).astype(jnp.int32))


_from_means = partial(jax.jit, static_argnames="family")(from_means)
_from_responsibilities = partial(jax.jit, static_argnames="family")(from_responsibilities)


@partial(jax.jit, static_argnames=("n_components", "family"))
def _from_labels(labels: Any, batches: Batches, ridge: Any, *, n_components: int, family: Family) -> Mixture:
    return from_labels(labels, n_components, batches, family, ridge)


@jax.jit
def _run_all(
    states: em.State, histories: Array, batches: Batches, settings: em.Settings, max_steps: Array
) -> tuple[em.State, Array]:
    every_round = jnp.int32(np.iinfo(np.int32).max)
    return ended(work(queue(states, histories, settings, max_steps), batches, settings, max_steps, every_round))


_queue, _work, _ended = jax.jit(queue), jax.jit(work), jax.jit(ended)


@jax.jit
def _told(under_way: Queue) -> tuple[Array, Array, Array]:
    states = states_of(under_way)
    return states.objective, states.status, states.n_steps


@partial(jax.jit, static_argnames="length")
def _best(states: em.State, histories: Array, *, length: int) -> FitResult:
    return best_of(states, histories[:, :length])


def best_of(states: em.State, histories: Array) -> FitResult:
    """The run (R, ...) with the highest finite objective, and how all of them ended."""
    failed = jnp.isin(states.status, jnp.array(FAILED)) | ~jnp.isfinite(states.objective)
    objective = jnp.where(failed, -jnp.inf, states.objective)
    # Where every restart failed, the best of what they last held is still worth looking at.
    last_held = jnp.where(jnp.isfinite(states.objective), states.objective, -jnp.inf)
    winner = jnp.argmax(jnp.where(jnp.all(failed), last_held, objective))
    best, history = jax.tree.map(lambda leaf: leaf[winner], (states, histories))
    return FitResult(
        mixture=best.mixture,
        objective=best.objective,
        status=best.status,
        n_steps=best.n_steps,
        history=history,
        effective_counts=best.moments.mass,
        restarts=Restarts(objective, states.status, states.n_steps, histories),
    )

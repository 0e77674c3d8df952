"""Runs from many starts to their ends, and the best of them; or a race, in which most of them are soon out of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import _check, em, one_by_one, spread
from ._linalg import cholesky
from ._precision import from_host, is_traced, is_transforming, to_device, to_host
from .batches import Batches, next_power_of_two
from .checkpoint import Entry, next_entry
from .covariances import Dense, Form
from .crews import Crews, OnCores, are_singles, at_once, crews_for
from .lanes import Queue, bytes_of_a_run, ended, ended_on_host, queue, queue_on_host, work
from .mixture import Mixture, covariance_of
from .programs import program
from .spread import Spread
from .status import FAILED, Status, explain

HISTORY = 16384
"""Steps whose objectives are kept; a run may make more."""

ON_HOST = 2**24
"""Numbers of all states of a search that may go through the host's memory between programs."""

BURST = 0.3
"""Seconds after which one who watches is told of a run again."""

FIRST_BURST = 2**19
"""Responsibilities of a first burst: those of some milliseconds."""

HELD_UP = 0.5
"""Share of the ridge in a component's smallest variance from which on the ridge, and not the data, decides it. Such a
component stands on a few rows or on one repeated value, where the likelihood has no bound but the ridge."""

SHORT_RUN = 10
"""Steps of a race after which the field is cut."""

OF_WHICH_FINISH = 4
"""Of so many runs of a race one goes on, unless it is told how many are to. `benchmarks/hard.py` tries cuts at 5, 10
and 20 steps with a quarter to a sixteenth going on. With a quarter, each cut beats as many steps spent on whole runs on
both hard problems; with less not. On small tables, where a whole run is some thirty steps, no race pays."""


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
    held_up: Array  # (K,) bool: whether the ridge, and not the data, decides a component's smallest variance
    restarts: Restarts
    escapes: Array | None = None  # (M + 1,): objectives before and after each of M moves out of a local optimum, of
    # which `n_steps` and `history` then tell the last run; the first may fall, where it leaves the ridge behind

    __getstate__, __setstate__ = to_host, from_host

    def __getitem__(self, index: Any) -> FitResult:
        """Of one problem of several (see `fit_many`), or of some of them: every leaf at that index of its first axis.

        TypeError where this is the result of one problem.
        """
        if not self.objective.ndim:
            raise TypeError("This is the result of one problem: only a stack of them, as of fit_many, has an index.")
        if is_traced((self, index)):
            return jax.tree.map(lambda leaf: leaf[index], self)
        # On the host: each leaf would be a program.
        return jax.tree.map(lambda leaf: to_device(np.asarray(np.asarray(leaf)[index])), self)

    def __repr__(self) -> str:
        if is_traced(self) or self.objective.ndim > 1:
            return f"FitResult(objective={self.objective!r}, mixture={self.mixture!r})"
        if self.objective.ndim:
            return _in_short(self)
        status = Status(int(self.status))
        n_moves = 0 if self.escapes is None else len(self.escapes) - 1
        moves = f" and {n_moves} move{'s' if n_moves > 1 else ''} from there" if n_moves else ""
        spikes = [str(k) for k in np.flatnonzero(np.asarray(self.held_up))]
        warning = f"\nheld up by the ridge alone: component {', '.join(spikes)}" if spikes else ""
        return (
            f"FitResult: {status.name} after {int(self.n_steps)} steps, mean log-likelihood "
            f"{float(self.objective):.6f} nats, best of {self.restarts.objective.size} restarts{moves} "
            f"({explain(status)})\n{self.mixture!r}{warning}"
        )


def _in_short(result: FitResult) -> str:
    """What there is to say of B problems together."""
    status, objective, n_steps = (np.asarray(leaf) for leaf in (result.status, result.objective, result.n_steps))
    ends = ", ".join(f"{np.sum(status == of)} {Status(of).name}" for of in np.unique(status))
    known = objective[np.isfinite(objective)]
    figures = f", mean log-likelihoods {known.min():.6f} to {known.max():.6f} nats" if len(known) else ""
    steps = f"{n_steps.min()} to {n_steps.max()} steps" if len(n_steps) else "no steps"
    *_, n_components, n_features = result.mixture.means.shape
    n_spiked = int(np.asarray(result.held_up).any(axis=-1).sum())
    warning = f"\nheld up by the ridge alone: a component of {n_spiked} of them" if n_spiked else ""
    best_of = result.restarts.objective.shape[-1]
    return (
        f"FitResult of {len(status)} problems: {ends}; after {steps}{figures}, best of {best_of} restarts each\n"
        f"{n_components} Gaussians in {n_features} dimensions each, family {result.mixture.family.name!r}; result[b] "
        f"is that of problem b{warning}"
    )


@dataclass(frozen=True)
class Race:
    """A race of restarts: each makes `steps` steps, and only the best `finalists` go on. Biernacki et al. 2003 (emEM).

    finalists: one in four, and at least one, where it is None. What is out keeps the status MAX_STEPS, with the steps
    it made. Where no finalist ends sound, the next best go on. ValueError for less than one step or finalist.
    """

    steps: int = SHORT_RUN
    finalists: int | None = None

    def __post_init__(self) -> None:
        _check.count(self.steps, "steps", least=1)
        if self.finalists is not None:
            _check.count(self.finalists, "finalists", least=1)

    def places(self, n_runs: int) -> int:
        """How many of so many runs go on."""
        return min(n_runs, self.finalists or max(1, n_runs // OF_WHICH_FINISH))


class Told(NamedTuple):
    """The part of a state that progress is told from."""

    objective: np.ndarray  # (R,)
    status: np.ndarray  # (R,)
    n_steps: np.ndarray  # (R,)

    def ranks(self) -> np.ndarray:
        """Objectives by which runs compete: −inf for one that failed. -> (R,)."""
        has_failed = np.isin(self.status, FAILED) | ~np.isfinite(self.objective)
        return np.where(has_failed, -np.inf, self.objective)


class Progress(NamedTuple):
    """What a progress callback of `fit` is told."""

    n_steps: int  # of the restart that is furthest among those that have not ended; of all where all have
    max_steps: int
    n_running: int  # and waiting: those that have not ended
    n_restarts: int
    objective: float  # the best so far of those that have not failed
    n_read: int = 0  # rows of the pass under way, where each reads them anew and in blocks
    n_rows: int = 0  # in all; 0 in the pass that counts them

    @classmethod
    def of(cls, runs: Told, max_steps: int) -> Progress:
        """Where the runs (R, ...) stand."""
        going = is_going(runs, max_steps)
        n_steps = int(np.max(runs.n_steps[going] if going.any() else runs.n_steps))
        return cls(n_steps, max_steps, int(going.sum()), len(going), float(np.max(runs.ranks())))


Watch = Callable[[Told], None]


def run_to_ends(
    states: em.State,
    batches: Batches | Spread,
    settings: em.Settings,
    max_steps: int,
    watch: Watch | None = None,
    every: int | None = None,
    histories: Any = None,
) -> tuple[em.State, Array]:
    """Run states (R, ...) to their ends: in one go, or for one who watches in bursts of `every` steps, or of `BURST`.

    Both come to the same bits. `histories` are those of runs that go on.

    -> the states, and their objectives after t steps (R, `history_length` at least), NaN past the end.
    """
    max_steps = min(max_steps, np.iinfo(np.int32).max)
    if histories is None:
        histories = _no_history(states, max_steps)
    entry = next_entry()
    if isinstance(batches, Spread):
        return _run_spread(states, histories, batches, settings, max_steps, watch, entry)
    limit, n_runs = np.int32(max_steps), len(states.objective)
    if is_traced((states, settings, batches)) or is_transforming():
        return _run_all((states, histories), batches, settings, limit)
    found = None if entry is None else entry.found()
    if is_one_by_one(states, batches, settings):
        return _run_each(states, histories, batches, settings, max_steps, watch, every, entry, found)  # pyright: ignore
    crews = _crews(states, batches, settings, None if found is None else int(found.pop()))
    is_light = isinstance(crews, OnCores) and is_on_host(states) and settings.acceleration is None
    far = one_by_one.guessed_far(states, batches)
    parts = crews.deal((states, np.array(histories), far))
    if is_light:
        under_way = [queue_on_host(*part, batches.chunk_size, settings, max_steps) for part in parts]  # pyright: ignore
    else:
        under_way = crews.run(_queue, parts, settings, limit, n_rows=batches.chunk_size)
    if entry is not None and found is not None:
        under_way = crews.placed(entry.as_tree(found, under_way))
    # Before a time is known: so much that it is nothing, and on a small table so much that few bursts are needed.
    burst = max(1, min(8, FIRST_BURST // (states.mixture.means.shape[1] * batches.n_chunks * batches.chunk_size)))
    n_rounds, every_round = max(int(np.max(part.n_rounds)) for part in under_way), np.iinfo(np.int32).max
    is_watched = watch is not None or entry is not None
    while True:
        told = Told(*crews.gathered([_told(part) for part in under_way], n_runs))
        if watch is not None:
            watch(told)
        is_done = not np.any(is_going(told, max_steps))
        if entry is not None:
            entry.keep((under_way, np.int32(crews.number)), is_done)
        if is_done:
            if is_light:
                held = jax.tree.map(np.array, under_way)
                return crews.gathered([ended_on_host(part) for part in held], n_runs)
            return crews.collect(crews.run(_ended, under_way), n_runs)
        began = time.perf_counter()
        n_rounds = min(n_rounds + (every or burst), every_round) if is_watched else every_round
        under_way = jax.block_until_ready(_worked(crews, under_way, batches, settings, limit, n_rounds))
        # A first round tells how many there are to BURST; where it was compiled for, the second does.
        in_time = burst * BURST / max(time.perf_counter() - began, 1e-6)
        burst = max(1, int(min(in_time, 64 * burst)))


def _worked(
    crews: Crews, parts: list[Queue], batches: Batches, settings: em.Settings, limit: np.int32, n_rounds: int
) -> list[Queue]:
    """The queues after so many rounds, each in the form that its next step asks for: no program is compiled for the
    other form before a run needs it."""
    shared = batches, settings, limit, np.int32(n_rounds)
    while True:
        forms = [_form(part, limit, n_rounds) for part in parts]
        if not any(forms):
            return parts
        if isinstance(crews, OnCores):
            going = [index for index, form in enumerate(forms) if form]
            done = at_once([partial(_work, parts[index], *shared, form=forms[index]) for index in going])
            parts = [done[going.index(index)] if forms[index] else part for index, part in enumerate(parts)]
        else:
            parts = crews.run(_work, parts, *shared, form=forms[0])


def _form(part: Queue, limit: Any, n_rounds: int) -> Form | None:
    """The form of the next step of a queue; None where there is none. Leaves may have an axis of devices in front."""
    slots, states = part.slots, part.slots.states
    lane, status, n_steps, is_far = map(np.asarray, (slots.lane, states.status, states.n_steps, slots.is_far))
    may_go = np.asarray(part.n_rounds)[..., None] < n_rounds
    active = (lane < part.histories.shape[-2]) & (status == Status.RUNNING) & (n_steps < limit) & may_go
    if active.any():
        return Form.SAFE if np.any(active & is_far) else Form.FAST
    waits = (np.asarray(part.served) < np.asarray(part.n_queued)) & may_go[..., 0]
    if not waits.any():
        return None
    return Form.SAFE if np.asarray(part.is_far).any() else Form.FAST


def is_on_host(states: em.State) -> bool:
    """Whether states are known, and so few numbers that the host may hold them."""
    n_numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(states))
    return n_numbers <= ON_HOST


def is_one_by_one(states: em.State, batches: Batches, settings: em.Settings) -> bool:
    """Whether runs (R, ...) are better made one after the other than side by side."""
    if settings.acceleration is not None or not is_on_host(states):
        return False
    return batches.has_room or are_singles(len(states.objective), states.mixture.means.shape[1], batches)


def _run_spread(
    states: em.State,
    histories: Any,
    rows: Spread,
    settings: em.Settings,
    max_steps: int,
    watch: Watch | None,
    entry: Entry | None,
) -> tuple[em.State, Array]:
    """Runs (R, ...) that take their steps together, one pass over the rows for all that have not ended."""
    states, histories = _resumed(states, np.int32(max_steps), settings), np.array(histories)
    found = None if entry is None else entry.found()
    if entry is not None and found is not None:
        states, histories = entry.as_tree(found, (states, histories))
        states = jax.device_put(states, rows.origin.sharding)
    while True:
        told = Told(*map(np.asarray, (states.objective, states.status, states.n_steps)))
        kept = told.n_steps < histories.shape[1]
        histories[np.flatnonzero(kept), told.n_steps[kept]] = told.objective[kept]
        if watch is not None:
            watch(Told(*map(np.array, told)))
        going = np.flatnonzero(is_going(told, max_steps)).astype(np.int32)
        if entry is not None:
            entry.keep((states, histories), is_done=not len(going))
        if not len(going):
            return _stopped(states), jnp.asarray(histories)
        # Of so many lanes that few programs are compiled; the last is repeated, and written as often.
        n_lanes = min(len(told.status), next_power_of_two(len(going)))
        chosen = going[np.minimum(np.arange(n_lanes), len(going) - 1)]
        states = _put(states, chosen, spread.step_lanes(_of(states, chosen), rows, settings))


def _run_each(
    states: em.State,
    histories: Any,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    watch: Watch | None,
    every: int | None,
    entry: Entry | None,
    found: list[np.ndarray] | None,
) -> tuple[em.State, np.ndarray]:
    """Runs (R, ...) to their ends one after the other; for one who watches, so many steps of all and then more."""
    watch = None if getattr(watch, "is_silent", False) else watch
    states = jax.tree.map(np.asarray, states)
    resumable = (states.status == Status.MAX_STEPS) & (states.n_steps < max_steps)
    states = states._replace(status=np.where(resumable, Status.RUNNING, states.status).astype(np.int32), memory=None)
    # One who watches is told of the starts first.
    states, histories = one_by_one.run(states, histories, batches, settings, 0 if watch else em.NOT_BEGUN)
    if entry is not None and found is not None:
        states, histories = entry.as_tree(found, (states, histories))
    is_watched = watch is not None or entry is not None
    burst = every or (SHORT_RUN if is_watched else max_steps)
    while True:
        told = Told(*map(np.array, (states.objective, np.array(states.status), np.maximum(states.n_steps, 0))))
        if watch is not None:
            watch(told)
        going = (states.status == Status.RUNNING) & (states.n_steps < max_steps)
        if entry is not None:
            entry.keep((states, histories), is_done=not going.any())
        if not going.any():
            status = np.where(states.status == Status.RUNNING, Status.MAX_STEPS, states.status).astype(np.int32)
            return states._replace(status=status), histories
        began, done = time.perf_counter(), int(told.n_steps[going].min())
        states, histories = one_by_one.run(states, histories, batches, settings, min(done + burst, max_steps))
        if every is None and time.perf_counter() - began < BURST:
            burst = min(2 * burst, max_steps)


@program
def _resumed(states: em.State, max_steps: Array, settings: em.Settings) -> em.State:
    return jax.vmap(lambda state: em.prepared(em.resumed(state, max_steps), settings))(states)


@program(hurried=True)
def _stopped(states: em.State) -> em.State:
    return jax.vmap(em.stopped)(states._replace(memory=None))


@program(hurried=True)
def _of(states: Any, chosen: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], states)


@program(hurried=True)
def _put(states: Any, chosen: Array, few: Any) -> Any:
    return jax.tree.map(lambda many, some: many.at[chosen].set(some), states, few)


def race_to_ends(
    states: em.State,
    batches: Batches | Spread,
    settings: em.Settings,
    max_steps: int,
    race: Race | None,
    rivals: np.ndarray | None = None,
    watch: Watch | None = None,
    every: int | None = None,
) -> tuple[em.State, Array]:
    """`run_to_ends` of the finalists, after a short run of all. Without a race of all.

    rivals (G, R / G): which of the runs (R, ...) compete with one another; all of them where it is None.
    """
    if rivals is None:
        rivals = np.arange(len(states.objective))[None]
    if race is None or race.places(rivals.shape[1]) == rivals.shape[1] or race.steps >= max_steps:
        return run_to_ends(states, batches, settings, max_steps, watch, every)
    histories = _no_history(states, max_steps)
    states, histories = run_to_ends(states, batches, settings, race.steps, watch, every, histories)
    told, is_spiked = _looked_at(states, settings)
    order = np.lexsort((-told.ranks()[rivals], is_spiked[rivals]), axis=1)
    places, is_open = race.places(rivals.shape[1]), np.ones(len(rivals), bool)
    for place in range(0, rivals.shape[1], places):
        next_best = order[is_open, place : place + places]
        chosen = np.unique(np.take_along_axis(rivals[is_open], next_best, axis=1)).astype(np.int32)
        few, lines = _taken(states, histories, chosen)
        of_all = watch and partial(_watch_all, watch, told, chosen)
        few, lines = run_to_ends(few, batches, settings, max_steps, of_all, every, lines)
        states, histories = _put_back(states, histories, chosen, few, lines)
        told, is_spiked = _looked_at(states, settings)
        # A run that is out is not to win over finalists that all came to nothing: then those behind them go on.
        is_sound = np.isfinite(told.ranks()) & ~is_spiked
        is_out = (told.status == Status.MAX_STEPS) & (told.n_steps < max_steps)
        is_open = ~np.any((is_sound & ~is_out)[rivals], axis=1) & np.any((is_sound & is_out)[rivals], axis=1)
        if not is_open.any():
            break
    return states, histories


def _looked_at(states: em.State, settings: em.Settings) -> tuple[Told, np.ndarray]:
    """How runs (R, ...) stand, and which have a component on the ridge, on the host and free to be changed."""
    told = Told(*(np.array(leaf) for leaf in (states.objective, states.status, states.n_steps)))
    return told, _held_up_on_host(states, settings.ridge).any(axis=1)  # pyright: ignore


def _watch_all(watch: Watch, told: Told, chosen: np.ndarray, few: Told) -> None:
    """Show the runs `chosen` as they go among all the others."""
    for whole, part in zip(told, few, strict=True):
        whole[chosen] = part
    watch(told)


def history_length(max_steps: int) -> int:
    """How many objectives of a run are kept."""
    return min(max_steps + 1, HISTORY)


def is_going(runs: Told, max_steps: int) -> np.ndarray:
    """Which of the runs are not at their ends. -> (R,) bool."""
    return (runs.status == Status.RUNNING) & (runs.n_steps < max_steps)


def best(states: em.State, histories: Any, ridge: Any, *, length: int) -> FitResult:
    """`best_of`, with histories of `length`; on the host, where the runs are there."""
    if isinstance(states.objective, np.ndarray):
        return _best_on_host(states, histories[:, :length], ridge)
    return _best(states, histories, ridge, length=length)


@program(static="length", hurried=True)
def _best(states: em.State, histories: Array, ridge: Any, *, length: int) -> FitResult:
    return best_of(states, histories[:, :length], ridge)


def _best_on_host(states: em.State, histories: np.ndarray, ridge: Any) -> FitResult:
    """`best_of` for states with NumPy leaves."""
    stands_on_it = _held_up_on_host(states, ridge)
    objective, winner = _winner(states, stands_on_it, np)
    state, history = jax.tree.map(lambda leaf: leaf[winner], (states, histories))
    return FitResult(
        mixture=state.mixture,
        objective=state.objective,
        status=state.status,
        n_steps=state.n_steps,
        history=history,
        effective_counts=state.moments.mass,
        held_up=stands_on_it[winner],  # pyright: ignore
        restarts=Restarts(objective, states.status, states.n_steps, histories),  # pyright: ignore
    )


def _held_up_on_host(states: em.State, ridge: Any) -> np.ndarray:
    """`held_up` of every run (R, ...), asked only where it may be. -> (R, K) bool."""
    if states.ridge_trace is None:
        return np.asarray(_held_up_each(states.mixture, ridge))
    found = np.zeros(states.mixture.log_weights.shape, bool)
    # What is no number may be anything.
    for run in np.flatnonzero(np.any(~(np.asarray(states.ridge_trace) <= HELD_UP), axis=1)):
        mixture = jax.tree.map(lambda leaf, run=run: leaf[run], states.mixture)
        try:
            with np.errstate(all="ignore"):
                found[run] = held_up(mixture, ridge, np)
        except np.linalg.LinAlgError:  # of a mixture that is none: programs have NaN for it
            found[run] = _held_up(mixture, ridge)
    return found


def trimmed(result: FitResult, count: int) -> FitResult:
    """A result on the host without the components that pad it; on a device each cut would be a program."""
    padded = result.mixture
    scales = jax.tree.map(lambda leaf: leaf[:count], padded.scales)
    return replace(
        result,
        mixture=Mixture(padded.log_weights[:count], padded.means[:count], scales, padded.family),
        effective_counts=result.effective_counts[:count],
        held_up=result.held_up[:count],
    )


def best_of(states: em.State, histories: Array, ridge: Any) -> FitResult:
    """The run (R, ...) with the highest finite objective, and how all of them ended.

    A run with a component that the ridge holds up wins only where all have one: its objective says how small the ridge
    is, and nothing of the data.
    """
    stands_on_it = lax.map(lambda mixture: held_up(mixture, ridge), states.mixture)
    objective, winner = _winner(states, stands_on_it, jnp)
    best, history = jax.tree.map(lambda leaf: leaf[winner], (states, histories))
    return FitResult(
        mixture=best.mixture,
        objective=best.objective,
        status=best.status,
        n_steps=best.n_steps,
        history=history,
        effective_counts=best.moments.mass,
        held_up=stands_on_it[winner],
        restarts=Restarts(objective, states.status, states.n_steps, histories),
    )


def _winner(states: em.State, stands_on_it: Any, xp: Any) -> tuple[Any, Any]:
    """The objectives (R,) by which runs compete, and the best run, by NumPy or `jax.numpy`."""
    failed = xp.isin(states.status, xp.array(FAILED)) | ~xp.isfinite(states.objective)
    objective = xp.where(failed, -xp.inf, states.objective)
    sound = ~failed & ~xp.any(stands_on_it, axis=1)
    # Where every restart failed, the best of what they last held is still worth looking at.
    last_held = xp.where(xp.isfinite(states.objective), states.objective, -xp.inf)
    among = xp.where(sound, objective, -xp.inf)
    among = xp.where(xp.any(sound), among, xp.where(xp.all(failed), last_held, objective))
    return objective, xp.argmax(among)


@program(hurried=True)
def _held_up_each(mixtures: Mixture, ridge: Any) -> Array:
    """`held_up` of mixtures (R, ...). -> (R, K) bool."""
    return lax.map(lambda mixture: held_up(mixture, ridge), mixtures)


def held_up(mixture: Mixture, ridge: Any, xp: Any = jnp) -> Any:
    """Which components stand on the ridge, where the rows as a whole do not. -> (K,) bool, by `jax.numpy` or, of a
    mixture with such leaves, by NumPy.

    A constant or a collinear column leaves every component on it, and tells nothing of spikes.
    """
    each = xp.broadcast_to(xp.asarray(ridge, mixture.means.dtype), mixture.n_features)
    covariance = covariance_of(mixture)
    factor = np.linalg.cholesky(covariance) if xp is np else cholesky(covariance)
    whole = Dense(factor[None]).ridge_share(each)
    return (mixture.scales.ridge_share(each) > HELD_UP) & xp.isfinite(mixture.log_weights) & ~(whole > HELD_UP)


@program(hurried=True)
def _held_up(mixture: Mixture, ridge: Any) -> Array:
    return held_up(mixture, ridge)


def _no_history(states: em.State, max_steps: int) -> Any:
    # The history's length is static: a few lengths, few programs; and it rides in the loop, so it is bounded.
    capacity = min(next_power_of_two(max_steps + 1), HISTORY)
    return np.full((len(states.objective), capacity), np.nan, states.objective.dtype)


@program
def _run_all(
    part: tuple[em.State, Array], batches: Batches, settings: em.Settings, max_steps: Array
) -> tuple[em.State, Array]:
    every_round = jnp.int32(np.iinfo(np.int32).max)
    under_way = queue(*part, batches.chunk_size, settings, max_steps)
    return ended(work(under_way, batches, settings, max_steps, every_round))


@program(static="n_rows", hurried=True)
def _queue(part: tuple[em.State, Array, Array], settings: em.Settings, max_steps: Array, *, n_rows: int) -> Queue:
    states, histories, is_far = part
    return queue(states, histories, n_rows, settings, max_steps, is_far)


_work, _ended = program(work, static="form"), program(ended, hurried=True)


def _crews(states: em.State, batches: Batches, settings: em.Settings, number: int | None) -> Crews:
    """To whom the runs (R, ...) are dealt out; to so many cores where they have been dealt out to them before."""
    if is_traced((states, settings)):
        return OnCores(1, batches)
    n_runs, n_components = states.mixture.means.shape[:2]
    crews = crews_for(n_runs, n_components, batches, bytes_of_a_run(states, settings))
    return crews if number is None or not isinstance(crews, OnCores) else OnCores(number, batches)


def _told(under_way: Queue) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, status and steps of all runs. Leaves may have an axis of devices in front."""
    lane, n_runs = np.asarray(under_way.slots.lane), under_way.histories.shape[-2]
    taken = np.nonzero(lane < n_runs)
    places = (*taken[:-1], lane[taken])

    def whole(of_slots: Any, of_all: Any) -> np.ndarray:
        found = np.array(of_all)
        found[places] = np.asarray(of_slots)[taken]
        return found

    few, many = under_way.slots.states, under_way.states
    return whole(few.objective, many.objective), whole(few.status, many.status), whole(few.n_steps, many.n_steps)


def _taken(states: em.State, histories: Any, chosen: np.ndarray) -> tuple[em.State, Any]:
    if isinstance(states.objective, np.ndarray):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], (states, histories))
    return _of((states, histories), chosen)


def _put_back(states: em.State, histories: Any, chosen: np.ndarray, few: em.State, lines: Any) -> tuple[em.State, Any]:
    if not isinstance(states.objective, np.ndarray):
        return _put((states, histories), chosen, (few, lines))
    states, histories = jax.tree.map(np.array, (states, histories))
    jax.tree.map(lambda many, some: many.__setitem__(chosen, some), (states, histories), (few, lines))
    return states, histories

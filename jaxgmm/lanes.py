"""Many runs through one program: a few side by side, and as one ends the next takes its place.

A `vmap` of `run` over all of them would step every one until the slowest has ended, with all their intermediate values
in memory. Here a run makes its own number of steps, and memory does not grow with how many wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from . import em
from .acceleration import MEMORY
from .batches import Batches, bytes_of_fit, choose_width


class Slots(NamedTuple):
    """The W runs that are stepped side by side."""

    lane: Array  # (W,): which run of R each is; R where there is none
    states: em.State  # (W, ...); in a vacant slot that of some run, which is stepped along and kept nowhere


class Queue(NamedTuple):
    """R runs under way: some in slots, some waiting, some at their end."""

    slots: Slots
    states: em.State  # (R, ...), without memory, and without what those in slots have done since they got there
    histories: Array  # (R, capacity)
    order: Array  # (R,): the runs that were to be made, in turn, and then the others
    n_queued: Array  # (): how many were to be made
    served: Array  # (): how many of them have got a slot
    n_rounds: Array  # (): steps of the slots so far


def side_by_side(function: Callable[..., Any], mapped: Any, *shared: Any) -> Any:
    """function(one of `mapped`, *shared) for all of them; without `vmap` where there is only one."""
    if _length(mapped) > 1:
        return jax.vmap(lambda one: function(one, *shared))(mapped)
    single = function(jax.tree.map(lambda leaf: leaf[0], mapped), *shared)
    return jax.tree.map(lambda leaf: leaf[None], single)


def in_waves(function: Callable[[Any], Any], mapped: Any, n_components: int, n_rows: int, bytes_each: int = 0) -> Any:
    """`side_by_side`, as many at a time as run so on chunks of `n_rows`; the last wave is filled up by repetition."""
    n = _length(mapped)
    width = choose_width(n_components, n, n_rows, bytes_each)
    if width == n:
        return side_by_side(function, mapped)
    index = jnp.minimum(jnp.arange(-(-n // width) * width).reshape(-1, width), n - 1)
    waves = lax.map(lambda wave: side_by_side(function, wave), jax.tree.map(lambda leaf: leaf[index], mapped))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], waves)


def for_fits(function: Callable[[Any], Any], mapped: Any, shape: tuple[int, ...], batches: Batches) -> Any:
    """`in_waves` of what is done to rows for fits with means of `shape` (R, K, D)."""
    _, n_components, n_features = shape
    each = bytes_of_fit(n_components, n_features, batches.dtype.itemsize)
    return in_waves(function, mapped, n_components, batches.chunk_size, each)


def queue(states: em.State, histories: Array, n_rows: int, settings: em.Settings, max_steps: Array) -> Queue:
    """Runs of `em.run` from every state (R, ...), which will write the objective after t steps to histories[:, t].

    n_rows: of a chunk.
    """
    n = _length(states)
    width = choose_width(states.mixture.means.shape[1], n, n_rows, bytes_of_a_run(states, settings))
    states = jax.vmap(lambda state: em.resumed(state, max_steps))(states)
    histories = _written(histories, Slots(jnp.arange(n, dtype=jnp.int32), states))
    going = em.is_running(states, max_steps)
    order = jnp.argsort(~going).astype(jnp.int32)  # stable
    n_queued, zero = jnp.sum(going, dtype=jnp.int32), jnp.int32(0)
    if width == n:
        slots = Slots(jnp.arange(n, dtype=jnp.int32), _remembering(states, settings))
        return Queue(slots, states, histories, order, n_queued, n_queued, zero)
    states = states._replace(memory=None)
    vacant = _remembering(jax.tree.map(lambda leaf: leaf[:width], states), settings)
    slots = Slots(jnp.full(width, n, jnp.int32), vacant)
    return _served(Queue(slots, states, histories, order, n_queued, zero, zero), settings, jnp.full(width, True))


def work(queue: Queue, batches: Batches, settings: em.Settings, max_steps: Array, n_rounds: Array) -> Queue:
    """Step what is in the slots and fill them as they fall vacant, until all is done or `n_rounds` have been made.

    What is computed does not depend on how the rounds are cut into calls.
    """
    if len(queue.slots.lane) == len(queue.histories):
        return _rounds(queue, batches, settings, max_steps, n_rounds)

    def unfinished(queue: Queue) -> Array:
        return jnp.any(queue.slots.lane < len(queue.histories)) & (queue.n_rounds < n_rounds)

    def exchange(queue: Queue) -> Queue:
        queue = _rounds(queue, batches, settings, max_steps, n_rounds)
        return _served(queue, settings, ~em.is_running(queue.slots.states, max_steps))

    return lax.while_loop(unfinished, exchange, queue)


def states_of(queue: Queue) -> em.State:
    """Where all runs stand, (R, ...)."""
    if len(queue.slots.lane) == len(queue.histories):
        return queue.slots.states._replace(memory=None)
    return _kept(queue, queue.slots.lane)


def ended(queue: Queue) -> tuple[em.State, Array]:
    """The states (R, ...) that the runs end with, and their histories."""
    return jax.vmap(em.stopped)(states_of(queue)), queue.histories


def bytes_of_a_run(states: em.State, settings: em.Settings) -> int:
    """Of states (R, ...) each: itself, the step it makes, and what is on the way to that; and its memory."""
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states._replace(memory=None)))
    memory = 0 if settings.acceleration is None else 2 * MEMORY
    return (4 + memory) * own // _length(states)


def _kept(queue: Queue, lane: Array) -> em.State:
    """All states, with those of the slots in the places `lane` (W,); R is no place."""
    few = queue.slots.states._replace(memory=None)
    return jax.tree.map(lambda many, few: many.at[lane].set(few, mode="drop"), queue.states, few)


def _remembering(states: em.State, settings: em.Settings) -> em.State:
    """States (W, ...) with the memory that their acceleration needs: what waits or has ended needs none."""
    return jax.vmap(lambda state: em.prepared(state, settings))(states)


def _served(queue: Queue, settings: em.Settings, done: Array) -> Queue:
    """The runs of slots that are `done` (W,) put away, and the next of the queue in their slots."""
    n, slots = len(queue.histories), queue.slots
    states = _kept(queue, jnp.where(done, slots.lane, n))
    place = queue.served + jnp.cumsum(done, dtype=jnp.int32) - 1
    lane = jnp.where(place < queue.n_queued, queue.order[jnp.minimum(place, n - 1)], n)
    fresh = _remembering(jax.tree.map(lambda leaf: leaf[jnp.minimum(lane, n - 1)], states), settings)
    slots = Slots(jnp.where(done, lane, slots.lane), _where(done & (lane < n), fresh, slots.states))
    served = jnp.minimum(queue.served + jnp.sum(done, dtype=jnp.int32), queue.n_queued)
    return queue._replace(slots=slots, states=states, served=served)


def _rounds(queue: Queue, batches: Batches, settings: em.Settings, max_steps: Array, n_rounds: Array) -> Queue:
    """Step the slots until one of their runs ends while others wait, or until all have ended."""
    none_waits = queue.served == queue.n_queued

    # Only what changes is carried: not the states of all runs.
    def going(carry: tuple[Slots, Array, Array]) -> Array:
        slots, _, made = carry
        is_running = em.is_running(slots.states, max_steps)
        vacant = slots.lane == len(queue.histories)
        goes_on = jnp.where(none_waits, jnp.any(is_running & ~vacant), jnp.all(is_running | vacant))
        return goes_on & (made < n_rounds)

    def body(carry: tuple[Slots, Array, Array]) -> tuple[Slots, Array, Array]:
        slots, histories, made = carry
        stepped = side_by_side(em.step, slots.states, batches, settings)
        if len(slots.lane) > 1:  # a single slot is stepped only while its run goes on
            stepped = _where(em.is_running(slots.states, max_steps), stepped, slots.states)
        slots = slots._replace(states=stepped)
        return slots, _written(histories, slots), made + 1

    slots, histories, made = lax.while_loop(going, body, (queue.slots, queue.histories, queue.n_rounds))
    return queue._replace(slots=slots, histories=histories, n_rounds=made)


def _written(histories: Array, slots: Slots) -> Array:
    """The objectives in their places; past a history's end, and for no run, none is kept."""
    return histories.at[slots.lane, slots.states.n_steps].set(slots.states.objective, mode="drop")


def _where(chosen: Array, new: Any, old: Any) -> Any:
    """The leaves (W, ...) of `new` where `chosen` (W,), else those of `old`."""
    return jax.tree.map(lambda a, b: jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def _length(tree: Any) -> int:
    return len(jax.tree.leaves(tree)[0])

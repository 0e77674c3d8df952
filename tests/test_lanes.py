"""Many runs through one program: each ends as it would alone, whatever runs beside it and however many wait."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Status, em
from jaxgmm.em.lanes import in_waves
from jaxgmm.families import SHELF
from jaxgmm.rows.sizes import choose_width
from jaxgmm.search import start as starting
from jaxgmm.search.queue import ended, queue, work
from jaxgmm.search.resident import Resident
from tests import oracle
from tests.laws import every_kind
from tests.tolerances import assert_close

N, D, K, R = 240, 2, 3, 37
X = oracle.blobs(seed=5, n_rows=N, n_features=D, n_components=K, distance=2.5).x
SETTINGS = em.Settings(tol=1e-5, ridge=1e-6)


def starts(family, batches, n_lanes=R):
    """Runs from random rows, one of them lost before it began."""
    counts = np.full(n_lanes, K, np.int32)
    seeds = starting.seeds_of(
        starting.pairs_of_keys(jax.random.key(0), n_lanes), counts, batches, seeding="random_rows", n_components=K
    )
    states = Resident(batches).started(seeds, counts, family, SETTINGS.ridge)
    return states._replace(status=states.status.at[2].set(Status.COLLAPSED))


@jax.jit
def run_all(states, histories, batches, settings, limit):
    return ended(work(queue(states, histories, batches.chunk_size, settings, limit), batches, settings, limit, 10**6))


def histories(n_lanes, capacity=64):
    return np.full((n_lanes, capacity), np.nan)


@every_kind
def test_each_run_ends_as_it_would_alone(family):
    """More runs than slots, of all lengths: state, steps, status and history are those of `em.run`."""
    with jax.enable_x64(True):
        batches = Batches.of(X, chunk_size=100)
        states = starts(family, batches)
        assert choose_width(K, R, batches.chunk_size) < R
        ended, history = run_all(states, histories(R), batches, SETTINGS, np.int32(50))
        run = jax.jit(em.run)
        statuses = set()
        for lane in range(R):
            begun = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
            alone = run(begun, batches, SETTINGS, np.int32(50))
            statuses.add(int(alone.status))
            assert int(ended.status[lane]) == int(alone.status)
            assert int(ended.n_steps[lane]) == int(alone.n_steps)
            assert_close(ended.objective[lane], alone.objective, "oracle", np.float64)
            assert_close(ended.mixture.means[lane], alone.mixture.means, "means", np.float64)
            kept = np.isfinite(history[lane])
            assert np.array_equal(kept, np.arange(64) <= int(alone.n_steps))
            assert float(history[lane][int(alone.n_steps)]) == float(ended.objective[lane])
            assert np.all(np.diff(np.asarray(history[lane])[kept]) > -1e-9)
        assert Status.COLLAPSED in statuses
        assert Status.CONVERGED in statuses


@pytest.mark.parametrize("n_lanes", [3, R])
def test_bursts_end_where_one_go_does(n_lanes):
    """However the rounds are cut into calls, the numbers are the same to the last bit: who watches changes nothing."""
    batches = Batches.of(X.astype(np.float32), chunk_size=100)
    states, history = starts(SHELF["full"], batches, n_lanes), histories(n_lanes).astype(np.float32)
    limit = np.int32(40)
    at_once = run_all(states, history, batches, SETTINGS, limit)
    under_way = jax.jit(queue, static_argnames="n_rows")(states, history, batches.chunk_size, SETTINGS, limit)
    for rounds in (0, 1, 7, 50, 10**6):
        under_way = jax.jit(work)(under_way, batches, SETTINGS, limit, np.int32(rounds))
    for one, other in zip(*map(jax.tree.leaves, (at_once, ended(under_way))), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


def test_a_run_that_a_limit_stopped_goes_on():
    batches = Batches.of(X.astype(np.float32), chunk_size=100)
    states = starts(SHELF["spherical"], batches)
    stopped, history = run_all(states, histories(R).astype(np.float32), batches, SETTINGS, np.int32(3))
    assert np.all(np.asarray(stopped.n_steps) <= 3)
    assert Status.MAX_STEPS in np.asarray(stopped.status)
    went_on = run_all(stopped, history, batches, SETTINGS, np.int32(40))
    at_once = run_all(states, histories(R).astype(np.float32), batches, SETTINGS, np.int32(40))
    assert np.array_equal(went_on[0].n_steps, at_once[0].n_steps)
    assert_close(went_on[0].objective, at_once[0].objective, "objective", np.float32)
    assert_close(went_on[1], at_once[1], "objective", np.float32)


def test_what_runs_beside_makes_no_difference(x64):
    """The first 20 of 37 runs end as 20 runs do. (In other slots of another program, so the last digit may differ, and
    in float32 with it the step at which a gain is found to be small enough.)"""
    batches = Batches.of(X, chunk_size=100)
    many = starts(SHELF["diag"], batches, R)
    # Keys are split anew for each number of restarts, so the starts are made equal by hand.
    fewer = jax.tree.map(lambda leaf: leaf[:20], many)
    all_ended = run_all(many, histories(R), batches, SETTINGS, np.int32(60))[0]
    ended = run_all(fewer, histories(20), batches, SETTINGS, np.int32(60))[0]
    assert np.array_equal(all_ended.n_steps[:20], ended.n_steps)
    assert_close(all_ended.objective[:20], ended.objective, "objective", np.float64)


@pytest.mark.parametrize("n_lanes", [1, 2, 16, 17, 40])
def test_waves_keep_the_order(n_lanes):
    values = np.arange(n_lanes, dtype=np.float32)
    squares = in_waves(lambda one: one[0] * one[1], (values, values), n_components=16, n_rows=512)
    assert np.array_equal(squares, values**2)


def test_many_restarts_need_the_memory_of_few():
    """What a program of 256 restarts needs beyond their states is what 16 need."""
    batches = Batches.of(np.zeros((20_000, 4), np.float32), chunk_size=1024)

    def temporary(n_lanes):
        mixture = jaxgmm.Mixture.create(np.full(K, 1 / K), np.zeros((K, 4)), np.ones(K), "spherical", np.float32)
        state = em.init(mixture, batches)
        states = jax.tree.map(lambda leaf: np.stack([leaf] * n_lanes), state)
        lowered = run_all.lower(states, np.zeros((n_lanes, 8), np.float32), batches, SETTINGS, np.int32(5))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(256) < 1.5 * temporary(32)

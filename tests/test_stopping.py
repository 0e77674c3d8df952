"""Where a run ends: where its last step brings less than tol, or where all steps to come together would."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, Status, em
from jaxgmm.em import state, verdict
from jaxgmm.em.steppers.memory import METHODS
from jaxgmm.families import SHELF
from jaxgmm.search import start as starting
from jaxgmm.search.runs import run_to_ends
from tests import oracle
from tests.tolerances import assert_close

N, D, K = 300, 2, 3
BLOBS = oracle.blobs(seed=5, n_rows=N, n_features=D, n_components=K, distance=1.5)


def settles(gain, last, tol, stopping="aitken", change=None, rounding=1e-15, before=None, acceleration=None):
    """before: the gain of the step before the last; by default as if the last two had shrunk alike."""
    settings = em.Settings(tol=tol, stopping=stopping, acceleration=acceleration)
    change = gain if change is None else change
    if before is None:
        before = last * last / gain if gain else last
    change, gain, last, before, rounding = map(jnp.float32, (change, gain, last, before, rounding))
    old = SimpleNamespace(gain=last, gain_before=before)
    return bool(verdict._has_settled(change, gain, old, rounding, settings))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_gains_that_shrink_by_a_constant_rate_end_where_too_little_is_to_come(rate, tol):
    """Aitken's limit after step t is l(t−1) + gain(t) / (1 − rate); l(t) is to lie within tol of it, and three steps in
    turn are to have gained less than tol, however fast gains shrink."""
    gains = 0.37 * rate ** np.arange(1500)
    gains = gains[gains > 1e-20]
    heights = np.cumsum(gains)
    limits = (heights - gains)[1:] + gains[1:] / (1.0 - gains[1:] / gains[:-1])
    first = max(1 + int(np.argmax(limits - heights[1:] < tol)), 2 + int(np.argmax(gains < tol)))
    steps = range(max(2, first - 3), first + 3)
    found = [settles(gains[t], gains[t - 1], tol, before=gains[t - 2]) for t in steps]
    assert found == [t >= first for t in steps]


@pytest.mark.parametrize(("gain", "last"), [(1e-5, np.inf), (2e-5, 1e-5), (1e-5, 1e-5), (-1e-5, 1e-4), (1e-5, -1e-4)])
def test_gains_that_do_not_shrink_tell_nothing(gain, last):
    """Nor does a first step; what is within rounding has settled all the same, but for a first step."""
    assert not settles(gain, last, 1e-3, before=last)
    assert settles(gain, last, 1e-3, rounding=1e-5, before=last) == np.isfinite(last)


def test_a_rate_must_be_seen_twice():
    """A plateau's gains fall by an order and then rise: one small rate tells nothing of what is to come."""
    assert not settles(1e-6, 1e-5, 1e-4, before=1.01e-5)
    assert not settles(1e-6, 1e-5, 1e-4, before=5e-6)
    assert settles(1e-6, 1e-5, 1e-4, before=9e-5)
    assert not settles(1e-6, 1e-5, 1e-4, before=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_accelerated_run_goes_on_over_a_plateau(method):
    """Where it soon is, EM's steps are small for hundreds of steps: only that they shrink fast tells an optimum."""
    for gain, last, is_end in ((9e-7, 9.1e-7, False), (9e-7, 8e-7, False), (3e-7, 9e-7, True), (3e-7, 2e-6, False)):
        assert settles(gain, last, 1e-6, "gain")
        assert settles(gain, last, 1e-6, "gain", acceleration=method) == is_end
    assert settles(2e-7, 2e-7, 1e-6, "gain", acceleration=method, rounding=1e-7)


@pytest.mark.parametrize("method", ["squarem", "lbfgs"])
def test_no_accelerated_run_ends_on_a_plateau_that_em_leaves(method, x64):
    """From nine starts among rows without clusters none ends lower than EM at the same tol. By one small gain alone
    SQUAREM ended one of them 0.05 nats a row lower, where EM's steps gain 9.7e-7 each, three hundred times and more."""
    batches = Batches.of(np.random.default_rng(5).normal(size=(N, 2)), chunk_size=N)
    how = {"ridge": 1e-6, "family": SHELF["spherical"], "tol": 1e-6}
    states = starting.start(jax.random.key(7), batches, "random_rows", 4, SHELF["spherical"], em.Settings(**how), 9)
    plain, _ = run_to_ends(states, batches, em.Settings(**how), 3000)
    ended, _ = run_to_ends(states, batches, em.Settings(acceleration=method, **how), 3000)
    assert np.all(np.asarray(ended.status) == Status.CONVERGED)
    assert np.all(np.asarray(ended.objective) > np.asarray(plain.objective) - 1e-3)


@pytest.mark.parametrize("stopping", state.STOPPING)
def test_a_tol_of_0_never_stops(stopping):
    assert not any(
        settles(g, last, 0.0, stopping) for g, last in ((0.0, 0.0), (1e-30, 1e-3), (0.0, 1.0), (0.0, np.inf))
    )


@pytest.mark.parametrize("stopping", state.STOPPING)
def test_a_fall_that_takes_back_the_rise_before_it_ends_a_run(stopping):
    """A run in float32 may go to and fro between two mixtures, each step far larger than tol."""
    assert settles(-4.3e-5, 4.3e-5, 1e-5, stopping)
    assert not settles(-4.3e-5, 4.3e-5, 0.0, stopping)
    assert not settles(-4.3e-5, 9e-5, 1e-5, stopping)
    assert not settles(4.3e-5, -4.3e-5, 1e-5, stopping)


def test_a_change_through_0_is_no_end_under_a_ridge():
    """What the objective gives up for the ridge's sake is a gain as well: both must be small."""
    assert not settles(1e-1, 1.0, 1e-3, "gain", change=0.0)
    assert not settles(1e-6, 1.0, 1e-3, "gain", change=-1e-1)
    assert settles(1e-6, 1.0, 1e-3, "gain", change=-1e-6)


def run(tol, stopping, acceleration=None, max_steps=4000, ridge=0.0):
    batches = Batches.of(BLOBS.x, chunk_size=512)
    settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration, stopping=stopping)
    state = em.init(Mixture.create(*BLOBS.start, dtype=np.float64), batches, settings)
    return em.run(state, batches, settings, max_steps)


def test_a_slow_run_ends_within_tol_of_its_optimum_and_by_its_last_gain_far_off(x64):
    tol, optimum = 1e-4, run(1e-13, "gain")
    below = {stopping: float(optimum.objective) - float(run(tol, stopping).objective) for stopping in state.STOPPING}
    assert int(optimum.status) == Status.CONVERGED
    assert below["aitken"] < 2.0 * tol
    assert below["gain"] > 2.0 * below["aitken"]


@pytest.mark.parametrize("method", METHODS)
def test_accelerated_runs_end_by_it_too(method, x64):
    ended = run(1e-8, "aitken", method)
    assert int(ended.status) == Status.CONVERGED
    assert_close(ended.objective, run(1e-8, "aitken").objective, "settled", np.float64)


def test_the_first_steps_do_not_tell_what_is_to_come(x64):
    """A gain is small or not at once; what is to come is known once the rate was seen twice."""
    for stopping, least in (("gain", 1), ("aitken", 3)):
        assert int(run(1e3, stopping, max_steps=least - 1).status) == Status.MAX_STEPS
        assert int(run(1e3, stopping, max_steps=least).status) == Status.CONVERGED


@pytest.mark.parametrize("family", ["full", "tied", "spherical"])
@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_aitken_ends_no_run_that_gain_would_go_on_with(family, spread, x64):
    """From the same starts, at the default tol and at others: as many steps or more, and as high or higher."""
    x = oracle.blobs(seed=11, n_rows=N, n_features=D, n_components=K, distance=spread).x
    for tol in (1e-2, 1e-3, 1e-5):
        how = {"n_restarts": 8, "init": "random_rows", "tol": tol, "max_steps": 2000}
        ends = {s: jaxgmm.fit(jax.random.key(2), x, K, family, stopping=s, **how).restarts for s in state.STOPPING}
        assert np.all(np.asarray(ends["aitken"].n_steps) >= np.asarray(ends["gain"].n_steps))
        assert np.all(np.asarray(ends["aitken"].objective) >= np.asarray(ends["gain"].objective))


def test_under_a_large_ridge_a_run_ends_at_rest(x64):
    """Another hundred steps move it by nothing that counts."""
    batches = Batches.of(BLOBS.x, chunk_size=512)
    ended = run(1e-9, "gain", ridge=0.5)
    further = em.run(ended._replace(status=jnp.int32(0)), batches, em.Settings(tol=0.0, ridge=0.5), ended.n_steps + 100)
    assert int(ended.status) == Status.CONVERGED
    assert_close(further.objective, ended.objective, "settled", np.float64)
    assert_close(further.mixture.means, ended.mixture.means, "settled", np.float64)


def test_tol_0_makes_every_step_of_a_fit():
    """Rounding makes gains negative in the end, two in turn even; no run of exactly max_steps may stop at that."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0.0, 1.0, (150, 2)), rng.normal(3.0, 1.0, (150, 2))]).astype(np.float32)
    result = jaxgmm.fit(jax.random.key(0), x, 3, tol=0.0, max_steps=400, stopping="aitken", n_restarts=8)
    assert np.asarray(result.restarts.n_steps).tolist() == [400] * 8

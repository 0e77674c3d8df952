"""Accelerated EM: fewer passes to the same optimum, never downhill, and a run that ends as one of EM's own does."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Mixture, Status, em
from jaxgmm.covariances import Form
from jaxgmm.em.expectation import expect
from jaxgmm.em.maximisation import maximise
from jaxgmm.em.steppers.memory import METHODS
from jaxgmm.em.steppers.point import Point, flat, gradient, moments_at, natural_gradient, target_of
from jaxgmm.em.steppers.shelf import ACCELERATIONS
from jaxgmm.families import SHELF
from jaxgmm.priors import Ridge
from jaxgmm.search import start as starting
from jaxgmm.search.observer import Observer
from jaxgmm.search.runs import run_to_ends
from tests import oracle
from tests.tolerances import TABLE, assert_close, assert_same_mixture, tolerance

N, D, K = 400, 2, 3
BLOBS = oracle.blobs(seed=5, n_rows=N, n_features=D, n_components=K, distance=1.5)

every_method = pytest.mark.parametrize("method", METHODS)
every_family = pytest.mark.parametrize("family", SHELF)


def case(family, dtype=np.float64, weights=None):
    return Mixture.create(*BLOBS.start, family, dtype=dtype), Batches.of(BLOBS.x, weights, 100, dtype=dtype)


def settings(method=None, tol=0.0, ridge=0.0):
    return em.Settings(tol=tol, ridge=ridge, acceleration=method)


def history(family, method, n_steps, dtype=np.float64, weights=None):
    """Objectives after each step, and the last state."""
    mixture, batches = case(family, dtype, weights)
    chosen = settings(method)

    @jax.jit
    def run(state):
        def body(state, _):
            state = em.step(state, batches, chosen)
            return state, state.objective

        return jax.lax.scan(body, state, None, length=n_steps)

    start = em.init(mixture, batches, chosen)
    state, objectives = run(start)
    return np.append(start.objective, objectives), state


@cache
def history_of_em(family, n_steps, dtype):
    """What every method is held against; made once."""
    return history(family, None, n_steps, dtype)[0]


def placed(family, ridge=0.0):
    """A state that EM has come to, the point from which its mixture was estimated, and a function of points."""
    mixture, batches = case(family)
    state = em.step(em.init(mixture, batches), batches, settings(ridge=ridge))
    point = jax.jit(target_of)(state.mixture, state.moments)
    total = batches.total_weight

    def at(point):
        return maximise(moments_at(point, total), point.means, SHELF[family], state.mixture.scales, Ridge(ridge))

    return point, at, batches


@every_family
def test_the_gradient_is_that_of_what_em_raises(family, x64):
    """From the moments alone, of the constrained mixture that a point stands for, and less what the ridge takes."""
    ridge = 0.1
    point, at, batches = placed(family, ridge)

    def raised(point):
        mixture = at(point)
        moments = expect(mixture, batches, Form.SAFE)
        share = jax.lax.stop_gradient(moments.mass) / batches.total_weight
        taken = 0.5 * ridge * jnp.sum(share * jnp.sum(mixture.scales.precision_diagonal(), axis=-1))
        return moments.objective / batches.total_weight - taken, (mixture, moments)

    @jax.jit
    def both(point):
        expected, (mixture, moments) = jax.grad(raised, has_aux=True)(point)
        return gradient(point, mixture, moments, settings(ridge=ridge)), expected

    for one, other in zip(*both(point), strict=True):
        assert_close(one, other, "derivatives", np.float64)


@every_method
def test_the_ridge_is_kept(method, x64):
    """A run under a ridge ends where EM under it would stay, and no variance falls below the ridge."""
    mixture, batches = case("full")
    ended = em.run(em.init(mixture, batches), batches, settings(method, 1e-8, 1e-2), 3000)
    assert Status(int(ended.status)) is Status.CONVERGED
    stayed = em.run(em.init(ended.mixture, batches), batches, settings(None, 0.0, 1e-2), 2000)
    assert_close(ended.objective, stayed.objective, "settled", np.float64)
    spike, batches = spiked()
    ended = em.run(em.init(spike, batches), batches, settings(method, 0.0, 1e-3), 200)
    assert float(jnp.min(ended.mixture.scales.variances())) >= 0.99e-3


def spiked():
    """Six equal rows, and a component on them."""
    x = np.concatenate([BLOBS.x[:50], np.full((6, D), 9.0)])
    spike = Mixture.create([0.9, 0.1], [[0.0, 0.0], [9.0, 9.0]], np.ones((2, 2)), "diag", dtype=np.float64)
    return spike, Batches.of(x)


@every_method
def test_units_do_not_matter(method, x64):
    """The same rows in other units, each feature in its own: as many steps, but for rounding."""
    steps = []
    weights, means, covariances = BLOBS.start
    for units in (np.array([1.0, 1.0]), np.array([1e-6, 1e-6]), np.array([1e5, 1e-4])):
        mixture = Mixture.create(weights, means * units, covariances * np.outer(units, units), "full", dtype=np.float64)
        batches = Batches.of(BLOBS.x * units, None, 100, dtype=np.float64)
        state = em.run(em.init(mixture, batches), batches, settings(method, 1e-8), 3000)
        assert Status(int(state.status)) is Status.CONVERGED
        steps.append(int(state.n_steps))
    assert max(steps) <= 1.25 * min(steps)


def test_memories_know_every_stepper_by_number():
    assert tuple(ACCELERATIONS) == METHODS
    assert all(stepper.name == name for name, stepper in ACCELERATIONS.items())


def test_memory_comes_and_goes_with_the_setting(x64):
    """`init` gives it, so that any loop may carry a state; `step` drops it; another method starts anew."""
    mixture, batches = case("diag")
    state = em.init(mixture, batches, settings("squarem"))
    looped = jax.lax.fori_loop(0, 5, lambda _, s: em.step(s, batches, settings("squarem")), state)
    assert looped.memory is not None
    assert em.step(looped, batches, settings()).memory is None
    other = em.run(looped, batches, settings("lbfgs"), 6)
    assert int(other.memory.method) != int(looped.memory.method)
    assert int(other.memory.pairs.count) == 0
    assert float(other.objective) >= float(looped.objective)


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_em_steps_along_the_natural_gradient(family, x64):
    """Of means and scatters exactly, where no constraint is in between; of log weights to the first order."""
    point, at, batches = placed(family)

    @jax.jit
    def both(point):
        mixture = at(point)
        moments = expect(mixture, batches, Form.SAFE)
        target, slope = target_of(mixture, moments), gradient(point, mixture, moments, settings())
        natural = natural_gradient(SHELF[family].kind, point, slope)
        return flat(target) - flat(point), target.means - point.means, natural, flat(slope)

    step, shift, natural, slope = map(np.asarray, both(point))
    # Scatters are those about the old means, less what EM's new means take away: of the second order as well.
    bound = np.max(np.square(step)) + np.max(np.abs(shift)) ** 2
    np.testing.assert_allclose(natural, step, atol=2.0 * bound)
    assert natural @ slope > 0.0


@every_method
@pytest.mark.parametrize("family", ["full", "VEI"])
def test_never_downhill_and_no_slower_to_the_same_optimum(family, method, x64):
    """A refused proposal leaves the objective where it is; the end is that of EM, reached in fewer steps."""
    plain = history_of_em(family, 3000, np.float64)
    found, state = history(family, method, 1000)
    fall = tolerance("fall", np.float64)
    assert np.all(np.diff(found) >= -(fall.absolute + fall.relative * abs(found[-1])))
    assert_close(found[-1], plain[-1], "settled", np.float64)
    there = [int(np.argmax(h >= min(plain[-1], found[-1]) - 1e-6)) for h in (plain, found)]
    assert there[1] <= 1.1 * there[0] + 2
    if method != "anderson" and there[0] > 100:  # where EM is slow; by how much is for benchmarks to say
        assert there[1] <= there[0] / 2
    assert int(state.n_steps) == 1000
    # The first two steps are EM's own.
    np.testing.assert_allclose(found[:3], plain[:3], rtol=1e-12)


@every_method
def test_float32_goes_the_same_way(method):
    plain = history_of_em("full", 500, np.float32)
    found, state = history("full", method, 500, np.float32)
    fall = tolerance("fall", np.float32)
    assert np.all(np.diff(found) >= -(fall.absolute + fall.relative * abs(found[-1])))
    assert found[-1] >= plain[-1] - TABLE["settled"]["float32"].absolute
    assert state.mixture.means.dtype == np.float32


@every_method
def test_only_a_step_of_em_s_own_ends_a_run(method, x64):
    """At the state that a run calls converged, EM itself gains less than tol."""
    mixture, batches = case("full")
    tol = 1e-7
    ended = em.run(em.init(mixture, batches), batches, settings(method, tol), 5000)
    assert Status(int(ended.status)) is Status.CONVERGED
    again = em.step(ended, batches, settings())
    assert abs(float(again.objective - ended.objective)) < tol
    plain = em.run(em.init(mixture, batches), batches, settings(None, tol), 5000)
    assert int(ended.n_steps) < int(plain.n_steps)
    same = em.run(ended, batches, settings(method, tol), 5000)
    for one, other in zip(jax.tree.leaves(same), jax.tree.leaves(ended), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_count_rows(x64):
    weights = np.random.default_rng(0).integers(0, 3, N)
    mixture, batches = case("diag", weights=weights)
    repeated = Batches.of(np.repeat(BLOBS.x, weights, axis=0), None, 100)
    one, other = (em.run(em.init(mixture, b), b, settings("lbfgs"), 30) for b in (batches, repeated))
    assert_close(one.objective, other.objective, "settled", np.float64)
    assert one.memory is not None


@every_method
def test_a_component_that_is_switched_off_stays_off(method, x64):
    mixture, batches = case("full")
    off = Mixture(jnp.array([-jnp.inf, *jnp.log(jnp.array([0.5, 0.5]))]), mixture.means, mixture.scales, mixture.family)
    small = Mixture(jnp.log(jnp.array([0.5, 0.5])), mixture.means[1:], jax.tree.map(lambda a: a[1:], mixture.scales),
                    mixture.family)  # fmt: skip
    one, other = (em.run(em.init(m, batches), batches, settings(method), 60) for m in (off, small))
    assert float(one.mixture.log_weights[0]) == -np.inf
    np.testing.assert_array_equal(one.mixture.means[0], mixture.means[0])
    assert_close(one.objective, other.objective, "objective", np.float64)


@every_method
def test_a_run_that_collapses_says_so(method, x64):
    """Equal rows, and no ridge: the component that finds them has no variance left."""
    mixture, batches = spiked()
    ended = em.run(em.init(mixture, batches), batches, settings(method), 300)
    assert Status(int(ended.status)) is Status.COLLAPSED
    assert np.isfinite(ended.objective)


@every_method
def test_restarts_end_as_alone_and_as_in_bursts(method, x64):
    """Through fewer slots than runs, and whoever watches: memory belongs to a run, not to its slot.

    In float64: in float32 the rounding of another program may lead Anderson's proposals to another plateau.
    """
    batches = Batches.of(BLOBS.x, None, 100)
    chosen = settings(method, 1e-6, 1e-6)
    states = starting.start(jax.random.key(0), batches, "random_rows", K, SHELF["spherical"], chosen, 40)
    at_once, histories = run_to_ends(states, batches, chosen, 80)
    in_bursts, watched = run_to_ends(states, batches, chosen, 80, Observer(lambda snapshot: None, every=3))
    for one, other in zip(jax.tree.leaves(at_once), jax.tree.leaves(in_bursts), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(histories, watched)
    assert at_once.memory is None
    run = jax.jit(lambda state: em.run(state, batches, chosen, 80))
    for lane in (0, 17, 39):
        alone = run(jax.tree.map(lambda leaf, lane=lane: leaf[lane], states))
        assert_close(at_once.objective[lane], alone.objective, "settled", np.float64)


def test_the_ways_in():
    """fit, sweep and the estimator take it; a name that is none is refused before anything is compiled."""
    key, x = jax.random.key(0), BLOBS.x.astype(np.float32)
    more = {"n_restarts": 2, "tol": 1e-6, "max_steps": 500}
    result = jaxgmm.fit(key, x, K, "diag", acceleration="lbfgs", **more)
    assert int(result.status) == Status.CONVERGED
    sweep = jaxgmm.sweep(key, x, [1, 2], ["diag"], 2, acceleration="squarem", tol=1e-5)
    assert {cell.status for cell in sweep.cells} == {"CONVERGED"}
    gm = GaussianMixture(K, acceleration="anderson", random_state=0, tol=1e-6, max_iter=1000).fit(BLOBS.x)
    assert gm.converged_
    for call in (
        lambda: jaxgmm.fit(key, x, K, acceleration="fast"),
        lambda: GaussianMixture(K, acceleration="fast").fit(x),
        lambda: em.Settings(acceleration="fast"),
        lambda: em.Settings(acceleration=["fast"]),
    ):
        with pytest.raises(ValueError, match=r"Unknown acceleration .*'fast'.*\. Expected None or one of 'squarem'"):
            call()


def test_vmap_changes_nothing(x64):
    mixture, batches = case("diag")
    moved = Mixture(mixture.log_weights, mixture.means + 0.2, mixture.scales, mixture.family)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), mixture, moved)
    run = jax.jit(lambda m: em.run(em.init(m, batches), batches, settings("lbfgs", 1e-9), 200))
    together = jax.vmap(run)(both)
    for lane, one in enumerate((mixture, moved)):
        alone = run(one)
        assert_close(together.objective[lane], alone.objective, "objective", np.float64)
        found = jax.tree.map(lambda leaf, lane=lane: leaf[lane], together.mixture)
        assert_same_mixture(found, alone.mixture, np.float32)  # as far as a run that ended at this tol is certain


def test_a_point_stands_for_its_mixture(x64):
    """An M-step from the moments at EM's next point makes EM's next mixture, for every family."""
    for family in SHELF:
        mixture, batches = case(family)
        state = em.init(mixture, batches)
        point = jax.jit(target_of)(state.mixture, state.moments)
        assert isinstance(point, Point)
        m_step = jax.jit(partial(maximise, prior=Ridge(1e-3)), static_argnums=2)
        one = m_step(moments_at(point, batches.total_weight), point.means, SHELF[family], mixture.scales)
        other = m_step(state.moments, mixture.means, SHELF[family], mixture.scales)
        assert_same_mixture(one, other, np.float64)

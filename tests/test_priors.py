"""Priors: what EM raises under one never falls, its M-step is a maximum, and one of a user's own is written in a file.

Two are a user's own, here, and one a stranger's: of public names alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxgmm import Batches, Mixture, Status, em, priors
from jaxgmm.covariances import Form
from jaxgmm.em.expectation import expect
from jaxgmm.em.maximisation import maximise
from jaxgmm.em.steppers.memory import METHODS
from jaxgmm.em.steppers.point import gradient, moments_at, target_of
from jaxgmm.families import DIAGONAL, FULL, SHELF, Pseudo
from jaxgmm.priors import Additions, Ridge, pseudo_log_density
from tests import oracle
from tests.laws import every_family
from tests.stranger import ShrunkMeans
from tests.tolerances import assert_close, assert_same_mixture, tolerance

N, D, K = 100, 3, 3
BLOBS = oracle.blobs(seed=3, n_rows=N, n_features=D, n_components=K)
WEIGHTS = np.random.default_rng(4).uniform(0.2, 3.0, N)
CENTRE = np.array([0.3, -0.2, 0.5])
SCALE = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.5]])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Wishart:
    """Inverse Wishart of each covariance matrix: density ∝ |Σ|^(−rows/2) exp(−½ tr(scatter Σ⁻¹))."""

    rows: Any  # ()
    scatter: Any  # (D, D)

    def means(self, mass, means, scales):
        return means

    def pseudo(self, kind, mass, means):
        return Additions(of_matrices=Pseudo(self.rows, kind.project(self.scatter[None])))

    def log_density(self, mixture, mass):
        return pseudo_log_density(self.pseudo(mixture.family.kind, mass, mixture.means), mixture)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlacedMeans:
    """Normal(centre, variance · I) of each mean, in the units of the data and not of Σ_k: no pseudo row tells of it."""

    centre: Any  # (D,)
    variance: Any  # ()

    def means(self, mass, means, scales):
        if scales is None:
            return means
        covariance = jnp.broadcast_to(scales.dense(), (*means.shape, means.shape[1]))
        # (mass Σ⁻¹ + I/v)⁻¹ (mass Σ⁻¹ x̄ + m₀/v), with both sides times Σ.
        left = mass[:, None, None] * jnp.eye(means.shape[1], dtype=means.dtype)[None] + covariance / self.variance
        pull = jnp.einsum("kij,j->ki", covariance, self.centre, precision="highest") / self.variance
        # One after the other: for a batch LAPACK's solver is not to be relied on (see `_base.linalg._one_by_one`).
        return jax.lax.map(lambda system: jnp.linalg.solve(*system), (left, mass[:, None] * means + pull))

    def pseudo(self, kind, mass, means):
        return Additions()

    def log_density(self, mixture, mass):
        return -0.5 * jnp.sum(jnp.square(mixture.means - self.centre[None])) / self.variance


PRIORS = {
    "means": ShrunkMeans(CENTRE, 5.0),
    "covariances": Wishart(np.float64(6.0), SCALE),
    "placed": PlacedMeans(CENTRE, 0.3),
}

every_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)

PAIRS = {f"covariances-{name}": (PRIORS["covariances"], family) for name, family in SHELF.items()}
PAIRS |= {f"{name}-full": (PRIORS[name], SHELF["full"]) for name in PRIORS if name != "covariances"}
of_each = pytest.mark.parametrize(("prior", "family"), PAIRS.values(), ids=PAIRS)
"""A prior of covariances with every family, each of which adds its pseudo-rows in its own way; any other with one."""


def log_density(prior, means, covariances, is_shared):
    """The prior's log-density once more, in NumPy and float64, of dense covariances (K, D, D)."""
    inverse, log_det = np.linalg.inv(covariances), np.linalg.slogdet(covariances)[1]
    away = means - CENTRE
    if isinstance(prior, ShrunkMeans):
        return -0.5 * np.sum(log_det + prior.strength * np.einsum("ki,kij,kj->k", away, inverse, away))
    if isinstance(prior, PlacedMeans):
        return -0.5 * np.sum(away**2) / prior.variance
    each = prior.rows * log_det + np.trace(prior.scatter @ inverse, axis1=1, axis2=2)
    return -0.5 * (each[0] if is_shared else np.sum(each))


def create(family, dtype=np.float64):
    return Mixture.create(*BLOBS.start, family=family, dtype=dtype)


def cut(dtype=np.float64, weights=WEIGHTS):
    return Batches.of(BLOBS.x.astype(dtype), weights, 32, n_components=K, dtype=dtype)


def settings(prior, **more):
    return em.Settings(prior=prior, **{"tol": 0.0, "ridge": 0.0} | more)


def run(family, prior, n_steps=20, dtype=np.float64, **more):
    mixture, batches, chosen = create(family, dtype), cut(dtype), settings(prior, **more)
    return em.run(em.init(mixture, batches, chosen), batches, chosen, n_steps)


@of_each
def test_the_posterior_never_falls_and_is_what_is_reported(family, prior, x64):
    mixture, batches, chosen = create(family), cut(), settings(prior)

    @jax.jit
    def history(state):
        return jax.lax.scan(lambda s, _: ((s := em.step(s, batches, chosen)), s.objective), state, None, length=30)

    start = em.init(mixture, batches, chosen)
    state, objectives = history(start)
    found = np.array([start.objective, *objectives])
    fall = tolerance("fall", np.float64)
    assert np.all(np.diff(found) >= -(fall.absolute + fall.relative * np.abs(found[1:])))
    assert found[-1] > found[0]
    assert not bool(state.fell)

    for value, of in ((found[0], mixture), (found[-1], state.mixture)):
        likelihood = np.average(np.asarray(of.log_prob(BLOBS.x)), weights=WEIGHTS)
        is_shared = of.scales.dense().shape[0] == 1
        added = log_density(prior, np.asarray(of.means), np.asarray(of.covariances), is_shared)
        assert_close(value, likelihood + added / WEIGHTS.sum(), "objective", np.float64, factor=10.0)


@pytest.mark.parametrize("family", ["full", "diag"])
@pytest.mark.parametrize("prior", [PRIORS["means"], PRIORS["covariances"]], ids=["means", "covariances"])
def test_the_m_step_is_the_numerical_maximum(family, prior, x64):
    """Of the expected complete-data log-likelihood plus log p, by SciPy's BFGS over means and factors."""
    mixture, batches = create(family), cut()
    moments = em.init(mixture, batches).moments
    found = maximise(moments, mixture.means, mixture.family, mixture.scales, prior)
    mass, about = moments.mass, mixture.means
    is_full = mixture.family.kind == FULL
    assert is_full or mixture.family.kind == DIAGONAL
    where = np.tril_indices(D) if is_full else np.diag_indices(D)

    def unpacked(vector):
        means, entries = vector[: K * D].reshape(K, D), vector[K * D :].reshape(K, -1)
        factor = jnp.zeros((K, D, D)).at[:, where[0], where[1]].set(entries)
        return means, factor @ jnp.swapaxes(factor, 1, 2)

    @jax.jit
    def lowered(vector):
        means, covariances = unpacked(vector)
        inverse, log_det = jnp.linalg.inv(covariances), jnp.linalg.slogdet(covariances)[1]
        shift = means - about
        second = moments.second if is_full else jnp.eye(D)[None] * moments.second[:, None]
        cross = moments.first[:, :, None] * shift[:, None]
        scatter = second - cross - jnp.swapaxes(cross, 1, 2) + mass[:, None, None] * shift[:, :, None] * shift[:, None]
        raised = -0.5 * jnp.sum(mass * log_det + jnp.einsum("kij,kji->k", scatter, inverse))
        away = means - CENTRE[None]
        if isinstance(prior, ShrunkMeans):
            raised -= 0.5 * jnp.sum(log_det + prior.strength * jnp.einsum("ki,kij,kj->k", away, inverse, away))
        else:
            raised -= 0.5 * jnp.sum(prior.rows * log_det + jnp.einsum("ij,kji->k", prior.scatter, inverse))
        return -raised

    matrices = np.tile(np.eye(D), (K, 1, 1))[:, where[0], where[1]]
    start = np.concatenate([np.ravel(about), matrices.ravel()])
    best = minimize(lowered, start, jac=jax.jit(jax.grad(lowered)), method="BFGS", options={"gtol": 1e-9})
    means, covariances = unpacked(jnp.asarray(best.x))
    # A quadratic optimiser's gradient of some 1e-8 leaves parameters known to as much, over curvatures of 1 and more.
    assert_close(found.means, means, "derivatives", np.float64, factor=10.0)
    assert_close(found.covariances, covariances, "derivatives", np.float64, factor=10.0)


@every_prior
def test_float32_is_near_float64(prior):
    one, other = (run("full", prior, 10, dtype) for dtype in (np.float32, np.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves((one.mixture, one.objective))} == {np.dtype(np.float32)}
    assert_same_mixture(one.mixture, other.mixture, np.float32)
    assert_close(one.objective, other.objective, "objective", np.float32)


@every_prior
def test_jit_and_other_numbers_of_the_prior_change_no_program(prior, x64):
    mixture, batches = create("tied"), cut()
    n_traced = 0

    @jax.jit
    def jitted(mixture, chosen):
        nonlocal n_traced
        n_traced += 1
        return em.run(em.init(mixture, batches, chosen), batches, chosen, 10)

    weaker = jax.tree.map(lambda leaf: 1.5 * leaf, prior)
    for one in (prior, weaker):
        assert_same_mixture(jitted(mixture, settings(one)).mixture, run("tied", one, 10).mixture, np.float64)
    assert n_traced == 1
    moved = run("tied", prior, 10).mixture.covariances - run("tied", weaker, 10).mixture.covariances
    assert float(jnp.max(jnp.abs(moved))) > 1e-3


def test_strength_goes_from_nothing_to_everything(x64):
    free, weak, strong = (run("full", prior) for prior in (None, ShrunkMeans(CENTRE, 0.0), ShrunkMeans(CENTRE, 1e9)))
    # Of a weak one a row's worth of log|Σ_k| is left: means are the rows' own at the next step of either.
    step = partial(maximise, free.moments, free.mixture.means, free.mixture.family, free.mixture.scales)
    assert_close(step(ShrunkMeans(CENTRE, 0.0)).means, step(Ridge(0.0)).means, "means", np.float64)
    assert float(weak.objective) > float(strong.objective)
    assert_close(strong.mixture.means, np.tile(CENTRE, (K, 1)), "without_ridge", np.float64)


@every_family
def test_the_ridge_is_what_pseudo_rows_say(family, x64):
    """Its log-density is that of the rows it adds, and of full covariances it is added to the diagonal."""
    mixture, batches = create(family), cut()
    moments = em.init(mixture, batches).moments
    for amount in (0.3, np.array([0.1, 0.2, 0.3])):
        ridge = Ridge(amount)
        step = partial(maximise, moments, mixture.means, mixture.family, mixture.scales)
        one, other = step(ridge), step(Ridge(0.0))
        added = ridge.pseudo(mixture.family.kind, moments.mass, one.means)
        inverse = np.linalg.inv(np.asarray(one.covariances))
        taken = -0.5 * np.sum(np.asarray(moments.mass) * np.trace(np.diag(amount * np.ones(D)) @ inverse, 0, 1, 2))
        for found in (ridge.log_density(one, moments.mass), pseudo_log_density(added, one)):
            assert_close(found, taken, "matrices", np.float64, factor=10.0)
        if family.name in ("full", "tied", "diag", "EEI"):
            grown = np.asarray(one.covariances - other.covariances)
            assert_close(grown, np.tile(np.diag(amount * np.ones(D)), (K, 1, 1)), "covariances", np.float64)


def test_ridge_and_prior_both_apply(x64):
    """A run under both ends where the sum of both is at rest; and no variance is below what the ridge leaves of it."""
    both = run("diag", PRIORS["means"], 3000, tol=1e-12, ridge=0.2)
    assert Status(int(both.status)) is Status.CONVERGED
    for other in (run("diag", PRIORS["means"], 300), run("diag", None, 300, ridge=0.2)):
        assert float(jnp.max(jnp.abs(other.mixture.means - both.mixture.means))) > 1e-3
    mass = both.moments.mass[:, None]
    least = 0.2 * mass / (mass + 1.0)
    assert bool(jnp.all(both.mixture.scales.variances() > least))


def test_a_state_from_an_init_that_knew_of_no_prior_is_looked_at_anew(x64):
    mixture, batches, chosen = create("full"), cut(), settings(PRIORS["means"])
    for n_steps in (0, 5):
        one, other = (em.run(em.init(mixture, batches, given), batches, chosen, n_steps) for given in (None, chosen))
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert_close(left, right, "objective", np.float64)
    one, other = (em.step(em.init(mixture, batches, given), batches, chosen) for given in (None, chosen))
    assert_close(one.gain, other.gain, "objective", np.float64)


@every_prior
@pytest.mark.parametrize("method", METHODS)
def test_accelerations_raise_the_posterior(prior, method, x64):
    plain = run("full", prior, 3000, tol=1e-10)
    found = run("full", prior, 3000, tol=1e-10, acceleration=method)
    assert {int(state.status) for state in (plain, found)} == {Status.CONVERGED}
    assert not bool(found.fell)
    assert_close(found.objective, plain.objective, "settled", np.float64)


@pytest.mark.parametrize("pair", [name for name in PAIRS if not name.startswith("placed")])
def test_the_gradient_knows_the_prior(pair, x64):
    prior, family = PAIRS[pair]
    mixture, batches, chosen = create(family), cut(), settings(prior, ridge=0.1)
    state = em.init(mixture, batches, chosen)
    point, total = target_of(state.mixture, state.moments), batches.total_weight

    def at(point):
        return maximise(moments_at(point, total), point.means, mixture.family, mixture.scales, chosen.prior_with_ridge)

    def raised(point):
        made = at(point)
        moments = expect(made, batches, Form.SAFE)
        share = jax.lax.stop_gradient(moments.mass)
        objective = moments.objective + prior.log_density(made, share) + Ridge(0.1).log_density(made, share)
        return objective / total, (made, moments)

    @jax.jit
    def both(point):
        expected, (made, moments) = jax.grad(raised, has_aux=True)(point)
        return gradient(point, made, moments, chosen), expected

    for one, other in zip(*both(point), strict=True):
        assert_close(one, other, "derivatives", np.float64)


def test_the_door():
    for wrong in ("default", 1.0, ShrunkMeans):
        with pytest.raises(TypeError, match=r"prior must be None or an object with the methods of jaxgmm.priors.Prior"):
            em.Settings(prior=wrong)
    with pytest.raises(ValueError, match="Give it as ridge="):
        em.Settings(prior=priors.Ridge(1e-3))

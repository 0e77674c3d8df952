"""Status is data, and honest: a fit that collapsed, ran out of the numbers or fell is never reported as converged."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Mixture, Status, em
from jaxgmm._base.status import FAILED, explain
from jaxgmm.covariances import Diagonal
from jaxgmm.families import SHELF
from jaxgmm.moments import DIAGONAL
from jaxgmm.search.fit import best_of_runs
from jaxgmm.search.plan import Search
from tests import oracle
from tests.laws import every_family
from tests.tolerances import EPS, assert_close


def fit(x, n_components, family="full", **more):
    options = {"n_restarts": 4, "max_steps": 50, "ridge": 0.0, "init": "random_rows", "dtype": x.dtype} | more
    return jaxgmm.fit(jax.random.key(0), x, n_components, family, **options)


def assert_honest(result, all_failed=False):
    """Failed lanes have objective −inf and lose; what is returned is finite, and CONVERGED only if it is sound."""
    restarts = result.restarts
    failed = np.isin(np.asarray(restarts.status), FAILED)
    objective = np.asarray(restarts.objective)
    assert np.all(np.isneginf(objective[failed]))
    assert np.all(np.isfinite(objective[~failed]))
    assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in (result.mixture.weights, result.mixture.means))
    if failed.all():
        assert int(result.status) in FAILED
    else:
        assert float(result.objective) == objective.max()
        assert int(result.status) not in FAILED
        assert np.all(np.isfinite(np.asarray(result.mixture.covariances)))
        assert np.all(np.linalg.eigvalsh(np.asarray(result.mixture.covariances, np.float64)) > 0)
    if all_failed:
        assert failed.all()


@every_family
def test_only_duplicates_collapse(family, dtype):
    """Without a ridge no covariance can be estimated from copies of one row: COLLAPSED, in every lane."""
    x = np.full((64, 2), 0.3, dtype)
    assert_honest(fit(x, 2, family), all_failed=True)


@pytest.mark.parametrize("family", ["full", "diag", "spherical", "VEI"])
def test_a_component_on_a_duplicate_is_not_converged(family, dtype):
    """Half of the rows are one and the same: a component that stands on them alone has no variance."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(32, 2)), np.full((32, 2), 7.0)]).astype(dtype)
    result = fit(x, 2, family, init=np.repeat([0, 1], 32))
    assert int(result.status) in FAILED
    assert_honest(result, all_failed=True)


def test_two_points_are_no_full_covariance(dtype):
    """A 2-D component on two rows is a line: the covariance is singular, whatever the rounding makes of it."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(62, 2)), [[50.1, 50.3], [51.7, 53.9]]]).astype(dtype)
    result = fit(x, 2, init=(np.arange(64) >= 62).astype(int))
    assert int(result.status) == Status.COLLAPSED
    assert_honest(result, all_failed=True)


@every_family
def test_a_ridge_holds_duplicates_up(family, dtype):
    """With a ridge the same data are an estimate: finite, and no determinant under that of ridge · I.

    (A single variance may be under the ridge in a family whose shapes are tied: it is given the ridge in the scatter.)
    """
    x = np.concatenate([np.random.default_rng(0).normal(size=(32, 2)), np.full((32, 2), 7.0)]).astype(dtype)
    result = fit(x, 2, family, init=np.repeat([0, 1], 32), ridge=1e-3)
    assert int(result.status) in (Status.CONVERGED, Status.MAX_STEPS)
    determinants = np.linalg.det(np.asarray(result.mixture.covariances, np.float64))
    assert np.all(determinants >= 1e-6 * (1 - 100 * EPS[dtype.name]))
    assert_honest(result)


@pytest.mark.parametrize("family", ["full", "tied", "diag", "EEI", "VEI"])
def test_a_constant_feature_collapses(family, dtype):
    """Its variance is 0 (or the rounding of its mean), with no ridge: never CONVERGED."""
    x = np.random.default_rng(2).normal(size=(64, 2)).astype(dtype)
    x[:, 1] = 123.456
    assert_honest(fit(x, 2, family), all_failed=True)


def test_barely_more_rows_than_components(dtype):
    """Six rows for five full covariances: all lanes fail, and a finite mixture comes back."""
    x = np.random.default_rng(3).normal(size=(6, 2)).astype(dtype)
    result = fit(x, 5)
    assert_honest(result, all_failed=True)
    with pytest.raises(ValueError, match="n_components"):
        fit(x, 7)


@every_family
@pytest.mark.parametrize("size", [1e19, 1e38])
def test_values_near_the_end_of_float32(family, size):
    """Squares of 1e19 overflow: such a fit may succeed, but is not CONVERGED with anything but finite numbers."""
    x = (np.random.default_rng(4).uniform(-1.0, 1.0, size=(64, 2)) * size).astype(np.float32)
    result = fit(x, 2, family)
    if int(result.status) in (Status.CONVERGED, Status.MAX_STEPS):
        assert np.all(np.isfinite(np.asarray(result.mixture.covariances)))
        assert np.isfinite(float(result.objective))
    objectives = np.asarray(result.restarts.objective)
    assert np.all(np.isneginf(objectives) | np.isfinite(objectives))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Sabotage:
    """A diagonal family whose estimate is three times too wide while what it was is narrow: EM under it must fall."""

    name: str = "sabotage"
    kind: object = DIAGONAL

    def estimate(self, scatter, mass, n_features, prior, previous):
        honest = SHELF["diag"].estimate(scatter, mass, n_features, prior, previous)
        factor = 1.0 if previous is None else jnp.where(previous.diagonal < 30.0, 3.0, 1.0)
        return Diagonal(factor * honest.diagonal)

    def n_free(self, n_components, n_features):
        return n_components * n_features

    def read(self, covariances, n_features):
        return SHELF["diag"].read(covariances, n_features)

    def show(self, covariance, n_components):
        return covariance.diagonal


def test_an_objective_that_fell_is_not_monotone(dtype):
    """A family whose estimate lowers the objective ends as NOT_MONOTONE, not as CONVERGED; it loses no lane for it."""
    blobs = oracle.blobs(seed=12, n_rows=100, n_features=2, n_components=2)
    fitted = fit(blobs.x.astype(dtype), 2, "diag", init=blobs.labels, tol=1e-6, max_steps=200).mixture
    start = Mixture(fitted.log_weights, fitted.means, fitted.scales, Sabotage())
    batches = Batches.of(blobs.x.astype(dtype), n_components=2, dtype=dtype)
    settings = em.Settings(tol=1e-4, ridge=0.0)
    first = em.init(start, batches)
    state = em.run(first, batches, settings, 200)
    assert bool(state.fell)
    assert float(state.objective) < float(first.objective)
    assert int(state.status) == Status.NOT_MONOTONE
    again = em.run(state, batches, settings, 400)
    assert int(again.status) == Status.NOT_MONOTONE


def test_a_point_a_million_deviations_away(dtype):
    """Its log-density is finite and right, and one component owns it."""
    mixture = Mixture.create([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], np.stack([np.eye(2)] * 2), dtype=dtype)
    x = np.array([[1e6, 0.0], [-1e6, 1e6]], dtype)
    nearest = np.array([[3.0, 0.0], [0.0, 0.0]])
    expected = np.log(0.5) - np.log(2 * np.pi) - 0.5 * np.sum((x.astype(np.float64) - nearest) ** 2, axis=1)
    assert_close(mixture.log_prob(x), expected, "log_density", dtype)
    assert np.array_equal(np.asarray(mixture.responsibilities(x)), [[0.0, 1.0], [1.0, 0.0]])


@every_family
def test_an_outlier_does_not_break_a_fit(family, dtype):
    """A row 1e6 standard deviations away: a finite fit in which no lane is NaN."""
    blobs = oracle.blobs(seed=13, n_rows=63, n_features=2, n_components=2)
    x = np.concatenate([blobs.x, [[1e6, -1e6]]]).astype(dtype)
    assert_honest(fit(x, 2, family, ridge=1e-3, init="k-means++"))


def test_failed_lanes_lose(dtype):
    """One start that collapses beside one that does not: the sound one is returned, the other reported."""
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.normal(size=(60, 2)), np.full((4, 2), 30.0)]).astype(dtype)
    batches = Batches.of(x, n_components=1, dtype=dtype)
    sound = Mixture.create([0.5, 0.5], [[0.0, 0.0], [5.0, 5.0]], np.stack([np.eye(2), 400 * np.eye(2)]), dtype=dtype)
    spike = Mixture.create([0.9, 0.1], [[0.0, 0.0], [30.0, 30.0]], np.stack([np.eye(2), np.eye(2)]), dtype=dtype)
    with jax.enable_x64(dtype == np.float64):
        states = jax.tree.map(lambda *a: jnp.stack(a), *(em.init(m, batches) for m in (spike, sound)))
        result = best_of_runs(states, batches, em.Settings(tol=1e-3, ridge=0.0), Search(2, None, 1), 2)
        assert np.asarray(result.restarts.status).tolist() == [Status.COLLAPSED, Status.MAX_STEPS]
        assert np.isneginf(float(result.restarts.objective[0]))
        assert int(result.status) == Status.MAX_STEPS
        assert float(result.objective) == float(result.restarts.objective[1])


def test_a_component_without_rows_has_collapsed(dtype):
    """Under one row's weight, in whatever unit the weights are."""
    x = np.random.default_rng(6).normal(size=(64, 2)).astype(dtype)
    start = Mixture.create([0.5, 0.5], [[0.0, 0.0], [1e3, 1e3]], np.stack([np.eye(2)] * 2), dtype=dtype)
    for scale in (1e-3, 1.0, 1e3):
        batches = Batches.of(x, np.full(64, scale), n_components=2, dtype=dtype)
        state = em.run(em.init(start, batches), batches, em.Settings(ridge=1e-3), 50)
        assert int(state.status) == Status.COLLAPSED
        assert np.all(np.isfinite(np.asarray(state.mixture.means)))


def test_a_switched_off_component_is_no_failure(dtype):
    """Weight 0 (log weight −inf) stays 0 and spoils nothing: the others are fitted as if it were not there."""
    blobs = oracle.blobs(seed=14, n_rows=100, n_features=2, n_components=2)
    x = blobs.x.astype(dtype)
    weights, means, covariances = blobs.start
    padded = Mixture.create(
        np.append(weights, 0.0),
        np.concatenate([means, np.zeros((1, 2))]),
        np.concatenate([covariances, np.eye(2)[None]]),
        dtype=dtype,
    )
    plain = Mixture.create(weights, means, covariances, dtype=dtype)
    states = [em.run(em.init(m, x), x, em.Settings(tol=1e-4), 100) for m in (padded, plain)]
    assert int(states[0].status) == int(states[1].status) == Status.CONVERGED
    assert float(states[0].mixture.weights[2]) == 0.0
    assert_close(states[0].objective, states[1].objective, "objective", dtype)


def test_every_status_explains_itself():
    """A sentence for each, and another for every other."""
    assert len({explain(status) for status in Status}) == len(Status)
    assert set(FAILED) == {Status.NON_FINITE, Status.COLLAPSED}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Two clusters of 150 rows."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + 6.0])


def test_a_component_may_hold_a_single_row() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(299, 2)), [[5.0, 5.0]]])
    gm = GaussianMixture(2, means_init=[[0.0, 0.0], [5.0, 5.0]]).fit(rows)
    assert gm.status_ is Status.CONVERGED
    assert GaussianMixture(2, covariance_type="diag", random_state=0).fit([[1, 2], [3, 4], [5, 7]]).converged_


def test_a_start_with_an_empty_component_has_lost(x: np.ndarray) -> None:
    labels = np.repeat([0, 1], 150)
    assert jaxgmm.fit(jax.random.key(0), x, 3, init=labels).status == Status.COLLAPSED
    assert (
        jaxgmm.fit(jax.random.key(0), x, 3, init=np.array([[0.0, 0.0], [5.0, 5.0], [1e3, 1e3]])).status
        == Status.COLLAPSED
    )
    chosen = {"weights_init": [0.5, 0.5, 0.0], "means_init": [[0.0, 0.0], [6.0, 6.0], [1.0, 1.0]]}
    gm = GaussianMixture(3, **chosen).fit(x)  # a weight of 0 that was asked for is no failure
    assert gm.converged_
    assert gm.weights_[2] == 0.0

"""Defects that were found by reading and reproduced by running: each stays found."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Mixture, Status, em
from jaxgmm.families import SHELF
from jaxgmm.seeding._rows import SAMPLE, draw, rows_for_seeding

from .tolerances import assert_close, assert_same_mixture

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + 6.0])


@pytest.mark.parametrize("n_rows", [SAMPLE, SAMPLE + 1, 12_000, 16_385, 40_000])
@pytest.mark.parametrize("chunk_size", [None, 1000, 5000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_sample_meets_all_regions(n_rows: int, chunk_size: int | None, weighted: bool) -> None:
    numbers = np.arange(n_rows, dtype=np.float32)[:, None]
    weights = np.where(np.arange(n_rows) % 3 == 0, 2.0, 0.0) if weighted else None
    batches = Batches.of(numbers, weights, chunk_size, n_components=2)
    rows = rows_for_seeding(KEY, batches, 2)
    drawn = np.round(np.asarray(rows.x[0] + batches.origin[0])[np.asarray(rows.weights) > 0]).astype(int)
    assert drawn.min() <= 3 * n_rows / SAMPLE + 3
    assert drawn.max() >= n_rows - 1 - 3 * n_rows / SAMPLE - 3
    assert np.diff(np.sort(drawn)).max() <= 3 * (2 * n_rows / SAMPLE + 3)
    if weighted:
        assert np.all(drawn % 3 == 0)
    elif batches.n_chunks > 1 or n_rows <= 2 * SAMPLE:
        assert len(np.unique(drawn)) == len(drawn)


@pytest.mark.parametrize("n_components", [1, 3])
def test_one_large_chunk_is_fitted(n_components: int) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    assert np.isfinite(GaussianMixture(n_components, random_state=0, tol=1e-2).fit(rows).lower_bound_)


def test_what_the_user_writes_later_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        means, rows = rng.normal(size=(4, 2)).astype(np.float32), rng.normal(size=(50_000, 2)).astype(np.float32)
        before, first = means.copy(), rows[0].copy()
        mixture = Mixture.create(np.ones(4) / 4, means, np.ones(4), "spherical")
        means[:] = 1e6
        density = mixture.log_prob(rows)
        rows[:] = 50.0
        np.testing.assert_array_equal(mixture.means, before)
        assert_close(density[0], mixture.log_prob(first), "log_density", np.float32)


@pytest.mark.parametrize("family", SHELF)
def test_a_copy_is_of_the_same_family(x: np.ndarray, family: str) -> None:
    gm = GaussianMixture(2, covariance_type=family, random_state=0).fit(x)
    for other in (pickle.loads(pickle.dumps(gm)), copy.deepcopy(gm)):
        assert other.mixture_.family == gm.mixture_.family
        assert hash(other.mixture_.family) == hash(gm.mixture_.family)
        np.testing.assert_array_equal(other.to_sklearn().precisions_cholesky_, gm.to_sklearn().precisions_cholesky_)
        other.set_params(warm_start=True).fit(x)
    by_object = clone(GaussianMixture(2, covariance_type=SHELF[family], random_state=0)).fit(x)
    np.testing.assert_array_equal(by_object.precisions_, gm.precisions_)


def test_pickles_keep_float64_of_jax_arrays(x: np.ndarray) -> None:
    with jax.enable_x64(True):
        data = jnp.asarray(x)
    gm = pickle.loads(pickle.dumps(GaussianMixture(2, random_state=0).fit(data)))
    dtypes = {getattr(gm, name).dtype for name in ("means_", "covariances_", "precisions_", "effective_counts_")}
    assert dtypes == {np.dtype(np.float64)}
    assert gm.sample(3)[0].dtype == np.float64


def test_a_component_may_hold_a_single_row() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(299, 2)), [[5.0, 5.0]]])
    gm = GaussianMixture(2, means_init=[[0.0, 0.0], [5.0, 5.0]]).fit(rows)
    assert gm.status_ is Status.CONVERGED
    assert GaussianMixture(2, covariance_type="diag", random_state=0).fit([[1, 2], [3, 4], [5, 7]]).converged_


@pytest.mark.parametrize("offset", [300.0, 1e3, 1e4])
def test_means_far_from_the_data_are_a_sound_start(offset: float) -> None:
    rows = (np.random.default_rng(0).normal(size=(500, 2)) + offset).astype(np.float32)
    result = jaxgmm.fit(KEY, rows, 1, init=np.zeros((1, 2)), max_steps=0)
    expected = np.cov(rows.T.astype(np.float64), bias=True)
    assert_close(result.mixture.covariances[0], expected, "variances", np.float32, factor=3.0)


def test_the_dtypes_of_start_and_rows_may_differ_where_they_can(x: np.ndarray) -> None:
    half = x.astype(np.float32)
    gm = GaussianMixture(2, warm_start=True, random_state=0).fit(half)
    assert gm.fit(x).means_.dtype == np.float64
    assert gm.fit(half).means_.dtype == np.float32
    start = GaussianMixture(2, covariance_type="tied", random_state=0).fit(x).mixture_
    assert jaxgmm.fit(KEY, x, 2, "tied", init=start).mixture.means.dtype == np.float32
    mixture = Mixture.create([1.0], np.zeros((1, 2)), np.eye(2)[None])
    with pytest.raises(TypeError, match="rows are float64 and the mixture is float32"):
        em.init(mixture, Batches.of(x, dtype="float64"))


def test_a_warm_start_goes_on_from_the_fit_and_not_from_what_was_given(x: np.ndarray) -> None:
    gm = GaussianMixture(2, means_init=[[0.0, 0.0], [5.0, 5.0]], warm_start=True).fit(x)
    means = gm.means_
    np.testing.assert_array_equal(gm.set_params(max_iter=0).fit(x).means_, means)


def test_float64_estimators_under_the_users_transformations(x: np.ndarray) -> None:
    gm = GaussianMixture(2, random_state=0).fit(x)
    rows = jnp.asarray(x, jnp.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = jax.jit(gm.score_samples)(rows)
        slope = jax.grad(lambda r: gm.score_samples(r).sum())(rows)
        single = jax.vmap(gm.mixture_.log_prob)(rows)
        score = jax.jit(gm.score)(rows)
    assert density.dtype == slope.dtype == single.dtype == np.float32
    assert_close(density, gm.score_samples(x), "log_density", np.float32)
    assert_close(single, gm.score_samples(x), "log_density", np.float32)
    assert_close(score, gm.score(x), "objective", np.float32)
    assert np.isfinite(jax.jit(lambda r: jaxgmm.fit(KEY, r, 2, dtype="float64", n_restarts=2).objective)(rows))


@pytest.mark.parametrize("family", SHELF)
def test_gradients_are_finite_where_a_component_has_no_mass(x: np.ndarray, family: str) -> None:
    batches = Batches.of(x)

    def objective(means: Any) -> Any:
        mixture = Mixture.create([0.5, 0.5], means, np.tile(np.eye(2), (2, 1, 1)), family)
        return em.step(em.init(mixture, batches), batches).objective

    slope = jax.grad(objective)(jnp.array([[2.0, 2.0], [500.0, 500.0]]))
    assert np.all(np.isfinite(slope))


def test_a_start_with_an_empty_component_has_lost(x: np.ndarray) -> None:
    labels = np.repeat([0, 1], 150)
    assert jaxgmm.fit(KEY, x, 3, init=labels).status == Status.COLLAPSED
    assert jaxgmm.fit(KEY, x, 3, init=np.array([[0.0, 0.0], [5.0, 5.0], [1e3, 1e3]])).status == Status.COLLAPSED
    chosen = {"weights_init": [0.5, 0.5, 0.0], "means_init": [[0.0, 0.0], [6.0, 6.0], [1.0, 1.0]]}
    gm = GaussianMixture(3, **chosen).fit(x)  # a weight of 0 that was asked for is no failure
    assert gm.converged_
    assert gm.weights_[2] == 0.0


def test_batches_have_a_door(x: np.ndarray) -> None:
    for arguments, message in (
        ({"sample_weight": np.ones(50)}, "sample_weight must have shape"),
        ({"sample_weight": -np.ones(300)}, "negative: row 0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Batches.of(x, **arguments)
    with pytest.raises(ValueError, match="must be a matrix"):
        Batches.of(x[:, 0])
    with pytest.raises(ValueError, match=r"chunk_size to Batches\.of"):
        jaxgmm.fit(KEY, Batches.of(x), 2, chunk_size=7)
    with pytest.raises(TypeError, match="rows are float32 and the mixture is float64"):
        jaxgmm.fit(KEY, Batches.of(x), 2, dtype="float64")
    with pytest.raises(ValueError, match="n_components = 5, n_samples = 2"):
        jaxgmm.fit(KEY, Batches.of(x[:2]), 5)
    with pytest.raises(ValueError, match="n_samples = 2 of positive weight"):
        jaxgmm.fit(KEY, x, 3, sample_weight=(np.arange(300) < 2).astype(float))


def test_create_takes_the_familys_own_shape_or_dense_and_nothing_else() -> None:
    weights, means = [0.5, 0.5], np.zeros((2, 3))
    for family, covariances in (("spherical", np.ones((2, 3))), ("EEI", np.ones((2, 3))), ("full", np.eye(3))):
        with pytest.raises(ValueError, match="covariances have shape"):
            Mixture.create(weights, means, covariances, family)
    with pytest.raises(ValueError, match="must be symmetric"):
        Mixture.create([1.0], np.zeros((1, 2)), [[[1.0, 0.8], [0.0, 1.0]]])


def test_rows_beyond_the_dtype_have_defined_answers(x: np.ndarray) -> None:
    gm = GaussianMixture(2, random_state=0).fit(x.astype(np.float32))
    far = np.array([[1e20, 0.0], [3e38, 3e38]], np.float32)
    assert np.all(gm.score_samples(far) == -np.inf)
    assert np.all(np.isfinite(gm.predict_proba(far)))
    assert np.isnan(Mixture.create([1.0], [[0.0]], [[[1.0]]]).log_prob([[np.nan]])).all()  # NaN is not hidden


def test_results_can_be_written_to(x: np.ndarray) -> None:
    gm = GaussianMixture(2, random_state=0).fit(x)
    for value in (gm.predict(x), gm.predict_proba(x), gm.score_samples(x), gm.means_, gm.covariances_, *gm.sample(3)):
        assert value.flags.writeable


def test_a_huge_step_limit_costs_nothing(x: np.ndarray) -> None:
    gm = GaussianMixture(2, random_state=0, max_iter=10**12).fit(x)
    assert gm.converged_


def test_half_precision_is_computed_in_single(x: np.ndarray) -> None:
    assert jaxgmm.fit(KEY, x.astype(np.float16), 2).mixture.means.dtype == np.float32
    assert GaussianMixture(2, random_state=0).fit(jnp.asarray(x, jnp.bfloat16)).mixture_.means.dtype == np.float32
    with pytest.raises(TypeError, match="float32 or float64, got float16"):
        GaussianMixture(2, dtype="float16").fit(x)


def test_criteria_do_not_round_the_mean_first() -> None:
    rows = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    gm = GaussianMixture(1).fit(rows)
    total = gm.score_samples(rows).astype(np.float64).sum()
    np.testing.assert_allclose(gm.aic(rows), -2 * total + 2 * 5, rtol=1e-12)


def test_the_remaining_doors(x: np.ndarray) -> None:
    with pytest.raises(TypeError, match="Labels must be integers"):
        jaxgmm.fit(KEY, x, 2, init=np.repeat([0.5, 1.4], 150))
    with pytest.raises(TypeError, match="tol must be a number"):
        em.Settings(tol=[1e-3])
    with pytest.raises(TypeError, match="covariance family"):
        em.Settings(family=3)
    with pytest.raises(TypeError, match="dates or durations"):
        GaussianMixture().fit(np.array([["2020-01-01"], ["2020-01-02"]], "datetime64[D]"))
    with pytest.raises(ValueError, match="masked cells"):
        GaussianMixture().fit(np.ma.masked_array(x, mask=x > 5))
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="random_state must lie in"):
            GaussianMixture(random_state=seed).fit(x)
    gm = GaussianMixture(tol=0.5)
    with pytest.raises(ValueError, match="Invalid parameter 'bad'"):
        gm.set_params(tol=5.0, bad=1)
    assert gm.tol == 0.5
    assert_same_mixture(
        GaussianMixture(2, random_state=0, tol=jnp.float32(1e-3)).fit(x).mixture_,
        GaussianMixture(2, random_state=jnp.int32(0), tol=np.float32(1e-3)).fit(x).mixture_,
        np.float64,
    )


def test_what_rows_of_weight_0_hold_does_not_reach_the_seeds() -> None:
    """A row of weight 0 whose square overflows: k-means++ meets all clusters as it does without it."""
    x = (8.0 * np.arange(8) + np.random.default_rng(1).normal(size=(60, 8))).astype(np.float32).reshape(-1, 1)
    weights = np.ones(len(x) + 1, np.float32)
    weights[-1] = 0.0
    hidden = np.concatenate([x, np.full((1, 1), 1e30, np.float32)])
    clean, with_row = (
        jaxgmm.fit(KEY, Batches.of(rows, weights[: len(rows)], 512), 8, "spherical", n_restarts=4, max_steps=0)
        for rows in (x, hidden)
    )
    assert_close(with_row.restarts.objective, clean.restarts.objective, "objective", np.float32)


def test_no_row_of_weight_0_is_drawn() -> None:
    """Neither for a number that rounding made 1, nor where a parallel sum dips; and all others alike."""
    weights = np.where(np.arange(4096) < 100, 0.0, 1.0).astype(np.float32)
    weights[512:2048] = 0.0
    uniform = np.concatenate([[0.0, 1.0], np.random.default_rng(2).uniform(size=20_000)]).astype(np.float32)
    drawn = np.asarray(draw(jnp.asarray(uniform), jnp.asarray(weights)))
    assert np.all(weights[drawn] > 0.0)
    counts = np.bincount(drawn[2:], minlength=4096)[weights > 0.0]
    assert counts.sum() == 20_000
    assert counts.max() < 30  # about eight a row


def test_an_interval_beyond_int32_is_as_good_as_none(x: np.ndarray) -> None:
    model = GaussianMixture(2, verbose=1, verbose_interval=2**31, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x)
    assert model.n_iter_ <= 3

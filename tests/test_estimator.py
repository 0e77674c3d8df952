"""The estimator: scikit-learn's interface, kept, and what goes beyond it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as SklearnMixture

import jaxgmm
from jaxgmm import GaussianMixture, Status, from_sklearn, online
from jaxgmm.families import SHELF

from .tolerances import assert_close, assert_same_mixture, tolerance

SKLEARN_TYPES = ("full", "tied", "diag", "spherical")
CENTRES = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, -4.0], [-5.0, 5.0, 3.0]])


def three_clusters(n_rows: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(3, size=n_rows)] + rng.normal(size=(n_rows, 3))


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return three_clusters()


@pytest.mark.parametrize("covariance_type", SKLEARN_TYPES)
def test_one_import_line_gives_the_same_answer(x: np.ndarray, covariance_type: str) -> None:
    settings: dict[str, Any] = {"n_components": 3, "covariance_type": covariance_type, "random_state": 0, "tol": 1e-8}
    ours, theirs = GaussianMixture(**settings).fit(x), SklearnMixture(**settings).fit(x)
    order, other = np.argsort(ours.means_[:, 0]), np.argsort(theirs.means_[:, 0])
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        mine, reference = getattr(ours, name), getattr(theirs, name)
        assert mine.shape == reference.shape
        assert mine.dtype == reference.dtype
        if not (covariance_type == "tied" and name not in ("weights_", "means_")):
            mine, reference = mine[order], reference[other]
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-4)  # both stopped at tol 1e-8, not at the end
    assert ours.score(x) >= theirs.score(x) - 1e-7
    np.testing.assert_allclose(ours.bic(x), theirs.bic(x), rtol=1e-8)
    np.testing.assert_allclose(ours.aic(x), theirs.aic(x), rtol=1e-8)


def test_parameters_and_defaults_are_scikit_learns() -> None:
    ours, theirs = GaussianMixture().get_params(), SklearnMixture().get_params()
    assert {name: ours[name] for name in theirs} == theirs


def test_check_estimator_is_clean() -> None:
    from sklearn.utils.estimator_checks import check_estimator

    with pytest.warns() as _:  # the checks warn on purpose; failures are results, read below
        results = check_estimator(GaussianMixture(), on_fail=None, on_skip=None)
    ended = {
        status: [r["check_name"] for r in results if r["status"] == status]
        for status in ("passed", "failed", "skipped")
    }
    assert ended["failed"] == []
    # Array libraries other than NumPy are checked only under an environment variable of SciPy's.
    assert ended["skipped"] == ["check_array_api_input"]
    assert len(ended["passed"]) >= 40


@pytest.mark.parametrize("family", SHELF)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lower_bound_is_the_score_of_what_is_kept(x: np.ndarray, family: str, dtype: type) -> None:
    data = x.astype(dtype)
    gm = GaussianMixture(3, covariance_type=family, random_state=0).fit(data)
    assert_close(gm.lower_bound_, gm.score(data), "objective", dtype)
    assert_close(gm.score(data), gm.score_samples(data).mean(), "objective", dtype)
    assert gm.lower_bounds_[-1] == gm.lower_bound_
    assert len(gm.lower_bounds_) == gm.n_iter_
    assert gm.means_.dtype == gm.covariances_.dtype == gm.score_samples(data).dtype == dtype
    with jax.enable_x64(True):
        assert gm.covariances_.shape == SHELF[family].show(gm.mixture_.scales, 3).shape


def test_few_rows_on_a_mesh_of_one_device(x: np.ndarray) -> None:
    """What is found for each row has fewer axes than the rows, whose sharding would name both of theirs."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    spread = jax.device_put(
        x.astype(np.float32), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows", None))
    )
    gm = GaussianMixture(3, random_state=0).fit(spread)
    assert np.array_equal(gm.predict(spread), gm.predict(x))
    assert_close(gm.score(spread), gm.score(np.asarray(spread)), "objective", np.float32)
    assert_close(gm.mixture_.log_prob(spread).mean(), gm.score(spread), "objective", np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_ten_starts_are_as_good_as_one(seed: int) -> None:
    """The one is the first of the ten."""
    x = np.random.default_rng(seed).normal(size=(50, 2))
    one, ten = (GaussianMixture(2, n_init=n, random_state=seed, max_iter=1) for n in (1, 10))
    for model in (one, ten):
        with pytest.warns(ConvergenceWarning):
            model.fit(x)
    assert ten.lower_bound_ >= one.lower_bound_ - tolerance("objective", np.float64).absolute


def test_float64_without_touching_the_switch(x: np.ndarray) -> None:
    assert not jax.config.jax_enable_x64
    gm = GaussianMixture(3, random_state=0, tol=0, max_iter=50, n_init=2)
    with pytest.warns(ConvergenceWarning):
        gm.fit(x)
    assert gm.means_.dtype == gm.mixture_.means.dtype == np.float64
    # A float32 computation could not agree to this.
    np.testing.assert_allclose(gm.lower_bound_, np.mean(np.asarray(gm.mixture_.log_prob(x))), rtol=1e-14)
    inverse = np.einsum("kij,kjl->kil", gm.precisions_, gm.covariances_)
    np.testing.assert_allclose(inverse, np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)
    assert jax.numpy.ones(()).dtype == np.float32
    assert not jax.config.jax_enable_x64


def test_float64_in_worker_threads(x: np.ndarray) -> None:
    scores: list[Any] = []
    threads = [
        threading.Thread(target=lambda: scores.append(GaussianMixture(3, random_state=0).fit(x).score_samples(x)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [s.dtype for s in scores] == [np.float64, np.float64]
    np.testing.assert_array_equal(scores[0], scores[1])


@pytest.mark.parametrize("kind", ["list", "int", "float16", "fortran", "strided", "read_only"])
def test_what_numpy_can_bring(x: np.ndarray, kind: str) -> None:
    whole = np.round(x * 4)
    data: Any = {
        "list": lambda: whole.tolist(),
        "int": lambda: whole.astype(int),
        "float16": lambda: whole.astype(np.float16),
        "fortran": lambda: np.asfortranarray(whole),
        "strided": lambda: np.repeat(whole, 2, axis=0)[::2],
        "read_only": lambda: np.broadcast_to(whole, whole.shape),
    }[kind]()
    gm = GaussianMixture(2, random_state=0).fit(data)
    reference = GaussianMixture(2, random_state=0).fit(whole)
    assert gm.means_.dtype == np.float64
    np.testing.assert_array_equal(gm.means_, reference.means_)


def test_the_users_array_is_not_kept_or_changed(x: np.ndarray) -> None:
    data = x.copy()
    gm = GaussianMixture(3, random_state=0).fit(data)
    np.testing.assert_array_equal(data, x)
    data[:] = 0.0
    np.testing.assert_array_equal(gm.means_, GaussianMixture(3, random_state=0).fit(x).means_)


def test_jax_in_jax_out(x: np.ndarray) -> None:
    data = jnp.asarray(x)
    gm = GaussianMixture(3, random_state=0).fit(data)
    for value in (gm.means_, gm.weights_, gm.covariances_, gm.predict(data), gm.predict_proba(data), gm.sample(5)[0]):
        assert isinstance(value, jax.Array)
    assert isinstance(gm.predict(x.astype(np.float32)), np.ndarray)  # predictions follow their own input
    np.testing.assert_array_equal(np.asarray(gm.predict(data)), gm.predict(x.astype(np.float32)))


def test_float64_jax_arrays_stay_float64(x: np.ndarray) -> None:
    with jax.enable_x64(True):
        data = jnp.asarray(x)
    gm = GaussianMixture(3, random_state=0).fit(data)
    assert gm.means_.dtype == gm.covariances_.dtype == gm.score_samples(data).dtype == np.float64
    np.testing.assert_allclose(np.asarray(gm.means_), GaussianMixture(3, random_state=0).fit(x).means_, rtol=1e-12)


def test_data_frames(x: np.ndarray) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    gm = GaussianMixture(3, random_state=0).fit(frame)
    assert list(gm.feature_names_in_) == ["a", "b", "c"]
    assert isinstance(gm.means_, np.ndarray)
    np.testing.assert_array_equal(gm.means_, GaussianMixture(3, random_state=0).fit(x).means_)
    with pytest.raises(ValueError, match="must be in the same order"):
        gm.predict(frame[["b", "a", "c"]])
    with pytest.raises(ValueError, match="unseen at fit time:\n- z"):
        gm.predict(frame.rename(columns={"a": "z"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        gm.predict(x)


class OtherArray:
    """An array of another library: DLPack is all it speaks."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.values.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


def from_dlpack(values: np.ndarray) -> OtherArray:
    """What this module, as the array's library, makes of a NumPy array."""
    return OtherArray(values)


def test_anything_with_dlpack(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "otherlibrary", sys.modules[__name__])
    monkeypatch.setattr(OtherArray, "__module__", "otherlibrary")
    gm = GaussianMixture(3, random_state=0).fit(OtherArray(x))
    labels = gm.predict(OtherArray(x))
    assert isinstance(gm.means_, OtherArray)
    assert isinstance(labels, OtherArray)
    reference = GaussianMixture(3, random_state=0).fit(x)
    np.testing.assert_array_equal(gm.means_.values, reference.means_)
    np.testing.assert_array_equal(labels.values, reference.predict(x))


def test_random_state_in_every_form(x: np.ndarray) -> None:
    def means(random_state: Any) -> np.ndarray:
        return GaussianMixture(5, random_state=random_state, max_iter=0).fit(x).means_

    np.testing.assert_array_equal(means(3), means(np.int64(3)))
    np.testing.assert_array_equal(means(3), means(jax.random.key(3)))
    np.testing.assert_array_equal(means(np.random.RandomState(3)), means(np.random.RandomState(3)))
    np.testing.assert_array_equal(means(np.random.default_rng(3)), means(np.random.default_rng(3)))
    assert not np.array_equal(means(3), means(4))
    state = np.random.RandomState(3)
    assert not np.array_equal(means(state), means(state))  # a RandomState moves on, as in scikit-learn
    np.random.seed(0)  # noqa: NPY002 — None means NumPy's global state, as in scikit-learn
    first = means(None)
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(first, means(None))


def test_warm_start_goes_on(x: np.ndarray) -> None:
    whole = GaussianMixture(4, random_state=0, max_iter=6, tol=0)
    pieces = GaussianMixture(4, random_state=0, max_iter=2, tol=0, warm_start=True)
    with pytest.warns(ConvergenceWarning):
        whole.fit(x)
    bounds: list[float] = []
    for _ in range(3):
        with pytest.warns(ConvergenceWarning):
            bounds += pieces.fit(x).lower_bounds_
    assert_same_mixture(pieces.mixture_, whole.mixture_, np.float64)
    np.testing.assert_allclose(bounds, whole.lower_bounds_, rtol=1e-13)
    with pytest.raises(ValueError, match="warm_start cannot go on"):
        pieces.set_params(n_components=3).fit(x)


def test_verbose_prints_the_way(x: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = GaussianMixture(4, random_state=0, n_init=3, tol=1e-6).fit(x)
    assert capsys.readouterr().out == ""
    loud = GaussianMixture(4, random_state=0, n_init=3, tol=1e-6, verbose=2, verbose_interval=2).fit(x)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Initialization of 3 restarts"
    assert lines[1].startswith("  Iteration 2\t time lapse")
    assert lines[-1].startswith("Finished after")
    np.testing.assert_array_equal(loud.means_, quiet.means_)  # watching changes nothing
    assert loud.lower_bounds_ == quiet.lower_bounds_


def test_what_is_given_stands_as_given(x: np.ndarray) -> None:
    weights, means = np.array([0.2, 0.3, 0.5]), CENTRES + 0.5
    gm = GaussianMixture(3, weights_init=weights, means_init=means, max_iter=0, random_state=0).fit(x)
    np.testing.assert_allclose(gm.weights_, weights, rtol=1e-14)
    np.testing.assert_array_equal(gm.means_, means)
    precisions = np.array([np.eye(3) * (k + 1.0) for k in range(3)])
    gm.set_params(precisions_init=precisions).fit(x)
    np.testing.assert_allclose(gm.precisions_, precisions, rtol=1e-14)


@pytest.mark.parametrize("family", SHELF)
def test_precisions_init_in_the_familys_own_shape(x: np.ndarray, family: str) -> None:
    first = GaussianMixture(3, covariance_type=family, random_state=0, max_iter=3, tol=0)
    with pytest.warns(ConvergenceWarning):
        first.fit(x)
    start = {"weights_init": first.weights_, "means_init": first.means_, "precisions_init": first.precisions_}
    again = GaussianMixture(3, covariance_type=family, max_iter=0, **start).fit(x)
    assert_same_mixture(again.mixture_, first.mixture_, np.float64)


def test_our_own_starts_as_init_params(x: np.ndarray) -> None:
    labels = np.argmin(((x[:, None] - CENTRES) ** 2).sum(-1), axis=1)
    by_labels = GaussianMixture(3, init_params=labels, max_iter=0).fit(x)
    np.testing.assert_allclose(by_labels.means_[1], x[labels == 1].mean(axis=0), rtol=1e-12)
    by_shares = GaussianMixture(3, init_params=np.eye(3)[labels], max_iter=0).fit(x)
    assert_same_mixture(by_shares.mixture_, by_labels.mixture_, np.float64)
    by_mixture = GaussianMixture(3, init_params=by_labels.mixture_, max_iter=0, n_init=5).fit(x)
    assert_same_mixture(by_mixture.mixture_, by_labels.mixture_, np.float64)
    assert by_mixture.result_.restarts.objective.shape == (1,)  # a given start leaves nothing to chance
    for ours in ("k-means", "random_rows", "random_responsibilities"):
        assert GaussianMixture(3, init_params=ours, random_state=0).fit(x).converged_


def test_sample_weight(x: np.ndarray) -> None:
    counts = np.random.default_rng(0).integers(0, 4, len(x))
    start = {"means_init": CENTRES, "weights_init": np.ones(3) / 3, "precisions_init": np.tile(np.eye(3), (3, 1, 1))}
    weighted = GaussianMixture(3, **start).fit(x, sample_weight=counts)
    repeated = GaussianMixture(3, **start).fit(np.repeat(x, counts, axis=0))
    assert_same_mixture(weighted.mixture_, repeated.mixture_, np.float64)
    long = np.repeat(x, counts, axis=0)
    np.testing.assert_allclose(weighted.score(x, sample_weight=counts), repeated.score(long), rtol=1e-13)
    np.testing.assert_allclose(weighted.bic(x, counts), repeated.bic(long), rtol=1e-12)
    np.testing.assert_allclose(weighted.aic(x, counts), repeated.aic(long), rtol=1e-12)
    np.testing.assert_allclose(weighted.icl(x, counts), repeated.icl(long), rtol=1e-12)
    np.testing.assert_allclose(np.sum(weighted.effective_counts_), counts.sum(), rtol=1e-12)


@pytest.mark.parametrize(("kind", "n_rows"), [(np.asarray, 400), (jnp.asarray, 40_000)])
def test_a_row_of_weight_0_is_none_whatever_it_holds(kind: Any, n_rows: int) -> None:
    """Few rows and many go different ways; in float32 one number of the few is too large for it."""
    x, counts = three_clusters(n_rows).astype(np.float32), np.ones(n_rows)
    counts[:7] = 0.0
    with_holes = x.astype(np.float32 if kind is jnp.asarray else np.float64)
    with_holes[:4, 1] = np.nan, np.inf, -np.inf, np.finfo(with_holes.dtype).max
    fitted = GaussianMixture(3, random_state=0, dtype=np.float32)
    labels = fitted.fit_predict(kind(with_holes), sample_weight=counts)
    assert isinstance(labels, type(kind(x)))
    assert np.asarray(labels)[:3].tolist() == [-1, -1, -1]  # there is no component to name
    assert np.array_equal(np.asarray(labels)[4:], fitted.predict(x[4:]))
    for name in ("score", "aic", "bic", "icl"):
        figure = getattr(fitted, name)
        got, want = figure(kind(with_holes), sample_weight=counts), figure(kind(x[7:]))
        assert_close(got, want, "objective", np.float32, note=name)
    if kind is jnp.asarray:
        traced = jax.jit(lambda rows, weights: fitted.score(rows, sample_weight=weights))(with_holes, counts)
        assert_close(traced, fitted.score(x[7:]), "objective", np.float32)
    other = copy.deepcopy(fitted)
    fitted.partial_fit(kind(with_holes), sample_weight=counts)
    assert_same_mixture(fitted.mixture_, other.partial_fit(x[7:]).mixture_, np.float32)
    with pytest.raises(ValueError, match="row 0, column 1 is nan"):
        fitted.score(kind(with_holes))
    with pytest.raises(ValueError, match="row 0, column 1 is nan"):
        fitted.score(kind(with_holes), sample_weight=counts + 1.0)


def test_icl_adds_the_entropy(x: np.ndarray) -> None:
    gm = GaussianMixture(4, random_state=0).fit(x)
    shares = gm.predict_proba(x)
    soft = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)))
    np.testing.assert_allclose(gm.icl(x), gm.bic(x) + 2 * soft, rtol=1e-12)
    np.testing.assert_allclose(gm.icl(x, kind="hard"), gm.bic(x) - 2 * np.log(shares.max(axis=1)).sum(), rtol=1e-12)


def test_sampling_follows_the_mixture(x: np.ndarray) -> None:
    gm = GaussianMixture(3, random_state=0).fit(x)
    rows, labels = gm.sample(20_000)
    assert rows.shape == (20_000, 3)
    assert rows.dtype == np.float64
    shares = np.bincount(labels, minlength=3) / 20_000
    np.testing.assert_allclose(shares, gm.weights_, atol=5 * np.sqrt(0.25 / 20_000))  # 5 standard errors
    for k in range(3):
        own = rows[labels == k]
        np.testing.assert_allclose(own.mean(axis=0), gm.means_[k], atol=5 * 1.2 / np.sqrt(len(own)))
        np.testing.assert_allclose(np.cov(own.T), gm.covariances_[k], atol=5 * 2.0 / np.sqrt(len(own)))
    np.testing.assert_array_equal(gm.sample(10)[0], gm.sample(10)[0])  # random_state=0 gives the same rows each time


def test_pickle_copy_clone_and_joblib(x: np.ndarray) -> None:
    gm = GaussianMixture(3, random_state=0).fit(x)
    for other in (pickle.loads(pickle.dumps(gm)), copy.deepcopy(gm)):
        assert other.mixture_.means.dtype == np.float64
        np.testing.assert_array_equal(other.score_samples(x), gm.score_samples(x))
    fresh = clone(gm)
    assert fresh.get_params() == gm.get_params()
    assert not hasattr(fresh, "means_")


def test_pipelines_and_grids(x: np.ndarray) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    search = GridSearchCV(
        make_pipeline(StandardScaler(), GaussianMixture(random_state=0, n_init=2)),
        {"gaussianmixture__n_components": [1, 3]},
        cv=2,
    ).fit(x)
    assert search.best_params_ == {"gaussianmixture__n_components": 3}


def test_sample_weights_are_routed(x: np.ndarray) -> None:
    import sklearn
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    weights = np.random.default_rng(0).random(len(x))
    with sklearn.config_context(enable_metadata_routing=True):
        chain = make_pipeline(FunctionTransformer(), GaussianMixture(3, random_state=0))
        chain.fit(x, sample_weight=weights)
    direct = GaussianMixture(3, random_state=0).fit(x, sample_weight=weights)
    np.testing.assert_array_equal(chain[-1].means_, direct.means_)


def test_from_and_to_scikit_learn(x: np.ndarray) -> None:
    for covariance_type in SKLEARN_TYPES:
        theirs = SklearnMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
        ours = from_sklearn(theirs)
        np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-10)
        np.testing.assert_allclose(ours.precisions_cholesky_, theirs.precisions_cholesky_, rtol=1e-10, atol=1e-12)
        back = ours.to_sklearn()
        np.testing.assert_allclose(back.score_samples(x), theirs.score_samples(x), rtol=1e-10)
        np.testing.assert_array_equal(back.predict(x), theirs.predict(x))
    ours = GaussianMixture(3, covariance_type="VEI", random_state=0).fit(x)
    back = ours.to_sklearn()
    assert back.covariance_type == "full"
    np.testing.assert_allclose(back.score_samples(x), ours.score_samples(x), rtol=1e-10)
    with pytest.raises(ValueError, match="not fitted"):
        from_sklearn(SklearnMixture())


def test_status_and_warning(x: np.ndarray) -> None:
    with pytest.warns(ConvergenceWarning, match="MAX_STEPS"):
        gm = GaussianMixture(3, random_state=0, max_iter=1, tol=1e-12).fit(x)
    assert gm.status_ is Status.MAX_STEPS
    assert not gm.converged_
    assert GaussianMixture(3, random_state=0).fit(x).status_ is Status.CONVERGED


def test_a_collapse_is_an_error_only_when_nothing_finite_is_left() -> None:
    two_points = np.repeat([[0.0, 0.0], [1.0, 1.0]], 5, axis=0)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        GaussianMixture(2, reg_covar=0.0, random_state=0).fit(two_points)
    assert np.isfinite(GaussianMixture(2, random_state=0).fit(two_points).score(two_points))


def test_chunks_and_device_do_not_matter(x: np.ndarray) -> None:
    whole = GaussianMixture(3, random_state=0).fit(x)
    for other in (GaussianMixture(3, random_state=0, chunk_size=64), GaussianMixture(3, random_state=0, device="cpu")):
        other.fit(x)
        assert_same_mixture(other.mixture_, whole.mixture_, np.float64)
        np.testing.assert_allclose(other.score_samples(x), whole.score_samples(x), rtol=1e-10)
        np.testing.assert_array_equal(other.predict(x), whole.predict(x))


def test_dtype_is_the_users_choice(x: np.ndarray) -> None:
    assert GaussianMixture(3, dtype=np.float32, random_state=0).fit(x).means_.dtype == np.float32
    assert GaussianMixture(3, dtype="float64", random_state=0).fit(x.astype(np.float32)).means_.dtype == np.float64


def test_not_fitted() -> None:
    gm = GaussianMixture()
    for call in (gm.predict, gm.predict_proba, gm.score_samples, gm.score, gm.aic, gm.bic, gm.icl):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call([[0.0]])
    with pytest.raises(NotFittedError, match="not fitted yet"):
        gm.sample()


def test_works_without_scikit_learn() -> None:
    program = """
import sys, warnings
for name in ("sklearn", "scipy.stats", "pandas", "matplotlib"):
    sys.modules[name] = None
import numpy as np
from jaxgmm import GaussianMixture
x = np.random.default_rng(0).normal(size=(200, 2))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    gm = GaussianMixture(2, random_state=0, max_iter=1, tol=1e-12).fit(x)
assert [w.category.__name__ for w in caught] == ["ConvergenceWarning"], caught
try:
    GaussianMixture().predict(x)
except ValueError as error:
    assert type(error).__name__ == "NotFittedError"
print(gm.predict(x).shape, gm.means_.dtype)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout == "(200,) float64\n", run.stderr


def test_repr_and_parameters() -> None:
    gm = GaussianMixture(3, tol=1e-5)
    assert repr(gm) == "GaussianMixture(n_components=3, tol=1e-05)"
    with pytest.raises(ValueError, match="Invalid parameter 'components'"):
        gm.set_params(components=2)
    assert jaxgmm.GaussianMixture is GaussianMixture


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_precisions_of_the_start_itself_change_nothing(covariance_type):
    """Two clusters that no start misses: given the precisions that the first M-step finds, in the order of its
    components, a fit makes the same iterations and ends in the same place."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(300, 2)) + 20.0, rng.normal(size=(300, 2)) @ [[0.0, -0.7], [3.5, 0.7]]])
    for seed in range(3):
        options = {"n_components": 2, "covariance_type": covariance_type, "random_state": seed}
        with pytest.warns(ConvergenceWarning):
            start = GaussianMixture(**options, max_iter=1, tol=0.0).fit(x)
        plain = GaussianMixture(**options).fit(x)
        given = GaussianMixture(**options, precisions_init=start.precisions_).fit(x)
        assert given.n_iter_ == plain.n_iter_
        assert_close(given.means_, plain.means_, "settled", "float64")


def test_a_stream_is_learnt_a_batch_at_a_time(x: np.ndarray) -> None:
    """The first batch is fitted, later ones move the mixture; a pickle goes on as the estimator does, and fit anew."""
    whole = GaussianMixture(3, random_state=0, tol=1e-8).fit(x)
    model = GaussianMixture(3, random_state=0)
    batches = np.array_split(np.random.default_rng(0).permutation(np.tile(x, (5, 1))), 10)
    for batch in batches[:-1]:
        model.partial_fit(batch)
    copied = pickle.loads(pickle.dumps(model))
    for each in (model, copied):
        assert each.partial_fit(batches[-1]) is each
    np.testing.assert_array_equal(model.means_, copied.means_)
    assert model.n_iter_ == 10
    assert model.means_.dtype == np.float64
    assert not hasattr(model, "result_")
    order, other = np.argsort(model.means_[:, 0]), np.argsort(whole.means_[:, 0])
    assert np.abs(model.means_[order] - whole.means_[other]).max() < 0.2
    assert whole.score(x) - model.score(x) < 0.02
    with pytest.raises(ValueError, match="2 features"):
        model.partial_fit(x[:, :2])
    with pytest.raises(ValueError, match=r"partial_fit cannot go on from .* = \(3, 3, 'full'\) with \(4, 3, 'full'\)"):
        copied.set_params(n_components=4).partial_fit(x)
    np.testing.assert_array_equal(model.fit(x).means_, GaussianMixture(3, random_state=0).fit(x).means_)
    assert not hasattr(model, "stream_")


def test_a_stream_goes_on_from_a_fit(x: np.ndarray) -> None:
    fitted = GaussianMixture(3, random_state=0).fit(x)
    before = fitted.mixture_
    fitted.partial_fit(x[:100])
    once = online.update(online.init(before), x[:100], ridge=1e-6)
    np.testing.assert_array_equal(fitted.means_, np.asarray(once.mixture.means))
    assert fitted.n_iter_ == 2


@pytest.mark.parametrize("family", SHELF)
def test_a_copy_is_of_the_same_family(x: np.ndarray, family: str) -> None:
    gm = GaussianMixture(3, covariance_type=family, random_state=0).fit(x)
    for other in (pickle.loads(pickle.dumps(gm)), copy.deepcopy(gm)):
        assert other.mixture_.family == gm.mixture_.family
        assert hash(other.mixture_.family) == hash(gm.mixture_.family)
        np.testing.assert_array_equal(other.to_sklearn().precisions_cholesky_, gm.to_sklearn().precisions_cholesky_)
        other.set_params(warm_start=True).fit(x)
    by_object = clone(GaussianMixture(3, covariance_type=SHELF[family], random_state=0)).fit(x)
    np.testing.assert_array_equal(by_object.precisions_, gm.precisions_)


def test_pickles_keep_float64_of_jax_arrays(x: np.ndarray) -> None:
    with jax.enable_x64(True):
        data = jnp.asarray(x)
    gm = pickle.loads(pickle.dumps(GaussianMixture(3, random_state=0).fit(data)))
    dtypes = {getattr(gm, name).dtype for name in ("means_", "covariances_", "precisions_", "effective_counts_")}
    assert dtypes == {np.dtype(np.float64)}
    assert gm.sample(3)[0].dtype == np.float64


def test_a_warm_start_goes_on_from_the_fit_and_not_from_what_was_given(x: np.ndarray) -> None:
    gm = GaussianMixture(3, means_init=CENTRES, warm_start=True).fit(x)
    means = gm.means_
    np.testing.assert_array_equal(gm.set_params(max_iter=0).fit(x).means_, means)


def test_float64_estimators_under_the_users_transformations(x: np.ndarray) -> None:
    gm = GaussianMixture(3, random_state=0).fit(x)
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
    assert np.isfinite(
        jax.jit(lambda r: jaxgmm.fit(jax.random.key(0), r, 3, dtype="float64", n_restarts=2).objective)(rows)
    )


def test_results_can_be_written_to(x: np.ndarray) -> None:
    gm = GaussianMixture(3, random_state=0).fit(x)
    for value in (gm.predict(x), gm.predict_proba(x), gm.score_samples(x), gm.means_, gm.covariances_, *gm.sample(3)):
        assert value.flags.writeable


def test_a_huge_step_limit_costs_nothing(x: np.ndarray) -> None:
    gm = GaussianMixture(3, random_state=0, max_iter=10**12).fit(x)
    assert gm.converged_


def test_criteria_do_not_round_the_mean_first() -> None:
    rows = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    gm = GaussianMixture(1).fit(rows)
    total = gm.score_samples(rows).astype(np.float64).sum()
    np.testing.assert_allclose(gm.aic(rows), -2 * total + 2 * 5, rtol=1e-12)


def test_an_interval_beyond_int32_is_as_good_as_none(x: np.ndarray) -> None:
    model = GaussianMixture(3, verbose=1, verbose_interval=2**31, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x)
    assert model.n_iter_ <= 3

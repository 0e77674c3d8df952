"""Bad input gets an error that names the place and the remedy, and nothing is compiled before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Mixture, em

from .tolerances import assert_close, assert_same_mixture

X = np.random.default_rng(0).normal(size=(20, 2))


def with_value(value: float, row: int = 3, column: int = 1) -> np.ndarray:
    x = X.copy()
    x[row, column] = value
    return x


class Sparse:
    """What the library can see of a SciPy sparse matrix."""

    nnz, shape = 1, (20, 2)

    def toarray(self) -> np.ndarray:
        return X


class Frame:
    """What the library can see of a data frame."""

    columns = ("a", "b")

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape = values, values.shape

    def __len__(self) -> int:
        return len(self.values)

    def to_numpy(self) -> np.ndarray:
        return self.values


DATA: dict[str, tuple[Any, type[Exception], str]] = {
    "nan": (with_value(np.nan), ValueError, "NaN: row 3, column 1.*Drop or replace"),
    "infinity": (with_value(-np.inf), ValueError, "infinity: row 3, column 1 is -inf"),
    "strings": (np.array([["a", "b"], ["c", "d"]]), ValueError, "row 0, column 0 is.*'a'.*Encode or drop"),
    "objects": ([[1.0, {}], [2.0, 3.0]], TypeError, "row 0, column 1 is {}"),
    "complex": (X + 1j, ValueError, "Complex data not supported"),
    "sparse": (Sparse(), TypeError, "sparse matrix.*toarray"),
    "one-dimensional": (X[:, 0], ValueError, r"1D array.*reshape\(-1, 1\)"),
    "three-dimensional": (X[None], ValueError, r"Expected 2D array.*\(1, 20, 2\)"),
    "no rows": (X[:0], ValueError, r"0 sample\(s\)"),
    "no columns": (X[:, :0], ValueError, r"0 feature\(s\)"),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError, "Are all rows of one length"),
    "nan in a named column": (Frame(with_value(np.nan)), ValueError, r"NaN: row 3, column 1 \('b'\) is nan"),
    "text in a named column": (
        Frame(np.array([[1.0, "x" * 99]] * 3, object)),
        ValueError,
        r"row 0, column 1 \('b'\) is 'x{58}… .*Encode or drop",
    ),
    "one-dimensional, of another kind": (list(X[:, 0]), ValueError, r"1D array.*numpy\.reshape\(.*, \(-1, 1\)\)"),
    "a dict": (dict(enumerate(X.T)), TypeError, r"got a dict.*numpy\.column_stack"),
    "too few rows": (X[:2], ValueError, "n_components = 3, n_samples = 2"),
}

WEIGHTS: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": (np.where(np.arange(20) == 5, -1.0, 1.0), ValueError, "negative: row 5 has weight -1"),
    "nan": (np.where(np.arange(20) == 5, np.nan, 1.0), ValueError, "sample_weight contains NaN: row 5"),
    "infinite": (np.where(np.arange(20) == 5, np.inf, 1.0), ValueError, "sample_weight contains infinity: row 5"),
    "all zero": (np.zeros(20), ValueError, "zero for every row"),
    "wrong length": (np.ones(19), ValueError, r"shape \(20,\), one weight a row, got \(19,\)"),
    "a matrix": (np.ones((20, 2)), ValueError, r"got \(20, 2\)"),
    "text": (np.full(20, "a"), TypeError, "real numbers"),
}

PARAMETERS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "K zero": ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
    "K fraction": ({"n_components": 2.5}, TypeError, "n_components must be an integer, got float"),
    "K bool": ({"n_components": True}, TypeError, "n_components must be an integer"),
    "tol negative": ({"tol": -1.0}, ValueError, "tol must be finite and not negative, got -1.0"),
    "tol nan": ({"tol": np.nan}, ValueError, "tol must be finite"),
    "tol text": ({"tol": "small"}, TypeError, "tol must be a number"),
    "family unknown": ({"family": "fulll"}, ValueError, "family 'fulll'. Expected one of 'full'"),
    "family wrong kind": ({"family": 3}, TypeError, "covariance family is a name"),
    "init unknown": ({"init": "kmedoids"}, ValueError, "'kmedoids'. Expected one of"),
    "chunk size": ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
    "dtype": ({"dtype": int}, TypeError, "floating dtype"),
    "ridge negative": ({"ridge": -1e-6}, ValueError, "(ridge|reg_covar) must be finite and not negative"),
    "steps": ({"max_steps": -1}, ValueError, "(max_steps|max_iter) must be at least 0"),
    "restarts": ({"n_restarts": 0}, ValueError, "(n_restarts|n_init) must be at least 1"),
    "race": ({"race": 3}, TypeError, "race must be True, False or a Race, got int: 3"),
    "escape unknown": ({"escape": "anneal"}, ValueError, "Unknown escape 'anneal'. Expected one of 'split-merge'"),
    "stopping unknown": ({"stopping": "never"}, ValueError, "stopping 'never'. Expected one of 'gain', 'aitken'"),
    "relative ridge": ({"relative_ridge": -1e-3}, ValueError, "relative_ridge must be finite and not negative"),
    "labels out of range": ({"init": np.full(20, 7)}, ValueError, r"Labels must lie in 0 … 2.*got 7 … 7"),
    "labels too few": ({"init": np.zeros(19, int)}, ValueError, r"shape \(20,\).*got \(19,\)"),
    "responsibilities": ({"init": np.ones((20, 3))}, ValueError, "sum to 1 in every row; row 0 sums to 3"),
    "means with nan": ({"init": np.full((3, 2), np.nan)}, ValueError, "init contains NaN"),
    "start of another shape": ({"init": np.zeros((4, 4))}, ValueError, r"got \(4, 4\)"),
}

STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "weights sum": ({"weights_init": [0.2, 0.2, 0.2]}, r"sum\(weights\) = 0.60000. Divide weights_init"),
    "weights range": ({"weights_init": [2.0, -0.5, -0.5]}, r"in the range \[0, 1\]"),
    "weights shape": ({"weights_init": [0.5, 0.5]}, "'weights' should have the shape of"),
    "means shape": ({"means_init": np.zeros((3, 5))}, "'means' should have the shape of"),
    "means nan": ({"means_init": np.full((3, 2), np.nan)}, "means_init contains NaN: row 0, column 0"),
    "precisions sign": (
        {"precisions_init": -np.tile(np.eye(2), (3, 1, 1))},
        "symmetric, positive-definite; a smallest",
    ),
    "precisions symmetry": ({"precisions_init": np.tile([[1.0, 0.5], [0.0, 1.0]], (3, 1, 1))}, "it is not symmetric"),
    "precisions shape": ({"precisions_init": np.ones((3, 2))}, "'full precision' should have the shape of"),
}

ESTIMATOR_NAMES = {
    "family": "covariance_type",
    "init": "init_params",
    "ridge": "reg_covar",
    "max_steps": "max_iter",
    "n_restarts": "n_init",
}


@pytest.fixture
def compiles() -> Iterator[list[str]]:
    """The programs that are compiled during a test."""
    seen: list[str] = []

    def listen(event: str, duration: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def fit(x: Any = X, sample_weight: Any = None, **settings: Any) -> Any:
    return jaxgmm.fit(jax.random.key(0), x, **{"n_components": 3, "sample_weight": sample_weight, **settings})


def estimate(x: Any = X, sample_weight: Any = None, **settings: Any) -> Any:
    named = {ESTIMATOR_NAMES.get(name, name): value for name, value in settings.items()}
    model = GaussianMixture(**{"n_components": 3, "random_state": 0, **named})
    return model.fit(x, sample_weight=sample_weight).result_


ONE = Mixture.create([1.0], np.zeros((1, 2)), np.eye(2)[None])

DOORS = pytest.mark.parametrize("door", [fit, estimate])


@DOORS
@pytest.mark.parametrize("case", DATA)
def test_data(door: Callable[..., Any], case: str, compiles: list[str]) -> None:
    x, error, message = DATA[case]
    jax.random.key(0)
    compiles.clear()
    with pytest.raises(error, match=message):
        door(x)
    assert compiles == []


@pytest.mark.parametrize(
    "call",
    [
        lambda key: jaxgmm.fit(key, X, 3),
        lambda key: jaxgmm.sweep(key, X, 3),
        lambda key: jaxgmm.fit_many(key, [X], 3),
        lambda key: jaxgmm.bootstrap(key, X, ONE),
        lambda key: jaxgmm.likelihood_ratio_test(key, X, 1),
        lambda key: ONE.sample(key, 3),
    ],
    ids=["fit", "sweep", "fit_many", "bootstrap", "likelihood_ratio_test", "sample"],
)
def test_keys(call: Callable[[Any], Any], compiles: list[str]) -> None:
    """A seed, a generator of NumPy, the rows in the key's place, no key, several keys."""
    several = jax.random.split(jax.random.key(0), 2)
    compiles.clear()
    for key, got in ((7, "int: 7"), (np.random.default_rng(0), "Generator"), (X, "ndarray"), (None, "NoneType")):
        with pytest.raises(TypeError, match=rf"such as jax\.random\.key\(0\), got {got}\. It comes first"):
            call(key)
    with pytest.raises(ValueError, match=r"one random key, got keys of shape \(2,\)"):
        call(several)
    assert compiles == []


def test_keys_in_the_legacy_form_are_keys() -> None:
    expected = ONE.sample(jax.random.key(7), 3)
    for key in (jax.random.PRNGKey(7), np.array([0, 7], np.uint32)):
        np.testing.assert_array_equal(ONE.sample(key, 3), expected)  # pyright: ignore
    np.testing.assert_array_equal(jax.jit(lambda key: ONE.sample(key, 3))(jax.random.key(7)), expected)


@DOORS
def test_numbers_that_the_dtype_cannot_hold(door: Callable[..., Any], compiles: list[str]) -> None:
    """In float64 they are numbers like others."""
    jax.random.key(0)
    compiles.clear()
    with pytest.raises(ValueError, match=r"-1e\+200 in row 3, column 1, which is too large for float32"):
        door(with_value(-1e200), dtype=np.float32)
    assert compiles == []


@DOORS
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_rows_of_weight_0_may_hold_anything(door: Callable[..., Any], value: float) -> None:
    """As in a stream: nobody looks at them."""
    fitted = []
    for x in (with_value(value), with_value(0.0)):
        weights = np.where(np.arange(20) == 3, 0.0, 1.0)
        fitted.append(door(x, weights, dtype=np.float32))
    assert np.isfinite(fitted[0].objective)
    assert fitted[0].objective == fitted[1].objective


@DOORS
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(door: Callable[..., Any], case: str, compiles: list[str]) -> None:
    weights, error, message = WEIGHTS[case]
    jax.random.key(0)
    compiles.clear()
    with pytest.raises(error, match=message):
        door(sample_weight=weights)
    assert compiles == []


@DOORS
@pytest.mark.parametrize("case", PARAMETERS)
def test_parameters(door: Callable[..., Any], case: str) -> None:
    settings, error, message = PARAMETERS[case]
    with pytest.raises(error, match=message):
        door(**settings)


@pytest.mark.parametrize("case", STARTS)
def test_starts(case: str) -> None:
    settings, message = STARTS[case]
    with pytest.raises(ValueError, match=message):
        estimate(**settings)


@pytest.mark.parametrize("family", ["diag", "spherical"])
def test_precisions_of_other_types_must_be_positive(family: str) -> None:
    shape = {"diag": (3, 2), "spherical": (3,)}[family]
    with pytest.raises(ValueError, match=f"'{family} precision' should be positive"):
        estimate(family=family, precisions_init=np.full(shape, -1.0))


@pytest.mark.parametrize("x", [with_value(np.nan), with_value(np.inf)])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic", "icl"])
def test_predictions_check_their_input(x: np.ndarray, method: str) -> None:
    gm = GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="row 3, column 1"):
        getattr(gm, method)(x)
    with pytest.raises(ValueError, match="X has 1 features, but GaussianMixture is expecting 2 features"):
        getattr(gm, method)(X[:, :1])


def test_random_state_device_and_sample_size() -> None:
    with pytest.raises(ValueError, match="random_state must be"):
        estimate(random_state="seven")
    with pytest.raises(ValueError, match="device must be None"):
        estimate(device="abacus")
    gm = GaussianMixture(2, random_state=0).fit(X)
    for n in (0, -1):
        with pytest.raises(ValueError, match="Invalid value for 'n_samples'"):
            gm.sample(n)
    with pytest.raises(TypeError, match="n_samples"):
        gm.sample(1.5)


def test_mixture_create() -> None:
    eye = np.tile(np.eye(2), (2, 1, 1))
    good: dict[str, Any] = {"weights": [0.5, 0.5], "means": np.zeros((2, 2)), "covariances": eye}
    bad = {
        "sum to 1, got a sum of 1.5": {"weights": [0.5, 1.0]},
        "must not be negative": {"weights": [1.5, -0.5]},
        r"weights \(K,\) and means \(K, D\)": {"weights": [1.0]},
        "means must be finite": {"means": np.full((2, 2), np.nan)},
        "component 1 .full. is not positive definite": {"covariances": eye * np.array([1.0, -1.0])[:, None, None]},
        r"covariances have shape \(2, 3\)": {"covariances": np.ones((2, 3))},
        "Unknown covariance family": {"family": "round"},
    }
    Mixture.create(**good)
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            Mixture.create(**{**good, **change})
    with pytest.raises(ValueError, match=r"2 features: expected x of shape \(..., 2\), got \(5, 3\)"):
        Mixture.create(**good).log_prob(np.zeros((5, 3)))


def test_settings_and_the_pieces() -> None:
    mixture = Mixture.create([1.0], np.zeros((1, 2)), np.eye(2)[None])
    for settings, message in (({"tol": -1}, "tol"), ({"ridge": np.inf}, "ridge"), ({"family": "round"}, "family")):
        with pytest.raises(ValueError, match=message):
            em.Settings(**settings)
    with pytest.raises(ValueError, match="'diag', but the mixture is of family 'full'"):
        em.init(mixture, X, em.Settings(family="diag"))
    with pytest.raises(ValueError, match="2 features"):
        em.init(mixture, X[:, :1])
    with pytest.raises(ValueError, match="must be a matrix"):
        em.init(mixture, X[0])
    with pytest.raises(ValueError, match="max_steps must be at least 0"):
        em.run(em.init(mixture, X), X, max_steps=-1)
    with pytest.raises(ValueError, match="carry their own weights"):
        jaxgmm.fit(jax.random.key(0), Batches.of(X), 1, sample_weight=np.ones(20))
    with pytest.raises(ValueError, match="mixture of 1 components of family 'full'; 2 of family 'full'"):
        jaxgmm.fit(jax.random.key(0), X, 2, init=mixture)


def test_a_row_a_million_deviations_away_has_its_right_density() -> None:
    mixture = Mixture.create([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], np.tile(np.eye(2), (2, 1, 1)))
    far = np.array([1e6, 0.0])
    # The nearer component is the second: −½ ((10⁶−1)² + 1) − log 2π + log ½, in float32's eight digits.
    expected = -0.5 * ((1e6 - 1) ** 2 + 1) - np.log(2 * np.pi) + np.log(0.5)
    np.testing.assert_allclose(float(mixture.log_prob(far)), expected, rtol=1e-6)
    np.testing.assert_array_equal(mixture.responsibilities(far), [0.0, 1.0])


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Two clusters of 150 rows."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + 6.0])


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
        jaxgmm.fit(jax.random.key(0), Batches.of(x), 2, chunk_size=7)
    with pytest.raises(TypeError, match="rows are float32 and the mixture is float64"):
        jaxgmm.fit(jax.random.key(0), Batches.of(x), 2, dtype="float64")
    with pytest.raises(ValueError, match="n_components = 5, n_samples = 2"):
        jaxgmm.fit(jax.random.key(0), Batches.of(x[:2]), 5)
    with pytest.raises(ValueError, match="n_samples = 2 of positive weight"):
        jaxgmm.fit(jax.random.key(0), x, 3, sample_weight=(np.arange(300) < 2).astype(float))


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


def test_half_precision_is_computed_in_single(x: np.ndarray) -> None:
    assert jaxgmm.fit(jax.random.key(0), x.astype(np.float16), 2).mixture.means.dtype == np.float32
    assert GaussianMixture(2, random_state=0).fit(jnp.asarray(x, jnp.bfloat16)).mixture_.means.dtype == np.float32
    with pytest.raises(TypeError, match="float32 or float64, got float16"):
        GaussianMixture(2, dtype="float16").fit(x)


def test_the_remaining_doors(x: np.ndarray) -> None:
    with pytest.raises(TypeError, match="Labels must be integers"):
        jaxgmm.fit(jax.random.key(0), x, 2, init=np.repeat([0.5, 1.4], 150))
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


def test_the_dtypes_of_start_and_rows_may_differ_where_they_can(x: np.ndarray) -> None:
    half = x.astype(np.float32)
    gm = GaussianMixture(2, warm_start=True, random_state=0).fit(half)
    assert gm.fit(x).means_.dtype == np.float64
    assert gm.fit(half).means_.dtype == np.float32
    start = GaussianMixture(2, covariance_type="tied", random_state=0).fit(x).mixture_
    assert jaxgmm.fit(jax.random.key(0), x, 2, "tied", init=start).mixture.means.dtype == np.float32
    mixture = Mixture.create([1.0], np.zeros((1, 2)), np.eye(2)[None])
    with pytest.raises(TypeError, match="rows are float64 and the mixture is float32"):
        em.init(mixture, Batches.of(x, dtype="float64"))

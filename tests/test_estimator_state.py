"""Parameters that users set on the estimator are heeded, or refused by name, and never ignored."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as SklearnMixture

from jaxgmm import GaussianMixture, Mixture, Status, from_sklearn

from .tolerances import assert_close

FORMS = ("covariances_", "precisions_", "precisions_cholesky_")
ARRAYS = ("weights_", "means_", *FORMS)
ORDER = np.array([2, 0, 1])
families = pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical", "VEI"])

CENTRES = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, -4.0], [-5.0, 5.0, 3.0]])
X = CENTRES[np.arange(300) % 3] + np.random.default_rng(0).normal(size=(300, 3)) * [1.0, 0.7, 1.6]

FITS: dict[str, GaussianMixture] = {}


def fitted(family: str = "full") -> GaussianMixture:
    """A copy of a fit, of which each test may spoil its own."""
    if family not in FITS:
        FITS[family] = GaussianMixture(3, covariance_type=family, random_state=0).fit(X)
    return copy.deepcopy(FITS[family])


def arrays(model: Any, names: tuple[str, ...] = ARRAYS) -> dict[str, Any]:
    return {name: getattr(model, name) for name in names}


def with_parameters(family: str, **values: Any) -> GaussianMixture:
    """An estimator that was never fitted, with these attributes."""
    model = GaussianMixture(3, covariance_type=family, random_state=0)
    for name, value in values.items():
        setattr(model, name, value)
    return model


@families
def test_components_in_another_order(family: str) -> None:
    """As users of scikit-learn do it, all arrays in turn; or in place; or as much of them as they think of."""
    model = fitted(family)
    density, labels = model.score_samples(X), model.predict(X)
    is_shared = family == "tied"
    for name in ("weights_", "means_", *(() if is_shared else FORMS)):
        setattr(model, name, getattr(model, name)[ORDER])
    assert_close(model.score_samples(X), density, "log_density", np.float64)
    np.testing.assert_array_equal(ORDER[model.predict(X)], labels)
    np.testing.assert_array_equal(model.mixture_.means, fitted(family).means_[ORDER])
    partly = fitted(family)
    for name in ("weights_", "means_", *(() if is_shared else FORMS[:1])):
        getattr(partly, name)[:] = getattr(partly, name)[ORDER]
    assert_close(partly.bic(X), fitted(family).bic(X), "objective", np.float64)
    assert_close(partly.precisions_, model.precisions_, "matrices", np.float64)


@families
@pytest.mark.parametrize("form", FORMS)
def test_known_parameters_need_no_fit(family: str, form: str) -> None:
    """One form of the covariances is enough, and everything that a fitted estimator does works."""
    whole = fitted(family)
    model = with_parameters(family, **arrays(whole, ("weights_", "means_", form)))
    assert_close(model.score_samples(X), whole.score_samples(X), "log_density", np.float64, factor=10.0)
    np.testing.assert_array_equal(model.predict(X), whole.predict(X))
    assert_close(model.bic(X), whole.bic(X), "objective", np.float64, factor=10.0)
    assert_close(model.sample(50)[0], whole.sample(50)[0], "matrices", np.float64, factor=10.0)
    for name, value in arrays(whole).items():
        assert getattr(model, name).shape == value.shape
    assert model.n_features_in_ == 3
    assert not hasattr(clone(model), "means_")


@families
def test_known_parameters_are_scikit_learns(family: str) -> None:
    """The attributes that scikit-learn asks for, and its answers."""
    theirs = SklearnMixture(3, covariance_type="full" if family == "VEI" else family)
    whole = fitted(family).to_sklearn()
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_")
    for name in names:
        setattr(theirs, name, getattr(whole, name))
    ours = with_parameters(theirs.covariance_type, **arrays(whole, names))
    for other in (ours, from_sklearn(theirs), ours.to_sklearn()):
        assert_close(other.score_samples(X), theirs.score_samples(X), "sklearn", np.float64)
        assert_close(other.predict_proba(X), theirs.predict_proba(X), "sklearn", np.float64)
        np.testing.assert_array_equal(other.predict(X), theirs.predict(X))
        assert_close(other.bic(X), theirs.bic(X), "sklearn", np.float64)


def test_fewer_components_and_another_dtype() -> None:
    """A component is dropped, and the parameters come as lists of whole numbers: n_components is for the next fit."""
    model, weights = fitted(), fitted().weights_[:2]
    model.weights_ = weights / weights.sum()
    model.means_, model.covariances_ = model.means_[:2], model.covariances_[:2]
    expected = Mixture.create(*arrays(model, ("weights_", "means_", "covariances_")).values(), dtype=np.float64)
    assert_close(model.score(X), float(np.mean(np.asarray(expected.log_prob(X)))), "objective", np.float64)
    assert model.predict_proba(X).shape == (300, 2)
    assert model.precisions_.shape == (2, 3, 3)
    assert model.to_sklearn().n_components == 2
    single = GaussianMixture(3, random_state=0, dtype=np.float32).fit(X)
    single.means_ = [[0, 0, 0], [6, 0, -4], [-5, 5, 3]]
    assert single.score_samples(X).dtype == np.float32  # as the estimator was asked for
    single.set_params(dtype=None).means_ = CENTRES + 0.5
    assert single.score_samples(X).dtype == np.float64


@pytest.mark.parametrize("is_in_place", [False, True])
def test_a_result_goes_as_soon_as_parameters_are_set(is_in_place: bool) -> None:
    """Not only once they are used."""
    model = fitted()
    if is_in_place:
        model.means_[0] += 1.0
    else:
        model.means_ = model.means_ + 1.0
    with pytest.raises(AttributeError, match="only fit leaves one"):
        _ = model.result_


def test_what_a_fit_said_goes_with_its_parameters() -> None:
    model = fitted()
    model.means_ += 1.0
    assert_close(model.score(X + 1.0), fitted().score(X), "objective", np.float64)
    assert not hasattr(model, "effective_counts_")
    with pytest.raises(AttributeError, match="only fit leaves one"):
        _ = model.result_
    assert model.fit(X).result_.mixture is model.mixture_


def test_what_goes_on_goes_on_from_them() -> None:
    """A warm start and a stream begin with the parameters that were set, fitted before or not."""
    known = arrays(fitted(), ("weights_", "means_", "covariances_")) | {"means_": CENTRES}
    for model in (with_parameters("full", **known), fitted()):
        model.means_ = CENTRES
        model.set_params(warm_start=True, max_iter=0).fit(X)
        np.testing.assert_array_equal(model.means_, CENTRES)
    streams = [with_parameters("full", **known), fitted().partial_fit(X[:100])]
    for name, value in known.items():
        setattr(streams[1], name, value)
    for model in streams:
        model.partial_fit(X[100:])
        assert model.n_iter_ == 2  # the parameters count as one batch
    assert_close(streams[0].means_, streams[1].means_, "means", np.float64)


def test_a_mixture_or_a_result_is_taken_over_whole() -> None:
    other = Mixture.create([0.5, 0.5], np.zeros((2, 2)), np.ones(2), "spherical", dtype=np.float64)
    model = fitted()
    model.mixture_ = other
    assert model.means_.shape == (2, 2)
    assert model.covariances_.shape == (2,)
    assert model.n_features_in_ == 2
    assert_close(model.score_samples(X[:, :2]), np.asarray(other.log_prob(X[:, :2])), "log_density", np.float64)
    assert not hasattr(model, "result_")
    model.result_ = fitted("diag").result_
    np.testing.assert_array_equal(model.means_, fitted("diag").means_)
    assert model.status_ is Status.CONVERGED
    assert model.lower_bound_ == fitted("diag").lower_bound_
    for name, value in {"mixture_": fitted().result_, "result_": other}.items():
        with pytest.raises(TypeError, match=r"jaxgmm\.(Mixture|FitResult), got (Mixture|FitResult)"):
            setattr(model, name, value)
    with pytest.raises(ValueError, match="one mixture with means"):
        model.mixture_ = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), other)


def indefinite(model: GaussianMixture) -> np.ndarray:
    values = model.covariances_.copy()
    values[1, 0, 0] = -1.0
    return values


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "fewer means": (lambda m: {"means_": m.means_[:2]}, ValueError, r"weights_ must be \(K,\) .* \(3,\) and \(2, 3\)"),
    "fewer of two": (
        lambda m: {"means_": m.means_[:2], "weights_": np.ones(2) / 2},
        ValueError,
        r"covariances_ has shape \(3, 3, 3\).* must be \(2, 3, 3\)",
    ),
    "another type's shape": (lambda m: {"covariances_": np.ones((3, 3))}, ValueError, "covariance_type='full' it must"),
    "no distribution": (lambda m: {"weights_": np.ones(3)}, ValueError, "weights_ .* they sum to 3"),
    "a negative weight": (lambda m: {"weights_": np.array([-0.5, 0.5, 1.0])}, ValueError, "weights_ must not be neg"),
    "NaN": (lambda m: {"means_": np.full((3, 3), np.nan)}, ValueError, r"means_\[0, 0\] is nan"),
    "indefinite": (
        lambda m: {"covariances_": indefinite(m)},
        ValueError,
        "covariances_ of component 1 is not positive",
    ),
    "not symmetric": (lambda m: {"precisions_": m.precisions_ + np.triu(np.ones((3, 3)), 1)}, ValueError, "symmetric"),
    "singular": (lambda m: {"precisions_cholesky_": np.zeros((3, 3, 3))}, ValueError, "precisions_cholesky_ of comp"),
    "two minds": (
        lambda m: {"covariances_": m.covariances_[ORDER], "precisions_cholesky_": 2.0 * m.precisions_cholesky_},
        ValueError,
        "covariances_ and precisions_cholesky_ contradict each other",
    ),
    "text": (lambda m: {"means_": np.full((3, 3), "a")}, ValueError, "means_ must hold numbers only"),
    "None": (lambda m: {"weights_": None}, TypeError, "weights_ was set to None"),
    "complex": (lambda m: {"means_": m.means_ + 1j}, ValueError, "means_ has dtype complex"),
    "features": (lambda m: {"n_features_in_": 7}, ValueError, "n_features_in_ of this GaussianMixture is 7"),
    "features of all": (
        lambda m: {"means_": np.zeros((3, 2)), "covariances_": np.tile(np.eye(2), (3, 1, 1))},
        ValueError,
        "means_ was set with 2 features, but n_features_in_",
    ),
}

USES = {
    "predict": lambda m: m.predict(X),
    "sample": lambda m: m.sample(3),
    "icl": lambda m: m.icl(X),
    "to_sklearn": lambda m: m.to_sklearn(),
    "partial_fit": lambda m: m.partial_fit(X),
    "warm start": lambda m: m.set_params(warm_start=True).fit(X),
    "mixture_": lambda m: m.mixture_,
    "a copy's": lambda m: pickle.loads(pickle.dumps(m)).score(X),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_itself_is_refused_when_used(name: str) -> None:
    values, kind, message = WRONG[name]
    model = fitted()
    for attribute, value in values(model).items():
        setattr(model, attribute, value)
    for use, call in USES.items():
        if attribute == "n_features_in_" and use not in ("predict", "icl", "partial_fit", "a copy's"):
            continue
        with pytest.raises(kind, match=message):
            call(copy.deepcopy(model))
    assert_close(model.fit(X).means_, fitted().means_, "means", np.float64)  # a fit starts anew


def test_covariances_of_another_family_are_refused() -> None:
    model = with_parameters("VEI", **arrays(fitted(), ("weights_", "means_", "covariances_")))
    with pytest.raises(ValueError, match=r"not of the family 'VEI'.*such as 'full'"):
        model.predict(X)
    model.set_params(covariance_type="full")
    assert_close(model.score(X), fitted().score(X), "objective", np.float64)


def test_settings_for_the_next_fit_leave_this_one_alone() -> None:
    model = fitted().set_params(n_components=5, covariance_type="diag")
    assert model.bic(X) == fitted().bic(X)
    model.means_ = model.means_[ORDER]  # the covariances stay what they are, and are of their own family
    assert model.mixture_.family.name == "full"


@pytest.mark.parametrize("there", [(), ("means_",), ("weights_", "precisions_"), ("means_", "covariances_")])
def test_too_little_is_not_fitted_and_says_the_way(there: tuple[str, ...]) -> None:
    unfitted, robbed = with_parameters("full", **arrays(fitted(), there)), fitted()
    for name in set(ARRAYS) - set(there):
        delattr(robbed, name)
    for model in (unfitted, robbed, pickle.loads(pickle.dumps(robbed))):
        with pytest.raises(NotFittedError, match=r"not fitted yet.*Call 'fit'.*jaxgmm\.Mixture\.create\(") as caught:
            model.predict(X)
        assert all(f"no {name}" in str(caught.value) for name in {"weights_", "means_"} - set(there) if there)
        assert not hasattr(model, "mixture_")
    for call in (USES["partial_fit"], USES["warm start"]):
        if there:
            with pytest.raises(NotFittedError, match="It has"):
                call(with_parameters("full", **arrays(fitted(), there)))


def test_what_can_be_spared_may_be_deleted() -> None:
    model = fitted()
    del model.covariances_, model.precisions_
    assert_close(model.score(X), fitted().score(X), "objective", np.float64)
    del model.mixture_  # is read from the arrays again
    assert_close(model.score(X), fitted().score(X), "objective", np.float64)


def test_copies_of_all_kinds_and_ages() -> None:
    """Set, unset and unused arrays come back; a JAX array as float64; a pickle from before a parameter was added."""
    with jax.enable_x64(True):
        as_jax = with_parameters("full", **{n: jnp.asarray(v) for n, v in arrays(fitted()).items()})
    moved = fitted()
    moved.means_ += 1.0
    for model in (as_jax, moved, fitted()):
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
            np.testing.assert_array_equal(other.score_samples(X), model.score_samples(X))
            assert type(other.means_) is type(model.means_)
            assert other.means_.dtype == np.float64
    state = fitted().__getstate__()
    for name in ("race", "escape", "_deleted"):
        del state[name]
    old = GaussianMixture.__new__(GaussianMixture)
    old.__setstate__(state)
    np.testing.assert_array_equal(old.score_samples(X), fitted().score_samples(X))
    assert old.get_params() == fitted().get_params()


def test_threads_may_share_an_estimator_with_parameters_set() -> None:
    model = fitted()
    model.weights_, model.means_, model.covariances_ = (
        model.weights_[ORDER],
        model.means_[ORDER],
        model.covariances_[ORDER],
    )
    begin, found = threading.Barrier(6), []

    def use() -> None:
        begin.wait(60)
        found.extend(model.predict(X[:60]) for _ in range(3))

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(found) == 18
    for labels in found:
        np.testing.assert_array_equal(ORDER[labels], fitted().predict(X[:60]))


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda: BayesianGaussianMixture(n_components=2).fit(X), "BayesianGaussianMixture, which holds a posterior"),
        (lambda: KMeans(2, n_init=1).fit(X), "KMeans, which has centres but no covariances"),
        (lambda: fitted(), "GaussianMixture, which needs no conversion"),
        (lambda: SklearnMixture, "the class GaussianMixture itself"),
        (lambda: X, "ndarray, which is no such model"),
    ],
)
def test_from_sklearn_refuses_by_name(other: Any, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        from_sklearn(other())


def test_parameters_and_transformations() -> None:
    """Parameters that were set are read as numbers where they are first used inside a transformation; traced ones are
    refused."""
    model, rows = fitted(), jnp.asarray(X, jnp.float32)
    model.means_ = model.means_ + 1.0
    density = jax.jit(model.score_samples)(rows + 1.0)
    assert_close(density, fitted().score_samples(X), "log_density", np.float32)
    np.testing.assert_array_equal(np.asarray(model.mixture_.means), model.means_)

    def score(means: Any) -> Any:
        model.means_ = means
        return model.score(X)

    with pytest.raises(TypeError, match=r"means_ was set to a value that a JAX transformation traces.*Mixture\.create"):
        jax.jit(score)(jnp.zeros((3, 3)))

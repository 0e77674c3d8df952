"""Types as the ecosystem has them, rows that are few or none or of an open number, and what notebooks show."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxgmm
from jaxgmm import GaussianMixture, Mixture, Status, from_sklearn
from jaxgmm.families import SHELF
from jaxgmm.search.table import Cell

from .tolerances import assert_close

CENTRES = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, -4.0], [-5.0, 5.0, 3.0]])
X = CENTRES[np.arange(300) % 3] + np.random.default_rng(0).normal(size=(300, 3))
MODEL = GaussianMixture(3, random_state=0).fit(X)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, 300) * (np.arange(300) % 7 > 0)

CRITERIA = ("score", "aic", "bic", "icl")


def single() -> GaussianMixture:
    return GaussianMixture(3, random_state=0).fit(X.astype(np.float32))


# Types


def test_figures_are_pythons_own() -> None:
    from sklearn.mixture import GaussianMixture as SklearnMixture

    stream = GaussianMixture(3, random_state=0).fit(X).partial_fit(X)
    for model in (MODEL, single(), stream, from_sklearn(SklearnMixture(3, random_state=0).fit(X))):
        for name in CRITERIA:
            assert type(getattr(model, name)(X)) is float
        assert type(model.lower_bound_) is float
        assert type(model.n_iter_) is int
        assert type(model.converged_) is bool
        assert type(model.n_features_in_) is int
        assert type(model.status_) is Status
    assert {type(value) for value in MODEL.lower_bounds_} == {float}


def test_labels_are_as_each_library_has_them() -> None:
    rows = jnp.asarray(X, jnp.float32)
    for given in (X, X.tolist(), X.astype(np.float32)):
        assert MODEL.predict(given).dtype == np.int64
        assert MODEL.fit_predict(given).dtype == np.int64
    assert MODEL.sample(5)[1].dtype == np.int64
    of_jax = GaussianMixture(3, random_state=0).fit(rows)
    assert of_jax.predict(rows).dtype == of_jax.sample(5)[1].dtype == jnp.argmax(rows).dtype


def test_labels_of_torch() -> None:
    torch = pytest.importorskip("torch")
    rows = torch.tensor(X)
    model = GaussianMixture(3, random_state=0).fit(rows)
    for labels in (
        model.predict(rows),
        model.sample(5)[1],
        model.fit_predict(rows),
        torch.from_numpy(MODEL.predict(X)),
    ):
        assert torch.nn.functional.one_hot(labels, 3).shape == (len(labels), 3)
    density = model.score_samples(rows)
    model.means_ += 1.0  # in place
    assert_close(model.score_samples(rows + 1.0).numpy(), density.numpy(), "log_density", np.float64)


def test_a_status_is_its_name_and_its_number() -> None:
    assert str(Status.CONVERGED) == f"{Status.CONVERGED}" == "CONVERGED"
    assert f"{Status.CONVERGED:>12}" == "   CONVERGED"
    assert f"{Status.CONVERGED:d}" == "%d" % Status.CONVERGED == "1"  # noqa: UP031
    assert Status.CONVERGED == 1
    assert str(MODEL.status_) == "CONVERGED"


# Missing cells


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean", "object"])
def test_missing_cells_of_nullable_columns(kind: str) -> None:
    pd = pytest.importorskip("pandas")
    values = np.array([1, None, 0, 1] * 75, object)
    frame = pd.DataFrame({"a": pd.array(values, dtype=kind), "b": X[:, 1], "c": X[:, 2]})
    with pytest.raises(ValueError, match="contains NaN: row 1, column 0"):
        GaussianMixture(3).fit(frame)
    with pytest.raises(ValueError, match="contains NaN: row 1, column 0"):
        MODEL.predict(frame.to_numpy())
    assert np.isnan(np.asarray(MODEL.mixture_.log_prob(frame)))[:4].tolist() == [False, True, False, False]
    whole = frame.assign(a=frame["a"].fillna(True if kind == "boolean" else 1))
    plain = whole.to_numpy(dtype=float)
    np.testing.assert_array_equal(GaussianMixture(1).fit(whole).means_, GaussianMixture(1).fit(plain).means_)
    counted = GaussianMixture(1).fit(frame, sample_weight=frame["a"].notna().to_numpy().astype(float))
    assert_close(counted.means_, plain[frame["a"].notna()].mean(axis=0)[None], "means", np.float64)


def test_missing_cells_that_are_no_pandas() -> None:
    for rows in ([[1.0, None], [2.0, 3.0]], np.array([[1.0, None], [2.0, 3.0]], object)):
        with pytest.raises(ValueError, match="contains NaN: row 0, column 1"):
            GaussianMixture(1).fit(rows)
    with pytest.raises(ValueError, match="row 1, column 0 is masked"):
        GaussianMixture(1).fit(np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], [[0, 0], [1, 0]]))
    with pytest.raises(ValueError, match="row 0, column 1 is 'x'"):
        GaussianMixture(1).fit(np.array([[1.0, "x"], [None, 4.0]], object))


# No rows, and an open number of them


METHODS = {"log_prob": (), "predict": (), "responsibilities": (3,), "log_joint": (3,)}


@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
@pytest.mark.parametrize("name", METHODS)
def test_no_rows_carry_through(family: str, name: str, dtype: np.dtype) -> None:
    method, tail = (
        getattr(Mixture.create(np.ones(3) / 3, CENTRES, np.tile(np.eye(3), (3, 1, 1)), family), name),
        METHODS[name],
    )
    for lead in ((0,), (2, 0), (0, 2)):
        rows = np.zeros((*lead, 3), dtype)
        for found in (method(rows), jax.jit(method)(rows), method(jnp.asarray(rows))):
            assert found.shape == (*lead, *tail)
            assert found.dtype == method(np.zeros((1, 3), dtype)).dtype
    assert jax.vmap(method)(np.zeros((2, 0, 3), dtype)).shape == (2, 0, *tail)
    with pytest.raises(ValueError, match="has 3 features"):
        method(np.zeros((0, 2), dtype))


def test_no_rows_of_the_estimator_are_scikit_learns_error() -> None:
    for call in (MODEL.predict, MODEL.predict_proba, MODEL.score_samples, MODEL.score, MODEL.bic, MODEL.fit):
        with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
            call(X[:0])


@pytest.mark.parametrize("family", SHELF)
def test_an_open_number_of_rows_is_exported(family: str) -> None:
    mixture = Mixture.create(np.ones(3) / 3, CENTRES, np.tile(np.eye(3), (3, 1, 1)), family, dtype=np.float32)
    (n,) = export.symbolic_shape("n")
    for name in ("log_prob", "responsibilities", "predict") if family == "full" else ("log_prob",):
        exported = export.export(jax.jit(getattr(mixture, name)))(jax.ShapeDtypeStruct((n, 3), jnp.float32))
        for n_rows in (1, 7):
            rows = X[:n_rows].astype(np.float32)
            assert_close(exported.call(rows), getattr(mixture, name)(rows), "log_density", np.float32)


def test_the_estimator_is_exported_too() -> None:
    n, m = export.symbolic_shape("n, m")
    for name in ("predict", "predict_proba", "score_samples", "score", "bic"):
        exported = export.export(jax.jit(getattr(MODEL, name)))(jax.ShapeDtypeStruct((n, 3), jnp.float32))
        rows = X[:7].astype(np.float32)
        assert_close(exported.call(rows), getattr(MODEL, name)(rows), "log_density", np.float32)
    nested = export.export(jax.jit(MODEL.mixture_.log_prob))(jax.ShapeDtypeStruct((n, m, 3), jnp.float32))
    assert nested.call(jnp.zeros((2, 5, 3))).shape == (2, 5)


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_within_transformations(name: str) -> None:
    rows, weights = jnp.asarray(X, jnp.float32), jnp.asarray(WEIGHTS, jnp.float32)
    call = getattr(MODEL, name)
    size = {"score": 1.0}.get(name, float(len(X)))  # a criterion is a sum over rows
    assert_close(jax.jit(lambda x: call(x))(rows) / size, call(X) / size, "objective", np.float32, factor=10.0)
    weighted = jax.jit(lambda x, w: call(x, sample_weight=w))(rows, weights)
    assert_close(weighted / size, call(X, sample_weight=WEIGHTS) / size, "objective", np.float32, factor=10.0)


def test_more_transformations_of_criteria() -> None:
    """Derivatives, many tables, rows that are constants of the program, and infinitely far rows of weight 0."""
    rows = jnp.asarray(X, jnp.float32)
    slope = jax.grad(MODEL.score)(rows)
    assert np.isfinite(slope).all()
    each = jax.vmap(MODEL.score)(rows.reshape(2, 150, 3))
    assert_close(each[1], MODEL.score(X[150:]), "objective", np.float32)
    scaled = jax.jit(lambda scale: scale * MODEL.score(X))(2.0)
    assert_close(scaled, 2.0 * MODEL.score(X), "objective", np.float32)
    weights = np.append(0.0, np.ones(299, np.float32))
    without = jax.jit(lambda x, w: MODEL.score(x, sample_weight=w))(rows.at[0].set(1e30), weights)
    assert_close(without, MODEL.score(X[1:]), "objective", np.float32)


# Notebooks


@dataclass(frozen=True)
class Marked(type(SHELF["full"])):
    """A family of a stranger's with a name that is no HTML."""

    name: str = "<b>&"


def test_html_is_a_small_table_of_escaped_text() -> None:
    mixture = MODEL.mixture_
    html = mixture._repr_html_()
    assert html.count("<tr>") == 1 + 3
    assert f"<td>{mixture.means[1, 0]:.4g}</td>" in html
    strange = replace(mixture, family=Marked())
    assert "<b>" not in strange._repr_html_()
    assert "&lt;b&gt;&amp;" in strange._repr_html_()
    wide = Mixture.create(np.ones(20) / 20, np.zeros((20, 30)), np.ones(20), "spherical")._repr_html_()
    assert wide.count("<tr>") == 1 + 10 + 1
    assert "and 10 more" in wide
    assert len(wide) < 5000


def test_html_of_results_and_sweeps() -> None:
    result = MODEL.result_
    assert "CONVERGED" in result._repr_html_()
    assert result._repr_html_().endswith(result.mixture._repr_html_())
    held = replace(result, spurious=np.array([False, True, False]))
    assert "held up by the ridge alone: component 1" in held._repr_html_()
    stack = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), result)
    for batched in (stack, stack.mixture):
        assert batched._repr_html_().startswith("<pre>")
    cells = tuple(
        Cell(name, 2, -1.0, 3, value, value, value, 4, "CONVERGED") for name, value in (("<i>", 2.0), ("full", 1.0))
    )
    sweep = jaxgmm.Sweep({}, cells, "bic", spurious=frozenset({("<i>", 2)}))
    html = sweep._repr_html_()
    assert "<i>" not in html
    assert html.count("&lt;i&gt;") == 1
    assert "<tr style='font-weight:bold'><td>*</td><td>full</td>" in html
    assert "^ a component stands on the ridge alone" in html
    assert repr(sweep).splitlines()[3].startswith("* full")
    assert jax.jit(lambda m: (m._repr_html_(), m.log_weights)[1])(result.mixture).shape == (3,)

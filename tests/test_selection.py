"""Information criteria against mclust's, and the search that chooses by them."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, Status
from jaxgmm.families import SHELF, Full
from jaxgmm.search import criteria
from jaxgmm.search.buckets import PADDING, buckets, padding
from jaxgmm.search.criteria import aic, bic, entropy, icl, n_parameters, sums
from jaxgmm.search.folds import folds
from jaxgmm.search.sweep import sweep
from jaxgmm.search.table import Cell, Sweep
from tests import oracle
from tests.laws import KINDS
from tests.stranger import ConsistentAIC
from tests.tolerances import assert_close, assert_same_mixture


@dataclass(frozen=True)
class OtherTied(Full):
    """Another family under a name that is taken."""

    name: str = field(default="tied", init=False)


NAMES = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical", "EEI": "EEI", "VEI": "VEI"}
NAMES_IN_1D = {"V": "full", "E": "tied"}


@cache
def truth(data):
    return json.loads((oracle.DATA / "mclust" / f"{data}.json").read_text())


@cache
def rows(data):
    lines = (oracle.DATA / f"{data}.csv").read_text().splitlines()
    width = truth(data)["d"]
    return np.array([[float(cell) for cell in line.split(",")[:width]] for line in lines[1:]])


def fits(data):
    """mclust's fits of families that this library has, where their parameters are stored."""
    names = NAMES if truth(data)["d"] > 1 else NAMES_IN_1D
    return [f for f in truth(data)["grid_tight"] if f["model"] in names and "means" in f and f["converged"]]


CASES = [(data, fit) for data in ("faithful", "iris", "diabetes", "galaxies") for fit in fits(data)]
every_fit = pytest.mark.parametrize(("data", "fit"), CASES, ids=[f"{d}-{f['model']}-{f['G']}" for d, f in CASES])


def mixture_of(fit):
    family = (NAMES | NAMES_IN_1D)[fit["model"]]
    return Mixture.create(
        *(np.array(fit[name], float) for name in ("weights", "means", "covariances")), family=family, dtype="float64"
    )


def example(dtype="float64", n_components=3, n_features=2, far=1.0):
    rng = np.random.default_rng(5)
    means = far * rng.normal(size=(n_components, n_features))
    weights = np.arange(1.0, n_components + 1) / sum(range(n_components + 1))
    return Mixture.create(weights, means, np.ones(n_components), family="spherical", dtype=dtype)


def entropies(mixture, x):
    """(soft, hard) of every row, in float64 and without tricks."""
    r = np.asarray(mixture.responsibilities(x), np.float64)
    logarithm = np.log(r, where=r > 0, out=np.zeros_like(r))
    return -np.sum(r * logarithm, axis=1), -np.log(r.max(axis=1))


# Criteria


def test_there_are_fits_of_every_family_to_compare_with():
    assert {fit["model"] for _, fit in CASES} == {*NAMES, *NAMES_IN_1D}


@every_fit
def test_criteria_of_mclusts_parameters_are_mclusts_with_the_other_sign(data, fit):
    mixture, x = mixture_of(fit), rows(data)
    total = float(np.sum(np.asarray(mixture.log_prob(x))))
    p = n_parameters(mixture)
    assert p == fit["df"]
    assert_close(total, fit["loglik"], "mclust", "float64")
    assert_close(aic(total, p), 2 * fit["df"] - 2 * fit["loglik"], "mclust", "float64")
    assert_close(bic(total, p, len(x)), -fit["bic_mclust"], "mclust", "float64")
    hard = float(entropy(mixture, x, "hard"))
    assert_close(icl(total, p, len(x), hard), -fit["icl_mclust"], "mclust", "float64")


@pytest.mark.parametrize("family", list(SHELF))
def test_parameters_are_those_of_means_weights_and_family(family):
    mixture = Mixture.create(np.full(4, 0.25), np.zeros((4, 3)), np.broadcast_to(np.eye(3), (4, 3, 3)), family=family)
    p = n_parameters(mixture)
    assert isinstance(p, int)
    assert p == 4 * 3 + 3 + SHELF[family].n_free(4, 3)


def test_a_component_of_weight_0_has_no_parameters():
    covariances = np.broadcast_to(np.eye(2), (3, 2, 2))
    with_empty = Mixture.create([0.5, 0.0, 0.5], np.zeros((3, 2)), covariances)
    without = Mixture.create([0.5, 0.5], np.zeros((2, 2)), covariances[:2])
    assert n_parameters(with_empty) == n_parameters(without) == 11


def test_criteria_may_be_traced():
    def criterion(mixture, x):
        total = jnp.sum(mixture.log_prob(x))
        return icl(total, n_parameters(mixture), jnp.float32(len(x)), entropy(mixture, x))

    mixture, x = example("float32"), np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    together = jax.jit(criterion)(mixture, jnp.asarray(x))
    assert_close(together, criterion(mixture, jnp.asarray(x)), "objective", "float32", factor=len(x))


# Entropy


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_entropy_is_that_of_the_responsibilities_however_rows_are_cut(dtype, rng, kind):
    x = rng.normal(size=(301, 2)).astype(dtype)
    mixture = example(dtype)
    expected = entropies(mixture, x)[kind == "hard"].sum()
    assert expected > 10
    for chunk_size in (None, 64, 301, 512):
        actual = entropy(mixture, Batches.of(x, chunk_size=chunk_size), kind)
        assert actual.dtype == dtype
        assert_close(actual, expected, "responsibilities", dtype, factor=len(x))


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_weighted_rows_count_as_often_as_they_weigh(rng, kind):
    x, weight = rng.normal(size=(90, 2)), rng.integers(0, 4, 90)
    x[weight == 0] = 1e6
    mixture = example()
    actual = entropy(mixture, Batches.of(x, weight, 32, dtype="float64"), kind)
    expected = entropy(mixture, np.repeat(x, weight, axis=0), kind)
    assert actual.dtype == np.float64  # with JAX's switch off
    assert_close(actual, expected, "oracle", "float64")


def test_one_component_has_none_and_equal_ones_have_log_k(rng):
    x = rng.normal(size=(40, 2))
    single = Mixture.create([1.0], np.zeros((1, 2)), np.ones(1), family="spherical", dtype="float64")
    equal = Mixture.create(np.full(4, 0.25), np.zeros((4, 2)), np.ones(4), family="spherical", dtype="float64")
    for kind in sums.KINDS:
        assert float(entropy(single, x, kind)) == 0.0
        assert_close(entropy(equal, x, kind), 40 * np.log(4.0), "oracle", "float64")


def test_far_components_and_switched_off_ones_give_no_nan():
    far = example("float32", far=1e6)
    x = np.concatenate([np.asarray(far.means), np.full((1, 2), 3e7, np.float32)])
    off = Mixture.create([0.5, 0.5, 0.0], np.zeros((3, 2)), np.ones(3), family="spherical", dtype="float32")
    for kind in sums.KINDS:
        assert float(entropy(far, x, kind)) == 0.0
        assert_close(entropy(off, x, kind), len(x) * np.log(2.0), "objective", "float32", factor=len(x))


def test_nothing_of_size_n_by_k_is_made():
    n_rows, n_components = 2**18, 64
    x = jnp.zeros((n_rows, 2), jnp.float32)
    program = sums._evidence.lower(
        example("float32", n_components),
        Batches.of(x, n_components=n_components),
        np.float32(0),
        kind="soft",
        form=None,
    )
    memory = program.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * n_rows * n_components / 16


def test_entropy_is_differentiable(rng):
    x = jnp.asarray(rng.normal(size=(30, 2)), jnp.float32)

    def total(means):
        return entropy(Mixture.create(jnp.full(2, 0.5), means, jnp.ones(2), "spherical"), x)

    slope = jax.grad(total)(jnp.array([[0.0, 0.0], [2.0, 1.0]]))
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0.1


def test_entropy_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"kind of entropy 'medium'. Expected one of 'soft', 'hard'"):
        entropy(example(), np.zeros((3, 2)), "medium")
    with pytest.raises(ValueError, match="has 2 features"):
        entropy(example(), np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"x must be a matrix \(N, D\)"):
        entropy(example(), np.zeros(3))


# The sweep

SETTINGS = {"n_restarts": 4, "tol": 1e-9, "max_steps": 500, "ridge": 0.0, "dtype": "float64"}


@pytest.fixture(scope="module")
def found():
    reports = []
    result = sweep(
        jax.random.key(0),
        rows("faithful"),
        (k for k in (1, 2)),
        ["full", SHELF["tied"]],
        progress=reports.append,
        **SETTINGS,
    )
    return result, reports


def test_cells_are_mclusts_best_fits(found):
    figures = {(f["model"], f["G"]): f for f in [*truth("faithful")["grid_default"], *truth("faithful")["grid_tight"]]}
    for row in found[0].table():
        expected = figures[{"full": "VVV", "tied": "EEE"}[row["family"]], row["K"]]
        # Both have stopped where a step changes 1e-9 of the mean.
        assert row["log_likelihood"] == pytest.approx(expected["loglik"], abs=1e-4)
        assert row["bic"] == pytest.approx(-expected["bic_mclust"], abs=2e-4)
        assert row["n_params"] == expected["df"]


def test_the_table_is_made_of_the_results(found):
    table, results = found[0].table(), found[0].results
    assert [(row["family"], row["K"]) for row in table] == [("full", 1), ("full", 2), ("tied", 1), ("tied", 2)]
    assert list(results) == [(row["family"], row["K"]) for row in table]
    for row in table:
        figures = ["log_likelihood", "n_params", "aic", "bic", "icl", "n_steps"]
        assert list(row) == ["family", "K", *figures, "status", "polished"]
        assert row["polished"] is True
        result = results[row["family"], row["K"]]
        assert result.mixture.means.dtype == np.float64
        assert row["status"] == Status(int(result.status)).name == "CONVERGED"
        assert row["n_steps"] == int(result.n_steps)
        assert_close(row["log_likelihood"] / 272, result.objective, "objective", "float64")
        assert_close(row["aic"], aic(row["log_likelihood"], row["n_params"]), "oracle", "float64")
        assert_close(row["bic"], bic(row["log_likelihood"], row["n_params"], 272), "oracle", "float64")
        soft = float(entropy(result.mixture, rows("faithful")))
        assert_close(row["icl"], row["bic"] + 2 * soft, "oracle", "float64")
        assert all(type(row[name]) is float for name in ("log_likelihood", "aic", "bic", "icl"))


@pytest.mark.parametrize("is_chosen", [False, True])
def test_a_criterion_on_the_shelf_is_a_column_where_it_is_chosen_by(is_chosen, monkeypatch):
    monkeypatch.setitem(criteria.CRITERIA, "caic", ConsistentAIC())
    swept = sweep(jax.random.key(0), rows("faithful"), [1, 2], "tied", **SETTINGS, criterion=["bic", "caic"][is_chosen])
    assert ("caic" in swept.columns) == is_chosen
    if is_chosen:
        row = swept.table()[0]
        assert_close(row["caic"], row["bic"] + row["n_params"], "oracle", "float64")


def test_the_best_has_the_smallest_criterion(found):
    assert found[0].best_cell == min(found[0].cells, key=lambda cell: cell.bic)
    assert found[0].best is found[0].results["full", 2]


def test_a_search_comes_back_from_a_pickle(found):
    """With its criterion, whichever of the shelf it is."""
    kept = pickle.loads(pickle.dumps(found[0]))
    assert kept.table() == found[0].table()
    assert kept.best_cell == found[0].best_cell
    for criterion in criteria.CRITERIA.values():
        assert pickle.loads(pickle.dumps(criterion)) == criterion


def test_the_table_may_be_changed_without_harm(found):
    found[0].table()[0]["bic"] = -1e9
    assert found[0].best_cell.bic > 0


def test_progress_counts_the_cells_and_the_steps(found):
    reports = found[1]
    assert {report.n_cells for report in reports} == {4}
    order = list(dict.fromkeys((report.n_done, report.family, report.n_components) for report in reports))
    assert order == [(0, "full", 1), (1, "full", 2), (2, "tied", 1), (3, "tied", 2)]
    last = [report for report in reports if report.n_done == 1][-1]
    assert last.cell.n_running == 0
    assert last.cell.n_restarts == 4
    # The cell is polished after its last report.
    assert last.cell.objective <= float(found[0].results["full", 2].objective)
    assert_close(last.cell.objective, float(found[0].results["full", 2].objective), "settled", "float64")


def test_the_text_is_an_aligned_table_with_the_best_marked(found):
    title, header, *lines = repr(found[0]).splitlines()
    assert "4 fits" in title
    assert "'full' with K = 2" in title
    assert (
        header.split()
        == list(found[0].columns)
        == [name for name in Cell._fields if name not in ("held_out", "others")]
    )
    assert [line.split()[:2] for line in lines if line.startswith("*")] == [["*", "full"]]
    ends = [line.index(" CONVERGED") for line in lines]
    assert ends == [header.index(" status")] * 4


def test_a_cell_does_not_depend_on_the_others(found):
    """It begins where it would alone, and takes the same steps; a program for several K may round otherwise."""
    alone = sweep(jax.random.key(0), rows("faithful"), 2, "tied", **SETTINGS)
    together = found[0].results["tied", 2]
    assert list(alone.results) == [("tied", 2)]
    assert np.array_equal(alone.best.restarts.n_steps, together.restarts.n_steps)
    assert_close(alone.best.restarts.history, together.restarts.history, "objective", "float64")
    assert_same_mixture(alone.best.mixture, together.mixture, "float64")


def test_weights_count_rows(rng):
    x, weight = rng.normal(size=(60, 2)), rng.integers(0, 3, 60)
    weighted = sweep(jax.random.key(0), x, 1, "full", sample_weight=weight, **SETTINGS).table()[0]
    repeated = sweep(jax.random.key(0), np.repeat(x, weight, axis=0), [1], [Full()], **SETTINGS).table()[0]
    for name in ("log_likelihood", "aic", "bic", "icl"):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-12)


def test_a_float32_total_keeps_more_digits_than_float32_has():
    n_rows, n_features = 2**18, 8
    x = np.random.default_rng(0).normal(size=(n_rows, n_features)).astype(np.float32)
    cell = sweep(jax.random.key(0), x, 1, "spherical", dtype="float32").cells[0]
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    variance = np.mean(centred**2)
    truth = -0.5 * n_rows * n_features * (np.log(2 * np.pi * variance) + 1)
    assert np.spacing(np.float32(truth)) == -0.25
    # What is left is the rounding of one number that every row shares, the normal's constant of 7.4: N · 2.4e-7.
    assert cell.log_likelihood == pytest.approx(truth, abs=n_rows * 2.4e-7)


def cell(family, bic, status="CONVERGED"):
    return Cell(family, 1, 0.0, 1, bic, bic, bic, 1, status)


def chosen(*cells):
    return Sweep({(c.family, c.K): c.family for c in cells}, cells, "bic").best  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["COLLAPSED", "NON_FINITE"])
def test_a_failed_fit_wins_only_where_all_failed(status):
    assert chosen(cell("a", 3.0), cell("b", -9.0, status), cell("c", 2.0)) == "c"
    assert chosen(cell("a", np.nan, status), cell("b", -9.0, status)) == "b"
    assert chosen(cell("a", np.nan, status), cell("b", 9.0, "MAX_STEPS")) == "b"
    assert chosen(cell("a", np.nan), cell("b", 9.0)) == "b"
    assert chosen(cell("a", np.nan, status)) == "a"


def test_a_spike_without_a_ridge_does_not_win():
    """Four equal rows: one component on them has infinite density, and its fit has failed."""
    x = np.concatenate([np.zeros((4, 1)), np.random.default_rng(0).normal(5.0, 1.0, (40, 1))])
    start = np.concatenate([np.zeros(4, int), np.ones(40, int)])
    spiked = sweep(jax.random.key(0), x, 2, "full", init=start, **SETTINGS)
    assert spiked.cells[0].status in {"COLLAPSED", "NON_FINITE"}


def test_batches_are_taken_as_they_are():
    batches = Batches.of(rows("faithful"), chunk_size=128, dtype="float64")
    settings = {name: value for name, value in SETTINGS.items() if name != "dtype"}
    by_batches = sweep(jax.random.key(0), batches, 1, "tied", **settings).cells[0]
    assert by_batches.log_likelihood == pytest.approx(-1289.7967450544, abs=1e-8)
    with pytest.raises(ValueError, match="n_components = 273, n_samples = 272"):
        sweep(jax.random.key(0), batches, [1, 273], "tied")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_components": []}, ValueError, "n_components is empty"),
        ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
        ({"n_components": [1, 2.5]}, TypeError, "n_components must be an integer"),
        ({"n_components": [2, 11]}, ValueError, "n_components = 11, n_samples = 10"),
        ({"families": []}, ValueError, "families is empty"),
        ({"families": ["full", "fulll"]}, ValueError, "Unknown covariance family 'fulll'"),
        ({"families": ["tied", OtherTied()]}, ValueError, "Two different families are called 'tied'"),
        ({"families": 3}, TypeError, "A covariance family is a name or a Family object"),
        ({"criterion": "BIC"}, ValueError, "Unknown criterion 'BIC'. Expected one of 'bic', 'aic', 'icl'"),
        ({"n_restarts": 0}, ValueError, "n_restarts must be at least 1"),
        ({"init": np.zeros(10, int)}, ValueError, r"fits one number of components, but n_components is \[1, 2\]"),
        ({"init": "kmeans"}, ValueError, "Unknown init 'kmeans'"),
        ({"x": np.full((10, 2), np.nan)}, ValueError, "row 0, column 0 is nan"),
        ({"sample_weight": np.ones(9)}, ValueError, r"sample_weight must have shape \(10,\)"),
    ],
)
def test_the_door_names_what_is_wrong(arguments, error, message):
    defaults = {"x": np.arange(20.0).reshape(10, 2), "n_components": [1, 2], "families": "full"}
    with pytest.raises(error, match=message):
        sweep(jax.random.key(0), **(defaults | arguments))


def test_repetitions_are_fitted_once():
    once = sweep(jax.random.key(0), np.arange(20.0).reshape(10, 2), [1, 1], ["diag", "diag"], max_steps=1)
    assert list(once.results) == [("diag", 1)]
    assert jaxgmm.sweep is sweep


def test_counts_share_a_program_where_the_table_is_small():
    small, large = Batches.of(np.zeros((100, 2))), Batches.of(np.zeros((2**19, 4), np.float32))
    counts = [1, 40, 3, 16, 17, 33, 20]
    assert buckets(counts, small) == [(1,), (40, 33), (3, 16), (17, 20)]
    assert buckets(counts, large) == [(count,) for count in counts]


@pytest.mark.parametrize("seed", range(20))
def test_no_more_of_a_group_is_padding_than_its_bound(seed):
    """Whatever counts are asked for: each is in one bucket, and groups keep the order in which counts were given."""
    rng = np.random.default_rng(seed)
    counts = [int(count) for count in rng.permutation(rng.integers(1, 80, 40))]
    counts = list(dict.fromkeys(counts))[: rng.integers(1, 30)]
    found = buckets(counts, Batches.of(np.zeros((100, 2), np.float32)))
    assert sorted(count for bucket in found for count in bucket) == sorted(counts)
    for bucket in found:
        assert 1.0 - sum(bucket) / (max(bucket) * len(bucket)) == pytest.approx(padding(bucket), abs=0.0)
        assert padding(bucket) <= PADDING
        assert list(bucket) == [count for count in counts if count in bucket]


@pytest.mark.parametrize("family", KINDS)
def test_padded_components_change_nothing(family):
    """K = 2 beside K = 5 is what a fit of two components comes to with the same key."""
    x, options = rows("iris"), {"n_restarts": 3, "max_steps": 20, "tol": 1e-6, "dtype": "float64", "chunk_size": 64}
    found = sweep(jax.random.key(0), x, [5, 2], family, polish=False, **options).results[family, 2]
    alone = jaxgmm.fit(jax.random.fold_in(jax.random.key(0), 2), x, 2, family, **options)
    assert found.mixture.means.shape == alone.mixture.means.shape
    assert found.effective_counts.shape == (2,)
    assert int(found.n_steps) == int(alone.n_steps)
    assert_same_mixture(found.mixture, alone.mixture, "float64")
    assert_close(found.restarts.objective, alone.restarts.objective, "oracle", "float64")
    assert found.history.shape == alone.history.shape


# Folds

FOLDED = {"n_restarts": 3, "tol": 1e-6, "max_steps": 50, "ridge": 0.0, "dtype": "float64", "chunk_size": 64}


@pytest.mark.parametrize("weighted", [False, True])
def test_every_row_is_held_out_once(weighted):
    weight = np.random.default_rng(0).integers(0, 3, 150).astype(float) if weighted else np.ones(150)
    batches = Batches.of(rows("iris"), weight if weighted else None, 64)
    parts = list(folds(jax.random.key(0), batches, 4, 2))
    held_out = np.stack([held_out.row_weights() for _, held_out in parts])
    assert np.array_equal(held_out.sum(axis=0), weight)
    assert np.all(np.count_nonzero(held_out, axis=0) == (weight > 0))
    assert np.ptp(np.count_nonzero(held_out, axis=1)) <= 1
    for training, judged in parts:
        assert np.array_equal(training.row_weights() + judged.row_weights(), weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_held_out_is_what_fits_without_a_fold_say_of_it(weighted):
    """By hand: a fit with weight 0 on the fold, then the fold's log-densities; for K = 1 without the library at all."""
    x = rows("iris")
    weight = np.random.default_rng(0).integers(0, 3, 150).astype(float) if weighted else None
    batches = Batches.of(x, weight, 64, dtype="float64")
    options = {name: value for name, value in FOLDED.items() if name not in ("dtype", "chunk_size")}
    found = sweep(jax.random.key(0), batches, [1, 2], "full", n_folds=3, polish=False, **options)
    totals = np.zeros(2)
    with jax.enable_x64(True):
        for training, held_out in folds(jax.random.key(0), batches, 3, 2):
            train, judge = training.row_weights(), held_out.row_weights()
            mean = np.average(x, axis=0, weights=train)
            one = oracle.Parameters(np.ones(1), mean[None], np.cov(x.T, aweights=train, ddof=0)[None])
            totals[0] += judge @ oracle.log_prob(x, one)
            key = jax.random.fold_in(jax.random.key(0), 2)
            two = jaxgmm.fit(key, x, 2, sample_weight=train, **FOLDED).mixture
            totals[1] += judge @ np.asarray(two.log_prob(x))
    expected = totals / float(batches.total_weight)
    assert_close([cell.held_out for cell in found.cells], expected, "oracle", "float64")
    assert found.columns == tuple(name for name in Cell._fields if name not in ("polished", "others"))
    assert found.table()[1]["held_out"] == found.cells[1].held_out


def test_the_largest_held_out_is_the_best():
    cells = [cell("a", 1.0)._replace(held_out=h, K=k) for k, h in ((1, -3.0), (2, -1.0), (3, -2.0), (4, np.nan))]
    results = {(c.family, c.K): c.K for c in cells}
    assert Sweep(results, tuple(cells), "held_out").best_cell.K == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_folds": 1}, "n_folds must be 0, or at least 2"),
        ({"n_folds": -1}, "n_folds must be at least 0, got -1"),
        ({"n_folds": 2, "n_components": 6}, "10 rows of positive weight cannot be fitted with 6 components"),
        ({"n_folds": 11}, "cannot be fitted with 1 components without one of 11 folds"),
        ({"n_folds": 2, "init": np.zeros(10, int)}, "has seen all rows"),
        ({"criterion": "held_out", "init": np.zeros(10, int)}, "has seen all rows"),
    ],
)
def test_folds_that_cannot_be_are_refused(arguments, message):
    defaults = {"x": np.arange(20.0).reshape(10, 2), "n_components": 1, "families": "full"}
    with pytest.raises(ValueError, match=message):
        sweep(jax.random.key(0), **(defaults | arguments))


# Interrupted

BRIEF = {"n_restarts": 2, "max_steps": 5, "dtype": "float32", "chunk_size": 64}


def test_an_interrupted_search_comes_back_with_what_is_done():
    reports = []

    def interrupt(report):
        reports.append(report)
        if report.family == "tied":
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted: of 4 cells 2 are done"):
        part = sweep(jax.random.key(0), rows("faithful"), [1, 2], ["full", "tied"], progress=interrupt, **BRIEF)
    whole = sweep(jax.random.key(0), rows("faithful"), [1, 2], ["full", "tied"], **BRIEF)
    assert whole.is_complete
    assert not part.is_complete
    assert part.cells == whole.cells[:2]
    assert list(part.results) == [("full", 1), ("full", 2)]
    assert all(report.best is None for report in reports if report.family == "full")
    assert reports[-1].best == part.best_cell


def test_a_search_interrupted_before_its_first_cell_is_interrupted():
    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(jax.random.key(0), rows("faithful"), [1, 2], "full", progress=interrupt, **BRIEF)


def test_a_fold_whose_fit_failed_is_of_no_worth():
    """What a collapsed fit says of rows that it has not seen counts for nothing."""
    rng = np.random.default_rng(6)
    x = np.concatenate([rng.normal(0, 1, (20, 1)), rng.normal(6, 0.05, (4, 1))]).astype(np.float32)
    options = {"n_restarts": 1, "criterion": "held_out", "ridge": 0.0, "tol": 1e-5}
    found = sweep(jax.random.key(6), x, [1, 2, 3], ["full"], **options)
    values = [cell.held_out for cell in found.cells]
    assert np.isfinite(values[0])
    assert np.isnan(values[2])
    assert found.best_cell.K != 3

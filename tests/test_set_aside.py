"""Rounded and repeated values: the resolution of columns, the ridge from it, and what a search says it set aside."""

from __future__ import annotations

import csv

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, em
from jaxgmm.cli import main
from jaxgmm.em.state import Floor
from jaxgmm.rows.resolution import cell_variances, resolutions, rows_to_look_at
from jaxgmm.rows.streamed import Streamed
from jaxgmm.search.spurious import is_spurious
from tests import oracle
from tests.tolerances import assert_close

FAMILIES, COUNTS = ["full", "diag"], range(1, 6)
N_EACH, APART = 60, 8.0
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def clusters(seed=0, width=1.0):
    """Three clear clusters in two columns, and which row is of which."""
    rng = np.random.default_rng(seed)
    centres = APART * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = np.repeat([0, 1, 2], N_EACH)
    return centres[labels] + width * rng.normal(size=(3 * N_EACH, 2)), labels


def with_copies():
    """The clusters, and a dozen copies of one row apart from them."""
    x, labels = clusters()
    return np.concatenate([x, np.tile([20.0, 20.0], (12, 1))]), np.append(labels, np.full(12, 3))


def searched(x, ridge, dtype="float64", families=FAMILIES, **more):
    return jaxgmm.sweep(jax.random.key(0), x, COUNTS, families, 8, ridge=ridge, dtype=dtype, **more)


def are_the_same(labels, truth, but=0.0):
    """Whether two labellings are the same up to their names, but for a share of the rows."""
    table = np.zeros((labels.max() + 1, truth.max() + 1))
    np.add.at(table, (labels, truth), 1.0 / len(truth))
    return table.shape[0] == table.shape[1] and table.max(axis=0).sum() >= 1.0 - but - 1e-9


# The resolution


GRID = np.arange(64) % 23
COLUMNS = {
    "tenths": (GRID * 0.1, 0.1),
    "sums of tenths": (np.append(GRID * 0.1, [0.1 + 0.2, 0.3, 0.7 - 0.1]), 0.1),
    "quarters far from zero": (1e4 + GRID * 0.25, 0.25),
    "whole numbers": (GRID * 7.0 - 70.0, 7.0),
    "two values": (GRID % 2 * 0.375, 0.375),
    "one value": (np.full(64, 3.7), 0.0),
    "zeros": (np.zeros(64), 0.0),
    "a stray half": (np.append(np.arange(200.0), 70.5), 1.0),
    "small units": (GRID * 1e-7, 1e-7),
}


@both_dtypes
@pytest.mark.parametrize("column", COLUMNS)
def test_the_resolution_is_the_step_of_the_values(column, dtype):
    values, step = COLUMNS[column]
    found = resolutions(values.astype(dtype)[:, None])
    # Both values beside a gap are rounded to the dtype.
    np.testing.assert_allclose(found, [step], rtol=0.0, atol=2 * np.finfo(dtype).eps * np.abs(values).max())


def test_values_that_were_single_once_are_taken_for_such():
    values = (GRID.astype(np.float32) * np.float32(0.1)).astype(np.float64)
    noisy = np.append(values, np.nextafter(values.astype(np.float32), np.float32(9.0)))  # one unit in the last place
    np.testing.assert_allclose(resolutions(noisy[:, None]), [0.1], rtol=1e-5)


def test_a_floor_is_the_variance_of_a_cell_and_never_zero():
    values = np.stack([GRID * 0.1, GRID * 7.0, np.full(64, 3.0)], axis=1)
    np.testing.assert_allclose(cell_variances(values), [0.01 / 12, 49 / 12, 0.01 / 12], rtol=1e-12)
    assert np.all(cell_variances(np.zeros((5, 2))) == pytest.approx(1e-6))
    # Under float32 no floor is below the rounding of the numbers: a column of one value far from zero.
    assert cell_variances(np.array([[1e6, 0.0], [1e6, 1.0]], np.float32))[0] > 0.5**2


def test_rows_are_found_wherever_they_lie(tmp_path):
    """Padded, in chunks, from a file; without the rows of weight 0, which may hold anything."""
    x = np.round(clusters()[0], 1).astype(np.float32)
    x[7], weights = np.nan, np.ones(len(x), np.float32)
    weights[7] = 0.0
    good = np.delete(x, 7, axis=0)
    np.save(tmp_path / "x.npy", good)
    held = [Batches.with_room(x, weights, np.float32), Batches.of(x, weights, 32), Batches.of(x, weights)]
    held += [Streamed(jax.random.key(0), jaxgmm.Blocks.from_file(tmp_path / "x.npy"), 2)]
    for rows in held:
        found = rows_to_look_at(rows)
        assert found.shape == good.shape
        np.testing.assert_allclose(resolutions(found), 0.1, atol=4e-6)


# What counts as spurious


COMPILED = jax.jit(is_spurious)


def judged(variances, ridge, shares=(0.5, 0.5)):
    means = np.array([[0.0, 0.0], [9.0, 9.0]])
    mixture = Mixture.create(shares, means, np.array(variances, float), "full", dtype=np.float32)
    both = [COMPILED(mixture, ridge).tolist(), is_spurious(jax.device_get(mixture), ridge).tolist()]
    assert both[0] == both[1]
    return both[0]


WIDE = np.eye(2)
ON_A_VALUE = np.diag([1e-3, 1.0])
IN_A_PLANE = np.array([[1.0, 1.0 - 1e-3], [1.0 - 1e-3, 1.0]])
RIDGE = np.full(2, 1e-3, np.float32)


def test_one_value_of_a_column_counts_and_a_plane_does_not():
    """Under the resolution; and not with a few rows. Under a number of the user's neither counts."""
    floor = Floor(RIDGE, np.float32(0.1))
    assert judged([WIDE, ON_A_VALUE], RIDGE) == judged([WIDE, IN_A_PLANE], RIDGE) == [False, True]
    assert judged([WIDE, ON_A_VALUE], floor) == [False, False]
    assert judged([WIDE, ON_A_VALUE * [[1e-3], [1.0]] + np.diag([1e-3, 0.0])], floor) == [False, False]
    assert judged([WIDE, np.diag([1e-3, 1e-3])], floor) == [False, False]  # copies of one row
    assert judged([WIDE, IN_A_PLANE], floor) == [False, True]
    assert judged([WIDE, ON_A_VALUE], floor, [0.95, 0.05]) == [False, True]


def test_a_constant_column_hides_no_spike():
    x, labels = with_copies()
    for constant in (False, True):
        rows = np.c_[x, np.full(len(x), 5.0)] if constant else x
        found = jaxgmm.fit(jax.random.key(0), rows, 4, init=labels, dtype="float64")
        assert np.asarray(found.spurious).tolist() == [False, False, False, True]
    alone = jaxgmm.fit(jax.random.key(0), np.c_[clusters()[0], np.full(3 * N_EACH, 5.0)], 3, dtype="float64")
    assert not np.any(alone.spurious)


# Searches


@both_dtypes
def test_copies_of_a_row_are_a_cluster_under_the_resolution(dtype):
    """And where the ridge is a number, the search says which fits were set aside for them, and why."""
    x, truth = with_copies()
    found = searched(x, 1e-6, dtype)
    by_bic = min(found.cells, key=lambda cell: cell.bic)
    assert (by_bic.family, by_bic.K) in found.spurious
    assert found.best_cell.bic > by_bic.bic
    entries = [entry for entry in found.set_aside() if (entry.family, entry.K) == ("diag", 3)]
    assert [entry.column for entry in entries] == [0, 1]
    assert all(entry.deviation == pytest.approx(1e-3, rel=1e-2) for entry in entries)
    assert [entry.resolution for entry in entries] == pytest.approx(resolutions(x.astype(dtype)))
    component = entries[0].component
    np.testing.assert_allclose(found.results["diag", 3].mixture.means[component], [20.0, 20.0], rtol=1e-6)
    assert {(entry.family, entry.K) for entry in found.set_aside()} == found.spurious
    line = f"    diag K = 3, component {component}: column 0 (standard deviation 0.001, resolution "
    assert line in repr(found)
    row = next(row for row in found.table() if (row["family"], row["K"]) == ("diag", 3))
    assert row["set_aside"] == f"component {component}: 0, 1"
    assert all(row["set_aside"] == "" for row in found.table() if (row["family"], row["K"]) not in found.spurious)

    found = searched(x, "resolution", dtype)
    assert found.best_cell.K == 4
    assert are_the_same(np.asarray(found.best.mixture.predict(x.astype(dtype))), truth)
    assert not found.set_aside()
    assert "set_aside" not in found.columns


@both_dtypes
def test_a_coarse_grid_makes_no_clusters(dtype):
    """Six values a column, as of marks or counts: sharper and sharper components on single values win under 1e-6."""
    x, truth = clusters()
    x = 2.0 * np.round(x / 2.0)
    by_number, by_resolution = searched(x, 1e-6, dtype), searched(x, "resolution", dtype)
    assert by_number.spurious
    assert {entry.resolution for entry in by_number.set_aside()} == {2.0}
    assert by_resolution.best_cell.K == 3
    assert are_the_same(np.asarray(by_resolution.best.mixture.predict(x.astype(dtype))), truth, but=0.02)


def test_units_do_not_matter():
    """Rows in small units, in which a ridge of 1e-6 is all that there is; rounded, each column by a step of its own."""
    x = np.round(clusters()[0], 1)
    scales = np.array([1e-5, 3e-5])
    assert searched(x * [1e-5, 1e-5], 1e-6).best_cell.K == 1
    one, other = (searched(rows, "resolution", tol=1e-6) for rows in (x, x * scales))
    assert (one.best_cell.family, one.best_cell.K) == (other.best_cell.family, other.best_cell.K) == ("diag", 3)
    labels = [np.asarray(found.best.mixture.predict(rows)) for found, rows in ((one, x), (other, x * scales))]
    assert are_the_same(*labels, but=0.02)  # seeds depend on units: a row between two clusters may fall to either
    shift = len(x) * np.log(scales).sum()
    assert_close(other.best_cell.log_likelihood + shift, one.best_cell.log_likelihood, "settled", np.float64, len(x))


@pytest.mark.parametrize("data", ["continuous", "iris"])
def test_where_clusters_are_wide_the_floor_chooses_as_a_small_number(data):
    """Continuous values; and iris, recorded to tenths, for which mclust's BIC takes two clusters as well."""
    x = clusters()[0] if data == "continuous" else oracle.table("iris")
    by_number, by_resolution = searched(x, 1e-6), searched(x, "resolution")
    best, same = by_number.best_cell, by_resolution.best_cell
    assert (best.family, best.K) == (same.family, same.K) == (("diag", 3) if data == "continuous" else ("full", 2))
    assert not by_number.set_aside()
    assert_close(best.log_likelihood, same.log_likelihood, "floored", np.float64, factor=len(x))


def test_columns_are_named_as_in_their_source(tmp_path):
    pandas = pytest.importorskip("pandas")
    x, _ = with_copies()
    frame = pandas.DataFrame(x, columns=["length", "width"])
    pytest.importorskip("pyarrow")
    frame.to_parquet(tmp_path / "rows.parquet")
    for source in (frame, str(tmp_path / "rows.parquet")):
        found = jaxgmm.sweep(jax.random.key(0), source, [4], "diag", 4, dtype="float64")
        assert [entry.column for entry in found.set_aside()] == ["length", "width"]
        assert "column 'length' (standard deviation 0.001, resolution " in repr(found)


def test_the_command_line_takes_the_resolution_and_names_columns(tmp_path, capsys):
    x, _ = with_copies()
    np.savetxt(tmp_path / "rows.csv", x, delimiter=",", header="length,width", comments="")
    asked = f"fit {tmp_path / 'rows.csv'} --components 1-5 --families diag --restarts 8 --no-plots --out {tmp_path}"
    assert main(asked.split()) == 0
    assert "best by bic is 'diag' with K = 4" in capsys.readouterr().out
    assert main([*asked.split(), "--ridge", "1e-6"]) == 0
    printed = capsys.readouterr()
    assert "best by bic is 'diag' with K = 4" not in printed.out
    assert "column 'length' (standard deviation 0.001, resolution " in printed.out
    with open(tmp_path / "table.csv", newline="") as file:
        aside = {row["K"]: row["set_aside"] for row in csv.DictReader(file)}
    assert aside["1"] == ""
    assert aside["4"].endswith(": length, width")
    assert main([*asked.replace("1-5", "4").split(), "--ridge", "1e-6"]) == 0
    assert "warning: a component of every fit, and of the best, stands on the ridge" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*asked.split(), "--ridge", "fine"])
    assert "expected a number or resolution, got 'fine'" in capsys.readouterr().err


def test_only_what_can_be_looked_at_has_a_resolution():
    x = clusters()[0].astype(np.float32)
    with pytest.raises(ValueError, match="or 'resolution', got 'fine'"):
        jaxgmm.fit(jax.random.key(0), x, 2, ridge="fine")
    with pytest.raises(ValueError, match="fit_many takes numbers"):
        jaxgmm.fit_many(jax.random.key(0), x[None], 2, ridge="resolution")
    with pytest.raises(TypeError, match="resolution"):
        jax.jit(lambda rows: jaxgmm.fit(jax.random.key(0), rows, 2, ridge="resolution").objective)(x)
    with pytest.raises((TypeError, ValueError), match="ridge must be"):
        em.Settings(ridge="resolution")

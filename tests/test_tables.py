"""Tables in and out: every way numbers are written, and the place of every fault."""

from __future__ import annotations

import builtins
import os
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxgmm.cli import tables
from tests import oracle


@pytest.fixture
def table(tmp_path):
    """Write a file and read it as a table."""

    def read(content, columns=None, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tables.read(path, columns)

    return read


# CSV


@pytest.mark.parametrize(
    ("content", "names", "values"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", ("0", "1"), [[1, 2], [3, 4]]),
        ("a,b\r\n1,2\r\n", ("a", "b"), [[1, 2]]),
        ("a\r1\r2\r", ("a",), [[1], [2]]),
        ("1,2\n3,4", ("0", "1"), [[1, 2], [3, 4]]),
        ("\ufeffa,b\n1,2\n", ("a", "b"), [[1, 2]]),
        ('"a","b, c"\n"1","2"\n', ("a", "b, c"), [[1, 2]]),
        ('"two\nlines",b\n1,2\n', ("two\nlines", "b"), [[1, 2]]),
        (" a , b \n 1 , -2e-3 \n", ("a", "b"), [[1, -0.002]]),
        ("\n\na,b\n1,2\n\n3,4\n\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("x\n.5\n1.\n+3\n1E2\n", ("x",), [[0.5], [1], [3], [100]]),
        ("größe,b\n1,2\n", ("größe", "b"), [[1, 2]]),
        ("2019,2020\n1,2\n", ("0", "1"), [[2019, 2020], [1, 2]]),
        ("a#b,c\n1,2\n", ("a#b", "c"), [[1, 2]]),
    ],
)
def test_csv_is_read_however_it_is_written(table, content, names, values):
    found = table(content)
    assert found.names == names
    assert found.values.dtype == np.float64
    assert found.values.tolist() == values


def test_tabs_part_the_cells_of_tsv(table):
    found = table("a\tb,c\n1\t2\n", name="data.tsv")
    assert found.names == ("a", "b,c")
    assert found.values.tolist() == [[1, 2]]


def test_numbers_are_read_to_the_last_bit(tmp_path, rng):
    values = rng.normal(size=(200, 3)) * 10.0 ** rng.integers(-200, 200, (200, 3))
    tables.write(tmp_path / "a.csv", ["a", "b", "c"], [values])
    assert np.array_equal(tables.read(tmp_path / "a.csv").values, values)


@pytest.mark.parametrize("columns", [["c", "a"], ["2", "0"], [2, 0], ["c", 0]])
def test_columns_are_chosen_by_name_or_position_in_the_order_given(table, columns):
    found = table("a,b,c\n1,x,3\n4,,6\n", columns)
    assert found.names == ("c", "a")
    assert found.values.tolist() == [[3, 1], [6, 4]]


def test_a_name_goes_before_a_position(tmp_path):
    pq.write_table(pa.table({"1": [5], "0": [6]}), tmp_path / "a.parquet")
    assert tables.read(tmp_path / "a.parquet", ["0"]).values.tolist() == [[6]]
    assert tables.read(tmp_path / "a.parquet", [0]).values.tolist() == [[5]]


def test_bytes_that_are_no_utf8_may_stand_in_other_columns(table):
    assert table(b"a,name\n1,Jos\xe9\n2,Ana\n", ["a"]).values.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a,b,kind\n1,2,x\n", None, r"column 'kind' holds text, in data row 1 'x'\. Leave it out: --columns a,b"),
        ("a,x,x,k,b\n1,2,3,k,2024-01-31\n", None, "Leave it out, and 'b' too: --columns a,1,2 "),
        (
            "a,b\n1,2\n3,*\n",
            None,
            r"'\*'\. Drop or fill such rows if it marks a missing cell\. Or leave the column out: --columns a",
        ),
        ('a,b\n1,"1,234,567.5"\n', None, "Write such numbers without signs for thousands.* as 1234567.5"),
        ("a,b\n1,-$0.50\n", None, "percent or a currency, as -0.50"),
        ("a,b\n1,12 %\n", None, "percent or a currency, as 12"),
        ("a,b,k\n1,2,x\n", ["b", "k"], "Leave it out: --columns b "),
        ("a,b\n1,2\n3,4\n5,6 km\n", None, r"column 'b' holds text, in data row 3 '6 km'"),
        ("1.5,red\n2.5,blue\n", None, r"column '1' holds text, in data row 1 'red'\. Leave it out: --columns 0"),
        ("a\nx\n", None, r"column 'a' holds text, in data row 1 'x'\. Numbers are needed"),
        ("a,b\n1,1_000\n", None, "column 'b' holds text, in data row 1 '1_000'"),
        ("a,b\n1,2\n\n3,\n", None, r"data row 2, column 'b' is missing \(empty\)"),
        ("a,b\n1,2\n3,NA\n", ["b"], r"data row 2, column 'b' is missing \('NA'\)\. Drop or fill"),
        (
            "a,b\n?,2\n3,4\n,NA\n?,1\n",
            None,
            r"row 1, column 'a' is missing \('\?'\), and so are cells of 2 other rows\.",
        ),
        ("a,b\n1,2\n3,nan\n", None, r"data row 2, column 'b' is missing \('nan'\)"),
        ("a,b\nNULL,2\n", None, r"data row 1, column 'a' is missing \('NULL'\)"),
        ("NA,1\n2,3\n", None, r"data row 1, column '0' is missing"),
        ("a,b\n1,2\n3,-inf\n", None, "data row 2, column 'b' is -inf"),
        ("a,b\n1,2\n3\n", None, "data row 2 has 1 cell, expected 2"),
        ("a,b\n1,2\n3,4,5\n", None, "data row 2 has 3 cells, expected 2"),
        ("a,b,c\n1,2,x\n3,4\n", ["a"], "data row 2 has 2 cells, expected 3"),
        ("a,b\n", None, "holds no data: 0 rows of 2 columns"),
        ("", None, "is empty"),
        ("\n\n", None, "is empty"),
        (",a\n0.5,1\n", None, "column 0 has no name, like an index"),
        ("a,,b\n1,2,3\n", None, "column 1 has no name, like an index"),
        ("a,b\n1,2\n", ["c"], r"has no column 'c'\. It has 'a', 'b' \(or give a position from 0 to 1\)"),
        ("a,b\n1,2\n", ["2"], "has no column '2'"),
        ("a,b\n1,2\n", [-1], "has no column -1"),
        ("a,b\n1,2\n", ["a", "0"], "Column 'a' .* is chosen twice"),
        ("a,a\n1,2\n", ["a"], "has 2 columns called 'a'"),
        ("a,b\n1,2\n", [], "No column of .* is chosen"),
    ],
)
def test_every_fault_has_its_place(table, content, columns, message):
    with pytest.raises(ValueError, match=rf"data\.csv.*{message}|{message}") as caught:
        table(content, columns)
    assert "data.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_far_down_is_found(table):
    lines = [f"{i},{i}" for i in range(5000)]
    lines[4321] = "1,oops"
    with pytest.raises(ValueError, match="column 'b' holds text, in data row 4322 'oops'"):
        table("a,b\n" + "\n".join(lines))


def test_real_missing_cells_are_placed(tmp_path):
    """R's airquality: in row 5 the ozone is the first that was not measured."""
    header = "Ozone,Solar.R,Wind,Temp\n"
    (tmp_path / "air.csv").write_text(
        header + "41,190,7.4,67\n36,118,8,72\n12,149,12.6,74\n18,313,11.5,62\nnan,nan,14.3,56\n"
    )
    with pytest.raises(ValueError, match=r"air\.csv: data row 5, column 'Ozone' is missing"):
        tables.read(tmp_path / "air.csv")
    assert tables.read(tmp_path / "air.csv", ["Wind", "Temp"]).values.shape == (5, 2)


def test_a_real_table_with_a_text_column():
    iris = oracle.DATA / "iris.csv"
    with pytest.raises(
        ValueError, match=r"'class' holds text.*--columns Sepal\.Length,Sepal\.Width,Petal\.Length,Petal\.Width"
    ):
        tables.read(iris)
    assert tables.read(iris, [0, 1, 2, 3]).values.mean(axis=0) == pytest.approx(
        [5.843333, 3.057333, 3.758, 1.199333], abs=1e-6
    )


def test_a_long_list_of_columns_is_cut_short(table):
    names = ",".join(f"c{i}" for i in range(300))
    with pytest.raises(ValueError, match="Leave it out") as caught:
        table(names + "\n" + "x" + ",1" * 299)
    assert len(str(caught.value)) < 400


def test_large_tables_are_read_at_the_speed_of_c(tmp_path, rng):
    """200 000 rows in well under the time that a loop over cells needs."""
    values = rng.normal(size=(200_000, 3))
    tables.write(tmp_path / "large.csv", ["a", "b", "c"], [values])
    began = time.process_time()
    found = tables.read(tmp_path / "large.csv").values
    by_c = time.process_time() - began
    began = time.process_time()
    [[float(cell) for cell in line.split(",")] for line in (tmp_path / "large.csv").read_text().splitlines()[1:]]
    by_loop = time.process_time() - began
    assert np.array_equal(found, values)
    assert by_c < 3 * by_loop


# NumPy


@pytest.mark.parametrize(
    ("dtype", "kept"), [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("i4", "f8"), ("u1", "f8"), ("?", "f8")]
)
def test_npy_keeps_float32_and_makes_the_rest_float64(tmp_path, dtype, kept):
    values = np.array([[0, 1], [1, 1], [1, 0]], dtype)
    np.save(tmp_path / "a.npy", values)
    found = tables.read(tmp_path / "a.npy")
    assert found.values.dtype == kept
    assert np.array_equal(found.values, values)
    assert found.names == ("0", "1")
    assert tables.read(tmp_path / "a.npy", ["1"]).values.tolist() == [[1], [1], [0]]


def test_a_single_array_is_a_single_column(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3.0))
    assert tables.read(tmp_path / "a.npy").values.tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    "arrays", [{"anything": 1.0}, {"x": 1.0, "y": 2.0}, {"X": 1.0, "labels": 2.0}, {"x": 1.0, "X": 2.0}]
)
def test_npz_with_one_array_or_one_called_x(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **{name: np.full((2, 2), value) for name, value in arrays.items()})
    assert (tables.read(tmp_path / "a.npz").values == 1.0).all()


def test_npz_with_several_arrays_lists_them(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.zeros(2), test=np.zeros(2))
    with pytest.raises(ValueError, match=r"a\.npz has the arrays 'train', 'test': call the one to read 'x'"):
        tables.read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), complex), "holds complex128, expected real numbers"),
        (np.array([["a", "b"]]), "holds <U1, expected real numbers"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\), expected rows and columns"),
        (np.zeros((0, 2)), "holds no data"),
        (np.array([[1.0, np.nan]]), r"data row 1, column '1' is missing \(NaN\)"),
        (np.array([[1.0], [np.inf]]), "data row 2, column '0' is inf"),
    ],
)
def test_arrays_that_cannot_be_used_say_why(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            tables.read(tmp_path / name)


class Trap:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_objects_are_not_unpickled(tmp_path, ending):
    write = np.save if ending == "npy" else np.savez
    write(tmp_path / f"a.{ending}", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=rf"a\.{ending} is no NumPy .* or holds Python objects"):
        tables.read(tmp_path / f"a.{ending}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 50])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        tables.read(tmp_path / name)


# Parquet


def test_parquet_is_read_by_its_columns(tmp_path):
    pq.write_table(
        pa.table({"a": [1, 2], "kind": ["x", "y"], "b": pa.array([0.5, 1.5], pa.float32())}), tmp_path / "a.parquet"
    )
    found = tables.read(tmp_path / "a.parquet", ["b", "0"])
    assert found.names == ("b", "a")
    assert found.values.tolist() == [[0.5, 1], [1.5, 2]]
    with pytest.raises(
        ValueError, match=r"a\.parquet: column 'kind' holds string, not numbers\. Leave it out: --columns a,b"
    ):
        tables.read(tmp_path / "a.parquet")


def test_parquet_of_float32_stays_float32(tmp_path):
    pq.write_table(pa.table({"a": pa.array([1.0, 2.0], pa.float32())}), tmp_path / "a.parquet")
    assert tables.read(tmp_path / "a.parquet").values.dtype == np.float32


def test_parquet_nulls_have_their_place(tmp_path):
    pq.write_table(pa.table({"a": [1, 2, 3], "b": [1.0, 2.0, None]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"data row 3, column 'b' is missing \(null\)"):
        tables.read(tmp_path / "a.parquet")


def test_the_index_of_a_data_frame_is_no_column(tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})[lambda f: f.a > 1]
    frame.to_parquet(tmp_path / "a.parquet")
    assert tables.read(tmp_path / "a.parquet").names == ("a", "b")
    frame.to_csv(tmp_path / "a.csv")
    assert tables.read(tmp_path / "a.csv").names == ("a", "b")
    assert tables.read(tmp_path / "a.csv", ["a", "b"]).values.tolist() == [[2, 5], [3, 6]]


def test_without_pyarrow_an_error_names_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "jaxgmm\[parquet\]"'):
        tables.read(tmp_path / "a.parquet")


def test_reading_csv_imports_no_pyarrow():
    import subprocess

    code = "import sys; from jaxgmm.cli import tables; tables.read(sys.argv[1]); print('pyarrow' in sys.modules)"
    path = str(oracle.DATA / "faithful.csv")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# Other files, and writing


@pytest.mark.parametrize("name", ["a.json", "a", "a.xlsx"])
def test_other_endings_are_refused(tmp_path, name):
    (tmp_path / name).write_text("1,2\n")
    with pytest.raises(
        ValueError, match=rf"{name}: expected a file ending in one of \.csv, \.tsv, \.txt, \.npy, \.npz, \.parquet"
    ):
        tables.read(tmp_path / name)
    with pytest.raises(ValueError, match=r"ending in one of \.csv, \.parquet"):
        tables.write(tmp_path / name, ["a"], [])


@pytest.mark.parametrize("name", ["no.csv", "no.npy", "no.npz", "no.parquet"])
def test_a_missing_file_is_missing(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        tables.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_blocks_are_written_one_below_the_other_with_every_digit(tmp_path, rng, name, dtype):
    blocks = [(100 * rng.normal(size=(n, 2))).astype(dtype) for n in (3, 1, 4)]
    tables.write(tmp_path / name, ["a", "b"], iter(blocks))
    found = tables.read(tmp_path / name)
    assert found.names == ("a", "b")
    assert np.array_equal(found.values.astype(dtype), np.concatenate(blocks))
    if dtype == "float32" and name == "a.csv":
        assert max(map(len, (tmp_path / name).read_text().replace("\n", ",").split(","))) <= 13


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, name):
    def blocks():
        yield np.zeros((2, 1))
        raise RuntimeError("out of rows")

    tables.write(tmp_path / name, ["a"], [np.ones((1, 1))])
    with pytest.raises(RuntimeError, match="out of rows"):
        tables.write(tmp_path / name, ["a"], blocks())
    assert tables.read(tmp_path / name).values.tolist() == [[1]]
    assert os.listdir(tmp_path) == [name]

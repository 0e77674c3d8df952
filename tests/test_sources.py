"""Sources of rows and what goes wrong with them: an answer, or one error that names the source. Never a mixture of two
data sets, never a signal, never a traceback of another library's."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Blocks
from jaxgmm.rows import npy as npy_files
from jaxgmm.rows import parquet as parquet_files
from jaxgmm.rows import streamed
from tests.tolerances import assert_close, assert_same_mixture

N, D = 3000, 2
X = np.concatenate([np.random.default_rng(k).normal(5.0 * k, 1.0, (N // 2, D)) for k in range(2)]).astype(np.float32)
OTHER = X[::-1] + np.float32(100.0)
KEY = jax.random.key(0)
HOW = {"init": X[[0, -1]], "tol": 0.0, "max_steps": 4, "chunk_size": 64}
NAMES = ["a", "b"]


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch):
    """A pass is of many blocks."""
    monkeypatch.setattr(streamed, "BLOCK", 2**12)
    monkeypatch.setattr(streamed, "FEW", 0)
    monkeypatch.setattr(parquet_files, "READ_AT_ONCE", 256)


def save_npy(path, x):
    np.save(path, x)


def save_parquet(path, x):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(np.asarray(x, np.float32), columns=NAMES).to_parquet(path, row_group_size=256)


def in_folder(path, x):
    path.mkdir(exist_ok=True)
    save_parquet(path / "1.parquet", x[: N // 3])
    save_parquet(path / "2.parquet", x[N // 3 :])


class Source:
    """A source, and ways to change what it gives. target: the file that is changed, or the array."""

    def __init__(self, rows, target, save=None):
        self.rows, self.target, self.save = rows, target, save

    def put(self, x):
        if self.save is None:
            self.target["x"] = x
        else:
            self.save(self.target, x)

    def cut(self):
        """What is left of it is its first half."""
        if self.save is None:
            self.put(X[: N // 2])
        else:
            os.truncate(self.target, self.target.stat().st_size // 2)

    def take_away(self):
        if self.save is None:
            self.target.clear()
        else:
            self.target.unlink()


def of_npy(folder):
    save_npy(folder / "x.npy", X)
    return Source(folder / "x.npy", folder / "x.npy", save_npy)


def of_upper_case(folder):
    save_npy(folder / "x.npy", X)
    path = (folder / "x.npy").rename(folder / "X.NPY")

    def save(path, x):
        with open(path, "wb") as file:
            np.save(file, x)

    return Source(str(path), path, save)


def of_memmap(folder):
    save_npy(folder / "x.npy", X)
    return Source(np.load(folder / "x.npy", mmap_mode="r"), folder / "x.npy", save_npy)


def of_mapped_blocks(folder):
    save_npy(folder / "x.npy", X)
    mapped = np.load(folder / "x.npy", mmap_mode="r")
    return Source(Blocks([mapped[:1000], mapped[1000:]]), folder / "x.npy", save_npy)


def of_parquet(folder):
    save_parquet(folder / "x.parquet", X)
    return Source(folder / "x.parquet", folder / "x.parquet", save_parquet)


def of_folder(folder):
    """Two files; the second is changed."""
    in_folder(folder / "x.npy", X)
    return Source(folder / "x.npy", folder / "x.npy" / "2.parquet", save_parquet)


def save_csv(path, x):
    np.savetxt(path, x, delimiter=",", header="a,b", comments="", fmt="%.9g")


def of_text(folder):
    save_csv(folder / "x.csv", X)
    return Source(folder / "x.csv", folder / "x.csv", save_csv)


def of_list(folder):
    """Two files; the second is changed."""
    save_npy(folder / "1.npy", X[: N // 3])
    save_npy(folder / "2.npy", X[N // 3 :])
    return Source([folder / "1.npy", folder / "2.npy"], folder / "2.npy", save_npy)


def of_function(folder):
    held = {"x": X}

    def blocks():
        for first in range(0, len(held["x"]), 700):
            yield held["x"][first : first + 700]

    return Source(Blocks(blocks), held)


def of_dask(folder):
    array, delayed = pytest.importorskip("dask.array"), pytest.importorskip("dask").delayed
    held = {"x": X}
    parts = [
        array.from_delayed(delayed(lambda i: held["x"][i * 1000 : (i + 1) * 1000])(i), (1000, D), np.float32)
        for i in range(3)
    ]
    return Source(array.concatenate(parts), held)


SOURCES = {
    "npy": of_npy,
    "upper case": of_upper_case,
    "memmap": of_memmap,
    "mapped blocks": of_mapped_blocks,
    "parquet": of_parquet,
    "folder": of_folder,
    "text": of_text,
    "list": of_list,
    "function": of_function,
    "dask": of_dask,
}

FAULTS = {
    "changes": lambda source: source.put(OTHER[: len(X)]),
    "grows": lambda source: source.put(np.concatenate([X, OTHER])),
    "shrinks": lambda source: source.put(X[: N // 2]),
    "is cut off": Source.cut,
    "goes": Source.take_away,
}


def is_named(source, error):
    """Whether an error names the source: by its path, or, of a user's own blocks, as x."""
    by_path = source.save is not None and str(source.target) in str(error)
    return by_path or ((source.save is None or isinstance(source.rows, Blocks)) and "x" in str(error))


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_fit_in_memory(source, tmp_path):
    ours = jaxgmm.fit(KEY, SOURCES[source](tmp_path).rows, 2, **HOW)
    whole = jaxgmm.fit(KEY, X, 2, **HOW)
    assert_same_mixture(ours.mixture, whole.mixture, np.float32)
    assert_close(ours.objective, whole.objective, "objective", np.float32)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("when", ["in the first pass", "between passes", "in a later pass"])
def test_what_changes_while_it_is_fitted_ends_the_fit_with_its_name(source, fault, when, tmp_path):
    """An answer is right where it is that of the rows as they were; all else is an error that names the source."""
    source = SOURCES[source](tmp_path)
    done = []

    def spoil(now):
        is_now = {
            "in the first pass": now.n_read > 0,
            "between passes": now.n_steps == 1 and now.n_read == 0,
            "in a later pass": now.n_steps == 1 and now.n_read > 1000,
        }
        if not done and is_now[when]:
            done.append(now)
            FAULTS[fault](source)

    found = error = None
    try:
        found = jaxgmm.fit(KEY, source.rows, 2, progress=spoil, **HOW)
    except (ValueError, FileNotFoundError, KeyError) as caught:  # what a user's own function raises comes as it is
        error = caught
    assert done
    if found is None:
        assert is_named(source, error)
        assert len(str(error)) < 500
    else:
        # The rows as they were; or, of what is cut in memory while it is read for the first time, what every pass had.
        rows = (X, X[: N // 2]) if source.save is None else (X,)
        right = [jaxgmm.fit(KEY, x, 2, **HOW).mixture.means for x in rows]
        assert any(np.allclose(found.mixture.means, means, atol=1e-4) for means in right)


def cut_off(path):
    save_npy(path, X)
    os.truncate(path, 1000)


def header_alone(path):
    path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{'descr': '<f4', 'fortran_order': ")


def unended_header(path):
    """Which Python's tokenizer meets."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (5, 2, }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def too_many_rows(path):
    save_npy(path, X)
    path.write_bytes(path.read_bytes().replace(b"(3000, 2)", b"(9000, 2)"))


def of_objects(path):
    np.save(path, np.array([[1, "a"]], object), allow_pickle=True)


def an_archive(path):
    with open(path, "wb") as file:
        np.savez(file, a=X, b=X)


def damaged_page(path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(X, columns=NAMES).to_parquet(path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[600:900] = bytes(300)
    path.write_bytes(content)


def folder_of_text(path):
    path.mkdir()
    (path / "a.txt").write_text("1 2")


LIES = {
    "cut off": ("x.npy", cut_off, "is cut off"),
    "header alone": ("x.npy", header_alone, "is no NumPy array"),
    "a header that does not end": ("x.npy", unended_header, "is no NumPy array"),
    "more rows in the header": ("x.npy", too_many_rows, "9000 rows of 2 features, as its header says"),
    "objects": ("x.npy", of_objects, "Python objects"),
    "one row": ("x.npy", lambda path: np.save(path, X[0]), "must be a matrix"),
    "an archive": ("x.npy", an_archive, "archive of several"),
    "empty": ("x.npy", lambda path: path.write_bytes(b""), "is no NumPy array"),
    "text called npy": ("X.NPY", lambda path: path.write_text("1,2\n3,4\n"), "is no NumPy file, whatever"),
    "a pipe": ("x.npy", os.mkfifo, "no regular file"),
    "text called parquet": ("x.PARQUET", lambda path: path.write_text("1,2\n"), "cannot be read as Parquet"),
    "a damaged page": ("x.parquet", damaged_page, "cannot be read as Parquet"),
    "an empty folder": ("x", Path.mkdir, "no Parquet file is in it. It is empty"),
    "a folder called npy": ("x.npy", Path.mkdir, "no Parquet file is in it"),
    "a folder of text": ("x.parquet", folder_of_text, "no Parquet file is in it. It holds 'a.txt'"),
    "nothing": ("x.npy", lambda path: None, "there is no such file"),
    "below a file": ("y/x.npy", lambda path: path.parent.write_text(""), "Not a directory"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_what_it_says_is_refused_by_its_path(lie, tmp_path):
    pytest.importorskip("pyarrow")
    name, make, message = LIES[lie]
    path = tmp_path / name
    make(path)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        jaxgmm.fit(KEY, path, 2, **HOW)
    assert str(path) in str(caught.value)


def frames(kind):
    """A function that makes a table of columns by name."""
    if kind == "arrow":
        pyarrow = pytest.importorskip("pyarrow")
        return lambda columns: pyarrow.table({name: np.asarray(column) for name, column in columns.items()})
    return pytest.importorskip(kind).DataFrame


A, B = X[:, 0], X[:, 1]
SECOND = {
    "reordered": ({"b": B, "a": A}, None),
    "missing": ({"a": A}, r"{}: column 'b' is missing. Expected 'a', 'b'"),
    "extra": ({"a": A, "b": B, "c": A}, "{}: column 'c' is there, which {first} has not"),
    "renamed": ({"a": A, "c": B}, "{}: column 'b' is missing and column 'c' is there"),
    "wider": ({"a": A, "b": B.astype(np.float64)}, "{} holds float64, and the first block float32"),
}


@pytest.mark.parametrize("table", ["pandas", "polars", "arrow"])
@pytest.mark.parametrize("second", SECOND)
def test_blocks_are_matched_by_the_names_of_their_columns(table, second, tmp_path):
    """A table of its own for every block; the third is the first one that is looked at."""
    make, (columns, message) = frames(table), SECOND[second]
    first = {"a": A, "b": B}
    blocks = Blocks([make(first), make(first), make(columns)])
    if message is None:
        whole = jaxgmm.fit(KEY, np.tile(X, (3, 1)), 2, **HOW)
        assert_same_mixture(jaxgmm.fit(KEY, blocks, 2, **HOW).mixture, whole.mixture, np.float32)
        assert blocks.column_names() == ("a", "b")
        return
    where = r"Block 2 of x \(rows from 6000 on\)"
    with pytest.raises(ValueError, match=message.format(where, first="block 0")):
        jaxgmm.fit(KEY, blocks, 2, **HOW)


@pytest.mark.parametrize("second", SECOND)
def test_files_of_a_folder_are_matched_by_the_names_of_their_columns(second, tmp_path):
    """The widest dtype of all is that of the rows; what a later file has not is said before anything is read."""
    make, (columns, message) = frames("pandas"), SECOND[second]
    pytest.importorskip("pyarrow")
    for name, of in (("1", {"a": A, "b": B}), ("2", {"a": A, "b": B}), ("3", columns)):
        make(of).to_parquet(tmp_path / f"{name}.parquet")
    if message is None or second == "wider":
        rows, _ = Blocks.from_file(tmp_path).head()
        assert rows.dtype == (np.float64 if second == "wider" else np.float32)
        whole = jaxgmm.fit(KEY, np.tile(X, (3, 1)), 2, dtype=np.float32, **HOW)
        found = jaxgmm.fit(KEY, tmp_path, 2, dtype=np.float32, **HOW)
        assert_same_mixture(found.mixture, whole.mixture, np.float32)
        return
    with pytest.raises(ValueError, match=r"3\.parquet: column '[bc]' is") as caught:
        Blocks.from_file(tmp_path)
    assert str(tmp_path / "3.parquet") in str(caught.value)
    if "a" in columns and second != "missing":
        assert Blocks.from_file(tmp_path, columns=["a"]).head()[0].shape == (1, 1)


MASKED = np.ma.array(X[:5], mask=np.arange(10).reshape(5, 2) == 7)
ODD = {
    "masked": (MASKED, r"Block 1 of x \(rows from 3000 on\) has masked cells, .*: row 3, column 1 is masked"),
    "large whole numbers": (np.full((2, D), 2**40), r"Block 1 of x .* holds int64 up to 1099511627776.*float32"),
    "a frame among arrays": ("frame", "columns of Block 1 of x .* have names, 'a', 'b', and those of block 0"),
    "no features": (np.zeros((2, 0)), "expected numbers of shape"),
    "missing": ("missing", r"x holds nan in row 3001, column 1 \('b'\), as float32 \(block 1, its row 1\)"),
    "text": (np.array([["1", "b"]]), r"Block 1 of x .* row 0, column 1 is '?np\.str_\('b'\)|row 0, column 1 is"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_block_is_named_with_its_place(kind):
    block, message = ODD[kind]
    first = X
    if isinstance(block, str):
        pandas = pytest.importorskip("pandas")
        if block == "missing":  # pandas' nullable numbers
            cells = {name: pandas.array([1.0, None if name == "b" else 2.0][::-1], "Float32") for name in NAMES}
            first, block = pandas.DataFrame(X, columns=NAMES), pandas.DataFrame(cells).iloc[::-1]
        else:
            block = pandas.DataFrame(X, columns=NAMES)
    with pytest.raises(ValueError, match=message):
        jaxgmm.fit(KEY, Blocks([first, block]), 2, **HOW)


@pytest.mark.parametrize(
    "empty",
    [np.array([]), np.zeros((0, 0)), np.zeros((0, 9)), [], (np.array([]), np.array([])), np.array([], object)],
    ids=lambda empty: f"{type(empty).__name__} {np.shape(empty)}",
)
def test_a_block_without_rows_is_passed_over(empty):
    whole = jaxgmm.fit(KEY, X, 2, **HOW)
    pairs = isinstance(empty, tuple)
    rows = [(X[:10], np.ones(10)), empty, (X[10:], np.ones(N - 10))] if pairs else [empty, X[:10], empty, X[10:]]
    assert_same_mixture(jaxgmm.fit(KEY, Blocks(rows), 2, **HOW).mixture, whole.mixture, np.float32)


def test_nullable_numbers_of_pandas_keep_their_width_and_are_numbers(x64):
    """Rows and weights; whole numbers and booleans among them are float64, as all that may miss."""
    pandas = pytest.importorskip("pandas")
    for kind, dtype in (("Float32", np.float32), ("Float64", np.float64), ("Int64", np.float64)):
        whole = np.round(X[:50])
        frame = pandas.DataFrame({name: pandas.array(whole[:, k], kind) for k, name in enumerate(NAMES)})
        weights = pandas.Series(pandas.array(np.arange(50.0), "Float64"))
        rows = Batches.of(frame.to_numpy(np.float64), np.arange(50.0))
        found = jaxgmm.fit(KEY, frame, 1, sample_weight=weights, tol=0.0, max_steps=1, init=whole[:1])
        assert_close(found.mixture.means[0], rows.origin, "means", np.float32)
        assert Blocks([frame]).head()[0].dtype == dtype


def test_wide_blocks_are_taken_where_the_dtype_is_asked_for(x64):
    blocks = Blocks([X[:10], X[10:].astype(np.float64), np.ones((1, D), np.int64)])
    assert jaxgmm.fit(KEY, blocks, 2, dtype=np.float64, **HOW).objective.dtype == np.float64


def test_the_same_rows_in_another_order_are_the_same_rows():
    """A loader that shuffles, in blocks of other lengths; and one that adds noise is told from it."""
    rng = np.random.default_rng(0)

    def shuffled():
        x = rng.permutation(X)
        return iter(np.array_split(x, np.sort(rng.integers(0, N, 3))))

    whole = jaxgmm.fit(KEY, X, 2, **HOW)
    found = jaxgmm.fit(KEY, Blocks(shuffled), 2, **HOW)
    assert_close(found.mixture.means, whole.mixture.means, "means", np.float32)
    with pytest.raises(ValueError, match="x gave other rows in a later pass: the sum of all numbers was"):
        jaxgmm.fit(KEY, Blocks(lambda: iter([X + rng.normal(0.0, 0.1, X.shape).astype(np.float32)])), 2, **HOW)


def test_one_object_serves_for_another_fit_when_its_file_has_changed(tmp_path):
    """Between fits a file may change; within one it must not."""
    for save, path in ((save_npy, tmp_path / "x.npy"), (save_parquet, tmp_path / "x.parquet")):
        save(path, X)
        blocks = Blocks.from_file(path)
        jaxgmm.fit(KEY, blocks, 2, **HOW)
        save(path, X[: N // 2])
        half = jaxgmm.fit(KEY, blocks, 2, **HOW)
        assert_same_mixture(half.mixture, jaxgmm.fit(KEY, X[: N // 2], 2, **HOW).mixture, np.float32)


def test_the_errors_of_the_system_name_the_path(tmp_path, monkeypatch):
    save_npy(tmp_path / "x.npy", X)
    blocks = Blocks.from_file(tmp_path / "x.npy")

    def failing(self, file, memory, start):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(npy_files.Stored, "_fill", failing)
    with pytest.raises(OSError, match=r"Input/output error: '.*x\.npy'"):
        jaxgmm.fit(KEY, blocks, 2, **HOW)


def test_a_missing_cell_is_named_by_its_file_and_column(tmp_path):
    in_folder(tmp_path / "x", X)
    x = X[N // 3 :].copy()
    x[700, 1] = np.nan
    save_parquet(tmp_path / "x" / "2.parquet", x)
    with pytest.raises(ValueError, match=r"holds nan in row 1700, column 1 \('b'\), .*2\.parquet, its row 700\)"):
        jaxgmm.fit(KEY, tmp_path / "x", 2, **HOW)


def test_a_mapped_array_whose_file_was_cut_off_is_refused_and_not_a_signal(tmp_path):
    """Where arrays are held in memory, too: looking at what is no longer there would end the process."""
    save_npy(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    mixture = jaxgmm.fit(KEY, X, 2, **HOW).mixture
    os.truncate(tmp_path / "x.npy", 5000)
    for job in (
        lambda x: jaxgmm.fit(KEY, x, 2, **HOW),
        lambda x: jaxgmm.GaussianMixture(2).fit(x),
        lambda x: jaxgmm.online.update(jaxgmm.online.init(mixture), x),
        lambda x: jaxgmm.bootstrap(KEY, x, mixture),
        mixture.log_prob,
        Batches.of,
    ):
        for x in (mapped, np.asarray(mapped)[1:]):
            with pytest.raises(ValueError, match=r"x\.npy has been cut off since it was mapped: it has 5000 bytes"):
                job(x)


def test_what_a_users_function_raises_comes_with_its_place():
    def blocks():
        yield X[:100]
        raise OSError("the socket is closed")

    with pytest.raises(OSError, match="the socket is closed") as caught:
        jaxgmm.fit(KEY, Blocks(blocks), 2, **HOW)
    assert caught.value.__notes__ == ["Raised by what gives block 1 of x (rows from 100 on)."]


@pytest.mark.parametrize("source", ["upper case", "parquet", "function", "dask"])
def test_the_estimator_fits_what_fit_reads(source, tmp_path):
    more = {"n_components": 2, "random_state": 0, "tol": 0.0, "max_iter": 4, "means_init": X[[0, -1]]}
    with pytest.warns(UserWarning, match="did not converge"):
        ours = jaxgmm.GaussianMixture(**more, chunk_size=64).fit(SOURCES[source](tmp_path).rows)
    with pytest.warns(UserWarning, match="did not converge"):
        whole = jaxgmm.GaussianMixture(**more).fit(X)
    assert_same_mixture(ours.mixture_, whole.mixture_, np.float32)
    assert ours.n_features_in_ == D
    assert list(getattr(ours, "feature_names_in_", [])) == (NAMES if source == "parquet" else [])
    assert ours.mixture_.predict(X).shape == (N,)


# Who takes which source


def of_csv(folder):
    return of_text(folder).rows


def of_npz(folder):
    np.savez(folder / "x.npz", x=X)
    return folder / "x.npz"


def of_paths(folder):
    """Of three kinds, one of them wider, with columns in another order."""
    pandas = pytest.importorskip("pandas")
    save_parquet(folder / "1.parquet", X[:1000])
    frame = pandas.DataFrame(X[1000:2500].astype(np.float64), columns=NAMES)
    frame[["b", "a"]].to_parquet(folder / "2.pq")
    frame = pandas.DataFrame(X[2500:], columns=NAMES)
    frame.to_csv(folder / "3.csv", index=False)
    return [folder / "1.parquet", str(folder / "2.pq"), folder / "3.csv"]


def shared_out(folder):
    devices = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    return jax.device_put(X, jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("rows")))


class OfSlices:
    """An array that gives slices of rows and nothing else, as those of HDF5 and Zarr do."""

    def __init__(self, x):
        self._x, self.shape, self.ndim, self.dtype = x, x.shape, x.ndim, x.dtype

    def __len__(self):
        return len(self._x)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._x[rows]


GIVEN = {
    "nested list": lambda folder: X.tolist(),
    "jax": lambda folder: jax.numpy.asarray(X),
    "sharded": shared_out,
    "pandas": lambda folder: frames("pandas")({"a": X[:, 0], "b": X[:, 1]}),
    "polars": lambda folder: frames("polars")({"a": X[:, 0], "b": X[:, 1]}),
    "arrow": lambda folder: frames("arrow")({"a": X[:, 0], "b": X[:, 1]}),
    "npz": of_npz,
    "paths": of_paths,
    "blocks": lambda folder: Blocks([X[:1000], X[1000:]]),
    "from_array": lambda folder: Blocks.from_array(X),
    "from_array, read by slices": lambda folder: Blocks.from_array(OfSlices(X)),
    **{name: lambda folder, of=of: of(folder).rows for name, of in SOURCES.items()},
}

MIXTURE = jaxgmm.Mixture.create([0.5, 0.5], X[[0, -1]], np.ones((2, D)), "diag", np.float32)


def estimator():
    model = jaxgmm.GaussianMixture(2, covariance_type="diag", means_init=X[[0, -1]], tol=1e-3, dtype=np.float32)
    return model


FITTED = estimator().fit(X)

CALLERS = {
    "fit": lambda x: jaxgmm.fit(KEY, x, 2, "diag", **HOW, dtype=np.float32).mixture.means,
    "estimator": lambda x: estimator().fit(x).means_,
    "predict": lambda x: FITTED.predict(x),
    "score": lambda x: FITTED.score(x),
    "icl": lambda x: FITTED.icl(x) / N,
    "partial_fit": lambda x: estimator().fit(X).partial_fit(x).means_,
    "online": lambda x: jaxgmm.online.update(jaxgmm.online.init(MIXTURE), x).mixture.means,
    "bootstrap": lambda x: jaxgmm.bootstrap(KEY, x, MIXTURE, 2, max_steps=2, dtype=np.float32).means,
    "test": lambda x: (
        jaxgmm.likelihood_ratio_test(KEY, x, 1, "diag", 1, n_restarts=1, max_steps=2, dtype=np.float32).statistic / N
    ),
}


@pytest.fixture(scope="module")
def of_the_array():
    return {name: np.asarray(call(X)) for name, call in CALLERS.items()}


@pytest.mark.filterwarnings("ignore:Best performing initialization", "ignore:X has feature names")
@pytest.mark.parametrize("given", GIVEN)
def test_whoever_takes_rows_takes_them_from_every_source(given, tmp_path, of_the_array):
    """The answer is that of the array."""
    rows = GIVEN[given](tmp_path)
    for name, call in CALLERS.items():
        found, expected = np.asarray(call(rows), np.float64), np.asarray(of_the_array[name], np.float64)
        assert_close(found, expected, "means", np.float32, factor=20.0, note=f"{name} of {given}")


REFUSED = {
    "iterator": (lambda: (X[i : i + 100] for i in range(0, N, 100)), "got a generator, .*jaxgmm.Blocks.function"),
    "function": (lambda: lambda: iter([X]), "got a function. .*jaxgmm.Blocks.function"),
    "file": (lambda: open(__file__), "got an open file. Give its path"),
    "list of blocks": (lambda: [X[:100], X[100:]], "taken as jaxgmm.Blocks"),
    "folder of text": (lambda: Path(__file__).parent / "data", "list of their paths"),
    "missing path": (lambda: [Path("nowhere.npy")], "nowhere.npy: there is no such file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_source_is_one_error_that_says_what_is(kind):
    make, message = REFUSED[kind]
    for call in CALLERS.values():
        given = make()
        with pytest.raises((TypeError, ValueError, OSError), match=message):
            call(given)
        if hasattr(given, "close"):
            given.close()


def test_weights_beside_files_are_heeded_or_refused(tmp_path):
    """Never ignored: beside a .npy file they are taken, and text and Parquet have them in a column."""
    weights = np.where(np.arange(N) < N // 2, 1.0, 0.0)
    np.save(tmp_path / "x.npy", X)
    found = jaxgmm.online.update(jaxgmm.online.init(MIXTURE), tmp_path / "x.npy", weights)
    expected = jaxgmm.online.update(jaxgmm.online.init(MIXTURE), X, weights)
    assert_same_mixture(found.mixture, expected.mixture, np.float32)
    for path in (of_csv(tmp_path), of_npz(tmp_path), [of_csv(tmp_path)]):
        with pytest.raises(ValueError, match="Weights of rows in files are one of their columns"):
            jaxgmm.fit(KEY, path, 2, sample_weight=weights, **HOW)
    blocks = Blocks([(X, weights)])
    assert_close(FITTED.score(blocks), FITTED.score(X, sample_weight=weights), "objective", np.float32)


def test_files_of_a_list_are_named_where_they_do_not_fit(tmp_path):
    save_npy(tmp_path / "1.npy", X[:10])
    x = X.copy()
    x[5, 1] = np.nan
    save_npy(tmp_path / "2.npy", x)
    save_npy(tmp_path / "3.npy", X[:, :1])
    paths = [tmp_path / f"{name}.npy" for name in (1, 2, 3)]
    with pytest.raises(ValueError, match=r"holds nan in row 15, column 1.*2\.npy, its row 5"):
        jaxgmm.fit(KEY, paths[:2], 2, **HOW)
    with pytest.raises(ValueError, match=r"expected 2 features as before, got 1"):
        jaxgmm.fit(KEY, [paths[0], paths[2]], 2, **HOW)
    assert Blocks.from_files(paths[:1]).head()[0].shape == (1, D)
    (tmp_path / "no rows.csv").write_text("a,b\n")
    save_npy(tmp_path / "none.npy", X[:0])
    lacking = [tmp_path / "none.npy", paths[0], tmp_path / "no rows.csv"]
    assert np.array_equal(Blocks.from_files(lacking).in_memory()[0], X[:10])
    with pytest.raises(ValueError, match=r"None of the 2 files has rows: the first is .*none\.npy\."):
        Blocks.from_files(lacking[::2])
    with pytest.raises(TypeError, match="takes a list of paths"):
        Blocks.from_files([])

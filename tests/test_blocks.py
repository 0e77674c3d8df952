"""Rows in blocks: every source gives the same rows, in pieces of one size, and says where something is wrong."""

from __future__ import annotations

import gc
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm.rows import npy as npy_files
from jaxgmm.rows.blocks import Blocks
from jaxgmm.rows.prefetch import Steps, ahead

N, D = 1003, 3
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).integers(0, 3, N).astype(np.float32)
CUTS = [0, 1, 100, 100, 700, N]


def ragged(weighted=False):
    parts = [(X[a:b], WEIGHTS[a:b]) for a, b in itertools.pairwise(CUTS)]
    return parts if weighted else [rows for rows, _ in parts]


def together(blocks, size, dtype=np.float32):
    """All rows and weights that the pieces hold, which must be of one size and padded with weight 0."""
    pieces = list(blocks.pieces(size, dtype))
    assert all(piece.rows.shape == (size, D) and piece.rows.dtype == dtype for piece in pieces)
    assert all(piece.count == size for piece in pieces[:-1])
    for piece in pieces:
        if piece.weights is not None:
            assert piece.weights.shape == (size,)
            assert not piece.weights[piece.count :].any()
        assert (piece.rows[piece.count :] == piece.rows[piece.count - 1]).all()
    rows = np.concatenate([piece.rows[: piece.count] for piece in pieces])
    if pieces[0].weights is None:
        return rows, None
    return rows, np.concatenate([piece.weights[: piece.count] for piece in pieces])


def npy(folder):
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


def written(folder, columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    files.write_table(pyarrow.table(columns), folder / "x.parquet", row_group_size=100)
    return folder / "x.parquet"


def parquet(folder):
    return written(folder, {**{f"f{j}": X[:, j] for j in range(D)}, "w": WEIGHTS, "name": ["a"] * N})


NAMES = [f"f{j}" for j in range(D)]


def dask_array(_):
    array = pytest.importorskip("dask.array")
    return array.from_array(X, chunks=(128, 2))


def dask_frame(_):
    pandas = pytest.importorskip("pandas")
    frame = pytest.importorskip("dask.dataframe")
    return frame.from_pandas(pandas.DataFrame(X, columns=NAMES), npartitions=4)


SOURCES = {
    "ragged": lambda _: Blocks(ragged()),
    "function": lambda _: Blocks(lambda: iter(ragged())),
    "alone in lists": lambda _: Blocks([[rows] for rows in ragged()]),
    "array": lambda _: Blocks.from_array(X),
    "column by column": lambda _: Blocks.from_array(np.asfortranarray(X)),
    "memmap": lambda folder: Blocks.of(np.load(npy(folder), mmap_mode="r")),
    "npy": lambda folder: Blocks.of(str(npy(folder))),
    "parquet": lambda folder: Blocks.from_file(parquet(folder), NAMES),
    "folder of parquet": lambda folder: Blocks.from_file(parquet(folder).parent, NAMES),
    "dask array": lambda folder: Blocks.of(dask_array(folder)),
    "dask frame": lambda folder: Blocks.of(dask_frame(folder)),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", [1, 64, 250, N, 2048])
def test_every_source_gives_the_same_rows_in_every_pass(source, size, tmp_path):
    blocks = SOURCES[source](tmp_path)
    for _ in range(2):
        rows, weights = together(blocks, size)
        assert np.array_equal(rows, X)
        assert weights is None
    assert np.array_equal(together(blocks, size, np.float64)[0], X.astype(np.float64))
    row, weight = blocks.head()
    assert np.array_equal(row, X[:1])
    assert row.dtype == np.float32
    assert weight is None


@pytest.mark.parametrize(
    "source",
    {
        "ragged": lambda _: Blocks(ragged(weighted=True)),
        "array": lambda _: Blocks.from_array(X, WEIGHTS),
        "npy": lambda folder: Blocks.of(npy(folder), WEIGHTS),
        "parquet": lambda folder: Blocks.from_file(parquet(folder), NAMES, weights="w"),
    }.items(),
    ids=lambda item: item[0],
)
def test_weights_go_with_their_rows(source, tmp_path):
    rows, weights = together(source[1](tmp_path), 64)
    assert np.array_equal(rows, X)
    assert np.array_equal(weights, WEIGHTS)


def changed_in_memory(path):
    mapped = np.load(path, mmap_mode="c")
    mapped[3, 1] = 7.0
    return mapped


def not_yet_written(path):
    mapped = np.load(path, mmap_mode="r+")
    mapped[3, 1] = 7.0
    return mapped


def unlinked(path):
    mapped = np.load(path, mmap_mode="r")
    path.unlink()
    return mapped


def replaced(path):
    mapped = np.load(path, mmap_mode="r")
    np.save(path.with_name("y.npy"), -X)
    path.with_name("y.npy").replace(path)
    return mapped


def by_columns(path, dtype=np.float32):
    np.save(path, np.asfortranarray(X.astype(dtype)))
    return np.load(path, mmap_mode="r")


MAPPED = {
    "whole": lambda path: np.load(path, mmap_mode="r"),
    "every other row": lambda path: np.load(path, mmap_mode="r")[3::2],
    "some columns": lambda path: np.load(path, mmap_mode="r")[5:, :2],
    "every other column": lambda path: np.load(path, mmap_mode="r")[:, ::2],
    "backwards": lambda path: np.load(path, mmap_mode="r")[::-1],
    "a plain view": lambda path: np.asarray(np.load(path, mmap_mode="r"))[10:900],
    "by columns": by_columns,
    "by columns, of the other byte order": lambda path: by_columns(path, ">f4")[7:],
    "changed in memory": changed_in_memory,
    "not yet written": not_yet_written,
    "unlinked": unlinked,
    "replaced": replaced,
}


@pytest.mark.parametrize("kind", MAPPED)
def test_every_view_of_a_mapped_file_gives_the_numbers_that_it_shows(kind, tmp_path, monkeypatch):
    """From the file, by ordinary reads, or from memory where the file has others."""
    monkeypatch.setattr(npy_files, "AT_ONCE", 512)
    mapped = MAPPED[kind](npy(tmp_path))
    want = np.array(mapped, np.float32)
    for blocks in (Blocks.from_array(mapped), Blocks([mapped[:100], mapped[100:]])):
        for size in (64, 2048):
            pieces = list(blocks.pieces(size, np.float32))
            assert np.array_equal(np.concatenate([piece.rows[: piece.count] for piece in pieces]), want)
            assert not np.shares_memory(pieces[0].rows, mapped)


def test_an_array_is_not_blocks():
    assert Blocks.of(X) is None


@pytest.mark.parametrize("as_pair", [False, True], ids=["rows", "pairs"])
def test_a_source_may_write_every_block_to_the_same_memory(as_pair):
    """As readers of binary records do, and environments for reinforcement learning."""

    def one_buffer():
        rows, weights = np.empty((100, D), np.float32), np.empty(100, np.float32)
        for first in range(0, 1000, 100):
            rows[:], weights[:] = X[first : first + 100], WEIGHTS[first : first + 100]
            yield (rows, weights) if as_pair else rows

    for size in (1, 64, 250, 1000):
        rows, weights = together(Blocks(one_buffer), size)
        assert np.array_equal(rows, X[:1000])
        assert weights is None or np.array_equal(weights, WEIGHTS[:1000])


def test_the_next_is_read_while_one_is_in_use_and_no_more():
    read = []

    def numbers():
        for i in range(5):
            read.append(i)
            yield None  # a step after which nothing is ready
            yield i

    found = []
    for item in ahead(Steps(numbers())):
        found.append(item)
        assert len(read) <= item + 2
    assert found == list(range(5))


def test_what_the_reader_raises_reaches_who_waits():
    def numbers():
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(ahead(Steps(numbers())))


def test_who_leaves_does_not_wait_for_a_slow_source():
    """Ctrl-C while the reader is at work: it stops after its block, and closes the source where it was opened."""
    at_work, go_on, closed, read = threading.Event(), threading.Event(), threading.Event(), []

    def slow():
        try:
            yield 0
            for i in range(100):
                at_work.set()
                go_on.wait(60.0)
                read.append(i)
                yield None
        finally:
            closed.set()

    for item in ahead(Steps(slow())):
        assert item == 0
        assert at_work.wait(60.0)
        break
    assert not read  # the reader still waits, and nobody waits for it
    go_on.set()
    assert closed.wait(60.0)
    assert len(read) == 1


def test_a_source_is_read_under_the_settings_of_who_asks():
    seen = []

    def rows():
        seen.append((threading.get_ident(), jax.numpy.ones(1, np.float64).dtype))
        yield X

    with jax.enable_x64(True):
        list(ahead(Blocks(rows).pieces(N, np.float32)))
    assert seen[0][0] != threading.get_ident()
    assert seen[0][1] == np.float64


def test_blocks_hold_what_an_array_may_hold():
    """Rows as lists, integers, of the other byte order, unmasked, or in one list of arrays."""
    for blocks in (
        [X.tolist()],
        [X[:2].tolist(), X[2:].tolist()],
        [X.astype(">f4")],
        [np.ma.array(X)],
        [X, np.ones((2, D), np.int64)],
        [jax.numpy.asarray(X)],
    ):
        assert np.array_equal(together(Blocks(blocks), 64)[0][:N], X)
    assert np.array_equal(together(Blocks.from_array(X.tolist()), 64)[0], X)
    assert np.array_equal(together(Blocks.from_array(X.astype(">f4")), 64)[0], X)
    pandas = pytest.importorskip("pandas")
    assert np.array_equal(together(Blocks.from_array(pandas.DataFrame(X, columns=NAMES)), 64)[0], X)


def test_a_source_that_is_used_up_is_named_as_that():
    once = iter([X])
    with pytest.raises(ValueError, match="it is used up after one pass: give a list, or a function that makes a new"):
        jaxgmm.fit(jax.random.key(0), Blocks(lambda: once), 2, "diag")


def test_pandas_and_folders_add_the_columns_that_pandas_and_pyarrow_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(X.astype(np.float64), columns=NAMES)
    frame.iloc[::-1].to_parquet(tmp_path / "indexed.parquet")
    assert np.array_equal(together(Blocks.from_file(tmp_path / "indexed.parquet"), 64)[0], X[::-1])
    for year in (2023, 2024):
        folder = tmp_path / "years" / f"year={year}"
        folder.mkdir(parents=True)
        frame[:5].to_parquet(folder / "rows.parquet")
    (rows,) = Blocks.from_file(tmp_path / "years").pieces(16, np.float64)
    assert rows.rows.shape[1] == D + 1
    assert sorted(rows.rows[:10, D]) == 5 * [2023] + 5 * [2024]


def test_decimal_and_whole_columns_are_numbers_and_missing_cells_are_not_finite(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    decimals = pyarrow.array([1, 2, 3]).cast(pyarrow.decimal128(24, 2))
    path = written(tmp_path, {"a": decimals, "b": [1, None, 3], "c": [True, False, True]})
    (piece,) = Blocks.from_file(path).pieces(3, np.float64)
    assert np.array_equal(piece.rows, [[1, 1, 1], [2, np.nan, 0], [3, 3, 1]], equal_nan=True)
    with pytest.raises(ValueError, match=r"x\.parquet holds nan in row 1, column 1"):
        jaxgmm.fit(jax.random.key(0), path, 2)


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        (lambda: Blocks(iter([X])), TypeError, "used up after one pass"),
        (lambda: Blocks(3), TypeError, "an iterable of arrays"),
        (
            lambda: Blocks([X[0]]),
            ValueError,
            r"Block 0 of x \(rows from 0 on\): expected numbers of shape \(n, D\), got float32",
        ),
        (
            lambda: Blocks([X, X[:, :2]]),
            ValueError,
            r"Block 1 of x \(rows from 1003 on\): expected 3 features as before, got 2",
        ),
        (lambda: Blocks([X, (X, WEIGHTS)]), ValueError, "some blocks have weights and some have none"),
        (lambda: Blocks([(X, WEIGHTS[:3])]), ValueError, r"expected weights of shape \(1003,\), got \(3,\)"),
        (
            lambda: Blocks([np.array([["a", "b"]])]),
            ValueError,
            r"Block 0 of x \(rows from 0 on\) must hold numbers only",
        ),
        (lambda: Blocks([X, X.astype(np.float64)]), ValueError, r"holds float64, and the first block float32.*astype"),
        (lambda: Blocks([X.astype(np.complex64)]), ValueError, "Complex data not supported"),
        (lambda: Blocks([np.ma.masked_greater(X, 1.0)]), ValueError, r"rows from 0 on\) has masked cells"),
        (lambda: Blocks.from_array(np.ma.masked_greater(X, 1.0)), ValueError, "x has masked cells"),
        (lambda: Blocks([np.zeros(3, "f4,f4")]), TypeError, "structured dtype"),
        (lambda: Blocks([X.astype(np.longdouble)]), TypeError, r"Convert it with \.astype\(np\.float64\)"),
        (lambda: Blocks([]), ValueError, "x gave no rows"),
        (lambda: Blocks(lambda: 3), TypeError, "expected a function that returns an iterable, got a int"),
        (lambda: Blocks([(X, np.array(["a"] * N))]), ValueError, "in its weights, must hold numbers only"),
        (lambda: Blocks.from_array(X[0]), ValueError, "must be a matrix"),
        (lambda: Blocks.of(Blocks([X]), WEIGHTS), ValueError, "carry their own weights"),
        (lambda: Blocks.of("no/such.npy"), FileNotFoundError, "no/such.npy: there is no such file"),
    ],
)
def test_what_is_no_source_is_refused(blocks, error, message):
    with pytest.raises(error, match=message):
        list(blocks().pieces(64, np.float32))


def test_a_piece_that_no_memory_holds_is_refused():
    with pytest.raises(ValueError, match=r"no memory for \d+ rows of 3 features in one piece\. Lower chunk_size"):
        list(Blocks([X]).pieces(2**60, np.float32))


def test_labels_beside_rows_are_not_weights():
    """Whole numbers in a tensor, as PyTorch's loaders give them; a stand-in, since a test needs no PyTorch."""
    tensor = type("Tensor", (np.ndarray,), {"__module__": "torch"})
    labels = np.arange(N).view(tensor)
    with pytest.raises(TypeError, match=r"look like labels\. Drop them"):
        list(Blocks([(X.view(tensor), labels)]).pieces(64, np.float32))
    pair = [X.view(tensor), WEIGHTS.view(tensor)]
    assert np.array_equal(together(Blocks([pair]), 64)[1], WEIGHTS)


def test_files_are_refused_by_name(tmp_path):
    other = tmp_path / "x.xls"
    other.write_text("1 2 3")
    with pytest.raises(ValueError, match=r"x\.xls: expected a path ending in one of \.csv, .*\.npy, .*\.parquet"):
        Blocks.from_file(other)
    with pytest.raises(ValueError, match=r"columns of a \.npy file have no names"):
        Blocks.from_file(npy(tmp_path), columns=["a"])
    path = parquet(tmp_path)
    with pytest.raises(ValueError, match=r"has no column 'g'\. It has 'f0', 'f1', 'f2', 'w', 'name'"):
        Blocks.from_file(path, ["g"])
    with pytest.raises(ValueError, match=r"column 'name' holds string, not numbers\. Leave it out with columns="):
        Blocks.from_file(path)
    with pytest.raises(ValueError, match=r"x\.parquet: no column is left as a feature"):
        Blocks.from_file(path, [])
    with pytest.raises(ValueError, match=r"column 'name' holds string, not numbers"):
        Blocks.from_file(path, NAMES, weights="name")
    with pytest.raises(ValueError, match=r"column 'f0' is there, or is chosen, twice"):
        Blocks.from_file(path, ["f0", "f0"])
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as Parquet"):
        Blocks.from_file(path)
    for content, what in ((b"no array at all", "file, whatever its name"), (b"", "array of numbers: it is damaged")):
        npy(tmp_path).write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.npy is no NumPy {what}"):
            Blocks.of(str(tmp_path / "x.npy"))
    with pytest.raises(ValueError, match="Weights of a Parquet file are one of its columns"):
        Blocks.of(path, WEIGHTS)


def test_weights_in_other_partitions_are_refused():
    array = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match=r"in 2 partitions and the rows in 8\. Rechunk one of them"):
        Blocks.from_dask(array.from_array(X, chunks=(128, D)), array.from_array(WEIGHTS, chunks=600))
    with pytest.raises(TypeError, match=r"must be one, too, got ndarray\. Give dask\.array\.from_array"):
        Blocks.from_dask(array.from_array(X, chunks=(128, D)), WEIGHTS)


def test_memory_is_used_again_when_nobody_holds_it():
    """What is held, by JAX or by a caller, keeps its values; what is not makes room for what is read next."""
    x = np.arange(64 * 10, dtype=np.float32).reshape(-1, 1)
    source = Blocks(lambda: iter([x]))
    kept = [jnp.asarray(piece.rows, np.float32) for piece in source.pieces(64, np.float32)]
    assert len({array.unsafe_buffer_pointer() for array in kept}) == len(kept)
    np.testing.assert_array_equal(np.concatenate(kept), x)
    places = {array.unsafe_buffer_pointer() for array in kept}
    kept.clear()
    gc.collect()  # by which JAX lets go of what it holds of others'
    again = {piece.rows.ctypes.data for piece in source.pieces(64, np.float32)}
    assert again <= places
    assert len(again) < len(places)

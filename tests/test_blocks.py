"""Rows in blocks: every source gives the same rows, in pieces of one size, and says where something is wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxgmm.blocks import Blocks, ahead, as_blocks

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


def parquet(folder, rows_a_group=100):
    pyarrow = pytest.importorskip("pyarrow")
    columns = {**{f"f{j}": X[:, j] for j in range(D)}, "w": WEIGHTS, "name": ["a"] * N}
    from pyarrow import parquet as files

    files.write_table(pyarrow.table(columns), folder / "x.parquet", row_group_size=rows_a_group)
    return folder / "x.parquet"


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
    "memmap": lambda folder: as_blocks(np.load(npy(folder), mmap_mode="r")),
    "npy": lambda folder: as_blocks(str(npy(folder))),
    "parquet": lambda folder: Blocks.from_file(parquet(folder), NAMES),
    "folder of parquet": lambda folder: Blocks.from_file(parquet(folder).parent, NAMES),
    "dask array": lambda folder: as_blocks(dask_array(folder)),
    "dask frame": lambda folder: as_blocks(dask_frame(folder)),
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
    assert blocks.dtype == np.float32


@pytest.mark.parametrize(
    "source",
    {
        "ragged": lambda _: Blocks(ragged(weighted=True)),
        "array": lambda _: Blocks.from_array(X, WEIGHTS),
        "npy": lambda folder: as_blocks(npy(folder), WEIGHTS),
        "parquet": lambda folder: Blocks.from_file(parquet(folder), NAMES, weights="w"),
    }.items(),
    ids=lambda item: item[0],
)
def test_weights_go_with_their_rows(source, tmp_path):
    rows, weights = together(source[1](tmp_path), 64)
    assert np.array_equal(rows, X)
    assert np.array_equal(weights, WEIGHTS)


def test_rows_of_a_mapped_file_are_not_copied(tmp_path):
    mapped = np.load(npy(tmp_path), mmap_mode="r")
    first, *_, last = as_blocks(mapped).pieces(256, np.float32)
    assert np.shares_memory(first.rows, mapped)
    assert not np.shares_memory(last.rows, mapped)  # it is padded


def test_an_array_is_not_blocks():
    assert as_blocks(X) is None


def test_the_next_is_read_while_one_is_in_use_and_no_more():
    read = []

    def numbers():
        for i in range(5):
            read.append(i)
            yield i

    found = []
    for item in ahead(numbers()):
        found.append(item)
        assert len(read) <= item + 2
    assert found == list(range(5))


def test_what_the_reader_raises_reaches_who_waits():
    def numbers():
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(ahead(numbers()))


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        (lambda: Blocks(iter([X])), TypeError, "used up after one pass"),
        (lambda: Blocks(3), TypeError, "an iterable of arrays"),
        (lambda: Blocks([X[0]]), ValueError, r"x, rows from 0 on: expected numbers of shape \(n, D\), got float32"),
        (lambda: Blocks([X, X[:, :2]]), ValueError, "x, rows from 1003 on: expected 3 features as before, got 2"),
        (lambda: Blocks([X, (X, WEIGHTS)]), ValueError, "some blocks have weights and some have none"),
        (lambda: Blocks([(X, WEIGHTS[:3])]), ValueError, r"expected weights of shape \(1003,\), got \(3,\)"),
        (lambda: Blocks([np.array([["a", "b"]])]), ValueError, "expected numbers"),
        (lambda: Blocks.from_array(X[0]), ValueError, "must be a matrix"),
        (lambda: as_blocks(Blocks([X]), WEIGHTS), ValueError, "carry their own weights"),
        (lambda: as_blocks("no/such.npy"), FileNotFoundError, "no/such.npy: there is no such file"),
    ],
)
def test_what_is_no_source_is_refused(blocks, error, message):
    with pytest.raises(error, match=message):
        list(blocks().pieces(64, np.float32))


def test_files_are_refused_by_name(tmp_path):
    other = tmp_path / "x.txt"
    other.write_text("1 2 3")
    with pytest.raises(ValueError, match=r"x\.txt: expected a path ending in one of \.npy, \.parquet"):
        Blocks.from_file(other)
    with pytest.raises(ValueError, match="only columns of Parquet files have names"):
        Blocks.from_file(npy(tmp_path), columns=["a"])
    path = parquet(tmp_path)
    with pytest.raises(ValueError, match=r"has no column 'g'\. It has 'f0', 'f1', 'f2', 'w', 'name'"):
        Blocks.from_file(path, ["g"])
    with pytest.raises(ValueError, match=r"column 'name' holds string, not numbers\. Leave it out with columns="):
        Blocks.from_file(path)
    with pytest.raises(ValueError, match="Weights of a Parquet file are one of its columns"):
        as_blocks(path, WEIGHTS)


def test_weights_in_other_partitions_are_refused():
    array = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match=r"in 2 partitions and the rows in 8\. Rechunk one of them"):
        Blocks.from_dask(array.from_array(X, chunks=(128, D)), array.from_array(WEIGHTS, chunks=600))

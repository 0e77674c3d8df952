"""Rows with the workers of a dask cluster: the same fit as in memory, whoever computes what, and whoever dies."""

from __future__ import annotations

import os
import signal

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm.rows.dask import DaskRows
from jaxgmm.rows.door import admit_rows
from jaxgmm.rows.options import RowOptions, Workload
from tests import oracle
from tests.tolerances import assert_close, assert_same_mixture

distributed = pytest.importorskip("distributed")
array = pytest.importorskip("dask.array")

N, D, K = 1500, 2, 3
BLOBS = oracle.blobs(seed=3, n_rows=N, n_features=D, n_components=K, distance=3.0)
SEEDS = BLOBS.x[:: N // K][:K]
WEIGHTS = np.random.default_rng(4).uniform(0.5, 2.0, N)
KEY = jax.random.key(2)
X = array.from_array(BLOBS.x, chunks=((100, 700, 0, 699, 1), (1, 1)))
FIXED = {"tol": 0.0, "max_steps": 8, "init": SEEDS, "dtype": np.float64}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two processes of one thread each."""
    folder = str(tmp_path_factory.mktemp("dask"))
    more = {"dashboard_address": None, "local_directory": folder, "host": "127.0.0.1"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **more) as cluster:
        with distributed.Client(cluster) as client:
            yield client


@pytest.mark.parametrize("family", ["full", "tied", "VEI"])
def test_workers_fit_what_memory_fits(family, client):
    ours = jaxgmm.fit(KEY, X, K, family, **FIXED)
    whole = jaxgmm.fit(KEY, BLOBS.x, K, family, **FIXED)
    assert_same_mixture(ours.mixture, whole.mixture, np.float64)
    assert_close(ours.history, whole.history, "objective", np.float64)


def test_weights_lie_with_their_rows(client):
    weights = array.from_array(WEIGHTS, chunks=X.chunks[:1])
    ours = jaxgmm.fit(KEY, X, K, "diag", sample_weight=weights, **FIXED)
    whole = jaxgmm.fit(KEY, BLOBS.x, K, "diag", sample_weight=WEIGHTS, **FIXED)
    assert_same_mixture(ours.mixture, whole.mixture, np.float64)


def test_the_workers_hold_the_rows(client):
    rows = admit_rows(KEY, X, RowOptions(), Workload(K))
    assert isinstance(rows, DaskRows)
    assert rows.n_rows == N
    assert len(rows.parts) == 5
    assert sum(len(held) for held in client.has_what().values()) >= 5
    assert rows.sample.n_rows == N


def test_a_search_of_restarts(client):
    """All rows are in the sample, in the order of the partitions: the same seeds are chosen as in memory."""
    more = {"n_restarts": 3, "tol": 0.0, "max_steps": 4, "dtype": np.float64}
    ours, whole = jaxgmm.fit(KEY, X, K, **more), jaxgmm.fit(KEY, BLOBS.x, K, **more)
    assert_close(ours.restarts.objective, whole.restarts.objective, "objective", np.float64)


def test_a_worker_that_dies_changes_nothing(client):
    """It is killed between two steps, with the partitions that it held."""
    whole = jaxgmm.fit(KEY, BLOBS.x, K, "diag", **FIXED)
    killed = []

    def kill_one(told):
        if told.n_steps == 3 and not killed:
            worker = next(iter(client.has_what()))
            killed.append(client.run(os.getpid, workers=[worker])[worker])
            os.kill(killed[0], signal.SIGKILL)

    ours = jaxgmm.fit(KEY, X, K, "diag", progress=kill_one, **FIXED)
    assert killed
    assert killed[0] not in client.run(os.getpid).values()
    assert_same_mixture(ours.mixture, whole.mixture, np.float64)


def test_what_the_workers_find_is_told(client):
    x = BLOBS.x.copy()
    x[800, 1] = np.nan
    with pytest.raises(ValueError, match="partition 1 of x holds nan in row 0, column 1"):
        jaxgmm.fit(KEY, array.from_array(x, chunks=(800, D)), K, **FIXED)
    with pytest.raises(ValueError, match=r"in 2 partitions and the rows in 5\. Rechunk one of them"):
        jaxgmm.fit(KEY, X, K, sample_weight=array.from_array(WEIGHTS, chunks=1000), **FIXED)
    with pytest.raises(TypeError, match="sample_weight of a dask collection must be one, too, got ndarray"):
        jaxgmm.fit(KEY, X, K, sample_weight=WEIGHTS, **FIXED)
    with pytest.raises(ValueError, match="needs the rows in memory: blocks and partitions"):
        jaxgmm.fit(KEY, X, K, device="all", **FIXED)


def in_partition_1(change):
    """The rows, of which one partition is another than dask was told."""
    rows = array.from_array(BLOBS.x.astype(np.float32), chunks=(500, D))

    def one(block, block_info=None):
        return change(block) if block_info[None]["chunk-location"][0] == 1 else block

    return rows.map_blocks(one, dtype="f4", meta=np.zeros((0, 0), "f4"))


@pytest.mark.parametrize("where", ["with the workers", "here"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :1], "artition 1 of x.*: expected 2 features as before, got 1"),
        (lambda x: np.concatenate([x, x], axis=1), "artition 1 of x.*: expected 2 features as before, got 4"),
        (lambda x: x.astype(np.float64) + 1e8, "artition 1 of x.* holds float64, and the first block float32"),
        (lambda x: np.full(x.shape, 2**40), "artition 1 of x.* holds int64 up to 1099511627776"),
        (lambda x: np.ma.masked_greater(x, x.max() - 1e-6), "artition 1 of x.* has masked cells, .*: row"),
        (lambda x: x.astype(str).astype(object) + "a", "artition 1 of x.* must hold numbers only, but row 0"),
    ],
)
def test_every_partition_is_looked_at(where, change, message, client):
    """The same error with a cluster and without one."""
    rows = in_partition_1(change)
    rows = rows if where == "with the workers" else jaxgmm.Blocks.from_dask(rows)
    with pytest.raises(ValueError, match=message):
        jaxgmm.fit(KEY, rows, K, init=SEEDS, tol=0.0, max_steps=2)


def test_columns_of_partitions_are_matched_by_name(client):
    pandas, frame = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    from dask import delayed

    x = pandas.DataFrame(BLOBS.x, columns=["a", "b"])

    def partitions(second):
        parts = [delayed(lambda part: part)(part) for part in (x[:500], second, x[1000:])]
        return frame.from_delayed(parts, meta=x[:0], verify_meta=False)

    ours = jaxgmm.fit(KEY, partitions(x[500:1000][["b", "a"]]), K, **FIXED)
    assert_same_mixture(ours.mixture, jaxgmm.fit(KEY, BLOBS.x, K, **FIXED).mixture, np.float64)
    with pytest.raises(ValueError, match="Partition 1 of x: column 'b' is missing and column 'c' is there, which part"):
        jaxgmm.fit(KEY, partitions(x[500:1000].rename(columns={"b": "c"})), K, **FIXED)

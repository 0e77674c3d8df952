"""Rows that are read in blocks give what the same rows give in memory: every family, dtype, weighting and cut."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Blocks, Status, em
from jaxgmm.em import lanes
from jaxgmm.rows import streamed as stream
from jaxgmm.rows.door import admit_rows
from jaxgmm.rows.options import RowOptions, Workload
from jaxgmm.rows.streamed import Streamed
from tests import oracle
from tests.laws import each_kind_in_a_dtype
from tests.tolerances import assert_close, assert_same_mixture

N, D, K = 2000, 3, 4
BLOBS = oracle.blobs(seed=11, n_rows=N, n_features=D, n_components=K, distance=4.0)
SEEDS = BLOBS.x[:: N // K][:K]
KEY = jax.random.key(3)
FIXED = {"tol": 0.0, "max_steps": 8}


def weights_of(weighted):
    return np.random.default_rng(2).uniform(0.0, 2.0, N) * (np.arange(N) % 7 > 0) if weighted else None


def in_blocks(x, weights, cuts=(0, 1, 700, 700, 1999, N)):
    parts = [(x[a:b], weights[a:b]) if weights is not None else x[a:b] for a, b in itertools.pairwise(cuts)]
    return Blocks(parts)


@each_kind_in_a_dtype
def test_a_streamed_fit_is_the_fit_in_memory(family, dtype, monkeypatch):
    """From the same start, for as many steps; in several blocks a pass, the last of which is padded."""
    same_as_in_memory(family, dtype, False, monkeypatch)


@pytest.mark.parametrize("family", ["full", "VEI"])
def test_weighted_rows_too(family, x64, monkeypatch):
    same_as_in_memory(family, np.dtype(np.float64), True, monkeypatch)


def same_as_in_memory(family, dtype, weighted, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 2**13)
    x, weights = BLOBS.x.astype(dtype), weights_of(weighted)
    whole = jaxgmm.fit(KEY, x, K, family, sample_weight=weights, init=SEEDS, **FIXED)
    streamed = jaxgmm.fit(KEY, in_blocks(x, weights), K, family, init=SEEDS, chunk_size=64, **FIXED)
    assert streamed.objective.dtype == dtype
    assert int(streamed.n_steps) == int(whole.n_steps) == 8
    assert int(streamed.status) == int(whole.status) == Status.MAX_STEPS
    assert_same_mixture(streamed.mixture, whole.mixture, dtype)
    assert_close(streamed.history, whole.history, "objective", dtype)
    assert_close(streamed.effective_counts / N, whole.effective_counts / N, "weights", dtype)


@pytest.mark.parametrize("family", ["full", "VEI"])
def test_restarts_of_few_rows_are_the_same_restarts(family):
    """Where all rows are among those that seeds are chosen from, the same key chooses the same."""
    more = {"n_restarts": 3, "tol": 1e-6, "dtype": np.float64}
    whole = jaxgmm.fit(KEY, BLOBS.x, K, family, **more)
    streamed = jaxgmm.fit(KEY, in_blocks(BLOBS.x, None), K, family, **more)
    assert np.array_equal(streamed.restarts.status, whole.restarts.status)
    assert_close(streamed.restarts.objective, whole.restarts.objective, "settled", np.float64)
    assert_same_mixture(streamed.mixture, whole.mixture, np.float64, "oracle")


@pytest.mark.parametrize("acceleration", ["squarem", "anderson", "lbfgs"])
def test_acceleration_goes_the_same_way(acceleration):
    more = {"init": SEEDS, "acceleration": acceleration, "tol": 0.0, "max_steps": 12, "dtype": np.float64}
    whole = jaxgmm.fit(KEY, BLOBS.x, K, "diag", **more)
    streamed = jaxgmm.fit(KEY, in_blocks(BLOBS.x, None), K, "diag", **more)
    assert_close(streamed.history, whole.history, "objective", np.float64)


@pytest.mark.parametrize("source", ["memmap", "path"])
def test_files_are_fitted_where_they_lie(source, tmp_path):
    """In few steps: a small table in memory is summed in another form, whose rounding later steps would magnify."""
    few = {**FIXED, "max_steps": 2}
    x = BLOBS.x.astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    given = str(tmp_path / "x.npy") if source == "path" else np.load(tmp_path / "x.npy", mmap_mode="r")
    streamed = jaxgmm.fit(KEY, given, K, init=SEEDS, **few)
    assert_same_mixture(streamed.mixture, jaxgmm.fit(KEY, x, K, init=SEEDS, **few).mixture, np.float32)


def test_a_streamed_search_chooses_as_one_in_memory():
    more = {"n_components": [1, 4], "families": ["diag"], "n_restarts": 2, "dtype": np.float64}
    whole = jaxgmm.sweep(KEY, BLOBS.x, **more)
    streamed = jaxgmm.sweep(KEY, in_blocks(BLOBS.x, None), **more)
    assert streamed.best_cell[:2] == whole.best_cell[:2]
    for ours, theirs in zip(streamed.cells, whole.cells, strict=True):
        assert ours[:2] == theirs[:2]
        assert_close(np.array([ours.bic, ours.icl]) / N, np.array([theirs.bic, theirs.icl]) / N, "settled", np.float64)
    own = jaxgmm.sweep(KEY, in_blocks(BLOBS.x, None), K, ["diag"], init=SEEDS, dtype=np.float64)
    alike = jaxgmm.sweep(KEY, BLOBS.x, K, ["diag"], init=SEEDS, dtype=np.float64)
    assert_close(own.best_cell.log_likelihood / N, alike.best_cell.log_likelihood / N, "objective", np.float64)


def test_a_race_of_streamed_runs():
    raced = jaxgmm.fit(KEY, in_blocks(BLOBS.x, None), K, "diag", n_restarts=8, race=True, tol=1e-6, dtype=np.float64)
    whole = jaxgmm.fit(KEY, BLOBS.x, K, "diag", n_restarts=8, race=True, tol=1e-6, dtype=np.float64)
    assert np.array_equal(raced.restarts.status, whole.restarts.status)
    assert_close(raced.objective, whole.objective, "settled", np.float64)


def test_progress_is_told_every_pass():
    told = []
    result = jaxgmm.fit(KEY, in_blocks(BLOBS.x, None), K, init=SEEDS, progress=told.append, **FIXED)
    assert [each.n_steps for each in told] == list(range(9))
    assert told[-1].objective == float(result.objective)


def test_the_survey_finds_what_batches_know(dtype):
    weights = weights_of(True)
    rows = Streamed(KEY, in_blocks(BLOBS.x.astype(dtype), weights), K, chunk_size=64)
    batches = Batches.of(BLOBS.x.astype(dtype), weights)
    assert (rows.n_rows, rows.n_features, rows.dtype) == (N, D, dtype)
    assert_close(rows.total_weight, batches.total_weight, "objective", dtype)
    assert rows.min_weight == batches.min_weight
    assert_close(rows.origin, batches.origin, "means", dtype)
    assert_close(rows.variances(), batches.variances(), "moments", dtype)


@pytest.mark.parametrize("far", [1e4, 1e6], ids=["far", "farther"])
def test_the_survey_of_rows_far_from_0_and_of_a_first_row_that_lies_off(far):
    """Sums of squares about 0, or about such a row, would be all that float32 holds."""
    x = (BLOBS.x + far).astype(np.float32)
    truth = x.astype(np.float64)
    for first in (0.0, 100.0 * far):
        rows = np.concatenate([np.full((1, D), first, np.float32), x])
        weights = np.concatenate([[0.0], np.ones(N)]).astype(np.float32)  # it does not count, and is sound
        found = admit_rows(KEY, in_blocks(rows, weights, (0, 1, 700, N + 1)), RowOptions(None, 64), Workload(K))
        np.testing.assert_allclose(found.origin, truth.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found.variances(), truth.var(axis=0), rtol=1e-3)


def test_rows_of_weight_0_may_be_anything_and_start_nothing():
    """NaN among them, and most rows of that kind: the fit is that of the others."""
    weights = (np.arange(N) % 5 == 0).astype(np.float64)
    x = np.where(weights[:, None] > 0.0, BLOBS.x, np.nan)
    more = {"n_restarts": 4, "tol": 1e-6, "dtype": np.float64}
    ours = jaxgmm.fit(KEY, in_blocks(x, weights), K, "diag", **more)
    assert int(ours.status) == Status.CONVERGED
    log_prob = np.asarray(ours.mixture.log_prob(x[::5]))
    assert_close(ours.objective, log_prob.mean(), "objective", np.float64)
    assert np.asarray(ours.effective_counts).sum() == pytest.approx(N // 5)


def test_rows_that_count_must_be_as_many_as_components():
    weights = (np.arange(N) < K - 1).astype(np.float64)
    with pytest.raises(ValueError, match=f"{K - 1} .*{K}|{K}.* {K - 1}"):
        jaxgmm.fit(KEY, in_blocks(BLOBS.x, weights), K)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sample_is_drawn_by_weight(weighted):
    """Of two kinds of rows, one of which has all but a tenth of the weight."""
    x = np.concatenate([np.zeros((60_000, 1)), np.ones((60_000, 1))])
    weights = np.repeat([0.1, 0.9], 60_000) if weighted else None
    rows = Streamed(KEY, Blocks.from_array(x, weights), 2)
    sample = np.concatenate([rows.sample.rows.body, rows.sample.rows.tail])
    assert len(sample) == 16384
    assert set(np.unique(sample)) == {0.0, 1.0}
    # Drawn without replacement, the heavy kind ends a little below its share: it runs out.
    expected = 0.88 if weighted else 0.5
    assert abs(sample.mean() - expected) < 0.02
    assert (rows.sample.row_weights() == 1.0).all()


def test_one_program_serves_all_numbers_of_rows(events, monkeypatch):
    """The first fit compiles, others of more blocks do not, where these are many; their samples are of one size."""
    monkeypatch.setattr(stream, "BLOCK", 2**16)
    more = {"init": SEEDS, "dtype": np.float32, "chunk_size": 512, **FIXED}
    jaxgmm.fit(KEY, Blocks.from_array(np.tile(BLOBS.x, (50, 1))), K, **more)
    events.clear()
    jaxgmm.fit(KEY, Blocks.from_array(np.tile(BLOBS.x, (63, 1))[:-1]), K, **more)
    assert "/jax/core/compile/backend_compile_duration" not in events


def test_rows_of_a_mapped_file_go_to_the_program_where_they_lie(tmp_path):
    """Neither the body nor the tail of a block is copied, and what the padding adds is less than a chunk a block."""
    np.save(tmp_path / "x.npy", np.ones((1000, 16), np.float32))
    layout = stream.fitted_to(stream.layout_for(16, 2, 64, np.dtype(np.float32))._replace(n_chunks=9), 1000)
    assert (layout.chunk_size, layout.n_chunks) == (64, 8)
    piece = next(Blocks.from_file(tmp_path / "x.npy").pieces(layout.size, layout.dtype))
    rows = layout.batch(piece).rows
    for part, first in ((rows.body, 0), (rows.tail, layout.size - 64)):
        assert part is not None
        assert part.unsafe_buffer_pointer() == piece.rows[first:].ctypes.data


@pytest.mark.parametrize("n_rows", [1, 63, 64, 65, 576, 577, 1000, 5000, 9216])
def test_few_blocks_are_as_full_as_can_be(n_rows):
    layout = stream.layout_for(16, 2, 64, np.dtype(np.float32))._replace(n_chunks=9)
    fitted = stream.fitted_to(layout, n_rows)
    n_blocks = -(-n_rows // fitted.size)
    assert n_blocks == -(-n_rows // layout.size)
    assert n_blocks * fitted.size - n_rows < n_blocks * fitted.chunk_size
    assert stream.fitted_to(layout, 16 * layout.size + 1) == layout


def test_streaming_by_hand_is_em_by_hand():
    """`admit_rows`, `init_lanes` and `step_lanes` are `em.init` and `em.step` with a lane in front."""
    settings = em.Settings(tol=0.0)
    with jax.enable_x64(True):
        rows = admit_rows(KEY, in_blocks(BLOBS.x, None), RowOptions(None, 64, np.float64), Workload(K))
        mixture = jaxgmm.Mixture.create(np.full(K, 1 / K), SEEDS, np.ones(K), "spherical", dtype=np.float64)
        states = lanes.init_lanes(jax.tree.map(lambda leaf: leaf[None], mixture), rows)
        state = em.init(mixture, BLOBS.x)
        for _ in range(3):
            states, state = lanes.step_lanes(states, rows, settings), em.step(state, BLOBS.x, settings)
        assert_close(states.objective[0], state.objective, "objective", np.float64)


class Changing:
    """Blocks that lose rows between passes."""

    def __init__(self):
        self.passes = 0

    def __call__(self):
        self.passes += 1
        return iter([BLOBS.x, BLOBS.x[: 10 if self.passes > 4 else 20]])


def with_entry(value, row):
    x = BLOBS.x.copy()
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "more", "message"),
    [
        (Blocks([BLOBS.x, with_entry(np.nan, 5)]), {}, r"x holds nan in row 2005, column 1, as float32"),
        (Blocks([with_entry(1e300, 7)]), {}, r"x holds inf in row 7, column 1, as float32"),
        (Blocks([(BLOBS.x, -np.ones(N))]), {}, r"weights must be finite and not negative, got -1\.0 in row 0"),
        (Blocks([(BLOBS.x, np.zeros(N))]), {}, "the weights of all rows are 0"),
        (Blocks([]), {}, "gave no rows"),
        (Blocks([BLOBS.x[:2]]), {}, "3|4"),
        (Blocks(Changing()), {}, "gave 2020 rows at first and 2010 in a later pass"),
        (Blocks([BLOBS.x]), {"escape": "split-merge"}, "needs the rows in memory"),
        (Blocks([BLOBS.x]), {"init": np.zeros(N, int)}, r"give means \(4, 3\) or a Mixture"),
        (
            Blocks([BLOBS.x[:, :2]]),
            {"init": jaxgmm.Mixture.create(*BLOBS.start)},
            "init is a mixture of 3 features, and the rows have 2",
        ),
    ],
)
def test_what_cannot_be_streamed_is_refused(x, more, message):
    with pytest.raises(ValueError, match=message):
        jaxgmm.fit(KEY, x, K, n_restarts=1, **more)


def test_folds_of_a_stream_are_refused():
    with pytest.raises(ValueError, match="n_folds needs the rows in memory"):
        jaxgmm.sweep(KEY, Blocks([BLOBS.x]), [1, 2], n_folds=3)


NEEDS_AN_ARRAY = {
    "many": lambda x, mixture: jaxgmm.fit_many(KEY, [x, x], 1),
    "em": lambda x, mixture: em.init(mixture, x),
    "batches": lambda x, mixture: Batches.of(x),
    "mixture": lambda x, mixture: mixture.log_prob(x),
}


@pytest.mark.parametrize("function", NEEDS_AN_ARRAY)
def test_other_functions_say_where_files_and_blocks_are_taken(function, tmp_path):
    mixture = jaxgmm.Mixture.create([1.0], [[0.0] * D], [1.0], "spherical")
    for x, what in ((Blocks([BLOBS.x]), "got Blocks"), (tmp_path / "x.npy", "got a path"), ("x.npy", "'x.npy'")):
        with pytest.raises(TypeError, match=f"must be an array of rows.*{what}.*read by jaxgmm.fit, sweep, bootstrap"):
            NEEDS_AN_ARRAY[function](x, mixture)

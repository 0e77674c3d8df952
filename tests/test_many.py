"""Many small problems at once: each comes out as it would alone, whatever else is in the call."""

from __future__ import annotations

import pickle
import signal

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Status
from jaxgmm._base import programs
from jaxgmm.search import pool, progress, result
from jaxgmm.search.many import buckets, outcome, slab
from jaxgmm.search.many import work as many
from tests import oracle
from tests.laws import KINDS, each_kind_in_a_dtype
from tests.test_compile_once import nothing_new
from tests.tolerances import assert_close, assert_same_mixture

K, D = 2, 2
LENGTHS = (40, 97, 25, 60)
KEY = jax.random.key(7)
EXACT = {"tol": 0.0, "max_steps": 6}
"""So many steps: where a run stops by its tol, the last digit may decide between two of them."""


def tables(dtype=np.float32, lengths=LENGTHS, seed=0):
    return [oracle.blobs(seed + i, n, D, K).x.astype(dtype) for i, n in enumerate(lengths)]


def assert_same_ends(actual, expected, dtype, note=""):
    """The ends of all runs of one problem. Which of two runs at one optimum wins, a last digit decides."""
    assert_close(actual.objective, expected.objective, "objective", dtype, note=note)
    assert_close(actual.restarts.objective, expected.restarts.objective, "objective", dtype, note=note)
    assert_close(actual.restarts.history, expected.restarts.history, "objective", dtype, note=note)
    np.testing.assert_array_equal(actual.restarts.status, expected.restarts.status)
    np.testing.assert_array_equal(actual.restarts.n_steps, expected.restarts.n_steps)
    assert int(np.sum(actual.spurious)) == int(np.sum(expected.spurious))


def assert_same(actual, expected, dtype, note=""):
    """Two results of one problem, of one run each."""
    assert_close(actual.objective, expected.objective, "objective", dtype, note=note)
    assert_close(actual.restarts.objective, expected.restarts.objective, "objective", dtype, note=note)
    assert_close(actual.history, expected.history, "objective", dtype, note=note)
    assert_same_mixture(actual.mixture, expected.mixture, dtype, note=note)
    assert (int(actual.status), int(actual.n_steps)) == (int(expected.status), int(expected.n_steps))
    np.testing.assert_array_equal(actual.spurious, expected.spurious)
    assert_close(actual.effective_counts, expected.effective_counts, "moments", dtype, factor=100.0, note=note)


@each_kind_in_a_dtype
def test_each_problem_comes_out_as_alone(family, dtype):
    """Problem b is `fit` with the key `fold_in(key, b)`: same starts, same steps."""
    xs = tables(dtype)
    found = jaxgmm.fit_many(KEY, xs, K, family, n_restarts=3, **EXACT)
    single = jaxgmm.fit_many(KEY, xs, K, family, **EXACT)
    assert found.mixture.means.shape == (len(xs), K, D)
    assert found.history.shape == (len(xs), 7)
    assert found.restarts.history.shape == (len(xs), 3, 7)
    assert found.objective.dtype == dtype
    for b, x in enumerate(xs):
        alone = jaxgmm.fit(jax.random.fold_in(KEY, b), x, K, family, n_restarts=3, **EXACT)
        assert_same_ends(found[b], alone, dtype, note=f"problem {b}")
        alone = jaxgmm.fit(jax.random.fold_in(KEY, b), x, K, family, n_restarts=1, **EXACT)
        assert_same(single[b], alone, dtype, note=f"problem {b}")


@pytest.mark.parametrize("init", ["k-means", "random_rows", "random_responsibilities"])
def test_all_seedings_draw_what_fit_draws(init, x64):
    xs = tables(np.float64)
    found = jaxgmm.fit_many(KEY, xs, K, init=init, **EXACT)
    for b, x in enumerate(xs):
        alone = jaxgmm.fit(jax.random.fold_in(KEY, b), x, K, init=init, n_restarts=1, **EXACT)
        assert_close(found[b].objective, alone.objective, "objective", np.float64)


def test_runs_end_where_those_of_fit_end(x64):
    """With a tol: each run makes its own number of steps, and past its end a history is NaN. With a ridge that keeps
    all well conditioned: where a component stands on three rows, a last digit of a sum is worth thousands of them."""
    xs = tables(np.float64, lengths=(30, 50, 70, 90, 110, 130))
    options = {"n_restarts": 4, "tol": 1e-5, "max_steps": 500, "ridge": 1e-2}
    found = jaxgmm.fit_many(KEY, xs, 3, **options)
    assert len(set(np.asarray(found.restarts.n_steps).ravel().tolist())) > 5
    for b, x in enumerate(xs):
        alone = jaxgmm.fit(jax.random.fold_in(KEY, b), x, 3, **options)
        assert_same_ends(found[b], alone, np.float64)
        assert np.isfinite(found.history[b]).sum() == int(found.n_steps[b]) + 1


def test_no_steps_and_one_component():
    for more in ({"max_steps": 0}, {"n_components": 1}):
        options = {"n_components": K, **EXACT} | more
        found = jaxgmm.fit_many(KEY, tables(), **options)
        for b, x in enumerate(tables()):
            alone = jaxgmm.fit(jax.random.fold_in(KEY, b), x, n_restarts=1, **options)
            assert_same(found[b], alone, np.float32)


def test_aitken_and_relative_ridge_are_those_of_fit(x64):
    xs = [x * [1.0, 100.0] for x in tables(np.float64)]
    options = {"stopping": "aitken", "tol": 1e-4, "relative_ridge": 0.05}
    found = jaxgmm.fit_many(KEY, xs, K, **options)
    for b, x in enumerate(xs):
        alone = jaxgmm.fit(jax.random.fold_in(KEY, b), x, K, n_restarts=1, **options)
        assert_close(found[b].objective, alone.objective, "objective", np.float64)


@pytest.mark.parametrize("family", KINDS)
def test_own_starts_stand_as_given(family, x64):
    """Means (B, K, D), and a stack of mixtures: as `fit` from each of them."""
    xs = tables(np.float64)
    means = np.stack([x[:K] for x in xs])
    from_means = jaxgmm.fit_many(KEY, xs, K, family, init=means, **EXACT)
    from_mixtures = jaxgmm.fit_many(KEY, xs, K, family, init=from_means.mixture, **EXACT)
    for b, x in enumerate(xs):
        assert_same(from_means[b], jaxgmm.fit(KEY, x, K, family, init=means[b], **EXACT), np.float64)
        start = from_means[b].mixture
        assert_same(from_mixtures[b], jaxgmm.fit(KEY, x, K, family, init=start, **EXACT), np.float64)


def test_ragged_padded_and_weighted_are_the_same(x64):
    """Rows of weight 0 are no rows, whatever they hold; a weight counts repeated rows."""
    dtype = np.float64
    xs = tables(dtype)
    ragged = jaxgmm.fit_many(KEY, xs, K, **EXACT)
    whole, weights = np.full((len(xs), 128, D), np.nan, dtype), np.zeros((len(xs), 128), dtype)
    for b, x in enumerate(xs):
        whole[b, : len(x)], weights[b, : len(x)] = x, 1.0
    padded = jaxgmm.fit_many(KEY, whole, K, sample_weight=weights, **EXACT)
    counts = [np.arange(len(x)) % 3 for x in xs]
    means = np.stack([x[:K] for x in xs])
    weighted = jaxgmm.fit_many(KEY, xs, K, init=means, sample_weight=[c.astype(dtype) for c in counts], **EXACT)
    repeated = jaxgmm.fit_many(
        KEY, [np.repeat(x, c, axis=0) for x, c in zip(xs, counts, strict=True)], K, init=means, **EXACT
    )
    for b in range(len(xs)):
        assert_same(padded[b], ragged[b], dtype)
        assert_same(weighted[b], repeated[b], dtype)


def test_order_and_company_do_not_matter():
    """The same starts in another order, among others, and in a larger bucket."""
    dtype = np.float32
    xs = tables(dtype)
    means = np.stack([x[:K] for x in xs])
    found = jaxgmm.fit_many(KEY, xs, K, init=means, **EXACT)
    back = jaxgmm.fit_many(KEY, xs[::-1], K, init=means[::-1], **EXACT)
    long = oracle.blobs(9, 300, D, K).x.astype(dtype)
    among = jaxgmm.fit_many(KEY, [long, *xs], K, init=np.concatenate([long[None, :K], means]), **EXACT)
    for b in range(len(xs)):
        assert_same(back[len(xs) - 1 - b], found[b], dtype)
        assert_same(among[b + 1], found[b], dtype)


def test_keys_belong_to_places(x64):
    """A problem's result depends on its place and its key, not on what lies in the other places."""
    xs = tables(np.float64)
    found = jaxgmm.fit_many(KEY, xs, K, **EXACT)
    other = jaxgmm.fit_many(KEY, [xs[3], xs[1]], K, **EXACT)
    assert_same(other[1], found[1], np.float64)


def test_a_problem_that_fails_harms_no_other(dtype):
    """Too few rows, no rows, rows that all weigh 0, one repeated row, a start that collapses: a status each."""
    good = tables(dtype)
    xs = [good[0], good[1][:1], np.zeros((0, D), dtype), good[1], good[2], np.ones((30, D), dtype), good[2]]
    weights = [np.ones(len(x), dtype) for x in xs]
    weights[4][:] = 0.0
    found = jaxgmm.fit_many(KEY, xs, K, sample_weight=weights, ridge=0.0, **EXACT)
    status = [Status(int(code)) for code in found.status]
    assert status[1] == status[2] == status[4] == Status.COLLAPSED
    assert status[5] in (Status.COLLAPSED, Status.NON_FINITE)
    for b in (1, 2, 4):
        assert np.isnan(found.objective[b])
        assert np.isnan(np.asarray(found.mixture.means[b])).all()
        assert np.asarray(found.restarts.objective[b]).tolist() == [-np.inf]
    for b in (0, 3, 6):
        alone = jaxgmm.fit(jax.random.fold_in(KEY, b), xs[b], K, n_restarts=1, ridge=0.0, **EXACT)
        assert_same(found[b], alone, dtype)
    assert repr(found).startswith("FitResult of 7 problems: 3 MAX_STEPS, 4 COLLAPSED")


@pytest.mark.parametrize("of_host", [True, False], ids=["by NumPy", "by a program"])
def test_spikes_are_found_and_lose(of_host, x64, rng, monkeypatch):
    """A repeated row stands on the ridge alone: told for each component, and another restart wins, as in `fit`."""
    monkeypatch.setattr(outcome, "ONE_BY_ONE_UP_TO", outcome.ONE_BY_ONE_UP_TO if of_host else 0)
    xs = [np.concatenate([rng.normal(size=(60, D)), np.full((6, D), 9.0 + b)]) for b in range(3)]
    found = jaxgmm.fit_many(KEY, xs, 3, n_restarts=4)
    assert np.asarray(found.spurious).any()
    assert "held up by the ridge alone" in repr(found)
    for b, x in enumerate(xs):
        alone = jaxgmm.fit(jax.random.fold_in(KEY, b), x, 3, n_restarts=4)
        assert_same_ends(found[b], alone, np.float64)


def test_the_winner_is_that_of_runs(rng):
    """By one rule, over random ends."""
    n_problems, n_runs = 200, 5
    objective = rng.choice([-1.0, -2.0, -3.0, np.nan, np.inf], (n_problems, n_runs))
    status = rng.choice(np.arange(1, 6), (n_problems, n_runs))
    stands = rng.random((n_problems, n_runs, K)) < 0.3
    competing, winner = outcome.winners(objective, status, stands)
    for b in range(n_problems):
        told = progress.Snapshot(objective[b], status[b], status[b])
        expected, best = result._winner(told, stands[b], np)
        np.testing.assert_array_equal(competing[b], expected)
        assert winner[b] == best


def test_slabs_and_buckets_make_no_difference(x64, monkeypatch):
    """Slabs of two lanes, restarts that fill several of them, buckets that are not joined."""
    xs = tables(np.float64, lengths=(20, 33, 97, 20, 60))
    found = jaxgmm.fit_many(KEY, xs, K, n_restarts=5, **EXACT)
    monkeypatch.setattr(many, "SIDE_BY_SIDE", 1)
    monkeypatch.setattr(many, "STACKS", 2)
    monkeypatch.setattr(buckets, "WORTH_A_PROGRAM", 0)
    assert [room for room, _ in buckets.buckets(np.array([len(x) for x in xs]), 1.0)] == [112, 64, 32]
    cut = jaxgmm.fit_many(KEY, xs, K, n_restarts=5, **EXACT)
    for b in range(len(xs)):
        assert_same_ends(cut[b], found[b], np.float64)


def test_long_problems_are_cut_into_chunks(x64, monkeypatch):
    xs = tables(np.float64, lengths=(1000, 900))
    found = jaxgmm.fit_many(KEY, xs, K, **EXACT)
    monkeypatch.setattr(slab, "IN_ONE_CHUNK", 512)
    for program in (slab.begin_slab, slab.run_slab):  # what was compiled for whole ones has the same shapes
        monkeypatch.setattr(many, program.function.__name__, programs.program(program.function, static=program.static))
    cut = jaxgmm.fit_many(KEY, xs, K, **EXACT)
    for b in range(len(xs)):
        assert_same(cut[b], found[b], np.float64)


@pytest.mark.parametrize("n_rows", [1, 16, 17, 31, 64, 65, 300, 2000, 8192, 10_000])
def test_rooms_are_a_quarter_too_large_at_most(n_rows):
    [(room, members)] = buckets.buckets(np.array([n_rows]), 1.0)
    assert members.tolist() == [0]
    assert n_rows <= room < max(n_rows + 16, 1.25 * n_rows)


def test_a_second_call_compiles_nothing(events):
    """Other data, other keys, other numbers, another B, another R, and another N of the bucket."""
    keys = [jax.random.key(seed) for seed in (0, 1)]
    jaxgmm.fit_many(keys[0], tables(), K, n_restarts=2)
    assert events.count("/jax/core/compile/backend_compile_duration") <= 4
    for xs, more in (
        (tables(seed=5), {}),
        (tables(lengths=(97, 90, 50, 12, 30, 31), seed=9), {"tol": 1e-5, "ridge": 1e-3}),
        (tables(lengths=(110,)), {"n_restarts": 7, "sample_weight": [np.full(110, 2.0)]}),
        (np.stack(tables(lengths=(100,) * 9)), {"max_steps": 130, "relative_ridge": 0.1}),
    ):
        with nothing_new(events):
            jaxgmm.fit_many(keys[1], xs, K, **{"n_restarts": 2} | more)


def test_float64_with_the_switch_off():
    """By `dtype`, or as the dtype of a JAX array; NumPy's float64 is computed as JAX would."""
    xs = tables(np.float64)
    with jax.enable_x64(True):
        expected = jaxgmm.fit_many(KEY, xs, K, **EXACT)
        wide = [jax.numpy.asarray(x) for x in xs]
    for given, more in ((xs, {"dtype": np.float64}), (wide, {})):
        found = jaxgmm.fit_many(KEY, given, K, **EXACT, **more)
        assert found.objective.dtype == found.mixture.means.dtype == np.float64
        one = found[0].mixture
        assert {a.dtype for a in (one.weights, one.covariances, one.mean(), one.covariance())} == {np.dtype(np.float64)}
        for b in range(len(xs)):
            assert_same(found[b], expected[b], np.float64)
    assert jaxgmm.fit_many(KEY, xs, K, **EXACT).objective.dtype == np.float32


def test_results_are_taken_apart_and_pickled():
    found = jaxgmm.fit_many(KEY, tables(), K, n_restarts=2, **EXACT)
    again = pickle.loads(pickle.dumps(found))
    assert repr(again) == repr(found)
    jax.tree.map(np.testing.assert_array_equal, again, found)
    assert repr(found[1]).startswith("FitResult: MAX_STEPS after 6 steps")
    few = found[[0, 2]]
    assert few.objective.shape == (2,)
    assert repr(few[1]) == repr(found[2])
    assert [repr(one) for one in found] == [repr(found[b]) for b in range(len(LENGTHS))]
    with pytest.raises(TypeError, match="the result of one problem"):
        found[0][0]
    assert found[0].mixture.log_prob(tables()[0]).shape == (LENGTHS[0],)


def test_progress_is_told_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(many, "STACKS", 2)
    monkeypatch.setattr(many, "SIDE_BY_SIDE", 1)
    told = []
    watched = jaxgmm.fit_many(KEY, tables(), K, progress=lambda *now: told.append(now), **EXACT)
    assert told == [(0, 4), (2, 4), (4, 4)]
    jax.tree.map(np.testing.assert_array_equal, watched, jaxgmm.fit_many(KEY, tables(), K, **EXACT))
    with pytest.raises(TypeError, match="progress must be True for a bar"):
        jaxgmm.fit_many(KEY, tables(), K, progress="bar")


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_interrupt_gives_back_what_is_done(n_threads, monkeypatch):
    monkeypatch.setattr(many, "STACKS", 2)
    monkeypatch.setattr(many, "SIDE_BY_SIDE", 1)
    monkeypatch.setattr(pool, "n_cores", lambda: n_threads)
    monkeypatch.setattr(many, "WORTH_A_THREAD", 1)
    whole = jaxgmm.fit_many(KEY, tables(lengths=(40,) * 20), K, **EXACT)

    def interrupt(n_done, n_problems):
        if n_done:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted: of 20 problems"):
        found = jaxgmm.fit_many(KEY, tables(lengths=(40,) * 20), K, progress=interrupt, **EXACT)
    is_done = np.asarray(found.status) != Status.RUNNING
    assert 2 <= is_done.sum() < 20
    assert np.isnan(np.asarray(found.objective)[~is_done]).all()
    assert np.isnan(np.asarray(found.mixture.means)[~is_done]).all()
    np.testing.assert_array_equal(np.asarray(found.objective)[is_done], np.asarray(whole.objective)[is_done])
    assert "RUNNING" in repr(found)


def test_an_interrupt_within_a_slab_is_heeded_after_a_burst(monkeypatch):
    """In bursts the bits are those of one go, and what was done before the interrupt comes back."""
    monkeypatch.setattr(many, "STACKS", 2)
    monkeypatch.setattr(many, "SIDE_BY_SIDE", 1)
    monkeypatch.setattr(pool, "n_cores", lambda: 1)
    whole = jaxgmm.fit_many(KEY, tables(), K, **EXACT)
    monkeypatch.setattr(many, "BURST", 1e-9)
    monkeypatch.setattr(many, "steps_of_a_burst", lambda *_: 1)
    jax.tree.map(np.testing.assert_array_equal, jaxgmm.fit_many(KEY, tables(), K, **EXACT), whole)
    run, made = slab.run_slab.compiled, []

    def counted(*args, **kwargs):
        made.append(args)
        if len(made) > 1 and int(made[-2][3]) > int(made[-1][3]) + 1:  # another slab has begun
            signal.raise_signal(signal.SIGINT)
        return run(*args, **kwargs)

    monkeypatch.setattr(slab.run_slab, "compiled", counted)
    with pytest.warns(UserWarning, match="interrupted: of 4 problems 2 are done"):
        found = jaxgmm.fit_many(KEY, tables(), K, **EXACT)
    is_done = np.asarray(found.status) != Status.RUNNING
    np.testing.assert_array_equal(np.asarray(found.objective)[is_done], np.asarray(whole.objective)[is_done])


def test_an_interrupt_before_anything_is_done_is_one(monkeypatch):
    def interrupt(*now):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxgmm.fit_many(KEY, tables(), K, progress=interrupt)


X = tables()
BAD_ROW = [X[0], np.where(np.arange(97)[:, None] == [5, 6], np.nan, X[1])]
LARGE = [X[0].astype(np.float64), np.where(np.arange(97)[:, None] == [5, -1], 1e39, X[1].astype(np.float64))]


@pytest.mark.parametrize(
    ("xs", "more", "words"),
    [
        (X[0], {}, r"got an array of shape \(40, 2\)"),
        ([], {}, "xs is empty"),
        ([X[0], X[1][:, :1]], {}, r"xs\[1\] has 1 features, and xs\[0\] has 2"),
        ([X[0], X[1][0]], {}, r"xs\[1\] must be a matrix \(N, D\)"),
        (BAD_ROW, {}, "NaN: problem 1, row 5, column 0 is nan"),
        ([X[0], np.where(np.isnan(BAD_ROW[1]), -np.inf, X[1])], {}, "infinity: problem 1, row 5, column 0 is -inf"),
        (LARGE, {}, "xs contains 1e\\+39 in problem 1, row 5, column 0, which is too large for float32"),
        (X, {"sample_weight": [np.ones(40)]}, "sample_weight is of 1 problems, and xs of 4"),
        (X, {"sample_weight": [np.ones(n) for n in (40, 97, 60, 60)]}, r"sample_weight\[2\] must have shape \(25,\)"),
        (X[:2], {"sample_weight": [np.ones(40), np.arange(97.0) - 1]}, "problem 1, row 0 has weight -1.0"),
        (X, {"init": "kmeans"}, "Unknown init 'kmeans'"),
        (X, {"init": np.zeros((4, 3, 2))}, r"means of shape \(4, 2, 2\)"),
        (X, {"init": np.full((4, 2, 2), np.nan)}, "init holds nan in problem 0, component 0"),
        (X, {"ridge": [1.0, 2.0, 3.0]}, "ridge must be a number, or one for each of 2 features"),
        (X, {"n_components": 0}, "n_components must be at least 1"),
        (X, {"family": "round"}, "Unknown covariance family 'round'"),
    ],
)
def test_what_cannot_be_used_is_named(xs, more, words):
    with pytest.raises(ValueError, match=words):
        jaxgmm.fit_many(KEY, xs, **{"n_components": K} | more)


def test_a_dict_of_tables_says_how_to_give_them():
    with pytest.raises(TypeError, match=r"got a dict\. Give list\(xs\.values\(\)\)"):
        jaxgmm.fit_many(KEY, dict(enumerate(X)), K)


def test_mixtures_of_another_family_are_refused():
    mixture = jaxgmm.fit_many(KEY, X, K, "diag", **EXACT).mixture
    with pytest.raises(ValueError, match="of family 'diag'"):
        jaxgmm.fit_many(KEY, X, K, "full", init=mixture)


def test_inside_a_transformation_it_says_so():
    with pytest.raises(TypeError, match="fit_many must look at how the runs stand"):
        jax.jit(lambda x: jaxgmm.fit_many(KEY, x, K).objective)(np.stack([X[0], X[0]]))


@pytest.mark.parametrize("kind", ["jax", "lists", "objects"])
def test_other_containers(kind):
    """JAX arrays, nested lists, and an array of objects."""
    expected = jaxgmm.fit_many(KEY, X, K, **EXACT)
    objects = np.empty(len(X), object)
    objects[:] = X
    xs = {"jax": [jax.numpy.asarray(x) for x in X], "lists": [x.tolist() for x in X], "objects": objects}[kind]
    found = jaxgmm.fit_many(KEY, xs, K, **EXACT)
    np.testing.assert_array_equal(found.objective, expected.objective)


def test_other_generators():
    """Keys of another kind, and the old pairs of numbers."""
    for key in (jax.random.key(3, impl="rbg"), jax.random.PRNGKey(3)):
        found = jaxgmm.fit_many(key, X, K, **EXACT)
        alone = jaxgmm.fit(jax.random.fold_in(key, 1), X[1], K, n_restarts=1, **EXACT)
        assert_close(found[1].objective, alone.objective, "objective", np.float32)

"""EM over a stream: it settles where EM over all rows does, and follows what changes."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, em, online
from tests import oracle
from tests.laws import KINDS, each_kind_in_a_dtype
from tests.tolerances import assert_close, assert_same_mixture

N, D, K = 20_000, 2, 3
BLOBS = oracle.blobs(seed=8, n_rows=N, n_features=D, n_components=K, distance=6.0)
BATCH = 500


IN_HALVES = Batches.of(BLOBS.x[:BATCH], chunk_size=BATCH // 2, dtype=np.float64)


def start(family, dtype):
    """Two steps of EM over the first rows, from means that are half a unit off those of the clusters."""
    means = np.stack([BLOBS.x[BLOBS.labels == k].mean(axis=0) for k in range(K)])
    more = {"init": means + 0.5, "max_steps": 2, "dtype": dtype}
    return jaxgmm.fit(jax.random.key(0), BLOBS.x[:BATCH], K, family, **more).mixture


def streamed(state, x, **more):
    for first in range(0, len(x), BATCH):
        state = online.update(state, x[first : first + BATCH], **more)
    return state


@pytest.mark.parametrize("family", ["full", "VEI"])
def test_a_stationary_stream_ends_where_em_over_all_rows_does(family):
    """Within what the noise of the last batches leaves: the optimum's own is about p / 2N nats, some 1e-3 here."""
    x = np.random.default_rng(0).permutation(BLOBS.x)
    whole = jaxgmm.fit(jax.random.key(0), x, K, family, init=start(family, np.float64), tol=1e-9, dtype=np.float64)
    state = online.init(start(family, np.float64))
    for _ in range(3):
        state = streamed(state, x)
    reached = float(np.mean(np.asarray(state.mixture.log_prob(x))))
    assert 0.0 <= float(whole.objective) - reached < 1e-3
    assert int(state.n_batches) == 3 * N // BATCH


@each_kind_in_a_dtype
def test_with_a_share_of_1_over_t_the_first_pass_is_an_average(family, dtype):
    """Two halves of a batch under one mixture, by decay 1, are the batch: the moments are averages of the batches'."""
    mixture = start(family, dtype)
    x = BLOBS.x[:BATCH].astype(dtype)
    state = online.init(mixture, weight=1e-13)
    once = online.update(state, x, decay=1.0)
    step = jaxgmm.fit(jax.random.key(0), x, K, family, init=mixture, max_steps=1, dtype=dtype)  # by `start`'s programs
    assert_same_mixture(once.mixture, step.mixture, dtype)  # the start counts for nothing
    assert_close(once.objective, step.history[0], "objective", dtype)


def test_forgetting_follows_what_moves():
    """All clusters drift by ten, a quarter of a unit a batch: a memory of five batches is a little over one behind."""
    order = np.random.default_rng(1).permutation(N)
    x = BLOBS.x[order] + 10.0 * np.linspace(0.0, 1.0, N)[:, None]
    begun = online.init(start("full", np.float64))
    near, far = streamed(begun, x, forgetting=0.2), streamed(begun, x, decay=1.0)
    centre = BLOBS.x.mean(axis=0) + 10.0
    lag, behind = (np.abs(np.asarray(state.mixture.mean()) - centre).max() for state in (near, far))
    assert lag < 2.0 < 4.0 < behind
    assert float(far.objective) < float(near.objective)


def test_a_row_of_weight_2_is_two_rows(dtype):
    state = online.init(start("diag", dtype))
    weights = np.arange(BATCH) % 3
    x = BLOBS.x[:BATCH].astype(dtype)
    weighted = online.update(state, x, weights)
    repeated = online.update(state, np.repeat(x, weights, axis=0))
    assert_same_mixture(weighted.mixture, repeated.mixture, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_row_of_weight_0_is_none_whatever_it_holds(dtype, value):
    state = online.init(start("diag", dtype))
    weights = (np.arange(BATCH) % 3 > 0).astype(float)
    kept = online.update(state, np.where(weights[:, None] > 0.0, BLOBS.x[:BATCH], value), weights)
    without = online.update(state, BLOBS.x[:BATCH][weights > 0.0])
    assert_same_mixture(kept.mixture, without.mixture, dtype)
    assert_close(kept.objective, without.objective, "objective", dtype)


def test_batches_of_all_sizes_share_a_program(events):
    """Weighted or not, of either kind of array; large ones share one with those up to the same power of two."""
    state = online.update(online.init(start("full", np.float32)), BLOBS.x[:BATCH])
    large = online.update(state, np.tile(BLOBS.x, (4, 1)))
    events.clear()
    for n_rows in (1, 7, BATCH, BATCH + 13, 8192):
        x = BLOBS.x[:n_rows]
        state = online.update(state, x, forgetting=n_rows / N)
        state = online.update(state, x, np.ones(n_rows))
    assert int(state.n_batches) == 11
    large = online.update(large, np.tile(BLOBS.x, (4, 1))[:70_001], np.ones(70_001))
    assert int(large.n_batches) == 3
    assert "/jax/core/compile/backend_compile_duration" not in events


def test_a_batch_of_many_chunks_has_the_moments_of_all_its_rows():
    """Past the rows of a small table, in room for more; weighted, and against one E-step over the same rows."""
    x = np.tile(BLOBS.x, (4, 1))[:-1]
    mixture = start("full", np.float32)
    weights = np.random.default_rng(5).uniform(0.5, 2.0, len(x))
    for weight in (None, weights):
        state = online.update(online.init(mixture), x, weight)
        whole = em.init(mixture, Batches.of(x, weight, dtype=np.float32))
        assert_close(state.objective, whole.objective, "objective", np.float32)
    assert int(jax.jit(online.update)(online.init(mixture), x[:BATCH].astype(np.float32)).n_batches) == 1


def test_a_component_without_rows_keeps_its_mean():
    mixture = Mixture.create([0.5, 0.5], [[0.0, 0.0], [1e3, 1e3]], [1.0, 1.0], "spherical")
    rows = np.random.default_rng(0).normal(size=(100, 2))
    state = online.update(online.init(mixture), rows)
    np.testing.assert_array_equal(state.mixture.means[1], mixture.means[1])
    assert 0.0 < float(state.mixture.weights[1]) < 0.5
    assert np.isfinite(np.asarray(state.mixture.covariances)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_state_comes_back_from_a_pickle_as_it_was(dtype):
    """And goes on to the same bits, in float64 while JAX's own switch is off, too."""
    state = online.update(online.init(start("tied", dtype)), BLOBS.x[:BATCH])
    back = pickle.loads(pickle.dumps(state))
    assert back.mixture.means.dtype == back.moments.first.dtype == dtype
    assert type(back) is online.State
    more = BLOBS.x[BATCH : 2 * BATCH]
    for one, other in zip(*map(jax.tree.leaves, (online.update(state, more), online.update(back, more))), strict=True):
        assert np.array_equal(one, other)


POISON = {
    "squares that are not finite": lambda x: np.full_like(x, 1e30),
    "one row far off": lambda x: np.concatenate([x[:-1], np.full((1, D), 1e7)]),
    "a single row": lambda x: np.full((1, D), 1e5),
    "all rows off": lambda x: x + 1e6,
    "off in one feature": lambda x: x + np.array([0.0, 1e6]),
    "all rows alike": lambda x: np.full_like(x, 1e4),
}


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("kind", POISON)
def test_a_batch_that_would_poison_the_state_leaves_it_as_it_was(kind, family, dtype):
    """Or is taken, where the mixture that comes out is sound: never anything else, and the stream goes on after it."""
    x = POISON[kind](BLOBS.x[:BATCH]).astype(dtype)
    state = online.update(online.init(start(family, dtype)), BLOBS.x[:BATCH])
    after = online.update(state, x, ridge=0.0)
    if int(after.n_batches) == int(state.n_batches):
        assert np.isnan(after.objective)
        for one, other in zip(jax.tree.leaves(state[:-1]), jax.tree.leaves(after[:-1]), strict=True):
            assert np.array_equal(one, other)
    else:
        assert kind != "squares that are not finite" or dtype == np.float64
    covariances = np.asarray(after.mixture.covariances, np.float64)
    assert np.linalg.eigvalsh(covariances).min() > 0.0
    again = online.update(after, BLOBS.x[BATCH : 2 * BATCH])
    assert np.isfinite(again.objective)
    assert int(again.n_batches) == int(after.n_batches) + 1


def test_one_far_row_in_float32_changes_nothing_in_the_estimator_either():
    """It says so, and what was fitted remains; in float64 at 1e9, which 16 digits do not hold either."""
    for dtype, far in ((np.float32, 1e5), (np.float64, 1e9)):
        x = BLOBS.x[:BATCH].astype(dtype)
        ours = jaxgmm.GaussianMixture(K, random_state=0).partial_fit(x)
        before = {name: np.array(getattr(ours, name)) for name in ("means_", "covariances_", "weights_")}
        batch = x.copy()
        batch[7] = far
        with pytest.warns(RuntimeWarning, match="500 rows changed nothing"):
            ours.partial_fit(batch)
        for name, value in before.items():
            assert np.array_equal(getattr(ours, name), value)
        assert np.isfinite(ours.partial_fit(x).score(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: online.init("mixture"), TypeError, "Expected a jaxgmm.Mixture, got str"),
        (lambda s: online.init(s.mixture, weight=0), ValueError, "weight must be positive"),
        (lambda s: online.update(s, np.zeros((3, D + 1))), ValueError, r"has 2 features: .* got \(3, 3\)"),
        (lambda s: online.update(s, np.full((3, D), 1e300)), ValueError, "infinity"),
        (lambda s: online.update(s, np.zeros((3, D)), ridge=-1.0), ValueError, "ridge must be finite and not negative"),
        (lambda s: online.update(s, np.zeros((3, D)), ridge=np.ones(3)), ValueError, "ridge"),
        (lambda s: online.update(s, IN_HALVES), TypeError, "The rows are float64 and the mixture is float32"),
        (lambda s: online.update(s, IN_HALVES, np.ones(BATCH)), ValueError, "Batches carry their own weights"),
        (lambda s: online.update(s, np.full((3, D), np.nan)), ValueError, "NaN"),
        (lambda s: online.update(s, np.zeros((3, D)), decay=0.5), ValueError, "more than 0.5 and at most 1"),
        (lambda s: online.update(s, np.zeros((3, D)), forgetting=1.0), ValueError, "less than 1"),
    ],
)
def test_nonsense_is_refused(call, error, message):
    state = online.init(Mixture.create([1.0], [[0.0] * D], [1.0], "spherical"))
    with pytest.raises(error, match=message):
        call(state)
    assert jnp.isnan(state.objective)

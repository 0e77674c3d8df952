"""Where fits start: every seeding is repeatable, heeds weights and is good; what the user gives stands as given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Mixture
from jaxgmm.families import SHELF
from jaxgmm.rows.survey import SAMPLE
from jaxgmm.search.seeding import SEEDINGS, host
from jaxgmm.search.seeding.random import DRAWS_OF_ROWS
from jaxgmm.search.seeding.sample import BLOCK, Columns, draw, rows_for_seeding, squared_distances, sums_by_label
from tests import oracle
from tests.laws import ITERATIVE, every_family, every_kind
from tests.tolerances import assert_close, assert_same_mixture, assert_same_parameters

N, D, K = 300, 3, 4
BLOBS = oracle.blobs(seed=21, n_rows=N, n_features=D, n_components=K, distance=6.0)

every_seeding = pytest.mark.parametrize("seeding", SEEDINGS)

PAIRS = list(zip(SEEDINGS, list(SHELF.values())[: len(SEEDINGS)], strict=True))

CHOSEN_ROWS = ("k-means++", "random_rows")
"""Seedings whose seeds are rows of the data."""


@jax.jit
def pooled(key, batches):
    return rows_for_seeding(key, batches, K)


def seed(seeding, key, batches, n_components=K):
    """Seeds (K, D) in the data's own place."""
    seeds = PROGRAMS[seeding](key, pooled(key, batches), n_components, n_components)
    return np.asarray(seeds, np.float64) + np.asarray(batches.origin, np.float64)


PROGRAMS = {name: jax.jit(of, static_argnums=(2, 3)) for name, of in SEEDINGS.items()}


def is_row(seeds, x):
    """For each seed, the row it is; −1 where it is none (to the rounding of the origin)."""
    distance = np.abs(seeds[:, None] - x[None]).max(axis=2)
    return np.where(distance.min(axis=1) < 1e-4, distance.argmin(axis=1), -1)


@pytest.mark.parametrize(
    ("n_rows", "n_points"),
    [
        pytest.param(100, 3, id="all at once"),
        pytest.param(500, 20, id="set by set"),
        pytest.param(3000, 10, id="point by point"),
        pytest.param(1000, 17, id="point by point, of few rows"),
    ],
)
def test_the_nearest_points_do_not_depend_on_how_many_are_compared_at_a_time(n_rows, n_points, dtype):
    """On the host; of two points that are as near, the first."""
    rng = np.random.default_rng(0)
    x, points = rng.normal(size=(D, n_rows)).astype(dtype), rng.normal(size=(4, n_points, D)).astype(dtype)
    points[:, 2] = points[:, 1]
    labels, distances = host.nearest(x, points)
    expected = np.square(x.T[None, :, None] - points[:, None]).sum(axis=-1, dtype=dtype)  # (4, rows, points)
    assert_close(distances, expected.min(axis=2), "means", dtype)
    chosen = np.take_along_axis(expected, labels[..., None], axis=2)[..., 0]
    assert_close(chosen, expected.min(axis=2), "means", dtype)
    assert 1 in labels
    assert 2 not in labels


@every_seeding
def test_seeds_are_repeatable(seeding, dtype):
    """The same key gives the same bits, another key others (k-means may end where it did); finite, dtype kept."""
    batches = Batches.of(BLOBS.x.astype(dtype))
    seeds = [seed(seeding, jax.random.key(i), batches) for i in (0, 0, 1)]
    assert seeds[0].shape == (K, D)
    assert np.array_equal(seeds[0], seeds[1])
    assert seeding == "k-means" or not np.array_equal(seeds[0], seeds[2])
    assert np.all(np.isfinite(seeds[0]))
    assert PROGRAMS[seeding](jax.random.key(0), pooled(jax.random.key(0), batches), K, K).dtype == dtype


@every_seeding
def test_seeds_do_not_depend_on_those_that_are_not_meant(seeding):
    """One program for many K: the first seeds of more are the seeds of fewer. (Sums may differ in their last digit.)"""
    batches = Batches.of(BLOBS.x)
    rows = pooled(jax.random.key(3), batches)
    padded = jax.jit(SEEDINGS[seeding], static_argnums=2)
    for count in (1, 2, K):
        alone = PROGRAMS[seeding](jax.random.key(count), rows, count, count)
        assert_close(padded(jax.random.key(count), rows, 9, count)[:count], alone, "means", np.float32)


@every_seeding
def test_rows_of_weight_0_are_never_chosen(seeding):
    """Nor do they pull: far-off rows of weight 0 leave every seed among the others. No row is chosen twice."""
    x = np.concatenate([BLOBS.x, BLOBS.x + 1e3]).astype(np.float32)
    weights = np.repeat([1.0, 0.0], N)
    batches = Batches.of(x, weights)
    for i in range(20):
        seeds = seed(seeding, jax.random.key(i), batches)
        assert np.abs(seeds).max() < 200.0
        if seeding in CHOSEN_ROWS:
            rows = is_row(seeds, x)
            assert np.all(rows >= 0)
            assert np.all(weights[rows] > 0)
            assert len(set(rows)) == K


def test_heavier_rows_are_chosen_more_often():
    """random_rows draws in proportion to the weights: ten heavy rows of weight 30 get about half of the seeds."""
    weights = np.where(np.arange(N) < 10, 29.0, 1.0)
    batches = Batches.of(BLOBS.x.astype(np.float32), weights)
    chosen = [is_row(seed("random_rows", jax.random.key(i), batches, 1), BLOBS.x)[0] for i in range(200)]
    assert abs(np.mean(np.array(chosen) < 10) - 0.5) < 0.15  # four standard errors


@pytest.mark.parametrize("data_set", ["blobs", "faithful", "iris"])
def test_k_means_is_as_good_as_scikit_learn_s(data_set):
    """The inertia over ten keys: in the mean no worse than KMeans(n_init=1), and in the best, by more than 3 %."""
    cluster = pytest.importorskip("sklearn.cluster")
    x = (BLOBS.x if data_set == "blobs" else oracle.table(data_set)).astype(np.float32)
    batches = Batches.of(x)
    ours = [
        float(np.sum(np.min(squared_distances(jnp.asarray(x.T), jnp.asarray(seeds, jnp.float32)), axis=0)))
        for seeds in (seed("k-means", jax.random.key(i), batches) for i in range(10))
    ]
    theirs = [cluster.KMeans(K, n_init=1, random_state=i).fit(x).inertia_ for i in range(10)]
    assert np.mean(ours) <= 1.03 * np.mean(theirs)
    assert np.min(ours) <= 1.03 * np.min(theirs)


@every_seeding
def test_a_large_table_is_sampled(seeding):
    """Beyond the sample's size seeds come from a part of the rows, from every region of them."""
    x = np.repeat(np.arange(10_000), 2)[:, None].astype(np.float32) * [1.0, 0.0] + [0.0, 5.0]
    batches = Batches.of(x.astype(np.float32))
    rows = pooled(jax.random.key(0), batches)
    assert len(rows.weights) < len(x)
    drawn = np.sort(np.asarray(rows.x[0] + batches.origin[0]))
    assert np.max(np.diff(drawn)) < 20  # no stretch is left out
    assert np.all(np.isfinite(seed(seeding, jax.random.key(0), batches)))


@pytest.mark.parametrize(("seeding", "family"), PAIRS, ids=[*SEEDINGS])
def test_fit_is_repeatable_and_sound(family, seeding):
    """The same key gives the same bits, and all restarts start finite."""
    x = BLOBS.x.astype(np.float32)
    results = [jaxgmm.fit(jax.random.key(3), x, K, family, init=seeding, n_restarts=2, max_steps=5) for _ in range(2)]
    for first, second in zip(*map(jax.tree.leaves, results), strict=True):
        assert np.array_equal(first, second, equal_nan=True)
    assert np.all(np.isfinite(np.asarray(results[0].restarts.history)[:, 0]))


@pytest.fixture(scope="module")
def four_tables():
    """Four tables of 2000 × 4 with eight clusters, and what scikit-learn's k-means start comes to on each."""
    mixture = pytest.importorskip("sklearn.mixture")
    tables = []
    for i in range(4):
        x = oracle.blobs(seed=100 + i, n_rows=2000, n_features=4, n_components=8, distance=4.0).x.astype(np.float32)
        theirs = mixture.GaussianMixture(8, covariance_type="tied", tol=1e-6, max_iter=1000, random_state=i)
        tables.append((x, theirs.fit(x.astype(np.float64)).score(x.astype(np.float64))))
    return tables


@every_seeding
def test_tied_does_not_collapse_onto_the_saddle(seeding, four_tables):
    """Every start reaches scikit-learn's log-likelihood from k-means, or better, on each of four tables.

    With one-hot rows as responsibilities a tied covariance starts as wide as the data, and EM stays where all
    components are equal.
    """
    n_restarts = 8 if seeding.startswith("k-means") else 32
    for i, (x, theirs) in enumerate(four_tables):
        result = jaxgmm.fit(
            jax.random.key(i), x, 8, "tied", init=seeding, n_restarts=n_restarts, tol=1e-6, max_steps=1000
        )
        assert_close(min(float(result.objective), theirs), theirs, "settled", np.float32, note=f"table {i}")


@every_kind
def test_given_means_stand_as_given(family, dtype):
    """At max_steps=0; weights and covariances are those of the rows nearest to each."""
    means = BLOBS.start.means.astype(dtype)
    x = BLOBS.x.astype(dtype)
    result = jaxgmm.fit(jax.random.key(0), x, K, family, init=means, max_steps=0)
    assert np.array_equal(np.asarray(result.mixture.means), means)
    nearest = np.argmin(np.sum((x[:, None].astype(float) - means[None]) ** 2, axis=2), axis=1)
    assert_close(result.mixture.weights, np.bincount(nearest, minlength=K) / N, "weights", dtype)
    assert int(result.status) == jaxgmm.Status.MAX_STEPS


@every_family
def test_labels_and_responsibilities_give_the_m_step(family, dtype):
    """max_steps=0 returns the mixture of one M-step, which is not counted; one-hot responsibilities are labels."""
    x = BLOBS.x.astype(dtype)
    hot = np.eye(K)[BLOBS.labels]
    soft = 0.8 * hot + 0.2 / K
    options = {"max_steps": 0, "ridge": 0.0}
    for init, shares in ((BLOBS.labels, hot), (hot, hot), (soft, soft)):
        result = jaxgmm.fit(jax.random.key(0), x, K, family, init=init, **options)
        mass = shares.sum(axis=0)
        means = shares.T @ x.astype(np.float64) / mass[:, None]
        scatter = oracle.scatters(x.astype(np.float64), shares, means)
        expected = oracle.Parameters(mass / N, means, oracle.estimate(family.name, scatter, mass))
        got = (result.mixture.weights, result.mixture.means, result.mixture.covariances)
        inner = "inner_iteration" if family.name in ITERATIVE else None
        assert_same_parameters(got, expected, dtype, inner)
        objective = oracle.log_likelihood(x.astype(np.float64), expected)
        assert_close(result.objective, objective, "objective", dtype, factor=1e3 if inner else 1.0)
        assert int(result.n_steps) == 0
        assert len(result.history) == 1


def test_a_mixture_of_one_s_own_is_the_start(dtype):
    """max_steps=0 gives it back; n_restarts does not matter, one run is made."""
    mixture = Mixture.create(*BLOBS.start, dtype=dtype)
    result = jaxgmm.fit(jax.random.key(0), BLOBS.x.astype(dtype), K, init=mixture, max_steps=0, n_restarts=7)
    assert_same_mixture(result.mixture, mixture, dtype)
    assert len(result.restarts.objective) == 1
    with pytest.raises(ValueError, match="family"):
        jaxgmm.fit(jax.random.key(0), BLOBS.x.astype(dtype), K, "diag", init=mixture)


def crowded() -> np.ndarray:
    """A heavy clump with a few rows far from it, most of which lie behind another as seen from their mean."""
    rng = np.random.default_rng(4)
    return np.concatenate([rng.normal(size=(290, 3)), rng.normal(size=(10, 3)) + 40.0])


@pytest.mark.parametrize(("data_set", "n_components"), [("iris", 8), ("faithful", 6), ("crowded", 5)])
def test_random_responsibilities_are_a_start_that_goes_on(data_set: str, n_components: int, dtype) -> None:
    """No run loses a component as it begins, and runs end higher than a single Gaussian, from where all are equal."""
    x = (crowded() if data_set == "crowded" else oracle.table(data_set)).astype(dtype)
    how = {"init": "random_responsibilities", "max_steps": 300}
    runs = jaxgmm.fit(jax.random.key(0), x, n_components, n_restarts=10, **how).restarts
    single = float(jaxgmm.fit(jax.random.key(0), x, 1, n_restarts=1).objective)
    assert np.all(np.asarray(runs.n_steps) > 2)
    assert np.sum(np.asarray(runs.status) == jaxgmm.Status.CONVERGED) >= 8
    assert np.all(np.asarray(runs.objective)[np.asarray(runs.status) == jaxgmm.Status.CONVERGED] > single + 0.05)


@pytest.mark.parametrize(
    ("kind", "way"),
    [("full", "array"), ("full", "blocks"), ("tied", "batches"), ("diag", "blocks"), ("spherical", "array")],
)
def test_random_responsibilities_give_each_component_all_rows(kind: str, way: str, x64) -> None:
    """A K-th of the rows each, and K^(−2/D) of their covariance: by programs, in NumPy, and block by block."""
    x = BLOBS.x * [1.0, 3.0, 0.2] + 7.0
    family, whole = SHELF[kind], np.cov(x.T, bias=True) * K ** (-2.0 / D)
    expected = {"tied": whole, "diag": np.diag(np.diag(whole)), "spherical": np.eye(D) * np.trace(whole) / D}
    how = {"init": "random_responsibilities", "n_restarts": 2, "max_steps": 0, "ridge": 0.0}
    ways = {"array": lambda: x, "batches": lambda: Batches.of(x, chunk_size=128)}
    ways |= {"blocks": lambda: jaxgmm.Blocks(lambda: iter([x[:100], x[100:]]))}
    found = jaxgmm.fit(jax.random.key(0), ways[way](), K, family, **how).mixture
    assert_close(found.weights, np.full(K, 1.0 / K), "weights", np.float64)
    of_all = np.broadcast_to(found.covariances, (K, D, D))
    assert_close(of_all, np.broadcast_to(expected.get(kind, whole), (K, D, D)), "covariances", np.float64)


@pytest.mark.parametrize("seeding", ["k-means", "k-means++"])
def test_restarts_differ_and_a_single_run_is_the_first_of_them(seeding: str, x64) -> None:
    """Overlapping clusters have several optima, and restarts are to find them; in NumPy and by programs."""
    n_ends = []
    for seed_of in range(4):
        x = oracle.blobs(seed=seed_of, n_rows=N, n_features=2, n_components=5, distance=1.5).x
        ends = jaxgmm.fit(jax.random.key(seed_of), x, 5, init=seeding, n_restarts=8, max_steps=500, tol=1e-6).restarts
        n_ends.append(1 + int(np.sum(np.diff(np.sort(np.asarray(ends.objective))) > 1e-3)))
    assert np.mean(n_ends) > 2.5
    batches = Batches.of(BLOBS.x)
    rows = pooled(jax.random.key(0), batches)
    pair = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(5), 2)))[None]
    key = jax.random.wrap_key_data(pair[0, 1])
    drawn = [PROGRAMS[seeding](key, rows, K, K, np.int32(restart)) for restart in (0, 1, 4)]
    of_rows = Columns(np.asarray(rows.x), np.asarray(rows.weights))
    for restart, found in zip((0, 1, 4), drawn, strict=True):
        assert_close(host.seeds(pair, of_rows, seeding, K, K, np.array([restart]))[0], found, "means", np.float64)
    assert np.array_equal(drawn[0], drawn[2])  # the fourth is drawn with all care, as the first is
    assert not np.array_equal(drawn[0], drawn[1])


def likelihood_of_start(seeds, x, weights):
    """Each row's cluster is that of the nearest seed: a Gaussian with independent features, by the book."""
    nearest = np.argmin(np.sum(np.square(x[:, None] - seeds[None]), axis=2), axis=1)
    spread = np.average(np.square(x - np.average(x, axis=0, weights=weights)), axis=0, weights=weights)
    row, total = np.sum(np.square(weights)) / np.sum(weights), 0.0
    for k in range(len(seeds)):
        own, mass = x[nearest == k], weights[nearest == k]
        about = np.square(own - np.average(own, axis=0, weights=mass))
        variance = ((mass @ about + row * spread) / (mass.sum() + row))[spread > 0.0]
        total += mass.sum() * (np.log(mass.sum()) - 0.5 * np.sum(np.log(variance)))
    return total


@pytest.mark.parametrize("weighted", [False, True])
def test_random_rows_are_the_likeliest_of_draws_that_share_no_row(weighted: bool, x64) -> None:
    """By programs and in NumPy, for a table with a constant column as well; where rows are few there is one draw."""
    rng = np.random.default_rng(7)
    x = BLOBS.x * [1.0, 30.0, 0.0] + 5.0
    weights = rng.integers(1, 4, N).astype(float) if weighted else np.ones(N)
    rows = Columns(np.ascontiguousarray((x - x.mean(axis=0)).T), weights)
    pairs = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(5), (6, 2))))
    found = host.seeds(pairs, rows, "random_rows", K, K)
    rises = []
    for pair, seeds in zip(pairs, found, strict=True):
        key = jax.random.wrap_key_data(pair[1])
        by_program = SEEDINGS["random_rows"](key, Columns(*map(jnp.asarray, rows)), K, K)
        assert_close(by_program, seeds, "means", np.float64)
        order = np.argsort(-(np.log(weights) + np.asarray(jax.random.gumbel(key, (N,), np.float64))))
        figures = [
            likelihood_of_start(rows.x.T[order[K * i : K * i + K]], rows.x.T, weights) for i in range(DRAWS_OF_ROWS)
        ]
        assert is_row(seeds, rows.x.T[order[: K * DRAWS_OF_ROWS]])[0] // K == np.argmax(figures)
        assert_close(likelihood_of_start(seeds, rows.x.T, weights), max(figures), "objective", np.float64)
        rises.append(max(figures) - figures[0])
    assert min(rises) >= 0.0
    assert max(rises) > 0.0
    few = Columns(rows.x[:, :6], weights[:6])
    assert len(set(is_row(host.seeds(pairs, few, "random_rows", K, K)[0], few.x.T))) == K
    alone = SEEDINGS["random_rows"](jax.random.wrap_key_data(pairs[0, 1]), Columns(*map(jnp.asarray, few)), K, K)
    assert_close(alone, host.seeds(pairs, few, "random_rows", K, K)[0], "means", np.float64)


@pytest.mark.parametrize("chunk_size", [None, 700])
def test_random_responsibilities_count_every_row_once(chunk_size: int | None) -> None:
    """The seeds of one component are the mean, whatever its responsibilities (all 1) and the number of blocks."""
    rows = np.arange(2100, dtype=np.float32)[:, None]
    batches = jaxgmm.Batches.of(rows, chunk_size=chunk_size)
    sample = jax.jit(rows_for_seeding, static_argnums=2)(jax.random.key(1), batches, 1)
    seeds = PROGRAMS["random_responsibilities"](jax.random.key(0), sample, 1, 1)
    np.testing.assert_allclose(np.asarray(seeds) + np.asarray(batches.origin), [[rows.mean()]], rtol=1e-5)


@pytest.mark.parametrize("n_rows", [SAMPLE, SAMPLE + 1, 12_000, 16_385, 40_000])
@pytest.mark.parametrize("chunk_size", [None, 1000, 5000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_sample_meets_all_regions(n_rows: int, chunk_size: int | None, weighted: bool) -> None:
    numbers = np.arange(n_rows, dtype=np.float32)[:, None]
    weights = np.where(np.arange(n_rows) % 3 == 0, 2.0, 0.0) if weighted else None
    batches = Batches.of(numbers, weights, chunk_size, n_components=2)
    rows = pooled(jax.random.key(0), batches)
    drawn = np.round(np.asarray(rows.x[0] + batches.origin[0])[np.asarray(rows.weights) > 0]).astype(int)
    assert drawn.min() <= 3 * n_rows / SAMPLE + 3
    assert drawn.max() >= n_rows - 1 - 3 * n_rows / SAMPLE - 3
    assert np.diff(np.sort(drawn)).max() <= 3 * (2 * n_rows / SAMPLE + 3)
    if weighted:
        assert np.all(drawn % 3 == 0)
    elif batches.n_chunks > 1 or n_rows <= 2 * SAMPLE:
        assert len(np.unique(drawn)) == len(drawn)


@pytest.mark.parametrize("n_components", [1, 3])
def test_one_large_chunk_is_fitted(n_components: int) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    assert np.isfinite(GaussianMixture(n_components, random_state=0, tol=1e-2).fit(rows).lower_bound_)


def test_what_rows_of_weight_0_hold_does_not_reach_the_seeds() -> None:
    """A row of weight 0 whose square overflows: k-means++ meets all clusters as it does without it."""
    x = (8.0 * np.arange(8) + np.random.default_rng(1).normal(size=(60, 8))).astype(np.float32).reshape(-1, 1)
    weights = np.ones(len(x) + 1, np.float32)
    weights[-1] = 0.0
    hidden = np.concatenate([x, np.full((1, 1), 1e30, np.float32)])
    clean, with_row = (
        jaxgmm.fit(
            jax.random.key(0), Batches.of(rows, weights[: len(rows)], 512), 8, "spherical", n_restarts=4, max_steps=0
        )
        for rows in (x, hidden)
    )
    assert_close(with_row.restarts.objective, clean.restarts.objective, "objective", np.float32)


def test_no_row_of_weight_0_is_drawn() -> None:
    """Neither for a number that rounding made 1, nor where a parallel sum dips; and all others alike."""
    weights = np.where(np.arange(4096) < 100, 0.0, 1.0).astype(np.float32)
    weights[512:2048] = 0.0
    uniform = np.concatenate([[0.0, 1.0], np.random.default_rng(2).uniform(size=20_000)]).astype(np.float32)
    drawn = np.asarray(draw(jnp.asarray(uniform), jnp.asarray(weights)))
    assert np.all(weights[drawn] > 0.0)
    counts = np.bincount(drawn[2:], minlength=4096)[weights > 0.0]
    assert counts.sum() == 20_000
    assert counts.max() < 30  # about eight a row


@pytest.mark.parametrize("offset", [300.0, 1e3, 1e4])
def test_means_far_from_the_data_are_a_sound_start(offset: float) -> None:
    rows = (np.random.default_rng(0).normal(size=(500, 2)) + offset).astype(np.float32)
    result = jaxgmm.fit(jax.random.key(0), rows, 1, init=np.zeros((1, 2)), max_steps=0)
    expected = np.cov(rows.T.astype(np.float64), bias=True)
    assert_close(result.mixture.covariances[0], expected, "variances", np.float32, factor=3.0)


@pytest.mark.parametrize("n_rows", [7, BLOCK, 2 * BLOCK + 1])
def test_sums_by_label_are_those_of_the_rows(n_rows, rng, x64):
    """Every row counts once, however many fill the last block."""
    x, weights, labels = rng.normal(size=(2, n_rows)), rng.uniform(size=n_rows), rng.integers(0, 3, n_rows)
    rows = Columns(jnp.asarray(x), jnp.asarray(weights))
    found = sums_by_label(rows, jnp.asarray(labels, jnp.int32), 4, degree=2)
    powers = np.concatenate([np.ones((1, n_rows)), x, x**2])
    expected = [(powers * weights)[:, labels == label].sum(axis=1) for label in range(4)]
    assert_close(found, np.array(expected), "matrices", np.float64, factor=n_rows)

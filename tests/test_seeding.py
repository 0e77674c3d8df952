"""Where fits start: every seeding is repeatable, heeds weights and is good; what the user gives stands as given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture
from jaxgmm.families import SHELF
from jaxgmm.seeding import SEEDINGS
from jaxgmm.seeding._rows import rows_for_seeding, squared_distances
from tests import oracle
from tests.tolerances import assert_close, assert_same_mixture, assert_same_parameters

N, D, K = 300, 3, 4
BLOBS = oracle.blobs(seed=21, n_rows=N, n_features=D, n_components=K, distance=6.0)

every_seeding = pytest.mark.parametrize("seeding", SEEDINGS)
every_family = pytest.mark.parametrize("family", SHELF.values(), ids=SHELF)

PAIRS = list(zip(SEEDINGS, list(SHELF.values())[: len(SEEDINGS)], strict=True))

CHOSEN_ROWS = ("k-means++", "random_rows")
"""Seedings whose seeds are rows of the data."""


@jax.jit
def pooled(key, batches):
    return rows_for_seeding(key, batches, K)


def seed(seeding, key, batches, n_components=K):
    """Seeds (K, D) in the data's own place."""
    program = jax.jit(SEEDINGS[seeding], static_argnums=(2, 3))
    return np.asarray(program(key, pooled(key, batches), n_components, n_components) + batches.origin, np.float64)


def is_row(seeds, x):
    """For each seed, the row it is; −1 where it is none (to the rounding of the origin)."""
    distance = np.abs(seeds[:, None] - x[None]).max(axis=2)
    return np.where(distance.min(axis=1) < 1e-4, distance.argmin(axis=1), -1)


@every_seeding
def test_seeds_are_repeatable(seeding, dtype):
    """The same key gives the same bits, another key others (k-means may end where it did); finite, dtype kept."""
    batches = Batches.of(BLOBS.x.astype(dtype))
    seeds = [seed(seeding, jax.random.key(i), batches) for i in (0, 0, 1)]
    assert seeds[0].shape == (K, D)
    assert np.array_equal(seeds[0], seeds[1])
    assert seeding == "k-means" or not np.array_equal(seeds[0], seeds[2])
    assert np.all(np.isfinite(seeds[0]))
    assert SEEDINGS[seeding](jax.random.key(0), pooled(jax.random.key(0), batches), K, K).dtype == dtype


@every_seeding
def test_seeds_do_not_depend_on_those_that_are_not_meant(seeding):
    """One program for many K: the first seeds of more are the seeds of fewer. (Sums may differ in their last digit.)"""
    batches = Batches.of(BLOBS.x)
    rows = pooled(jax.random.key(3), batches)
    padded = jax.jit(SEEDINGS[seeding], static_argnums=2)
    for count in (1, 2, K):
        alone = SEEDINGS[seeding](jax.random.key(count), rows, count, count)
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
def eight_tables():
    """Eight tables of 2000 × 4 with eight clusters, and what scikit-learn's k-means start comes to on each."""
    mixture = pytest.importorskip("sklearn.mixture")
    tables = []
    for i in range(8):
        x = oracle.blobs(seed=100 + i, n_rows=2000, n_features=4, n_components=8, distance=4.0).x.astype(np.float32)
        theirs = mixture.GaussianMixture(8, covariance_type="tied", tol=1e-6, max_iter=1000, random_state=i)
        tables.append((x, theirs.fit(x.astype(np.float64)).score(x.astype(np.float64))))
    return tables


@every_seeding
def test_tied_does_not_collapse_onto_the_saddle(seeding, eight_tables):
    """Every start reaches scikit-learn's log-likelihood from k-means, or better, on each of eight tables.

    With one-hot rows as responsibilities a tied covariance starts as wide as the data, and EM stays where all
    components are equal.
    """
    n_restarts = 8 if seeding.startswith("k-means") else 32
    for i, (x, theirs) in enumerate(eight_tables):
        result = jaxgmm.fit(
            jax.random.key(i), x, 8, "tied", init=seeding, n_restarts=n_restarts, tol=1e-6, max_steps=1000
        )
        assert_close(min(float(result.objective), theirs), theirs, "settled", np.float32, note=f"table {i}")


@every_family
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
    if family.name not in oracle.FAMILIES:
        pytest.skip("the oracle does not know this family")
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
        inner = "inner_iteration" if family.name == "VEI" else None
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


@pytest.mark.parametrize("chunk_size", [None, 700])
def test_random_responsibilities_count_every_row_once(chunk_size: int | None) -> None:
    """The seeds of one component are the mean, whatever its responsibilities (all 1) and the number of blocks."""
    rows = np.arange(2100, dtype=np.float32)[:, None]
    batches = jaxgmm.Batches.of(rows, chunk_size=chunk_size)
    sample = rows_for_seeding(jax.random.key(1), batches, 1)
    seeds = SEEDINGS["random_responsibilities"](jax.random.key(0), sample, 1, 1)
    np.testing.assert_allclose(seeds + batches.origin, [[rows.mean()]], rtol=1e-5)

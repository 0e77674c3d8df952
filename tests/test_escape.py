"""Out of a local optimum: a way that leads up or nowhere, from where two components sit on one cluster."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, Status, em
from jaxgmm._base import programs
from jaxgmm.families import SHELF
from jaxgmm.search.escape import ESCAPES, PROPOSALS, _halves, propose, split_and_merge
from jaxgmm.search.result import best_of
from tests import oracle
from tests.laws import KINDS
from tests.tolerances import assert_close, assert_same_mixture, tolerance

N, D, K = 240, 2, 4
CENTRES = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
LABELS = np.arange(N) % K
X = CENTRES[LABELS] + np.random.default_rng(0).normal(size=(N, D))
# Clusters 2 and 3 are one component's, and cluster 0 is two's.
PLANTED = np.where(LABELS >= 2, 2, LABELS)
PLANTED = np.where((LABELS == 0) & (X[:, 0] + X[:, 1] > 0.0), 3, PLANTED)
TOL = 1e-6
OPTIONS = {"tol": TOL, "max_steps": 120, "ridge": 1e-6, "chunk_size": 256, "dtype": np.float64}

every_family = pytest.mark.parametrize("family", SHELF)
every_kind = pytest.mark.parametrize("family", KINDS)


def fit(x=X, init=PLANTED, family="full", n_components=K, **more):
    return jaxgmm.fit(jax.random.key(0), x, n_components, family, init=init, **(OPTIONS | more))


def assert_rises(result, tol=TOL):
    """Its objectives before and after each move, of which each gained more than tol; the last is its own."""
    heights = np.asarray(result.escapes)
    assert np.all(np.diff(heights) > tol)
    assert float(result.objective) == heights[-1]


@every_kind
def test_a_planted_start_is_mended(family):
    """Two components on one cluster and one on two: the optimum that the truth leads to is reached from there too."""
    stuck, truth = fit(family=family), fit(init=LABELS, family=family)
    found = fit(family=family, escape="split-merge")
    gap = float(truth.objective) - float(stuck.objective)
    assert gap > 100 * tolerance("settled", np.float64).absolute
    assert_close(found.objective, truth.objective, "settled", np.float64)
    assert_rises(found)
    assert float(found.escapes[0]) == float(stuck.objective)
    assert len(found.escapes) > 1
    assert int(found.status) == Status.CONVERGED
    assert found.restarts.objective.shape == (1,)
    assert "and 1 move from there" in repr(found)
    again = fit(init=found.mixture, family=family, escape="split-merge")
    assert float(again.objective) >= float(found.objective) - tolerance("fall", np.float64).absolute


def test_it_never_ends_below_where_it_began():
    """Overlapping clusters, which several optima explain almost equally well."""
    x = oracle.blobs(seed=3, n_rows=N, n_features=D, n_components=6, distance=2.0).x
    options = OPTIONS | {"n_restarts": 1, "init": "random_rows"}
    moves = 0
    for seed in range(6):
        plain = jaxgmm.fit(jax.random.key(seed), x, K, **options)
        found = jaxgmm.fit(jax.random.key(seed), x, K, escape="split-merge", **options)
        assert float(found.escapes[0]) == float(plain.objective)
        assert_rises(found)
        moves += len(found.escapes) - 1
    assert moves > 0


@pytest.mark.parametrize("n_components", [1, 2])
def test_two_components_have_no_move(n_components):
    """What is split must be a third: the fit comes back as it was."""
    labels = np.minimum(LABELS, n_components - 1)
    one, other = (fit(init=labels, n_components=n_components, escape=escape) for escape in (None, "split-merge"))
    for name in ("objective", "status", "n_steps", "history", "effective_counts"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
    assert np.array_equal(one.mixture.means, other.mixture.means)
    assert np.asarray(other.escapes).tolist() == [float(one.objective)]
    assert one.escapes is None


def test_weighted_rows_are_repeated_rows(x64):
    weight = 1 + np.arange(N) % 3
    weighted = fit(sample_weight=weight, escape="split-merge")
    repeated = fit(np.repeat(X, weight, axis=0), np.repeat(PLANTED, weight), escape="split-merge")
    assert len(weighted.escapes) == len(repeated.escapes) > 1
    assert_close(weighted.objective, repeated.objective, "oracle", np.float64)
    assert_same_mixture(weighted.mixture, repeated.mixture, np.float64)


@pytest.mark.parametrize("family", ["full", "VEI"])
def test_components_of_weight_0_stay_so_and_change_nothing(family, x64):
    """Beside two that are masked, the four others make the moves that they make alone."""
    batches, settings = Batches.of(X, chunk_size=256), em.Settings(tol=TOL, ridge=1e-6)
    alone = fit(family=family)
    mixture = alone.mixture
    means = np.concatenate([mixture.means, np.zeros((2, D))])
    covariances = np.concatenate([mixture.covariances, np.stack([np.eye(D)] * 2)])
    if family == "VEI":  # of one shape
        covariances[-2:] = covariances[0]
    padded = Mixture.create(np.append(mixture.weights, [0.0, 0.0]), means, covariances, family, dtype=np.float64)
    states = jax.tree.map(lambda leaf: leaf[None], em.run(em.init(padded, batches), batches, settings, 120))
    start = best_of(states, jnp.zeros((1, 4)), settings.ridge)
    found = split_and_merge(start, batches, settings, 120)
    expected = fit(family=family, escape="split-merge")
    assert np.asarray(found.mixture.weights)[-2:].tolist() == [0.0, 0.0]
    assert_rises(found)
    assert len(found.escapes) == len(expected.escapes) > 1
    assert_close(found.objective, expected.objective, "settled", np.float64)


def test_a_failed_fit_comes_back_or_is_left_for_a_sound_one(x64):
    """No move leads out of objectives that are no numbers; of a collapsed fit any sound one is better."""
    batches, settings = Batches.of(X, chunk_size=256), em.Settings(tol=TOL, ridge=1e-6)
    stuck = fit()
    lost = replace(stuck, objective=jnp.asarray(-jnp.inf), status=jnp.int32(Status.NON_FINITE))
    assert int(split_and_merge(lost, batches, settings, 120).status) == Status.NON_FINITE
    collapsed = replace(stuck, status=jnp.int32(Status.COLLAPSED))
    assert int(split_and_merge(collapsed, batches, settings, 120).status) == Status.CONVERGED


def test_who_watches_changes_nothing_and_sees_what_is_to_be_surpassed(x64):
    seen = []
    watched = fit(escape="split-merge", progress=seen.append)
    silent = fit(escape="split-merge")
    assert np.array_equal(watched.mixture.means, silent.mixture.means)
    assert np.array_equal(watched.escapes, silent.escapes)
    beside = [told for told in seen if told.n_restarts == PROPOSALS + 1]
    assert beside
    assert all(told.objective >= float(silent.escapes[0]) for told in beside)


@every_family
def test_every_proposal_is_a_mixture_of_the_family(family, x64):
    """Weights that sum to 1, finite means, covariances that the family reads back as they are."""
    batches = Batches.of(X, chunk_size=256)
    mixture = fit(family=family).mixture
    states = propose(mixture, batches)
    is_move = np.asarray(states.status) == Status.RUNNING
    assert is_move[0]  # the most promising is one
    assert len(is_move) == PROPOSALS
    assert np.all(np.asarray(states.status)[~is_move] == Status.COLLAPSED)
    for place in np.flatnonzero(is_move):
        one = jax.tree.map(lambda leaf, place=place: leaf[place], states.mixture)
        assert one.family == SHELF[family]
        assert_close(jnp.sum(one.weights), 1.0, "sum_to_one", np.float64, factor=K)
        assert np.all(np.isfinite(one.means))
        again = Mixture.create(one.weights, one.means, one.covariances, family, dtype=np.float64)
        assert_close(again.covariances, one.covariances, "matrices", np.float64)
        moved = np.any(np.asarray(one.means) != np.asarray(mixture.means), axis=1)
        assert moved.sum() == 3


@pytest.mark.parametrize("chunk_size", [64, 256])
@pytest.mark.parametrize("family", ["tied", "spherical"])
def test_halves_are_those_of_the_definition(family, chunk_size, rng, dtype):
    """Each component's rows on the upper side of the plane through its mean, across its axis, by responsibility."""
    x, weight = X.astype(dtype), rng.integers(0, 3, N)
    mixture = Mixture.create(*oracle.blobs(1, 8, D, K).start, family, dtype=dtype)
    mixture = replace(mixture, means=mixture.means + 4.0)
    axes = rng.normal(size=(K, D)).astype(dtype)
    batches = Batches.of(x, weight, chunk_size)
    found = jax.jit(_halves)(mixture, batches, axes)
    r = np.asarray(mixture.responsibilities(x), np.float64)
    above = np.einsum("kd,nkd->nk", axes, x[:, None].astype(np.float64) - np.asarray(mixture.means)) > 0
    weighted, centred = r * weight[:, None], x - np.asarray(batches.origin)
    expected = (
        np.sum(weighted * above, axis=0),
        np.einsum("nk,nd->kd", weighted * above, centred),
        np.sum(weighted, axis=0),
        np.einsum("nk,nd->kd", weighted, centred),
        np.einsum("ni,nj->ij", weighted, r),
    )
    for value, wanted in zip(found, expected, strict=True):
        assert_close(value, wanted, "responsibilities", dtype, factor=10 * N)


def test_the_shelf_is_what_the_door_knows():
    with pytest.raises(ValueError, match=f"Unknown escape 'away'. Expected one of {', '.join(map(repr, ESCAPES))}"):
        fit(escape="away")


@pytest.mark.parametrize("limit", [0, programs.HURRIED_UP_TO], ids=["BRISK", "HURRIED"])
def test_a_small_table_is_escaped_in_whatever_way_its_programs_are_compiled(limit, monkeypatch):
    """From three components, which are no multiple of those that a BRISK step takes at a time."""
    monkeypatch.setattr(programs, "HURRIED_UP_TO", limit)
    options = {"tol": TOL, "max_steps": 120, "dtype": np.float64, "n_restarts": 1, "init": "random_rows"}
    found = jaxgmm.fit(jax.random.key(1), X, 3, escape="split-merge", **options)
    assert_rises(found)
    assert int(found.status) == Status.CONVERGED

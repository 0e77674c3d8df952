"""Steps by NumPy: each run is what it would be alone, and both forms of its sums are a program's."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, Status, em
from jaxgmm.em import by_numpy
from jaxgmm.families import SHELF
from jaxgmm.search import small
from tests import oracle
from tests.laws import each_kind_in_a_dtype, every_family
from tests.tolerances import assert_close

N, D, K, R = 240, 3, 3, 3
ROOM = 32
BLOBS = oracle.blobs(seed=5, n_rows=N, n_features=D, n_components=K, distance=3.0)
WEIGHTS = np.random.default_rng(4).uniform(0.5, 2.0, N) * (np.arange(N) % 7 > 0)


def settings(**how):
    of = em.Settings(**how)
    return replace(of, tol=np.asarray(of.tol), ridge=np.asarray(of.ridge))


def mixtures(family, dtype, at=0.0, size=1.0):
    """Three mixtures of NumPy's arrays, one with a component of weight 0; and the same stacked."""
    weights, means, covariances = BLOBS.start
    rng, each = np.random.default_rng(6), []
    with jax.enable_x64(dtype == "float64"):
        for run in range(R):
            own = np.array([0.6, 0.4, 0.0]) if run == 1 else weights
            moved = size * (means + rng.normal(size=means.shape) + at)
            each.append(Mixture.create(own, moved, size**2 * covariances, family, dtype=np.dtype(dtype)))
    alone = [jax.tree.map(np.asarray, mixture) for mixture in each]
    return each, jax.tree.map(lambda *leaves: np.stack(leaves), *alone)


def host_rows(x, family, dtype):
    batches = Batches.with_room(x, WEIGHTS, np.dtype(dtype))
    return by_numpy.HostRows.of(batches, family.kind)


def starts(family, dtype, counts=(3, 2, 3)):
    """Runs that have not begun, padded to ROOM, of which one uses a component less."""
    batches = Batches.with_room(BLOBS.x.astype(dtype), WEIGHTS, np.dtype(dtype))
    rng = np.random.default_rng(7)
    seeds = rng.normal(size=(len(counts), ROOM, D)).astype(dtype)
    states = small.from_seeds(seeds, np.array(counts), batches, family)
    return states, by_numpy.HostRows.of(batches, family.kind)


def ended(states, rows, limit=6):
    found = None
    for runs, few in by_numpy.steps(states, rows, settings(tol=0.0), None, limit, lambda: False):
        assert len(runs) == len(few.status)
        found = few
    return found


@pytest.mark.parametrize("form", ["products", "rows"])
@each_kind_in_a_dtype
def test_moments_are_those_of_a_program(family, dtype, form, monkeypatch):
    if form == "rows":
        monkeypatch.setattr(by_numpy, "MOST_PRODUCTS", 0)
    x = BLOBS.x.astype(dtype)
    each, together = mixtures(family, dtype)
    rows = host_rows(x, family, dtype)
    assert (rows.products is None) == (form == "rows")
    with np.errstate(all="ignore"):
        ours = by_numpy.expect(together, rows, 1e-6)
    with jax.enable_x64(dtype == "float64"):
        batches = Batches.of(x, WEIGHTS, dtype=np.dtype(dtype))
        for run, mixture in enumerate(each):
            theirs = jax.device_get(em.init(mixture, batches).moments)
            for name, found in zip(ours._fields, ours, strict=True):
                assert found.dtype == dtype
                size = np.abs(np.asarray(getattr(theirs, name))).max()
                assert_close(found[run] / size, getattr(theirs, name) / size, "moments", dtype, note=name)


@every_family
def test_a_run_is_what_it_is_alone(family):
    """Bit for bit, whatever the others are; and padding is not touched."""
    states, rows = starts(family, "float32")
    few = ended(states, rows)
    assert few.mixture.means.shape == (R, K, D)
    assert (few.n_steps == 6).all()
    for run in range(R):
        alone = ended(jax.tree.map(lambda leaf, run=run: leaf[run : run + 1], states), rows)
        n_used = alone.mixture.n_components
        assert n_used == (K if run != 1 else K - 1)
        assert np.array_equal(alone.objective[0], few.objective[run])
        assert np.array_equal(alone.mixture.means[0], few.mixture.means[run, :n_used])
        assert np.array_equal(alone.moments.mass[0], few.moments.mass[run, :n_used])


def test_a_run_that_has_ended_makes_no_more_steps():
    states, rows = starts(SHELF["full"], "float32")
    seen = list(by_numpy.steps(states, rows, settings(tol=0.0), None, np.array([2, 5, 0]), lambda: False))
    assert [runs.tolist() for runs, _ in seen] == [[0, 1, 2], [0, 1], [0, 1], [1], [1], [1]]
    assert [few.n_steps.tolist() for _, few in seen] == [[0, 0, 0], [1, 1], [2, 2], [3], [4], [5]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", ["full", "diag"])
def test_what_cancels_too_much_is_not_summed_by_products(family, dtype):
    """Narrow components far from half of the rows, by 6e3 and 6e8 deviations."""
    family = SHELF[family]
    size = {"float32": 1e-2, "float64": 1e-7}[dtype]
    far = (size * BLOBS.x).astype(dtype)
    far[: N // 2] += np.asarray(64.0, dtype)
    _, together = mixtures(family, dtype, size=size)
    rows = host_rows(far, family, dtype)
    with np.errstate(all="ignore"):
        cancelled, _ = by_numpy._in_products(
            *(of.astype(np.float64) for of in by_numpy.whiteners(together)),
            together.means.astype(np.float64) - rows.origin,
            together.scales.variances(),
        )
        assert (cancelled > by_numpy.CANCELLED_UP_TO[np.dtype(dtype).itemsize]).any() == (dtype == "float64")
        ours = by_numpy.expect(together, rows, 1e-6)
        theirs = by_numpy.expect(together, rows._replace(products=None), 1e-6)
    for name, found in zip(ours._fields, ours, strict=True):
        size_of = np.abs(getattr(theirs, name)).max()
        assert_close(found / size_of, getattr(theirs, name) / size_of, "moments", dtype, note=name)


@pytest.mark.parametrize("family", ["tied", "EEI"])
def test_pooled_sums_are_made_once_where_a_component_is_narrow(family, monkeypatch):
    """What is estimated is the pooled variance, not the narrow component's own."""
    x = BLOBS.x.astype(np.float64)
    x[: N // 3] = 0.01 * x[: N // 3] + 4.0
    seen, by_rows = [], by_numpy._of_rows
    monkeypatch.setattr(by_numpy, "_of_rows", lambda *of: seen.append(1) or by_rows(*of))
    jaxgmm.fit(jax.random.key(0), x, 2, family, n_restarts=2, dtype=np.float64)
    assert not seen


@pytest.mark.parametrize("family", ["diag", "full"])
def test_sums_are_made_anew_where_a_component_shrinks_to_a_point(family, monkeypatch):
    """Its mixture is broad enough for products, and what its one row estimates is not."""
    x = np.concatenate([BLOBS.x, np.full((1, D), 6.0)]) - BLOBS.x.mean(axis=0)
    means = np.stack([np.zeros(D), x[-1]])
    with jax.enable_x64(True):
        mixture = Mixture.create([0.99, 0.01], means, np.stack([9.0 * np.eye(D), np.eye(D)]), family, dtype=np.float64)
    together = jax.tree.map(lambda leaf: np.asarray(leaf)[None], mixture)
    rows = by_numpy.HostRows.of(Batches.with_room(x[[0, 1, 2, -1]], None, np.dtype(np.float64)), SHELF[family].kind)
    seen, by_rows = [], by_numpy._of_rows
    monkeypatch.setattr(by_numpy, "_of_rows", lambda *of: seen.append(1) or by_rows(*of))
    with np.errstate(all="ignore"):
        by_numpy.expect(together, rows, 1.0)
        assert not seen
        found = by_numpy.expect(together, rows, 1e-6)
        assert seen
        theirs = by_numpy.expect(together, rows._replace(products=None), 1e-6)
    for ours, alone in zip(found, theirs, strict=True):
        assert np.array_equal(ours, alone)


@pytest.mark.parametrize("family", ["EEI", "tied"])
def test_no_run_seems_to_fall_between_clusters_far_apart(family):
    """Where products may cancel by more than the verdict's rounding."""
    x = np.random.default_rng(0).normal(size=(400, D)) + 46.0 * (np.arange(400) % 2)[:, None]
    how = {"n_restarts": 8, "tol": 2e-15, "max_steps": 200, "dtype": np.float64}
    found = jaxgmm.fit(jax.random.key(1), x, 3, family, **how)
    assert (np.asarray(found.restarts.status) != Status.NOT_MONOTONE).all()


def test_a_small_search_far_from_the_origin_is_the_same_search():
    """Its rows are about their own origin first."""
    x = BLOBS.x.astype(np.float64)
    how = {"n_restarts": 4, "tol": 1e-6, "dtype": np.float64}
    near = jaxgmm.fit(jax.random.key(0), x, K, **how)
    far = jaxgmm.fit(jax.random.key(0), x + 2.0**20, K, **how)
    assert_close(far.objective, near.objective, "objective", np.float64, factor=2.0**20)

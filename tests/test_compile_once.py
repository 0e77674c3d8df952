"""Compile once: what changes from fit to fit (data, weights' values, numbers, keys, N in a bucket) compiles nothing."""

from __future__ import annotations

from contextlib import contextmanager

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, em
from tests import oracle

pytestmark = pytest.mark.default_flags

TRACED = "/jax/core/compile/jaxpr_trace_duration"
COMPILED = "/jax/core/compile/backend_compile_duration"
D, K = 3, 2


@contextmanager
def nothing_new(events):
    """Inside, nothing is traced and nothing compiled."""
    events.clear()
    yield
    assert events.count(COMPILED) == 0
    assert events.count(TRACED) == 0


def rows(seed, n_rows, dtype=np.float32):
    return oracle.blobs(seed, n_rows, D, K).x.astype(dtype)


def fit(x, seed=0, family="full", **more):
    options = {"n_restarts": 3, "max_steps": 20} | more
    return jaxgmm.fit(jax.random.key(seed), x, K, family, **options)


def keys(*seeds):
    """Keys are the caller's programs, not fit's."""
    for seed in seeds:
        jax.random.key(seed)


def test_the_listener_hears(events):
    """A program of its own is traced and compiled where it first runs, and not again."""
    program = jax.jit(lambda x: x * 3.25 + 1)
    events.clear()
    program(np.float32(2.0))
    assert events.count(TRACED) >= 1
    assert events.count(COMPILED) >= 1
    with nothing_new(events):
        program(np.float32(3.0))


@pytest.mark.parametrize("init", ["k-means++", "random_rows"])
def test_a_second_fit_compiles_nothing(events, init):
    """Other data, other key, tol, ridge, and another N of the same bucket."""
    x, other, shorter = rows(1, 700), rows(2, 700), rows(3, 600)
    keys(0, 1)
    fit(x, init=init)
    with nothing_new(events):
        fit(other, init=init)
    with nothing_new(events):
        fit(x, seed=1, init=init)
    with nothing_new(events):
        fit(x, init=init, tol=1e-5)
    with nothing_new(events):
        fit(x, init=init, tol=0, ridge=np.float32(1e-2))
    with nothing_new(events):
        fit(x, init=init, ridge=0)
    with nothing_new(events):
        fit(shorter, init=init)


def test_step_limits_of_one_capacity_compile_nothing(events):
    """The history's length is a power of two: limits under it share a program."""
    x = rows(1, 700)
    fit(x, max_steps=20)
    with nothing_new(events):
        again = fit(rows(4, 650), max_steps=20, tol=0.0)
    assert int(again.n_steps) == 20
    events.clear()
    fit(x, max_steps=25)
    # The run itself is the same program; only cutting the history to 26 entries is new.
    assert events.count(COMPILED) <= 2


def test_weights_compile_nothing_new(events):
    """Weighted fits share one program, whatever the weights."""
    x, rng = rows(1, 700), np.random.default_rng(0)
    first, second = (rng.uniform(0.5, 2.0, 700).astype(np.float32) for _ in range(2))
    fit(x, sample_weight=first)
    with nothing_new(events):
        fit(x, sample_weight=second)


def test_chunked_rows_of_one_bucket(events):
    """In chunks, N may differ by less than a chunk: body and tail keep their shapes."""
    fit(rows(1, 700), chunk_size=256)
    with nothing_new(events):
        fit(rows(2, 650), chunk_size=256)


def test_em_by_hand_compiles_once(events):
    """init, step and run: other data, other numbers, other limits."""
    settings = em.Settings(tol=1e-4)
    blobs = oracle.blobs(5, 700, D, K)
    mixture = jaxgmm.Mixture.create(*blobs.start, dtype=np.float32)

    def by_hand(x, settings, limit):
        batches = Batches.of(x, n_components=K)
        state = em.step(em.init(mixture, batches, settings), batches, settings)
        return em.run(state, batches, settings, limit)

    by_hand(blobs.x.astype(np.float32), settings, 10)
    with nothing_new(events):
        by_hand(rows(6, 640), em.Settings(tol=np.float32(0.5), ridge=0), 33)


def test_float64_fits_compile_once_too(events):
    """dtype=float64 with JAX's switch off."""
    fit(rows(1, 700), dtype=np.float64)
    with nothing_new(events):
        fit(rows(2, 690), dtype=np.float64, tol=1e-6)


def test_evaluating_compiles_once(events):
    """log_prob of as many rows of another mixture."""
    mixtures = [jaxgmm.Mixture.create(*oracle.blobs(s, 10, D, K).start, dtype=np.float32) for s in (1, 2)]
    mixtures[0].log_prob(rows(1, 100))
    with nothing_new(events):
        mixtures[1].log_prob(rows(2, 100))


def test_a_search_compiles_once_a_family(events):
    """All K up to 16 share their programs: another K of the group, or another table, compiles nothing."""
    options = {"n_restarts": 3, "max_steps": 10, "families": ["full", "diag"]}
    keys(0, 1)
    jaxgmm.sweep(jax.random.key(0), rows(1, 700), [1, 2, 4], **options)
    with nothing_new(events):
        jaxgmm.sweep(jax.random.key(1), rows(2, 650), [1, 3, 4], **options)


def test_folds_races_and_escapes_compile_once_too(events):
    """A fold is other weights, and a move another start: a second search of the kind compiles nothing."""
    options = {"n_restarts": 8, "max_steps": 20, "families": "spherical", "n_folds": 3, "race": True}
    keys(0, 1)
    jaxgmm.sweep(jax.random.key(0), rows(1, 700), [3, 4], escape="split-merge", **options)
    with nothing_new(events):
        jaxgmm.sweep(jax.random.key(1), rows(2, 650), [3, 4], escape="split-merge", **options)

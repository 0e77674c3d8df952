"""Lanes dealt out to cores: what comes back is what one core would have made, lane by lane."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches
from jaxgmm.search import pool
from tests import oracle

BATCHES = Batches.of(np.zeros((8, 2), np.float32))


@pytest.mark.parametrize("n_lanes", [1, 2, 5, 6])
@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_what_is_dealt_out_is_collected_in_order(n_lanes, n_parts):
    lanes = np.arange(n_lanes, dtype=np.float32), np.arange(2 * n_lanes, dtype=np.int32).reshape(n_lanes, 2)
    several = pool.Threads(n_parts, BATCHES)
    parts = several.scatter(lanes)
    assert len(parts) == n_parts
    assert len({len(part[0]) for part in parts}) == 1  # one shape, one program
    for whole, again in zip(lanes, several.gather(parts, n_lanes), strict=True):
        assert np.array_equal(whole, again)


@pytest.mark.parametrize(
    ("n_parts", "race", "dtype"),
    [(2, False, np.float32), (3, False, np.float64), (3, True, np.float32), (2, True, np.float64)],
)
def test_the_number_of_cores_changes_no_result(n_parts, race, dtype, monkeypatch):
    """Of 7 runs, each alone in its slot: to the bit, watched or not, in float64 while JAX's own switch is off, too."""
    x = oracle.blobs(seed=3, n_rows=6_000, n_features=3, n_components=4, distance=2.0).x

    def fitted(cores, progress=None):
        monkeypatch.setattr(pool, "n_cores", lambda: cores)
        more = {"n_restarts": 7, "tol": 1e-5, "race": race, "dtype": dtype, "progress": progress, "chunk_size": 4096}
        return jaxgmm.fit(jax.random.key(0), x, 4, "diag", **more)

    monkeypatch.setattr(pool, "WORTH_A_THREAD", 1)
    told = []
    alone, together, watched = fitted(1), fitted(n_parts), fitted(n_parts, told.append)
    assert told[-1].n_running == 0
    assert told[-1].n_restarts == 7
    assert together.mixture.means.dtype == dtype
    for one, *others in zip(*map(jax.tree.leaves, (alone, together, watched)), strict=True):
        for other in others:
            assert np.array_equal(one, other, equal_nan=True)


def test_lanes_stay_whole_where_there_is_no_use_in_threads(monkeypatch):
    """Little to do, few lanes, no compiled programs, a trace: one thread. Otherwise as many as there are cores."""
    monkeypatch.setattr(pool, "n_cores", lambda: 4)
    large = Batches.of(np.zeros((100_000, 2), np.float32))
    assert pool.pool_for(64, 8, large).number == 4
    assert pool.pool_for(3, 8, large).number == 3
    assert pool.pool_for(64, 8, BATCHES).number == 1
    with jax.disable_jit():
        assert pool.pool_for(64, 8, large).number == 1
    traced = []
    jax.eval_shape(lambda batches: traced.append(pool.pool_for(64, 8, batches).number), large)
    assert traced == [1]


def test_jobs_have_the_settings_of_the_caller_and_their_errors_arrive():
    """What is computed follows the caller's default device and precision, in every thread."""
    seen = []

    def job():
        seen.append((threading.get_ident(), jax.config.jax_default_device, jnp.ones(3, np.float64).dtype))
        return jnp.float32(1.0)

    device = jax.devices()[-1]
    with jax.default_device(device), jax.enable_x64(True):
        assert pool.at_once([job, job, job]) == [1.0, 1.0, 1.0]
    assert len({thread for thread, *_ in seen}) > 1
    assert {(which, dtype) for _, which, dtype in seen} == {(device, np.dtype(np.float64))}

    with jax.default_matmul_precision("highest"):
        pool.at_once([lambda: seen.append(jax.config.jax_default_matmul_precision) or jnp.float32(1.0)] * 2)
    assert seen[-2:] == ["highest", "highest"]

    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.at_once([lambda: 1.0, fails])

"""On a GPU: the answers are those of a CPU in float64, and nothing leaves the device meanwhile."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Mixture, Status, em
from jaxgmm.covariances import Form
from jaxgmm.em.expectation import expect
from jaxgmm.families import SHELF
from tests import oracle
from tests.tolerances import assert_close, assert_same_mixture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.default_flags,
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated"),
]

N, D, K, STEPS = 5000, 6, 4, 5
BLOBS = oracle.blobs(11, N, D, K, distance=3.0)
WEIGHTS = np.linspace(0.0, 2.0, N)

every_family = pytest.mark.parametrize("family", SHELF)


@pytest.fixture(scope="module")
def gpu() -> jax.Device:
    return jax.devices("gpu")[0]


def run(x, family, dtype, weights=None, is_fused=False, steps=STEPS):
    """A few steps from the same start, on the device that JAX now takes."""
    mixture = Mixture.create(*BLOBS.start, family, dtype=dtype)
    batches = Batches.of(x, weights, 1024, dtype=dtype, fused=is_fused)
    return em.run(em.init(mixture, batches), batches, em.Settings(tol=0.0), steps)


def on_cpu_in_float64(family, weights=None):
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return run(BLOBS.x.astype(np.float32), family, np.float64, weights)


def assert_same_state(found, expected):
    assert int(found.status) == int(expected.status) == Status.MAX_STEPS
    assert_close(found.objective, expected.objective, "objective", np.float32)
    assert_same_mixture(found.mixture, expected.mixture, np.float32)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@every_family
def test_float32_there_is_float64_here(gpu, family, weights):
    found = run(jax.device_put(BLOBS.x.astype(np.float32), gpu), family, np.float32, weights)
    assert found.mixture.means.devices() == {gpu}
    assert_same_state(found, on_cpu_in_float64(family, weights))


@pytest.mark.parametrize("is_fused", [False, True])
def test_nothing_comes_back_to_the_host_meanwhile(gpu, is_fused):
    x = jax.device_put(BLOBS.x.astype(np.float32), gpu)
    mixture = Mixture.create(*BLOBS.start, "diag", dtype=np.float32)
    batches = Batches.of(x, fused=is_fused)
    limit = jax.device_put(np.int32(STEPS), gpu)
    with jax.transfer_guard_device_to_host("disallow"):
        state = em.run(em.init(mixture, batches), batches, em.Settings(tol=0.0), limit)
        state = jax.block_until_ready(em.step(state, batches))
    assert int(state.n_steps) == STEPS + 1


def test_rows_that_lie_there_are_not_copied(gpu):
    """The body of large rows is the user's own buffer, and a fit keeps nothing of their size beside it."""
    n_rows = 20_000_000
    x = jax.block_until_ready(jax.random.normal(jax.random.key(0), (n_rows, 4)))
    before = gpu.memory_stats()["bytes_in_use"]
    batches = Batches.of(x, n_components=16)
    assert batches.rows.body is not None
    assert batches.rows.body.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()
    mixture = Mixture.create(np.full(16, 1 / 16), np.asarray(x[:16]), np.ones((16, 4)), "diag", dtype=np.float32)
    jax.block_until_ready(em.run(em.init(mixture, batches), batches, max_steps=2))
    assert gpu.memory_stats()["bytes_in_use"] - before < 64e6


def test_a_whole_fit_there_is_one_here(gpu):
    """Seeds, restarts, weights and the choice of the best; rows and weights that lie on the device stay on it."""
    x, weights = (jax.device_put(a.astype(np.float32), gpu) for a in (BLOBS.x, WEIGHTS))
    found = jaxgmm.fit(jax.random.key(0), x, K, sample_weight=weights, n_restarts=8, tol=1e-6)
    assert found.mixture.means.devices() == {gpu}
    assert int(found.status) == Status.CONVERGED
    with jax.default_device(jax.devices("cpu")[0]):
        expected = jaxgmm.fit(
            jax.random.key(0), np.asarray(x), K, sample_weight=np.asarray(weights), n_restarts=8, tol=1e-6
        )
    assert_close(found.objective, expected.objective, "settled", np.float32)
    bad = x.at[7, 2].set(jnp.nan)
    with pytest.raises(ValueError, match="row 7, column 2 is nan"):
        jaxgmm.fit(jax.random.key(0), bad, K)


def test_the_estimator_takes_rows_from_there(gpu):
    x = jax.device_put(BLOBS.x.astype(np.float32), gpu)
    gm = GaussianMixture(K, random_state=0).fit(x)
    assert gm.converged_
    assert_close(gm.score(x), float(np.mean(gm.score_samples(np.asarray(x)))), "objective", np.float32)


# Last: a kernel that fails may take the process's hold of the card with it.


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("family", ["diag", "spherical", "full"])
def test_the_fused_kernels_are_as_exact(gpu, family, weights):
    found = run(jax.device_put(BLOBS.x.astype(np.float32), gpu), family, np.float32, weights, is_fused=True)
    assert_same_state(found, on_cpu_in_float64(family, weights))


@pytest.mark.parametrize("n_components", [7, 600])
@pytest.mark.parametrize(("family", "n_features"), [("diag", 8), ("diag", 100), ("spherical", 128), ("full", 12)])
def test_the_fused_kernels_agree_with_the_chunks(family, n_features, n_components):
    """Tiles that a card must have room for: the widest rows, and components in several tiles."""
    blobs = oracle.blobs(3, 5_000, n_features, n_components, distance=1.0)
    mixture = Mixture.create(*blobs.start, family, dtype=np.float32)
    e_step = jax.jit(lambda m, b: expect(m, b, Form.FAST))
    one, other = (
        e_step(mixture, Batches.of(blobs.x.astype(np.float32), fused=is_fused, n_components=n_components))
        for is_fused in (True, False)
    )
    mass = np.maximum(np.asarray(other.mass), 1.0)
    assert_close(one.objective / len(blobs.x), other.objective / len(blobs.x), "objective", np.float32)
    for name in ("mass", "first", "second"):
        left, right = (np.asarray(getattr(moments, name)) for moments in (one, other))
        over = mass.reshape(-1, *[1] * (left.ndim - 1))
        assert_close(left / over, right / over, "moments", np.float32)

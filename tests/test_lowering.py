"""What accelerators are given to compile, read without one: every program of a fit, lowered for CUDA and for TPU."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgmm import Batches, Mixture, em
from jaxgmm.covariances import Form
from jaxgmm.em.expectation import expect
from jaxgmm.evaluation import labels_of, log_prob_of, map_log_joint, responsibilities_of
from jaxgmm.families import SHELF
from jaxgmm.search import start as starting
from jaxgmm.search.criteria import evidence
from jaxgmm.search.resident import Resident
from jaxgmm.search.seeding import SEEDINGS
from jaxgmm.search.side_by_side import run_all
from tests import oracle
from tests.laws import every_family, every_kind

pytestmark = pytest.mark.default_flags

N, K, R, CHUNK = 300, 3, 20, 128

every_platform = pytest.mark.parametrize("platform", ["cuda", "tpu"])
every_form = pytest.mark.parametrize("form", Form, ids=lambda form: form.value)

LAPACK = {
    "cuda": {"cusolver_potrf_ffi", "cu_cholesky_update_ffi", "cusolver_syevd_ffi", "AllocateBuffer"},
    "tpu": {"Eigh"},
}
"""Calls out of XLA's own language that a device has a routine for, of factorisations and eigenvectors; a call back to
the host has none of these names."""


def lowered(platform, function, *arguments):
    """The StableHLO text that `platform` is to compile."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def assert_exact_and_on_device(text, platform):
    """Every product is at full precision, and nothing is called that a device cannot run by itself."""
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products), products
    called = set(re.findall(r"stablehlo\.custom_call @([\w.]+)", text))
    assert called <= LAPACK[platform], called
    assert not re.search(r"stablehlo\.(infeed|outfeed|send|recv)", text)
    return len(products)


def case(family, n_features=5, weights=None):
    blobs = oracle.blobs(3, N, n_features, K)
    start = Mixture.create(*blobs.start, family, dtype=np.float32)
    return blobs.x.astype(np.float32), start, Batches.of(blobs.x.astype(np.float32), weights, CHUNK)


@pytest.mark.parametrize("n_features", [5, 30], ids=["few", "many"])
@every_form
@every_kind
@every_platform
def test_every_product_of_an_e_step_is_exact(platform, family, form, n_features):
    _, mixture, batches = case(family, n_features)
    text = lowered(platform, partial(expect, form=form), mixture, batches)
    # By direct differences a spherical or diagonal covariance needs none.
    assert assert_exact_and_on_device(text, platform) >= (2 if form is Form.FAST else 0)


@every_family
@every_platform
def test_a_run_stays_on_the_device(platform, family):
    """init, step and run, with weights, as one program and under `vmap`."""
    _, mixture, batches = case(family, weights=np.linspace(0.0, 2.0, N))

    def whole(mixture, batches):
        return em.run(em.step(em.init(mixture, batches), batches), batches, em.Settings(), 50)

    assert assert_exact_and_on_device(lowered(platform, whole, mixture, batches), platform) > 0
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), mixture)
    text = lowered(platform, jax.vmap(whole, in_axes=(0, None)), many, batches)
    assert assert_exact_and_on_device(text, platform) > 0


@every_platform
def test_a_fit_stays_on_the_device(platform):
    """Seeds of every kind, starts, and all restarts to their ends through fewer slots than restarts."""
    family = SHELF["full"]
    _, mixture, batches = case(family)
    keys, counts = jax.random.split(jax.random.key(0), (R, 2)), np.full(R, K, np.int32)
    for seeding in SEEDINGS:
        seeds_of = partial(starting.seeds_of, seeding=seeding, n_components=K)
        assert_exact_and_on_device(lowered(platform, seeds_of, keys, counts, batches), platform)

    def started(seeds, counts, batches, ridge):
        return Resident(batches).started(seeds, counts, family, ridge)

    text = lowered(platform, started, np.zeros((R, K, 5), np.float32), counts, batches, 1e-6)
    assert assert_exact_and_on_device(text, platform) > 0
    state = jax.eval_shape(em.init, mixture, batches)
    states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((R, *leaf.shape), leaf.dtype), state)
    histories = np.full((R, 64), np.nan, np.float32)
    text = lowered(platform, run_all, (states, histories), batches, em.Settings(), np.int32(50))
    assert assert_exact_and_on_device(text, platform) > 0


@every_kind
@every_platform
def test_what_is_asked_of_a_mixture_stays_on_the_device(platform, family):
    _, mixture, batches = case(family)
    for consume in (log_prob_of, responsibilities_of, labels_of):
        text = lowered(platform, partial(map_log_joint, consume=consume), mixture, batches.rows)
        assert assert_exact_and_on_device(text, platform) > 0
    text = lowered(platform, partial(evidence, kind="soft"), mixture, batches, 0.0)
    assert assert_exact_and_on_device(text, platform) > 0
    key = jax.random.key(0)
    assert_exact_and_on_device(lowered(platform, lambda m: m.sample(key, 100), mixture), platform)
    text = lowered(platform, lambda m: (m.mean(), m.covariance(), m.covariances), mixture)
    assert assert_exact_and_on_device(text, platform) > 0


def test_a_chunk_is_turned_and_summed_without_products():
    """A CPU turns a chunk by a product with the identity, and sums its rows by one with ones. A GPU needs neither."""
    _, mixture, batches = case(SHELF["diag"])
    e_step = partial(expect, form=Form.FAST)
    cuda = assert_exact_and_on_device(lowered("cuda", e_step, mixture, batches), "cuda")
    text = lowered("cpu", e_step, mixture, batches)
    assert text.count("stablehlo.dot_general") == cuda + 2


def test_the_reader_sees_what_it_looks_for():
    """A product of JAX's default precision, and a call to the host, do not pass."""
    x = np.ones((4, 4), np.float32)
    with pytest.raises(AssertionError):
        assert_exact_and_on_device(lowered("cuda", lambda x: jnp.dot(x, x), x), "cuda")
    with pytest.raises(AssertionError):
        assert_exact_and_on_device("%0 = stablehlo.custom_call @xla_ffi_python_gpu_callback(%arg0)", "cuda")


def branches(jaxpr, platform):
    """How often a program of `platform` chooses between branches, as it runs."""
    count = 0
    for equation in jaxpr.eqns:
        for name, inner in equation.params.items():
            some = inner if isinstance(inner, (tuple, list)) else [inner]
            if name == "branches" and (platforms := equation.params.get("branches_platforms")):
                some = [some[next(i for i, of in enumerate(platforms) if of is None or platform in of)]]
            elif name == "branches":
                count += 1
            for one in some:
                if hasattr(one, "eqns") or hasattr(one, "jaxpr"):
                    count += branches(getattr(one, "jaxpr", one), platform)
    return count


def test_no_chunk_of_an_accelerator_chooses_a_branch():
    """A GPU's branch is taken by the host, which waits to be told. The last chunk is chosen by a select there."""
    _, mixture, batches = case(SHELF["full"], weights=np.linspace(0.0, 2.0, N))
    assert batches.n_chunks > 2
    program = jax.make_jaxpr(partial(expect, form=Form.FAST))(mixture, batches)
    assert branches(program.jaxpr, "cuda") == branches(program.jaxpr, "tpu") == 0
    assert branches(program.jaxpr, "cpu") == 2  # for rows and for weights
    assert branches(jax.make_jaxpr(expect)(mixture, batches).jaxpr, "cuda") == 1  # the form, once a step

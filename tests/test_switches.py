"""JAX's switches, which users' projects set: the library gives the same answers under each of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import GaussianMixture, Mixture, em
from tests.tolerances import assert_close

N, D, K = 60, 2, 2
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, D)) + np.repeat([[8.0], [0.0]], N // 2, axis=0)).astype(np.float32)
KEY = jax.random.key(0)

SWITCHES = {
    "ranks by hand": lambda: jax.numpy_rank_promotion("raise"),  # the suite has these two on: tests/__init__.py
    "dtypes by hand": lambda: jax.numpy_dtype_promotion("strict"),
    "ranks promoted": lambda: jax.numpy_rank_promotion("allow"),  # JAX's own defaults
    "dtypes promoted": lambda: jax.numpy_dtype_promotion("standard"),
    "no jit": lambda: jax.disable_jit(),
    "NaNs": lambda: jax.debug_nans(True),
    "infinities": lambda: jax.debug_infs(True),
    "x64": lambda: jax.enable_x64(True),
    "precision": lambda: jax.default_matmul_precision("bfloat16"),
    "device": lambda: jax.default_device(jax.devices()[-1]),
}


def start():
    return Mixture.create([0.5, 0.5], X[[0, -1]], np.stack([np.eye(D)] * K), dtype=np.float32)


def stepped():
    state = em.init(start(), X)
    return em.step(state, X).objective


def evaluated():
    mixture = start()
    x = jnp.asarray(X)
    return np.r_[mixture.log_prob(x), mixture.responsibilities(x).ravel(), mixture.predict(x)]


DONE = {
    "step": stepped,
    "evaluate": evaluated,
    "fit": lambda: jaxgmm.fit(KEY, X, K, n_restarts=2, max_steps=3, tol=0.0, dtype="float32").objective,
    "estimator": lambda: GaussianMixture(K, random_state=0).fit(X).score(X),
    "sample": lambda: np.mean(start().sample(KEY, 8), axis=0),
    "sweep": lambda: [cell.bic / N for cell in jaxgmm.sweep(KEY, X, [1, 2], ["diag"], 2, dtype="float32").cells],
}


@pytest.fixture(scope="module")
def plain():
    return {name: np.asarray(do(), np.float64) for name, do in DONE.items()}


@pytest.mark.parametrize("what", DONE)
@pytest.mark.parametrize("switch", SWITCHES)
def test_answers_are_the_same_under_each_switch(switch, what, plain):
    if switch == "no jit" and what == "sweep":
        pytest.skip("every operation by itself takes minutes; the parts of a sweep are run as fit")
    with SWITCHES[switch]():
        found = np.asarray(DONE[what](), np.float64)
    assert_close(found, plain[what], "log_density", np.float32, factor=4.0)


LESS_USED = {
    "blocks": lambda: jaxgmm.fit(KEY, jaxgmm.Blocks([X[:40], X[40:]]), K, "diag", n_restarts=2, max_steps=3).objective,
    "fit_many": lambda: jaxgmm.fit_many(KEY, [X[:50], X], K, "diag", max_steps=3).objective,
    "online": lambda: jaxgmm.online.update(jaxgmm.online.init(start()), X).objective,
    "partial_fit": lambda: GaussianMixture(K, random_state=0).partial_fit(X).partial_fit(X).score(X),
    "acceleration": lambda: jaxgmm.fit(KEY, X, K, "diag", init=start().means, acceleration="lbfgs").objective,
    "ratio": lambda: jaxgmm.likelihood_ratio_test(KEY, X, 1, "diag", 3).statistic / N,
    "bootstrap": lambda: jaxgmm.bootstrap(KEY, X, start(), 2, max_steps=2).objective,
}


@pytest.mark.parametrize("what", LESS_USED)
def test_what_jax_looks_for_is_a_value_here(what):
    """A history is NaN past its end, the logarithm of a weight of 0 is infinite: no error for sound rows."""
    plain = LESS_USED[what]()
    for switch in ("NaNs", "infinities"):
        with SWITCHES[switch]():
            found = LESS_USED[what]()
        one, other = (np.asarray(each, np.float64) for each in (found, plain))
        assert_close(one, other, "log_density", np.float32, factor=4.0)


@pytest.mark.parametrize("lead", [(0,), (2, 0)])
@pytest.mark.parametrize(("name", "tail"), [("log_prob", ()), ("predict", ()), ("responsibilities", (K,))])
def test_no_rows_have_no_densities(name, tail, lead):
    assert getattr(start(), name)(jnp.zeros((*lead, D))).shape == (*lead, *tail)

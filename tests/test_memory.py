"""No program of a family without matrices holds K matrices: nothing of size K·D² where the family has less."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import jaxgmm
from jaxgmm import Batches, em, online
from jaxgmm.families import SHELF
from jaxgmm.moments import FULL
from jaxgmm.search.criteria import evidence
from jaxgmm.search.driver import driver_of
from jaxgmm.search.escape import _propose
from jaxgmm.search.spurious import is_spurious

from . import tolerances

WITHOUT_MATRICES = [family for family in SHELF.values() if family.kind.is_diagonal]

N, K, D = 160, 24, 64
"""K·D² is more than anything that a fit may hold: rows N·D, responsibilities N·K, matrices D², and residuals of two
runs from all means on a chunk of 16 rows, 2·16·K·D."""

without_matrices = pytest.mark.parametrize("family", WITHOUT_MATRICES, ids=lambda family: family.name)


def inner_programs(value):
    """The programs among an equation's parameters."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from inner_programs(each)


def largest(program):
    """The most numbers of any array that a program makes on its way."""
    found = max((math.prod(var.aval.shape) for eqn in program.eqns for var in eqn.outvars), default=0)
    inner = [each for eqn in program.eqns for value in eqn.params.values() for each in inner_programs(value)]
    return max([found, *map(largest, inner)])


def rows():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


def mixture_of(family):
    means = rows()[:K]
    return jaxgmm.Mixture.create(np.full(K, 1 / K), means, np.broadcast_to(np.eye(D), (K, D, D)), family)


BATCHES = Batches.of(rows(), chunk_size=16)


def whole_fit(family, key, x):
    return jaxgmm.fit(key, x, K, family, n_restarts=2, max_steps=3, chunk_size=16)


PROGRAMS = {
    "fit": lambda family: jax.make_jaxpr(lambda key, x: whole_fit(family, key, x))(jax.random.key(0), rows()),
    "nearest": lambda family: jax.make_jaxpr(
        lambda seeds: driver_of(BATCHES).nearest_to(seeds, np.full(2, K, np.int32), family.kind)
    )(np.stack([rows()[:K]] * 2)),
    "step": lambda family: jax.make_jaxpr(lambda mixture, batches: em.step(em.init(mixture, batches), batches))(
        mixture_of(family), BATCHES
    ),
    "spurious": lambda family: jax.make_jaxpr(lambda mixture: is_spurious(mixture, 1e-6))(mixture_of(family)),
    "escape": lambda family: jax.make_jaxpr(lambda mixture: _propose(mixture, BATCHES))(mixture_of(family)),
    "criteria": lambda family: jax.make_jaxpr(lambda mixture: evidence(mixture, BATCHES, 0.0, kind="soft"))(
        mixture_of(family)
    ),
    "online": lambda family: jax.make_jaxpr(lambda mixture: online._init(mixture, 1.0))(mixture_of(family)),
    "log_prob": lambda family: jax.make_jaxpr(lambda mixture: mixture.log_prob(rows()[:16]))(mixture_of(family)),
    "covariance": lambda family: jax.make_jaxpr(lambda mixture: mixture.covariance())(mixture_of(family)),
}


@without_matrices
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_holds_a_matrix_for_each_component(name, family):
    assert largest(PROGRAMS[name](family).jaxpr) < K * D**2


def test_the_largest_array_of_a_program_is_seen_where_it_is():
    """Also within loops and programs: a full fit holds K matrices."""
    assert largest(PROGRAMS["step"](SHELF["full"]).jaxpr) >= K * D**2


@pytest.mark.parametrize("family", SHELF.values(), ids=lambda family: family.name)
def test_a_weighted_sum_of_covariances_is_that_of_the_matrices(family):
    random = np.random.default_rng(1)
    factors = random.normal(size=(K, D, D)).astype(np.float32) / D**0.5
    scales = family.read(jnp.asarray(factors @ np.swapaxes(factors, 1, 2) + np.eye(D)), D)
    weights = random.random(K).astype(np.float32)
    dense = np.broadcast_to(scales.dense(), (K, D, D))
    expected = np.sum(weights[:, None, None] * dense.astype(np.float64), axis=0)
    for of, by in ((scales, jnp.asarray(weights)), (jax.tree.map(np.asarray, scales), weights)):
        tolerances.assert_close(of.weighted_sum(by), expected, "matrices", np.float32)
    kept = family.kind.scatter_of(jnp.asarray(weights), scales)
    assert kept.shape == family.kind.shape(K, D)
    expected = family.kind.project(FULL.scatter_of(jnp.asarray(weights), scales))
    tolerances.assert_close(kept, expected, "matrices", np.float32)


MEASURE = """
    import os, sys
    import jax, numpy as np
    import jaxgmm

    family, is_copied, n_components, n_features = sys.argv[1], sys.argv[2] == "copied", 256, 1000

    def megabytes(name):
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith(name)).split()[1]) / 1024

    def fitted(n_rows, n_features, n_components):
        x = np.random.default_rng(0).standard_normal((n_rows, n_features), np.float32)
        x = x if is_copied else jax.block_until_ready(jax.device_put(x))
        before = megabytes("VmRSS")
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")  # VmHWM begins anew
        fit = dict(n_restarts=1, max_steps=3, init="random_rows")
        jax.block_until_ready(jaxgmm.fit(jax.random.key(0), x, n_components, family, **fit))
        return megabytes("VmHWM") - before

    fitted(20_000, 100, 8)  # what XLA's compiler itself takes
    print(fitted(20_000, n_features, n_components))
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.default_flags  # the memory that users' programs take
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux tells a process's peak")
@without_matrices
def test_a_fit_of_many_features_takes_little_more_than_the_data(family):
    """256 components of 1000 features: K matrices would take 1 GB. A large JAX array is used where it lies, and rows of
    NumPy's, which one of the families is given, are copied once (80 MB)."""
    rows, megabytes = ("copied", 80 + 200) if family.name == "spherical" else ("lying", 200)
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), family.name, rows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    assert float(done.stdout) < megabytes

"""Compiled programs: few live at a time, small problems share them, and what NumPy does instead agrees with them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Status
from jaxgmm._base import programs
from jaxgmm._base import threefry as _threefry
from jaxgmm._base.programs import Effort, program
from jaxgmm.evaluation import evaluate_few, labels_of, log_prob_of, responsibilities_of
from jaxgmm.families import SHELF
from jaxgmm.search import one_by_one, stepping
from jaxgmm.search import start as starting
from jaxgmm.search.seeding import SEEDINGS, host
from jaxgmm.search.seeding.sample import Columns
from tests import oracle
from tests.laws import each_kind_in_a_dtype
from tests.stranger import SharedSpherical
from tests.tolerances import assert_close, assert_same_mixture

COMPILED = "/jax/core/compile/backend_compile_duration"
N, D, K = 240, 3, 3
BLOBS = oracle.blobs(seed=8, n_rows=N, n_features=D, n_components=K, distance=3.0)
WEIGHTS = np.random.default_rng(3).uniform(0.5, 2.0, N) * (np.arange(N) % 7 > 0)

kinds = pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])


# Programs


def test_few_are_kept_and_those_that_go_come_back(monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 4)
    monkeypatch.setattr(programs, "GIVEN_BACK", 2)
    monkeypatch.setattr(programs, "_PROGRAMS", type(programs._PROGRAMS)())
    double = program(lambda x: 2 * x, hurried=True)
    for length in (*range(1, 9), 1):
        assert np.array_equal(double(np.arange(length)), 2 * np.arange(length))
        assert programs.n_kept() <= 4


@pytest.mark.parametrize(
    "option", [{"xla_no_such_option_of_ours": True}, {"xla_cpu_experimental_ynn_fusion_type": "NO_SUCH_VALUE"}], ids=str
)
def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch, option):
    monkeypatch.setitem(programs.OPTIONS, Effort.BRISK, option)
    monkeypatch.setattr(programs, "_UNKNOWN", set())
    triple = program(lambda x: 3 * x)
    assert float(triple.compiled(Effort.BRISK, np.float32(2.0))) == 6.0
    assert programs._UNKNOWN == set(option)


def test_a_program_is_a_function_within_transformations():
    square = program(lambda x, *, power: x**power, static="power", hurried=True)
    assert float(jax.grad(lambda x: square(x, power=3))(2.0)) == 12.0
    assert np.array_equal(jax.vmap(lambda x: square(x, power=2))(jnp.arange(3.0)), [0.0, 1.0, 4.0])
    known = np.float32(3.0)
    assert float(jax.jit(lambda x: x + square(known, power=2))(1.0)) == 10.0


@dataclass(frozen=True)
class Two:
    x: Any
    y: Any


def test_structures_that_jax_takes_for_equal_are_told_apart():
    """Those of dataclasses with as many fields. JAX mixes up one pair in some hundred, so there are many pairs."""

    def other(length):
        class Pair(Two):
            def value(self):
                return jnp.full(length, self.x + self.y)

        return jax.tree_util.register_dataclass(dataclass(frozen=True)(Pair))

    value = program(lambda pair: pair.value())
    for length in range(1, 301):
        of_kind = other(length)
        assert jax.eval_shape(lambda x, of_kind=of_kind: value(of_kind(x, x)), np.float32(1.0)).shape == (length,)


def test_small_tables_of_other_lengths_counts_and_starts_compile_nothing(events):
    """The first fit and prediction may; the bic of another mixture is asked of the same program."""
    x, key = BLOBS.x.astype(np.float32), jax.random.key(1)
    GaussianMixture(K, random_state=0, max_iter=300).fit(x).predict(x)
    events.clear()
    for n_components, n_rows, how in (
        (1, N, {}),
        (5, 100, {"n_init": 3}),
        (16, 180, {"init_params": "random_from_data"}),
        (K, N, {"means_init": BLOBS.start[1]}),
    ):
        found = GaussianMixture(n_components, random_state=1, max_iter=300, **how).fit(x[:n_rows])
        assert found.means_.shape == (n_components, D)
        found.bic(x[:77])
        found.predict_proba(x)
    GaussianMixture(K, random_state=1).fit(x, sample_weight=WEIGHTS)
    jaxgmm.fit(key, x, 16, n_restarts=70, max_steps=2)
    with warnings.catch_warnings(record=True) as said:  # of what is looked at on the host
        warnings.simplefilter("always")
        GaussianMixture(1).fit(100.0 * x[:, [0, 1, 1]])
    assert any("rounding errors" in str(of.message) for of in said)
    assert events.count(COMPILED) == 0


# What buckets must not change


@each_kind_in_a_dtype
@pytest.mark.parametrize("start", ["seeds", "means", "labels", "responsibilities", "mixture", "no weight"])
def test_a_small_search_is_the_search_that_it_is(family, start, dtype, monkeypatch):
    """Steps by NumPy, and by programs with room for rows and padded components, come to what exact shapes come to; of
    one run, since among several that end alike rounding chooses."""
    x = BLOBS.x.astype(dtype)
    own = np.random.default_rng(1)
    init = {
        "seeds": "k-means",
        "means": x[:K].copy(),
        "labels": own.integers(0, K, N),
        "responsibilities": own.dirichlet(np.ones(K), N).astype(dtype),
        "mixture": jaxgmm.Mixture.create(*BLOBS.start, family, dtype=dtype),
        "no weight": jaxgmm.Mixture.create([0.5, 0.5, 0.0], *BLOBS.start[1:], family, dtype=dtype),
    }[start]
    how = {"init": init, "sample_weight": WEIGHTS, "n_restarts": 1, "tol": 0.0, "max_steps": 5}

    def ends():
        return jaxgmm.fit(jax.random.key(2), x, K, family, **how)

    assert programs.is_small(N, D, K, 1)
    by_numpy = ends()
    monkeypatch.setattr(one_by_one, "is_by_numpy", lambda *_: False)
    padded = ends()
    monkeypatch.setattr(programs, "SMALL", 0)
    exact = ends()
    assert int(exact.n_steps) == 5
    for small in (by_numpy, padded):
        assert int(small.n_steps) == int(exact.n_steps)
        assert small.mixture.means.shape == exact.mixture.means.shape
        assert small.history.shape == exact.history.shape
        assert_close(small.history, exact.history, "objective", dtype)
        assert_same_mixture(small.mixture, exact.mixture, dtype)


def test_the_steps_of_small_fits_need_no_program(monkeypatch):
    """Of any family on the shelf, in a fit, a search or a polished end; but others' families may know JAX alone."""

    def refused(*_, **__):
        raise AssertionError("a program was asked for")

    monkeypatch.setattr(stepping._run, "compiled", refused)
    monkeypatch.setattr(stepping._run, "held", refused)
    x, key = BLOBS.x.astype(np.float32), jax.random.key(1)
    how = {"n_restarts": 2, "max_steps": 50}
    for family in SHELF:
        assert jaxgmm.fit(key, x, K, family, polish=True, **how).status == Status.CONVERGED
    assert len(jaxgmm.sweep(key, x, [1, 3], ["full", "diag"], 2, max_steps=20).results) == 4
    assert np.isfinite(GaussianMixture(K, random_state=0).fit(np.tile(x, (80, 1))).lower_bound_)  # 19,200 rows
    with pytest.raises(AssertionError, match="a program was asked for"):
        jaxgmm.fit(key, x, K, SharedSpherical(), **how)


@kinds
def test_few_rows_are_evaluated_as_many_are(family, dtype):
    mixture = jaxgmm.fit(jax.random.key(0), BLOBS.x.astype(dtype), K, family, n_restarts=2).mixture
    x = jnp.asarray(BLOBS.x, dtype)
    found = {consume: evaluate_few(mixture, x, consume) for consume in (log_prob_of, responsibilities_of, labels_of)}
    whole = jax.jit(lambda m, x: (m.log_prob(x), m.responsibilities(x), m.predict(x)))(mixture, x)
    assert_close(found[log_prob_of], whole[0], "log_density", dtype)
    assert_close(found[responsibilities_of], whole[1], "responsibilities", dtype)
    assert np.array_equal(found[labels_of], whole[2])


UNITS = np.array([[1.0, 0.0, 0.0], [4.0, 1.0, 0.0], [8.0, 2.0**60, 2.0**50]])


@pytest.mark.parametrize("case", ["units", "far mean", "no weight", "NaN"])
def test_extremes_are_evaluated_as_many_rows_are(case, dtype):
    """Features in very different units; a mean whose square overflows; a row with NaN, a component of weight 0."""
    weights, means, covariances = np.array([0.5, 0.5]), np.zeros((2, 3)), np.stack([UNITS @ UNITS.T, np.eye(3)])
    x = np.array([[1.0, 4.0, 8.0], [0.0, 1.0, 2.0**60], [0.0, 0.0, 0.0]], dtype)
    if case == "far mean":
        means[1] = np.finfo(dtype).max / 2
    if case == "no weight":
        weights = np.array([0.0, 1.0])
    if case == "NaN":
        weights, x[0, 1] = np.array([0.0, 1.0]), np.nan
    mixture = jaxgmm.Mixture.create(weights, means, covariances, "full", dtype)
    whole = jax.jit(lambda m, x: (m.log_prob(x), m.responsibilities(x), m.predict(x)))(mixture, x)
    log_prob, responsibilities = (evaluate_few(mixture, x, of) for of in (log_prob_of, responsibilities_of))
    finite = np.isfinite(whole[0])
    assert np.array_equal(log_prob[~finite], whole[0][~finite], equal_nan=True)
    largest = float(np.max(np.abs(whole[0][finite])))
    assert_close(log_prob[finite] / largest, np.asarray(whole[0])[finite] / largest, "log_density", dtype)
    assert_close(responsibilities[finite], np.asarray(whole[1])[finite], "responsibilities", dtype)
    assert np.array_equal(evaluate_few(mixture, x, labels_of), whole[2])


# What NumPy does


def test_random_numbers_are_jax_s(dtype):
    key = jax.random.key(123)
    data = np.asarray(jax.random.key_data(key))
    assert _threefry.matches(key)
    assert np.array_equal(_threefry.split(data, (3, 2)), jax.random.key_data(jax.random.split(key, (3, 2))))
    assert np.array_equal(_threefry.fold_in(data, 77), jax.random.key_data(jax.random.fold_in(key, 77)))
    assert np.array_equal(_threefry.uniform(data, 50, dtype), jax.random.uniform(key, (50,), dtype))
    assert np.array_equal(jax.random.key_data(_threefry.key(123)), data)
    assert not _threefry.matches(jax.random.key(1, impl="rbg"))


@pytest.mark.parametrize("name", SEEDINGS)
def test_seeds_of_numpy_are_those_of_the_programs(name, dtype):
    """The same draws by the same rules: for a count below the padding, too."""
    key, room, count, n_runs = jax.random.key(4), 8, 5, 2
    batches = Batches.of(BLOBS.x.astype(dtype), n_components=room, dtype=dtype)
    keys = starting.pairs_of_keys(key, n_runs)
    theirs = starting.seeds_of(keys, np.full(n_runs, count, np.int32), batches, seeding=name, n_components=room)
    origin = np.asarray(batches.origin)
    rows = Columns(np.ascontiguousarray((BLOBS.x.astype(dtype) - origin).T), np.ones(N, dtype))
    ours = host.seeds(np.asarray(jax.random.key_data(keys)), rows, name, room, count) + origin
    assert_close(ours[:, :count], np.asarray(theirs)[:, :count], "means", dtype, factor=float(np.std(BLOBS.x)))


def test_every_family_knows_the_shape_of_its_covariances():
    for family in SHELF.values():
        shapes = jaxgmm.families.shape_of_scales(family, 4, D, np.dtype(np.float32))
        fitted = jaxgmm.fit(jax.random.key(0), BLOBS.x.astype(np.float32), 4, family, n_restarts=1, max_steps=1)
        assert [leaf.shape for leaf in jax.tree.leaves(fitted.mixture.scales)] == [
            leaf.shape for leaf in jax.tree.leaves(shapes)
        ]


@pytest.mark.parametrize(("n_features", "n_programs"), [(8, 1), (9, 2)])
def test_a_medium_search_of_few_features_makes_all_steps_with_one_program(n_features, n_programs, rng):
    """Where clusters lie so far apart that FAST alone would not do."""
    x = rng.normal(size=(5000, n_features)) + 40.0 * (np.arange(5000) % 2)[:, None]
    before = set(programs._PROGRAMS)
    jaxgmm.sweep(jax.random.key(0), x.astype(np.float32), 10, "diag", 48, max_steps=3, tol=0.0, init="random_rows")
    made = [key for key in programs._PROGRAMS if key not in before and key[0] is stepping._run]
    assert len(made) == n_programs


def test_a_second_medium_search_compiles_nothing(rng):
    """On another table its runs make other numbers of steps."""
    kept = []
    for distance in (40.0, 2.0):
        x = rng.normal(size=(5000, 2)) + distance * (np.arange(5000) % 2)[:, None]
        swept = jaxgmm.sweep(jax.random.key(0), x.astype(np.float32), [2, 5], "diag", 48, max_steps=5)
        kept.append((set(programs._PROGRAMS), {len(result.history) for result in swept.results.values()}))
    (first, lengths), (second, others) = kept
    assert lengths != others
    assert second <= first


@pytest.mark.parametrize("size", [1e-20, 1e-19, 1.0])
def test_variances_below_the_least_number_are_none_by_numpy_as_well(size, monkeypatch):
    x = (size * BLOBS.x).astype(np.float32)

    def ends():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that all collapsed
            return jaxgmm.fit(jax.random.key(0), x, K, "diag", n_restarts=2, ridge=0.0)

    ours = ends()
    monkeypatch.setattr(one_by_one, "is_by_numpy", lambda *_: False)
    theirs = ends()
    assert np.array_equal(ours.restarts.status, theirs.restarts.status)
    assert (ours.status == Status.CONVERGED) == (size == 1.0)


def test_covariances_that_users_read_are_jax_s():
    """Of NumPy's arrays, too: a mixture of them can be fitted further."""
    for family in SHELF.values():
        scales = family.read(np.stack([np.eye(D, dtype=np.float32)] * K), D)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(scales))

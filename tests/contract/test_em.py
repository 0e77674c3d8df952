"""The laws of EM: over every family on the shelf, in both dtypes, whole, in chunks and weighted, from one start."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgmm import Batches, Mixture, Status, em
from jaxgmm._base.programs import Effort
from jaxgmm.covariances import Form
from jaxgmm.density import normalise
from jaxgmm.em import in_turn
from jaxgmm.em.expectation import expect
from jaxgmm.families import SHELF
from jaxgmm.moments import FULL, Moments
from tests import oracle
from tests.laws import ITERATIVE, each_kind_in_a_dtype, every_family, every_kind
from tests.tolerances import assert_close, assert_same_mixture, assert_same_parameters, tolerance

N, D, K, STEPS = 100, 3, 3, 10
BLOBS = oracle.blobs(seed=3, n_rows=N, n_features=D, n_components=K)
WEIGHTS = np.random.default_rng(4).uniform(0.2, 3.0, N)
COUNTS = np.where(np.arange(N) % 4 == 0, 2, 1)  # 125 rows when repeated: the bucket of 128 that N = 100 is in, too
RIDGE = 1e-3


class Case(NamedTuple):
    """A start and rows, ready to run."""

    mixture: Mixture
    batches: Batches
    weights: np.ndarray
    settings: em.Settings
    dtype: np.dtype


CASES = {"whole, float32": (None, None), "chunked, weighted, float64": (WEIGHTS, 32)}
"""What changes together makes half as many programs. `test_chunks_do_not_matter` has rows whole and in chunks in both
dtypes, `test_weights_of_1_do_not_matter` both ways of having no weights, and `test_float32.py` the same rows in both
dtypes."""


def create(family, dtype, start=BLOBS.start):
    return Mixture.create(start.weights, start.means, start.covariances, family=family, dtype=dtype)


def cut(dtype, x=BLOBS.x, weights=None, chunk_size=None):
    return Batches.of(np.asarray(x, dtype), weights, chunk_size, n_components=K, dtype=dtype)


@pytest.fixture(params=CASES)
def case(request, family):
    weights, chunk_size = CASES[request.param]
    dtype, settings = np.dtype(request.param.split()[-1]), em.Settings(tol=0.0, ridge=RIDGE)
    with jax.enable_x64(dtype == np.float64):
        batches = cut(dtype, weights=weights, chunk_size=chunk_size)
        yield Case(create(family, dtype), batches, np.ones(N) if weights is None else weights, settings, dtype)


def run(mixture, batches, n_steps=STEPS, tol=0.0, ridge=RIDGE):
    return em.run(em.init(mixture, batches), batches, em.Settings(tol=tol, ridge=ridge), n_steps)


def walk(case, n_steps=STEPS):
    """The states 0, 1, … n_steps, by `run` one step at a time: it is compiled already, and resumes."""
    states = [em.init(case.mixture, case.batches)]
    for i in range(n_steps):
        states.append(em.run(states[-1], case.batches, case.settings, i + 1))
    return states


@every_family
def test_the_objective_never_falls(family, case):
    """Without a ridge, from step to step, beyond rounding."""
    settings = em.Settings(tol=0.0, ridge=0.0)
    objectives = [float(state.objective) for state in walk(case._replace(settings=settings), 20)]
    allowed = tolerance("fall", case.dtype)
    for before, after in pairwise(objectives):
        assert after >= before - allowed.absolute - allowed.relative * abs(before)
    assert objectives[-1] > objectives[0] + 0.1  # there was something to gain


@every_family
def test_the_objective_is_that_of_the_mixture_returned(family, case):
    """state.objective = weighted mean of log_prob under state.mixture; its moments are that mixture's, too."""
    state = run(case.mixture, case.batches)
    log_prob = np.asarray(state.mixture.log_prob(BLOBS.x.astype(case.dtype)), np.float64)
    assert_close(state.objective, np.average(log_prob, weights=case.weights), "objective", case.dtype)
    again = em.init(state.mixture, case.batches)
    assert_close(state.objective, again.objective, "objective", case.dtype)
    assert_close(state.moments.mass, again.moments.mass, "weights", case.dtype, factor=N)
    assert state.objective.dtype == state.mixture.means.dtype == state.moments.mass.dtype == case.dtype
    assert state.n_steps.dtype == state.status.dtype == np.int32


@every_kind
def test_run_is_step_by_step(family, dtype):
    """run(n) = n times step; only a run says why it ended."""
    mixture, batches = create(family, dtype), cut(dtype, weights=WEIGHTS)
    settings = em.Settings(tol=0.0, ridge=RIDGE)
    last = em.init(mixture, batches)
    for _ in range(STEPS):
        last = em.step(last, batches, settings)
    state = run(mixture, batches)
    assert_same_mixture(state.mixture, last.mixture, dtype)
    assert_close(state.objective, last.objective, "objective", dtype)
    assert int(state.n_steps) == int(last.n_steps) == STEPS
    assert (int(state.status), int(last.status)) == (Status.MAX_STEPS, Status.RUNNING)


@every_family
def test_em_is_the_oracle_s(family, case):
    """Ten steps of loops in float64 NumPy come to the same mixture and objective."""
    projected = create(family, case.dtype)
    start = oracle.Parameters(*(np.asarray(a, np.float64) for a in (projected.weights, projected.means)), None)
    start = start._replace(covariances=np.asarray(projected.covariances, np.float64))
    rows = BLOBS.x.astype(case.dtype)
    parameters, objective = oracle.em(rows, start, family.name, STEPS, RIDGE, case.weights)[-1]
    state = run(projected, case.batches)
    double = case.dtype == np.float64
    inner = family.name in ITERATIVE and double
    assert_close(state.objective, objective, "objective", case.dtype, factor=1e3 if inner else 1.0)
    got = (state.mixture.weights, state.mixture.means, state.mixture.covariances)
    assert_same_parameters(got, parameters, case.dtype, "inner_iteration" if inner else "oracle" if double else None)


@every_kind
def test_integer_weights_are_repeated_rows(family, dtype):
    """A row of weight 2 counts as two rows of weight 1."""
    weighted = run(create(family, dtype), cut(dtype, weights=COUNTS))
    rows = np.repeat(BLOBS.x, COUNTS, axis=0)
    repeated = run(create(family, dtype), cut(dtype, rows, weights=np.ones(len(rows))))
    assert_same_mixture(weighted.mixture, repeated.mixture, dtype)
    assert_close(weighted.objective, repeated.objective, "objective", dtype)


@every_kind
def test_the_scale_of_the_weights_does_not_matter(family, dtype):
    """The objective is per unit of weight; so is everything else."""
    one = run(create(family, dtype), cut(dtype, weights=WEIGHTS))
    for scale in (1e-6, 1e6):
        scaled = run(create(family, dtype), cut(dtype, weights=WEIGHTS * scale))
        assert_same_mixture(scaled.mixture, one.mixture, dtype)
        assert_close(scaled.objective, one.objective, "objective", dtype)


@every_kind
def test_zero_weight_is_an_absent_row(family, dtype):
    """Even where such a row holds what no density can be computed of, and where it comes first."""
    keep = np.arange(N) % 4 != 0
    x = np.where(keep[:, None], BLOBS.x, 1e30)
    zero = run(create(family, dtype), cut(dtype, x, weights=keep.astype(float)))
    absent = run(create(family, dtype), cut(dtype, BLOBS.x[keep], weights=np.ones(keep.sum())))
    assert_same_mixture(zero.mixture, absent.mixture, dtype)
    assert_close(zero.objective, absent.objective, "objective", dtype)


@every_kind
def test_chunks_do_not_matter(family, dtype):
    """In four chunks the sums are those of the whole."""
    whole = run(create(family, dtype), cut(dtype, weights=WEIGHTS))
    chunked = run(create(family, dtype), cut(dtype, weights=WEIGHTS, chunk_size=32))
    assert_same_mixture(chunked.mixture, whole.mixture, dtype)
    assert_close(chunked.objective, whole.objective, "objective", dtype)


@every_kind
def test_weights_of_1_do_not_matter(family):
    """Nor where there are several chunks of them."""
    plain = run(create(family, np.float32), cut(np.float32))
    ones = run(create(family, np.float32), cut(np.float32, weights=np.ones(N), chunk_size=32))
    assert_same_mixture(ones.mixture, plain.mixture, np.float32)
    assert_close(ones.objective, plain.objective, "objective", np.float32)


@pytest.mark.parametrize("chunk_size", [10, 32, 50, 99, 100])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_no_size_of_chunks_matters(chunk_size, weights):
    """Whether N fills the chunks or not, with and without weights: how rows are cut is no family's business, nor the
    dtype's (`test_chunks_do_not_matter` has both)."""
    mixture = create(SHELF["diag"], np.float32)
    whole = expect_once(mixture, cut(np.float32, weights=weights))
    chunked = expect_once(mixture, cut(np.float32, weights=weights, chunk_size=chunk_size))
    for name in Moments._fields:
        assert_close(getattr(chunked, name), getattr(whole, name), "moments", np.float32, factor=N, note=name)


expect_once = jax.jit(expect)


@every_family
def test_the_order_of_rows_does_not_matter(family, case, rng):
    """Nor does the order of components: they come back in the order of the start."""
    state = run(case.mixture, case.batches)
    order = rng.permutation(N)
    moved = cut(case.dtype, BLOBS.x[order], case.weights[order], case.batches.chunk_size)
    assert_same_mixture(run(case.mixture, moved).mixture, state.mixture, case.dtype)
    turned = run(create(family, case.dtype, oracle.Parameters(*(a[::-1] for a in BLOBS.start))), case.batches).mixture
    parts = (turned.weights[::-1], turned.means[::-1], turned.covariances[::-1])
    expected = (state.mixture.weights, state.mixture.means, state.mixture.covariances)
    # A family that starts an inner iteration from the heaviest component's shape may start it elsewhere.
    assert_same_parameters(parts, expected, case.dtype, "inner_iteration" if family.name in ITERATIVE else None)


@jax.jit
def side_by_side(mixtures, batches, settings):
    def one(mixture):
        return em.run(em.init(mixture, batches), batches, settings, 50)

    return jax.vmap(one)(mixtures)


@each_kind_in_a_dtype
def test_vmap_changes_nothing(family, dtype):
    """Three starts side by side end where each ends alone, and each stops for itself; in chunks, with weights."""
    batches = cut(dtype, weights=WEIGHTS, chunk_size=32)
    starts = [
        create(family, dtype, BLOBS.start._replace(means=BLOBS.start.means + 0.2 * i * np.ones(D))) for i in range(3)
    ]
    settings = em.Settings(tol=1e-3, ridge=RIDGE)
    alone = [em.run(em.init(start, batches), batches, settings, 50) for start in starts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    together = side_by_side(stacked, batches, settings)
    for i, single in enumerate(alone):
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert int(lane.status) == int(single.status)
        assert int(lane.n_steps) == int(single.n_steps)
        assert_close(lane.objective, single.objective, "objective", dtype)
        assert_same_mixture(lane.mixture, single.mixture, dtype)


@pytest.mark.parametrize("family", [SHELF["full"], SHELF["diag"]], ids=["full", "diag"])
def test_jit_changes_nothing(family, x64):
    """The same step, operation by operation, under `jax.disable_jit`; with matrices and without."""
    dtype = np.dtype(np.float64)
    tiny = oracle.blobs(seed=5, n_rows=7, n_features=2, n_components=2)
    mixture, batches = create(family, dtype, tiny.start), cut(dtype, tiny.x, chunk_size=8)
    settings = em.Settings(tol=0.0, ridge=RIDGE)
    state = em.init(mixture, batches)
    compiled = em.step(state, batches, settings)
    with jax.disable_jit():
        plain = em.step(state, batches, settings)
    assert_same_mixture(plain.mixture, compiled.mixture, dtype)
    assert_close(plain.objective, compiled.objective, "objective", dtype)


@every_kind
def test_responsibilities_sum_to_one(family, case):
    """In every row, and they are the softmax of the log joint; their weighted sums are the masses."""
    mixture = run(case.mixture, case.batches).mixture
    x = BLOBS.x.astype(case.dtype)
    shares = np.asarray(mixture.responsibilities(x), np.float64)
    assert shares.shape == (N, K)
    assert np.all(shares >= 0)
    assert_close(shares.sum(axis=1), np.ones(N), "sum_to_one", case.dtype)
    joint = np.asarray(mixture.log_joint(x), np.float64)
    assert_close(shares, np.exp(joint - oracle.log_sum_exp(joint)[:, None]), "responsibilities", case.dtype)
    mass = np.asarray(em.init(mixture, case.batches).moments.mass)
    assert_close(mass, case.weights @ shares, "weights", case.dtype, factor=N)
    assert np.array_equal(np.asarray(mixture.predict(x)), joint.argmax(axis=1))


@every_kind
def test_max_steps_0_is_the_start(family, case):
    """No step is made: the start itself, at MAX_STEPS."""
    state = run(case.mixture, case.batches, n_steps=0)
    assert int(state.n_steps) == 0
    assert int(state.status) == Status.MAX_STEPS
    for got, given in zip(jax.tree.leaves(state.mixture), jax.tree.leaves(case.mixture), strict=True):
        assert np.array_equal(got, given)


@every_kind
def test_tol(family, case):
    """0 makes exactly max_steps steps, even at a fixed point; otherwise the last gain, and no other, is under tol."""
    long = run(case.mixture, case.batches, n_steps=400)
    assert (int(long.n_steps), int(long.status)) == (400, Status.MAX_STEPS)
    tol = 1e-3
    state = run(case.mixture, case.batches, n_steps=400, tol=tol)
    assert int(state.status) == Status.CONVERGED
    objectives = np.array([float(s.objective) for s in walk(case, int(state.n_steps))])
    gains = np.abs(np.diff(objectives))
    assert gains[-1] < tol
    assert np.all(gains[:-1] >= tol)


@every_kind
def test_a_finished_state_comes_back_unchanged(family, case):
    """Bit by bit, whatever the step limit."""
    settings = em.Settings(tol=1e-3, ridge=RIDGE)
    done = em.run(em.init(case.mixture, case.batches), case.batches, settings, 400)
    assert int(done.status) == Status.CONVERGED
    again = em.run(done, case.batches, settings, 1000)
    for got, given in zip(jax.tree.leaves(again), jax.tree.leaves(done), strict=True):
        assert np.array_equal(got, given)


@every_kind
def test_a_run_resumes(family, case):
    """run(…, 5) and then run(…, 10) is run(…, 10), to the bit."""
    short = run(case.mixture, case.batches, n_steps=5)
    assert (int(short.n_steps), int(short.status)) == (5, Status.MAX_STEPS)
    resumed = em.run(short, case.batches, case.settings, 10)
    for got, given in zip(jax.tree.leaves(resumed), jax.tree.leaves(run(case.mixture, case.batches)), strict=True):
        assert np.array_equal(got, given)


@every_kind
def test_numpy_input_follows_jax_s_rule(family):
    """float64 NumPy input with x64 off computes float32, without a warning; float32 stays float32 with x64 on."""
    start, x = BLOBS.start, BLOBS.x
    assert x.dtype == np.float64
    mixture = Mixture.create(*start, family=family)
    state = em.run(em.init(mixture, x), x, em.Settings(tol=0.0, ridge=RIDGE), STEPS)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.mixture, state.objective))} == {np.dtype(np.float32)}
    with jax.enable_x64(True):
        again = jax.eval_shape(run, create(family, np.float32), cut(np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves((again.mixture, again.objective))} == {np.dtype(np.float32)}


@every_kind
def test_float64_values_stay_float64_with_the_switch_off(family):
    """A mixture that is float64 already is run in float64, wherever JAX's switch stands."""
    mixture = create(family, np.float64)
    state = run(mixture, cut(np.float64, weights=WEIGHTS))
    assert state.objective.dtype == state.mixture.means.dtype == np.float64
    with jax.enable_x64(True):
        expected = run(mixture, cut(np.float64, weights=WEIGHTS))
    assert_same_mixture(state.mixture, expected.mixture, np.float64)


@every_family
def test_step_is_differentiable_in_reverse(family, x64, rng):
    """The gradient of the objective after a step, along random directions, is its central difference."""
    mixture, batches = create(family, np.float64), cut(np.float64, chunk_size=32)
    settings = em.Settings(tol=0.0, ridge=RIDGE)

    @jax.jit
    @jax.value_and_grad
    def objective(mixture):
        return em.step(em.init(mixture, batches), batches, settings).objective

    _, gradient = objective(mixture)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    for _ in range(3):
        direction = direction_of(mixture, rng)
        along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        slope = difference(lambda mixture: objective(mixture)[0], mixture, direction)
        assert_close(along, slope, "derivatives", np.float64)


@pytest.mark.parametrize("family", [SHELF["full"], SHELF["tied"]], ids=["full", "tied"])
def test_derivatives_are_finite_where_a_factorisation_is_made_again(family, x64):
    """The rounding of a singular table under a ridge that is smaller: in reverse as forwards."""
    x = np.array(BLOBS.x)
    x[:, -1] = x[:, 0]
    batches = cut(np.float64, x)
    mixture, settings = create(family, np.float64), em.Settings(tol=0.0, ridge=1e-18)

    def volume(mixture):
        return jnp.sum(em.step(em.init(mixture, batches), batches, settings).mixture.scales.log_det())

    ones = jax.tree.map(jnp.ones_like, mixture)
    value, along = jax.jit(lambda mixture: jax.jvp(volume, (mixture,), (ones,)))(mixture)
    gradient = jax.jit(jax.grad(volume))(mixture)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((value, along, gradient)))


@every_kind
def test_a_step_inside_a_user_s_shard_map(family):
    """JAX then follows along which axes of the mesh values differ, and asks that they agree."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    mixture, x = create(family, np.float32), jnp.asarray(BLOBS.x, jnp.float32)

    def stepped(x):
        return em.step(em.init(mixture, x), x, em.Settings(ridge=RIDGE)).objective

    rows = jax.sharding.PartitionSpec("i")
    inside = jax.jit(jax.shard_map(lambda x: stepped(x)[None], mesh=mesh, in_specs=rows, out_specs=rows))(x)
    assert_close(inside[0] / N, jax.jit(stepped)(x) / N, "objective", np.float32)


def test_log_densities_and_responsibilities_of_extreme_rows(x64):
    """A row out of every component's reach is shared equally, and derivatives ignore it; NaN stays in its row."""
    inf, sound = np.inf, jnp.array([0, 1, 3])
    joint = jnp.array([[0.0, -inf, np.nan, -inf], [0.0, -inf, 0.0, 1.0]])
    log_prob, shares = normalise(joint)
    assert_close(log_prob[sound], np.array([np.log(2.0), -inf, 1.0]), "log_density", np.float64)
    assert_close(shares[:, sound], np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 1.0]]), "matrices", np.float64)
    assert np.isnan(log_prob[2])
    assert np.all(np.isnan(shares[:, 2]))
    gradient = jax.grad(lambda joint: normalise(joint)[0][jnp.array([0, 3])].sum())(joint)
    assert_close(gradient[:, sound], np.array([[0.5, 0.0, 0.0], [0.5, 0.0, 1.0]]), "matrices", np.float64)


@every_family
def test_run_is_differentiable_forwards(family, x64, rng):
    """The directional derivative of the objective after ten steps is its central difference."""
    mixture, batches = create(family, np.float64), cut(np.float64)

    @jax.jit
    def objective(mixture, direction):
        return jax.jvp(lambda mixture: run(mixture, batches).objective, (mixture,), (direction,))

    direction = direction_of(mixture, rng)
    _, along = objective(mixture, direction)
    slope = difference(lambda mixture: objective(mixture, direction)[0], mixture, direction)
    assert_close(along, slope, "derivatives", np.float64)


def direction_of(mixture, rng):
    """A random direction of its parameters. A lower triangle's upper half is none: its gradient is 0, it stays put."""
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * (np.asarray(leaf) != 0)), mixture)


def difference(function, at, direction, step=1e-5):
    ahead, behind = (jax.tree.map(lambda a, d, s=s: a + s * step * d, at, direction) for s in (1, -1))
    return (function(ahead) - function(behind)) / (2 * step)


def intermediates(jaxpr):
    """Every value that an equation of the program makes, in loops, branches and calls too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from intermediates(inner)


@every_kind
@pytest.mark.parametrize("n_lanes", [None, 4], ids=["alone", "vmap"])
def test_nothing_of_size_n_by_k_is_made(family, n_lanes):
    """The compiled program of a run on 200 000 rows holds no array of N·K elements or more, with weights."""
    n_rows, n_components = 200_000, 16
    big = oracle.blobs(seed=6, n_rows=n_rows, n_features=2, n_components=n_components)
    batches = Batches.of(big.x, np.ones(n_rows), n_components=n_components, dtype=np.float32)
    mixture = create(family, np.float32, big.start)
    assert batches.n_chunks > 1

    def program(mixture, batches):
        state = em.init(mixture, batches)
        return em.run(state, batches, em.Settings(), 100)

    if n_lanes:
        mixture = jax.tree.map(lambda leaf: jnp.stack([leaf] * n_lanes), mixture)
        jaxpr = jax.make_jaxpr(jax.vmap(program, in_axes=(0, None)))(mixture, batches)
    else:
        jaxpr = jax.make_jaxpr(program)(mixture, batches)
    sizes = [int(np.prod(value.shape)) for value in intermediates(jaxpr.jaxpr)]
    assert len(sizes) > 100  # the walk went inside
    assert max(sizes) < n_rows * n_components
    # More than that: one chunk's residuals from all means for every lane (where they are many, from some: see
    # `over_components`), with their three products where matrices are full.
    numbers = 5 if family.kind == FULL else 2
    assert max(sizes) <= batches.chunk_size * numbers * n_components * (n_lanes or 1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU's rows are used in place from 64 MB on")
@pytest.mark.parametrize("n_rows", [5_000, 100_000])
def test_a_jax_array_is_used_where_it_lies(n_rows):
    """All its rows but the last chunk's: no second copy of the data."""
    x = jnp.ones((n_rows, 2), jnp.float32)
    body = Batches.of(x, chunk_size=1024).rows.body
    assert body.shape[0] > n_rows - 1024 - 1
    assert body.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()


@pytest.mark.default_flags
@every_kind
@pytest.mark.parametrize("n_features", [D, 9, 40])  # the forms of a dense covariance: see test_covariances
def test_fast_and_safe_forms_agree(family, n_features, dtype):
    """On well-centred data both give the same moments and objective."""
    blobs = oracle.blobs(seed=3, n_rows=N, n_features=n_features, n_components=K)
    mixture, batches = create(family, dtype, blobs.start), cut(dtype, blobs.x, weights=WEIGHTS)
    moments = jax.jit(expect, static_argnames="form")
    fast, safe = (moments(mixture, batches, form=form) for form in Form)
    chosen = em.init(mixture, batches).moments
    for name in Moments._fields:
        assert_close(getattr(fast, name), getattr(safe, name), "moments", dtype, factor=N, note=name)
        assert_close(getattr(chosen, name), getattr(safe, name), "moments", dtype, factor=N, note=name)


expect_safely = jax.jit(partial(expect, form=Form.SAFE))
expect_in_turn = {how: jax.jit(partial(in_turn.expect, how=how)) for how in (Effort.HURRIED, Effort.BRISK)}


@each_kind_in_a_dtype
@pytest.mark.parametrize("how", [Effort.HURRIED, Effort.BRISK], ids=lambda how: how.name)
@pytest.mark.parametrize(
    "there",
    [[1, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1], [1]],
    ids=["some", "the last", "the first", "five", "a single one"],
)
def test_components_in_turn_have_the_moments_that_they_have_together(family, there, how, dtype):
    """With components of weight 0 among and after the others, room for more rows, and a row of weight 0."""
    blobs = oracle.blobs(seed=3, n_rows=N, n_features=D, n_components=len(there))
    mixture = create(family, dtype, blobs.start)
    mixture = replace(mixture, log_weights=jnp.where(jnp.asarray(there) > 0, mixture.log_weights, -jnp.inf))
    x, weights = np.array(BLOBS.x, dtype), np.where(np.arange(N) == 7, 0.0, WEIGHTS)
    x[7] = np.finfo(dtype).max
    together = expect_safely(mixture, cut(dtype, x, weights))
    found = expect_in_turn[how](mixture, Batches.with_room(x, weights, dtype, 32))
    for name in Moments._fields:
        assert_close(getattr(found, name), getattr(together, name), "moments", dtype, factor=N, note=name)


def test_a_row_out_of_reach_is_shared_equally_in_turn_as_well(x64):
    """One whose squared distance overflows has a log-density of −inf under every component."""
    mixture = create(SHELF["full"], np.float64)
    x = np.concatenate([BLOBS.x, np.full((1, D), 1e200)])
    sides = expect(mixture, cut(np.float64, x), Form.SAFE), in_turn.expect(mixture, Batches.with_room(x, None, x.dtype))
    for moments in sides:
        assert float(moments.objective) == -np.inf
        assert_close(jnp.sum(moments.mass), N + 1.0, "sum_to_one", np.float64, factor=N)
    assert_close(sides[1].mass, sides[0].mass, "moments", np.float64, factor=N)


def test_the_tutorial_s_diagonal_em(x64):
    """The update equations this project grew from: same log-likelihood at each step, same end, same number of steps."""
    start = oracle.Diagonal(
        BLOBS.start.weights, BLOBS.start.means, np.diagonal(BLOBS.start.covariances, axis1=1, axis2=2)
    )
    expected, history = oracle.diagonal_em(BLOBS.x, start, tol=1e-5)
    batches = cut(np.float64)
    mixture = Mixture.create(start.weights, start.means, start.variances, family="diag")
    settings = em.Settings(tol=1e-5 / N, ridge=0.0)  # their log-likelihood is a sum over rows, ours a mean
    state = em.init(mixture, batches, settings)
    objectives = [float(state.objective)]
    while int(state.status) == Status.RUNNING:
        state = em.step(state, batches, settings)
        objectives.append(float(state.objective))
    assert int(state.status) == Status.CONVERGED
    assert len(objectives) == len(history)
    assert_close(np.array(objectives) * N, history, "oracle", np.float64)
    got = (state.mixture.weights, state.mixture.means, state.mixture.covariances)
    dense = expected.variances[:, :, None] * np.eye(D)
    assert_same_parameters(got, (expected.weights, expected.means, dense), np.float64, "oracle")


def test_settings_and_data_that_do_not_fit_are_refused_at_the_door():
    """Another family than the mixture's, another D, a negative number: ValueError before anything runs."""
    mixture = create(SHELF["full"], np.float32)
    with pytest.raises(ValueError, match="family"):
        em.init(mixture, BLOBS.x.astype(np.float32), em.Settings(family="diag"))
    with pytest.raises(ValueError, match="features"):
        em.init(mixture, np.zeros((5, D + 1), np.float32))
    for wrong in ({"tol": -1.0}, {"ridge": float("nan")}, {"family": "round"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            em.Settings(**wrong)


@every_family
def test_gradients_are_finite_where_a_component_has_no_mass(family):
    """Where a mean is far from all rows."""
    batches = cut(np.float32)

    def objective(means):
        mixture = Mixture.create(np.full(K, 1 / K), means, np.tile(np.eye(D), (K, 1, 1)), family)
        return em.step(em.init(mixture, batches), batches).objective

    means = jnp.asarray(BLOBS.start.means, jnp.float32).at[-1].set(500.0)
    slope = jax.jit(jax.grad(objective))(means)
    assert np.all(np.isfinite(slope))

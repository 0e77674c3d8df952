"""Covariances: the fast and the safe form, log-determinants and the rest agree with the dense matrix, and log-densities
with 60-digit arithmetic."""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm._base.linalg import columns
from jaxgmm.covariances import Form
from jaxgmm.families import SHELF
from tests import oracle
from tests.laws import KINDS, every_family
from tests.tolerances import EPS, assert_close, in_deviations, relative_covariances, tolerance

on_the_users_flags = pytest.mark.default_flags
"""Where digits are looked at; what holds by algebra is compiled cheaply."""

K, D, N = 3, 4, 40
TRUTH = json.loads((oracle.DATA / "multiprecision.json").read_text())

SHAPES = [(family, 4) for family in SHELF] + [(kind, n_features) for kind in KINDS for n_features in (9, 40)]
every_shape = pytest.mark.parametrize(("family", "n_features"), SHAPES)
"""Dense covariances keep the triangle of pairs up to 4 features, blocks of it up to 24, and no pairs above."""


def floats(values):
    """Decimal strings, nested, as doubles."""
    return np.array(values, dtype=np.float64)


def well_conditioned(family, dtype, rng, n_components=K, n_features=D):
    """A mixture of the family's, near 0, of condition numbers under 100; and rows among it."""
    start = oracle.blobs(int(rng.integers(1000)), 10, n_features, n_components).start
    factor = np.eye(n_features) + 0.6 / np.sqrt(n_features) * rng.normal(size=(n_components, n_features, n_features))
    dense = np.einsum("kij,klj->kil", factor, factor) * rng.uniform(0.5, 2.0, (n_components, 1, 1))
    mixture = jaxgmm.Mixture.create(start.weights, start.means, dense, family=family, dtype=dtype)
    return mixture, jnp.asarray(2.0 * rng.normal(size=(N, n_features)), dtype)


def dense_of(mixture):
    return np.asarray(mixture.covariances, np.float64)


@partial(jax.jit, static_argnames="form")  # compiled as a whole, as it is used: compilers err where they fuse
def exponent(mixture, origin, form, rows, constant):
    """constant − ½ (x − μ)ᵀ Σ⁻¹ (x − μ) of every component and row, (K, N)."""
    constants = jnp.full(len(mixture.means), constant, rows.dtype)
    return mixture.scales.exponent(mixture.scales.prepare(mixture.means, origin, constants, form), columns(rows))


@on_the_users_flags
@every_shape
@pytest.mark.parametrize("form", Form)
def test_exponent_is_that_of_the_dense_matrix(family, form, n_features, dtype, rng):
    """A constant − ½ (x − μ)ᵀ Σ⁻¹ (x − μ), whatever the form, about an origin that is not 0."""
    mixture, rows = well_conditioned(family, dtype, rng, n_features=n_features)
    got = exponent(mixture, jnp.asarray(rng.normal(size=n_features), dtype), form, rows, 1.5)
    residual = np.asarray(rows, np.float64)[None] - np.asarray(mixture.means, np.float64)[:, None]
    solved = np.linalg.solve(dense_of(mixture)[:, None], residual[..., None])[..., 0]
    assert got.dtype == dtype
    assert_close(got, 1.5 - 0.5 * np.sum(residual * solved, axis=-1), "matrices", dtype, 10.0, form.value)


@every_family
def test_operands_of_the_safe_form_are_one_for_each_component_or_for_all(family, rng):
    """So that a component can be taken out of them (`em/in_turn.py`)."""
    mixture, _ = well_conditioned(family, np.float32, rng, n_features=5)
    n_components = len(mixture.means)
    assert n_components not in (1, 5)
    operands = mixture.scales.prepare(mixture.means, mixture.means[0], mixture.log_weights, Form.SAFE)
    assert {len(leaf) for leaf in jax.tree.leaves(operands)} <= {1, n_components}


@every_family
def test_the_rest_agrees_with_the_dense_matrix(family, dtype, rng):
    """log_det, variances and precision_diagonal; each of leading axis K or 1."""
    mixture, _ = well_conditioned(family, dtype, rng)

    @jax.jit
    def found(mixture):
        of = mixture.scales
        return of.dense(), of.log_det(), of.variances(), of.precision_diagonal(), of.is_definite()

    dense, log_det, variances, precisions, is_definite = found(mixture)
    dense = np.asarray(dense, np.float64)
    assert dense.shape[0] in (1, K)
    assert_close(log_det, np.linalg.slogdet(dense)[1], "matrices", dtype, factor=D)
    assert_close(variances, np.diagonal(dense, axis1=1, axis2=2), "matrices", dtype)
    assert_close(precisions, np.diagonal(np.linalg.inv(dense), axis1=1, axis2=2), "matrices", dtype)
    assert np.all(is_definite)


@every_family
def test_colour_gives_noise_the_covariance(family, dtype, rng):
    """Exactly: colour is linear in the noise, and the matrix of that map times its transpose is Σ."""
    mixture, _ = well_conditioned(family, dtype, rng)
    colour = jax.jit(lambda mixture, labels: mixture.scales.colour(jnp.eye(D, dtype=dtype), labels))
    for k in range(K):
        rows = np.asarray(colour(mixture, np.full(D, k, np.int32)), np.float64)  # row i is L e_i
        assert_close(rows.T @ rows, dense_of(mixture)[k], "matrices", dtype)


@every_family
def test_sample_follows_labels(family, rng):
    """Means of 20 000 draws a component lie within five standard errors, and their variances too."""
    mixture, _ = well_conditioned(family, np.float32, rng)
    x, labels = mixture.sample(jax.random.key(0), 20_000 * K, return_labels=True)
    x, labels = np.asarray(x, np.float64), np.asarray(labels)
    assert x.shape == (20_000 * K, D)
    for k in range(K):
        own, variances = x[labels == k], np.diag(dense_of(mixture)[k])
        standard_error = np.sqrt(variances / len(own))
        assert np.all(np.abs(own.mean(axis=0) - np.asarray(mixture.means)[k]) < 5 * standard_error)
        assert np.all(np.abs(own.var(axis=0) / variances - 1) < 5 * np.sqrt(2 / len(own)))
    expected = np.asarray(mixture.weights) * len(x)
    assert np.all(np.abs(np.bincount(labels, minlength=K) - expected) < 5 * np.sqrt(expected))


@jax.jit
def cancellation(mixture, origin):
    return mixture.scales.cancellation(mixture.means, origin)


@every_family
def test_spread_is_the_distance_it_claims(family, dtype, rng):
    """At least the mean squared distance of the furthest mean from the origin in units of the variance."""
    mixture, _ = well_conditioned(family, dtype, rng)
    for distance in (0.0, 10.0, 1e4):
        direction = rng.normal(size=D)
        origin = np.asarray(mixture.means[0], np.float64) - distance * direction / np.linalg.norm(direction)
        spread = float(cancellation(mixture, origin.astype(dtype)))
        shift = np.asarray(mixture.means, np.float64) - origin
        claimed = np.max(np.mean(shift**2 / np.diagonal(dense_of(mixture), axis1=1, axis2=2), axis=1))
        assert spread >= claimed * (1 - 1e3 * EPS[dtype.name])


@on_the_users_flags
@every_shape
def test_the_fast_form_loses_no_more_than_its_spread(family, n_features, rng):
    """FAST in float32 is off by at most the spread (and the row's own distance) times some eps, however far."""
    mixture, rows = well_conditioned(family, np.float32, rng, n_features=n_features)
    for distance in (0.0, 3.0, 30.0, 300.0):
        origin = jnp.asarray(rng.normal(size=n_features) * distance, jnp.float32)
        fast, safe = (
            np.asarray(exponent(mixture, origin, form, rows, 0.0), np.float64) for form in (Form.FAST, Form.SAFE)
        )
        spread = float(cancellation(mixture, origin))
        allowed = 8 * n_features * EPS["float32"] * (spread - 2.0 * safe)
        assert np.all(np.abs(fast - safe) <= allowed)


@on_the_users_flags
def test_is_resolved_sees_a_singular_matrix(dtype):
    """A matrix without a correct digit in a pivot may be factored, by what rounding has made of it. It is not resolved:
    without a ridge it is no estimate."""
    good, thin = np.eye(2), np.array([[1.0, 1.0], [1.0, 1.0 + 2 * EPS[dtype.name]]])

    @partial(jax.jit, static_argnames="family")
    def read(covariances, family):
        of = SHELF[family].read(covariances, 2)
        return of.is_definite(), of.is_resolved()

    is_definite, is_resolved = read(np.stack([good, thin, -good]).astype(dtype), "full")
    assert is_definite.tolist() == [True, True, False]
    assert is_resolved.tolist() == [True, False, False]
    is_definite, is_resolved = read(np.array([[1.0, 1.0], [1.0, 0.0], [1.0, np.nan]], dtype), "diag")
    assert is_definite.tolist() == is_resolved.tolist() == [True, False, False]
    with pytest.warns(UserWarning, match="component 0 is singular to the precision"):
        jaxgmm.Mixture.create([1.0], np.zeros((1, 2)), thin[None], dtype=dtype)


@on_the_users_flags
@pytest.mark.parametrize(
    "case", TRUTH["logpdf"], ids=lambda c: f"d{c['d']}-cond{c['cond']:.0e}-offset{c['offset']:.0e}"
)
def test_log_density_against_60_digits(case, x64):
    """Backward stability: the error of the squared distance is at most a few D · eps · cond of itself."""
    d, cond = case["d"], case["cond"]
    mixture = jaxgmm.Mixture.create(np.ones(1), [case["mean"]], np.array([case["cov"]]))
    x, truth = np.array(case["x"]), floats(case["logpdf"])
    # Offsets cost nothing: rows and means are exact doubles, and only their differences are used.
    log_det = np.linalg.slogdet(np.array(case["cov"]))[1]
    distances = -2 * truth - log_det - d * np.log(2 * np.pi)
    allowed = tolerance("multiprecision", np.float64).absolute * d * (cond * (1 + np.abs(distances)) + abs(log_det))
    assert np.all(np.abs(np.asarray(mixture.log_prob(x)) - truth) <= allowed)


@on_the_users_flags
@pytest.mark.parametrize(
    "case",
    [c for c in TRUTH["logpdf"] if c["offset"] == 0 and c["cond"] <= 1e4],
    ids=lambda c: f"d{c['d']}-cond{c['cond']:.0e}",
)
def test_log_density_in_float32_against_60_digits(case):
    """As in float64, with the inputs' own rounding on top: they are cut to 24 bits before anything is computed."""
    d, cond = case["d"], case["cond"]
    mixture = jaxgmm.Mixture.create(np.ones(1), [case["mean"]], np.array([case["cov"]]), dtype=np.float32)
    truth = floats(case["logpdf"])
    log_det = np.linalg.slogdet(np.array(case["cov"]))[1]
    distances = -2 * truth - log_det - d * np.log(2 * np.pi)
    allowed = tolerance("multiprecision", np.float32).absolute * d * (cond * (1 + np.abs(distances)) + abs(log_det))
    got = mixture.log_prob(np.array(case["x"], np.float32))
    assert got.dtype == np.float32
    assert np.all(np.abs(np.asarray(got, np.float64) - truth) <= allowed)


@on_the_users_flags
def test_far_away_points_against_60_digits(dtype):
    """Where every component density underflows, log-densities and log-responsibilities still have their digits."""
    case = TRUTH["mixture"]
    mixture = jaxgmm.Mixture.create(case["weights"], case["means"], case["covariances"], dtype=dtype)
    x, truth = np.array(case["x"]), floats(case["log_density"])
    cond = np.linalg.cond(np.array(case["covariances"])).max()
    relative = tolerance("multiprecision", dtype).relative * 3 * cond
    got = np.asarray(mixture.log_prob(x.astype(dtype)), np.float64)
    assert np.all(np.abs(got - truth) <= relative * (1 + np.abs(truth)))
    joint = np.asarray(mixture.log_joint(x.astype(dtype)), np.float64)
    shares, exact = joint - got[:, None], floats(case["log_responsibilities"])
    assert np.all(np.abs(shares - exact) <= relative * (1 + np.abs(exact) + np.abs(truth)[:, None]))


@on_the_users_flags
@pytest.mark.parametrize("case", TRUTH["em_step"], ids=lambda c: f"{c['dataset']}-offset{c['offset']:.0e}")
def test_one_em_step_against_60_digits(case, x64):
    """Weights, means and covariances of an M-step, and the log-likelihood under them, with data up to 1e6 away."""
    x = oracle.table(case["dataset"]) + case["offset"]
    result = jaxgmm.fit(jax.random.key(0), x, case["G"], init=np.array(case["resp"]), max_steps=0, ridge=0.0, tol=0.0)
    means, covariances = floats(case["means"]), floats(case["covariances"])
    deviation = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2)).min()
    # A mean is stored to offset · eps, which moves the log-likelihood by as many standard deviations; sums over N rows
    # of well-scaled data cost a few eps more. Covariances are taken about the means and do not feel the offset.
    factor = 50.0 + case["offset"] / deviation
    assert_close(result.mixture.weights, floats(case["weights"]), "multiprecision", np.float64, factor=50.0)
    difference = in_deviations(result.mixture.means, means, covariances)
    assert_close(difference, np.zeros_like(means), "multiprecision", np.float64, factor=factor)
    difference = relative_covariances(result.mixture.covariances, covariances)
    assert_close(difference, np.zeros_like(covariances), "multiprecision", np.float64, factor=factor)
    loglik = float(result.objective) * len(x)
    assert_close(loglik, float(case["loglik"]), "multiprecision", np.float64, factor=factor)

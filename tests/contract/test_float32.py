"""float32 that can be trusted: fits of data far from 0, of any scale, with clusters far apart, come out as in float64
on the very same (float32-rounded) data, from the same labels, after the same number of steps. Small tables by `fit`,
which makes their steps in NumPy, and by the compiled loop."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, em
from jaxgmm.covariances import Form
from jaxgmm.em.expectation import expect
from jaxgmm.search.resident import Resident
from tests import oracle
from tests.laws import every_family, every_kind, is_closed_under_scaling
from tests.tolerances import assert_close, float32_variances

pytestmark = pytest.mark.default_flags

N, D, K, STEPS = 400, 3, 3, 20


SITUATIONS = {
    # name: (clusters apart in sd, scale, shift in sd, distance from 0 in sd)
    "centred": (3.0, 1.0, 0.0, 10.0),
    "shifted by 1e3": (3.0, 1.0, 1e3, 1e3),
    "shifted by 1e4": (3.0, 1.0, 1e4, 1e4),
    "shifted by -1e4 at scale 1e-6": (3.0, 1e-6, -1e4, 1e4),
    "scaled by 1e-6": (3.0, 1e-6, 0.0, 10.0),
    "scaled by 1e6": (3.0, 1e6, 0.0, 10.0),
    "10 apart": (10.0, 1.0, 0.0, 30.0),
    "100 apart": (100.0, 1.0, 0.0, 300.0),
    "1000 apart": (1000.0, 1.0, 0.0, 3000.0),
}


def fit(x, labels, family, n_steps, n_components, dtype=np.float32):
    return jaxgmm.fit(
        jax.random.key(0), x, n_components, family, init=labels, tol=0.0, max_steps=n_steps, ridge=0.0, dtype=dtype
    )


def compiled(x, labels, family, n_steps, n_components):
    batches, settings = Batches.of(x, n_components=n_components), em.Settings(tol=0.0, ridge=0.0)
    mixture = Resident(batches).mixture_from(labels, n_components, family, settings.ridge)
    return em.run(em.init(mixture, batches), batches, settings, n_steps)


either_way = pytest.mark.parametrize("way", [fit, compiled])


def assert_float32_as_float64(x, labels, family, distance, n_steps=STEPS, n_components=K, way=fit):
    """The objective to its tolerance, the variances to theirs, and no status but the step limit's."""
    single = way(x, labels, family, n_steps, n_components)
    double = fit(x, labels, family, n_steps, n_components, np.float64)
    assert single.objective.dtype == np.float32
    assert double.objective.dtype == np.float64
    assert int(single.status) == int(double.status) == jaxgmm.Status.MAX_STEPS
    assert_close(single.objective, double.objective, "objective", np.float32)
    variances = [np.diagonal(np.asarray(r.mixture.covariances, np.float64), axis1=1, axis2=2) for r in (single, double)]
    off = np.max(np.abs(variances[0] / variances[1] - 1))
    assert off <= float32_variances(distance), f"variances off by {off:.3g}"


@either_way
@every_family
@pytest.mark.parametrize("situation", SITUATIONS)
def test_float32_is_float64(family, situation, way):
    """Mean log-likelihood and variances, to what the table promises."""
    apart, scale, shift, distance = SITUATIONS[situation]
    blobs = oracle.blobs(seed=8, n_rows=N, n_features=D, n_components=K, distance=apart)
    x = ((blobs.x + shift) * scale).astype(np.float32)
    labels = blobs.labels.copy()
    labels[::7] = (labels[::7] + 1) % K  # something for EM to put right
    assert_float32_as_float64(x, labels, family, distance, way=way)


WIDE = {
    # name: (features, clusters apart in sd, shift in sd, distance from 0 in sd)
    "9 features, shifted": (9, 3.0, 1e3, 1e3),
    "9 features, 10 apart": (9, 10.0, 0.0, 30.0),
    "30 features, shifted": (30, 3.0, 1e3, 1e3),
    "30 features, 10 apart": (30, 10.0, 0.0, 30.0),
    "30 features, 100 apart": (30, 100.0, 0.0, 300.0),
}
"""What dense covariances do otherwise with more features (blocks of pairs, then no pairs), near FAST's limits."""


@either_way
@every_kind
@pytest.mark.parametrize("situation", WIDE)
def test_more_features(family, situation, way):
    """As above, in the forms that more features take."""
    n_features, apart, shift, distance = WIDE[situation]
    blobs = oracle.blobs(seed=8, n_rows=2 * N, n_features=n_features, n_components=K, distance=apart)
    labels = blobs.labels.copy()
    labels[::7] = (labels[::7] + 1) % K
    x = (blobs.x + shift).astype(np.float32)
    assert_float32_as_float64(x, labels, family, distance, n_steps=5, way=way)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("form", Form)
def test_ten_million_rows(family, form):
    """More rows than float32 can count: masses, means and variances of one step, and the objective, as in float64."""
    n_rows, rng = 10_000_000, np.random.default_rng(12)
    x = rng.standard_normal((n_rows, 2), np.float32)
    x[: n_rows // 3] += np.float32(2.0)
    x += np.float32(1e3)
    start = [np.array([0.5, 0.5]), np.array([[999.5, 1000.5], [1002.5, 1001.5]]), np.stack([np.eye(2)] * 2)]
    single, double = (one_step(x, start, family, form, dtype) for dtype in (np.float32, np.float64))
    assert_close(single.objective / n_rows, double.objective / n_rows, "objective", np.float32)
    assert_close(single.mass / n_rows, double.mass / n_rows, "weights", np.float32)
    mass = double.mass[:, None]
    assert_close(single.first / mass, double.first / mass, "means", np.float32)
    summed_over = np.full(1, n_rows) if family == "tied" else double.mass
    summed_over = summed_over.reshape(-1, *[1] * (double.second.ndim - 1))
    assert_close(single.second / summed_over, double.second / summed_over, "covariances", np.float32)


def one_step(x, start, family, form, dtype):
    """The moments of one E-step, as float64 arrays."""
    with jax.enable_x64(dtype is np.float64):
        mixture = jaxgmm.Mixture.create(*start, family, dtype=dtype)
        batches = jaxgmm.Batches.of(x, n_components=2, dtype=dtype)
        moments = jax.jit(expect, static_argnames="form")(mixture, batches, form=form)
        return jax.tree.map(lambda a: np.asarray(a, np.float64), moments)


@every_kind
def test_a_million_rows(family):
    """Sums over a million float32 rows need their compensation: an uncompensated one resolves a tenth of a row."""
    blobs = oracle.blobs(seed=9, n_rows=1_000_000, n_features=2, n_components=2)
    assert_float32_as_float64(blobs.x.astype(np.float32), blobs.labels, family, 10.0, n_steps=3, n_components=2)


def in_a_plane(n_rows, n_features, scale):
    """Float32 rows (N, D) of which the last feature is the sum of the others."""
    x = np.random.default_rng(0).normal(size=(n_rows, n_features - 1))
    return (scale * np.column_stack([x, x.sum(axis=1)])).astype(np.float32)


PLANES = {
    # name: (rows, whether float32 and a ridge of 1e-6 hold their covariance)
    "a total": (in_a_plane(500, 4, 0.3), True),
    "a total of larger numbers": (in_a_plane(500, 4, 100.0), False),
    "fewer rows than features": (np.random.default_rng(0).normal(size=(40, 100)).astype(np.float32), True),
    "of a larger scale": (10.0 * np.random.default_rng(0).normal(size=(40, 100)).astype(np.float32), False),
    "pixels": (np.random.default_rng(0).integers(0, 256, (40, 64)).astype(np.float32), False),
    "one row more than pixels": (np.random.default_rng(0).integers(0, 256, (65, 64)).astype(np.float32), True),
}


@pytest.mark.parametrize("plane", PLANES)
def test_a_covariance_that_rounding_decides_is_told(plane):
    """It is float64's to one per cent, or there is a warning; in float64 there is none."""
    x, is_held = PLANES[plane]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        single = GaussianMixture(1).fit(x)
        double = GaussianMixture(1).fit(x.astype(np.float64))
    told = [str(of.message) for of in said if "rounding errors of float32" in str(of.message)]
    assert bool(told) != is_held
    assert not any("float64, in which" in str(of.message) for of in said)
    assert not double.result_.unresolved.any()
    if is_held:
        assert abs(single.score(x) / double.score(x.astype(np.float64)) - 1.0) < 0.01
    else:
        assert single.result_.unresolved.all()
        assert "in some direction little more than float32's rounding errors: component 0" in repr(single.result_)


@either_way
@every_family
def test_one_feature_far_off_the_others_not(family, way):
    """Features of unlike scale and place, as tables have them: a year, a price, a share."""
    blobs = oracle.blobs(seed=10, n_rows=N, n_features=D, n_components=K)
    # A matrix that turns with the rows, but not with units, has no shape that float32 could tell under such units.
    has_units = family.kind.is_diagonal or is_closed_under_scaling(family)
    units, place = np.array([1.0, 1e4, 1e-3]), np.array([2000.0, 5e4, 0.5])
    x = (blobs.x * units + place if has_units else blobs.x + place / units).astype(np.float32)
    assert_float32_as_float64(x, blobs.labels, family, 2000.0, way=way)

"""Standard errors against closed forms and against each other, and a test of one component more."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, Status, em
from jaxgmm._base.precision import precision_for
from jaxgmm.families import SHELF
from jaxgmm.moments import DIAGONAL, FULL, POOLED, TRACE
from jaxgmm.search import bootstrap as module
from jaxgmm.search import likelihood_ratio
from tests import oracle
from tests.test_compile_once import COMPILED, nothing_new
from tests.tolerances import assert_close, assert_same_mixture

bootstrap, likelihood_ratio_test = jaxgmm.bootstrap, jaxgmm.likelihood_ratio_test

B = 400
STANDARD = 4.0
"""Standard errors by which a figure of chance may be off. Keys are fixed, so a test that passes always does."""

every_kind = pytest.mark.parametrize("kind", module.KINDS)


def of_deviation(*n_replicates):
    """By how much the ratio of standard deviations of so many normal numbers may differ from 1.

    One of B has a relative error of 1/sqrt(2(B − 1)).
    """
    return STANDARD * np.sqrt(sum(0.5 / (b - 1) for b in n_replicates))


def assert_same_errors(actual, expected, n_replicates, other=None, second_order=0.0):
    """Standard errors alike but for chance, and for what falls with N."""
    allowed = of_deviation(*([n_replicates] if other is None else [n_replicates, other])) + second_order
    for name in module.Parameters._fields:
        a, b = (np.asarray(getattr(errors, name)) for errors in (actual, expected))
        assert a.shape == b.shape
        assert np.array_equal(a > 0.0, b > 0.0), name
        ratio = a[b > 0.0] / b[b > 0.0]
        assert np.all(np.abs(ratio - 1.0) <= allowed), (name, ratio, allowed)


def one_gaussian(x, family="full", dtype="float32"):
    """The fit of one component, which needs none."""
    return Mixture.create([1.0], x.mean(axis=0)[None], np.cov(x.T, bias=True)[None], family, dtype=dtype)


def of_clusters(x, labels, family="full", dtype="float64", spread=0.0):
    """A mixture whose components are the rows of each label; `spread` is added to variances."""
    groups = [x[labels == k] for k in np.unique(labels)]
    covariances = np.stack([np.cov(rows.T, bias=True).reshape(x.shape[1], -1) for rows in groups])
    return Mixture.create(
        [len(rows) / len(x) for rows in groups],
        np.stack([rows.mean(axis=0) for rows in groups]),
        covariances + spread * np.eye(x.shape[1]),
        family,
        dtype=dtype,
    )


def skewed(seed=0, n_rows=400):
    """Rows that are not normal, so that the fourth moments matter."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.gamma(3.0, size=n_rows), rng.normal(size=n_rows)], axis=1) @ [[2.0, 0.5], [0.0, 1.0]]


def two_clusters(seed=0, n_rows=400, apart=6.0, n_features=2):
    """Rows, and which of the two they belong to."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n_rows) < 0.4 * n_rows).astype(int)
    return np.eye(n_features)[0] * apart * labels[:, None] + rng.normal(size=(n_rows, n_features)), labels


# Standard errors

OWN = {FULL: lambda outer: outer, POOLED: lambda outer: outer}
OWN[DIAGONAL] = lambda outer: outer * np.eye(outer.shape[-1])
OWN[TRACE] = lambda outer: np.trace(outer, axis1=1, axis2=2)[:, None, None] * np.eye(outer.shape[-1]) / outer.shape[-1]
"""By the kind of a family: the covariance of one component as a mean over rows of products (N, D, D)."""


def closed_form(x, family):
    """Of one component: the standard deviation of what a row adds to the mean and to the covariance, over sqrt(N)."""
    centred = x - x.mean(axis=0)
    each = OWN[SHELF[family].kind](centred[:, :, None] * centred[:, None, :])
    root = np.sqrt(len(x))
    return module.Parameters(np.zeros(1), (centred.std(axis=0) / root)[None], (each.std(axis=0) / root)[None])


@pytest.mark.parametrize("family", ["full", "spherical"])
def test_errors_of_one_gaussian_have_a_closed_form(family):
    """mean: sd / sqrt(N). variance: sqrt((μ₄ − σ⁴) / N). And the like for covariances."""
    x = skewed()
    found = bootstrap(jax.random.key(1), x, one_gaussian(x, family, "float64"), B)
    assert found.n_failed == 0
    # The variance of a sample of N is about its own mean: of relative order 1/N, which leaves its mark as its root.
    assert_same_errors(found.standard_error(), closed_form(x, family), B, second_order=1.0 / np.sqrt(len(x)))


@every_kind
def test_both_kinds_and_dtypes_have_it(kind, dtype):
    x = skewed()
    found = bootstrap(jax.random.key(2), x, one_gaussian(x, dtype=dtype), B, kind=kind)
    assert found.means.dtype == found.covariances.dtype == dtype
    assert_same_errors(found.standard_error(), closed_form(x, "full"), B, second_order=1.0 / np.sqrt(len(x)))


@pytest.fixture(scope="module")
def errors_of_two():
    """Both kinds' figures for two clusters, with and without weights."""
    x, labels = two_clusters()
    weight = np.random.default_rng(1).uniform(0.2, 3.0, len(x))
    found = {}
    for name, weights in (("plain", None), ("weighted", weight)):
        # So far apart that the fit is this one, but for a row or two.
        mixture = of_clusters(x, labels, dtype="float32")
        for kind in module.KINDS:
            found[name, kind] = bootstrap(jax.random.key(3), x, mixture, B, kind=kind, sample_weight=weights)
    return found


@pytest.mark.parametrize("name", ["plain", "weighted"])
def test_the_kinds_agree(errors_of_two, name):
    rows, weights = (errors_of_two[name, kind] for kind in module.KINDS)
    assert rows.n_failed == weights.n_failed == 0
    assert_same_errors(rows.standard_error(), weights.standard_error(), B, B, second_order=1.0 / np.sqrt(400))


def test_components_keep_their_order(errors_of_two):
    for found in errors_of_two.values():
        nearest = np.abs(found.means[:, :, None, 0] - np.asarray(found.mixture.means)[None, None, :, 0]).argmin(axis=2)
        assert np.array_equal(nearest, np.broadcast_to([0, 1], (B, 2)))


def test_intervals_are_percentiles(errors_of_two):
    found = errors_of_two["plain", "rows"]
    errors, wide, narrow = found.standard_error(), found.interval(), found.interval(level=0.5)
    for name in module.Parameters._fields:
        values, (low, high) = np.asarray(getattr(found, name)), getattr(wide, name)
        inside = np.mean((values >= low) & (values <= high), axis=0)
        assert np.all(np.abs(inside - 0.95) <= 2.0 / B)
        assert np.all(low <= getattr(narrow, name)[0])
        assert np.all(high >= getattr(narrow, name)[1])
    # Of 200 rows a mean is all but normal: 2 · 1.96 deviations. The end of an interval has a relative error of about
    # sqrt(p (1 − p) / B) / (density · 1.96).
    allowed = STANDARD * np.sqrt(2) * np.sqrt(0.025 * 0.975 / B) / (0.0584 * 2 * 1.96) + of_deviation(B)
    ratio = (wide.means[1] - wide.means[0]) / (2 * 1.96 * errors.means)
    assert np.all(np.abs(ratio - 1.0) <= allowed)


# The random weights

FEW = np.array([0.0, 1.0, 2.0, 3.0, 0.0, 0.5, 5.5, 0.0])
"""How many observations each of eight rows stands for; 12 in all."""


def drawn(kind, expected, sample_size, n=20000):
    law = module._law(kind, expected, np.float32)
    keys = jax.random.split(jax.random.key(5), n)
    weights = jax.jit(jax.vmap(lambda key: law.draw(key, jnp.int32(sample_size), jnp.float32)))(keys)
    return np.asarray(weights, np.float64)


@pytest.mark.parametrize("expected", [FEW, (FEW > 0.0) * 1.0, 4.0 * FEW], ids=["some", "ones", "many"])
@every_kind
def test_weights_have_the_moments_of_their_law(kind, expected):
    """Counts are multinomial and weights Dirichlet, whose shares have the same means and, but for (n + 1)/n, variances.

    Both laws add up: where rows are alike, the sum of their weights is that of one row which stands for them all. So
    weights that count rows are those rows repeated.
    """
    n = expected.sum()
    weights = drawn(kind, expected, int(n))
    assert np.all(weights[:, expected == 0.0] == 0.0)
    if kind == "rows":
        assert np.all(weights.sum(axis=1) == n)
        assert np.array_equal(weights, np.round(weights))
    shares, p = weights / weights.sum(axis=1, keepdims=True), expected / n
    covariance = (np.diag(p) - np.outer(p, p)) / (n if kind == "rows" else n + 1)
    spread = np.sqrt(np.diagonal(covariance) / len(shares))
    assert np.all(np.abs(shares.mean(axis=0) - p) <= STANDARD * spread)
    for i, j in np.ndindex(covariance.shape):
        products = (shares[:, i] - p[i]) * (shares[:, j] - p[j])
        assert abs(products.mean() - covariance[i, j]) <= STANDARD * products.std() / np.sqrt(len(products))


def test_equal_weights_are_drawn_by_the_shorter_way():
    assert isinstance(module._law("weights", np.array([1.0, 0.0, 1.0]), np.float32), module.Exponential)
    assert isinstance(module._law("weights", FEW, np.float32), module.Gamma)


def test_a_row_of_a_million_is_drawn_as_often_as_the_others():
    """Where float32 numbers in [0, 1) would hit some rows an eighth more often than others."""
    law = module.Multinomial.of(np.ones(2**20 - 7))
    widths = np.diff(law.ends.astype(np.int64), prepend=0)
    assert widths.max() - widths.min() <= 1
    assert widths.min() > 4000


@every_kind
def test_reweighted_batches_are_those_of_the_weights(kind):
    x, weight = skewed(), np.random.default_rng(0).integers(0, 4, 400)
    batches = Batches.of(x, weight, chunk_size=128)
    expected = module._flat(batches)
    expected *= 500 / expected.sum()
    weights = module._law(kind, expected, batches.dtype).draw(jax.random.key(0), 500, batches.dtype)
    found, direct = module._reweighted(batches, weights, np.float32(500)), Batches.of(x, weights[:400], chunk_size=128)
    for chunk in range(batches.n_chunks):
        assert np.array_equal(found.weights.take(chunk), direct.weights.take(chunk))
    assert found.rows is batches.rows
    assert_close(
        found.total_weight, direct.total_weight, "oracle" if batches.dtype == "float64" else "weights", batches.dtype
    )
    # What one of 500 observations weighs, and for drawn rows the smallest weight there is.
    assert_close(found.min_weight, float(direct.total_weight) / 500, "weights", batches.dtype)
    if kind == "rows":
        assert_close(found.min_weight, direct.min_weight, "weights", batches.dtype)


@pytest.mark.parametrize(
    ("dtype", "kind", "family", "weighted"),
    [
        ("float32", "rows", "full", False),
        ("float64", "weights", "spherical", True),
    ],
)
def test_a_replicate_is_the_fit_with_its_weights(dtype, kind, family, weighted):
    """The same steps from the same start, in chunks, as `fit` makes them with those weights."""
    x, labels = two_clusters(n_rows=300, apart=3.0)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, 300) if weighted else None
    options = {"sample_weight": weight, "chunk_size": 128, "dtype": dtype}
    mixture = of_clusters(x, labels, family, dtype)
    options |= {"tol": 0.0, "max_steps": 4}
    found = bootstrap(jax.random.key(7), x, mixture, 20, kind=kind, **options)
    batches = Batches.of(x, weight, chunk_size=128, dtype=dtype)
    expected = module._flat(batches)
    law = module._law(kind, expected * 300 / expected.sum(), batches.dtype)
    for replicate in (0, 19):
        with precision_for(dtype):
            weights = law.draw(jax.random.split(jax.random.key(7), 20)[replicate], 300, batches.dtype)
        options["sample_weight"] = np.asarray(weights)[:300]
        alone = jaxgmm.fit(jax.random.key(0), x, 2, family, init=mixture, **options)
        own = Mixture.create(
            found.weights[replicate], found.means[replicate], found.covariances[replicate], family, dtype=dtype
        )
        assert_same_mixture(own, alone.mixture, dtype)
        assert_close(found.objective[replicate], alone.objective, "objective", dtype)
        assert int(found.status[replicate]) == int(alone.status) == Status.MAX_STEPS


def test_errors_do_not_shrink_where_em_is_slow():
    """What counts is tol · N: at 2e-4 · 500, the 1e-5 · 10000 of a larger table, replicates stop near their start."""
    x, labels = two_clusters(n_rows=500, apart=3.0, n_features=1)
    start = of_clusters(x, labels)
    mixture = em.run(em.init(start, x), x, em.Settings(tol=1e-12), 5000).mixture
    errors = [bootstrap(jax.random.key(0), x, mixture, 64, tol=tol).standard_error() for tol in (None, 1e-10, 2e-4)]
    ratios = [np.concatenate([(a / b).ravel() for a, b in zip(e, errors[1], strict=True)]) for e in errors]
    # What is left of 1e-4 nats by a rate of 0.98 is 2.5e-3: 0.07 of a standard error in that direction.
    assert np.all(np.abs(ratios[0] - 1.0) < 0.1)
    assert np.all(ratios[2] < 0.8)


# Failures


SMALL = {
    # Two distinct rows in two dimensions lie on a line, and one on a point.
    "full": np.array([[50.0, 50.0], [51.0, 50.5], [50.2, 51.0]]),
    # A rounded column: without the row that differs, its variance is 0.
    "diag": np.array([[50.0, 50.2], [50.0, 50.9], [50.0, 51.5], [51.0, 50.4]]),
}
"""By family: the rows of a small component, of which a replicate may draw too few."""


def with_few(family):
    """Rows, the last of which are the few, and the mixture of the two groups."""
    few = SMALL[family]
    x = np.concatenate([np.random.default_rng(0).normal(size=(100 - len(few), 2)), few])
    return x, of_clusters(x, (np.arange(100) >= 100 - len(few)).astype(int), family)


@pytest.mark.parametrize("family", SMALL)
def test_what_collapsed_or_stands_on_the_ridge_is_counted_and_left_out(family):
    """A replicate collapses where none of the few rows was drawn; it stands on the ridge where the variance of those
    drawn is smaller, in one direction, than the ridge."""
    x, mixture = with_few(family)
    ridge, few = 1e-3, SMALL[family]
    found = bootstrap(jax.random.key(0), x, mixture, 100, ridge=ridge)
    law = module.Multinomial.of(module._flat(Batches.of(x)))
    counts = jax.vmap(lambda key: law.draw(key, 100, jnp.float32))(jax.random.split(jax.random.key(0), 100))
    counts = np.asarray(counts)[:, 100 - len(few) : 100]
    none_drawn = counts.sum(axis=1) == 0
    assert none_drawn.any()
    assert np.array_equal(np.asarray(found.status) == Status.COLLAPSED, none_drawn)
    flat = np.zeros(100, bool)
    for b in np.flatnonzero(~none_drawn):
        covariance = np.cov(few.T, fweights=counts[b].astype(int), bias=True)
        flat[b] = min(np.diag(covariance) if family == "diag" else np.linalg.eigvalsh(covariance)) < ridge
    assert np.array_equal(np.asarray(found.spurious)[~none_drawn], np.stack([0 * flat, flat], axis=1)[~none_drawn])
    left_out = none_drawn | flat
    assert 10 < flat.sum() < found.n_failed == left_out.sum() < 90
    title, *_, last = repr(found).splitlines()
    assert f"100 replicates, {found.n_failed} of them failed" in title
    assert last.startswith("held up by the ridge alone, so counted as failed: component 1 in ")
    errors, sound = found.standard_error(), np.asarray(found.covariances)[~left_out]
    assert_close(errors.covariances, sound.std(axis=0, ddof=1), "oracle", "float64")
    assert np.all(np.linalg.eigvalsh(sound)[..., 0] > 2.0 * ridge)


def test_without_sound_replicates_there_is_no_figure():
    """As where the fit itself stands on the ridge."""
    x, _ = with_few("full")
    pair = of_clusters(x[:99], (np.arange(99) >= 97).astype(int), spread=1e-3)
    on_ridge = bootstrap(jax.random.key(0), x[:99], pair, 100, ridge=1e-3)
    assert on_ridge.n_failed == 100
    none_spurious = replace(on_ridge, spurious=jnp.zeros((100, 2), bool))
    one_left = replace(none_spurious, status=jnp.full(100, Status.COLLAPSED).at[0].set(Status.CONVERGED))
    assert np.isnan(one_left.standard_error().means).all()
    assert np.array_equal(one_left.interval().means, np.stack([np.asarray(on_ridge.means[0])] * 2))
    none_left = replace(none_spurious, status=jnp.full(100, Status.NON_FINITE))
    assert none_left.n_failed == 100
    for found in (on_ridge, none_left):
        for figures in (found.standard_error(), found.interval()):
            assert all(np.isnan(figure).all() for figure in figures)
        assert "nan" in repr(found)


# As data


def test_it_is_a_pytree_that_can_be_kept_and_read(errors_of_two):
    found = errors_of_two["plain", "rows"]
    kept = pickle.loads(pickle.dumps(found))
    assert jax.tree.structure(kept) == jax.tree.structure(found)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (kept, found)), strict=True))
    title, *lines = repr(found).splitlines()
    assert title == f"Bootstrap of {B} replicates, 0 of them failed: the fit ± standard errors"
    assert [line.split(":")[0].strip() for line in lines] == ["0", "1"]
    assert f"{found.mixture.weights[0]:.4f} ± {found.standard_error().weights[0]:.4f}" in lines[0]
    jax.eval_shape(lambda traced: lines.append(repr(traced)), found)
    assert lines[-1].startswith("Bootstrap(status=")


def test_batches_are_taken_as_they_are():
    x = skewed()
    mixture, batches = one_gaussian(x), Batches.of(x)
    by_batches, by_rows = (bootstrap(jax.random.key(0), data, mixture, 20) for data in (batches, x))
    assert np.array_equal(by_batches.means, by_rows.means)


def test_the_same_key_gives_the_same_bits():
    x = skewed()
    first, same, other = (bootstrap(jax.random.key(seed), x, one_gaussian(x), 20) for seed in (0, 0, 1))
    assert np.array_equal(first.covariances, same.covariances)
    assert not np.array_equal(first.covariances, other.covariances)


@every_kind
def test_a_second_bootstrap_compiles_nothing(events, kind):
    """Other rows, key, mixture, tol and size of the sample, and another N of the same bucket."""
    x, other = skewed(1), skewed(2, n_rows=390)
    mixtures = one_gaussian(x), one_gaussian(other)
    keys = jax.random.key(0), jax.random.key(1)
    bootstrap(keys[0], x, mixtures[0], 20, kind=kind)
    with nothing_new(events):
        bootstrap(keys[1], x, mixtures[1], 20, kind=kind, tol=1e-3, max_steps=7, ridge=0)
    with nothing_new(events):
        bootstrap(keys[0], other, mixtures[1], 20, kind=kind)
    if kind == "rows":
        with nothing_new(events):
            bootstrap(keys[0], x, mixtures[0], 20, kind=kind, sample_size=3000)


# The door

GOOD = {"x": skewed(n_rows=20), "n_replicates": 2}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mixture": "full"}, TypeError, "mixture must be a jaxgmm.Mixture, got str. A fit's is result.mixture"),
        ({"kind": "row"}, ValueError, "Unknown kind of bootstrap 'row'. Expected one of 'rows', 'weights'"),
        ({"n_replicates": 1}, ValueError, "n_replicates must be at least 2, got 1"),
        ({"n_replicates": 2.0}, TypeError, "n_replicates must be an integer"),
        ({"sample_size": 0}, ValueError, "sample_size must be at least 1"),
        ({"x": np.zeros((20, 3))}, ValueError, "The mixture has 2 features"),
        ({"x": np.full((20, 2), np.nan)}, ValueError, "row 0, column 0 is nan"),
        ({"x": np.zeros((1, 2))}, ValueError, "n_components = 2, n_samples = 1"),
        ({"sample_weight": np.ones(19)}, ValueError, r"sample_weight must have shape \(20,\)"),
        ({"tol": -1.0}, ValueError, "tol must be finite and not negative"),
        ({"ridge": np.nan}, ValueError, "ridge must be finite"),
        ({"acceleration": "newton"}, ValueError, "Unknown acceleration 'newton'"),
        ({"x": Batches.of(GOOD["x"]), "dtype": "float64"}, TypeError, "The rows are float32"),
        ({"x": Batches.of(GOOD["x"]), "sample_weight": np.ones(20)}, ValueError, "Batches carry their own weights"),
    ],
)
def test_the_door_of_bootstrap_names_what_is_wrong(arguments, error, message):
    mixture = Mixture.create([0.5, 0.5], np.zeros((2, 2)), np.stack([np.eye(2)] * 2))
    with pytest.raises(error, match=message):
        bootstrap(jax.random.key(0), **({"mixture": mixture} | GOOD | arguments))


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5])
def test_a_level_lies_between_0_and_1(errors_of_two, level):
    with pytest.raises(ValueError, match="level must"):
        errors_of_two["plain", "rows"].interval(level)


# The likelihood ratio. Tables of 257 to 512 rows share their programs.

OPTIONS = {"n_restarts": 4, "dtype": "float64"}


@pytest.fixture(scope="module")
def of_faithful(events):
    """A test, what its callback was told, and how many programs had been compiled by then."""
    reports, heard = [], []

    def listen(*now):
        reports.append(now)
        heard.append(events.count(COMPILED))

    x = oracle.table("faithful")
    return likelihood_ratio_test(jax.random.key(0), x, 1, "full", 19, progress=listen, **OPTIONS), reports, heard


def test_the_statistic_is_mclusts(of_faithful):
    truth = json.loads((oracle.DATA / "mclust" / "faithful.json").read_text())
    best = {}
    for fit in [*truth["grid_default"], *truth["grid_tight"]]:
        if fit["model"] == "VVV":
            best[fit["G"]] = max(fit["loglik"], best.get(fit["G"], -np.inf))
    # Twice the difference of two totals, each of which has settled.
    assert_close(of_faithful[0].statistic, 2 * (best[2] - best[1]), "settled", np.float64, factor=4.0)


def test_two_clusters_are_not_one(of_faithful):
    """No sample of one Gaussian comes near: the smallest p-value that 19 replicates can give."""
    found, reports, _ = of_faithful
    assert found.p_value == 1 / 20
    assert found.replicates.shape == (19,)
    assert np.all(found.replicates >= 0.0)
    assert found.replicates.max() < found.statistic / 5
    assert (found.n_components, found.family, found.n_failed) == (1, "full", 0)
    assert reports == [(done, 19) for done in range(1, 20)]
    assert repr(found) == (
        f"LikelihoodRatio: 1 against 2 components of family 'full': statistic {found.statistic:.3f}, p-value 0.05 by "
        "19 replicates, 0 of them failed"
    )


def test_a_second_test_compiles_nothing(of_faithful, events):
    """And what the first replicate compiled serves the others, unless a component of a sample gets so narrow that a
    step takes its other form."""
    heard = of_faithful[2]
    assert heard[-1] - heard[0] <= 1
    x, key = two_clusters(n_rows=272)[0], jax.random.key(3)
    with nothing_new(events):
        likelihood_ratio_test(key, x, 1, "full", 3, tol=1e-4, **OPTIONS)


def three_that_overlap(n_rows=272):
    rng = np.random.default_rng(5)
    return np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]])[rng.integers(3, size=n_rows)] + rng.normal(size=(n_rows, 2))


def test_a_sample_as_data_gets_the_statistic_that_it_got_as_a_sample(monkeypatch):
    """From the same key, by a single start. It misses 2 to 8 nats here that EM from the sampled mixture finds: what a
    search misses it misses in both, so p-values stay uniform."""
    calls, fits = [], likelihood_ratio.both_fits

    def recorded(key, batches, plan):
        calls.append((key, batches, plan))
        return fits(key, batches, plan)

    options = {"n_restarts": 1, "dtype": "float64"}
    monkeypatch.setattr(likelihood_ratio, "both_fits", recorded)
    as_samples = likelihood_ratio_test(jax.random.key(0), three_that_overlap(), 3, "full", 2, **options)
    assert len(calls) == 3
    for (key, sample, _), statistic in zip(calls[1:], as_samples.replicates, strict=True):
        monkeypatch.setattr(likelihood_ratio, "both_fits", lambda _, rows, plan, key=key: fits(key, rows, plan))
        rows = np.asarray(sample.rows.tail)[:272]
        assert likelihood_ratio_test(jax.random.key(1), rows, 3, "full", 1, **options).statistic == statistic


class Pretended:
    """In place of `search`: objectives by number of components, and what was asked for."""

    def __init__(self, monkeypatch, objectives, on_ridge=()):
        self.objectives, self.on_ridge, self.calls = objectives, on_ridge, []
        monkeypatch.setattr(likelihood_ratio, "search", self)

    def __call__(self, key, batches, plan):
        count = plan.n_components
        self.calls.append((count, plan.search, plan.settings.tol))
        objective = self.objectives[count]
        return SimpleNamespace(
            objective=objective,
            status=Status.COLLAPSED if objective is None else Status.CONVERGED,
            spurious=np.arange(count) == (0 if count in self.on_ridge else -1),
            mixture=TRUTH,
        )


TRUTH = Mixture.create([0.5, 0.5], np.array([[0.0], [3.0]]), np.ones((2, 1, 1)))


@pytest.mark.parametrize(("larger", "statistic"), [(-1.5, 10.0), (-2.5, 0.0)])
def test_rows_and_samples_are_searched_alike(monkeypatch, larger, statistic):
    """Of ten rows: 2 · 10 times the difference of the mean log-likelihoods, or 0 where the larger fit was caught. All
    statistics are equal, and equal ones count as larger: the p-value is 1."""
    pretended = Pretended(monkeypatch, {2: -2.0, 3: larger})
    found = likelihood_ratio_test(jax.random.key(0), np.zeros((10, 1)), 2, n_replicates=2, n_restarts=5)
    assert pretended.calls[2:4] == pretended.calls[4:] == pretended.calls[:2]
    (of_two, search, tol), (of_three, same_search, same_tol) = pretended.calls[:2]
    assert (of_two, of_three, search.n_restarts, search.init) == (2, 3, 5, "k-means++")
    assert (same_search, same_tol) == (search, tol)
    assert found.statistic == statistic
    assert np.array_equal(found.replicates, [statistic] * 2)
    assert found.p_value == 1.0


@pytest.mark.parametrize(
    ("objectives", "on_ridge"), [({2: -2.0, 3: None}, ()), ({2: -2.0, 3: -1.5}, {3}), ({2: -2.0, 3: -1.5}, {2})]
)
def test_fits_that_failed_or_stand_on_the_ridge_are_left_out_and_counted(monkeypatch, objectives, on_ridge):
    Pretended(monkeypatch, objectives, on_ridge)
    found = likelihood_ratio_test(jax.random.key(0), np.zeros((10, 1)), 2, n_replicates=3)
    assert np.isnan(found.statistic)
    assert np.isnan(found.p_value)
    assert found.n_failed == 3
    assert "p-value nan by 3 replicates, 3 of them failed" in repr(found)


def test_rows_of_weight_0_are_none_to_the_test(of_faithful):
    """Whatever they hold: the statistic of the others."""
    x = np.concatenate([oracle.table("faithful"), np.full((9, 2), np.nan)])
    batches = Batches.of(x, 2.0 * (np.arange(len(x)) < 272), chunk_size=512, dtype=np.float64)
    found = likelihood_ratio_test(jax.random.key(0), batches, 1, "full", 1, n_restarts=4)
    assert_close(found.statistic, of_faithful[0].statistic, "settled", np.float64, factor=4.0)
    assert found.p_value == 0.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
        ({"n_components": 20}, ValueError, "n_components = 21, n_samples = 20"),
        ({"n_replicates": 0}, ValueError, "n_replicates must be at least 1"),
        ({"n_restarts": 0}, ValueError, "n_restarts must be at least 1"),
        ({"family": "fulll"}, ValueError, "Unknown covariance family 'fulll'"),
        ({"tol": -1.0}, ValueError, "tol must be finite and not negative"),
        ({"ridge": -1.0}, ValueError, "ridge must be finite"),
        (
            {"x": Batches.of(GOOD["x"], np.arange(20.0))},
            ValueError,
            r"Batches whose weights differ: row 0 weighs 0 times the heaviest. Repeat rows",
        ),
    ],
)
def test_the_door_of_the_test_names_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        likelihood_ratio_test(jax.random.key(0), **({"n_components": 1} | GOOD | arguments))

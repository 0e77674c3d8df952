"""Weights on any scale: a common factor of all of them changes no fit, from 1e-300 to 1e300, in either dtype."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, GaussianMixture, Mixture, em, online
from jaxgmm.families import Pseudo
from jaxgmm.priors import Additions, pseudo_log_density
from tests import oracle
from tests.tolerances import assert_close, assert_same_mixture

N, D, K = 200, 3, 3
BLOBS = oracle.blobs(seed=5, n_rows=N, n_features=D, n_components=K)
WEIGHTS = np.random.default_rng(6).uniform(0.5, 2.0, N)
KEY = jax.random.key(0)
SCALES = (1e-300, 2.0**-1040, 1e-38, 1e37, 1e300)
HOW = {"init": BLOBS.start[1], "max_steps": 5, "tol": 0.0}


def rows(dtype):
    return BLOBS.x.astype(dtype)


def fit(weights, dtype, **how):
    result = jaxgmm.fit(KEY, rows(dtype), K, sample_weight=weights, dtype=dtype, **HOW, **how)
    return result.mixture, result.effective_counts


def streamed(weights, dtype):
    blocks = jaxgmm.Blocks([(rows(dtype)[i], weights[i]) for i in (slice(80), slice(80, None))])
    result = jaxgmm.fit(KEY, blocks, K, dtype=dtype, **HOW)
    return result.mixture, result.effective_counts


def many(weights, dtype):
    how = {**HOW, "init": HOW["init"][None].repeat(2, 0)}
    both = np.stack([np.ones(N), weights])
    result = jaxgmm.fit_many(KEY, rows(dtype)[None].repeat(2, 0), K, sample_weight=both, dtype=dtype, **how)
    counts = np.asarray(result.effective_counts)[1]
    return result[1].mixture, counts


def estimated(weights, dtype):
    gm = GaussianMixture(K, means_init=HOW["init"], max_iter=5, tol=0.0, random_state=0).fit(
        rows(dtype), sample_weight=weights
    )
    assert_close(gm.score(rows(dtype), sample_weight=weights), gm.lower_bound_, "objective", dtype)
    return gm.mixture_, gm.effective_counts_


def streaming(weights, dtype):
    return online.update(online.init(Mixture.create(*BLOBS.start, dtype=dtype)), rows(dtype), weights).mixture, None


WAYS = {
    "small": fit,
    "chunked": lambda weights, dtype: fit(weights, dtype, chunk_size=64),
    "streamed": streamed,
    "many": many,
    "estimator": estimated,
    "online": streaming,
}


@pytest.mark.filterwarnings("ignore:Best performing initialization")
@pytest.mark.parametrize("way", WAYS)
def test_a_factor_of_all_weights_changes_no_fit(way, dtype):
    """And the counts are in the unit of the weights that were given, whatever the dtype holds."""
    plain, counts = WAYS[way](WEIGHTS, dtype)
    for scale in SCALES:
        found, scaled = WAYS[way](scale * WEIGHTS, dtype)
        assert_same_mixture(found, plain, dtype, note=f"{scale:g}")
        if counts is not None:
            assert_close(np.asarray(scaled, np.float64) / scale, counts, "weights", dtype, factor=N)


def test_criteria_are_of_the_weights_that_were_given():
    plain, scaled = (
        jaxgmm.sweep(KEY, rows(np.float32), [1, 2], ["diag"], 2, sample_weight=w).cells
        for w in (WEIGHTS, 1e50 * WEIGHTS)
    )
    for one, other in zip(plain, scaled, strict=True):
        assert_close(other.log_likelihood / 1e50, one.log_likelihood, "objective", np.float32, factor=N)
        assert_close(other.bic / 1e50, -2.0 * one.log_likelihood, "objective", np.float32, factor=N)


@pytest.mark.parametrize("kind", [np.int64, np.float16, np.uint8, bool])
def test_weights_of_any_dtype(kind):
    weights = (np.arange(N) % 3 + 1).astype(kind)
    plain, _ = fit(weights.astype(np.float64), np.float32)
    assert_same_mixture(fit(weights, np.float32)[0], plain, np.float32)
    if kind is np.int64:
        assert_same_mixture(fit(weights * 2**60, np.float32)[0], plain, np.float32)


def test_traced_weights_have_a_unit_too():
    @jax.jit
    def run(x, weights):
        batches = Batches.of(x, weights)
        return em.run(em.init(Mixture.create(*BLOBS.start), batches), batches, max_steps=5).mixture

    x = jnp.asarray(rows(np.float32))
    plain, scaled = (run(x, jnp.asarray(w, jnp.float32)) for w in (WEIGHTS, 1e36 * WEIGHTS))
    assert_same_mixture(scaled, plain, np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Wishart:
    """Inverse Wishart of each covariance, which weighs as much as `rows` rows."""

    rows: Any

    def means(self, mass, means, scales):
        return means

    def pseudo(self, kind, mass, means):
        return Additions(of_matrices=Pseudo(self.rows, kind.project(self.rows * jnp.eye(D)[None])))

    def log_density(self, mixture, mass):
        return pseudo_log_density(self.pseudo(mixture.family.kind, mass, mixture.means), mixture)


def test_a_prior_counts_in_the_weights_that_were_given():
    """Rows and prior, both a million million times as heavy, are the same fit; and so is its objective."""
    found = []
    for scale in (1.0, 2.0**40):
        batches = Batches.of(rows(np.float32), scale * WEIGHTS)
        settings = em.Settings(prior=Wishart(np.float32(10.0 * scale)))
        state = em.init(Mixture.create(*BLOBS.start, dtype=np.float32), batches, settings)
        found.append(em.run(state, batches, settings, max_steps=5))
    assert int(batches.exponent) == 41
    assert_same_mixture(found[1].mixture, found[0].mixture, np.float32)
    assert_close(found[1].objective, found[0].objective, "objective", np.float32)


# float32 where covariances are all but singular


@pytest.mark.parametrize("how", ["estimator", "fit"])
def test_fewer_rows_than_features_in_float32(how):
    """One component, closed form: the covariance of the rows and the ridge. The float64 score to a hundredth."""
    x = np.random.default_rng(0).normal(size=(40, 100)).astype(np.float32)
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    covariance = centred.T @ centred / len(x) + 1e-6 * np.eye(100)
    distances = np.einsum("nd,nd->n", centred @ np.linalg.inv(covariance), centred)
    expected = -0.5 * (np.linalg.slogdet(covariance)[1] + 100 * np.log(2 * np.pi) + distances.mean())
    if how == "estimator":
        with warnings.catch_warnings():
            # By rounding its objective may fall, on some processors: that is reported, as NOT_MONOTONE.
            warnings.filterwarnings("ignore", message=".*NOT_MONOTONE")
            found = float(GaussianMixture(1).fit(x).score(x))
    else:
        found = float(jaxgmm.fit(KEY, x, 1, n_restarts=2).objective)
    assert abs(found - expected) < 0.01 * abs(expected)


def test_a_total_column_in_float32_is_fitted_and_collapses_without_a_ridge():
    x = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
    x[:, 3] = x[:, :3].sum(axis=1)
    assert np.isfinite(float(jaxgmm.fit(KEY, x, 2, n_restarts=2).objective))
    assert int(jaxgmm.fit(KEY, x, 1, n_restarts=1, ridge=0.0).status) == jaxgmm.Status.COLLAPSED

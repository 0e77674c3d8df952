"""What makes a family: laws over every family on the shelf. A new family is tested by standing there."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgmm.families import NO_PRIOR, SHELF
from tests import oracle
from tests.laws import ITERATIVE, even_a_strangers, every_family
from tests.tolerances import assert_close, relative_covariances

K, D = 3, 4
MASS = np.array([30.0, 50.0, 20.0])


def random_scatter(rng, mass=MASS, n_features=D):
    """Scatter matrices of clusters that no family fits exactly. -> (K, D, D)."""
    factor = np.eye(n_features) + 0.4 * rng.normal(size=(len(mass), n_features, n_features))
    volume = rng.uniform(0.5, 3.0, len(mass))
    return np.einsum("k,kij,klj->kil", mass * volume, factor, factor)


def estimate(family, scatter, mass=MASS, dtype=np.float64, previous=None):
    """The family's covariance from dense scatter matrices (K, D, D)."""
    return estimated(np.asarray(scatter, dtype), np.asarray(mass, dtype), previous, family)


@partial(jax.jit, static_argnames="family")  # operation by operation, an estimate is a dozen programs
def estimated(scatter, mass, previous, family):
    return family.estimate(family.kind.project(scatter), mass, D, NO_PRIOR, previous)


def precision_of(family):
    """The row of the table for a family's estimate: its inner iteration is not run to the last digit."""
    return "inner_iteration" if family.name in ITERATIVE else "matrices"


def dense(family, covariance, n_components=K):
    """(K, D, D) in float64."""
    return np.broadcast_to(np.asarray(dense_of(covariance, family), np.float64), (n_components, D, D))


@partial(jax.jit, static_argnames="family")
def dense_of(covariance, family):
    del family  # tells covariances of different types apart, which JAX's cache of traces may not
    return covariance.dense()


def objective(covariances, scatter, mass=MASS):
    """Σ_k −½ (mass_k log|Σ_k| + tr(scatter_k Σ_k⁻¹)), float64."""
    log_det = np.linalg.slogdet(covariances)[1]
    traces = np.trace(np.linalg.solve(covariances, scatter), axis1=1, axis2=2)
    return float(-0.5 * np.sum(mass * log_det + traces))


@even_a_strangers
def test_estimate_is_the_maximum_within_the_family(family, dtype, rng):
    """No member of the family close by has a higher objective."""
    scatter = random_scatter(rng)
    best = objective(dense(family, estimate(family, scatter, dtype=dtype)), scatter)
    for size in (0.3, 0.1, 0.03):
        for _ in range(10):
            # Estimates from other scatters are members of the family, in every direction (see the rank below).
            warp = np.eye(D) + size * rng.normal(size=(K, D, D))
            other = estimate(family, np.einsum("kij,kjl,kml->kim", warp, scatter, warp), dtype=dtype)
            assert objective(dense(family, other), scatter) < best


@even_a_strangers
def test_estimate_is_the_oracle_s(family, dtype, rng):
    """The closed form, or the inner iteration run to its end, written down a second time in NumPy."""
    if family.name not in SHELF:
        pytest.skip("the oracle knows the families on the shelf")
    scatter = random_scatter(rng)
    actual = relative_covariances(
        dense(family, estimate(family, scatter, dtype=dtype)), oracle.estimate(family.name, scatter, MASS)
    )
    assert_close(actual, np.zeros_like(actual), precision_of(family), dtype)


@every_family
def test_of_numpy_s_arrays_the_estimate_is_numpy_s(family, dtype, rng):
    """And so is all that a step asks of it: small tables are fitted so, and nothing is compiled."""
    scatter = random_scatter(rng).astype(dtype)
    indefinite = scatter - 100.0 * np.trace(scatter, axis1=1, axis2=2).max() * np.eye(D, dtype=dtype)
    for of, mass in ((scatter, MASS), (scatter, MASS * [1.0, 0.0, 1.0]), (indefinite, MASS)):
        with np.errstate(all="ignore"):
            ours = family.estimate(family.kind.project(of), mass.astype(dtype), D, NO_PRIOR, None)
            asked = {name: getattr(ours, name)() for name in ASKED}
        theirs = answers(estimate(family, of, mass, dtype), family)
        assert all(isinstance(found, np.ndarray) for found in [*jax.tree.leaves(ours), *asked.values()])
        assert np.array_equal(asked["is_definite"], np.full_like(asked["is_definite"], of is scatter))
        for name in ASKED if of is scatter else ("is_definite", "is_resolved"):
            assert_close(asked[name], theirs[name], precision_of(family), dtype)


@every_family
def test_numpy_s_estimates_of_several_runs_are_those_of_each(family, dtype, rng):
    """Bit for bit, with an axis of runs in front: small searches step all runs together."""
    scatters = np.stack([random_scatter(rng).astype(dtype) for _ in range(3)])
    masses = np.stack([MASS, MASS * [1.0, 0.0, 1.0], MASS[::-1]]).astype(dtype)

    def asked(scatter, mass):
        before = family.estimate(family.kind.project(scatter[..., ::-1, :, :]), mass, D, NO_PRIOR, None)
        found = family.estimate(family.kind.project(scatter), mass, D, NO_PRIOR, before)
        return jax.tree.leaves(found) + [getattr(found, name)() for name in ASKED if name != "dense"]

    together = asked(scatters, masses)
    for run, alone in enumerate(map(asked, scatters, masses)):
        for whole, one in zip(together, alone, strict=True):
            assert np.array_equal(whole[run], one)


ASKED = ("dense", "variances", "precision_diagonal", "log_det", "is_definite", "is_resolved")


@partial(jax.jit, static_argnames="family")
def answers(covariance, family):
    del family
    return {name: getattr(covariance, name)() for name in ASKED}


@even_a_strangers
@pytest.mark.parametrize(("n_components", "n_features"), [(3, 3), (2, 4), (1, 2), (3, 1)])
def test_n_free_is_the_rank_of_the_estimate(family, n_components, n_features, rng, x64):
    """`n_free` = rank of the Jacobian of the dense estimate with respect to the scatter."""
    mass = rng.uniform(10.0, 50.0, n_components)
    scatter = jnp.asarray(random_scatter(rng, mass, n_features))

    def covariances(scatter):
        shown = family.estimate(family.kind.project(scatter), jnp.asarray(mass), n_features, NO_PRIOR, None)
        return jnp.broadcast_to(shown.dense(), scatter.shape)

    jacobian = jax.jit(jax.jacfwd(covariances))(scatter).reshape(scatter.size, scatter.size)
    size = np.linalg.svd(np.asarray(jacobian), compute_uv=False)
    # Singular values fall off a cliff at the rank; an inner iteration leaves crumbs below it.
    rank = int(np.sum(size > 1e-5 * size[0]))
    assert family.n_free(n_components, n_features) == rank


@even_a_strangers
def test_n_free_takes_a_traced_number_of_components(family):
    """K may be data: a sweep pads every mixture to the largest."""
    traced = jax.jit(lambda k: jnp.asarray(family.n_free(k, D)))(jnp.int32(K))
    assert int(traced) == family.n_free(K, D)


@even_a_strangers
def test_a_component_without_mass_disturbs_nobody(family, dtype, rng):
    """Mass 0 gets a finite positive definite matrix, and the others are as if it were not there."""
    scatter = random_scatter(rng)
    with_empty = estimate(family, np.concatenate([scatter, np.zeros((1, D, D))]), np.append(MASS, 0.0), dtype)
    got = dense(family, with_empty, K + 1)
    assert np.all(np.isfinite(got))
    assert np.all(np.linalg.eigvalsh(got) > 0)
    assert np.all(np.asarray(with_empty.is_definite()))
    actual = relative_covariances(got[:K], dense(family, estimate(family, scatter, dtype=dtype)))
    assert_close(actual, np.zeros_like(actual), "matrices", dtype)


@even_a_strangers
def test_no_mass_at_all_is_still_an_estimate(family, dtype):
    """All components empty (a masked lane): finite, positive definite."""
    got = estimate(family, np.zeros((K, D, D)), np.zeros(K), dtype)
    assert np.all(np.isfinite(dense(family, got)))
    assert np.all(np.linalg.eigvalsh(dense(family, got)) > 0)


@even_a_strangers
def test_read_of_show_is_a_round_trip(family, dtype, rng):
    """What a family shows its users it also reads; and dense matrices of its own it leaves as they are."""
    covariance = estimate(family, random_scatter(rng), dtype=dtype)
    shown = family.show(covariance, K)
    assert shown.dtype == dtype
    for back in (family.read(shown, D), family.read(jnp.asarray(dense(family, covariance), dtype), D)):
        assert jax.tree.structure(back) == jax.tree.structure(covariance)
        actual = relative_covariances(dense(family, back), dense(family, covariance))
        assert_close(actual, np.zeros_like(actual), precision_of(family), dtype)


@even_a_strangers
def test_a_ridge_stays_in_the_family(family, dtype, rng):
    """An estimate with a ridge is a member: projecting it changes nothing. And it is the larger matrix."""
    scatter, mass = random_scatter(rng).astype(dtype), MASS.astype(dtype)

    @jax.jit
    def ridged(scatter, mass):
        scatter = family.kind.project(scatter) + 0.7 * family.kind.diagonal(mass, jnp.ones(D, mass.dtype))
        return family.estimate(scatter, mass, D, NO_PRIOR, None)

    with_ridge = dense(family, ridged(scatter, mass))
    without = dense(family, estimate(family, scatter, dtype=dtype))
    again = dense(family, family.read(jnp.asarray(with_ridge, dtype), D))
    difference = relative_covariances(again, with_ridge)
    assert_close(difference, np.zeros_like(difference), precision_of(family), dtype)
    assert np.all(np.trace(with_ridge, axis1=1, axis2=2) > np.trace(without, axis1=1, axis2=2))


@even_a_strangers
def test_estimate_scales_with_the_data(family, dtype, rng):
    """scatter · s gives Σ · s, for s where squares leave float32's middle."""
    scatter = random_scatter(rng)
    unit = dense(family, estimate(family, scatter, dtype=dtype))
    for scale in (1e-12, 1e12):
        actual = relative_covariances(dense(family, estimate(family, scatter * scale, dtype=dtype)) / scale, unit)
        assert_close(actual, np.zeros_like(actual), "matrices", dtype)


@even_a_strangers
def test_an_estimate_that_starts_from_the_previous_one_is_no_worse(family, dtype, rng):
    """Where the maximum takes an inner iteration, `previous` is where it starts: any start gives the same optimum."""
    scatter = random_scatter(rng)
    previous = estimate(family, random_scatter(rng), dtype=dtype)
    warm = dense(family, estimate(family, scatter, dtype=dtype, previous=previous))
    cold = dense(family, estimate(family, scatter, dtype=dtype))
    actual = relative_covariances(warm, cold)
    assert_close(actual, np.zeros_like(actual), "inner_iteration", dtype)
    assert objective(warm, scatter) >= objective(dense(family, previous), scatter)


@even_a_strangers
def test_a_family_is_static(family):
    """Hashable, equal to its like, and without arrays: it is part of what a program is compiled for."""
    assert hash(family) == hash(type(family)())
    assert family == type(family)()
    assert jax.tree.leaves(family) == []
    assert SHELF.get(family.name, family) is family

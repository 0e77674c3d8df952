"""Small linear algebra: factors and inverses as JAX's own, with their derivatives; never a batched LAPACK call on CPU;
symmetric matrices packed and back; the transposition by a product."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgmm import Batches, Mixture, em
from jaxgmm._base.linalg import FEW, cholesky, columns, einsum, inverse_lower, over_components
from jaxgmm._base.packed import (
    lower_product,
    lower_squares,
    mirror,
    pack_symmetric,
    quadratic_features,
    slabs,
    unpack_symmetric,
)
from tests import oracle
from tests.tolerances import assert_close


def definite(rng, *leading, n_features):
    factor = np.eye(n_features) + 0.3 / np.sqrt(n_features) * rng.normal(size=(*leading, n_features, n_features))
    return factor @ np.swapaxes(factor, -1, -2)


def own_inverse(factor):
    """What `inverse_lower` stands for, by JAX's own rules."""
    identity = jnp.broadcast_to(jnp.eye(factor.shape[-1]), factor.shape)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


def own_cholesky(matrices):
    return jnp.linalg.cholesky(matrices)


PAIRS = {"cholesky": (cholesky, own_cholesky), "inverse_lower": (inverse_lower, own_inverse)}
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
every_batch = pytest.mark.parametrize("leading", [(), (4,), (2, 4)], ids=["one", "batch", "batches"])
few_and_more = pytest.mark.parametrize("n_features", [1, 3, 6])  # up to four all matrices are factored together


@pytest.mark.default_flags
@every_pair
@every_batch
@few_and_more
def test_values_are_jax_s_own(pair, leading, n_features, x64, rng):
    """For one matrix and for any leading axes, alone and under nested vmap."""
    mine, theirs = pair
    matrices = definite(rng, *leading, n_features=n_features)
    matrices = np.linalg.cholesky(matrices) if mine is inverse_lower else matrices
    lanes = np.stack([matrices, 2.0 * matrices])
    expected = jax.jit(theirs)(lanes)
    assert_close(jax.jit(mine)(matrices), expected[0], "matrices", np.float64)
    assert_close(jax.jit(jax.vmap(mine))(lanes), expected, "matrices", np.float64)


@pytest.mark.default_flags
@pytest.mark.parametrize("n_features", [63, 64, 65, 130])
def test_large_factors(n_features, dtype, rng):
    """In blocks: the factor multiplied out is the matrix, its inverse times itself the identity."""
    matrices = definite(rng, 2, n_features=n_features).astype(dtype)
    factor = jax.jit(cholesky)(matrices)
    assert np.array_equal(factor, np.tril(factor))
    assert_close(np.asarray(factor) @ np.swapaxes(factor, -1, -2), matrices, "matrices", dtype, factor=10.0)
    identity = np.broadcast_to(np.eye(n_features), matrices.shape)
    inverse = np.asarray(jax.jit(inverse_lower)(factor))
    assert_close(inverse @ np.asarray(factor), identity, "matrices", dtype, factor=10.0)


@every_pair
@pytest.mark.parametrize(("leading", "n_features"), [((), 3), ((), 6), ((4,), 1), ((2, 4), 3), ((2, 4), 6)])
def test_derivatives_are_jax_s_own(pair, leading, n_features, x64, rng):
    """Forwards, backwards and second derivatives of a scalar made from the result; and backwards under vmap."""
    mine, theirs = pair
    matrices = definite(rng, *leading, n_features=n_features)
    tangent, weights = rng.normal(size=(2, *matrices.shape))
    tangent = tangent + np.swapaxes(tangent, -1, -2)

    def through(function):
        # A factor of something symmetric in both cases, so that nothing depends on which triangle is read.
        inner = own_cholesky if mine is inverse_lower else lambda a: a

        def scalar(a):
            return jnp.sum(weights * jnp.sin(function(inner(0.5 * (a + jnp.swapaxes(a, -1, -2))))))

        @jax.jit
        def derivatives(matrices):
            along = jax.jvp(scalar, (matrices,), (tangent,))[1]
            second = jax.jvp(jax.grad(scalar), (matrices,), (tangent,))[1]
            lanes = jax.vmap(jax.grad(scalar))(jnp.stack([matrices, 2.0 * matrices]))
            return along, jax.grad(scalar)(matrices), second, lanes

        return derivatives(matrices)

    for own, expected in zip(through(mine), through(theirs), strict=True):
        assert_close(own, expected, "matrices", np.float64, factor=10.0)


@every_pair
@few_and_more
def test_what_has_no_factor_is_nan(pair, n_features):
    """No exception and no wrong number, and only where the matrix is at fault."""
    mine, _ = pair
    identity = np.eye(n_features)
    bad = [-identity, np.zeros_like(identity)] if mine is cholesky else [np.full_like(identity, np.nan)]
    result = np.asarray(jax.jit(mine)(np.stack([identity, *bad]).astype(np.float32)))
    assert np.array_equal(result[0], identity)
    assert np.isnan(result[1:]).any(axis=(1, 2)).all()


@pytest.mark.default_flags
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the calls in question are the CPU's")
@pytest.mark.parametrize("n_lanes", [None, 3], ids=["alone", "vmap"])
@pytest.mark.parametrize("family", ["full", "tied"])
def test_no_lapack_call_takes_a_batch(family, n_lanes):
    """In a compiled run, every call of LAPACK is for a single matrix.

    Batched ones share the thread pool that they run on, and two at a time can wait for each other for ever: a hang
    that no test could be trusted to meet.
    """
    n_features = 6
    blobs = oracle.blobs(seed=1, n_rows=64, n_features=n_features, n_components=4)
    batches = Batches.of(blobs.x, n_components=4, dtype=np.float32)
    mixture = Mixture.create(*blobs.start, family=family, dtype=np.float32)

    def program(mixture):
        return em.run(em.init(mixture, batches), batches, em.Settings(), 5)

    if n_lanes:
        mixture, program = jax.tree.map(lambda leaf: jnp.stack([leaf] * n_lanes), mixture), jax.vmap(program)
    compiled = jax.jit(program).lower(mixture).compile().as_text()
    calls = re.findall(r"= \(?f32\[([\d,]*)\][^\n]*custom_call_target=\"lapack_", compiled)
    assert calls
    for shape in calls:
        assert np.prod([int(n) for n in shape.split(",")]) == n_features**2


@pytest.mark.parametrize("n_features", [1, 2, 4, 5, 8, 9, 16, 24])
def test_pairs_of_features_are_quadratic_forms_and_second_moments(n_features, x64, rng):
    """packed(A) · features = xᵀAx, and unpacked sums of features = Σ x xᵀ."""
    x = rng.normal(size=(n_features, 7))
    matrices = definite(rng, 2, n_features=n_features)

    @jax.jit
    def found(x, matrices):
        features = quadratic_features(x)
        products = features[n_features:]
        forms = pack_symmetric(matrices) @ products
        return features[:n_features], forms, unpack_symmetric(jnp.sum(products, axis=1), n_features)

    first, forms, scatter = found(x, matrices)
    assert np.array_equal(first, x)
    assert_close(forms, np.einsum("in,kij,jn->kn", x, matrices, x), "matrices", np.float64, factor=n_features)
    assert_close(scatter, x @ x.T, "matrices", np.float64, factor=n_features)


@pytest.mark.parametrize("n_features", range(1, 25))
def test_slabs_cover_every_pair(n_features):
    """Each pair of features at least once, and in all no more than the square."""
    covered = np.zeros((n_features, n_features), int)
    for i, j in slabs(n_features):
        covered[i, j] += 1
    assert np.all(np.tril(covered) == np.tril(np.ones_like(covered)))
    assert covered.max() == 1


@pytest.mark.default_flags
def test_columns_are_exact(dtype, rng):
    """Also what is huge, tiny or subnormal, beside each other."""
    rows = rng.normal(size=(50, 5)) * 10.0 ** rng.integers(-30, 30, (50, 5))
    rows = rows.astype(dtype)
    assert np.array_equal(jax.jit(columns)(rows), rows.T)


@pytest.mark.parametrize("n_components", [1, 5, 6, 12])
@pytest.mark.parametrize("n_numbers", [1, 10**6, 10**9])
def test_over_components_is_a_vmap(n_components, n_numbers, rng):
    """Whatever the stacks that it is done in."""
    arrays = rng.normal(size=(n_components, 2)), rng.normal(size=n_components)

    def one(component):
        row, number = component
        return row * number, row.sum() + number

    both = jax.jit(lambda arrays: (over_components(one, arrays, n_numbers), jax.vmap(one)(arrays)))(arrays)
    for own, expected in zip(*both, strict=True):
        assert_close(own, expected, "matrices", np.float32)


@pytest.mark.parametrize("n_features", [2, 3, 9, 30, 100])
def test_lower_triangles_alone(n_features, x64, rng):
    """What is computed from lower triangles by `slabs` is what the whole matrices give."""
    x, mean = rng.normal(size=(n_features, 7)), rng.normal(size=n_features)
    factor = np.linalg.cholesky(definite(rng, n_features=n_features))
    found = jax.jit(lambda factor, x, mean: (lower_squares(factor, x, mean), mirror(lower_product(2.0 * x, x))))
    squares, scatter = found(factor, x, mean)
    expected = np.sum(np.square(factor @ x - mean[:, None]), axis=0)
    assert_close(squares, expected, "matrices", np.float64, factor=n_features)
    assert_close(scatter, 2.0 * x @ x.T, "matrices", np.float64, factor=n_features)


@pytest.mark.parametrize("subscripts", ["kij,kj->ki", "kij,klj,kl->ki", "kj,kj->k", "ki,kj->ikj", "kij,kij->k"])
@pytest.mark.parametrize("size", [2, 40], ids=["few", "many"])
def test_products_of_a_batch(subscripts, size, x64, rng):
    """Written out as sums or as products, alone and in lanes."""
    terms = subscripts.split("->")[0].split(",")
    arrays = [rng.normal(size=(3, *(size for _ in term[1:]))) for term in terms]
    expected = np.einsum(subscripts, *arrays)

    def product(*arrays):
        return einsum(subscripts, *arrays)

    assert_close(jax.jit(product)(*arrays), expected, "matrices", np.float64, factor=size)
    lanes = jax.jit(jax.vmap(product))(*(np.stack([x, 2.0 * x]) for x in arrays))
    assert_close(lanes, np.stack([expected, expected * 2.0 ** len(terms)]), "matrices", np.float64, factor=size)


def test_few_products_of_a_batch_are_no_dot():
    def is_dot(n):
        shape = jax.ShapeDtypeStruct((3, n, n), np.float32)
        return "dot_general" in str(jax.make_jaxpr(lambda a: einsum("kij,klj->kil", a, a))(shape))

    assert not is_dot(round(FEW ** (1 / 3)))
    assert is_dot(round(FEW ** (1 / 3)) + 1)

"""The fused kernels: their sums are those of the chunks, interpreted here and lowered for a card; never by default."""

from __future__ import annotations

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgmm import Batches, Mixture, em
from jaxgmm.covariances import Form
from jaxgmm.density import prepare
from jaxgmm.em import kernel as fused
from jaxgmm.em.expectation import expect, finish
from jaxgmm.families import SHELF
from tests import oracle
from tests.tolerances import assert_close

pytest.importorskip("jax.experimental.pallas.triton")


@pytest.fixture(autouse=True)
def _on_a_processor():
    """Also where there is a card."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


SEVERAL_OF_ALL = fused.Tiling(rows=16, components=16, tiles=2, programs=4)
"""Waves, programs, tiles of rows and, from 17 components on, tiles of components: more than one of each."""

TABLE = {
    "diag": [(1, 37, True), (5, 16, False), (20, 3, True)],
    "spherical": [(1, 16, True), (5, 37, False), (20, 3, True)],
    "full": [(1, 16, True), (3, 37, False), (9, 3, True), (9, 37, True)],
}
"""By family with a kernel: features (one alone, fewer than a tile, more), components (likewise), and whether rows have
weights. No two agree in more than one, since a kernel takes seconds to be interpreted."""


def weighted(n_rows):
    weights = np.linspace(0.0, 2.0, n_rows)
    weights[::7] = 0.0
    return weights


def case(family, n_features, n_components, n_rows=333, weights=None, chunk_size=64, fused=True):
    blobs = oracle.blobs(3, n_rows, n_features, n_components, distance=2.0)
    mixture = Mixture.create(*blobs.start, family, dtype=np.float32)
    return mixture, Batches.of(blobs.x.astype(np.float32), weights, chunk_size, fused=fused)


@partial(jax.jit, static_argnames="tiling")  # what surrounds a kernel would be a dozen programs
def interpreted(mixture, batches, tiling=None):
    """The sums by the kernels; the precision is one that a CPU has."""
    operands = prepare(mixture, batches.origin, Form.FAST)
    assert fused.supports(mixture.family.kind, operands, batches)
    return fused.by_kernel(operands, batches, tiling, precision=lax.Precision.HIGHEST, interpret=True)


@jax.jit
def by_chunks(mixture, batches):
    """The moments of `expect`, whose fused form is XLA's on a CPU."""
    return expect(mixture, batches, Form.FAST)


@jax.jit
def moments(mixture, batches, sums):
    return finish(mixture.family.kind, Form.FAST, mixture.means, batches.origin, sums)


def assert_same_moments(found, expected):
    scale = np.maximum(np.asarray(expected.mass), 1.0)
    assert_close(found.objective / scale.sum(), expected.objective / scale.sum(), "objective", np.float32)
    for name in ("mass", "first", "second"):
        one, other = (np.asarray(getattr(m, name)) for m in (found, expected))
        over = scale.reshape(-1, *[1] * (one.ndim - 1))
        assert_close(one / over, other / over, "moments", np.float32)


@pytest.mark.parametrize(
    ("family", "n_features", "n_components", "is_weighted"),
    [(family, *case) for family, several in TABLE.items() for case in several],
)
def test_the_sums_are_those_of_the_chunks(family, n_features, n_components, is_weighted):
    """Odd numbers of everything: rows, features and components past the end of a tile are masked."""
    mixture, batches = case(family, n_features, n_components, weights=weighted(333) if is_weighted else None)
    sums = interpreted(mixture, batches, SEVERAL_OF_ALL)
    assert_same_moments(moments(mixture, batches, sums), by_chunks(mixture, batches))


@pytest.mark.parametrize("n_rows", [1, 64, 65])
def test_any_number_of_rows(n_rows):
    """One; a chunk exactly, which is its own tail; and one more."""
    mixture, batches = case("diag", 4, 2, n_rows=n_rows)
    sums = interpreted(mixture, batches)
    assert_same_moments(moments(mixture, batches, sums), by_chunks(mixture, batches))


def test_rows_without_weight_may_hold_anything():
    """What they hold overflows, or is no number: 0 · inf must not come of it."""
    weights = weighted(333)
    mixture, batches = case("diag", 4, 20, weights=weights)
    x = np.array(np.concatenate([batches.rows.body, batches.rows.tail])[:333])
    x[weights == 0.0] = np.where(np.arange((weights == 0.0).sum()) % 2, np.inf, np.nan)[:, None]
    spoilt = Batches.of(x, weights, 64, fused=True)
    one, other = (interpreted(mixture, b, SEVERAL_OF_ALL) for b in (batches, spoilt))
    for left, right in zip(one, other, strict=True):
        assert np.all(np.isfinite(right))
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("n_components", [3, 20])
def test_components_that_are_switched_off_get_nothing(n_components):
    mixture, batches = case("diag", 4, n_components)
    off = jnp.arange(n_components) == 1
    masked = Mixture(jnp.where(off, -jnp.inf, mixture.log_weights), mixture.means, mixture.scales, mixture.family)
    sums = interpreted(masked, batches, SEVERAL_OF_ALL)
    assert float(sums.mass[1]) == 0.0
    assert np.all(np.asarray(sums.first[1]) == 0.0)
    assert_same_moments(moments(masked, batches, sums), by_chunks(masked, batches))


@pytest.mark.parametrize("n_components", [3, 20])
def test_a_row_out_of_reach_ends_a_run_as_in_chunks(n_components):
    """Squares of float32 overflow: the objective is not finite by either way, and the run says so."""
    mixture, batches = case("spherical", 4, n_components)
    x = np.array(np.concatenate([batches.rows.body, batches.rows.tail])[:333])
    x[5] = 1e30
    far = Batches(
        Batches.of(x, None, 64).rows,
        batches.weights,
        batches.origin,
        batches.total_weight,
        batches.min_weight,
        batches.n_rows,
    )
    assert not np.isfinite(by_chunks(mixture, far).objective)
    assert not np.isfinite(interpreted(mixture, far, SEVERAL_OF_ALL).objective)


def test_lanes_share_the_rows():
    """Under `vmap` over mixtures each lane gets its own sums of the same rows."""
    mixture, batches = case("diag", 4, 20)
    moved = Mixture(mixture.log_weights, mixture.means + 0.3, mixture.scales, mixture.family)
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), mixture, moved)
    both = jax.vmap(lambda m: interpreted(m, batches, SEVERAL_OF_ALL))(lanes)
    for lane, one in enumerate((mixture, moved)):
        sums = jax.tree.map(lambda leaf, lane=lane: leaf[lane], both)
        assert_same_moments(moments(one, batches, sums), by_chunks(one, batches))


def test_where_there_is_no_card_the_chunks_run():
    """On a CPU `fused` changes no bit, and neither does it change a derivative, anywhere."""
    mixture, batches = case("diag", 4, 3)
    plain = case("diag", 4, 3, fused=False)[1]
    start = em.init(mixture, plain)
    one, other = (em.run(start, b, max_steps=7) for b in (batches, plain))
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)

    def slope(b):
        moved = lambda means: Mixture(mixture.log_weights, means, mixture.scales, mixture.family)  # noqa: E731
        return jax.jit(jax.grad(lambda means: expect(moved(means), b).objective))(mixture.means)

    np.testing.assert_array_equal(slope(batches), slope(plain))

    def slope_of_a_step(b):
        def after(means):
            moved = Mixture(mixture.log_weights, means, mixture.scales, mixture.family)
            return em.step(em.init(moved, b), b).objective

        return jax.jit(jax.grad(after))(mixture.means)

    np.testing.assert_array_equal(slope_of_a_step(batches), slope_of_a_step(plain))


def is_supported(mixture, batches):
    operands = jax.eval_shape(lambda m: prepare(m, batches.origin, Form.FAST), mixture)
    return fused.supports(mixture.family.kind, operands, batches)


@pytest.mark.parametrize(("family", "most"), [("full", 12), ("diag", 128), ("spherical", 128), ("tied", 0)])
def test_what_has_no_kernel_is_left_alone(family, most):
    """Shared matrices, more features than a kernel takes, and float64."""
    assert {12, 128} == set(fused.FEATURES_UP_TO.values())
    for n_features in (4, most, most + 1):
        if n_features:
            assert is_supported(*case(family, n_features, 2)) is (n_features <= most)
    with jax.enable_x64(True):
        blobs = oracle.blobs(3, 50, 2, 2)
        assert not is_supported(Mixture.create(*blobs.start, family), Batches.of(blobs.x, fused=True))


@pytest.mark.parametrize("family", sorted(set(SHELF) - set(TABLE)))
def test_a_family_without_a_kernel_is_the_same(family):
    mixture, batches = case(family, 3, 2)
    assert_same_moments(by_chunks(mixture, batches), by_chunks(mixture, case(family, 3, 2, fused=False)[1]))


@contextlib.contextmanager
def as_on_a_card():
    """From jax 0.11 on, lowering a kernel asks which card it is for."""
    if jax.__version_info__ < (0, 11):
        yield
        return
    from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

    card = AbstractDevice("NVIDIA H200", 132, "gpu")
    with use_abstract_mesh(AbstractMesh((1,), ("card",), axis_types=(AxisType.Auto,), abstract_device=card)):
        yield


def lowered(function, *arguments):
    with as_on_a_card():
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize(
    ("family", "n_features", "n_components", "n_kernels"),
    [("diag", 8, 32, 1), ("diag", 128, 1024, 2), ("spherical", 128, 1024, 2), ("full", 3, 8, 1), ("full", 12, 200, 2)],
)
def test_for_a_card_an_e_step_holds_the_kernels(family, n_features, n_components, n_kernels):
    """Body and tail have a call each of as many kernels as the components need; without `fused` there is none."""
    shared = np.ones((n_components, n_features), np.float32)
    covariances = {
        "diag": shared,
        "spherical": shared[:, 0],
        "full": np.broadcast_to(np.eye(n_features), (n_components,) + (n_features,) * 2),
    }[family]
    mixture = Mixture.create(shared[:, 0] / n_components, 0.0 * shared, covariances, family, dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(3000, n_features)).astype(np.float32)
    for is_fused, expected in ((True, 2 * n_kernels), (False, 0)):
        batches = Batches.of(x, None, 1024, fused=is_fused)
        text = lowered(expect, mixture, batches)
        assert text.count("__gpu$xla.gpu.triton") == expected
    assert text.count("triton") == 0


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
def test_for_a_card_lanes_share_a_kernel():
    mixture, batches = case("diag", 4, 3)
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), mixture)
    text = lowered(jax.vmap(lambda m, b: expect(m, b, Form.FAST), in_axes=(0, None)), lanes, batches)
    assert text.count("__gpu$xla.gpu.triton") == 2


@pytest.mark.parametrize("features", fused.FEATURES_UP_TO)
@pytest.mark.parametrize("n_components", [1, 16, 100, 1024])
def test_tiles_fit_the_registers(features, n_components):
    for n_features in range(1, fused.FEATURES_UP_TO[features] + 1):
        tiling = fused.choose_tiling(features, n_features, n_components)
        width = fused._width(n_features) + fused._quadratic_width(features, n_features)
        assert tiling.components * width <= fused.MOST_SUMS
        assert tiling.components * tiling.rows <= fused.MOST_SHARES
        for side in (tiling.rows, tiling.components):
            assert side >= fused.LEAST
            assert side & (side - 1) == 0

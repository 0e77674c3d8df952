"""The sums of an EM iteration in one pass over the rows on an NVIDIA card, without storing a responsibility.

XLA writes a chunk's log joint, exponentials and responsibilities to memory between its kernels. Here a program (in
Triton's sense: a thread block) reads a tile of rows once and keeps everything else on the chip: features, log joint,
shares, and the sums that they add to. All that `Form.FAST` writes as *coefficients · features + constant* can be
computed so, where the features are x − origin and

    squares   (x − origin)², a diagonal covariance (up to 128 features)
    norm      |x − origin|², a spherical one (likewise)
    pairs     all products of two entries, a full one (up to 12)

Where the sums of all components exceed a program's registers, components are split into tiles and there are two
kernels: one for the rows' log-densities, by a running log-sum-exp over the tiles, and one for the sums.

Only this file and `kernel_program.py` use Pallas; `expectation.expect` calls `sums`, and works without it. The kernels
are written for Pallas' Triton back end and not for Mosaic GPU, its successor: Triton has a product of float32 matrices
that is exact to 2⁻²² on tensor cores (three products of TF32), runs from Ampere on, and can be interpreted and lowered
without a card; the tensor-core instruction that Mosaic GPU programs by hand knows TF32 alone, and Hopper alone. JAX
deprecates Triton's from 0.11 on: where it is gone `supports` returns False, and XLA's form runs.

Not yet measured on a card, so it runs only for `Batches.of(..., fused=True)`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base.packed import slabs
from .._base.programs import next_power_of_two
from .._base.sums import compensated_add
from ..covariances import dense, diagonal, spherical
from ..moments import DIAGONAL, FULL, TRACE, Kind, Statistics
from ..rows.batches import Batches
from .kernel_program import NORM, PAIRS, SQUARES, Shape, Tiling, log_prob_kernel, sums_kernel

Given = tuple[Any, Array]
"""The operands of an E-step, and the means (K, D)."""

Chunked = Callable[[Given, Batches], Statistics]

FEATURES = {diagonal.Fast: (SQUARES, DIAGONAL), spherical.Fast: (NORM, TRACE), dense.Packed: (PAIRS, FULL)}
"""For the operands of an E-step: its quadratic features, and the kind of moments that sums the same features."""

FEATURES_UP_TO = {SQUARES: 128, NORM: 128, PAIRS: 12}
"""Features D up to which a tile fits into a program's registers. The 192 pairs of 13 to 16 features do not: ptxas
spills 35 kB per thread to memory (compiled for sm_90)."""

TENSOR_CORES = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
"""Three products of 11-bit halves: as accurate as float32; a single one would put log-densities off by half a nat."""

LEAST = 16
"""Smallest allowed side of a tile in a matrix product."""

MOST_SUMS = 16384
"""Numbers that a program accumulates, at 4 bytes of the 256 kB of registers that the programs of a core share."""

MOST_SHARES = 8192
"""Rows × components of a tile: shared memory holds their shares twice, as both operands of three products."""

PARTIAL_BYTES = 16e6
"""Bytes of the sums of all programs, before they are added up."""


def supports(kind: Kind, operands: Any, batches: Batches) -> bool:
    """Whether there is a kernel for these operands, moments and rows, and a back end to compile it."""
    features, wanted = FEATURES.get(type(operands), (None, None))
    return (
        features is not None
        and kind == wanted
        and batches.dtype == jnp.float32
        and batches.n_features <= FEATURES_UP_TO[features]
        and _has_triton()
    )


def _has_triton() -> bool:
    try:
        return importlib.util.find_spec("jax.experimental.pallas.triton") is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sums(chunked: Chunked, given: Given, batches: Batches) -> Statistics:
    """`chunked(given, batches)`, by the kernels where the program is compiled for an NVIDIA card.

    Derivatives are those of `chunked`, whatever the device; so it must not close over what is differentiated.
    """

    def kernels(given: Given, batches: Batches) -> Statistics:
        return by_kernel(given[0], batches)

    return lax.platform_dependent(given, batches, cuda=kernels, default=chunked)


@sums.defjvp
def _sums_jvp(
    chunked: Chunked, primals: tuple[Given, Batches], tangents: tuple[Any, Any]
) -> tuple[Statistics, Statistics]:
    return jax.jvp(chunked, primals, tangents)


def by_kernel(
    operands: Any,
    batches: Batches,
    tiling: Tiling | None = None,
    *,
    precision: Any = TENSOR_CORES,
    interpret: bool = False,
) -> Statistics:
    """The sums of all rows. `interpret`: on any device, slowly, with a precision that the device supports."""
    features, _ = FEATURES[type(operands)]
    whole = (batches.n_chunks - 1) * batches.chunk_size
    parts: list[tuple[Array, Array | None, int]] = [(batches.rows.tail, batches.weights.tail, batches.chunk_size)]
    if whole:
        assert batches.rows.body is not None
        parts.append((batches.rows.body, batches.weights.body, whole))
    found = [_part(features, operands, *part, tiling, precision, interpret) for part in parts]
    total = found[0]
    for more in found[1:]:
        total = jax.tree.map(jnp.add, total, more)
    return total


def choose_tiling(features: str, n_features: int, n_components: int) -> Tiling:
    """Tiles as large as the registers allow, and all components in one where they fit."""
    n_sums = _n_sums(features, n_features)
    rows = 32 if n_sums > 128 else 64
    most = min(max(LEAST, 1 << (MOST_SUMS // n_sums).bit_length() - 1), MOST_SHARES // rows)
    return Tiling(rows, min(most, max(LEAST, next_power_of_two(n_components))))


def _part(
    features: str,
    operands: Any,
    rows: Array,
    weights: Array | None,
    n_rows: int,
    tiling: Tiling | None,
    precision: Any,
    interpret: bool,
) -> Statistics:
    """The sums of the first `n_rows` of an array (·, D), in waves of as many rows as the programs take at once."""
    n_components, n_features = len(operands.coefficients), rows.shape[1]
    tiling = tiling or choose_tiling(features, n_features, n_components)
    # No more programs than there are tiles of rows, and no more tiles per program than that takes.
    tiles = -(-n_rows // tiling.rows)
    k_tiles = -(-n_components // tiling.components)
    padded = k_tiles * tiling.components
    most = min(tiling.programs // k_tiles, int(PARTIAL_BYTES / (4 * padded * (_n_sums(features, n_features) + 1))))
    programs = min(max(1, most), tiles)
    tiling = tiling._replace(programs=programs, tiles=min(tiling.tiles, -(-tiles // programs)))
    shape = Shape(features, n_rows, n_features, _width(n_features), padded, tiling, precision)
    constants = _constants(shape, operands)
    wave = programs * tiling.tiles * tiling.rows
    run = functools.partial(_wave, shape, constants, rows, weights, interpret)
    n_waves = -(-n_rows // wave)
    if n_waves == 1:
        total = run(jnp.zeros(1, jnp.int32))
    else:
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(run, jnp.zeros(1, jnp.int32)))

        def body(carry: tuple[Statistics, Statistics], index: Array) -> tuple[tuple[Statistics, Statistics], None]:
            return compensated_add(*carry, run(index[None] * wave)), None

        (total, error), _ = lax.scan(body, (zero, zero), jnp.arange(n_waves, dtype=jnp.int32))
        total = jax.tree.map(jnp.add, total, error)
    mass, first, second, objective = total
    second = second[:n_components] if features == NORM else second[:n_components, : _n_quadratic(features, n_features)]
    return Statistics(mass[:n_components], first[:n_components, :n_features], second, objective)


def _width(n_features: int) -> int:
    return max(LEAST, next_power_of_two(n_features))


def _n_quadratic(features: str, n_features: int) -> int:
    if features == PAIRS:
        return sum((i.stop - i.start) * (j.stop - j.start) for i, j in slabs(n_features))
    return n_features if features == SQUARES else 1


def _n_sums(features: str, n_features: int) -> int:
    """Numbers that are summed for each component, beside its mass."""
    return _width(n_features) + _quadratic_width(features, n_features)


def _quadratic_width(features: str, n_features: int) -> int:
    return 1 if features == NORM else _width(_n_quadratic(features, n_features))


class Constants(NamedTuple):
    """What every program reads besides rows: padded, features first; padded components have a constant of −inf."""

    origin: Array  # (width,)
    linear: Array  # (width, K)
    quadratic: Array  # (quadratic width, K), or (K,) for the norm
    constant: Array  # (K,)
    selection: tuple[Array, ...]  # the two factors of each pair: two of (width, quadratic width), of 0 and 1; or none


def _constants(shape: Shape, operands: Any) -> Constants:
    d, more = shape.n_features, shape.n_components - len(operands.coefficients)
    count = _quadratic_width(shape.features, d)
    linear = jnp.pad(operands.coefficients[:, :d].T, ((0, shape.width - d), (0, more)))
    if shape.features == NORM:
        quadratic = jnp.pad(operands.coefficients[:, d], (0, more))
    else:
        bare = operands.coefficients[:, d:].T
        quadratic = jnp.pad(bare, ((0, count - len(bare)), (0, more)))
    selection: tuple[Array, ...] = ()
    if shape.features == PAIRS:
        pairs = [(i, j) for rows, others in slabs(d) for i in range(d)[rows] for j in range(d)[others]]
        chosen = np.zeros((2, shape.width, count), np.float32)
        for column, pair in enumerate(pairs):
            chosen[[0, 1], pair, column] = 1.0
        selection = (jnp.asarray(chosen[0]), jnp.asarray(chosen[1]))
    return Constants(
        jnp.pad(operands.origin, (0, shape.width - d)),
        linear,
        quadratic,
        jnp.pad(operands.constant, (0, more), constant_values=-jnp.inf),
        selection,
    )


def _wave(
    shape: Shape, constants: Constants, rows: Array, weights: Array | None, interpret: bool, start: Array
) -> Statistics:
    """The sums of one wave of rows, from row `start` (1,) on, over padded components and features."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    tiling, n_programs, n_components = shape.tiling, shape.tiling.programs, shape.n_components
    k_tiles = n_components // tiling.components
    call = functools.partial(
        pl.pallas_call,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=tiling.warps, num_stages=2),
    )

    def whole(array: Array) -> Any:
        return pl.BlockSpec(array.shape, lambda *_: (0,) * array.ndim)

    def of_components(array: Array) -> Any:
        before = array.ndim - 1
        return pl.BlockSpec((*array.shape[:-1], tiling.components), lambda p, k: (*(0,) * before, k))

    def for_each(*size: int) -> tuple[Any, Any]:
        """Block and shape of an output with numbers of this size for each component of a program."""
        block = pl.BlockSpec((None, tiling.components, *size), lambda p, k: (p, k, *(0,) * len(size)))
        return block, jax.ShapeDtypeStruct((n_programs, n_components, *size), jnp.float32)

    data = (start, rows) if weights is None else (start, rows, weights)
    single = (constants.origin, *constants.selection)
    many = (constants.linear, constants.quadratic, constants.constant)
    per_row: tuple[Array, ...] = ()
    if k_tiles > 1:
        n_tiles = n_programs * tiling.tiles
        inputs = (*data, *single, *many)
        log_prob = call(
            functools.partial(log_prob_kernel, shape, weights is not None),
            grid=(n_tiles,),
            in_specs=[whole(array) for array in inputs],
            out_specs=pl.BlockSpec((tiling.rows,), lambda t: (t,)),
            out_shape=jax.ShapeDtypeStruct((n_tiles * tiling.rows,), jnp.float32),
            name="gmm_log_prob",
        )(*inputs)
        per_row = (log_prob,)
    inputs = (*data, *per_row, *single)
    quadratic = () if shape.features == NORM else (len(constants.quadratic),)
    objective = (
        pl.BlockSpec((None, None), lambda p, k: (p, k)),
        jax.ShapeDtypeStruct((n_programs, k_tiles), jnp.float32),
    )
    out_specs, out_shape = zip(for_each(), for_each(shape.width), for_each(*quadratic), objective, strict=True)
    mass, first, second, objectives = call(
        functools.partial(sums_kernel, shape, weights is not None, bool(per_row)),
        grid=(n_programs, k_tiles),
        in_specs=[whole(array) for array in inputs] + [of_components(array) for array in many],
        out_specs=out_specs,
        out_shape=out_shape,
        name="gmm_sums",
    )(*inputs, *many)
    # Each tile of components has the objective of all rows: the first is taken.
    return Statistics(mass.sum(0), first.sum(0), second.sum(0), objectives[:, 0].sum())

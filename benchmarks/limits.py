"""What the machine could do at best, and the least time in which an EM iteration could be done there.

Floating-point operations of one EM iteration (a multiplication and an addition are two), of its matrix products only:

| type      | distances of rows to means | moments of rows         | in all, `flops`  |
|-----------|----------------------------|-------------------------|------------------|
| full      | 2 N K D²                   | 2 N K D²                | 4 N K D²         |
| tied      | whitening 2 N D² + 2 N K D | 2 N K D + scatter 2 N D² | 4 N D² + 4 N K D |
| diag      | 2 N K (2 D)                | 2 N K (2 D)             | 8 N K D          |
| spherical | 2 N K D                    | 2 N K D                 | 4 N K D          |

D (D + 1) / 2 products would do in place of D² wherever the result is known to be symmetric or the factor triangular;
no matrix product of a library takes that half for itself, so the square is counted.
Exponentials, logarithms and factorisations are not counted. `bytes`: the data read once. The floor is the longer of
flops over the rate of a large matrix product and bytes over the bandwidth of a large copy.
"""

import functools
from collections.abc import Callable
from typing import Any

from . import isolate
from .markdown import Columns, by_columns, digits
from .options import Options
from .problems import Problem
from .ratios import Place
from .timing import stopwatch

RUNS = 5
LARGE, QUICK = {"cpu": (4096, 2**28), "gpu": (8192, 2**31)}, (1024, 2**25)
"""Rows and columns of the factors, and bytes that are copied."""
TIME_LIMIT = 600.0


@functools.cache  # the sections ask again; the machine is measured once a run
def measure(options: Options) -> dict[str, Any]:
    """Rates by device and dtype: {"cpu": {"float32": {"gemm_flops_per_s", "copy_bytes_per_s", ...}, ...}, ...}."""

    def one(device: str, dtype: str) -> dict[str, Any]:
        size, n_bytes = QUICK if options.quick else LARGE[device]
        return isolate.ask(rates, options.limit(TIME_LIMIT), device, dtype=dtype, size=size, n_bytes=n_bytes)

    return {device: {dtype: one(device, dtype) for dtype in options.dtypes} for device in options.devices}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line a dtype."""
    rates = [{"dtype": dtype, **of} for dtype, of in found.get(place.device, {}).items() if not of.get("missing")]
    body: Columns = {
        "GFlop/s, one product": lambda of: digits(of["gemm_flops_per_s"] / 1e9),
        "GB/s, copy": lambda of: digits(of["copy_bytes_per_s"] / 1e9),
    }
    return [by_columns(rates, {"dtype": "dtype"}, body, f"### The machine's limits, {place.label}")]


def rates(dtype: str, size: int, n_bytes: int) -> dict[str, Any]:
    """The best of RUNS: a product of two square matrices, and reading and writing one large array."""
    import jax  # here, since peers' processes import this file
    import jax.numpy as jnp

    with jax.enable_x64(dtype == "float64"):
        a = jax.random.normal(jax.random.key(0), (size, size), dtype)
        product = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
        # In place: a new array's pages would have to be found first, and that is no bandwidth.
        negate = jax.jit(jnp.negative, donate_argnums=0)
        x = jnp.ones(n_bytes // jnp.dtype(dtype).itemsize, dtype)

        def copy() -> None:
            nonlocal x
            x = jax.block_until_ready(negate(x))

        return {
            "device_kind": jax.devices()[0].device_kind,
            "gemm_flops_per_s": 2.0 * size**3 / _best(lambda: jax.block_until_ready(product(a, a))),
            "copy_bytes_per_s": 2.0 * x.nbytes / _best(copy),
        }


def _best(call: Callable[[], Any]) -> float:
    call()  # compiles
    return min(stopwatch(call)[0] for _ in range(RUNS))


def flops(problem: Problem) -> int:
    """Of one EM iteration, by the table above."""
    n, d, k = problem.n, problem.d, problem.k
    by_type = {"full": n * k * d * d, "tied": n * d * d + n * k * d, "diag": 2 * n * k * d, "spherical": n * k * d}
    return 4 * by_type[problem.family]


def bytes_read(problem: Problem, dtype: str) -> int:
    """Of one EM iteration: every row once."""
    return problem.n * problem.d * {"float32": 4, "float64": 8}[dtype]


def floor(problem: Problem, dtype: str, rates: dict[str, Any]) -> float | None:
    """Seconds of one EM iteration at the machine's limits; None where those are not known."""
    if rates.get("missing"):
        return None
    return max(flops(problem) / rates["gemm_flops_per_s"], bytes_read(problem, dtype) / rates["copy_bytes_per_s"])


def share(problem: Problem, dtype: str, rates: dict[str, Any], seconds: float | None) -> dict[str, float | None]:
    """The floor of an iteration, and its fraction of the seconds that one took, as they stand in results."""
    least = floor(problem, dtype, rates)
    return {"floor_s": least, "fraction_of_floor": least / seconds if least and seconds else None}

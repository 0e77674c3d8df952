"""What the machine could do at best, and the least time in which an EM iteration could be done there.

Floating-point operations of one EM iteration (a multiplication and an addition are two), of its matrix products only:

| type      | distances of rows to means | moments of rows         | in all, `flops`  |
|-----------|----------------------------|-------------------------|------------------|
| full      | 2 N K D²                   | 2 N K D²                | 4 N K D²         |
| tied      | whitening 2 N D² + 2 N K D | 2 N K D + scatter 2 N D² | 4 N D² + 4 N K D |
| diag      | 2 N K (2 D)                | 2 N K (2 D)             | 8 N K D          |
| spherical | 2 N K D                    | 2 N K D                 | 4 N K D          |

`flops_symmetric` counts D (D + 1) / 2 products in place of D² wherever the result is known to be symmetric or the
factor triangular; no matrix product of a library takes that half for itself, so fractions are of the square count.
Exponentials, logarithms and factorisations are not counted. `bytes`: the data read once. The floor is the longer of
flops over the rate of a large matrix product and bytes over the bandwidth of a large copy.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from . import isolate
from .options import Options
from .problems import Problem

RUNS = 5
PRODUCT = {"cpu": 4096, "gpu": 8192}  # rows and columns of the factors
COPIED = {"cpu": 2**28, "gpu": 2**31}  # bytes
QUICK_PRODUCT, QUICK_COPIED = 1024, 2**25
TIME_LIMIT = 600.0


@functools.cache  # the sections ask again; the machine is measured once a run
def measure(options: Options) -> dict[str, Any]:
    """Rates by device and dtype: {"cpu": {"float32": {"gemm_flops_per_s", "copy_bytes_per_s", ...}, ...}, ...}."""
    return {device: {dtype: _one(device, dtype, options) for dtype in options.dtypes} for device in options.devices}


def _one(device: str, dtype: str, options: Options) -> dict[str, Any]:
    size = QUICK_PRODUCT if options.quick else PRODUCT[device]
    n_bytes = QUICK_COPIED if options.quick else COPIED[device]
    request = {"dtype": dtype, "size": size, "n_bytes": n_bytes}
    answer = isolate.run("benchmarks.limits:rates", request, options.limit(TIME_LIMIT), on_device(device))
    if "missing" in answer:
        print(f"limits {device} {dtype}: {answer['missing']}", flush=True)
        return answer
    gemm, copy = answer["gemm_flops_per_s"], answer["copy_bytes_per_s"]
    print(f"limits {device} {dtype}: {gemm / 1e9:.1f} GFlop/s, {copy / 1e9:.1f} GB/s", flush=True)
    return answer


def on_device(device: str) -> dict[str, str]:
    """What a child's environment needs to say for JAX to compute on `device`. A GPU is what it takes if it sees one."""
    return {"JAX_PLATFORMS": "cpu"} if device == "cpu" else {}


def rates(dtype: str, size: int, n_bytes: int) -> dict[str, Any]:
    """The best of RUNS: a product of two square matrices, and reading and writing one large array."""
    import jax
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
            "gemm_size": size,
            "copy_bytes_per_s": 2.0 * x.nbytes / _best(copy),
            "copy_bytes": int(x.nbytes),
        }


def _best(call: Callable[[], Any]) -> float:
    call()  # compiles
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def flops(problem: Problem) -> int:
    """Of one EM iteration, by the table above."""
    n, d, k = problem.n, problem.d, problem.k
    return {
        "full": 4 * n * k * d * d,
        "tied": 4 * n * d * d + 4 * n * k * d,
        "diag": 8 * n * k * d,
        "spherical": 4 * n * k * d,
    }[problem.family]


def flops_symmetric(problem: Problem) -> int:
    """`flops`, with the half of a symmetric or triangular matrix counted alone."""
    n, d, k = problem.n, problem.d, problem.k
    half = d * (d + 1) // 2
    return {"full": 4 * n * k * half, "tied": 4 * n * half + 4 * n * k * d}.get(problem.family, flops(problem))


def bytes_read(problem: Problem, dtype: str) -> int:
    """Of one EM iteration: every row once."""
    return problem.n * problem.d * {"float32": 4, "float64": 8}[dtype]


def floor(problem: Problem, dtype: str, rates: dict[str, Any]) -> float | None:
    """Seconds of one EM iteration at the machine's limits; None where those are not known."""
    if "missing" in rates:
        return None
    return max(flops(problem) / rates["gemm_flops_per_s"], bytes_read(problem, dtype) / rates["copy_bytes_per_s"])

"""What an accelerator can do, and where an iteration of ours stands against that: what to know before tuning anything.

Meant for a GPU, where it is part of a run of the suite; on a CPU, where it runs if it is asked for by name, it says the
same of the processor. Each part is a list of measurements that are made one after the other in a child process, until
the part's share of the time is up; those that are then left out are named in the result.

| part       | measures |
|------------|----------|
| `products` | rate of one large product of matrices, by precision |
| `loop`     | one iteration of a `while_loop` that does next to nothing: what an iteration cannot take less than |
| `chunks`   | an EM iteration by the rows of a chunk |
| `kernels`  | the sums of an E-step by the fused kernels and by XLA; that they are as exact, `tests/test_gpu.py` says |
| `large`    | an EM iteration of problems for a card, beside the floor; memory above the data where it was a new peak |
| `restarts` | thousands of restarts of a small problem in one call |
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import DotAlgorithmPreset, Precision

import jaxgmm
from jaxgmm import Batches, em
from jaxgmm.covariances import Form
from jaxgmm.density import prepare
from jaxgmm.em import kernel as fused
from jaxgmm.em.expectation import expect, finish

from . import isolate, limits, record
from .child import near
from .markdown import by_columns
from .options import LEFT_OUT, Options
from .problems import OVERLAP, RIDGE, Problem
from .ratios import Place
from .timing import of_iterations, stopwatch

LASTS = 0.1  # seconds that a group of calls should take
GROUPS = 3
LEAST = 15.0  # seconds under which a part is not begun
OURS = 0.55  # share of the time left that is this section's, where the section iteration is still to come

PROBLEMS = "diag_1M_16_64 full_1M_8_32 spherical_1M_128_1024 diag_1M_128_1024 full_1M_4_16".split()
LARGE = (
    "full_1M_64_64 diag_1M_128_1024 spherical_1M_128_1024 full_10M_16_32 tied_10M_32_64 diag_10M_64_256 "
    "diag_100M_8_16 spherical_100M_16_32"
).split()
"""In the order of their bytes: the peak of memory cannot be reset, and shows where it is passed."""
QUICK = "diag_2k_4_3"

PRECISIONS: dict[str, Any] = {
    "float64": Precision.HIGHEST,
    "float32, highest": Precision.HIGHEST,
    "float32, 3 of TF32": DotAlgorithmPreset.TF32_TF32_F32_X3,
    "float32, 6 of bfloat16": DotAlgorithmPreset.BF16_BF16_F32_X6,
    "float32, JAX's default": Precision.DEFAULT,
}
CHUNKS = (2**12, 2**14, 2**16, 2**18, 2**20)  # rows
N_ITERATIONS = 2000  # of the empty loop


def measure(options: Options) -> dict[str, Any]:
    """{device: {part: {"rows": [...], "left_out": [...]}}}, of a CPU only where no other device is asked for."""
    devices = [device for device in options.devices if device != "cpu"] or list(options.devices)
    left = options.seconds_left() * (OURS if "iteration" in options.sections else 1.0) / len(devices)
    share = min(1.0, left / sum(of.seconds for of in PARTS.values()))
    return {
        device: {name: _asked(name, device, share * of.seconds, options) for name, of in PARTS.items()}
        for device in devices
    }


def _asked(name: str, device: str, seconds: float, options: Options) -> dict[str, Any]:
    if options.seconds_left() < LEAST:
        return {"missing": LEFT_OUT}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "rows.json"
        request = {"name": name, "quick": options.quick, "seconds": seconds, "kept": str(kept)}
        # The last measurement that is begun in time may compile for long.
        answer = isolate.run(part, request, options.limit(2.0 * seconds + 60.0), device)
        if answer["missing"] and kept.exists():
            answer |= json.loads(kept.read_text(encoding="utf-8"))
    rows, left_out = answer.get("rows", []), answer.get("left_out", [])
    if name == "large":
        rates = limits.measure(options)[device].get("float32", {"missing": "not measured"})
        for row in (row for row in rows if not row.get("missing")):
            row |= limits.share(Problem.of(row["problem"]), "float32", rates, row["seconds"])
    reason = [answer["missing"]] if answer["missing"] else []
    for line in [*map(isolate.in_short, rows), *(f"left out: {of}" for of in left_out), *reason]:
        print(f"card {device} {name}: {line}", flush=True)
    return answer


def part(name: str, quick: bool, seconds: float, kept: str) -> dict[str, Any]:
    """In a child: the measurements of a part, as many as are begun in time. One that fails is a reason.

    kept: a file that always holds what has been measured by then, should this process be ended.
    """
    until = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for of in PARTS[name].quick if quick else PARTS[name].cases:
        if time.monotonic() > until:
            left_out.append(isolate.in_short(of))
            continue
        try:
            made = PARTS[name].function(**of)
        except Exception as error:
            made = {"missing": isolate.reason(error)}
        rows.append({**of, **made})
        record.write(Path(kept), json.dumps({"rows": rows, "left_out": []}))
    return {"rows": rows, "left_out": left_out}


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds of a call that is made again and again: the least of GROUPS groups of calls, each waited for once."""
    jax.block_until_ready(call())  # compiles
    took, _ = stopwatch(lambda: jax.block_until_ready(call()))
    many = max(1, int(LASTS / max(took, 1e-6)))
    groups = (stopwatch(lambda: jax.block_until_ready([call() for _ in range(many)][-1])) for _ in range(GROUPS))
    return min(seconds for seconds, _ in groups) / many


def on_device(name: str, chunk_size: int | None = None) -> tuple[Any, Any]:
    """A start near the truth and float32 rows like those of `Problem.data`, but made where they are used."""
    problem = Problem.of(name)
    n, d, k = problem.n, problem.d, problem.k
    means = (OVERLAP / np.sqrt(d) * np.random.default_rng(0).standard_normal((k, d))).astype(np.float32)

    @jax.jit
    def drawn(means: Any) -> Any:
        which, noise = jax.random.split(jax.random.key(0))
        return means[jax.random.randint(which, (n,), 0, k)] + jax.random.normal(noise, (n, d), jnp.float32)

    batches = Batches.of(drawn(means), None, chunk_size, n_components=k)
    return near(means, problem.family), batches


def iteration(mixture: Any, batches: Any) -> dict[str, Any]:
    """Seconds of an EM iteration, and the objective after a few."""
    settings = em.Settings(tol=0.0, ridge=RIDGE)
    state = em.init(mixture, batches)

    def call(count: int) -> tuple[float, int]:
        seconds, ended = stopwatch(lambda: jax.block_until_ready(em.run(state, batches, settings, count)))
        return seconds, int(ended.n_steps)

    timed = of_iterations(call, GROUPS, LASTS)["seconds_per_iteration"]
    return {"seconds": timed["low"], "objective": float(em.run(state, batches, settings, 3).objective)}


def products(size: int, precision: str) -> dict[str, Any]:
    dtype = precision.split(",")[0]
    multiply = jax.jit(partial(jnp.matmul, precision=PRECISIONS[precision]))
    with jax.enable_x64(dtype == "float64"):
        a = jax.random.normal(jax.random.key(0), (size, size), dtype)
        seconds = seconds_of(lambda: multiply(a, a))
    return {"seconds": seconds, "flops_per_s": 2.0 * size**3 / seconds}


def loop(kernels: int) -> dict[str, Any]:
    def body(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        index, x = carry
        for _ in range(kernels):
            x = jnp.sort(x)  # is not merged with its neighbours
        return index + 1, x

    @jax.jit
    def run(x: Any, limit: Any) -> Any:
        return lax.while_loop(lambda carry: carry[0] < limit, body, (jnp.int32(0), x))

    return {"seconds": seconds_of(lambda: run(jnp.arange(16.0), np.int32(N_ITERATIONS))) / N_ITERATIONS}


def chunks(problem: str, chunk_size: int) -> dict[str, Any]:
    return {"seconds": iteration(*on_device(problem, chunk_size))["seconds"]}


def kernels(problem: str) -> dict[str, Any]:
    if jax.default_backend() != "gpu":
        raise isolate.Unsupported("there is no card here")
    of, (mixture, batches) = Problem.of(problem), on_device(problem)
    features = fused.FEATURES[type(prepare(mixture, batches.origin, Form.FAST))][0]
    tiling = fused.choose_tiling(features, of.d, of.k)

    @jax.jit
    def by_kernel(mixture: Any, batches: Any) -> Any:
        operands = prepare(mixture, batches.origin, Form.FAST)
        sums = fused.by_kernel(operands, batches, tiling, precision=DotAlgorithmPreset.TF32_TF32_F32_X3)
        return finish(mixture.family.kind, Form.FAST, mixture.means, batches.origin, sums)

    programs = {"fused_s": by_kernel, "xla_s": jax.jit(partial(expect, form=Form.FAST))}
    took = {name: seconds_of(partial(program, mixture, batches)) for name, program in programs.items()}
    return {"tiling": list(tiling), **took, "xla_over_fused": took["xla_s"] / took["fused_s"]}


def large(problem: str) -> dict[str, Any]:
    mixture, batches = on_device(problem)
    before = jax.devices()[0].memory_stats()
    made = iteration(mixture, batches)
    after = jax.devices()[0].memory_stats()
    is_new = before and after and after["peak_bytes_in_use"] > before["peak_bytes_in_use"]
    return {**made, "above_data_bytes": after["peak_bytes_in_use"] - before["bytes_in_use"] if is_new else None}


def restarts(problem: str, n: int) -> dict[str, Any]:
    of = Problem.of(problem)
    x = jax.device_put(of.data("float32").x)

    def call(seed: int) -> Any:
        key = jax.random.key(seed)
        return jax.block_until_ready(jaxgmm.fit(key, x, of.k, "full", n_restarts=n).objective)

    (first, _), (second, objective) = stopwatch(call, 0), stopwatch(call, 1)
    return {"first_call_s": first, "second_call_s": second, "objective": float(objective)}


class Part(NamedTuple):
    """A function and the arguments of each of its measurements, by which they are identified."""

    seconds: float  # that it may go on beginning measurements; less where they are not left
    function: Callable[..., dict[str, Any]]
    cases: list[dict[str, Any]]
    quick: list[dict[str, Any]]


def each(**arguments: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination of these values."""
    return [dict(zip(arguments, values, strict=True)) for values in product(*arguments.values())]


PARTS = {
    "products": Part(40, products, each(size=[8192], precision=PRECISIONS), each(size=[256], precision=PRECISIONS)),
    "loop": Part(20, loop, each(kernels=(0, 1, 10)), each(kernels=(0, 1, 10))),
    "kernels": Part(90, kernels, each(problem=PROBLEMS), [{"problem": QUICK}]),
    "large": Part(90, large, each(problem=LARGE), [{"problem": QUICK}]),
    "chunks": Part(60, chunks, each(problem=PROBLEMS[:3], chunk_size=CHUNKS), [{"problem": QUICK, "chunk_size": 256}]),
    "restarts": Part(40, restarts, each(problem=["full_5k_4_5"], n=(64, 4096)), [{"problem": "full_1k_4_5", "n": 2}]),
}
IN_SHORT = ("products", "loop", "kernels", "large")  # what the short report shows


def tables(found: dict[str, Any], place: Place, parts: Sequence[str] | None = None) -> list[str]:
    """Every part as a table of its own, of the columns that its rows have; all of them, or those named."""
    made = found.get(place.device, {})
    shown = [said for name in parts or made if name in made for said in of_part(name, made[name])]
    return [f"### What the device can do, {place.label}", *shown] if shown else []


def of_part(name: str, part: dict[str, Any]) -> list[str]:
    left_out = "Left out: " + "; ".join(part["left_out"]) if part.get("left_out") else ""
    rows = part.get("rows", [])
    if not rows:
        return [f"{name}: {part.get('missing') or 'nothing was measured'}", left_out]
    columns = dict.fromkeys(column for row in rows for column in row)
    shown = {column.removesuffix("_s").replace("_", " ").removesuffix(" per"): column for column in columns}
    return [f"{name}:", by_columns(rows, shown, {}), left_out]

"""What an accelerator can do, and where an iteration of ours stands against that: what to know before tuning anything.

Meant for a GPU, where it is part of a run of the suite; on a CPU, where it runs if it is asked for by name, it says the
same of the processor. Each part is a list of measurements that are made one after the other in a child process, until
the part's share of the time is up; those that are then left out are named in the result.

| part       | measures |
|------------|----------|
| `products` | rate of one large product of matrices, by precision; of float32-grade ones, how far off it is |
| `loop`     | one iteration of a `while_loop` that does next to nothing: what an iteration cannot take less than |
| `factors`  | Cholesky factors of K matrices and their inverses, by K and D |
| `chunks`   | an EM iteration by the rows of a chunk |
| `stages`   | an EM iteration cut off after each of its stages: the differences say where its time goes |
| `kernels`  | the sums of an E-step by the fused kernels and by XLA, and how far both are from float64 |
| `large`    | an EM iteration of problems for a card, beside the floor; memory above the data where it was a new peak |
| `large_fused` | the same by the fused kernels |
| `restarts` | thousands of restarts of a small problem in one call |
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import isolate, limits, record
from .child import OVERLAP, seconds_per_step, stopwatch
from .options import LEFT_OUT, Options
from .problems import Problem

Measure = Callable[[], dict[str, Any]]
Asked = Iterator[tuple[dict[str, Any], Measure]]
"""A part: what identifies each measurement, and the measurement."""

LASTS = 0.1  # seconds that a group of calls should take
GROUPS = 3
LEAST = 15.0  # seconds under which a part is not begun
SHARE = {
    "products": 40,
    "loop": 20,
    "factors": 45,
    "kernels": 90,
    "large": 90,
    "large_fused": 60,
    "chunks": 60,
    "stages": 60,
    "restarts": 40,
}
"""Seconds that a part may go on beginning measurements; less where they are not left."""

OURS = 0.55
"""Share of the time left that is this section's, where the section iteration is still to come."""

PROBLEMS = (
    Problem("diag", 1_000_000, 16, 64),
    Problem("full", 1_000_000, 8, 32),
    Problem("spherical", 1_000_000, 128, 1024),
    Problem("diag", 1_000_000, 128, 1024),
    Problem("full", 1_000_000, 4, 16),
    Problem("tied", 1_000_000, 16, 64),
)
LARGE = (
    Problem("full", 1_000_000, 64, 64),
    Problem("diag", 1_000_000, 128, 1024),
    Problem("spherical", 1_000_000, 128, 1024),
    Problem("full", 10_000_000, 16, 32),
    Problem("tied", 10_000_000, 32, 64),
    Problem("diag", 10_000_000, 64, 256),
    Problem("diag", 100_000_000, 8, 16),
    Problem("spherical", 100_000_000, 16, 32),
)
"""In the order of their bytes: the peak of memory cannot be reset, and shows where it is passed."""

QUICK_PROBLEMS = (Problem("diag", 2_000, 4, 3),)


def measure(options: Options) -> dict[str, Any]:
    """{device: {part: {"rows": [...], "left_out": [...]}}}, of a CPU only where no other device is asked for."""
    devices = [device for device in options.devices if device != "cpu"] or list(options.devices)
    left = options.seconds_left() * (OURS if "iteration" in options.sections else 1.0) / len(devices)
    shares = {name: seconds * min(1.0, left / sum(SHARE.values())) for name, seconds in SHARE.items()}
    return {device: {name: _asked(name, device, shares[name], options) for name in PARTS} for device in devices}


def _asked(name: str, device: str, seconds: float, options: Options) -> dict[str, Any]:
    if options.seconds_left() < LEAST:
        return {"missing": LEFT_OUT}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "rows.json"
        request = {"name": name, "quick": options.quick, "seconds": seconds, "kept": str(kept)}
        # The last measurement that is begun in time may compile for long.
        limit = options.limit(2.0 * seconds + 60.0)
        answer = isolate.run("benchmarks.card:part", request, limit, limits.on_device(device))
        if "missing" in answer and kept.exists():
            answer |= json.loads(kept.read_text(encoding="utf-8"))
    answer.pop("peak_bytes", None)
    if name.startswith("large"):
        rates = limits.measure(options)[device].get("float32", {"missing": "not measured"})
        _beside_the_floor(answer.get("rows", []), rates)
    for row in answer.get("rows", []):
        print(f"card {device} {name}: {said(row)}", flush=True)
    for left in answer.get("left_out", []):
        print(f"card {device} {name}: left out: {left}", flush=True)
    if "missing" in answer:
        print(f"card {device} {name}: {answer['missing']}", flush=True)
    return answer


def _beside_the_floor(rows: list[dict[str, Any]], rates: dict[str, Any]) -> None:
    for row in rows:
        if "seconds" in row:
            problem = next(one for one in (*LARGE, *QUICK_PROBLEMS) if one.name == row["problem"])
            row["floor_s"] = floor = limits.floor(problem, "float32", rates)
            row["fraction_of_floor"] = None if floor is None else floor / row["seconds"]


def said(row: dict[str, Any]) -> str:
    """A row in one line."""
    return ", ".join(f"{name} {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in row.items())


def part(name: str, quick: bool, seconds: float, kept: str) -> dict[str, Any]:
    """In a child: the measurements of a part, as many as are begun in time. One that fails is a reason.

    kept: a file that always holds what has been measured by then, should this process be ended.
    """
    until = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for of, measured in PARTS[name](quick):
        if time.monotonic() > until:
            left_out.append(said(of))
            continue
        try:
            rows.append({**of, **measured()})
        except isolate.Unsupported as reason:
            rows.append({**of, "missing": str(reason)})
        except Exception as error:
            first = (str(error).strip() or "no message").splitlines()[0]
            rows.append({**of, "missing": f"{type(error).__name__}: {first[:200]}"})
        text = json.dumps({"rows": rows, "left_out": []})
        record.replace(Path(kept), lambda unfinished, text=text: unfinished.write_text(text, encoding="utf-8"))
    return {"rows": rows, "left_out": left_out}


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds of a call that is made again and again: the least of GROUPS groups of calls, each waited for once."""
    import jax

    jax.block_until_ready(call())  # compiles
    took, _ = stopwatch(lambda: jax.block_until_ready(call()))
    many = max(1, int(LASTS / max(took, 1e-6)))

    def group() -> None:
        for _ in range(many - 1):
            call()
        jax.block_until_ready(call())

    return min(stopwatch(group)[0] / many for _ in range(GROUPS))


def products(quick: bool) -> Asked:
    import jax
    import jax.numpy as jnp
    from jax.lax import DotAlgorithmPreset, Precision

    size = 256 if quick else 8192
    exact: Any = None
    precisions = {
        "float64": Precision.HIGHEST,
        "float32, highest": Precision.HIGHEST,
        "float32, 3 of TF32": DotAlgorithmPreset.TF32_TF32_F32_X3,
        "float32, 6 of bfloat16": DotAlgorithmPreset.BF16_BF16_F32_X6,
        "float32, JAX's default": Precision.DEFAULT,
    }

    def rate(label: str) -> dict[str, Any]:
        nonlocal exact
        dtype = label.split(",")[0]
        product = jax.jit(functools.partial(jnp.matmul, precision=precisions[label]))
        with jax.enable_x64(dtype == "float64"):
            a = jax.random.normal(jax.random.key(0), (size, size), "float32").astype(dtype)
            corner = np.asarray(product(a, a)[:64, :64], np.float64)
            exact = corner if dtype == "float64" else exact
            seconds = seconds_of(lambda: product(a, a))
        off = None if exact is None else float(np.max(np.abs(corner - exact)) / np.sqrt(size))
        return {"seconds": seconds, "flops_per_s": 2.0 * size**3 / seconds, "largest_error": off}

    for label in precisions:
        yield {"size": size, "precision": label}, functools.partial(rate, label)


def loop(quick: bool) -> Asked:
    import jax
    import jax.numpy as jnp
    from jax import lax

    count = 100 if quick else 2000

    def iterations(operations: int) -> dict[str, Any]:
        def body(carry: tuple[Any, Any]) -> tuple[Any, Any]:
            index, x = carry
            for _ in range(operations):
                x = jnp.sort(x)  # is not merged with its neighbours
            return index + 1, x

        @jax.jit
        def run(x: Any, limit: Any) -> Any:
            return lax.while_loop(lambda carry: carry[0] < limit, body, (jnp.int32(0), x))

        return {"seconds": seconds_of(lambda: run(jnp.arange(16.0), np.int32(count))) / count}

    for operations in (0, 1, 10):
        yield {"kernels": operations}, functools.partial(iterations, operations)


def factors(quick: bool) -> Asked:
    import jax
    import jax.numpy as jnp

    from jaxgmm._base.linalg import cholesky, inverse_lower

    def one(k: int, d: int) -> dict[str, Any]:
        a = jax.random.normal(jax.random.key(0), (k, d, 2 * d))
        matrices = jnp.einsum("kij,klj->kil", a, a, precision="highest") / d
        factor = jax.jit(cholesky)
        lower = factor(matrices)
        invert = jax.jit(inverse_lower)
        return {"cholesky_s": seconds_of(lambda: factor(matrices)), "inverse_s": seconds_of(lambda: invert(lower))}

    for d in (4,) if quick else (8, 16, 32, 64, 128):
        for k in (3,) if quick else (16, 64, 256, 1024):
            yield {"k": k, "d": d}, functools.partial(one, k, d)


def chunks(quick: bool) -> Asked:
    sizes = (256, 1024) if quick else (2**12, 2**14, 2**16, 2**18, 2**20)
    for problem in QUICK_PROBLEMS if quick else PROBLEMS[:3]:
        for size in sizes:
            yield (
                {"problem": problem.name, "chunk_size": size},
                lambda problem=problem, size=size: {"seconds": _iteration(problem, size)["seconds"]},
            )


def stages(quick: bool) -> Asked:
    import jax
    import jax.numpy as jnp

    from jaxgmm import em
    from jaxgmm.covariances import Form
    from jaxgmm.density import normalise, prepare
    from jaxgmm.em.expectation import expect
    from jaxgmm.em.maximisation import maximise

    def cut(problem: Problem) -> dict[str, Any]:
        mixture, batches = _on_device(problem)
        state = em.init(mixture, batches)

        def over_chunks(stage: Callable[[Any, Any], Any]) -> Any:
            def program(mixture: Any, batches: Any) -> Any:
                operands = prepare(mixture, batches.origin, Form.FAST)

                def of_chunk(chunk: Any) -> Any:
                    found = stage(lambda x: mixture.scales.exponent(operands, x), chunk.x)
                    return jnp.sum(chunk.weights * found)

                return batches.sum(of_chunk)

            return jax.jit(program)

        programs: dict[str, Callable[[], Any]] = {
            "read_s": functools.partial(over_chunks(lambda joint, x: jnp.sum(x, axis=0)), mixture, batches),
            "joint_s": functools.partial(over_chunks(lambda joint, x: jnp.sum(joint(x), axis=0)), mixture, batches),
            "log_prob_s": functools.partial(over_chunks(lambda joint, x: normalise(joint(x))[0]), mixture, batches),
            "e_step_s": functools.partial(jax.jit(functools.partial(expect, form=Form.FAST)), mixture, batches),
            "m_step_s": functools.partial(
                jax.jit(lambda s: maximise(s.moments, s.mixture.means, s.mixture.family, s.mixture.scales, 1e-6)),
                state,
            ),
            "step_s": lambda: em.step(state, batches, em.Settings(tol=0.0)),
        }
        return {name: seconds_of(program) for name, program in programs.items()}

    for problem in QUICK_PROBLEMS if quick else PROBLEMS:
        yield {"problem": problem.name}, functools.partial(cut, problem)


def kernels(quick: bool) -> Asked:
    import jax
    from jax import lax

    from jaxgmm.covariances import Form
    from jaxgmm.density import prepare
    from jaxgmm.em import kernel as fused
    from jaxgmm.em.expectation import expect, finish

    @functools.lru_cache(maxsize=1)  # the data of one problem at a time
    def by_xla(problem: Problem) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Mixture and rows, their moments in float64, and what XLA's float32 form takes and errs."""
        mixture, batches = _on_device(problem)
        exact = _in_float64(mixture, batches)
        program = jax.jit(functools.partial(expect, form=Form.FAST))
        seconds = seconds_of(lambda: program(mixture, batches))
        return mixture, batches, exact, {"xla_s": seconds, "xla_error": _error(program(mixture, batches), exact)}

    def compare(problem: Problem, changed: dict[str, Any], precision: Any) -> dict[str, Any]:
        if jax.default_backend() != "gpu":
            raise isolate.Unsupported("there is no card here")
        mixture, batches, exact, theirs = by_xla(problem)
        operands = prepare(mixture, batches.origin, Form.FAST)
        features = fused.FEATURES[type(operands)][0]
        tiling = fused.choose_tiling(features, problem.d, problem.k)._replace(**changed)

        @jax.jit
        def by_kernel(mixture: Any, batches: Any) -> Any:
            operands = prepare(mixture, batches.origin, Form.FAST)
            sums = fused.by_kernel(operands, batches, tiling, precision=precision)
            return finish(mixture.family.kind, Form.FAST, mixture.means, batches.origin, sums)

        own = seconds_of(lambda: by_kernel(mixture, batches))
        return {
            "tiling": list(tiling),
            "fused_s": own,
            "xla_over_fused": theirs["xla_s"] / own,
            "fused_error": _error(by_kernel(mixture, batches), exact),
            **theirs,
        }

    three, plain = lax.DotAlgorithmPreset.TF32_TF32_F32_X3, lax.Precision.HIGHEST
    of = [problem for problem in (QUICK_PROBLEMS if quick else PROBLEMS) if problem.family != "tied"]
    for problem in of:  # all of them as they are before any is varied
        yield {"problem": problem.name, "changed": "nothing"}, functools.partial(compare, problem, {}, three)
    for problem in of:
        for label, changed, precision in (
            ("float32 products", {}, plain),
            ("4 warps", {"warps": 4}, three),
            ("tiles of 16 rows", {"rows": 16}, three),
            ("tiles of 16 components", {"components": 16}, three),
        ):
            yield {"problem": problem.name, "changed": label}, functools.partial(compare, problem, changed, precision)


def large(quick: bool, is_fused: bool = False) -> Asked:
    import jax

    from jaxgmm.covariances import Form
    from jaxgmm.evaluation import log_prob_of, map_log_joint

    def one(problem: Problem) -> dict[str, Any]:
        mixture, batches = _on_device(problem, is_fused=is_fused)
        if is_fused:
            from jaxgmm.density import prepare
            from jaxgmm.em import kernel as fused

            operands = jax.eval_shape(lambda m: prepare(m, batches.origin, Form.FAST), mixture)
            if jax.default_backend() != "gpu" or not fused.supports(mixture.family.kind, operands, batches):
                raise isolate.Unsupported("there is no kernel for it here")
        score = jax.jit(lambda m, b: map_log_joint(m, b.rows, log_prob_of))
        before = jax.devices()[0].memory_stats()
        made = _iteration(problem, None, (mixture, batches))
        after = jax.devices()[0].memory_stats()
        is_new = before and after and after["peak_bytes_in_use"] > before["peak_bytes_in_use"]
        return {
            **made,
            "above_data_bytes": after["peak_bytes_in_use"] - before["bytes_in_use"] if is_new else None,
            # Only where its result, a number a row, is small beside the data.
            "score_s": seconds_of(lambda: score(mixture, batches)) if not is_fused and problem.n <= 10**7 else None,
        }

    for problem in QUICK_PROBLEMS if quick else LARGE:
        if not (is_fused and problem.family == "tied"):
            yield {"problem": problem.name}, functools.partial(one, problem)


def restarts(quick: bool) -> Asked:
    import jax

    import jaxgmm

    problem = Problem("full", 1_000 if quick else 5_000, 4, 5)

    def search(n_restarts: int) -> dict[str, Any]:
        x = jax.device_put(problem.data("float32").x)

        def call(seed: int) -> Any:
            key = jax.random.key(seed)
            return jax.block_until_ready(jaxgmm.fit(key, x, problem.k, "full", n_restarts=n_restarts).objective)

        first, _ = stopwatch(call, 0)
        second, objective = stopwatch(call, 1)
        return {"first_call_s": first, "second_call_s": second, "objective": float(objective)}

    for n_restarts in (2,) if quick else (64, 4096):
        yield {"problem": problem.name, "restarts": n_restarts}, functools.partial(search, n_restarts)


PARTS: dict[str, Callable[[bool], Asked]] = {
    "products": products,
    "loop": loop,
    "factors": factors,
    "kernels": kernels,
    "large": large,
    "large_fused": functools.partial(large, is_fused=True),
    "chunks": chunks,
    "stages": stages,
    "restarts": restarts,
}


def _on_device(problem: Problem, chunk_size: int | None = None, is_fused: bool = False) -> tuple[Any, Any]:
    """A start near the truth and float32 rows like those of `Problem.data`, but made where they are used."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from jaxgmm import Batches, Mixture

    n, d, k = problem.n, problem.d, problem.k
    rng = np.random.default_rng(0)
    apart = OVERLAP / np.sqrt(d)
    means = (apart * rng.standard_normal((k, d))).astype(np.float32)
    piece = min(n, 2**16)

    # Piece by piece into place: beside data of half the memory there is no room for a second copy.
    @functools.partial(jax.jit, donate_argnums=0)
    def filled(x: Any, means: Any) -> Any:
        def fill(index: Any, x: Any) -> Any:
            which, noise = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
            labels = jax.random.randint(which, (piece,), 0, k)
            rows = means[labels] + jax.random.normal(noise, (piece, d), jnp.float32)
            return lax.dynamic_update_slice_in_dim(x, rows, jnp.minimum(index * piece, n - piece), 0)

        return lax.fori_loop(0, -(-n // piece), fill, x)

    x = filled(jnp.zeros((n, d), jnp.float32), means)
    start = means + np.float32(0.5 * apart) * rng.standard_normal((k, d)).astype(np.float32)
    mixture = Mixture.create(np.full(k, 1.0 / k), start, problem.unit_covariances(), problem.family, dtype=np.float32)
    return mixture, Batches.of(x, None, chunk_size, n_components=k, fused=is_fused)


def _iteration(problem: Problem, chunk_size: int | None, made: tuple[Any, Any] | None = None) -> dict[str, Any]:
    """Seconds of an EM iteration, by the difference of two counts, and the objective after a few."""
    import jax

    from jaxgmm import em

    mixture, batches = made or _on_device(problem, chunk_size)
    settings = em.Settings(tol=0.0)
    state = em.init(mixture, batches)

    def run(count: int) -> int:
        return int(jax.block_until_ready(em.run(state, batches, settings, count)).n_steps)

    timed = seconds_per_step(run, GROUPS, LASTS)["seconds_per_iteration"]
    if timed is None:
        raise isolate.Unsupported("it stopped at once although told not to")
    return {"seconds": timed["low"], "objective": float(em.run(state, batches, settings, 3).objective)}


def _in_float64(mixture: Any, batches: Any) -> Any:
    """The moments in float64 on the same device, of the same float32 rows."""
    import jax
    import jax.numpy as jnp

    from jaxgmm.covariances import Form
    from jaxgmm.em.expectation import expect

    with jax.enable_x64(True):

        def wider(leaf: Any) -> Any:
            return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf

        program = jax.jit(lambda m, b: expect(*jax.tree.map(wider, (m, b)), form=Form.FAST))
        return jax.block_until_ready(program(mixture, batches))


def _error(found: Any, exact: Any) -> float:
    """The largest error of the means and second moments of components, and of the mean log-likelihood."""
    mass, total = np.asarray(exact.mass), float(np.sum(exact.mass))
    errors = [abs(float(found.objective) - float(exact.objective)) / total]
    for one, other in ((found.first, exact.first), (found.second, exact.second)):
        difference = np.abs(np.asarray(one, np.float64) - np.asarray(other))
        errors.append(float(np.max(difference / mass.reshape(-1, *[1] * (difference.ndim - 1)))))
    return max(errors)

"""How test processes compile. This runs before any test imports JAX, and what they start inherits it.

Most of the tests' time is compilation, and most tests ask for answers that any optimisation level of XLA gives. So a
test process compiles as cheaply as XLA can. Tests marked `default_flags` are about what users run: what fusing costs in
digits, what a program is lowered to, how often it is compiled. They run in a process of their own, on the flags that
users have: JAXGMM_TEST_FLAGS=default. `make test` makes both runs.

Test processes also run under JAX's strictest promotion of ranks and dtypes, which users' projects set: `be_strict`.
JAXGMM_TEST_STRICT=0 turns that off. It changes no program and no value. Other programs that tests start, such as the
command line, run as users have it.
"""

from __future__ import annotations

import os
from importlib import metadata

FLAGS = os.environ.get("JAXGMM_TEST_FLAGS", "cheap")
if FLAGS not in ("cheap", "default"):
    raise RuntimeError(f"JAXGMM_TEST_FLAGS must be 'cheap' or 'default', got {FLAGS!r}.")

STRICT = os.environ.get("JAXGMM_TEST_STRICT", "1") != "0"


def be_strict() -> None:
    """From here on every rank and dtype is to be matched by hand: what JAX would promote by itself is an error."""
    import jax  # not before the flags below are set

    if STRICT:
        jax.config.update("jax_numpy_rank_promotion", "raise")
        jax.config.update("jax_numpy_dtype_promotion", "strict")


def cheap_flags(jax_version: str) -> list[str]:
    """XLA ends the process at a flag that it does not know, so they go by version. On 0.10.2 the three take two thirds
    off the time to compile, and the last halves the memory mappings that a program holds."""
    level = "--xla_backend_optimization_level=0"
    if tuple(int(part) for part in jax_version.split(".")[:2]) >= (0, 11):
        return [level]
    return [level, "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]


if FLAGS == "cheap":
    theirs = os.environ.get("XLA_FLAGS", "").split()
    # Of a flag given twice the last counts: the user's own come after.
    ours = [flag for flag in cheap_flags(metadata.version("jax")) if flag not in theirs]
    os.environ["XLA_FLAGS"] = " ".join([*ours, *theirs])

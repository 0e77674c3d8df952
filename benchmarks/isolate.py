"""One measurement in a fresh interpreter: what a peer leaves behind, or how it dies, stays there.

`run(function, request, time_limit)` calls a module's function(**request) in a child, `python -m benchmarks.isolate`,
which reads a JSON request on standard input and answers in JSON on the last line of standard output. The functions on
memory below are for use inside such a child.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

PREFIXES = ("OPENBLAS_", "OMP_", "MKL_", "KMP_", "GOTO_", "BLIS_", "XLA_", "JAX_", "NVIDIA_TF32_")
"""Environment variables that decide threads, BLAS kernels or what XLA does: recorded beside the results."""

THREADS = tuple(f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "GOTO", "MKL", "BLIS"))
DROPPED = (  # what a child does not inherit
    "OPENBLAS_CORETYPE",  # BLAS kernels for another processor
    *THREADS,  # XLA reads none of these, so a limit that a shell sets would bind the peers alone
    "JAX_COMPILATION_CACHE_DIR",  # a first call would be no first call
)


class Unsupported(Exception):
    """Raised in a child for what cannot be measured; its message is the reason that is reported."""


Child = Callable[..., dict[str, Any]]
Environ = Mapping[str, str] | None  # of the environment


def ask(
    function: Child, time_limit: float, device: str | None = None, environment: Environ = None, **request: Any
) -> dict[str, Any]:
    """`run`, told in a line as the answer comes. -> what was asked, the device too, and what was answered, in one."""
    answer = run(function, request, time_limit, device, environment)
    asked = {**({"device": device} if device else {}), **request}
    named = {function.__module__.rpartition(".")[2]: function.__name__}
    named |= {name: value for name, value in asked.items() if not isinstance(value, list)}
    print(f"{in_short(named)}: {in_short(answer)}", flush=True)
    return {**asked, **answer}


def run(
    function: Child, request: dict[str, Any], time_limit: float, device: str | None = None, environment: Environ = None
) -> dict[str, Any]:
    """function(**request) in a fresh interpreter. -> its result, with "missing": None, or {"missing": reason}.

    time_limit in seconds. device: "cpu" keeps JAX there; a GPU is what it takes if it sees one. `environment` is added
    to this process's, less `DROPPED`.
    """
    named = {"function": f"{function.__module__}:{function.__qualname__}", "request": request}
    on_device = {"JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    environment = inherited() | on_device | dict(environment or {})
    return {"missing": None, **_answer(json.dumps(named), time_limit, environment)}


def _answer(request: str, time_limit: float, environment: Mapping[str, str]) -> dict[str, Any]:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    pipes |= {"text": True, "errors": "replace"}
    command = [sys.executable, "-m", "benchmarks.isolate"]
    # In a session of its own, so that its own children can be ended with it.
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as child:
        try:
            out, err = child.communicate(request, timeout=time_limit)
        except subprocess.TimeoutExpired:
            return {"missing": f"ran past the limit of {time_limit:g} s"}
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode == 0 and out.strip():
        return json.loads(out.strip().splitlines()[-1])
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return {"missing": f"crashed with {name}" + (" (out of memory?)" if name == "SIGKILL" else "")}
    said = [line for line in err.splitlines() if line.strip()]
    return {"missing": _shown(f"ended with status {child.returncode}: {said[-1] if said else 'said nothing'}")}


def inherited() -> dict[str, str]:
    """The environment of a child."""
    return {name: value for name, value in os.environ.items() if name not in DROPPED}


def in_short(value: Any) -> str:
    """A measurement in a line: why it is missing, or what it holds, with the median of repeats and no long lists."""
    if isinstance(value, dict):
        if value.get("missing") or "median" in value:
            return in_short(value.get("missing") or value["median"])
        return ", ".join(f"{name} {in_short(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list):
        return f"[{len(value)}]" if len(value) > 4 else f"[{'; '.join(map(in_short, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings() -> dict[str, dict[str, str]]:
    """The environment variables that bear on speed: those that children inherit, and those that they do not."""
    found: dict[str, dict[str, str]] = {"kept": {}, "dropped": {}}
    for name, value in sorted(os.environ.items()):
        if name.startswith(PREFIXES):
            found["dropped" if name in DROPPED else "kept"][name] = _shown(value)
    return found


def held_bytes(field: str = "VmRSS") -> int | None:
    """Memory of this process by a field of /proc/self/status: what it holds now, or VmHWM, the most that it held at
    once since `reset_peak` (ru_maxrss starts at what the parent held). None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def reset_peak() -> bool:
    """Let the most that this process holds begin anew. -> whether the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def reason(error: Exception) -> str:
    """Why something is missing, in a line."""
    # By name: `-m` makes this file `__main__`, whose Unsupported is another class than the importers'.
    known = type(error).__name__ == Unsupported.__name__
    return _shown(str(error) if known else f"{type(error).__name__}: {error}")


def _shown(text: str) -> str:
    """One line of bounded length that names no folder of this machine: results are public."""
    line = " ".join(text.split())
    for folder in (str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())):
        if len(folder) > 1:
            line = line.replace(folder, "…")
    return line if len(line) <= 300 else line[:299] + "…"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    with contextlib.suppress(OSError):  # where memory runs out, let it be this process that the system ends
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    asked = json.load(sys.stdin)
    module, _, name = asked["function"].partition(":")
    try:
        answer = getattr(importlib.import_module(module), name)(**asked["request"])
    except Exception as error:
        answer = {"missing": reason(error)}
    print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # what is left, such as a peer's threads, is not waited for


if __name__ == "__main__":
    main()

"""Fixtures of the numeric tests. Nothing global is switched on: float64 is a context that a test enters."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import configuration
from jax import monitoring

import jaxgmm
from jaxgmm._base import programs
from tests import FLAGS, STRICT, be_strict

# The same examples every time, within no time that a loaded machine might exceed, and nothing kept.
hypothesis.settings.register_profile(
    "tests", derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("tests")

GLOBAL = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_disable_jit",
    "jax_debug_nans",
    "jax_debug_infs",
)
"""Switches of JAX that must stand after the session's tests as they stood before."""


LONGEST = (
    "test_float32.py",
    "test_em.py",
    "test_acceleration.py",
    "test_many.py",
    "test_sharded.py",
    "test_priors.py",
    "test_interrupt.py",
    "test_stream.py",
    "test_programs.py",
    "test_selection.py",
    "test_bootstrap.py",
    "test_runs.py",
    "test_escape.py",
    "test_sources.py",
    "test_seeding.py",
    "test_polish.py",
    "test_fused.py",
    "test_lanes.py",
    "test_covariances.py",
    "test_linalg.py",
    "test_manners.py",
    "test_units.py",
    "test_workers.py",
    "test_switches.py",
    "test_lowering.py",
)
"""Files that take longest, of both runs. Files are dealt out whole, one to a process: the last to begin should be
short."""

PROGRAMS = "JAXGMM_TEST_PROGRAMS"
"""The variable that tells the processes which tests start where compiled programs are kept."""


def pytest_configure(config: pytest.Config) -> None:
    """Compiled programs are kept on disk, in pytest's cache, unless that is off or the user keeps JAX's elsewhere.

    Where tests are dealt out, the process that deals compiles nothing.
    """
    be_strict()
    # Tracing makes many small objects that live, and JAX collects its own at each of Python's collections: a seventh of
    # the time, at the usual thresholds.
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)
    cache = getattr(config, "cache", None)
    if cache is not None:
        configuration.set_hypothesis_home_dir(cache.mkdir("hypothesis"))
    if cache is not None and not jax.config.jax_compilation_cache_dir:
        os.environ[PROGRAMS] = str(cache.mkdir("programs"))
        # xdist's list of the processes that it starts is among the options of these processes, too.
        if hasattr(config, "workerinput") or not getattr(config.option, "tx", None):
            os.environ.pop("JAXGMM_CACHE", None)  # "off", from the process that deals
            jaxgmm.enable_cache(os.environ[PROGRAMS])
    # The command line's runs, and those of child processes, are to leave homes alone.
    os.environ["JAXGMM_CACHE"] = "off"


def pytest_report_header() -> str:
    flags = f"XLA's {FLAGS} flags (JAXGMM_TEST_FLAGS): XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}"
    return f"programs compiled on {flags}; ranks and dtypes are {'matched by hand' if STRICT else 'promoted'}"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """On default flags only files with such tests are imported: the others take seconds to be."""
    if FLAGS == "default" and collection_path.match("test_*.py"):
        return True if "default_flags" not in collection_path.read_text() else None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those of this run's flags, the longest files first; tests marked `gpu` are skipped where JAX sees no GPU."""
    others = [item for item in items if (FLAGS == "default") != bool(item.get_closest_marker("default_flags"))]
    if others:
        config.hook.pytest_deselected(items=others)
        left = set(others)
        items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="JAX sees no GPU here"))


def _has_gpu() -> bool:
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


@pytest.fixture(autouse=True)
def _interrupts_are_heeded() -> Iterator[None]:
    """Where tests run in the background, as a service may run them, SIGINT is ignored, and Python leaves it so."""
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if is_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if is_ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _nothing_global_is_left_changed() -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in GLOBAL}
    printing, errors = np.get_printoptions(), np.geterr()
    yield
    assert {name: getattr(jax.config, name) for name in GLOBAL} == before
    assert np.get_printoptions() == printing
    assert np.geterr() == errors


MANY_MAPPINGS = 20_000  # about 3 GB; no module adds twice as many

programs.KEPT = 512
"""Users' processes keep fewer. Tests make thousands, and to give some back takes a tenth of a second and more."""


def n_mappings() -> float:
    """Memory mappings of this process; too many where the system does not say."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return float("inf")


def give_memory_back() -> None:
    """glibc keeps what a compiler has freed: 260 of 500 MB after a dozen fits. Other systems have no such call."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass


@pytest.fixture(scope="module", autouse=True)
def _programs_end_with_their_module() -> Iterator[None]:
    """A compiled program holds some twenty memory mappings. Thousands in one process reach the kernel's limit (65530 by
    default on Linux), and the compiler then dies of a segmentation fault. Until many are held, modules share them."""
    yield
    if n_mappings() > MANY_MAPPINGS:
        programs._PROGRAMS.clear()
        jax.clear_caches()
        gc.collect()
        give_memory_back()


class Events(list[str]):
    """What has happened since it was last cleared."""

    def clear(self) -> None:
        """Forget all, and what threads that earlier calls have left still do: programs compiled ahead of their use,
        or for a call that was interrupted."""
        for thread in threading.enumerate():
            if thread.name.startswith("jaxgmm") and thread is not threading.current_thread():
                thread.join()
        super().clear()


@pytest.fixture(scope="module")
def events() -> Iterator[list[str]]:
    """The compile events of this process, as they come; the listener goes with the module."""
    seen = Events()

    def listen(event: str, duration: float, **more: object) -> None:
        seen.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    yield seen
    monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX's float64 switch on, for this test alone."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[np.dtype]:
    """Both dtypes in turn, each in the mode of JAX in which arrays are of it by default."""
    with jax.enable_x64(True) if request.param == "float64" else nullcontext():
        yield np.dtype(request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's own name only, not on the tests before it."""
    name = request.node.originalname or request.node.name
    return np.random.default_rng(sum(ord(letter) * (i + 1) for i, letter in enumerate(name)))

"""Compiled programs: how each is built, how many are kept, and the buckets that shapes of small problems are padded to.

This is the one place for that policy. Where compiling would take longer than all else, programs are few, are shared by
problems of similar shapes, and, where they run once or on few numbers, are compiled with little optimisation, or NumPy
does without. In a long-lived process programs use up memory mappings: a program holds some hundred, and the kernel
allows 65,530 by default. So only `KEPT` programs are kept, with LRU eviction. Nothing global is changed: no XLA flag,
no configuration of JAX.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .fork import refuse_if_forked
from .interrupts import interruptibly

KEPT = 64
"""Programs that are kept. One holds 40 to 250 mappings, three for each loop that XLA generates, and some 10 MB; all
together hold fewer than 16,000 mappings."""

GIVEN_BACK = 16
"""Programs evicted at a time, since the garbage collection that frees them takes a tenth of a second."""


class Effort(Enum):
    """How a program is compiled: compile time traded against run time."""

    HURRIED = "hurried"
    BRISK = "brisk"
    WELL = "well"


FOR_LOOPS: dict[str, Any] = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}
"""XLA's options on CPU for programs that loop over rows: vectors as wide as the processor's, where XLA would use half
that width, and YNNPACK for products of matrices alone, where XLA would also hand it sums and maxima of a few thousand
numbers, which then run on other threads. An iteration takes 0.67 to 0.95 of the time (Zen 5; see
`benchmarks/README.md`), and compiling no longer."""

OPTIONS: dict[Effort, dict[str, Any]] = {
    Effort.HURRIED: {
        "xla_cpu_use_fusion_emitters": False,
        "xla_backend_optimization_level": 0,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
    Effort.BRISK: {"xla_cpu_use_fusion_emitters": False, **FOR_LOOPS},
    Effort.WELL: FOR_LOOPS,
}
"""XLA's options on CPU. On jaxlib 0.10 HURRIED saves four fifths of the compile time and of the mappings, and a loop
over rows is then five to eight times slower; BRISK saves two fifths, at no loss in loops over a few thousand rows and a
loss of up to two thirds in those over a million. Later versions do not know the first option: there HURRIED saves two
fifths of the compile time, and BRISK nothing."""

ROWS_AT_ONCE = 512
"""Rows of a chunk of a small table."""

SMALL_CHUNKS = 16
"""Least capacity of a small table, in chunks of `ROWS_AT_ONCE`: all tables up to 8,192 rows share programs."""

SHARED_UP_TO = 32
"""Number of components up to which all fits to small tables are padded to the same K and share programs. Steps skip
padding (`em/in_turn.py`): a loop over K = 1 to 10 takes as long as with 16, and one to 20 three quarters (Zen 4)."""

SMALL = 2**21
"""Responsibilities of one run (padded components × rows) up to which a search is small, if those of all runs, without
padding, are half as many: NumPy makes its steps, or it shares programs. Its own would take one to seven seconds."""

HURRIED_UP_TO = 660_000
"""Responsibilities of a step of all runs, with padding, up to which a small search's program, if it needs one, is
HURRIED. With a BRISK one a first call takes 0.5 to 1.1 s more, and a later one a third to all of the time: it pays off
from the tenth or twentieth of a kind on (see `benchmarks/README.md`)."""


def components(count: int) -> int:
    """The padded number of components with which a small problem of `count` components is computed."""
    return max(SHARED_UP_TO, next_power_of_two(count))


def chunks(n_rows: int) -> int:
    """The capacity of a small table of `n_rows` rows, in chunks of `ROWS_AT_ONCE`. Only those in use are computed."""
    n_chunks = SMALL_CHUNKS
    while n_chunks * ROWS_AT_ONCE < n_rows:
        n_chunks *= 4
    return n_chunks


def is_small(n_rows: int, n_features: int, count: int, n_runs: int) -> bool:
    """Whether a search is small: made by NumPy, or by programs for padded shapes that many problems share."""
    padded = components(count)
    numbers = chunks(n_rows) * ROWS_AT_ONCE * n_features
    return (
        jax.default_backend() == "cpu"
        and max(padded, 2 * count * n_runs) * n_rows <= SMALL
        and numbers <= SMALL // 2
        and padded * n_features**2 <= SMALL // 16
    )


def effort(n_rows: int, count: int, n_runs: int, is_shared: bool = False) -> Effort:
    """The effort for programs that read the rows of a search: BRISK if it is medium, WELL if large; if small, so that
    others share them, HURRIED where few numbers are computed by a program that nearly all share, else BRISK.

    A search of 40 cells on 5,000 rows of 4 features compiles in 3 s less when BRISK, and runs 0.2 s longer: WELL pays
    off from the twentieth such search of a process on.
    """
    if is_shared:
        is_hurried = n_rows <= SMALL_CHUNKS * ROWS_AT_ONCE and n_rows * count * n_runs <= HURRIED_UP_TO
        return Effort.HURRIED if is_hurried else Effort.BRISK
    is_medium = n_rows <= 2**14 and count * n_rows <= 2**18 and count * n_rows * n_runs <= 2**23
    return Effort.BRISK if is_medium else Effort.WELL


def next_power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


class Program:
    """A function that is compiled for each shape of its arguments, like one under `jax.jit`, by this module's policy.

    Inside a transformation of the user's (`jit`, `vmap`, `grad`) it is a plain jitted function. Static arguments are
    given by name. hurried: whether the default effort is HURRIED rather than WELL; a call may override it.
    """

    def __init__(self, function: Callable[..., Any], static: Sequence[str] = (), hurried: bool = False) -> None:
        self.function, self.static, self.hurried = function, tuple(static), hurried
        self._at: dict[Effort, Callable[..., Any]] = {}
        self._jitted: Any = jax.jit(_told_apart(function), static_argnums=0, static_argnames=self.static)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.compiled(self.hurried, *args, **kwargs)

    def compiled(self, how: Effort | bool, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function, compiled with a given effort: an `Effort`, or True for HURRIED and False for WELL."""
        refuse_if_forked()
        if jax.config.jax_debug_infs or jax.config.jax_debug_nans:  # pyright: ignore
            # Both are values here: the logarithm of a weight of 0 is infinite, as is a gain that is not known yet, and
            # a history is NaN past its end. What went wrong is said by a status.
            with jax.debug_infs(False), jax.debug_nans(False):
                return self.compiled(how, *args, **kwargs)
        how = how if isinstance(how, Effort) else Effort.HURRIED if how else Effort.WELL
        static, traced, key = self._key(how, args, kwargs)
        if jax.config.jax_disable_jit or key is None:  # pyright: ignore
            return self._nested(*args, **kwargs)
        try:
            return _kept(key, static).call(*args, **traced)
        except ValueError as error:
            # Inside a transformation although no argument is traced, which no public function reports.
            if "compiler_options" not in str(error):
                raise
            return self._nested(*args, **kwargs)

    def held(self, how: Effort, /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The program for arguments of these shapes, without the static ones: for many calls in a row, which then need
        not be looked up. It is kept as long as this is."""
        static, _, key = self._key(how, args, kwargs)
        is_debugging = jax.config.jax_debug_infs or jax.config.jax_debug_nans  # pyright: ignore
        if jax.config.jax_disable_jit or is_debugging or key is None:  # pyright: ignore
            return functools.partial(self.compiled, how, **static)
        return _kept(key, static).call

    def at(self, how: Effort) -> Callable[..., Any]:
        """The function under a fixed effort; the same object every time."""
        return self._at.setdefault(how, functools.partial(self.compiled, how))

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As `lower` of a function under `jax.jit`, to inspect what is compiled."""
        return self._jitted.lower(hash(jax.tree.structure((args, kwargs))), *args, **kwargs)

    def _nested(self, *args: Any, **kwargs: Any) -> Any:
        """The plain jitted function, for calls inside a transformation."""
        return self._jitted(hash(jax.tree.structure((args, kwargs))), *args, **kwargs)

    def _key(self, how: Effort, args: Any, kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Static arguments, the other named arguments, and the program's key; None where an argument is traced."""
        static = {name: value for name, value in kwargs.items() if name in self.static}
        traced = {name: value for name, value in kwargs.items() if name not in self.static}
        leaves, structure = jax.tree.flatten((args, traced))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return static, traced, None
        shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
        return static, traced, (self, how, tuple(static.items()), structure, shapes)


def _told_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with one more argument, the hash of the structure of the others, which is to be static.

    JAX's cache of traces compares structures, and takes those of two dataclasses with as many fields for equal (their
    hashes differ; jax 0.10 to 0.12). So once in some hundred times, where both fall into one slot of its table, a
    program for one prior would be run under another.
    """

    def told_apart(structure: int, /, *args: Any, **kwargs: Any) -> Any:
        del structure
        return function(*args, **kwargs)

    told_apart.__name__ = getattr(function, "__name__", told_apart.__name__)
    return told_apart


def program(function: Any = None, /, *, static: str | Sequence[str] = (), hurried: bool = False) -> Any:
    """Decorator: a `Program` of the function."""
    names = (static,) if isinstance(static, str) else tuple(static)
    if function is None:
        return functools.partial(program, static=names, hurried=hurried)
    return Program(function, names, hurried)


def n_kept() -> int:
    """How many programs are kept now."""
    return len(_PROGRAMS)


class _One:
    """A program for arguments of one shape."""

    def __init__(self, function: Callable[..., Any], static: dict[str, Any], how: Effort) -> None:
        # A new function object: JAX keeps compiled code for each function, and frees it with that function.
        bound = functools.partial(function, **static)
        functools.update_wrapper(bound, function)
        self.bound, self.how = bound, how
        self.lock, self.jitted = threading.Lock(), None

    def call(self, *args: Any, **kwargs: Any) -> Any:
        if self.jitted is not None:
            return self.jitted(*args, **kwargs)
        return interruptibly(functools.partial(self._first_call, *args, **kwargs))

    def _first_call(self, *args: Any, **kwargs: Any) -> Any:
        with self.lock:  # threads that run the same program would each compile it
            if self.jitted is not None:
                return self.jitted(*args, **kwargs)
            while True:
                options = _options(self.how)
                jitted: Any = jax.jit(self.bound, compiler_options=options) if options else jax.jit(self.bound)
                try:
                    result = jitted(*args, **kwargs)
                except Exception as error:
                    if not _forget_option(options, error):
                        raise
                else:
                    self.jitted = jitted
                    return result


def _options(how: Effort) -> dict[str, Any]:
    return {} if jax.default_backend() != "cpu" else {k: v for k, v in OPTIONS[how].items() if k not in _UNKNOWN}


def _forget_option(options: dict[str, Any], error: Exception) -> bool:
    """Whether the error is about an option that this jaxlib does not know, or a value of it; such an option is not used
    again."""
    said = str(error)
    is_refusal = "No such compile option" in said or "While setting option" in said
    unknown = {name for name in options if is_refusal and name in said}
    _UNKNOWN.update(unknown)
    return bool(unknown)


_UNKNOWN: set[str] = set()

_PROGRAMS: OrderedDict[Any, _One] = OrderedDict()

_LOCK = threading.Lock()


def _kept(key: Any, static: dict[str, Any]) -> _One:
    """The program of this key, made where there is none; the least recently used are evicted if there are too many.

    A program that is running is referenced by its caller, so it is freed when it has ended.
    """
    gone = []
    with _LOCK:
        one = _PROGRAMS.get(key)
        if one is not None:
            _PROGRAMS.move_to_end(key)
            return one
        one = _PROGRAMS[key] = _One(key[0].function, static, key[1])
        if len(_PROGRAMS) > KEPT:
            gone = [_PROGRAMS.popitem(last=False) for _ in range(GIVEN_BACK)]
    if gone:
        gone.clear()
        gc.collect()
        with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no such call
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps half of what a compiler has freed
    return one

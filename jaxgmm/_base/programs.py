"""Compiled programs: how each is built, how many are kept, and in which buckets the shapes of small problems fall.

The one place for that policy. What a fit to a small table costs a user is compiling, so programs are few, are shared
by problems of nearby shapes, and, where they run once or on few numbers, are compiled in a hurry. What a long-lived
process pays is memory mappings, of which a program holds some hundred and the kernel allows 65,530 by default: so only
`KEPT` programs live at a time, and the one that was last used longest ago goes first. Nothing global is changed: no
XLA flag, no configuration of JAX.
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

KEPT = 64
"""Programs that are kept. One holds 40 to 250 mappings, three for each loop that XLA makes of it, and some 10 MB: all
of them, fewer than 16,000 mappings."""

GIVEN_BACK = 16
"""Programs that go at a time, since finding out that nobody holds them takes a tenth of a second."""


class Effort(Enum):
    """How a program is compiled: how soon against how well."""

    HURRIED = "hurried"
    BRISK = "brisk"
    WELL = "well"


OPTIONS: dict[Effort, dict[str, Any]] = {
    Effort.HURRIED: {
        "xla_cpu_use_fusion_emitters": False,
        "xla_backend_optimization_level": 0,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
    Effort.BRISK: {"xla_cpu_use_fusion_emitters": False},
    Effort.WELL: {},
}
"""XLA's options, on a CPU. On jaxlib 0.10 HURRIED saves four fifths of the time and of the mappings, and a loop over
rows is then five to eight times slower; BRISK saves two fifths, at no loss in loops over a few thousand rows and of up
to two thirds in those over a million. Later versions do not know the first option: there HURRIED saves two fifths of
the time, and BRISK nothing."""

ROWS_AT_ONCE = 512
"""Rows of a chunk of a small table."""

SMALL_CHUNKS = 16
"""Chunks of `ROWS_AT_ONCE` that a small table has room for, at least: all tables up to 8,192 rows share programs."""

SHARED_UP_TO = 16
"""Components up to which all numbers of them share programs, where the table is small."""

SMALL = 2**20
"""Responsibilities (components, with their padding, times rows, times runs) up to which a search is small: each step of
all its runs then takes less than 10 ms however its program was compiled, and a second program half a second."""


def components(count: int) -> int:
    """With how many components a small problem of so many is computed."""
    return max(SHARED_UP_TO, next_power_of_two(count))


def chunks(n_rows: int) -> int:
    """For how many chunks of `ROWS_AT_ONCE` a small table of so many rows has room. Only those in use are computed."""
    n_chunks = SMALL_CHUNKS
    while n_chunks * ROWS_AT_ONCE < n_rows:
        n_chunks *= 4
    return n_chunks


def is_small(n_rows: int, n_features: int, count: int, n_runs: int) -> bool:
    """Whether a search is one of small problems: compiled in a hurry, for shapes that many share."""
    padded = components(count)
    numbers = chunks(n_rows) * ROWS_AT_ONCE * n_features
    return (
        jax.default_backend() == "cpu"
        and padded * n_rows * n_runs <= SMALL
        and numbers <= SMALL
        and padded * n_features**2 <= SMALL // 16
    )


def effort(n_rows: int, count: int, n_runs: int) -> Effort:
    """How well to compile what reads the rows of a search that is not small: as soon as it is large, well.

    A search of 40 cells on 5,000 rows of 4 features compiles in 3 s less when BRISK, and takes 0.2 s longer: what is
    compiled well pays from the twentieth such search of a process on.
    """
    is_medium = n_rows <= 2**14 and count * n_rows <= 2**18 and count * n_rows * n_runs <= 2**23
    return Effort.BRISK if is_medium else Effort.WELL


def next_power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


class Program:
    """A function that is compiled for each shape of its arguments, like one under `jax.jit`, by this module's policy.

    Inside a transformation of the user's (`jit`, `vmap`, `grad`) it is a plain jitted function. Static arguments are
    given by name. hurried: whether it is compiled soon rather than well, unless a call says otherwise.
    """

    def __init__(self, function: Callable[..., Any], static: Sequence[str] = (), hurried: bool = False) -> None:
        self.function, self.static, self.hurried = function, tuple(static), hurried
        self._at: dict[Effort, Callable[..., Any]] = {}
        self._nested: Any = jax.jit(function, static_argnames=self.static)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.compiled(self.hurried, *args, **kwargs)

    def compiled(self, how: Effort | bool, /, *args: Any, **kwargs: Any) -> Any:
        """A call, with a say in how its program is compiled; by a word, or whether in a hurry."""
        how = how if isinstance(how, Effort) else Effort.HURRIED if how else Effort.WELL
        static, traced, key = self._key(how, args, kwargs)
        if jax.config.jax_disable_jit or key is None:  # pyright: ignore
            return self._nested(*args, **kwargs)
        try:
            return _kept(key, static).call(*args, **traced)
        except ValueError as error:
            # Inside a transformation all of whose arguments are known, which nothing public tells.
            if "compiler_options" not in str(error):
                raise
            return self._nested(*args, **kwargs)

    def at(self, how: Effort) -> Callable[..., Any]:
        """The calls of an effort, as a function that is the same every time."""
        return self._at.setdefault(how, functools.partial(self.compiled, how))

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As of a function under `jax.jit`: for reading what is compiled."""
        return self._nested.lower(*args, **kwargs)

    def _key(self, how: Effort, args: Any, kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Static arguments, the others by name, and what tells programs apart; None where an argument is traced."""
        static = {name: value for name, value in kwargs.items() if name in self.static}
        traced = {name: value for name, value in kwargs.items() if name not in self.static}
        leaves, structure = jax.tree.flatten((args, traced))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return static, traced, None
        shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
        return static, traced, (self, how, tuple(static.items()), structure, shapes)


def program(function: Any = None, /, *, static: str | Sequence[str] = (), hurried: bool = False) -> Any:
    """Decorator: a `Program` of the function."""
    names = (static,) if isinstance(static, str) else tuple(static)
    if function is None:
        return functools.partial(program, static=names, hurried=hurried)
    return Program(function, names, hurried)


def n_kept() -> int:
    """How many programs live."""
    return len(_PROGRAMS)


class _One:
    """A program for arguments of one shape."""

    def __init__(self, function: Callable[..., Any], static: dict[str, Any], how: Effort) -> None:
        # A function of its own: JAX keeps what is compiled for a function, and gives it back when that is gone.
        bound = functools.partial(function, **static)
        functools.update_wrapper(bound, function)
        self.bound, self.how = bound, how
        self.lock, self.jitted = threading.Lock(), None

    def call(self, *args: Any, **kwargs: Any) -> Any:
        if self.jitted is not None:
            return self.jitted(*args, **kwargs)
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
    """Whether the error is about an option that this jaxlib does not know; it is not tried again."""
    unknown = {name for name in options if "No such compile option" in str(error) and name in str(error)}
    _UNKNOWN.update(unknown)
    return bool(unknown)


_UNKNOWN: set[str] = set()

_PROGRAMS: OrderedDict[Any, _One] = OrderedDict()

_LOCK = threading.Lock()


def _kept(key: Any, static: dict[str, Any]) -> _One:
    """The program of this key, made where there is none; the ones not used for longest go where there are too many.

    One that is running is held by who runs it, so that it goes when it has ended.
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

"""float64 while JAX's own x64 setting is off: enabled for one call, never left on.

`jax.enable_x64` is a thread-local context. It is entered only when a value of the call is float64 already (inside it
float32 programs would be compiled a second time), and never when a value is a tracer: then the x64 setting of the
user's own transformation applies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")

T = TypeVar("T")


def precision_for(dtype: Any) -> AbstractContextManager[Any]:
    """The context in which arrays of `dtype` keep it."""
    if np.dtype(dtype) == np.float64 and not x64_is_on():
        return jax.enable_x64(True)
    return nullcontext()


def x64_is_on() -> bool:
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def settings_here() -> Callable[[], ExitStack]:
    """A function that applies this thread's JAX settings in the thread that calls it.

    JAX's settings are thread-local: the context manager `jax.x(value)` sets what `jax.config` calls jax_x. Closing the
    returned stack restores them. A setting without such a context manager is left as it is.
    """
    asked = jax.config.values

    def enter() -> ExitStack:
        with ExitStack() as settings:
            # Only where they differ: to set one, even to the same value, may cause recompilation.
            for name, value in jax.config.values.items():
                manager = getattr(jax, name.removeprefix("jax_"), None) if value != asked[name] else None
                if manager is not None:
                    settings.enter_context(manager(asked[name]))
            return settings.pop_all()

    return enter


def is_traced(tree: Any) -> bool:
    """Whether any leaf belongs to a transformation under way (`jit`, `vmap`, `grad`)."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def is_transforming() -> bool:
    """Whether this is called within a transformation of the user's, even one that traces no argument."""
    return is_traced(jax.device_put(np.int32(0)))


def _canonical(leaf: Any) -> Any:
    """A float64 leaf as float32, the dtype that JAX uses with x64 off."""
    return leaf.astype(jnp.float32) if getattr(leaf, "dtype", None) == np.float64 else leaf


def keeps_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Let `function` compute in float64 when its first argument (a pytree) holds it, even with x64 off."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if x64_is_on():
            return function(*args, **kwargs)
        if is_traced((args, kwargs)):
            return function(jax.tree.map(_canonical, args[0]), *args[1:], **kwargs)  # pyright: ignore
        if any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(args[0])):
            with jax.enable_x64(True):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper

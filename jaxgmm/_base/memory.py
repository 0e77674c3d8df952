"""Arrays in memory that XLA reads without a copy, and their ways between host and device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .precision import precision_for

ALIGNMENT = 64
"""Bytes at whose multiples an array must start for JAX to use it where it lies."""


def aligned(memory: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array in bytes that are ALIGNMENT more than it needs, where JAX on a CPU uses it as it lies."""
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + len(memory) - ALIGNMENT].view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that JAX on a CPU uses where they lie. The system gives memory that nothing is written to for nothing."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return aligned(np.zeros(n_bytes + ALIGNMENT, np.uint8), shape, dtype)


def own(x: Any, dtype: Any) -> jax.Array:
    """x as a JAX array of `dtype` that shares no memory with an array of the user's.

    On CPU JAX may alias a NumPy array, and even its copies are made after the call returns: what the user writes into
    it later would change a frozen mixture, or rows that are still being read. So the copy is made here, aligned such
    that JAX aliases it instead of copying once more: as it does where it is told the dtype that there is.
    """
    if isinstance(x, jax.Array):
        return x if x.dtype == dtype else jnp.asarray(x, dtype)
    x, dtype = np.asarray(x), jax.dtypes.canonicalize_dtype(dtype)
    n_bytes = x.size * dtype.itemsize
    copied = aligned(np.empty(n_bytes + ALIGNMENT, np.uint8), x.shape, dtype)
    copied[...] = x
    return jax.device_put(copied)  # `jnp.asarray` would compile a program for every shape


def beside(array: jax.Array, tree: Any) -> Any:
    """A tree of arrays where an array lies, and bound to that device only if the array is."""
    return jax.device_put(tree, array.sharding if array.committed else None)


def to_device(leaf: np.ndarray) -> jax.Array:
    """A JAX array of the dtype that a NumPy array has, whatever JAX's switch says."""
    with precision_for(leaf.dtype):
        return own(leaf, leaf.dtype)


def to_host(self: Any) -> dict[str, Any]:
    """`__getstate__` of a pytree dataclass: its leaves as NumPy arrays, so that pickles hold no device memory."""
    return {name: jax.tree.map(np.asarray, value) for name, value in vars(self).items()}


def from_host(self: Any, state: dict[str, Any]) -> None:
    """`__setstate__` of a frozen pytree dataclass: leaves come back as JAX arrays of the dtype they had."""
    for name, value in state.items():
        object.__setattr__(self, name, jax.tree.map(to_device, value))

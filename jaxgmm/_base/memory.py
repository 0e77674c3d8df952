"""Arrays in memory that XLA reads without a copy, and transfers between host and device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .precision import precision_for

ALIGNMENT = 64
"""An array must start at a multiple of this many bytes for JAX to use it without a copy."""


def aligned(memory: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array in a buffer of ALIGNMENT bytes more than it needs, placed so that JAX on a CPU does not copy it."""
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + len(memory) - ALIGNMENT].view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that JAX on a CPU uses without a copy. Memory that is never written to costs nothing."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return aligned(np.zeros(n_bytes + ALIGNMENT, np.uint8), shape, dtype)


def own(x: Any, dtype: Any) -> jax.Array:
    """x as a JAX array of `dtype` that shares no memory with an array of the user's.

    On CPU JAX may alias a NumPy array, and even its copies are made after the call returns: if the user writes into the
    array later, a frozen mixture changes, or rows that are still being read. So the copy is made here, in the right
    dtype and aligned, so that JAX aliases it instead of copying again.
    """
    if isinstance(x, jax.Array):
        return x if x.dtype == dtype else jnp.asarray(x, dtype)
    x, dtype = np.asarray(x), jax.dtypes.canonicalize_dtype(dtype)
    n_bytes = x.size * dtype.itemsize
    copied = aligned(np.empty(n_bytes + ALIGNMENT, np.uint8), x.shape, dtype)
    copied[...] = x
    return jax.device_put(copied)  # `jnp.asarray` would compile a program for every shape


def gathered(x: jax.Array) -> jax.Array:
    """An array that is sharded over several devices as one that is not: any other unchanged.

    On a mesh of Explicit axes, as `jax.make_mesh` makes it, a sharded axis cannot be cut at any row.
    """
    if isinstance(x, Tracer):
        sharding: Any = getattr(jax.typeof(x), "sharding", None)
        spec = getattr(sharding, "spec", ())
        if all(part is None for part in spec):
            return x
        return jax.sharding.reshard(x, jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec()))
    if x.sharding.is_fully_replicated or not x.is_fully_addressable:
        return x
    # By way of the host: what is moved between devices remembers its mesh.
    return jax.device_put(np.asarray(x), min(x.devices(), key=lambda device: device.id))


def with_whole_rows(x: jax.Array) -> jax.Array:
    """Rows that are sharded by features along an Explicit axis as rows that lie on one device, or where traced on each
    of the mesh; any others unchanged."""
    spec: Any = getattr(getattr(jax.typeof(x), "sharding", None), "spec", ())
    return gathered(x) if len(spec) == x.ndim > 0 and spec[-1] is not None else x


def place_of(array: Any) -> Any:
    """Where to put what belongs to an array, of whatever shape: on its devices, whole on each. None if the array is not
    JAX's, or is not committed to a device."""
    if not isinstance(array, jax.Array) or not array.committed:
        return None
    sharding = array.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):  # its axes are those of the array
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding


def beside(array: jax.Array, tree: Any) -> Any:
    """A tree of arrays on the device of an array, and committed to it only if the array is."""
    return jax.device_put(tree, place_of(array))


def to_device(leaf: np.ndarray) -> jax.Array:
    """A NumPy array as a JAX array of the same dtype, even where JAX's x64 setting is off."""
    with precision_for(leaf.dtype):
        return own(leaf, leaf.dtype)


def to_host(self: Any) -> dict[str, Any]:
    """`__getstate__` of a pytree dataclass: its leaves as NumPy arrays, so that pickles hold no device memory."""
    return {name: jax.tree.map(np.asarray, value) for name, value in vars(self).items()}


def from_host(self: Any, state: dict[str, Any]) -> None:
    """`__setstate__` of a frozen pytree dataclass: leaves come back as JAX arrays of the dtype they had."""
    for name, value in state.items():
        object.__setattr__(self, name, jax.tree.map(to_device, value))

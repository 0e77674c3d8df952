"""Fingerprints of arguments: what tells two searches apart, in a few words, the same in every process."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base.programs import program

STAYS_ABOVE = 2**20
"""Bytes above which an accelerator's array is not copied to the host to be hashed: it is hashed on the device."""


def digest(tree: Any) -> str:
    """A hash of the values, dtypes and shapes of a tree of arrays and numbers. 64 MB take 0.05 s on one core."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        leaf = leaf if isinstance(leaf, Array) else np.asarray(leaf)
        found.update(f"{leaf.dtype}{leaf.shape}".encode())
        if isinstance(leaf, Array) and leaf.nbytes > STAYS_ABOVE and next(iter(leaf.devices())).platform != "cpu":
            leaf = mixed(leaf)
        found.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:16]


@program
def mixed(array: Array) -> Array:
    """Two hashes of an array: sums over its numbers' bits, each mixed with its position (MurmurHash3's last steps).

    -> (2,). Integer sums do not depend on the order of summation, so the result is the same on any device.
    """
    bits = lax.bitcast_convert_type(array, jnp.uint32)
    for axis, factor in enumerate((0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)[: bits.ndim]):
        bits = bits * jnp.uint32(0xCC9E2D51) + lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(factor)

    def summed(seed: int) -> Array:
        some = bits + jnp.uint32(seed)
        some = (some ^ (some >> 16)) * jnp.uint32(0x85EBCA6B)
        some = (some ^ (some >> 13)) * jnp.uint32(0xC2B2AE35)
        return jnp.sum(some ^ (some >> 16), dtype=jnp.uint32)

    return jnp.stack([summed(1), summed(0x27D4EB2F)])


def describe(family: Any) -> str:
    """A family as text that is the same in every process: its name, repr and fields, without memory addresses."""
    words = f"{family.name} {family!r} {getattr(family, '__dict__', None) or ''}".strip()
    return re.sub(r" at 0x[0-9a-fA-F]+", "", words)

"""JAX's default generator on the host: the same keys and numbers as `jax.random`, without compiling a program for each.

Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"),
counted as JAX counts under `jax_threefry_partitionable`, its default. Keys are pairs of uint32, (..., 2).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)

PARITY = np.uint32(0x1BD11BDA)


def key(seed: int) -> jax.Array:
    """`jax.random.key` of a seed in 0 … 2³² − 1."""
    if str(jax.config.jax_default_prng_impl) != "threefry2x32":  # pyright: ignore
        return jax.random.key(np.uint32(seed))
    return jax.random.wrap_key_data(np.array([0, seed], np.uint32), impl="threefry2x32")  # pyright: ignore


def matches(key: jax.Array) -> bool:
    """Whether this module draws the same numbers from this key as JAX does."""
    return is_threefry(jax.random.key_impl(key)) and bool(jax.config.jax_threefry_partitionable)  # pyright: ignore


def is_threefry(impl: Any) -> bool:
    """Whether keys of this kind are Threefry's, which draw the same numbers under `vmap` as alone."""
    return str(impl) in ("fry", "threefry2x32")


def split(key: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`jax.random.split`. key (..., 2) -> (..., *shape, 2)."""
    return np.stack(_blocks(key, int(np.prod(shape))), axis=-1).reshape(*key.shape[:-1], *shape, 2)


def fold_in(key: np.ndarray, data: Any) -> np.ndarray:
    """`jax.random.fold_in`. key (..., 2), data (...) -> (..., 2)."""
    return np.stack(_hash(key, np.uint32(0), np.uint32(data)), axis=-1)


def uniform(key: np.ndarray, number: int, dtype: Any) -> np.ndarray:
    """`jax.random.uniform` of a vector, in [0, 1). key (..., 2) -> (..., number)."""
    high, low = _blocks(key, number)
    if np.dtype(dtype) == np.float64:
        bits = (high.astype(np.uint64) << np.uint64(32)) | low
        return ((bits >> np.uint64(12)) | np.float64(1.0).view(np.uint64)).view(np.float64) - 1.0
    bits = ((high ^ low) >> np.uint32(9)) | np.float32(1.0).view(np.uint32)
    return bits.view(np.float32) - np.float32(1.0)


def _blocks(key: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of 0, 1, ... number − 1. key (..., 2) -> two of (..., number)."""
    return _hash(key[..., None, :], np.uint32(0), np.arange(number, dtype=np.uint32))


def _hash(key: np.ndarray, first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    keys = key[..., 0], key[..., 1], key[..., 0] ^ key[..., 1] ^ PARITY
    with np.errstate(over="ignore"):
        x, y = first + keys[0], second + keys[1]
        for group in range(5):
            for rotation in ROTATIONS[group % 2]:
                x = x + y
                y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
            x = x + keys[(group + 1) % 3]
            y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y

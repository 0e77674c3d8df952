"""Formulas written once, for arrays of JAX and of NumPy, by which small tables are fitted (`em/by_numpy.py`)."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")


def is_numpy(array: Any) -> bool:
    return isinstance(array, (np.ndarray, np.generic))


def xp_of(*arrays: Any) -> Any:
    """The functions for these arrays: `numpy`'s where all are NumPy's, else `jax.numpy`'s."""
    for array in arrays:
        if not is_numpy(array):
            return jnp
    return np


def choose(condition: Any, new: Tree, old: Tree) -> Tree:
    """`new` where the condition holds, else `old`, for trees of equal structure. With NumPy's arrays the condition may
    be one of runs (R,), whose axis leads that of `old`, and of `new` too or it has none; what comes back may be a view
    that cannot be written to."""
    if not is_numpy(condition):
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
    if not condition.any():
        return old
    if condition.all():
        return jax.tree.map(lambda a, b: np.broadcast_to(a, np.shape(b)), new, old)
    return jax.tree.map(lambda a, b: np.where(condition.reshape(condition.shape + (1,) * (b.ndim - 1)), a, b), new, old)

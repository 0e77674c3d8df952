"""States as rows of numbers. Passing a leaf to a compiled program, and fetching it, takes ten microseconds or more; a
state has some fifteen, and a step of a small fit takes less than all of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import em


class Packing(NamedTuple):
    """Packs states into rows of F numbers. Static: part of the key of a compiled program."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, state: em.State) -> Packing:
        """For states such as this one."""
        leaves, structure = jax.tree.flatten(state)
        return cls(structure, tuple(np.shape(leaf) for leaf in leaves), tuple(np.dtype(leaf.dtype) for leaf in leaves))

    @property
    def length(self) -> int:
        """The F of a row."""
        return sum(map(math.prod, self.shapes))

    def pack(self, states: em.State) -> Any:
        """States (..., of this shape) as rows (..., F), of NumPy for NumPy leaves. Counts, flags and statuses are small
        integers, which are exact as floats."""
        leaves, dtype = jax.tree.leaves(states), states.objective.dtype
        xp = np if all(isinstance(leaf, (np.ndarray, np.generic)) for leaf in leaves) else jnp
        parts = zip(leaves, self.shapes, strict=True)
        flat = [leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], -1).astype(dtype) for leaf, shape in parts]
        return xp.concatenate(flat, axis=-1)

    def unpack(self, rows: Any) -> em.State:
        """Rows (..., F), of JAX or NumPy, as states (..., of this shape); what follows the F numbers is ignored."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            end = start + math.prod(shape)
            leaves.append(rows[..., start:end].reshape((*rows.shape[:-1], *shape)).astype(dtype))
            start = end
        return jax.tree.unflatten(self.structure, leaves)

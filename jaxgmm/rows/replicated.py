"""Rows of which every device holds a copy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._base.precision import is_traced
from .batches import Batches
from .chunks import T

AXIS = "jaxgmm.lanes"
"""The mesh axis of the devices, over which lanes are distributed."""

ON_EACH = 2**26
"""Bytes of rows up to which every device may hold a copy: restarts are then distributed, and no device waits."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Replicated(Batches):
    """`Batches` of which each of several devices holds a copy."""

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        sharding: Any = self.origin.sharding
        return sharding.mesh

    @property
    def n_copies(self) -> int:
        """How many devices hold a copy of all rows."""
        return 1 if is_traced(self.origin) else self.mesh.size

    def at_home(self, tree: T) -> T:
        """A tree of arrays on JAX's default device, and not committed to it."""
        return jax.device_put(jax.device_get(tree))


def on_all_devices(batches: Batches) -> Batches:
    """Batches of which every device of this process holds a copy. Within a transformation of the user's they remain
    plain `Batches`, for one program."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(batches, NamedSharding(mesh, PartitionSpec()))
    if is_traced(placed.origin):
        return placed
    return Replicated(**{field.name: getattr(placed, field.name) for field in fields(placed)})

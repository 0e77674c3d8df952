"""Rows of which every device holds a copy."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._base.precision import is_traced
from .batches import Batches

T = TypeVar("T")

AXIS = "jaxgmm.lanes"  # by which batches on all devices are told from those on a user's mesh


def on_all_devices(batches: Batches) -> Batches:
    """Batches of which every device of this process has all."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.device_put(batches, NamedSharding(mesh, PartitionSpec()))


def n_devices(origin: Array) -> int:
    """How many devices have all of the batches with this origin, each."""
    mesh = mesh_of(origin)
    return 1 if mesh is None else mesh.size


def at_home(tree: Any, origin: Array) -> Any:
    """A tree on the device of the batches with this origin; where several have them, on JAX's default device, and not
    bound to it."""
    if n_devices(origin) > 1:
        return jax.device_put(jax.device_get(tree))
    return jax.device_put(tree, origin.sharding if origin.committed else None)


def mesh_of(origin: Array) -> Mesh | None:
    """The devices that `on_all_devices` has brought batches with this origin to."""
    sharding = None if is_traced(origin) else origin.sharding
    if isinstance(sharding, NamedSharding) and sharding.mesh.axis_names == (AXIS,) and sharding.mesh.size > 1:
        return sharding.mesh  # pyright: ignore
    return None

"""Meshes of devices that a user has set: a search lays its rows out by itself, and results lie where its rows do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, SingleDeviceSharding

from .precision import is_traced, is_transforming

NONE = Mesh(np.empty((), object), ())


def outside_meshes() -> AbstractContextManager[Any]:
    """A context without the mesh of `jax.set_mesh`: under one JAX lays out over all of its devices whatever comes from
    the host, and refuses arrays that lie on one of them."""
    if jax.sharding.get_abstract_mesh().empty or is_transforming():
        return nullcontext()
    return jax.set_mesh(NONE)


def one_copy_of(x: Any) -> Any:
    """Of an array that each of several devices holds whole, or that lies on a mesh of one device, the array on one
    device, without a copy; all else as it is. Of one that all cores hold, it is not bound to its device: what is found
    can then be used beside arrays of the same mesh."""
    if not isinstance(x, Array) or is_traced(x) or isinstance(x.sharding, SingleDeviceSharding):
        return x
    if not (x.is_fully_addressable and x.is_fully_replicated):
        return x
    one = x.addressable_shards[0].data
    is_of_cores = len(x.devices()) > 1 and one.device.platform == "cpu"
    return jax.device_put(np.asarray(one)) if is_of_cores and one.dtype != np.float64 else one

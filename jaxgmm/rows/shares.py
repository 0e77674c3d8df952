"""The rows of each device: how an array is cut for the devices, or lies on them already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .._base.mesh import one_copy_of
from .._base.precision import is_traced
from . import _check, _check_parts
from .collective import gather_exactly, in_all_or_none
from .conversion import observations
from .units import exponent_of, in_unit


class Share(NamedTuple):
    """The rows of one device."""

    device: Any
    rows: Any  # (n, D): on the host, or on the device
    weights: np.ndarray | None  # (n,)


def is_sharded(x: Any) -> bool:
    """Whether an array is sharded over several devices, or is partly held by other processes."""
    return (
        isinstance(x, jax.Array)
        and not is_traced(x)
        and not (x.sharding.is_fully_replicated and x.is_fully_addressable)
    )


def shares_of(x: Any, sample_weight: Any) -> tuple[list[Share], list[Any]]:
    """The rows of this process by device, and the devices of all processes. A ValueError in one is raised in all.

    Rows (N, D) on the host are this process's own, and are cut into equal parts for its devices; an array that is
    sharded already stays where it is, and the weights are those of all its rows.
    """
    if is_sharded(x):
        return in_all_or_none(lambda: _as_it_lies(x, sample_weight))
    return in_all_or_none(lambda: _cut(x, sample_weight)), jax.devices()


def _cut(x: Any, sample_weight: Any) -> list[Share]:
    own, x = jax.local_devices(), one_copy_of(x)
    if jax.process_count() == 1 or len(x):  # of several processes some may have no rows
        x = observations(x, "x")
    weights = _check.weights_of_rows(sample_weight, len(x))
    if jax.process_count() == 1:
        _check_parts.rows_for_devices(len(x), len(own))
    cuts = np.linspace(0, len(x), len(own) + 1).round().astype(int)
    return [
        Share(device, x[a:b], None if weights is None else np.asarray(weights[a:b]))
        for device, a, b in zip(own, cuts[:-1], cuts[1:], strict=True)
    ]


def _as_it_lies(x: Array, sample_weight: Any) -> tuple[list[Share], list[Any]]:
    _check.matrix_shape(x.shape, "x")
    holders: dict[tuple[int, int], Any] = {}
    for device, index in x.sharding.devices_indices_map(x.shape).items():
        (first, after, _), (left, right, _) = (part.indices(n) for part, n in zip(index, x.shape, strict=True))
        _check_parts.whole_rows((left, right), x.shape[1])
        holders.setdefault((first, after), device)  # of several copies of the same rows only one is used
    _check_parts.rows_of_each_process({device.process_index for device in holders.values()}, jax.process_count())
    here = {shard.device: shard.data for shard in x.addressable_shards}
    weights = None
    if sample_weight is not None and is_sharded(sample_weight) and not sample_weight.is_fully_addressable:
        _check_parts.same_layout(sample_weight.sharding.devices_indices_map(sample_weight.shape), holders)
        weights = {shard.device: np.asarray(shard.data) for shard in sample_weight.addressable_shards}
    elif sample_weight is not None:
        values = np.asarray(_check.weights_of_rows(sample_weight, len(x)))
        weights = {device: values[slice(*place)] for place, device in holders.items()}
    shares = [
        Share(device, here[device], None if weights is None else weights[device])
        for place, device in sorted(holders.items(), key=lambda item: item[0])
        if device in here
    ]
    return shares, [holders[place] for place in sorted(holders)]


def check_weights(shares: Sequence[Share], name: str) -> None:
    first = 0
    for share in shares:
        if share.weights is not None:
            _check_parts.block_weights(np.asarray(share.weights), first, name)
        first += len(share.rows)


def check_rows(shares: Sequence[Share], dtype: Any, name: str) -> None:
    first = 0
    with np.errstate(over="ignore"):
        for share in shares:
            _check_parts.finite_block(np.asarray(share.rows).astype(dtype), share.weights, first, name)
            first += len(share.rows)


def in_one_unit(shares: Sequence[Share], dtype: Any) -> tuple[Sequence[Share], int]:
    """The shares with their weights in the unit of all processes' weights, and its exponent."""
    if shares[0].weights is None:
        return shares, 0
    largest = np.array(max(float(np.max(share.weights, initial=0.0)) for share in shares))  # pyright: ignore
    exponent = exponent_of(float(np.max(gather_exactly(largest))))
    return [share._replace(weights=in_unit(share.weights, exponent, dtype)) for share in shares], exponent

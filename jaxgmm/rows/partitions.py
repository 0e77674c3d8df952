"""Partitions of a dask collection, computed one after the other here; by a cluster's workers in `dask.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _check_parts


def takes(x: Any) -> bool:
    return type(x).__module__.startswith("dask") and hasattr(x, "to_delayed")


def source(x: Any, sample_weight: Any = None) -> Partitions:
    """The rows of a `dask.array` (N, D) or a `dask.dataframe`, with weights of the same partitions, or None."""
    return Partitions(x, sample_weight)


class Partitions:
    """Partitions of a dask collection, computed anew in every pass."""

    unit = "partition"

    def __init__(self, x: Any, sample_weight: Any) -> None:
        self.parts, self.name = delayed_partitions(x), "x"
        self.weights = None if sample_weight is None else delayed_weights(sample_weight, len(self.parts))

    def __iter__(self) -> Iterator[Any]:
        for place, part in enumerate(self.parts):
            rows = part.compute()
            yield rows if self.weights is None else (rows, np.asarray(self.weights[place].compute()).reshape(-1))

    def again(self) -> Partitions:
        return self


def delayed_partitions(x: Any) -> list[Any]:
    """The partitions of a dask array, in one piece along its features, or data frame, as delayed objects."""
    if hasattr(x, "rechunk"):
        x = x.rechunk({1: -1}) if x.ndim == 2 else x
        return list(x.to_delayed().ravel())
    return list(x.to_delayed())


def delayed_weights(weights: Any, n_parts: int) -> list[Any]:
    """The partitions of the weights (N,) of as many partitions of rows, as delayed objects.

    TypeError for weights that are not dask's, ValueError for other partitions than the rows'.
    """
    if not takes(weights):
        raise TypeError(
            f"sample_weight of a dask collection must be one, too, got {type(weights).__name__}. Give "
            "dask.array.from_array(sample_weight, chunks=x.chunks[0])."
        )
    parts = delayed_partitions(weights)
    _check_parts.same_partitions(len(parts), n_parts)
    return parts

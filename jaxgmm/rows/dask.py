"""Rows held by the workers of a dask cluster: each worker sums over its own rows, and only the sums are transferred.

One round per step: the function and its arguments are sent to every partition, and the sums are added up over a tree.
If a worker dies, dask computes its partitions again elsewhere, and the sums of the round that were lost.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.precision import precision_for
from . import _check_parts
from .blocks import Blocks
from .conversion import floating_dtype
from .partitioned import How, PartitionedRows
from .partitions import delayed_partitions, delayed_weights
from .sources import Kind, Tally, fitting
from .streamed import Layout, fitted_to, layout_for, sum_over, survey_of
from .survey import Survey, rows_kept

BRANCHES = 8
"""Sums that one task adds up."""


class DaskRows(PartitionedRows):
    """Rows of a dask collection whose partitions are kept by a cluster's workers."""

    def __init__(
        self,
        key: Array,
        x: Any,
        sample_weight: Any,
        client: Any,
        n_components: int,
        chunk_size: int | None = None,
        dtype: Any = None,
    ) -> None:
        """Waits until the workers have computed their partitions, and surveyed them."""
        self.name, self.client = "x", client
        self.parts = client.compute(delayed_partitions(x))
        self.weights = [None] * len(self.parts)
        if sample_weight is not None:
            self.weights = client.compute(delayed_weights(sample_weight, len(self.parts)))
        heads = client.gather(client.map(_head, self.parts))
        # Each is looked at here, where they can be compared. The first that has rows says what the others must be.
        of_each = list(fitting(iter(heads), "partition", self.name, dtype))
        _check_parts.some_weight(float(len(of_each)), self.name)
        head, _, names = of_each[0]
        self.dtype = floating_dtype((head,), dtype)
        self.n_features = head.shape[1]
        self.like = Kind(self.n_features, sample_weight is not None, head.dtype, names)
        n_kept = rows_kept(n_components)
        layout = layout_for(self.n_features, n_components, chunk_size, self.dtype)
        # One seed per partition, so that the sample does not depend on which worker computes which partition.
        seeds = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).ravel().tolist()).spawn(len(self.parts))
        found = client.gather(
            [
                client.submit(_survey, part, weights, place, self.like, layout, seed, n_kept, pure=False)
                for place, (part, weights, seed) in enumerate(zip(self.parts, self.weights, seeds, strict=True))
            ]
        )
        survey = Survey(np.random.default_rng(0), n_kept)
        for one in (one for one in found if one is not None):
            survey.join(one)
        survey.settle()
        layout = fitted_to(layout, max(one.n_rows for one in found if one is not None))
        self.chunk_size = layout.chunk_size
        with precision_for(self.dtype):
            self._describe(survey, n_components)
        self.tally = survey.tally
        known = map(np.asarray, (self.origin, self.total_weight, self.min_weight))
        self.layout = Layout(self.dtype, layout.chunk_size, layout.n_chunks, *known, exponent=self.exponent)

    def _sum(self, how: How, shared: Any) -> Any:
        # A task, and not scattered data: dask can run it again if the worker that holds its result dies.
        asked = (self.like, self.layout, how, jax.tree.map(np.asarray, shared))
        asked = self.client.submit(_as_it_is, asked, pure=False)
        sums = [
            self.client.submit(_sums, part, weights, place, asked, pure=False)
            for place, (part, weights) in enumerate(zip(self.parts, self.weights, strict=True))
        ]
        while len(sums) > 1:
            few = [sums[i : i + BRANCHES] for i in range(0, len(sums), BRANCHES)]
            sums = [self.client.submit(_joined, some, pure=False) for some in few]
        total, tally = sums[0].result()
        _check_parts.same_rows(tally, self.tally, self.name)
        return jax.tree.map(jnp.asarray, total)


def client_of() -> Any:
    """The client of the cluster that dask would use now, or None."""
    try:
        from distributed import get_client

        return get_client()
    except (ImportError, ValueError):
        return None


def _as_it_is(asked: Any) -> Any:
    return asked


def _head(part: Any) -> Any:
    """The first row, of the partition's own kind; what has no rows as an array."""
    return part[:1] if len(part) else np.empty((0, 0))


def _survey(
    part: Any, weights: Any, place: int, like: Kind, layout: Layout, seed: np.random.SeedSequence, n_kept: int
) -> Survey | None:
    if not len(part):
        return None
    with precision_for(layout.dtype):
        return survey_of(_blocks(part, weights, place, like), layout, np.random.default_rng(seed), n_kept)[0]


def _sums(part: Any, weights: Any, place: int, asked: tuple[Kind, Layout, How, Any]) -> tuple[Any, Tally]:
    """A function's sums over a partition, as host arrays; None where it has no rows."""
    like, layout, how, shared = asked
    if not len(part):
        return None, Tally()
    with precision_for(layout.dtype):
        sums, tally = sum_over(_blocks(part, weights, place, like), layout, how, shared)
        return jax.tree.map(np.asarray, sums), tally


def _joined(some: list[tuple[Any, Tally]]) -> tuple[Any, Tally]:
    sums = [each for each, tally in some if tally.n_rows]
    total = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0, dtype=leaves[0].dtype), *sums) if sums else None
    return total, functools.reduce(Tally.plus, (tally for _, tally in some))


def _blocks(part: Any, weights: Any, place: int, like: Kind) -> Blocks:
    """The rows of a partition, which must be of the kind of the first."""
    rows = [part if weights is None else (part, np.asarray(weights).reshape(-1))]
    return Blocks.part(rows, f"partition {place} of x", like)

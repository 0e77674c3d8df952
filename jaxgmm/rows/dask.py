"""Rows held by the workers of a dask cluster: each worker sums over its own rows, and only the sums are transferred.

One round per step: the function and its arguments are sent to every partition, and the sums are added up over a tree.
If a worker dies, dask computes its partitions again elsewhere, and the sums of the round that were lost.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.precision import precision_for
from . import _check
from .blocks import Blocks
from .partitioned import How, PartitionedRows
from .sources import delayed_partitions, delayed_weights
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
        heads = [head for head in heads if len(head)]
        _check.some_weight(float(len(heads)), self.name)
        head, _ = Blocks(heads, self.name).head()
        self.dtype = _check.floating_dtype((head,), dtype)
        self.n_features = head.shape[1]
        n_kept = rows_kept(n_components)
        layout = layout_for(self.n_features, n_components, chunk_size, self.dtype)
        # One seed per partition, so that the sample does not depend on which worker computes which partition.
        seeds = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).ravel().tolist()).spawn(len(self.parts))
        found = client.gather(
            [
                client.submit(_survey, part, weights, place, layout, seed, n_kept, pure=False)
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
        known = map(np.asarray, (self.origin, self.total_weight, self.min_weight))
        self.layout = Layout(self.dtype, layout.chunk_size, layout.n_chunks, *known, exponent=self.exponent)

    def _sum(self, how: How, shared: Any) -> Any:
        # A task, and not scattered data: dask can run it again if the worker that holds its result dies.
        asked = self.client.submit(_as_it_is, (self.layout, how, jax.tree.map(np.asarray, shared)), pure=False)
        sums = [
            self.client.submit(_sums, part, weights, asked, pure=False)
            for part, weights in zip(self.parts, self.weights, strict=True)
        ]
        while len(sums) > 1:
            few = [sums[i : i + BRANCHES] for i in range(0, len(sums), BRANCHES)]
            sums = [self.client.submit(_joined, some, pure=False) for some in few]
        total, n_rows = sums[0].result()
        _check.same_rows(n_rows, self.n_rows, self.name)
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


def _head(part: Any) -> np.ndarray:
    return np.asarray(part[:1])


def _survey(
    part: Any, weights: Any, place: int, layout: Layout, seed: np.random.SeedSequence, n_kept: int
) -> Survey | None:
    if not len(part):
        return None
    with precision_for(layout.dtype):
        blocks = _blocks(part, weights, f"partition {place} of x")
        return survey_of(blocks, layout, np.random.default_rng(seed), n_kept)[0]


def _sums(part: Any, weights: Any, asked: tuple[Layout, How, Any]) -> tuple[Any, int]:
    """A function's sums over a partition, as host arrays; None where it has no rows."""
    layout, how, shared = asked
    if not len(part):
        return None, 0
    with precision_for(layout.dtype):
        sums, n_rows = sum_over(_blocks(part, weights), layout, how, shared)
        return jax.tree.map(np.asarray, sums), n_rows


def _joined(some: list[tuple[Any, int]]) -> tuple[Any, int]:
    sums = [each for each, n_rows in some if n_rows]
    total = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0, dtype=leaves[0].dtype), *sums) if sums else None
    return total, sum(n_rows for _, n_rows in some)


def _blocks(part: Any, weights: Any, name: str = "x") -> Blocks:
    rows = np.asarray(part)
    return Blocks([(rows, np.asarray(weights).reshape(-1))] if weights is not None else [rows], name)

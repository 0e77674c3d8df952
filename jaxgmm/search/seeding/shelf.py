"""The shelf of seedings. From seeds or a user's own start, all rows are assigned, and one M-step follows.

Assigning each seed only its own row (as scikit-learn does for k-means++ and random rows) leaves tied covariances at the
scatter of the whole data, from which EM converges at once to a point where all components are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from ...rows.batches import Batches
from .kmeans import kmeans, kmeans_plus_plus
from .random import random_responsibilities, random_rows
from .sample import rows_for_seeding

SEEDINGS: Mapping[str, Callable[..., Array]] = {
    "k-means++": kmeans_plus_plus,
    "k-means": kmeans,
    "random_rows": random_rows,
    "random_responsibilities": random_responsibilities,
}
"""The shelf of seedings: (key, rows, K, count, restart = 0) -> seeds (K, D). A new one is a function and a line here.

Only the first `count` (a traced number) of the K seeds are used. They equal those for K = count, so that one program
serves several numbers of components. `restart` is the index of the run in its search, for seedings whose
runs differ by more than their key.
"""


ON_ALL_ROWS = ("random_responsibilities",)
"""Seedings from which every component starts on all rows, and not on those nearest to its seed."""


def seeds_from(
    keys: Array, batches: Batches, seeding: str, n_components: int, count: Array | int, restart: Array | int = 0
) -> Array:
    """Seeds by the named method. The first `count` are used; the others are the origin. -> (K, D).

    keys (2,): one to sample the candidate rows, one to choose among them.
    """
    rows = rows_for_seeding(keys[0], batches, n_components)
    seeds = SEEDINGS[seeding](keys[1], rows, n_components, count, restart)
    return jnp.where((jnp.arange(n_components, dtype=jnp.int32) < count)[:, None], seeds, 0.0) + batches.origin[None]

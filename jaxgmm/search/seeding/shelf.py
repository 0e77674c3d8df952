"""From seeds, or from whatever the user starts with, to a mixture: all rows are assigned, then one M-step follows.

Giving each seed its one row alone (scikit-learn's way for k-means++ and random rows) leaves tied covariances at the
scatter of the whole data, from which EM settles at once where all components are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from ...rows.batches import Batches
from .kmeans import kmeans, kmeans_plus_plus
from .random import random_responsibilities, random_rows
from .sample import Columns, rows_for_seeding

SEEDINGS: Mapping[str, Callable[[Array, Columns, int, Array | int], Array]] = {
    "k-means++": kmeans_plus_plus,
    "k-means": kmeans,
    "random_rows": random_rows,
    "random_responsibilities": random_responsibilities,
}
"""The shelf of seedings: (key, rows, K, count) -> seeds (K, D). A new one is a function and a line here.

Only the first `count` of the K seeds, a traced number, are meant; they are those that K = count would give, so that one
program serves several numbers of components.
"""


def seeds_from(keys: Array, batches: Batches, seeding: str, n_components: int, count: Array | int) -> Array:
    """Seeds by the named way, of which the first `count` are meant; the others are the origin. -> (K, D).

    keys (2,): one for the rows to choose from, one to choose with.
    """
    rows = rows_for_seeding(keys[0], batches, n_components)
    seeds = SEEDINGS[seeding](keys[1], rows, n_components, count)
    return jnp.where((jnp.arange(n_components) < count)[:, None], seeds, 0.0) + batches.origin

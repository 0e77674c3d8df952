"""Seeds by chance alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from .._linalg import einsum
from ._rows import Rows


def random_rows(key: Array, rows: Rows, n_components: int) -> Array:
    """K different rows, drawn with probability in proportion to their weights. -> seeds (K, D).

    The K largest of log w plus Gumbel noise are a weighted draw without replacement (Efraimidis and Spirakis 2006).
    """
    noise = jax.random.gumbel(key, rows.weights.shape, rows.weights.dtype)
    return rows.x[jax.lax.top_k(jnp.log(rows.weights) + noise, n_components)[1]]


def random_responsibilities(key: Array, rows: Rows, n_components: int) -> Array:
    """The means of components whose responsibilities are drawn at random, brought apart. -> seeds (K, D).

    Such means differ only by chance, by 1/√S of the data's spread, and the log-likelihood near the point where all
    components are equal is so flat that EM would stop there at once. So their differences are scaled up to the spread
    of the data: by the root of each component's effective number of rows, (Σ w r)² / Σ (w r)².
    """
    share = jax.random.exponential(key, (n_components, len(rows.weights)), rows.weights.dtype)
    weighted = share / jnp.sum(share, axis=0) * rows.weights  # uniform on the simplex, row by row
    mass = jnp.sum(weighted, axis=1, keepdims=True)
    means = einsum("ks,sd->kd", weighted, rows.x) / mass
    centre = einsum("s,sd->d", rows.weights, rows.x) / jnp.sum(rows.weights)
    return centre + (means - centre) * mass / jnp.sqrt(jnp.sum(jnp.square(weighted), axis=1, keepdims=True))

"""A Gaussian mixture: its parameters as a frozen pytree, with methods to evaluate and sample it.

Log-densities are in nats. Methods are thin; the arithmetic is in `evaluation.py` and in the functions below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ._base import check, html
from ._base.fork import refuse_if_forked
from ._base.linalg import einsum
from ._base.memory import from_host, own, to_host, with_whole_rows
from ._base.precision import is_traced, keeps_precision, precision_for
from ._base.programs import SMALL, program
from .covariances import Covariance
from .evaluation import _log_joint, _log_prob, _on_host, _predict, _responsibilities
from .families import SHELF, Family, is_matrix_shape, show_dense, shown_shape
from .rows import _check as rows_check
from .rows.conversion import floating_dtype, real_array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture:
    """Σ_k weights_k · Normal(means_k, Σ_k). Make one with `Mixture.create`, or take the one a fit returns."""

    log_weights: Array  # (K,), −inf for a component that is switched off
    means: Array  # (K, D)
    scales: Covariance  # the K covariances, as their family keeps them
    family: Family = field(metadata={"static": True})

    __getstate__, __setstate__ = to_host, from_host

    @classmethod
    def create(
        cls, weights: Any, means: Any, covariances: Any, family: str | Family = "full", dtype: Any = None
    ) -> Mixture:
        """A mixture from known parameters; no fit is needed.

        weights (K,) summing to 1, means (K, D), covariances in the family's own shape (scikit-learn's for its four
        types) or dense (K, D, D), which are projected onto the family. Raises ValueError where a shape or value is
        impossible, and warns of a covariance that is singular to the dtype's precision; traced values are not checked.
        """
        refuse_if_forked()
        chosen: Family = check.family(family, SHELF)
        dtype = floating_dtype((weights, means, covariances), dtype)
        with precision_for(dtype):
            weights, means, covariances = (own(a, dtype) for a in (weights, means, covariances))
            check.mixture_shapes(weights, means)
            own_shape = shown_shape(chosen, *means.shape)
            check.covariances_shape(covariances, means.shape, own_shape, chosen.name)
            log_weights, scales, is_definite, is_resolved = _made(weights, means, covariances, family=chosen)
            if not is_traced((weights, means, covariances)):
                is_matrix = covariances.shape != own_shape or is_matrix_shape(chosen, own_shape)
                check.symmetric(covariances, is_matrix)
                check.mixture_values(weights, means, is_definite, chosen.name)
                check.resolved(is_resolved, means.dtype)
            return cls(log_weights, means, scales, chosen)

    @property
    def n_components(self) -> int:
        return self.means.shape[-2]

    @property
    def n_features(self) -> int:
        return self.means.shape[-1]

    @property
    def weights(self) -> Array:
        """(K,)."""
        return _on_host(_weights, self)

    @property
    def covariances(self) -> Array:
        """Dense, (K, D, D)."""
        return _on_host(_dense, self)

    @keeps_precision
    def log_prob(self, x: Any) -> Array:
        """Log-density, nats. x (..., D) -> (...). Bishop 2006, eq. 9.7. ValueError where D differs."""
        return _log_prob(self, self._rows(x))

    @keeps_precision
    def log_joint(self, x: Any) -> Array:
        """Log of weight times component density, nats. x (..., D) -> (..., K)."""
        return _log_joint(self, self._rows(x))

    @keeps_precision
    def responsibilities(self, x: Any) -> Array:
        """Probability of each component given the row. x (..., D) -> (..., K). Bishop 2006, eq. 9.13."""
        return _responsibilities(self, self._rows(x))

    @keeps_precision
    def predict(self, x: Any) -> Array:
        """The most probable component. x (..., D) -> (...) int32."""
        return _predict(self, self._rows(x))

    @keeps_precision
    def sample(self, key: Array, n: int, return_labels: bool = False) -> Array | tuple[Array, Array]:
        """n independent rows. -> x (n, D), or with `return_labels` also the components (n,) they came from."""
        check.random_key(key)
        check.count(n, "n", least=0)
        x, labels = _sample.compiled(n * self.n_features <= SMALL // 16, self, key, n=n)
        return (x, labels) if return_labels else x

    def mean(self) -> Array:
        """Mean of the whole mixture. -> (D,)."""
        return _on_host(_mean, self)

    def covariance(self) -> Array:
        """Covariance of the whole mixture: within components plus between their means. -> (D, D)."""
        return _on_host(covariance_of, self)

    def _rows(self, x: Any) -> Array:
        rows = own(x if isinstance(x, jax.Array) else real_array(x, "x"), self.means.dtype)
        rows_check.last_axis(rows.shape, self.n_features)
        return with_whole_rows(rows)

    def __repr__(self) -> str:
        if is_traced(self) or self.means.ndim != 2:
            return f"Mixture(family={self.family.name!r}, means={self.means!r})"
        lines = [self._title()]
        for k, (weight, mean) in enumerate(zip(np.asarray(self.weights), np.asarray(self.means), strict=True)):
            if k == self._n_listed:
                lines.append(f"  … and {self.n_components - k} more")
                break
            lines.append(f"  {k}: weight {weight:.4f}  mean {np.array2string(mean, precision=4, threshold=8)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table of weights and means, for notebooks."""
        if is_traced(self) or self.means.ndim != 2:
            return html.plain(repr(self))
        n_listed, n_columns = self._n_listed, self.n_features if self.n_features <= 8 else 6
        more = ["…"] * (n_columns < self.n_features)
        columns = ["component", "weight", *(f"mean {d}" for d in range(n_columns)), *more]
        shown = zip(np.asarray(self.weights)[:n_listed], np.asarray(self.means)[:n_listed, :n_columns], strict=True)
        rows = [
            [str(k), f"{weight:.4f}", *(f"{value:.4g}" for value in mean), *more]
            for k, (weight, mean) in enumerate(shown)
        ]
        if n_listed < self.n_components:
            rows.append([f"… and {self.n_components - n_listed} more", *[""] * (len(columns) - 1)])
        return html.table(self._title(), columns, rows)

    def _title(self) -> str:
        return f"Mixture of {self.n_components} Gaussians in {self.n_features} dimensions, family {self.family.name!r}"

    @property
    def _n_listed(self) -> int:
        """How many components a listing has: one line is not worth leaving out."""
        return self.n_components if self.n_components <= 11 else 10


@program(static="family", hurried=True)
def _made(weights: Array, means: Array, covariances: Array, family: Family) -> tuple[Array, Any, Array, Array]:
    """-> log weights, the covariances as their family keeps them, and which are definite, and resolved. (Operation by
    operation, these are a dozen programs for every shape.)"""
    scales = family.read(covariances, means.shape[1])
    return jnp.log(weights), scales, scales.is_definite(), scales.is_resolved()


def _weights(mixture: Mixture) -> Any:
    return (np if isinstance(mixture.log_weights, np.ndarray) else jnp).exp(mixture.log_weights)


def _dense(mixture: Mixture) -> Any:
    return show_dense(mixture.scales, mixture.n_components)


def _mean(mixture: Mixture) -> Any:
    return einsum("k,kd->d", _weights(mixture), mixture.means)


def covariance_of(mixture: Mixture) -> Any:
    """`Mixture.covariance`, computed by NumPy if the leaves are NumPy's. -> (D, D)."""
    weights, shift = _weights(mixture), mixture.means - _mean(mixture)[None]
    return mixture.scales.weighted_sum(weights) + einsum("k,ki,kj->ij", weights, shift, shift)


@program(static="n")
def _sample(mixture: Mixture, key: Array, n: int) -> tuple[Array, Array]:
    which, noise = jax.random.split(key)
    # By the cumulative weights: Gumbel noise for every component would need n×K draws. Uniform in (0, 1], so that a
    # leading component of weight 0 is never drawn.
    uniform = 1.0 - jax.random.uniform(which, (n,), mixture.means.dtype)
    cumulative = jnp.cumsum(jnp.exp(mixture.log_weights))
    labels = jnp.searchsorted(cumulative, uniform * cumulative[-1]).astype(jnp.int32)
    labels = jnp.minimum(labels, mixture.n_components - 1)
    standard = jax.random.normal(noise, (n, mixture.n_features), mixture.means.dtype)
    return mixture.means[labels] + mixture.scales.colour(standard, labels), labels

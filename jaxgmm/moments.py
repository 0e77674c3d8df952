"""Weighted sums over rows: all that the M-step needs of the data.

`Moments` is a monoid: sums over any split of the rows (chunks, devices, files) add up to the sums over all of them.
A *kind*, with its arithmetic, is the least second moment that estimates a family: linear in K dense scatter matrices.

In float32 it matters about which point sums are taken: raw Σ w x² − (Σ w x)² loses every digit at 100 standard
deviations from the origin. So it is one origin near the data, where that is safe (FAST, all components in one product),
or each component's own incoming mean (SAFE); they are returned about the means. Chunks come as columns (D, n).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ._base.linalg import einsum, of_rank, over_components
from ._base.namespace import xp_of
from ._base.packed import PACKED_UP_TO, WRITTEN_OUT, lower_product, mirror, quadratic_features, unpack_symmetric
from ._base.sums import sum_over_rows
from .covariances import Covariance


class Moments(NamedTuple):
    """Σ weight · responsibility · (1, d, d dᵀ) over rows, with d = x − mean of the mixture that made them."""

    mass: Array  # (K,)
    first: Array  # (K, D)
    second: Array  # a kind's shape
    objective: Array  # (): Σ weight · log density, nats


class Statistics(NamedTuple):
    """What one chunk of rows adds, before the kind brings the sums over all chunks to `Moments`."""

    mass: Array  # (K,)
    first: Array  # (K, D), about the origin or the means
    second: Any  # depends on the form and the kind
    objective: Array  # ()


class Kind(ABC):
    """Which second moment is kept, and how. Stateless: two of one class are equal, also after pickling."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    @property
    def is_diagonal(self) -> bool:
        """Whether only the diagonals of the scatter matrices are used: no matrix is kept."""
        return len(self.shape(1, 1)) < 3

    @abstractmethod
    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """The shape of what is kept of the scatter of K components."""

    @abstractmethod
    def outer(self, mass: Array, shift: Array) -> Array:
        """The kind of Σ_k mass_k · shift_k shift_kᵀ, by NumPy for NumPy arrays. mass (K,), shift (K, D)."""

    @abstractmethod
    def diagonal(self, mass: Array, values: Array) -> Array:
        """The kind of mass_k · diag(values): what a ridge adds to scatters, likewise. mass (K,), values (D,)."""

    @abstractmethod
    def project(self, scatter: Array) -> Array:
        """The kind of dense scatter matrices, of JAX or NumPy. (..., K, D, D) -> (..., the kind's shape)."""

    @abstractmethod
    def scatter_of(self, mass: Array, covariance: Covariance) -> Array:
        """The kind of mass_k · Σ_k, without computing entries that it does not keep. mass (K,)."""

    @abstractmethod
    def natural(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        """A gradient with respect to scatter per mass, times the inverse Fisher information of one row: 2 S G S.

        scatter and gradient have the kind's shape. It is the step that EM itself makes along the gradient.
        """

    @abstractmethod
    def along_means(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        """A gradient (K, D) with respect to means, times the covariance, which is scatter per mass: S G."""

    @abstractmethod
    def about_origin(self, weighted: Array, centred: Array, shift: Array) -> tuple[Array, Array]:
        """FAST sums about the origin, for `from_origin`. weighted (K, n), centred columns (D, n), shift (K, D)."""

    def from_origin(self, mass: Array, first: Array, second: Array, shift: Array) -> tuple[Array, Array]:
        """First and second moments about the means from the sums of `about_origin`."""
        return recentre(self, mass, first, second, shift)

    @abstractmethod
    def about_means(self, weighted: Array, columns: Array, means: Array) -> tuple[Array, Any]:
        """SAFE first and second moments about the means (K, D), uncancelled. weighted (K, n), columns (D, n)."""

    def from_means(self, second: Any, means: Array) -> Array:
        """The second moment from the sums of `about_means`. For most kinds they are the same."""
        return second


class Full(Kind):
    """A scatter matrix for each component: (K, D, D)."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features, n_features

    def outer(self, mass: Array, shift: Array) -> Array:
        return mass[..., None, None] * shift[..., :, None] * shift[..., None, :]

    def diagonal(self, mass: Array, values: Array) -> Array:
        each = DIAGONAL.diagonal(mass, values)[..., None]
        return each * of_rank(xp_of(each).eye(values.shape[-1], dtype=each.dtype), each.ndim)

    def project(self, scatter: Array) -> Array:
        return scatter

    def scatter_of(self, mass: Array, covariance: Covariance) -> Array:
        return mass[:, None, None] * covariance.dense()

    def natural(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        symmetric = gradient + jnp.swapaxes(gradient, -1, -2)
        return einsum("kij,kjl,klm->kim", scatter, symmetric, scatter)

    def along_means(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        return einsum("kij,kj->ki", scatter, gradient)

    def about_origin(self, weighted: Array, centred: Array, shift: Array) -> tuple[Array, Array]:
        if len(centred) <= PACKED_UP_TO:
            sums = einsum("fn,kn->fk", quadratic_features(centred), weighted).T
            return sums[:, : len(centred)], sums[:, len(centred) :]

        def one_sided(component: tuple[Array, Array]) -> Array:
            weight, centre = component
            return lower_product(weight[None] * (centred - centre[:, None]), centred)

        return einsum("dn,kn->dk", centred, weighted).T, over_components(one_sided, (weighted, shift), centred.size)

    def from_origin(self, mass: Array, first: Array, second: Array, shift: Array) -> tuple[Array, Array]:
        if shift.shape[1] <= PACKED_UP_TO:
            return recentre(self, mass, first, unpack_symmetric(second, shift.shape[1]), shift)
        # Σ (x−μ)(x−μ)ᵀ = Σ (x−μ)(x−o)ᵀ − [Σ (x−μ)] (μ−o)ᵀ: the cancelling terms grow with the distance, not its square.
        first = first - mass[:, None] * shift
        return first, mirror(second - first[:, :, None] * shift[:, None, :])

    def about_means(self, weighted: Array, columns: Array, means: Array) -> tuple[Array, Array]:
        def one(component: tuple[Array, Array]) -> tuple[Array, Array]:
            weight, mean = component
            residual = columns - mean[:, None]
            if len(columns) == WRITTEN_OUT:
                first, second = jnp.split(einsum("n,fn->f", weight, quadratic_features(residual)), [WRITTEN_OUT])
                return first, unpack_symmetric(second, WRITTEN_OUT)
            return einsum("n,in->i", weight, residual), mirror(lower_product(weight[None] * residual, residual))

        return over_components(one, (weighted, means), columns.size)


class Pooled(Kind):
    """One scatter matrix, summed over the components: (1, D, D)."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return 1, n_features, n_features

    def outer(self, mass: Array, shift: Array) -> Array:
        return einsum("...ki,...kj->...ij", mass[..., None] * shift, shift)[..., None, :, :]

    def diagonal(self, mass: Array, values: Array) -> Array:
        return FULL.diagonal(mass.sum(axis=-1, keepdims=True), values)

    def project(self, scatter: Array) -> Array:
        return scatter.sum(axis=-3, keepdims=True)

    def scatter_of(self, mass: Array, covariance: Covariance) -> Array:
        return covariance.weighted_sum(mass)[None]

    def natural(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        return FULL.natural(scatter, gradient, n_features)

    def along_means(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        return einsum("ij,kj->ki", scatter[0], gradient)

    def about_origin(self, weighted: Array, centred: Array, shift: Array) -> tuple[Array, Array]:
        total = einsum("in,jn->ij", centred * jnp.sum(weighted, axis=0, keepdims=True), centred)
        return einsum("dn,kn->dk", centred, weighted).T, total[None]

    def about_means(self, weighted: Array, columns: Array, means: Array) -> tuple[Array, tuple[Array, Array]]:
        # With m = Σ_k r_k μ_k and Σ_k r_k = 1,
        #   Σ_k r_k (x−μ_k)(x−μ_k)ᵀ = (x−m)(x−m)ᵀ + ½ Σ_kl r_k r_l (μ_k−μ_l)(μ_k−μ_l)ᵀ:
        # products only, without cancellation. The second sum depends on the rows only through G = Σ w r rᵀ.
        weight = jnp.sum(weighted, axis=0)
        responsibilities = weighted / jnp.where(weight > 0.0, weight, 1.0)[None]
        origin = means[0]  # any point among the means keeps x − m = (x − o) − Σ r (μ − o) exact
        centred, shift = columns - origin[:, None], means - origin[None]
        residual = centred - einsum("kd,kn->dn", shift, responsibilities)
        within = einsum("in,jn->ij", residual * weight[None], residual)
        together = einsum("kn,ln->kl", weighted, responsibilities)
        first = einsum("dn,kn->dk", centred, weighted).T - sum_over_rows(weighted)[:, None] * shift
        return first, (within[None], together)

    def from_means(self, second: Any, means: Array) -> Array:
        within, together = second

        def with_others(component: tuple[Array, Array]) -> Array:
            mean, share = component
            return einsum("li,lj->ij", (means - mean[None]) * share[:, None], means - mean[None])

        return within + 0.5 * jnp.sum(lax.map(with_others, (means, together)), axis=0, keepdims=True)


class Diagonal(Kind):
    """The diagonal of each component's scatter: (K, D)."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features

    def outer(self, mass: Array, shift: Array) -> Array:
        return mass[..., None] * (shift * shift)

    def diagonal(self, mass: Array, values: Array) -> Array:
        return mass[..., None] * values[..., None, :]

    def project(self, scatter: Array) -> Array:
        return scatter.diagonal(axis1=-2, axis2=-1)

    def scatter_of(self, mass: Array, covariance: Covariance) -> Array:
        return mass[:, None] * covariance.variances()

    def natural(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        return 2.0 * scatter * gradient * scatter

    def along_means(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        return scatter * gradient

    def about_origin(self, weighted: Array, centred: Array, shift: Array) -> tuple[Array, Array]:
        sums = einsum("fn,kn->fk", jnp.concatenate([centred, centred * centred]), weighted).T
        return sums[:, : len(centred)], sums[:, len(centred) :]

    def about_means(self, weighted: Array, columns: Array, means: Array) -> tuple[Array, Array]:
        def one(component: tuple[Array, Array]) -> tuple[Array, Array]:
            weight, mean = component
            residual = columns - mean[:, None]
            return einsum("n,dn->d", weight, residual), einsum("n,dn->d", weight, residual * residual)

        return over_components(one, (weighted, means), columns.size)


class Trace(Kind):
    """The trace of each component's scatter: (K,)."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def outer(self, mass: Array, shift: Array) -> Array:
        return mass * (shift * shift).sum(axis=-1)

    def diagonal(self, mass: Array, values: Array) -> Array:
        return mass * values.sum(axis=-1)[..., None]

    def project(self, scatter: Array) -> Array:
        return scatter.trace(axis1=-2, axis2=-1)

    def scatter_of(self, mass: Array, covariance: Covariance) -> Array:
        return mass * covariance.variances().sum(axis=-1)

    def natural(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        return 2.0 / n_features * scatter * gradient * scatter

    def along_means(self, scatter: Array, gradient: Array, n_features: int) -> Array:
        return scatter[:, None] / n_features * gradient

    def about_origin(self, weighted: Array, centred: Array, shift: Array) -> tuple[Array, Array]:
        squares = jnp.sum(centred * centred, axis=0, keepdims=True)
        sums = einsum("fn,kn->fk", jnp.concatenate([centred, squares]), weighted).T
        return sums[:, :-1], sums[:, -1]

    def about_means(self, weighted: Array, columns: Array, means: Array) -> tuple[Array, Array]:
        first, second = DIAGONAL.about_means(weighted, columns, means)
        return first, jnp.sum(second, axis=1)


FULL, POOLED, DIAGONAL, TRACE = Full(), Pooled(), Diagonal(), Trace()


def projected(moments: Moments, kind: Kind) -> Moments:
    """Moments of kind `FULL`, projected onto another kind."""
    return moments._replace(second=kind.project(moments.second))


def recentre(kind: Kind, mass: Array, first: Array, second: Array, shift: Array) -> tuple[Array, Array]:
    """First and second moments about points moved by `shift` (K, D): exact algebra.

    Σ (d−s) = first − mass s and Σ (d−s)(d−s)ᵀ = second − first sᵀ − s firstᵀ + mass s sᵀ. By polarisation, and for any
    kind, the middle terms are mass·[(f−s)(f−s)ᵀ − f fᵀ] with f = first/mass.
    """
    mean = first / jnp.where(mass > 0.0, mass, 1.0)[:, None]
    return first - mass[:, None] * shift, second - kind.outer(mass, mean) + kind.outer(mass, mean - shift)

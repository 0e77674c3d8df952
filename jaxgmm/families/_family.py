"""The interface of families: each estimates K covariances from scatter sums, under its own constraint."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .._base.linalg import of_rank
from .._base.namespace import xp_of
from .._base.precision import precision_for
from ..covariances import Covariance
from ..moments import POOLED, Kind


class Pseudo(NamedTuple):
    """Pseudo-rows that a prior adds, as sums of the family's kind. Both 0 where there is no prior (`priors`).

    A family that pools components adds these once, after pooling; the others add them to each component.
    """

    mass: Array | float
    scatter: Array | float


NO_PRIOR = Pseudo(0.0, 0.0)


class Family(Protocol):
    """A constraint on K covariance matrices and its maximum-likelihood estimate (Celeux and Govaert 1995).

    Static and hashable, without arrays: it is part of the key of a compiled program. Methods are total: a component
    of mass 0 gets some finite positive definite matrix, and nothing is raised.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    def estimate(self, scatter: Array, mass: Array, n_features: int, prior: Pseudo, previous: Any) -> Any:
        """The covariances that maximise Σ_k −½ (mass_k log|Σ_k| + tr(scatter_k Σ_k⁻¹)) within the family.

        scatter has the shape of `kind` and is taken about the new means, mass (K,). The shape of a trace does not
        contain the number of features, so `n_features` is passed. Where the maximum needs an inner iteration it starts
        from `previous`, so that it may stop early and still never lower the objective. A family on the shelf computes
        NumPy's arrays by NumPy (`xp_of`), those of several runs, whose axis leads, at once.
        """
        ...

    def n_free(self, n_components: int, n_features: int) -> int:
        """Free parameters of the K covariances. `n_components` may be traced."""
        ...

    def read(self, covariances: Array, n_features: int) -> Any:
        """Covariances from an array as `show` returns it, or from dense (K, D, D), projected onto the family."""
        ...

    def show(self, covariance: Any, n_components: int) -> Array:
        """The covariances as this family's users write them: scikit-learn's shapes for its four, else (K, D, D).

        Also called with NumPy leaves: written with operators and `einsum`, it then needs no compiled program.
        """
        ...


def per_mass(scatter: Array, mass: Array, identity: Array | float) -> Array:
    """scatter / mass, component by component, and `identity` where there is no mass. The axes of mass lead."""
    xp: Any = xp_of(scatter, mass)
    mass = xp.reshape(mass, np.shape(mass) + (1,) * (scatter.ndim - np.ndim(mass)))
    identity = identity if isinstance(identity, float) else of_rank(identity, scatter.ndim)
    return xp.where(mass > 0.0, scatter / xp.where(mass > 0.0, mass, 1.0), identity)


def project(family: Family, covariances: Array) -> Any:
    """Dense matrices (K, D, D) brought into the family: its estimate from them with equal masses."""
    mass = jnp.ones(covariances.shape[0], covariances.dtype)
    return family.estimate(family.kind.project(covariances), mass, covariances.shape[-1], NO_PRIOR, None)


@lru_cache(256)  # tracing takes milliseconds, and a small fit as a whole takes ten
def shape_of_scales(family: Family, n_components: int, n_features: int, dtype: Any) -> Any:
    """The shapes and dtypes of the family's covariances of `n_components`."""
    with precision_for(dtype):
        dense = jax.ShapeDtypeStruct((n_components, n_features, n_features), dtype)
        return jax.eval_shape(lambda c: project(family, c), dense)


def show_dense(covariance: Covariance, n_components: int) -> Array:
    """Dense covariances (K, D, D), also where they are shared."""
    dense = covariance.dense()
    return xp_of(dense).broadcast_to(dense, (n_components, *dense.shape[1:]))


def show_least(covariance: Covariance, kind: Kind, n_components: int) -> Array:
    """The part of each covariance that a kind uses: matrices (K, D, D), or their diagonals (K, D)."""
    if not kind.is_diagonal:
        return show_dense(covariance, n_components)
    variances = covariance.variances()
    return jnp.broadcast_to(variances, (n_components, *variances.shape[1:]))


@lru_cache(256)
def shown_shape(family: Family, n_components: int, n_features: int) -> tuple[int, ...]:
    """The shape in which a family shows its covariances."""
    dense = jax.ShapeDtypeStruct((n_components, n_features, n_features), jnp.float32)
    return jax.eval_shape(lambda c: family.show(family.read(c, n_features), n_components), dense).shape


def is_matrix_shape(family: Family, shape: tuple[int, ...]) -> bool:
    """Whether a family shows matrices: one per component, or one that is pooled over them."""
    return len(shape) == 3 or family.kind == POOLED

"""Initial parameters that a user fixes: the estimator's `weights_init`, `means_init` and `precisions_init`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ..em.state import Fixed
from ..families import Family, shape_of_scales
from ..mixture import Mixture


class FixedStart(NamedTuple):
    """Parts of the initial mixture that replace those of the first M-step from the seeds."""

    log_weights: Array | None = None  # (K,)
    means: Array | None = None  # (K, D)
    scales: Any = None  # a Covariance

    @property
    def is_nothing(self) -> bool:
        return all(part is None for part in self)

    def whole(self, family: Family) -> Mixture | None:
        """The whole initial mixture if all parts are fixed, else None."""
        if self.log_weights is None or self.means is None or self.scales is None:
            return None
        return Mixture(self.log_weights, self.means, self.scales, family)

    def fixed(self, family: Family, n_components: int, room: int, n_features: int, dtype: Any) -> Fixed:
        """The fixed parts of a mixture of K components, padded to `room`, on the host; 0 for the other parts."""
        shape = (n_components, n_features)
        of_scales = shape_of_scales(family, *shape, dtype)
        nothing: Any = (
            np.zeros(n_components, dtype),
            np.zeros(shape, dtype),
            jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), of_scales),
        )
        parts = [part if part is not None else none for part, none in zip(self, nothing, strict=True)]
        return Fixed(_padded(Mixture(*parts, family), room), np.array([part is not None for part in self]))  # pyright: ignore

    def onto(self, mixture: Mixture) -> Mixture:
        """The mixture with its fixed parts replaced."""
        return replace(mixture, **{name: value for name, value in self._asdict().items() if value is not None})


NOTHING_FIXED = FixedStart()


def _padded(mixture: Mixture, n_components: int) -> Mixture:
    """A mixture on the host, padded with components of weight 0 that repeat its last one."""
    mixture = jax.tree.map(np.asarray, mixture)
    missing = n_components - mixture.n_components
    if not missing:
        return mixture

    def longer(leaf: np.ndarray, length: int) -> np.ndarray:
        return leaf[np.minimum(np.arange(length), len(leaf) - 1)]

    shapes = shape_of_scales(mixture.family, n_components, mixture.n_features, mixture.means.dtype)
    scales = jax.tree.map(lambda leaf, like: longer(leaf, len(like)), mixture.scales, shapes)  # pyright: ignore
    log_weights = np.append(mixture.log_weights, np.full(missing, -np.inf, mixture.means.dtype))
    means = longer(mixture.means, n_components)  # pyright: ignore
    return replace(mixture, log_weights=log_weights, means=means, scales=scales)  # pyright: ignore

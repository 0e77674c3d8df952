"""Inputs of the criteria: the number of free parameters, and sums over rows under a mixture."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..._base import check
from ..._base.precision import is_traced, keeps_precision
from ..._base.programs import program
from ...covariances import Form
from ...density import in_safe_form, joint, prepare
from ...evaluation import log_joint_of_few
from ...mixture import Mixture
from ...rows.batches import Batches
from ...rows.door import as_batches

KINDS = ("soft", "hard")


def n_parameters(mixture: Mixture) -> Any:
    """Free parameters: means, weights (which sum to 1) and covariances. Components of weight 0 are not counted."""
    active: Any = jnp.sum(mixture.log_weights != -jnp.inf) if is_traced(mixture) else _count_active(mixture)
    n_features = mixture.n_features
    return active * n_features + active - 1 + mixture.family.n_free(active, n_features)


def entropy(mixture: Mixture, batches: Batches | Any, kind: str = "soft") -> Array:
    """Entropy of the responsibilities r, summed over weighted rows, nats. x (N, D) or `Batches` -> ().

    kind "soft": −Σ w Σ_k r log r. kind "hard": −Σ w log max_k r, with the most probable component only.
    Computed chunk by chunk: no array of size N×K is made. ValueError for another kind, or if D differs.
    """
    check.one_of(kind, KINDS, "kind of entropy")
    batches = as_batches(batches, mixture.n_components, mixture.n_features, mixture.means.dtype)
    found = _by_program(mixture, batches, np.zeros((), batches.dtype), kind=kind)[1]
    is_plain = not is_traced((found, batches.exponent)) and not int(batches.exponent)
    return found if is_plain else batches.in_users_unit(found)


def evidence(
    mixture: Mixture, batches: Batches, centre: Any, *, kind: str, form: Form | None = None
) -> tuple[Array, Array]:
    """Σ w (log density − centre), and the entropy of the responsibilities; of a small search's rows by NumPy."""
    if batches.has_room and hasattr(mixture.scales, "as_dense"):
        return _evidence_of_few(mixture, batches, float(centre), kind)
    return _by_program(mixture, batches, centre, kind=kind, form=form)


@keeps_precision
def _by_program(
    mixture: Mixture, batches: Batches, centre: Any, *, kind: str, form: Form | None = None
) -> tuple[Array, Array]:
    return _evidence.compiled(batches.has_room, mixture, batches, centre, kind=kind, form=form)


def _evidence_of_few(mixture: Mixture, batches: Batches, centre: float, kind: str) -> tuple[Array, Array]:
    weights: Any = batches.row_weights()
    rows: Any = np.asarray(batches.rows.body)[: len(weights)]
    counts = weights > 0.0
    log_joint = log_joint_of_few(mixture, rows[counts]).astype(np.float64)
    is_there = np.asarray(mixture.log_weights) != -np.inf  # most are padding
    log_joint = log_joint[is_there] if is_there.any() else log_joint
    with np.errstate(all="ignore"):  # a row without density, or with NaN, makes sums that say so
        sums = _sums(log_joint, weights[counts], centre, kind, np)
        return tuple(np.asarray(of, batches.dtype) for of in sums)  # pyright: ignore


@program(static=("kind", "form"))
def _evidence(mixture: Mixture, batches: Batches, centre: Any, *, kind: str, form: Form | None) -> tuple[Array, Array]:
    def in_form(form: Form) -> tuple[Array, Array]:
        operands = prepare(mixture, batches.origin, form)
        return batches.sum(lambda chunk: _sums(joint(mixture, operands, chunk), chunk.weights, centre, kind, jnp))

    return in_form(form) if form else in_safe_form(mixture, batches.origin, in_form)


def _sums(log_joint: Any, weights: Any, centre: Any, kind: str, xp: Any) -> tuple[Any, Any]:
    """`evidence` of rows with this log joint (K, n), by `jax.numpy` or NumPy."""
    largest = xp.max(log_joint, axis=0)
    below = log_joint - largest[None]
    shares = xp.exp(below)
    total = xp.sum(shares, axis=0)
    # −log of the largest r is log(total); −Σ r log r adds the mean of −below, with 0 · −∞ taken as 0.
    spread = xp.log(total)
    if kind == "soft":
        spread = spread - xp.sum(xp.where(shares > 0.0, shares * below, 0.0), axis=0) / total
    counts = weights > 0.0
    return (
        xp.sum(xp.where(counts, weights * (largest + xp.log(total) - centre), 0.0)),
        xp.sum(xp.where(counts, weights * spread, 0.0)),
    )


def _count_active(mixture: Mixture) -> int:
    return int(np.sum(np.asarray(mixture.log_weights) != -np.inf))

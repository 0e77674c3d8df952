"""Steps of one run by NumPy, for tables so small that compiling their program takes longer than all steps.

The M-step, the verdict and the covariances are those of all other runs: their formulas serve NumPy's arrays, too
(`_base/namespace.py`). What is written here is the pass over the rows, in the SAFE form, with all components of a block
of rows at once, and sums over blocks in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._base.status import Status
from ..evaluation import normalised, whiteners
from ..families import SHELF, Family
from ..mixture import Mixture
from ..moments import Kind, Moments
from ..rows.batches import Batches
from .loop import begin_step, end_step
from .state import Fixed, Settings, State

AT_ONCE = 2**16
"""Numbers of a block, over components and features: with its intermediate values it then stays in a core's cache."""


class HostRows(NamedTuple):
    """The rows of a small table on the host, without those of weight 0."""

    x: np.ndarray  # (D, N), columns
    weights: np.ndarray  # (N,)
    total_weight: np.ndarray  # (): as in `Batches`
    min_weight: np.ndarray  # ()

    @classmethod
    def of(cls, batches: Batches) -> HostRows:
        """From rows with room, which lie on the host's side."""
        n_rows = int(batches.n_rows)
        weights = np.asarray(batches.weights.body)[:n_rows]
        counted = weights > 0.0
        rows = np.asarray(batches.rows.body)[:n_rows]
        rows, weights = (rows, weights) if counted.all() else (rows[counted], weights[counted])
        return cls(
            np.ascontiguousarray(rows.T), weights, np.asarray(batches.total_weight), np.asarray(batches.min_weight)
        )


def serves(family: Family, settings: Settings) -> bool:
    """Whether runs of this family can be made here: others' families and priors may know JAX alone."""
    return settings.prior is None and settings.acceleration is None and SHELF.get(family.name) == family


def run(
    state: State,
    rows: HostRows,
    settings: Settings,
    fixed: Fixed | None,
    limit: int,
    is_interrupted: Callable[[], bool],
) -> tuple[State, np.ndarray]:
    """`loop.advance` until the run has converged, failed, made `limit` steps or is interrupted; all leaves are NumPy's.
    -> the state, and the objective after each step."""
    line: list[Any] = []
    with np.errstate(all="ignore"):  # a status says what went wrong
        while state.status == Status.RUNNING and state.n_steps < limit and not is_interrupted():
            before = state.n_steps
            state, proposal, lost = begin_step(state, settings, fixed)
            moments = expect(proposal.mixture, rows)
            state = end_step(state, proposal, moments, rows, settings, lost)  # pyright: ignore
            if state.n_steps > before:
                line.append(state.objective)
    return state, np.array(line, state.objective.dtype)


def expect(mixture: Mixture, rows: HostRows) -> Moments:
    """`expectation.expect` by NumPy, without components of weight 0."""
    kind, means = mixture.family.kind, np.asarray(mixture.means)
    n_features = means.shape[1]
    there = np.flatnonzero(mixture.log_weights != -np.inf)
    there = there if len(there) else np.arange(len(means))  # the objective then says that it is no mixture
    constant, whitener = whiteners(mixture)
    constant, whitener, about = constant[there, None], whitener[there], means[there, :, None]
    is_diagonal = kind.is_diagonal
    mass, first = np.zeros(len(there)), np.zeros((len(there), n_features))
    second, objective = np.zeros(first.shape if is_diagonal else (*first.shape, n_features)), 0.0
    size = max(64, AT_ONCE // max(1, first.size))
    for start in range(0, len(rows.weights), size):
        x, weights = rows.x[:, start : start + size], rows.weights[start : start + size]
        apart = x - about
        white = whitener[..., None] * apart if whitener.ndim == 2 else np.matmul(whitener, apart)
        log_prob, weighted = normalised(constant - 0.5 * np.square(white, out=white).sum(axis=1))
        objective += float(np.dot(log_prob, weights))
        weighted *= weights
        part = np.multiply(apart, weighted[:, None], out=white)
        mass += weighted.sum(axis=1)
        first += part.sum(axis=2)
        second += (part * apart).sum(axis=2) if is_diagonal else np.matmul(part, apart.swapaxes(1, 2))
    return _moments(kind, means, there, mass, first, second, objective)


def _moments(
    kind: Kind, means: np.ndarray, there: np.ndarray, mass: Any, first: Any, second: Any, objective: float
) -> Moments:
    """The sums of components `there`, with zeros for the others, of the kind, in the dtype of `means`."""

    def whole(sums: np.ndarray) -> Any:
        found = np.zeros((len(means), *sums.shape[1:]), means.dtype)
        found[there] = sums
        return found

    second = whole(second)
    if not kind.is_diagonal:
        second = kind.project(second)
    elif len(kind.shape(1, 1)) == 1:
        second = second.sum(axis=1)
    return Moments(whole(mass), whole(first), second, means.dtype.type(objective))  # pyright: ignore

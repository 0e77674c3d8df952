"""The result of a fit, and the rule that chooses the best of its runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import em
from .._base import html
from .._base.deprecation import renamed
from .._base.memory import beside, from_host, to_device, to_host
from .._base.precision import is_traced
from .._base.programs import program
from .._base.status import FAILED, Status, explain
from ..mixture import Mixture
from ..rows.batches import Batches
from ..rows.rows import Rows
from .spurious import is_spurious, spurious_on_host
from .unresolved import unresolved

HISTORY = 16384
"""Most steps whose objectives are kept; a run may make more."""

ON_HOST = 2**24
"""Largest size of all states of a search, in numbers, that is passed between programs through host memory."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Restarts:
    """How each of R restarts ended. A restart that failed (collapsed, non-finite) has objective −inf."""

    objective: Array  # (R,)
    status: Array  # (R,)
    n_steps: Array  # (R,)
    history: Array  # (R, max_steps + 1), or (R, HISTORY) if that is shorter

    __getstate__, __setstate__ = to_host, from_host


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FitResult:
    """The best fit and how it was found. All figures are those of `mixture`."""

    mixture: Mixture
    objective: Array  # (): mean log-likelihood, nats per unit of weight
    status: Array  # (): a `Status`
    n_steps: Array  # ()
    history: Array  # (max_steps + 1,): the objective after t steps, NaN past the end; at most HISTORY of them
    effective_counts: Array  # (K,): Σ weight · responsibility, in the unit of the weights that were given
    spurious: Array  # (K,) bool: whether the ridge, and not the data, decides a component's smallest variance
    restarts: Restarts
    escapes: Array | None = None  # (M + 1,): objectives before and after each of M moves out of a local optimum.
    # `n_steps` and `history` are then those of the last run. The first move may lower it to remove spurious components.

    @property
    def held_up(self) -> Array:
        """The old name of `spurious`, for one version."""
        return renamed("FitResult.held_up", "spurious", self.spurious)

    @property
    def unresolved(self) -> np.ndarray:
        """Components whose covariance is, in some direction, little more than the rounding errors of its dtype, such as
        that of fewer rows than features: (K,) bool. Fit in float64, or scale the features, or enlarge the ridge."""
        return unresolved(self.mixture)

    __getstate__, __setstate__ = to_host, from_host

    def __getitem__(self, index: Any) -> FitResult:
        """The result of one or some of several problems (see `fit_many`): every leaf, indexed along its first axis.

        TypeError if this is the result of a single problem.
        """
        if not self.objective.ndim:
            raise TypeError("This is the result of one problem: only a stack of them, as of fit_many, has an index.")
        if is_traced((self, index)):
            return jax.tree.map(lambda leaf: leaf[index], self)
        # On the host: on a device, indexing each leaf would compile a program.
        return jax.tree.map(lambda leaf: to_device(np.asarray(np.asarray(leaf)[index])), self)

    def __repr__(self) -> str:
        if is_traced(self) or self.objective.ndim > 1:
            return f"FitResult(objective={self.objective!r}, mixture={self.mixture!r})"
        if self.objective.ndim:
            return _in_short(self)
        title, warning = _title_and_warning(self)
        return "\n".join([title, repr(self.mixture), *warning])

    def _repr_html_(self) -> str:
        """How the fit ended, and the mixture's table, for notebooks."""
        if is_traced(self) or self.objective.ndim:
            return html.plain(repr(self))
        title, warning = _title_and_warning(self)
        return html.paragraph(title) + self.mixture._repr_html_() + "".join(map(html.paragraph, warning))


def _title_and_warning(result: FitResult) -> tuple[str, list[str]]:
    """How a fit ended; and, where there are any, which components stand on the ridge, or on rounding errors."""
    status = Status(int(result.status))
    n_moves = 0 if result.escapes is None else len(result.escapes) - 1
    moves = f" and {n_moves} move{'s' if n_moves > 1 else ''} from there" if n_moves else ""
    spikes = [str(k) for k in np.flatnonzero(np.asarray(result.spurious))]
    n_steps, n_restarts = int(result.n_steps), result.restarts.objective.size
    title = (
        f"FitResult: {status.name} after {n_steps} step{'s' if n_steps != 1 else ''}, mean log-likelihood "
        f"{float(result.objective):.6f} nats, best of {n_restarts} restart{'s' if n_restarts != 1 else ''}{moves} "
        f"({explain(status)})"
    )
    warning = [f"held up by the ridge alone: component {', '.join(spikes)}"] if spikes else []
    if faint := [str(k) for k in np.flatnonzero(result.unresolved)]:
        dtype = result.mixture.means.dtype
        warning.append(f"in some direction little more than {dtype}'s rounding errors: component {', '.join(faint)}")
    return title, warning


def _in_short(result: FitResult) -> str:
    """A summary of the results of B problems."""
    status, objective, n_steps = (np.asarray(leaf) for leaf in (result.status, result.objective, result.n_steps))
    ends = ", ".join(f"{np.sum(status == of)} {Status(of).name}" for of in np.unique(status))
    known = objective[np.isfinite(objective)]
    figures = f", mean log-likelihoods {known.min():.6f} to {known.max():.6f} nats" if len(known) else ""
    steps = f"{n_steps.min()} to {n_steps.max()} steps" if len(n_steps) else "no steps"
    *_, n_components, n_features = result.mixture.means.shape
    n_spiked = int(np.asarray(result.spurious).any(axis=-1).sum())
    warning = f"\nheld up by the ridge alone: a component of {n_spiked} of them" if n_spiked else ""
    n_restarts = result.restarts.objective.shape[-1]
    best_of = f"{n_restarts} restart" + ("s" if n_restarts != 1 else "")
    return (
        f"FitResult of {len(status)} problems: {ends}; after {steps}{figures}, best of {best_of} each\n"
        f"{n_components} Gaussians in {n_features} dimensions each, family {result.mixture.family.name!r}; result[b] "
        f"is that of problem b{warning}"
    )


def in_users_unit(result: FitResult, rows: Rows) -> FitResult:
    """A result with `effective_counts` in the unit of the user's weights: as float64 where its dtype does not hold
    them."""
    if is_traced((result, rows.exponent)):
        return replace(result, effective_counts=rows.in_users_unit(result.effective_counts))
    if not int(rows.exponent):
        return result
    found = counts_in(result.mixture.means.dtype, rows.in_users_unit(result.effective_counts))
    return replace(result, effective_counts=to_device(found))


def counts_in(dtype: Any, counts: np.ndarray) -> np.ndarray:
    """Counts (..., K) in a dtype if it holds them, else as they are, in float64."""
    limits = jnp.finfo(dtype)
    is_outside = (counts > float(limits.max)) | ((counts < float(limits.tiny)) & (counts > 0.0))
    return counts if is_outside.any() else counts.astype(dtype)


def history_length(max_steps: int) -> int:
    """The number of objectives kept for a run."""
    return min(max_steps + 1, HISTORY)


def best(states: em.State, histories: Any, ridge: Any, *, length: int) -> FitResult:
    """`best_of`, with histories of `length`; on the host, if the states have NumPy leaves."""
    if isinstance(states.objective, np.ndarray):
        return _best_on_host(states, histories[:, :length], ridge)
    return _best(states, histories, ridge, length=length)


@program(static="length", hurried=True)
def _best(states: em.State, histories: Array, ridge: Any, *, length: int) -> FitResult:
    return best_of(states, histories[:, :length], ridge)


def _best_on_host(states: em.State, histories: np.ndarray, ridge: Any) -> FitResult:
    """`best_of` for states with NumPy leaves."""
    are_spurious = spurious_on_host(states, ridge)
    objective, winner = _winner(states, are_spurious, np)
    state, history = jax.tree.map(lambda leaf: leaf[winner], (states, histories))
    return FitResult(
        mixture=state.mixture,
        objective=state.objective,
        status=state.status,
        n_steps=state.n_steps,
        history=history,
        effective_counts=state.moments.mass,
        spurious=are_spurious[winner],  # pyright: ignore
        restarts=Restarts(objective, states.status, states.n_steps, histories),  # pyright: ignore
    )


def trimmed(result: FitResult, count: int) -> FitResult:
    """A host result without its padded components. (On a device, each slice would compile a program.)"""
    padded = result.mixture
    scales = jax.tree.map(lambda leaf: leaf[:count], padded.scales)
    return replace(
        result,
        mixture=Mixture(padded.log_weights[:count], padded.means[:count], scales, padded.family),
        effective_counts=result.effective_counts[:count],
        spurious=result.spurious[:count],
    )


def best_of(states: em.State, histories: Array, ridge: Any) -> FitResult:
    """The run (R, ...) with the highest finite objective, and how all of them ended.

    A run with a spurious component wins only if no run without one succeeded: its objective depends on how small the
    ridge is, and says nothing about the data.
    """
    are_spurious = lax.map(lambda mixture: is_spurious(mixture, ridge), states.mixture)
    objective, winner = _winner(states, are_spurious, jnp)
    best, history = jax.tree.map(lambda leaf: leaf[winner], (states, histories))
    return FitResult(
        mixture=best.mixture,
        objective=best.objective,
        status=best.status,
        n_steps=best.n_steps,
        history=history,
        effective_counts=best.moments.mass,
        spurious=are_spurious[winner],
        restarts=Restarts(objective, states.status, states.n_steps, histories),
    )


def _winner(states: em.State, are_spurious: Any, xp: Any) -> tuple[Any, Any]:
    """The objectives (R,) by which runs compete, and the index of the best run. xp: NumPy or `jax.numpy`."""
    failed = xp.isin(states.status, xp.array(FAILED, np.int32)) | ~xp.isfinite(states.objective)
    objective = xp.where(failed, -xp.inf, states.objective)
    sound = ~failed & ~xp.any(are_spurious, axis=1)
    # If every restart failed, return the one with the best last objective: it is still worth looking at.
    last_held = xp.where(xp.isfinite(states.objective), states.objective, -xp.inf)
    among = xp.where(sound, objective, -xp.inf)
    among = xp.where(xp.any(sound), among, xp.where(xp.all(failed), last_held, objective))
    return objective, xp.argmax(among)


def without_histories(results: FitResult) -> FitResult:
    """Results (G, ...) without their histories, which are as long as the longest run: no program is to depend on it."""
    nothing: Any = np.zeros((len(results.history), 1), results.history.dtype)
    return replace(results, history=nothing, restarts=replace(results.restarts, history=nothing[:, None]))


def for_each_result(batches: Batches, results: FitResult, *, also: Callable[[FitResult, Batches], Any]) -> Any:
    """also(result, batches) for each of the results (G, ...)."""
    return lax.map(lambda result: also(result, batches), results)


def unfinished(states: em.State, going: np.ndarray) -> em.State:
    """States (R, ...) of which those that were `going` (R,) when the search was interrupted have status RUNNING."""
    status = np.where(going, Status.RUNNING, np.asarray(states.status)).astype(np.int32)
    n_steps = np.maximum(np.asarray(states.n_steps), 0)  # a run that had not begun
    if not isinstance(states.status, np.ndarray):
        status, n_steps = beside(states.status, (status, n_steps))
    return states._replace(status=status, n_steps=n_steps)  # pyright: ignore


def write_objectives(histories: np.ndarray, runs: Any, steps: np.ndarray, objectives: np.ndarray) -> None:
    """Write objectives to the histories; steps past a history's end are dropped."""
    has_room = (steps >= 0) & (steps < histories.shape[1])
    runs = np.broadcast_to(runs, steps.shape)
    histories[runs[has_room], steps[has_room]] = objectives[has_room]


def is_on_host(states: em.State) -> bool:
    """Whether states are small enough to be held on the host."""
    n_numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(states))
    return n_numbers <= ON_HOST

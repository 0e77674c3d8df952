"""Collects the results of all problems."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from ... import em
from ..._base.memory import to_device
from ..._base.programs import program
from ..._base.status import FAILED, Status
from ...families import Family, shape_of_scales
from ...mixture import Mixture
from ..result import FitResult, Restarts, counts_in
from ..spurious import SPURIOUS_ABOVE, is_spurious, is_spurious_on_host

LOOKED_AT = 64
"""Mixtures that a program checks for spurious components at a time."""

ONE_BY_ONE_UP_TO = 1000
"""Mixtures that NumPy checks one after the other: that takes less time than compiling the program."""


def spurious_of(states: em.State, ridges: np.ndarray) -> np.ndarray:
    """`is_spurious` for every run (L, ...), evaluated only if its ridge traces do not rule it out. -> (L, K) bool."""
    found = np.zeros(states.mixture.log_weights.shape, bool)
    # NaN must be examined, too.
    asked = np.flatnonzero(np.any(~(np.asarray(states.ridge_trace) <= SPURIOUS_ABOVE), axis=1))
    if len(asked) <= ONE_BY_ONE_UP_TO:
        for run in asked:
            mixture = jax.tree.map(lambda leaf, run=run: leaf[run], states.mixture)
            found[run] = is_spurious_on_host(mixture, ridges[run])
        return found
    for first in range(0, len(asked), LOOKED_AT):
        some = asked[first : first + LOOKED_AT]
        filled = some[np.minimum(np.arange(LOOKED_AT), len(some) - 1)]
        few = jax.tree.map(lambda leaf, filled=filled: leaf[filled], states.mixture)
        found[some] = np.asarray(_are_spurious_each(few, ridges[filled]))[: len(some)]
    return found


@program(hurried=True)
def _are_spurious_each(mixtures: Mixture, ridges: Array) -> Array:
    return lax.map(lambda each: is_spurious(*each), (mixtures, ridges))


def winners(objective: np.ndarray, status: np.ndarray, are_spurious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the rule of `result.best_of`: the objectives (B, R) by which runs compete, and each problem's best run (B,).

    objective, status: (B, R). are_spurious: (B, R, K).
    """
    failed = np.isin(status, FAILED) | ~np.isfinite(objective)
    competing = np.where(failed, -np.inf, objective)
    sound = ~failed & ~are_spurious.any(axis=2)
    last_held = np.where(np.isfinite(objective), objective, -np.inf)
    otherwise = np.where(failed.all(axis=1, keepdims=True), last_held, competing)
    among = np.where(sound.any(axis=1, keepdims=True), np.where(sound, competing, -np.inf), otherwise)
    return competing, among.argmax(axis=1)


@dataclass
class Found:
    """Results of B problems; those not found yet are NaN, with status RUNNING."""

    mixture: Mixture  # (B, ...)
    mass: np.ndarray  # (B, K)
    spurious: np.ndarray  # (B, K)
    objective: np.ndarray  # (B,)
    status: np.ndarray  # (B,)
    n_steps: np.ndarray  # (B,)
    history: np.ndarray  # (B, H)
    run_objective: np.ndarray  # (B, R)
    run_status: np.ndarray  # (B, R)
    run_steps: np.ndarray  # (B, R)
    run_history: np.ndarray  # (B, R, H)

    @classmethod
    def of(
        cls, family: Family, n_problems: int, n_runs: int, n_components: int, n_features: int, length: int, dtype: Any
    ) -> Found:
        def unknown(*shape: int) -> np.ndarray:
            return np.full((n_problems, *shape), np.nan, dtype)

        scales = jax.tree.map(
            lambda leaf: unknown(*leaf.shape), shape_of_scales(family, n_components, n_features, dtype)
        )
        mixture: Any = (unknown(n_components), unknown(n_components, n_features), scales, family)
        histories = unknown(n_runs, length)
        return cls(
            mixture=Mixture(*mixture),
            mass=unknown(n_components),
            spurious=np.zeros((n_problems, n_components), bool),
            objective=unknown(),
            status=np.full(n_problems, Status.RUNNING, np.int32),
            n_steps=np.zeros(n_problems, np.int32),
            history=histories[:, 0] if n_runs == 1 else unknown(length),
            run_objective=np.full((n_problems, n_runs), -np.inf, dtype),
            run_status=np.full((n_problems, n_runs), Status.RUNNING, np.int32),
            run_steps=np.zeros((n_problems, n_runs), np.int32),
            run_history=histories,
        )

    def keep(self, problems: np.ndarray, states: em.State, histories: np.ndarray, are_spurious: np.ndarray) -> None:
        """Store the runs of these problems (P,). states (P · R, ...): all runs of a problem, then those of the next."""

        def by_problem(leaf: Any) -> np.ndarray:
            return leaf.reshape(len(problems), -1, *leaf.shape[1:])

        objective, status = by_problem(states.objective), by_problem(states.status)
        competing, winner = winners(objective, status, by_problem(are_spurious))
        every = np.arange(len(problems))

        def put(many: np.ndarray, leaf: Any) -> None:
            many[problems] = by_problem(leaf)[every, winner]

        jax.tree.map(put, self.mixture, states.mixture)
        put(self.mass, states.moments.mass)
        put(self.spurious, are_spurious)
        put(self.objective, states.objective)
        put(self.status, states.status)
        put(self.n_steps, states.n_steps)
        self.run_objective[problems], self.run_status[problems] = competing, status
        self.run_steps[problems], self.run_history[problems] = by_problem(states.n_steps), by_problem(histories)
        if self.run_history.shape[1] > 1:  # with a single run, `history` is a view of `run_history`
            put(self.history, histories)

    def result(self, exponents: np.ndarray) -> FitResult:
        """All results as one `FitResult`, on JAX's default device. exponents (B,): of the problems' weights."""
        mass = counts_in(self.mass.dtype, np.ldexp(self.mass.astype(np.float64), exponents[:, None]))
        found = FitResult(
            mixture=self.mixture,
            objective=self.objective,  # pyright: ignore
            status=self.status,  # pyright: ignore
            n_steps=self.n_steps,  # pyright: ignore
            history=self.history,  # pyright: ignore
            effective_counts=self.mass,  # pyright: ignore
            spurious=self.spurious,  # pyright: ignore
            restarts=Restarts(self.run_objective, self.run_status, self.run_steps, self.run_history),  # pyright: ignore
        )
        return replace(jax.device_put(found), effective_counts=to_device(mass))

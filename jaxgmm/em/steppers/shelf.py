"""The shelf of steppers, by their names in `Settings.acceleration`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from ..._base.precision import keeps_precision
from ..._base.programs import program
from ...mixture import Mixture
from ...moments import Moments
from ..state import Settings, State
from ._stepper import Stepper
from .accelerated import Accelerated
from .anderson import anderson
from .lbfgs import lbfgs
from .memory import Memory
from .plain import Plain
from .squarem import squarem

ACCELERATIONS: dict[str, Accelerated] = {
    "squarem": Accelerated("squarem", squarem, n_plain_between=1),
    "anderson": Accelerated("anderson", anderson),
    "lbfgs": Accelerated("lbfgs", lbfgs, by_gradient=True),
}


def stepper_of(settings: Settings) -> Stepper:
    """The stepper that the settings ask for."""
    return Plain() if settings.acceleration is None else ACCELERATIONS[settings.acceleration]


@keeps_precision
def with_memory(state: State, settings: Settings) -> State:
    """The state with the memory that its stepper needs; without memory where it needs none."""
    if settings.acceleration is None:
        return state._replace(memory=None)
    if state.memory is not None:
        return state
    return state._replace(memory=_remembered(state.mixture, state.moments, method=settings.acceleration))


@program(static="method", hurried=True)
def _remembered(mixture: Mixture, moments: Moments, *, method: str) -> Memory:
    # As a program: operation by operation it would be dozens.
    return ACCELERATIONS[method].remember(mixture, moments)


def with_own_memory(state: State, settings: Settings) -> State:
    """`with_memory`, without the memory of another stepper, in which the numbers have another meaning."""
    old, new = state.memory, with_memory(state._replace(memory=None), settings).memory
    if old is None or new is None:
        return state._replace(memory=new)
    return state._replace(memory=jax.tree.map(partial(jnp.where, old.method == new.method), old, new))

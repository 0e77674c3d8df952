"""Steps of a single run by a compiled program, driven from the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import em
from .._base.programs import Effort, program
from ..covariances import Form
from ..em.loop import advance
from ..em.state import Fixed, is_running
from ..rows.batches import Batches
from .packing import Packing
from .way import Way, effort_of, way_of

LINE = 256
"""Most steps of one call: the length of the array that their objectives are written to."""


@dataclass(frozen=True)
class Stepping:
    """How the steps of runs of one shape are made. States pass as rows of numbers (see `packing.py`)."""

    packing: Packing
    how: Effort
    batches: Batches
    settings: em.Settings
    fixed: Fixed | None
    held: dict[Way, Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, states: em.State, batches: Batches, settings: em.Settings, fixed: Fixed | None, n_runs: int
    ) -> Stepping:
        """For states (R, ...) with NumPy leaves, of a search of `n_runs`."""
        packing = Packing.of(jax.tree.map(lambda leaf: leaf[0], states))
        if fixed is None and batches.has_room:  # always passed, so that a single program serves all cases
            fixed = _nothing_fixed(states)
        return cls(packing, effort_of(states.mixture.n_components, batches, n_runs), batches, settings, fixed)

    def run(self, row: np.ndarray, until: int) -> tuple[np.ndarray, np.ndarray]:
        """The packed state after at most LINE steps, and the objective after each of them."""
        static = self._static(way_of(self.packing.unpack(row), self.batches, self.how))
        found = np.asarray(
            _run.compiled(self.how, row, self.batches, self.settings, self.fixed, np.int32(until), **static)
        )
        return found[: self.packing.length], found[self.packing.length :]

    def begun(self, state: em.State, limit: Any) -> Any:
        """The packed state after steps up to a limit, which may be under way still."""
        row = self.packing.pack(state)
        way = way_of(state, self.batches, self.how)
        if way not in self.held:
            arguments = row, self.batches, self.settings, self.fixed, limit
            self.held[way] = _run.held(self.how, *arguments, **self._static(way))
        return self.held[way](row, self.batches, self.settings, self.fixed, limit)

    def _static(self, way: Way) -> dict[str, Any]:
        return {"packing": self.packing, "way": way, "how": self.how}


def _nothing_fixed(states: em.State) -> Fixed:
    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), states.mixture)
    return Fixed(nothing, np.zeros(3, bool))


@program(static=("packing", "way", "how"))
def _run(
    row: Array,
    batches: Batches,
    settings: em.Settings,
    fixed: Fixed | None,
    limit: Array,
    *,
    packing: Packing,
    way: Way,
    how: Effort,
) -> Array:
    """Run a packed state at most LINE steps, or until a step needs the other form. -> the packed state, followed by the
    objective after each step, (F + LINE,)."""
    state = packing.unpack(row)
    first, has_one_form = state.n_steps, way is Way.ALWAYS_SAFE
    form = Form.FAST if way is Way.FAST else Form.SAFE

    def going(carry: tuple[em.State, Array]) -> Array:
        goes_on = is_running(carry[0], limit)
        return goes_on if has_one_form else goes_on & (carry[0].is_far == (form is Form.SAFE))

    def body(carry: tuple[em.State, Array]) -> tuple[em.State, Array]:
        state, line = carry
        new, is_far = advance(state, batches, settings, fixed, form, how)
        new = new._replace(is_far=state.is_far if has_one_form else is_far)
        return new, line.at[new.n_steps - first - 1].set(new.objective, mode="drop")

    state, line = lax.while_loop(going, body, (state, jnp.zeros(LINE, state.objective.dtype)))
    return jnp.concatenate([packing.pack(state), line])

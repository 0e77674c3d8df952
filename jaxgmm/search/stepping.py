"""Steps of a single run that the host drives: by a compiled program, or by NumPy where the table is small enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import em
from .._base.fork import refuse_if_forked
from .._base.programs import Effort, program
from ..covariances import Form
from ..em import by_numpy
from ..em.loop import advance
from ..em.state import Fixed, is_running
from ..rows.batches import Batches
from .packing import Packing
from .way import Way, effort_of, is_by_numpy, way_of

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
    rows: by_numpy.HostRows | None  # the rows for NumPy; None where a program makes the steps
    held: dict[Way, Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, states: em.State, batches: Batches, settings: em.Settings, fixed: Fixed | None, n_runs: int
    ) -> Stepping:
        """For states (R, ...) with NumPy leaves, of a search of `n_runs`."""
        family, n_components = states.mixture.family, states.mixture.means.shape[-2]
        how = effort_of(n_components, batches, n_runs)
        packing = Packing.of(jax.tree.map(lambda leaf: leaf[0], states))
        if not is_by_numpy(family, n_components, batches, settings, n_runs):
            if fixed is None and batches.has_room:  # always passed, so that a single program serves all cases
                fixed = _nothing_fixed(states)
            return cls(packing, how, batches, settings, fixed, None)
        refuse_if_forked()
        of_numpy = replace(settings, tol=np.asarray(settings.tol), ridge=np.asarray(settings.ridge))
        fixed = jax.tree.map(np.asarray, fixed)
        return cls(packing, how, batches, of_numpy, fixed, by_numpy.HostRows.of(batches))

    def run(self, row: np.ndarray, until: int, is_interrupted: Callable[[], bool]) -> tuple[np.ndarray, np.ndarray]:
        """The packed state after at most LINE steps, and the objective after each of them."""
        state = self.packing.unpack(row)
        if self.rows is not None:
            state, line = by_numpy.run(state, self.rows, self.settings, self.fixed, until, is_interrupted)
            return self.packing.pack(state), line
        static = self._static(way_of(state, self.batches, self.how))
        found = np.asarray(
            _run.compiled(self.how, row, self.batches, self.settings, self.fixed, np.int32(until), **static)
        )
        return found[: self.packing.length], found[self.packing.length :]

    def begun(self, state: em.State, limit: Any) -> Any:
        """The packed state after steps up to a limit, which may be under way still."""
        row = self.packing.pack(state)
        if self.rows is not None:
            return self.run(row, limit, lambda: False)[0]
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

"""Expectation-maximisation, whole: `init`, `step`, and `run`, which is a `while_loop` over `step`.

    state = em.init(mixture, batches)          expect
    state = em.step(state, batches)            maximise, expect, judge
    state = em.run(state, batches)             step, while running

A state is consistent: it carries a mixture and the moments of that very mixture, so the objective it reports belongs
to the mixture it holds. Data never ride in the loop's carry. All is pure, may be jitted, vmapped and differentiated,
and tells what happened by a status, never by an exception. Dempster, Laird and Rubin 1977; Bishop 2006, section 9.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import _check
from ._precision import keeps_precision
from .acceleration import METHODS, Memory, learn, propose, remember_nothing
from .batches import Batches, Scale
from .covariances import Form
from .expectation import expect
from .families import SHELF, Family, shape_of_scales
from .maximisation import maximise
from .mixture import Mixture, is_fast
from .moments import Moments
from .programs import SMALL, program
from .status import Status

STOPPING = ("gain", "aitken")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Settings:
    """What a run is told besides the data. The numbers are traced: changing them compiles nothing.

    family: name or object; the mixture's own where it is None. tol: nats of the mean log-likelihood; 0 runs to the step
    limit. ridge: added to the diagonal of every covariance, () or one for each feature (D,). A family whose constraint
    the sum would leave is given it in the scatter instead, which is the same for all of scikit-learn's types.
    acceleration: "squarem", "anderson" or "lbfgs" (see `acceleration.py`); None is EM as it is. stopping: a run has
    converged when a step brings less than tol ("gain"), or when all steps to come together would ("aitken": the gains
    are taken to shrink by a constant rate, as EM's do in the end; Böhning et al. 1994).
    ValueError for a negative or NaN number, or an unknown family, acceleration or stopping.
    """

    family: Family | None = field(default=None, metadata={"static": True})
    tol: Any = 1e-3
    ridge: Any = 1e-6
    acceleration: str | None = field(default=None, metadata={"static": True})
    stopping: str = field(default="gain", metadata={"static": True})

    def __post_init__(self) -> None:
        # JAX rebuilds this from placeholders when it maps over trees: only what a user wrote is looked at.
        for name, checked in (("tol", _check.nonnegative), ("ridge", _check.ridge)):
            value = getattr(self, name)
            if isinstance(value, (bool, str, int, float, np.number, np.ndarray, list, tuple)):
                object.__setattr__(self, name, checked(value, name))
        if self.family is not None:
            object.__setattr__(self, "family", _check.family(self.family, SHELF))
        _check.acceleration(self.acceleration, METHODS)
        _check.one_of(self.stopping, STOPPING, "stopping")

    @property
    def steps_to_judge(self) -> int:
        """How many steps of EM's own, one after the other, tell whether a run has converged."""
        return 2 if self.stopping == "aitken" else 1


class State(NamedTuple):
    """Where a run stands. Every field belongs to `mixture`."""

    mixture: Mixture
    moments: Moments
    objective: Array  # (): mean log-likelihood, nats per unit of weight
    n_steps: Array  # (): int32
    status: Array  # (): a `Status`, int32
    fell: Array  # (): whether the objective ever fell by more than rounding and the ridge explain
    gain: Array  # (): by how much the last step raised what EM raises, nats; infinite where that is not known
    memory: Memory | None = None  # of an accelerated run
    ridge_trace: Array | None = None  # (K,): tr(ridge Σ⁻¹) of each component, where a loop is to carry it
    is_far: Array | None = None  # (): whether FAST would cost the next step the promised digits, likewise


class Fixed(NamedTuple):
    """What the first M-step is not to decide: parts of a mixture, and which of them count."""

    mixture: Mixture
    parts: Any  # (3,) bool: whether its weights, means and covariances stand as they are

    def onto(self, mixture: Mixture) -> Mixture:
        """The mixture with the parts that count in their place."""
        pairs = zip(self.parts, mixture_parts(self.mixture), mixture_parts(mixture), strict=True)
        chosen = (jax.tree.map(partial(jnp.where, stands), own, found) for stands, own, found in pairs)
        return Mixture(*chosen, mixture.family)  # pyright: ignore


def mixture_parts(mixture: Mixture) -> tuple[Array, Array, Any]:
    return mixture.log_weights, mixture.means, mixture.scales


NOT_BEGUN = -1
"""Steps of a run that has not begun: its moments are those of a first assignment of the rows, and its first step is the
M-step from there, with no verdict on how much was gained. So one program serves the start and the steps."""


def unstarted(seeds: np.ndarray, meant: np.ndarray, moments: Moments, family: Family) -> State:
    """States (R, ...) of runs that have not begun, on the host.

    seeds (R, K, D), about which `moments` (R, ...) are taken, of the family's kind; meant (R, K) bool: which components
    there are. A run in which one of them gets no rows has lost before it began.
    """
    n_runs, n_components, n_features = seeds.shape
    dtype = seeds.dtype

    def unit(leaf: Any) -> np.ndarray:
        """Where a family's inner iteration may begin: matrices as the identity, and all else as 1."""
        is_matrix = leaf.shape[-2:] == (n_features, n_features) and len(leaf.shape) > 2
        value = np.eye(n_features, dtype=leaf.dtype) if is_matrix else np.ones((), leaf.dtype)
        return np.array(np.broadcast_to(value, (n_runs, *leaf.shape)))

    scales = jax.tree.map(unit, shape_of_scales(family, n_components, n_features, dtype))
    log_weights = np.where(meant, 0.0, -np.inf).astype(dtype)
    return State(
        mixture=Mixture(log_weights, seeds, scales, family),  # pyright: ignore
        moments=moments,
        objective=np.full(n_runs, -np.inf, dtype),  # pyright: ignore
        n_steps=np.full(n_runs, NOT_BEGUN, np.int32),  # pyright: ignore
        status=np.full(n_runs, Status.RUNNING, np.int32),  # pyright: ignore
        fell=np.zeros(n_runs, bool),  # pyright: ignore
        gain=np.full(n_runs, np.inf, dtype),  # pyright: ignore
        ridge_trace=np.zeros((n_runs, n_components), dtype),  # pyright: ignore
    )


def advance(state: State, batches: Batches, settings: Settings, fixed: Fixed | None, form: Form) -> tuple[State, Array]:
    """`step` in one form, or the first M-step of a run that has not begun, with what is `fixed` of it.

    -> the state, as it was where the form is FAST and would cost the promised digits; and whether it would.
    """
    is_first = state.n_steps < 0
    state, proposal = proposed(state, settings)
    found = proposal.mixture
    lost = jnp.any((found.log_weights == -jnp.inf) & jnp.isfinite(state.mixture.log_weights)) & is_first
    if fixed is not None:
        placed = fixed.onto(found)
        proposal = proposal._replace(mixture=jax.tree.map(partial(jnp.where, is_first), placed, found))
    is_far = ~is_fast(proposal.mixture, batches.origin)
    put_off = is_far if form is Form.FAST else jnp.array(False)
    new = concluded(state, proposal, expect(proposal.mixture, batches, form), batches, settings, put_off)
    status = jnp.where(lost & ~put_off, Status.COLLAPSED, new.status).astype(jnp.int32)
    return new._replace(status=status, n_steps=jnp.maximum(new.n_steps, jnp.where(put_off, NOT_BEGUN, 0))), is_far


def init(mixture: Mixture, batches: Batches | Any, settings: Settings | None = None) -> State:
    """The state before the first step. `batches` may be an array (N, D). ValueError where D or the family differ."""
    settings = settings or Settings()
    return prepared(_init(mixture, _admit(mixture, batches, settings)), settings)


def step(state: State, batches: Batches | Any, settings: Settings | None = None) -> State:
    """One EM iteration: M from the state's moments, E under the new mixture, and the verdict. Differentiable.

    A finished state steps on all the same; a step that fails leaves the mixture as it was and says so in `status`.
    """
    settings = settings or Settings()
    return _step(state, _admit(state.mixture, batches, settings), settings)


def run(state: State, batches: Batches | Any, settings: Settings | None = None, max_steps: int | Array = 200) -> State:
    """Step until converged, failed, or `max_steps` steps were made in all. Resumable: a finished state comes back
    as it is, and one that stopped at a step limit goes on under a higher one. Differentiable forwards."""
    settings = settings or Settings()
    limit = _check.steps(max_steps)
    return _run(state, _admit(state.mixture, batches, settings), settings, limit)


def _admit(mixture: Mixture, batches: Batches | Any, settings: Settings) -> Batches:
    if settings.family is not None and settings.family != mixture.family:
        raise ValueError(
            f"settings.family is {settings.family.name!r}, but the mixture is of family {mixture.family.name!r}. "
            "Leave the setting out, or create the mixture with that family."
        )
    if not isinstance(batches, Batches):
        _check.matrix_shape(np.shape(batches), "x")
        batches = Batches.of(batches, n_components=mixture.n_components, dtype=mixture.means.dtype)
    _check.last_axis((batches.n_features,), mixture.n_features)
    _check.same_dtype(batches.dtype, mixture.means.dtype)
    return batches


@keeps_precision
def _init(mixture: Mixture, batches: Batches) -> State:
    n_responsibilities = mixture.n_components * batches.n_chunks * batches.chunk_size
    return _first.compiled(n_responsibilities <= SMALL, mixture, batches)


@program
def _first(mixture: Mixture, batches: Batches) -> State:
    # The safe form alone: once a fit its speed does not matter, and the program is half as long to compile.
    return begun(mixture, expect(mixture, batches, Form.SAFE), batches)


def begun(mixture: Mixture, moments: Moments, rows: Batches | Scale) -> State:
    """The state before the first step, from a mixture and its moments."""
    objective = moments.objective / rows.total
    broken = ~jnp.all(mixture.scales.is_definite())
    status = jnp.select([broken, ~jnp.isfinite(objective)], [Status.COLLAPSED, Status.NON_FINITE], Status.RUNNING)
    unknown = jnp.full_like(objective, jnp.inf)
    return State(mixture, moments, objective, jnp.int32(0), status.astype(jnp.int32), jnp.array(False), unknown)


@keeps_precision
@program
def _step(state: State, batches: Batches, settings: Settings) -> State:
    state, proposal = proposed(state, settings)
    return concluded(state, proposal, expect(proposal.mixture, batches), batches, settings)


class Proposal(NamedTuple):
    """The mixture that a step goes to, if it stands once the rows have been summed under it."""

    mixture: Mixture
    tried: Any = None  # of an accelerated run: what it is to learn from
    is_plain: Any = None  # whether the step is one of EM's own


def proposed(state: State, settings: Settings) -> tuple[State, Proposal]:
    """The M-step, or what an acceleration puts in its place; with the state in the form that this needs."""
    state = prepared(state, settings)
    if settings.acceleration is None:
        old = state.mixture
        return state, Proposal(maximise(state.moments, old.means, old.family, old.scales, settings.ridge))
    assert state.memory is not None
    return state, Proposal(*propose(settings.acceleration, state.memory, state.mixture, state.moments, settings.ridge))


def concluded(
    state: State,
    proposal: Proposal,
    moments: Moments,
    rows: Batches | Scale,
    settings: Settings,
    put_off: Array | bool = False,
) -> State:
    """The state after a step to a proposal, of which these are the moments: judged, and kept or not; the state as it
    was where the step is `put_off`."""
    objective = moments.objective / rows.total
    new = State(proposal.mixture, moments, objective, state.n_steps + 1, state.status, state.fell, state.gain)
    if settings.acceleration is None:
        return judge(state, new, rows, settings, put_off)
    learnt = _learnt(state, new, proposal, rows, settings)
    return jax.tree.map(partial(jnp.where, put_off), state, learnt)


def _learnt(state: State, new: State, proposal: Proposal, rows: Batches | Scale, settings: Settings) -> State:
    """A step of EM's own or one that its acceleration proposes, which counts only if it raises what EM raises.

    Of a finished state, too, only a step of EM's own changes the status.
    """
    memory, method, is_plain = state.memory, settings.acceleration, proposal.is_plain
    assert memory is not None
    assert method is not None
    judged = judge(state._replace(memory=None), new, rows, settings)
    gain = new.objective - state.objective
    has_failed = (judged.status == Status.COLLAPSED) | (judged.status == Status.NON_FINITE)
    stands = is_plain | (~has_failed & (judged.gain > 0.0))
    # Of a proposal that is not kept only the step is counted, and one that is kept never ends a run.
    kept = jax.tree.map(partial(jnp.where, stands), judged, state._replace(memory=None, n_steps=state.n_steps + 1))
    kept = kept._replace(
        status=jnp.where(is_plain, judged.status, state.status).astype(jnp.int32),
        fell=jnp.where(is_plain, judged.fell, state.fell),
        gain=jnp.where(is_plain, judged.gain, jnp.inf),
    )
    stands &= ~has_failed
    learnt = learn(method, memory, proposal.tried, is_plain, stands, gain, settings.tol, settings.steps_to_judge)
    return kept._replace(memory=learnt)


@keeps_precision
def prepared(state: State, settings: Settings) -> State:
    """The state with the memory that its acceleration needs; without one where it has none."""
    if settings.acceleration is None:
        return state._replace(memory=None)
    if state.memory is not None:
        return state
    return state._replace(memory=remember_nothing(settings.acceleration, state.mixture, state.moments))


def _begun(state: State, settings: Settings) -> State:
    """`prepared`, and without what another method remembers, to which the numbers mean something else."""
    old, new = state.memory, prepared(state._replace(memory=None), settings).memory
    if old is None or new is None:
        return state._replace(memory=new)
    return state._replace(memory=jax.tree.map(partial(jnp.where, old.method == new.method), old, new))


@keeps_precision
@program
def _run(state: State, batches: Batches, settings: Settings, max_steps: Array) -> State:
    return stopped(
        lax.while_loop(
            lambda state: is_running(state, max_steps),
            lambda state: _step(state, batches, settings),
            _begun(resumed(state, max_steps), settings),
        )
    )


def resumed(state: State, max_steps: Array) -> State:
    """The state with which a run begins: one that a lower limit had stopped goes on."""
    resumable = (state.status == Status.MAX_STEPS) & (state.n_steps < max_steps)
    return state._replace(status=jnp.where(resumable, Status.RUNNING, state.status).astype(jnp.int32))


def is_running(state: State, max_steps: Array) -> Array:
    """Whether a run makes another step."""
    return (state.status == Status.RUNNING) & (state.n_steps < max_steps)


def stopped(state: State) -> State:
    """The state with which a run ends: what is running still has met the limit."""
    status = jnp.where(state.status == Status.RUNNING, Status.MAX_STEPS, state.status)
    return state._replace(status=status.astype(jnp.int32))


def judge(old: State, new: State, rows: Batches | Scale, settings: Settings, put_off: Array | bool = False) -> State:
    """The state that stands after a step, with its status: the only place that decides one.

    A step to a broken covariance or objective is taken back, so that a state always holds a usable mixture. One that is
    `put_off` is as if it had not been tried.
    """
    change = new.objective - old.objective
    # By how much the step lowers what the ridge takes, nats. The M-step maximises Q − ½ Σ_k π_k tr(ridge Σ_k⁻¹) and not
    # Q, so the objective may give up what the penalty gains.
    before = ridge_trace(old.mixture, settings) if old.ridge_trace is None else old.ridge_trace
    after = ridge_trace(new.mixture, settings)
    eased = 0.5 * jnp.sum(old.moments.mass * (before - after)) / jnp.sum(old.moments.mass)
    gain = change + eased
    broken = ~jnp.all(new.mixture.scales.is_definite()) | _is_point(new.mixture, settings)
    # Half a row and not one: a sound component that holds a single row gives a little of it to the others.
    lost = jnp.any((new.moments.mass < 0.5 * rows.lightest) & jnp.isfinite(old.mixture.log_weights))
    lost &= old.n_steps >= 0
    finite = jnp.isfinite(new.objective)
    rounding = _rounding(new)
    fell = old.fell | (change < -64.0 * rounding - jnp.maximum(eased, 0.0))
    settled = jnp.where(fell, Status.NOT_MONOTONE, Status.CONVERGED)
    status = jnp.select(
        [broken, ~finite, lost, _has_settled(change, gain, old.gain, rounding, settings)],
        [Status.COLLAPSED, Status.NON_FINITE, Status.COLLAPSED, settled],
        Status.RUNNING,
    ).astype(jnp.int32)
    new = new._replace(
        status=status, fell=fell, gain=gain, ridge_trace=None if old.ridge_trace is None else after, is_far=old.is_far
    )
    taken_back = old._replace(status=jnp.where(put_off, old.status, status))
    return jax.tree.map(partial(jnp.where, broken | ~finite | put_off), taken_back, new)


def _has_settled(change: Array, gain: Array, last: Array, rounding: Array, settings: Settings) -> Array:
    """Whether a step that changed the objective by `change`, and raised what EM raises by `gain`, ends the run.

    Both must be small: under a large ridge the objective's change passes through 0 long before EM is at rest. So
    does a fall that takes back the rise before it: in float32 a run can go to and fro between two such mixtures.
    """
    to_and_fro = (last > 0.0) & (gain <= -0.5 * last) & (jnp.abs(gain + last) < settings.tol)
    if settings.stopping == "gain":
        return to_and_fro | (jnp.maximum(jnp.abs(change), jnp.abs(gain)) < settings.tol)
    rate = gain / last
    shrinks = (rate >= 0.0) & (rate < 1.0) & jnp.isfinite(last)
    to_come = gain * rate / jnp.where(shrinks, 1.0 - rate, 1.0)
    at_rest = (jnp.abs(gain) < 4.0 * rounding) & (settings.tol > 0.0)  # where rates are those of rounding errors
    return to_and_fro | jnp.where(shrinks, jnp.abs(to_come) < settings.tol, at_rest)


def _rounding(state: State) -> Array:
    """What the mean of log-densities whose terms are of the size of D and log det Σ may be off by."""
    log_det = jnp.max(jnp.abs(state.mixture.scales.log_det()))
    return jnp.finfo(state.objective.dtype).eps * (jnp.abs(state.objective) + log_det + state.mixture.n_features)


def ridge_trace(mixture: Mixture, settings: Settings) -> Array:
    """tr(ridge Σ⁻¹) of each component, which is no less than the ridge's share of its smallest variance. -> (K,)."""
    precisions = mixture.scales.precision_diagonal()
    trace = jnp.sum(jnp.asarray(settings.ridge, precisions.dtype) * precisions, axis=-1)
    return jnp.broadcast_to(trace, mixture.log_weights.shape)


def _is_point(mixture: Mixture, settings: Settings) -> Array:
    """Whether a component stands on a single value: its standard deviation is within the rounding of its mean.

    A ridge holds such a spike up; then it counts as an estimate, and `Covariance.ridge_share` shows it.
    """
    resolution = 4.0 * jnp.finfo(mixture.means.dtype).eps * jnp.abs(mixture.means)
    is_point = (mixture.scales.variances() <= jnp.square(resolution)) & (settings.ridge <= 0.0)
    return jnp.any(jnp.any(is_point, axis=-1) & jnp.isfinite(mixture.log_weights))

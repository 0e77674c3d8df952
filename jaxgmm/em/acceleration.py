"""Faster than EM in the long run: where to go next, from where the last steps led.

EM is a map of a point to the next, and a slow one where clusters overlap: each step goes a little of the way that all
remaining ones together would go. The points are extrapolated not as parameters but as what an M-step estimates those
from (weights, means, scatter per mass), so that every family's constraint holds whatever is proposed.

    squarem     from two steps, as if the third and all others shrank alike (Varadhan and Roland 2008, scheme S3)
    anderson    the combination of the last steps that would have led nowhere further, by least squares with a small
                ridge (Walker and Ni 2011; monotone as in Henderson and Varadhan 2019)
    lbfgs       uphill by the curvature that the last gradients show, with EM's own step for a first guess of it
                (Jamshidian and Jennrich 1997; the two loops of Nocedal 1980)

A proposal costs one pass over the rows, as a step of EM does, and counts as a step. It stands only if it raises what
EM raises: the objective, less what the ridge takes for small covariances. Else the state stays as it was, and the next
step is EM's own. Only such a step ends a run, so that converged means what it means without acceleration. All is pure
and may be vmapped, and does not depend on the units of the features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from .._base.linalg import cholesky, einsum, inverse_lower
from ..mixture import Mixture
from ..moments import Kind, Moments, recentre
from .maximisation import log_shares, maximise, ridge_scatter

MEMORY = 10
"""Steps that are remembered."""

CALM = 1e-4
"""Gain of a step of EM's own, nats, under which proposals begin: before, EM is fast, and they lead to other optima."""

SHORTEST = 1.0 / 64.0
"""Least share of a proposed move that is made: shorter ones gain no more than rounding, and would never grow again."""

FORGETS_AFTER = 4
"""Patience from which on a refused proposal takes what is remembered with it: it may be that which misleads."""

PATIENCE = 32
"""Most steps of EM's own between two proposals that are refused: what refused ones cost is bounded by that."""


class Point(NamedTuple):
    """What a mixture is estimated from, apart from how many rows there are. A component of weight 0 is not moved."""

    log_weights: Array  # (K,)
    means: Array  # (K, D)
    scatter: Array  # about the means and per mass, of the family's kind


class Memory(NamedTuple):
    """What a run remembers from step to step. P numbers make a point; the newest entries come last."""

    method: Array  # (): which of METHODS remembers this, by number
    units: Array  # (P,): of a point's numbers, as the features spread when the run began; all below is in these
    point: Array  # (P,): from which the state's mixture was estimated
    before: Array  # (P,): the last point that was told of
    told: Array  # (P,): what was told of it: the gradient there, or EM's own step from it
    moves: Array  # (MEMORY, P): differences of points
    changes: Array  # (MEMORY, P): differences of what was told of them
    n_pairs: Array  # (): how many of those there are
    is_placed: Array  # (): whether there is a point: not before the first step
    is_new: Array  # (): whether it has not been told of yet
    has_before: Array  # (): whether any has
    plainly: Array  # (): how many of the next steps are to be EM's own
    patience: Array  # (): how many they will be after the next proposal that is refused
    length: Array  # (): share of a proposed move that is made


def remember_nothing(method: str, mixture: Mixture, moments: Moments) -> Memory:
    """The memory with which a run begins: its first two steps are EM's own."""
    target = _target(mixture, moments)
    point = _flat(target)
    many = jnp.zeros((MEMORY, *point.shape), point.dtype)
    nothing, no = jnp.zeros_like(point), jnp.array(False)
    return Memory(
        method=jnp.int32(list(METHODS).index(method)),
        units=_units(mixture, target),
        point=nothing,
        before=nothing,
        told=nothing,
        moves=many,
        changes=many,
        n_pairs=jnp.int32(0),
        is_placed=no,
        is_new=no,
        has_before=no,
        plainly=jnp.int32(0),
        patience=jnp.int32(1),
        length=jnp.ones((), point.dtype),
    )


def propose(
    method: str, memory: Memory, mixture: Mixture, moments: Moments, ridge: Any
) -> tuple[Mixture, Memory, Array]:
    """The mixture to try next, the memory with which it is judged, and whether it is the one that EM would make."""
    family = mixture.family
    target = _target(mixture, moments)
    units = memory.units
    flat, unflat = ravel_pytree(_finite(target))
    goal = flat / units
    # Before the first step there is no point; EM's next is looked at in its place, where all is defined.
    here = unflat(jnp.where(memory.is_placed, memory.point, goal) * units)
    step = goal - memory.point

    def natural(gradient: Array) -> Array:
        return _natural(family.kind, here, unflat(gradient / units)) / units

    told = _flat(_gradient(_present(here, target), mixture, moments, ridge)) * units if method in BY_GRADIENT else step
    memory = _with(memory, told, uphill=method in BY_GRADIENT)
    move = METHODS[method](memory, step, natural)
    is_plain = (memory.plainly > 0) | (memory.n_pairs < 1) | ~jnp.all(jnp.isfinite(move))
    point = _present(unflat(jnp.where(is_plain, goal, memory.point + memory.length * move) * units), target)
    total = jnp.sum(moments.mass)
    new = maximise(moments_at(point, total), point.means, family, mixture.scales, ridge)
    return new, memory._replace(point=_flat(point) / units), is_plain


def learn(
    method: str, old: Memory, tried: Memory, is_plain: Array, stands: Array, gain: Array, tol: Any, to_judge: int
) -> Memory:
    """The memory after a step that brought `gain`; `stands` where what was tried is kept.

    old: before the step; tried: as `propose` gave it; to_judge: steps of EM's own that tell whether it has converged.
    """
    # A proposal that changes little may be a bad one: EM's own steps are then asked whether the run has converged.
    once = jnp.where(gain < tol, to_judge, int(method == "squarem")).astype(jnp.int32)
    left = jnp.maximum(tried.plainly - 1, (gain >= CALM).astype(jnp.int32))
    plainly = jnp.where(is_plain, left, jnp.where(stands, once, tried.patience))
    patience = jnp.where(stands, 1, jnp.minimum(2 * tried.patience, PATIENCE))
    length = jnp.where(stands, jnp.minimum(2.0 * tried.length, 1.0), jnp.maximum(tried.length / 4.0, SHORTEST))
    misleads = ~is_plain & ~stands & (tried.patience >= FORGETS_AFTER)
    return tried._replace(
        n_pairs=jnp.where(misleads, 0, tried.n_pairs),
        point=jnp.where(stands, tried.point, old.point),
        is_placed=jnp.array(True),
        is_new=stands,
        plainly=plainly,
        patience=jnp.where(is_plain, tried.patience, patience),
        length=jnp.where(is_plain, tried.length, length),
    )


def moments_at(point: Point, total: Array) -> Moments:
    """Moments about the point's means of rows that weigh `total`, of which an M-step would make that very point."""
    mass = total * jax.nn.softmax(point.log_weights)
    second = point.scatter * _mass_of(point.scatter, mass)
    return Moments(mass, jnp.zeros_like(point.means), second, jnp.zeros_like(total))


def _target(mixture: Mixture, moments: Moments) -> Point:
    """Where EM goes from a mixture."""
    mass = moments.mass
    shift = moments.first / jnp.where(mass > 0.0, mass, 1.0)[:, None]
    scatter = moments.second - mixture.family.kind.outer(mass, shift)
    divisor = _mass_of(scatter, mass)
    return Point(log_shares(mass), mixture.means + shift, scatter / jnp.where(divisor > 0.0, divisor, 1.0))


def _units(mixture: Mixture, target: Point) -> Array:
    """1 for log weights, standard deviations for means, their products for scatter. -> (P,)."""
    variance = jnp.sum(mixture.weights[:, None] * mixture.scales.variances(), axis=0)
    deviation = jnp.sqrt(jnp.where((variance > 0.0) & jnp.isfinite(variance), variance, 1.0))
    scatter = mixture.family.kind.project((deviation[:, None] * deviation)[None])
    return ravel_pytree(
        Point(
            jnp.ones_like(target.log_weights),
            jnp.broadcast_to(deviation, target.means.shape),
            jnp.broadcast_to(scatter, target.scatter.shape),
        )
    )[0]


def _gradient(here: Point, mixture: Mixture, moments: Moments, ridge: Any) -> Point:
    """Of the mean log-likelihood, less what the ridge takes, with respect to the point of which the mixture is made.

    It is that of the expected complete-data log-likelihood, which needs the moments alone (Fisher's identity; Louis
    1982): no row is looked at again.
    """
    family, means, total = mixture.family, mixture.means, jnp.sum(moments.mass)

    def expected(point: Point) -> Array:
        new = maximise(moments_at(point, total), point.means, family, mixture.scales, ridge)
        kind, mass = family.kind, moments.mass
        _, scatter = recentre(kind, mass, moments.first, moments.second, new.means - means)
        scatter = scatter + ridge_scatter(kind, mass, ridge, means.shape[1])
        log_weights = jnp.where(mass > 0.0, new.log_weights, 0.0)
        terms = mass * (log_weights - 0.5 * new.scales.log_det())
        return (jnp.sum(terms) - 0.5 * jnp.sum(new.scales.distances(scatter))) / total

    return jax.grad(expected)(here)


def _natural(kind: Kind, here: Point, gradient: Point) -> Array:
    """A gradient times the inverse of the complete rows' information at the point: along it EM's own step leads."""
    n_features = here.means.shape[1]
    weights = jax.nn.softmax(here.log_weights)
    weights = jnp.where(weights > 0.0, weights, 1.0)
    return _flat(
        Point(
            gradient.log_weights / weights,
            kind.along_means(here.scatter, gradient.means, n_features) / weights[:, None],
            kind.natural(here.scatter, gradient.scatter, n_features) / _mass_of(here.scatter, weights),
        )
    )


def _with(memory: Memory, told: Array, uphill: bool) -> Memory:
    """The memory with what is told of the point it has come to, where that is new.

    uphill: a pair whose gradient does not fall along the move tells of no summit, and is left out.
    """
    move, change = memory.point - memory.before, told - memory.told
    is_first_look = memory.is_placed & memory.is_new
    is_pair = is_first_look & memory.has_before
    if uphill:
        # By more than the rounding of the sum: each number has its own unit.
        rounding = 4.0 * jnp.finfo(move.dtype).eps
        is_pair &= _dot(move, change) < -rounding * _dot(jnp.abs(move), jnp.abs(change))
    moves, changes = (
        jnp.where(is_pair, jnp.concatenate([kept[1:], new[None]]), kept)
        for kept, new in ((memory.moves, move), (memory.changes, change))
    )
    return memory._replace(
        before=jnp.where(is_first_look, memory.point, memory.before),
        told=jnp.where(is_first_look, told, memory.told),
        moves=moves,
        changes=changes,
        n_pairs=jnp.where(is_pair, jnp.minimum(memory.n_pairs + 1, MEMORY), memory.n_pairs),
        has_before=memory.has_before | is_first_look,
    )


def _squarem(memory: Memory, step: Array, natural: Callable[[Array], Array]) -> Array:
    """From the last point but one: r is the step from there, v by how much the next one differs."""
    del natural
    r, v = memory.moves[-1], memory.changes[-1]
    alpha = -jnp.minimum(-1.0, -jnp.sqrt(_dot(r, r) / _dot(v, v)))
    return 2.0 * alpha * r + alpha * alpha * v - r


def _anderson(memory: Memory, step: Array, natural: Callable[[Array], Array]) -> Array:
    """Least squares over the remembered differences of steps, each scaled to length one, with a small ridge."""
    del natural
    is_kept = jnp.arange(MEMORY) >= MEMORY - memory.n_pairs
    length = jnp.sqrt(jnp.sum(jnp.square(memory.changes), axis=1))
    scale = jnp.where(is_kept & (length > 0.0), 1.0 / jnp.where(length > 0.0, length, 1.0), 0.0)
    unit = memory.changes * scale[:, None]
    gram = einsum("ip,jp->ij", unit, unit)
    damping = 10.0 * MEMORY * jnp.finfo(step.dtype).eps
    whitener = inverse_lower(cholesky(gram + jnp.eye(MEMORY, dtype=step.dtype) * jnp.where(scale > 0.0, damping, 1.0)))
    share = einsum("ji,jk,k->i", whitener, whitener, einsum("ip,p->i", unit, step)) * scale
    return step - einsum("i,ip->p", share, memory.moves + memory.changes)


def _lbfgs(memory: Memory, step: Array, natural: Callable[[Array], Array]) -> Array:
    """The inverse Hessian that the remembered pairs show, times the gradient."""
    del step
    is_kept = jnp.arange(MEMORY) >= MEMORY - memory.n_pairs
    moves, changes = memory.moves, -memory.changes  # of a function to be lowered
    product = jnp.sum(moves * changes, axis=1)
    rate = jnp.where(is_kept, 1.0 / jnp.where(is_kept, product, 1.0), 0.0)

    def back(left: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        move, change, rate = pair
        share = rate * _dot(move, left)
        return left - share * change, share

    def forth(right: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        move, change, rate, share = pair
        return right + move * (share - rate * _dot(change, right)), None

    left, shares = lax.scan(back, memory.told, (moves, changes, rate), reverse=True)
    return lax.scan(forth, natural(left), (moves, changes, rate, shares))[0]


METHODS: dict[str, Callable[[Memory, Array, Callable[[Array], Array]], Array]] = {
    "squarem": _squarem,
    "anderson": _anderson,
    "lbfgs": _lbfgs,
}
"""The shelf: (memory, EM's own step, a gradient made natural) -> the move from the memory's point, (P,)."""

BY_GRADIENT = {"lbfgs"}
"""Those that are told gradients; the others are told EM's own steps."""


def _dot(x: Array, y: Array) -> Array:
    return einsum("p,p->", x, y)


def _flat(point: Point) -> Array:
    return ravel_pytree(_finite(point))[0]


def _finite(point: Point) -> Point:
    """With 0 for the log weight of a component of weight 0."""
    is_there = jnp.isfinite(point.log_weights)
    return point._replace(log_weights=jnp.where(is_there, point.log_weights, 0.0))


def _present(point: Point, target: Point) -> Point:
    """The point, in which what has weight 0 at EM's target has weight 0, and the target's mean."""
    is_there = jnp.isfinite(target.log_weights)
    return Point(
        jnp.where(is_there, point.log_weights, -jnp.inf),
        jnp.where(is_there[:, None], point.means, target.means),
        point.scatter,
    )


def _mass_of(scatter: Array, mass: Array) -> Array:
    """What each scatter matrix weighs, shaped to divide it: a component's mass, or all where they are pooled."""
    of = mass if len(scatter) == len(mass) else jnp.sum(mass)[None]
    return of.reshape(-1, *[1] * (scatter.ndim - 1))

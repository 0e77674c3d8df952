"""Out of a local optimum: two components are made one, and a third is split in two, at the same time.

Where EM has come to rest with two components on one cluster and one on two, no step of its own mends that: the way leads
down before it leads up (Ueda, Nakano, Ghahramani and Hinton 2000). What is proposed is judged by running it: all
proposals make a short run side by side, the best of them a whole one, and that stands only where it ends higher.
Deterministic annealing, another way out, was tried and is not offered: see benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import em
from ._linalg import columns, einsum
from .batches import Batches
from .covariances import Form
from .lanes import in_waves
from .mixture import Mixture, in_safe_form, normalise, prepare
from .runs import FitResult, Race, Told, best, history_length, race_to_ends
from .status import Status

PROPOSALS = 16
"""Moves that are tried side by side. The one that stands was among the first ten wherever there was one."""

ROUNDS = 4
"""Passes in which the planes that split components are turned. From any direction the second is nearly right."""

RACE = Race(steps=10, finalists=2)
"""The proposals' own: two, since the best after a short run need not be the best in the end."""


class Halves(NamedTuple):
    """Sums over the rows, by responsibility, on the upper side of each component's plane, and on both."""

    mass: Array  # (K,)
    first: Array  # (K, D), about the origin
    whole_mass: Array  # (K,)
    whole_first: Array  # (K, D)
    together: Array  # (K, K): Σ w r_i r_j


def split_and_merge(
    result: FitResult,
    batches: Batches,
    settings: em.Settings,
    max_steps: int,
    tell: Callable[[Told], None] | None = None,
) -> FitResult:
    """The best fit that moves lead to from that of `result`, each of which must gain more than tol."""
    heights = [float(result.objective)]

    def watch(told: Told) -> None:
        assert tell is not None
        tell(_beside(told, result))

    while not np.isnan(heights[-1]):
        states = propose(result.mixture, batches)
        states, histories = race_to_ends(states, batches, settings, max_steps, RACE, watch=watch if tell else None)
        found = best(states, histories, settings.ridge, length=history_length(max_steps))
        is_sound = bool(np.isfinite(found.objective)) and bool(np.any(result.held_up) or not np.any(found.held_up))
        gain = float(found.objective) - heights[-1]
        if not (is_sound and gain > max(float(settings.tol), _resolution(result))):
            break
        result = replace(found, restarts=result.restarts)
        heights.append(float(result.objective))
    return replace(result, escapes=jnp.asarray(heights, result.objective.dtype))


def propose(mixture: Mixture, batches: Batches) -> em.State:
    """States (PROPOSALS, ...) after one move each, the most promising first; what is no move has status COLLAPSED."""
    return _states(*_propose(mixture, batches), batches)


@jax.jit
def _states(mixtures: Mixture, is_move: Array, batches: Batches) -> em.State:
    states = in_waves(lambda mixture: em.init(mixture, batches), mixtures, mixtures.means.shape[1])
    status = jnp.where(is_move, states.status, Status.COLLAPSED)
    return states._replace(status=status.astype(jnp.int32))


@jax.jit
def _propose(mixture: Mixture, batches: Batches) -> tuple[Mixture, Array]:
    """Mixtures (PROPOSALS, ...), and whether each is a move at all."""
    n_components = mixture.n_components
    origin, live = batches.origin, jnp.isfinite(mixture.log_weights)
    noise = jax.random.normal(jax.random.key(0), mixture.means.shape, mixture.means.dtype)
    axes = mixture.scales.colour(noise, jnp.arange(n_components))

    def turn(_: int, carry: tuple[Array, Halves]) -> tuple[Array, Halves]:
        halves = _halves(mixture, batches, carry[0])
        upper, lower = _centres(halves)
        return upper - lower, halves

    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(_halves, mixture, batches, axes))
    apart, halves = lax.fori_loop(0, ROUNDS, turn, (axes, nothing))
    split, merged, into, is_move = _ranked(mixture, halves, apart, live)
    upper, lower = (centre + origin for centre in _centres(halves))
    mass, whole = halves.mass, halves.whole_mass

    def moved(split: Array, merged: Array, into: Array) -> Mixture:
        """Component `merged` joins `into`, and takes the lower half of `split`."""
        both = whole[into] + whole[merged]
        of_both = (whole[into] * mixture.means[into] + whole[merged] * mixture.means[merged]) / both
        shares = whole.at[into].set(both).at[split].set(mass[split]).at[merged].set(whole[split] - mass[split])
        means = mixture.means.at[into].set(of_both).at[split].set(upper[split]).at[merged].set(lower[split])
        # Covariances are those of the heavier and of the whole: EM mends them in a step or two.
        heavier = jnp.where(whole[into] > whole[merged], into, merged)
        source = jnp.arange(n_components).at[into].set(heavier).at[merged].set(split)
        scales = jax.tree.map(lambda leaf: leaf[source] if len(leaf) == n_components else leaf, mixture.scales)
        log_weights = jnp.where(live, jnp.log(shares / jnp.sum(whole)), -jnp.inf)
        return Mixture(log_weights, means, scales, mixture.family)

    return jax.vmap(moved)(split, merged, into), is_move


def _halves(mixture: Mixture, batches: Batches, axes: Array) -> Halves:
    """The rows of each component on either side of the plane through its mean, across its axis (K, D)."""
    shift = mixture.means - batches.origin
    offset = einsum("kd,kd->k", axes, shift)

    def program(form: Form) -> Halves:
        operands = prepare(mixture, batches.origin, form)

        def chunk(_: Array, rows: Array, weights: Array) -> Halves:
            x = columns(rows)
            _, responsibilities = normalise(mixture.scales.exponent(operands, x))
            weighted = responsibilities * weights
            centred = x - batches.origin[:, None]
            upper = jnp.where(einsum("kd,dn->kn", axes, centred) > offset[:, None], weighted, 0.0)
            sums = (
                (jnp.sum(of, axis=1), einsum("kn,dn->kd", of, centred)) for of in (upper, weighted)
            )
            return Halves(*(leaf for pair in sums for leaf in pair), einsum("in,jn->ij", weighted, responsibilities))

        return batches.sum(chunk)

    return in_safe_form(mixture, batches.origin, program)


def _centres(halves: Halves) -> tuple[Array, Array]:
    """The means of the upper and lower halves (K, D), about the origin."""
    lower = halves.whole_mass - halves.mass

    def mean(first: Array, mass: Array) -> Array:
        return first / jnp.where(mass > 0.0, mass, 1.0)[:, None]

    return mean(halves.first, halves.mass), mean(halves.whole_first - halves.first, lower)


def _ranked(mixture: Mixture, halves: Halves, apart: Array, live: Array) -> tuple[Array, Array, Array, Array]:
    """The most promising moves (PROPOSALS,): what to split, what to merge, into what, and whether that is a move.

    Splits are ranked by what two halves of one covariance, less what lies between their means, would gain in expected
    complete-data log-likelihood; merges by the share of the lighter component's rows that the other claims too (near
    to Ueda et al., eq. 3.3). The two have no common unit: moves go by the product of their ranks.
    """
    n_components = len(live)
    mass = halves.whole_mass
    share = halves.mass / jnp.where(mass > 0.0, mass, 1.0)
    between = share * (1.0 - share) * _own_distances(mixture, apart)
    # Above 1 only where covariances are shared, or of fewer parameters than the rows ask for.
    within = -0.5 * jnp.log1p(-jnp.minimum(between, 0.99)) + 0.5 * jnp.maximum(between - 0.99, 0.0)
    gain = mass * (within - jax.scipy.special.entr(share) - jax.scipy.special.entr(1.0 - share))
    splits = jnp.argsort(jnp.where(live & (share > 0.0) & (share < 1.0), -gain, jnp.inf))

    overlap = halves.together / jnp.minimum(mass[:, None], mass)
    is_pair = jnp.triu(live[:, None] & live, 1)
    n_pairs = min(4 * n_components, n_components * n_components)
    overlap, pairs = lax.top_k(jnp.where(is_pair, overlap, -1.0).ravel(), n_pairs)

    ranks = (jnp.arange(n_components)[:, None] + 1.0) * (jnp.arange(n_pairs) + 1.0)
    into, merged = pairs // n_components, pairs % n_components
    others = (splits[:, None] != into) & (splits[:, None] != merged) & (overlap >= 0.0)
    others &= jnp.isfinite(gain[splits])[:, None] & live[splits][:, None]
    n_moves = min(PROPOSALS, ranks.size)
    order, places = lax.top_k(-jnp.where(others, ranks, jnp.inf).ravel(), n_moves)
    place = jnp.pad(places, (0, PROPOSALS - n_moves))
    is_move = jnp.pad(jnp.isfinite(order), (0, PROPOSALS - n_moves))
    return splits[place // n_pairs], merged[place % n_pairs], into[place % n_pairs], is_move


def _own_distances(mixture: Mixture, apart: Array) -> Array:
    """Squared lengths of vectors (K, D), each in units of its component's covariance. -> (K,)."""
    nothing = jnp.zeros_like(mixture.log_weights)
    operands = mixture.scales.prepare(jnp.zeros_like(apart), jnp.zeros_like(apart[0]), nothing, Form.SAFE)
    return -2.0 * jnp.diagonal(mixture.scales.exponent(operands, columns(apart)))


def _beside(told: Told, result: FitResult) -> Told:
    """Proposals, and beside them what they are to surpass."""
    best_so_far = (result.objective, result.status, result.n_steps)
    return Told(*(np.append(leaf, np.asarray(of)) for leaf, of in zip(told, best_so_far, strict=True)))


def _resolution(result: FitResult) -> float:
    """Differences of objectives that may be rounding."""
    return 64.0 * float(jnp.finfo(result.objective.dtype).eps) * (1.0 + abs(float(result.objective)))


ESCAPES: dict[str, Callable[..., FitResult]] = {"split-merge": split_and_merge}
"""The shelf: (result, batches, settings, max_steps, tell) -> a result that is at least as good."""

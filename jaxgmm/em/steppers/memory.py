"""The memory of an accelerated run. A point is a vector of P numbers (see `point.py`); the newest entry comes last."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..._base.linalg import einsum

METHODS = ("squarem", "anderson", "lbfgs")
"""Names of the accelerations. A memory stores its method as an index into this tuple."""

MEMORY = 10
"""Pairs that are remembered."""


class Seen(NamedTuple):
    """The last point that was evaluated, and what was recorded there."""

    is_any: Array  # (): whether there is one
    point: Array  # (P,)
    told: Array  # (P,): the gradient there, or the plain EM step from it


class Pairs(NamedTuple):
    """Differences between consecutive points, and between what was recorded there."""

    count: Array  # (): how many there are, at most MEMORY
    moves: Array  # (MEMORY, P)
    changes: Array  # (MEMORY, P)

    @property
    def is_kept(self) -> Array:
        """Which rows hold a pair. -> (MEMORY,) bool."""
        return jnp.arange(MEMORY, dtype=jnp.int32) >= MEMORY - self.count

    def with_newest(self, move: Array, change: Array, is_pair: Array) -> Pairs:
        """With one more pair where `is_pair`; the oldest one is dropped."""
        moves, changes = (
            jnp.where(is_pair, jnp.concatenate([kept[1:], new[None]]), kept)
            for kept, new in ((self.moves, move), (self.changes, change))
        )
        return Pairs(jnp.where(is_pair, jnp.minimum(self.count + 1, MEMORY), self.count), moves, changes)


class Trust(NamedTuple):
    """How far proposals are trusted, according to the success of the last ones."""

    plainly: Array  # (): how many of the next steps are plain EM steps
    patience: Array  # (): how many plain EM steps follow the next refused proposal
    length: Array  # (): share of a proposed move that is made


class Memory(NamedTuple):
    """The whole memory of a run."""

    method: Array  # (): index into METHODS
    units: Array  # (P,): of a point's numbers, from the features' spread when the run began; all below is in these
    point: Array  # (P,): from which the state's mixture was estimated
    is_placed: Array  # (): whether there is such a point: not before the first step
    is_new: Array  # (): whether nothing has been recorded at it yet
    seen: Seen
    pairs: Pairs
    trust: Trust

    @classmethod
    def empty(cls, method: str, units: Array) -> Memory:
        """The memory with which a run begins: its first two steps are plain EM steps."""
        nothing, no = jnp.zeros_like(units), jnp.array(False)
        many = jnp.zeros((MEMORY, *units.shape), units.dtype)
        return cls(
            method=jnp.int32(METHODS.index(method)),
            units=units,
            point=nothing,
            is_placed=no,
            is_new=no,
            seen=Seen(no, nothing, nothing),
            pairs=Pairs(jnp.int32(0), many, many),
            trust=Trust(jnp.int32(0), jnp.int32(1), jnp.ones((), units.dtype)),
        )

    def looked_at(self, told: Array, uphill: bool) -> Memory:
        """The memory with `told` recorded at its point, where that is new.

        uphill: whether to leave out a pair whose gradient does not decrease along the move, as it does near a maximum.
        """
        move, change = self.point - self.seen.point, told - self.seen.told
        is_first_look = self.is_placed & self.is_new
        is_pair = is_first_look & self.seen.is_any
        if uphill:
            # By more than the rounding error of the sum: each number has its own unit.
            rounding = 4.0 * jnp.finfo(move.dtype).eps
            is_pair &= dot(move, change) < -rounding * dot(jnp.abs(move), jnp.abs(change))
        seen = Seen(
            is_any=self.seen.is_any | is_first_look,
            point=jnp.where(is_first_look, self.point, self.seen.point),
            told=jnp.where(is_first_look, told, self.seen.told),
        )
        return self._replace(seen=seen, pairs=self.pairs.with_newest(move, change, is_pair))


def dot(x: Array, y: Array) -> Array:
    """x · y of points. (P,), (P,) -> ()."""
    return einsum("p,p->", x, y)

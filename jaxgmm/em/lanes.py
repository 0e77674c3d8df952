"""Steps of several runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._base.programs import program
from ..covariances import Form
from ..mixture import Mixture
from ..moments import Kind, Moments
from ..rows.batches import Batches
from ..rows.chunks import Scale
from ..rows.partitioned import PartitionedRows
from ..rows.sizes import bytes_of_fit, choose_width
from .expectation import expect
from .loop import accept, propose
from .state import Proposal, Settings, State, initial


def init_lanes(mixtures: Mixture, rows: PartitionedRows) -> State:
    """`em.init` of mixtures (R, ...)."""
    return _initial(mixtures, rows.sum(_moments, mixtures, form=Form.SAFE), rows.scale)


def step_lanes(states: State, rows: PartitionedRows, settings: Settings) -> State:
    """`em.step` of states (R, ...): one pass over the rows for all of them."""
    states, proposals = _propose(states, settings)
    return _accept(states, proposals, rows.sum(_moments, proposals.mixture, form=None), rows.scale, settings)


def _moments(block: Batches, mixtures: Mixture, *, form: Form | None) -> Moments:
    shape, kind = mixtures.means.shape, mixtures.family.kind
    return for_fits(lambda mixture: expect(mixture, block, form), mixtures, shape, kind, block)


@program(hurried=True)
def lanes_at(tree: Any, places: Array) -> Any:
    """The lanes of a tree (R, ...) at the given places. -> (places, ...)."""
    return jax.tree.map(lambda leaf: leaf[places], tree)


@program(hurried=True)
def with_lanes(tree: Any, places: Array, few: Any) -> Any:
    """A tree of lanes (R, ...) with those at the given places replaced by `few` (places, ...)."""
    return jax.tree.map(lambda many, some: many.at[places].set(some), tree, few)


@program(hurried=True)
def one_lane(tree: Any) -> Any:
    """A tree with a lane axis of length one added, (1, ...)."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


@program(hurried=True)
def _initial(mixtures: Mixture, moments: Moments, scale: Scale) -> State:
    return jax.vmap(lambda mixture, moments: initial(mixture, moments, scale))(mixtures, moments)


@program
def _propose(states: State, settings: Settings) -> tuple[State, Proposal]:
    return jax.vmap(lambda state: propose(state, settings))(states)


@program
def _accept(states: State, proposals: Proposal, moments: Moments, scale: Scale, settings: Settings) -> State:
    def one(state: State, proposal: Proposal, moments: Moments) -> State:
        return accept(state, proposal, moments, scale, settings)

    return jax.vmap(one)(states, proposals, moments)


def side_by_side(function: Callable[..., Any], mapped: Any, *shared: Any) -> Any:
    """function(one of `mapped`, *shared) for all of them; without `vmap` where there is only one."""
    if n_lanes_of(mapped) > 1:
        return jax.vmap(lambda one: function(one, *shared))(mapped)
    single = function(jax.tree.map(lambda leaf: leaf[0], mapped), *shared)
    return jax.tree.map(lambda leaf: leaf[None], single)


def in_waves(function: Callable[[Any], Any], mapped: Any, n_components: int, n_rows: int, bytes_each: int = 0) -> Any:
    """`side_by_side` in waves of the width chosen for chunks of `n_rows`; the last wave is padded by repetition."""
    n = n_lanes_of(mapped)
    width = choose_width(n_components, n, n_rows, bytes_each)
    if width == n:
        return side_by_side(function, mapped)
    index = jnp.minimum(jnp.arange(-(-n // width) * width, dtype=jnp.int32).reshape(-1, width), n - 1)
    waves = lax.map(lambda wave: side_by_side(function, wave), jax.tree.map(lambda leaf: leaf[index], mapped))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], waves)


def for_fits(function: Callable[[Any], Any], mapped: Any, shape: tuple[int, ...], kind: Kind, batches: Batches) -> Any:
    """`in_waves` of a function of fits that reads rows; means have `shape` (R, K, D), second moments are of `kind`."""
    _, n_components, n_features = shape
    each = bytes_of_fit(n_components, n_features, batches.dtype.itemsize, kind.is_diagonal)
    return in_waves(function, mapped, n_components, batches.chunk_size, each)


def n_lanes_of(tree: Any) -> int:
    return len(jax.tree.leaves(tree)[0])

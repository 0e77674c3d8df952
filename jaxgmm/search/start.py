"""From a start of any kind – seeds, means, labels, responsibilities, a mixture – to the states that runs begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import em
from .._base import threefry
from .._base.memory import own
from .._base.precision import is_traced, is_transforming
from .._base.programs import Effort, components, effort, program
from .._base.status import Status
from ..em.hard import by_nearest, from_labels, from_means, from_responsibilities
from ..em.lanes import for_fits, in_waves, init_lanes
from ..em.maximisation import maximise
from ..em.state import Fixed, mixture_parts, unstarted
from ..evaluation import padded
from ..families import Family, shape_of_scales
from ..mixture import Mixture
from ..moments import Kind, Moments, projected
from ..priors import Ridge
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.chunks import cut
from ..rows.partitioned import PartitionedRows
from ..rows.replicated import n_devices
from ..rows.sizes import bytes_of_fit
from . import one_by_one, small
from .pool import are_singles, crews_for
from .result import ON_HOST
from .seeding.shelf import seeds_from


def nearest_to_partitioned(seeds: Array, counts: Any, rows: PartitionedRows, kind: Kind) -> Moments:
    """Moments (R, ...) about seeds (R, K, D) of the rows nearest to each of the first `counts` (R,) of them."""
    return rows.sum(_assigned, seeds, counts, kind=kind)


def mixtures_from(
    seeds: Array, counts: Any, rows: PartitionedRows, family: Family, ridge: Any, nearest: Moments | None = None
) -> Mixture:
    """Mixtures (R, ...) of one M-step from `nearest_to`, which is of kind `FULL` where it is known already."""
    moments = nearest_to_partitioned(seeds, counts, rows, family.kind) if nearest is None else nearest
    return _maximised(moments, seeds, ridge, family=family, is_dense=nearest is not None)


def _assigned(block: Batches, seeds: Array, counts: Array, *, kind: Kind) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return by_nearest(kind, lane[0], block, lane[1])

    return for_fits(one, (seeds, counts), seeds.shape, kind, block)


@program(static=("family", "is_dense"), hurried=True)
def _maximised(moments: Moments, about: Array, ridge: Any, *, family: Family, is_dense: bool) -> Mixture:
    def one(moments: Moments, about: Array) -> Mixture:
        moments = projected(moments, family.kind) if is_dense else moments
        return maximise(moments, about, family, None, Ridge(ridge))

    return jax.vmap(one)(moments, about)


T = TypeVar("T")


class Given(NamedTuple):
    """What the user fixes of a start. It replaces what the seeding's M-step would say, as given."""

    log_weights: Array | None = None  # (K,)
    means: Array | None = None  # (K, D)
    scales: Any = None  # a Covariance

    def whole(self, family: Family) -> Mixture | None:
        """The mixture itself, where nothing is left to a seeding."""
        if self.log_weights is None or self.means is None or self.scales is None:
            return None
        return Mixture(self.log_weights, self.means, self.scales, family)

    def fixed(self, family: Family, n_components: int, room: int, batches: Batches) -> Fixed:
        """What is given of a mixture of K components, on the host and with `room` for so many; 0 for what is not."""
        shape, dtype = (n_components, batches.n_features), batches.dtype
        of_scales = shape_of_scales(family, *shape, dtype)
        nothing: Any = (
            np.zeros(shape[0], dtype),
            np.zeros(shape, dtype),
            jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), of_scales),
        )
        parts = [part if part is not None else none for part, none in zip(self, nothing, strict=True)]
        return Fixed(padded(Mixture(*parts, family), room), np.array([part is not None for part in self]))  # pyright: ignore

    def onto(self, mixture: Mixture) -> Mixture:
        """The mixture with what is given in its place."""
        return replace(mixture, **{name: value for name, value in self._asdict().items() if value is not None})


NOTHING_GIVEN = Given()


def start(
    key: Array,
    batches: Batches | PartitionedRows,
    init: Any,
    n_components: int,
    family: Family,
    settings: em.Settings,
    n_restarts: int,
    given: Given = NOTHING_GIVEN,
) -> em.State:
    """The states (R, ...) that the restarts begin with."""
    if isinstance(batches, Batches) and batches.has_room:
        return _start_small(key, batches, init, n_components, family, settings, n_restarts, given)
    if isinstance(init, str):
        counts = np.full(n_restarts, n_components, np.int32)
        prepare([family], n_components, batches, settings, n_restarts)
        seeds = seeds_of(pairs_of_keys(key, n_restarts), counts, batches, seeding=init, n_components=n_components)
        if given == NOTHING_GIVEN and may_begin_later(seeds, batches, settings):
            return not_begun(seeds, counts, nearest_to(seeds, counts, batches, family.kind), family)
        return begin(seeds, counts, batches, settings.ridge, given, family=family)
    mixture = mixture_from(init, batches, n_components, family, settings)
    if isinstance(batches, PartitionedRows):
        states = init_lanes(_one_lane(given.onto(mixture)), batches)
        return (
            states
            if isinstance(init, Mixture)
            else _lost_each(states, _one_lane(mixture), np.array([n_components], np.int32))
        )
    state = em.init(given.onto(mixture), batches)
    if not isinstance(init, Mixture):  # there a weight of 0 is the user's own
        state = _lost_if_empty(state, mixture, n_components)
    return _one_lane(state)


def _start_small(
    key: Array,
    batches: Batches,
    init: Any,
    n_components: int,
    family: Family,
    settings: em.Settings,
    n_restarts: int,
    given: Given,
) -> em.State:
    """`start` for few rows: what begins has made its first M-step through the program that makes all later ones."""
    room = components(n_components)
    if isinstance(init, str):
        counts = np.full(n_restarts, n_components, np.int32)
        keys = pairs_of_keys(key, n_restarts)
        seeds = seeds_of(keys, counts, batches, seeding=init, n_components=room)
        states = small.from_seeds(seeds, counts, batches, family)  # pyright: ignore
    elif isinstance(init, Mixture):
        given = Given(*mixture_parts(given.onto(mixture_from(init, batches, n_components, family, settings))))
        states = small.from_nothing(room, batches, family)
    else:
        values = _own_start(init, batches, n_components)
        if values.shape == (n_components, batches.n_features):
            given = Given(None, values, None)._replace(**{k: v for k, v in given._asdict().items() if v is not None})  # pyright: ignore
            values = small.nearest(values, batches)
        states = small.from_responsibilities(values, room, batches, family)
    fixed = given.fixed(family, n_components, room, batches)
    histories = np.empty((len(states.objective), 1), batches.dtype)
    return one_by_one.run(states, histories, batches, settings, 0, fixed)[0]


def _own_start(init: Any, batches: Batches, n_components: int) -> np.ndarray:
    """A start of the user's own, checked, on the host: means (K, D), or responsibilities (N, K), of labels too."""
    values, n_rows = np.asarray(init), int(batches.n_rows)
    if values.ndim == 1:
        labels = np.asarray(rows_check.labels(values, n_rows, n_components))
        return (labels[:, None] == np.arange(n_components)).astype(batches.dtype)
    if values.shape == (n_components, batches.n_features):
        rows_check.finite(values, "init")
        return values.astype(batches.dtype)
    return np.asarray(rows_check.responsibilities(values, n_rows, n_components))


def _one_lane(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def mixture_from(
    init: Any, batches: Batches | PartitionedRows, n_components: int, family: Family, settings: em.Settings
) -> Mixture:
    """The mixture that a start of the user's own stands for."""
    if isinstance(init, Mixture):
        if init.family != family or init.n_components != n_components:
            raise ValueError(
                f"init is a mixture of {init.n_components} components of family {init.family.name!r}; "
                f"{n_components} of family {family.name!r} were asked for."
            )
        return jax.tree.map(lambda leaf: leaf.astype(batches.dtype), init)
    values = init if isinstance(init, jax.Array) else np.asarray(init)
    n_rows = len(values) if is_traced(batches) else int(batches.n_rows)
    if isinstance(batches, PartitionedRows) and values.shape != (n_components, batches.n_features):
        rows_check.in_memory(
            f"A start of shape {values.shape}",
            f"for rows that are not held as one array give means ({n_components}, {batches.n_features}) or a Mixture",
        )
    if values.ndim == 1:
        values = rows_check.labels(values, n_rows, n_components)
        chunked = cut(values, batches.chunk_size, np.int32, pad_with_zero=True)
        return _from_labels(chunked, batches, settings.ridge, n_components=n_components, family=family)
    if values.shape == (n_components, batches.n_features):
        rows_check.finite(values, "init")
        means = own(values, batches.dtype)
        if isinstance(batches, PartitionedRows):
            lanes = mixtures_from(means[None], np.array([n_components], np.int32), batches, family, settings.ridge)
            mixture = jax.tree.map(lambda leaf: leaf[0], lanes)
        else:
            mixture = _from_means(means, batches, family=family, ridge=settings.ridge)
        # What is given stands as given; weights and covariances are the M-step's.
        return Mixture(mixture.log_weights, means, mixture.scales, family)
    values = rows_check.responsibilities(values, n_rows, n_components)
    chunked = cut(values, batches.chunk_size, batches.dtype, pad_with_zero=True)
    return _from_responsibilities(chunked, batches, family=family, ridge=settings.ridge)


def pairs_of_keys(key: Array, n_restarts: int) -> Array:
    """A pair of keys for each run, (R, 2)."""
    if is_transforming() or not threefry.speaks(key):
        return jax.random.split(key, (n_restarts, 2))
    split = threefry.split(np.asarray(jax.random.key_data(key)), (n_restarts, 2))
    return jax.random.wrap_key_data(split, impl=jax.random.key_impl(key))  # pyright: ignore


def seeds_of(keys: Array, counts: Any, batches: Batches | PartitionedRows, *, seeding: str, n_components: int) -> Array:
    """Seeds (R, K, D), of each of which the first of `counts` (R,) are meant: a program that all families share.

    keys (R, 2): a pair for each, so that no program need split them.
    """
    batches = batches.sample
    if small.are_on_host(keys, counts, batches):
        return small.seeds(np.asarray(jax.random.key_data(keys)), counts, batches, seeding, n_components)  # pyright: ignore
    lanes = jax.random.key_data(keys), counts
    how = {"impl": jax.random.key_impl(keys), "seeding": seeding, "n_components": n_components}
    if is_traced(lanes):
        return _seeds_of(lanes, batches, **how)
    how_well = Effort.HURRIED if batches.has_room else effort(int(batches.n_rows), n_components, len(counts))
    program = _seeds_of.at(how_well)
    return crews_for(len(counts), n_components, batches).each(program, lanes, batches, **how)


@program(static=("impl", "seeding", "n_components"))
def _seeds_of(lanes: tuple[Array, Array], batches: Batches, *, impl: Any, seeding: str, n_components: int) -> Array:
    return in_waves(
        lambda lane: seeds_from(jax.random.wrap_key_data(lane[0], impl=impl), batches, seeding, n_components, lane[1]),
        lanes,
        n_components,
        batches.chunk_size,
    )


def nearest_to(seeds: Array, counts: Any, batches: Batches | PartitionedRows, kind: Kind) -> Moments:
    """Moments (R, ...) about seeds (R, K, D) of the rows nearest to each of the first `counts` (R,) of them."""
    if isinstance(batches, PartitionedRows):
        return nearest_to_partitioned(seeds, counts, batches, kind)
    how = effort(int(batches.n_rows), seeds.shape[1], len(seeds))
    return _by_crews(kind, _nearest_to.at(how), (seeds, counts), batches, kind=kind)


def begin(
    seeds: Array,
    counts: Any,
    batches: Batches | PartitionedRows,
    ridge: Any,
    given: Given,
    *,
    family: Family,
    nearest: Moments | None = None,
) -> em.State:
    """The states (R, ...) after one M-step from the rows nearest to each seed; past its count a lane has weight 0.

    nearest: `nearest_to` of kind `FULL`, from which that of any family follows, where it is known.
    """
    if isinstance(batches, PartitionedRows):
        mixtures = mixtures_from(seeds, counts, batches, family, ridge, nearest)
        return _lost_each(init_lanes(jax.vmap(given.onto)(mixtures), batches), mixtures, counts)
    return _by_crews(family.kind, _begin, (seeds, counts, nearest), batches, ridge, given, family=family)


def prepare(
    families: Sequence[Family],
    n_components: int,
    batches: Batches | PartitionedRows,
    settings: em.Settings,
    n_runs: int,
) -> None:
    """Compile the programs of the steps while seeds are sought, where runs are made one by one."""
    if not isinstance(batches, Batches) or settings.acceleration or is_traced(settings) or is_transforming():
        return
    if n_devices(batches.origin) == 1 and are_singles(n_runs, n_components, batches):
        one_by_one.prepare(families, n_components, batches, settings, n_runs)


def may_begin_later(seeds: Array, batches: Batches | PartitionedRows, settings: em.Settings) -> bool:
    """Whether a run's first M-step may be left to the program that makes all others, which then needs none before."""
    if not isinstance(batches, Batches) or settings.acceleration or is_traced((seeds, settings)) or is_transforming():
        return False
    return seeds.size * seeds.shape[-1] <= ON_HOST and n_devices(batches.origin) == 1


def not_begun(seeds: Array, counts: Any, moments: Moments, family: Family) -> em.State:
    """Runs (R, ...) that have not begun, from `nearest_to` of the family's kind."""
    seeds_, moments = jax.device_get((seeds, moments))
    return unstarted(seeds_, np.arange(seeds.shape[1]) < np.asarray(counts)[:, None], moments, family)


def _by_crews(
    of_kind: Kind, program: Callable[..., T], lanes: tuple[Any, ...], batches: Batches, *shared: Any, **static: Any
) -> T:
    """program(lanes, batches, *shared, **static) of lanes of which the first are seeds (R, K, D)."""
    if is_traced((lanes, shared)):
        return program(lanes, batches, *shared, **static)
    n_lanes, n_components, n_features = lanes[0].shape
    each = bytes_of_fit(n_components, n_features, batches.dtype.itemsize, of_kind.is_diagonal)
    return crews_for(n_lanes, n_components, batches, each).each(program, lanes, batches, *shared, **static)


@program(static="kind")
def _nearest_to(lanes: tuple[Array, Array], batches: Batches, *, kind: Kind) -> Moments:
    def one(lane: tuple[Array, Array]) -> Moments:
        return by_nearest(kind, lane[0], batches, lane[1])

    return for_fits(one, lanes, lanes[0].shape, kind, batches)


@program(static="family")
def _begin(
    lanes: tuple[Array, Array, Moments | None], batches: Batches, ridge: Any, given: Given, *, family: Family
) -> em.State:
    def one(lane: tuple[Array, Array, Moments | None]) -> em.State:
        seeds, count, known = lane
        moments = projected(known, family.kind) if known else by_nearest(family.kind, seeds, batches, count)
        mixture = maximise(moments, seeds, family, None, Ridge(ridge))
        return _lost_if_empty(em.init(given.onto(mixture), batches), mixture, count)

    return for_fits(one, lanes, lanes[0].shape, family.kind, batches)


def _lost_if_empty(state: em.State, seeded: Mixture, count: Array | int) -> em.State:
    """A seed without rows can never get any: such a run has lost before it began."""
    is_meant = jnp.arange(seeded.n_components) < count
    empty = jnp.any((seeded.log_weights == -jnp.inf) & is_meant)
    return state._replace(status=jnp.where(empty, Status.COLLAPSED, state.status).astype(jnp.int32))


_lost_each = program(jax.vmap(_lost_if_empty), hurried=True)


_from_means = program(from_means, static="family")


_from_responsibilities = program(from_responsibilities, static="family")


@program(static=("n_components", "family"))
def _from_labels(labels: Any, batches: Batches, ridge: Any, *, n_components: int, family: Family) -> Mixture:
    return from_labels(labels, n_components, batches, family, ridge)

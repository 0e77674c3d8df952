"""The interface of rows, wherever they are held."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from jax import Array

from .batches import Batches

T = TypeVar("T")


class Rows(Protocol):
    """N weighted rows of D features: `Batches`, which a program sees whole, or `PartitionedRows`, which none does.

    A search tells them apart in one place, `search/driver.py`.
    """

    @property
    def n_rows(self) -> Any:
        """N, an int or an int32 ()."""
        ...

    @property
    def n_features(self) -> int: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def chunk_size(self) -> int:
        """Rows that are computed at a time."""
        ...

    @property
    def origin(self) -> Array:
        """A point (D,) among the rows, about which sums are taken."""
        ...

    @property
    def total_weight(self) -> Array:
        """Σ weights, in the unit of `exponent`."""
        ...

    @property
    def exponent(self) -> Any:
        """Weights are kept in units of 2^exponent (see `units.py`)."""
        ...

    def in_users_unit(self, value: Any) -> Any:
        """A sum of weights, or of products with them, in the unit of the user's own weights; on the host in float64."""
        ...

    @property
    def min_weight(self) -> Array:
        """The smallest positive weight, "one row's weight"."""
        ...

    @property
    def sample(self) -> Batches:
        """The rows that seeds are chosen from."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether these are few rows padded to a capacity, so that tables of other lengths share their programs."""
        ...

    @property
    def in_turn(self) -> bool:
        """Whether fits of different numbers of components share programs that skip padding (`em/in_turn.py`)."""
        ...

    @property
    def n_copies(self) -> int:
        """How many devices hold a copy of all rows."""
        ...

    @property
    def is_multiprocess(self) -> bool:
        """Whether other processes hold rows of the same table, and run the same search."""
        ...

    def variances(self) -> Array:
        """The variance of each feature over the weighted rows. -> (D,)."""
        ...

    def fingerprint(self) -> Any:
        """A tree that identifies these rows."""
        ...

    def at_home(self, tree: T) -> T:
        """A tree of arrays on the device of the rows, and committed to it only if they are; where several devices hold
        a copy of all rows, on JAX's default device."""
        ...

    def whole(self, what: str, why: str) -> Batches:
        """The rows as `Batches`, all in one program. ValueError where no program sees all of them; its message says
        `what` needs that, and `why`."""
        ...

"""What a run of the suite is asked for; every section reads it."""

import functools
import math
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from . import isolate
from .ratios import OURS, REFERENCE

DEVICES = ("cpu", "gpu")
DTYPES = ("float32", "float64")
GRACE = 45.0  # seconds
LEFT_OUT = "left out: the time given was up"


@dataclass(frozen=True)
class Options:
    """None stands for all. `repeats` is the most pairs of timed calls of a cell. `until`, of `time.monotonic`: the
    sections iteration and card then begin no other measurement, and name what they leave out."""

    quick: bool = False
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = DTYPES
    contenders: tuple[str, ...] | None = None
    problems: tuple[str, ...] | None = None
    repeats: int = 9
    sections: tuple[str, ...] = ()
    until: float | None = None

    def wants(self, contender: str) -> bool:
        """Whether this contender takes part; variants of one, "name, how", go by its name."""
        return self.contenders is None or contender.partition(",")[0] in self.contenders

    def places(self, contenders: Iterable[str], dtypes: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
        """Device, dtype and contender of what is compared: ours everywhere; peers on the CPU, and all but scikit-learn
        as it comes in the first dtype."""
        for device, dtype, name in product(self.devices, dtypes, contenders):
            is_here = device == "cpu" and (name == REFERENCE or dtype == self.dtypes[0])
            if self.wants(name) and (name == OURS or is_here):
                yield device, dtype, name

    def seconds_left(self) -> float:
        return math.inf if self.until is None else self.until - time.monotonic()

    def limit(self, seconds: float) -> float:
        """A child's time limit: what is begun in time may end a little after it."""
        return min(seconds, max(0.0, self.seconds_left()) + GRACE)


def checked(what: str, names: tuple[str, ...], shelf: Collection[str]) -> tuple[str, ...]:
    """These names. ValueError for one that is not on the shelf."""
    for name in names:
        if name not in shelf:
            raise ValueError(f"no {what} is called {name!r}. Expected one of {', '.join(shelf)}.")
    return names


def sees_gpu() -> dict[str, Any]:
    """Asked in a child, since JAX takes most of a GPU's memory as soon as it looks at one."""
    import jax

    return {"gpu": any(device.platform == "gpu" for device in jax.devices())}


@functools.cache
def visible_devices() -> tuple[str, ...]:
    """ "cpu", and "gpu" where JAX sees one."""
    answer = isolate.run(sees_gpu, {}, time_limit=300.0)
    return DEVICES if answer.get("gpu") else DEVICES[:1]

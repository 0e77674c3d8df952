"""Arrays that are read by slices: in memory, and those of HDF5, Zarr and the like."""

from __future__ import annotations

from typing import Any

import numpy as np

from .conversion import real_array
from .files import naming


class Sliced:
    """Slices of an array; not copied where their dtype, layout and alignment allow."""

    def __init__(self, x: Any, weights: Any, name: str = "x") -> None:
        self.x, self.weights, self.name, self.shape, self.dtype = x, weights, name, np.shape(x), None
        file = getattr(x, "file", None)
        self.path = str(getattr(file, "filename", name))  # of HDF5

    def again(self) -> Sliced:
        return self

    def read(self, first: int, after: int) -> np.ndarray:
        """Rows `first` to `after`. -> (n, D)."""
        with naming(self.path):
            some = self.x[first:after]
        return np.asarray(real_array(some, self.name))

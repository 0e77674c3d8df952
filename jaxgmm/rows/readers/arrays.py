"""Arrays of NumPy in `.npy` and `.npz` files, each read as a whole. They have no names of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .source import listed


class Arrays:
    """The array of a file, or of an archive the only one or the one called x."""

    is_named = False
    notes = ()
    missing: tuple[int, int, str] | None = None

    def __init__(self, path: str) -> None:
        self.path = path
        array = _of_archive(path) if path.lower().endswith(".npz") else _of_array(path)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{path} holds {array.dtype}, expected real numbers.")
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2:
            raise ValueError(f"{path} holds an array of shape {array.shape}, expected rows and columns (N, D).")
        self._array = array
        self.names = tuple(map(str, range(array.shape[1])))

    def again(self) -> Arrays:
        return Arrays(self.path)

    def features(self) -> list[int]:
        return list(range(len(self.names)))

    def check(self, places: Sequence[int]) -> None:
        """Nothing: all columns are numbers."""

    def blocks(self, places: Sequence[int], weight: int | None = None) -> Iterator[Any]:
        array = self._array
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float64)
        rows = array if list(places) == self.features() else array[:, list(places)]
        yield rows if weight is None else (rows, array[:, weight])


def _of_array(path: str) -> np.ndarray:
    with open(path, "rb") as file:
        try:
            array = np.load(file, allow_pickle=False)
        except Exception as error:  # whatever the parsers of headers raise
            raise _damaged(path, "array", error) from None
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError(f"{path} is an archive of several arrays: name it .npz.")
    return array


def _of_archive(path: str) -> np.ndarray:
    array: Any = None
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                names = archive.files
                chosen = names[0] if len(names) == 1 else next((name for name in ("x", "X") if name in names), None)
                array = None if chosen is None else archive[chosen]
        except Exception as error:  # whatever the parsers of archives and headers raise
            raise _damaged(path, "archive", error) from None
    if array is None:
        raise ValueError(f"{path} has the arrays {listed(names)}: call the one to read 'x', or store it alone.")
    return array


def _damaged(path: str, what: str, error: Exception) -> ValueError:
    said = f"{path} is no NumPy {what} of numbers: it is damaged, or holds Python objects"
    return ValueError(f"{said} ({' '.join(str(error).split())[:100]}).")

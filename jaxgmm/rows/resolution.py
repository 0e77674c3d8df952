"""The resolution of columns: how finely their values were recorded, found from the values themselves."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .batches import Batches
from .chunks import Chunked, Roomy
from .rows import Rows

LOOKED_AT = 2**16
"""Rows of a table, at most, that its resolution is found from."""

RARE = 0.02
"""Share of the gaps that may be smaller than the resolution: a few stray values, such as a half among whole numbers, do
not make a column finer than it is."""

ROUNDING = 4.0
"""Distance between two values, in units of the last place of the column's largest, up to which they are one value that
was computed in two ways, such as 0.1 + 0.2 and 0.3."""


def resolutions(values: np.ndarray) -> np.ndarray:
    """The resolution of each column of finite values (n, D): the smallest difference between distinct values, leaving
    out those that are rare (`RARE`); 0 for a column that holds one value. -> (D,) in float64.

    Values that differ by rounding alone (`ROUNDING`) are not distinct; what float32 holds exactly is taken for float32.
    A rounded column has the step of its grid as its resolution. One of continuous values has none that was recorded:
    there it is a small gap between neighbours, far below any width that a cluster of several rows can have.
    """
    return np.array([_resolution(column) for column in np.asarray(values, np.float64).T])


def _resolution(column: np.ndarray) -> float:
    distinct = np.unique(column)
    gaps = np.diff(distinct)
    gaps = gaps[gaps > _noise(distinct)]
    if not len(gaps):
        return 0.0
    place = int(RARE * (len(gaps) - 1))
    return float(np.partition(gaps, place)[place])


def _noise(values: np.ndarray) -> float:
    """How far apart two values can lie by rounding alone. Whole numbers are not rounded."""
    if (values == np.rint(values)).all():
        return 0.0
    with np.errstate(over="ignore"):
        is_single = (values == values.astype(np.float32)).all()
    return ROUNDING * float(np.finfo(np.float32 if is_single else np.float64).eps * np.abs(values).max(initial=0.0))


def cell_variances(values: np.ndarray) -> np.ndarray:
    """The variance δ²/12 of a value that is known to within a cell of width δ, its column's resolution (Sheppard 1898).
    -> (D,), all positive.

    The resolution that counts here is at least the rounding of the numbers themselves. A column that holds one value
    tells components apart under no variance, so it gets the smallest of the others, or 1e-6 where it has no others.
    """
    values = np.asarray(values, np.float64)
    found = resolutions(values)
    largest = np.abs(values).max(axis=0, initial=0.0)
    eps = float(np.finfo(np.float32).eps)
    is_open = found > 0.0
    cells = np.where(is_open, found, found[is_open].min() if is_open.any() else np.sqrt(12e-6))
    return np.square(np.where(is_open, cells, np.maximum(cells, 64.0 * eps * largest))) / 12.0


def rows_to_look_at(rows: Rows) -> np.ndarray:
    """Rows (n, D) of positive weight, on the host, in the dtype in which they are computed: all rows, or at most
    `LOOKED_AT` of them, evenly spaced; of rows in no one place those that seeds are chosen from."""
    batches = rows.sample
    values, counted = _on_host(batches)
    values = values[counted > 0.0]
    return values[:: -(-len(values) // LOOKED_AT)] if len(values) else values


def _on_host(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """All rows and their weights; of very many rows on an accelerator the first ones."""
    n_rows, weights = int(batches.n_rows), batches.row_weights()
    stored = batches.rows
    if isinstance(stored, Roomy):
        return np.asarray(stored.body)[:n_rows], weights
    tail = np.asarray(stored.tail)
    if stored.body is None or stored.n_chunks == 1:
        return tail[:n_rows], weights
    body = _whole_chunks(stored)
    if len(body) < (stored.n_chunks - 1) * stored.chunk_size:
        return body, weights[: len(body)]
    return np.concatenate([body, tail])[:n_rows], weights


def _whole_chunks(stored: Chunked) -> np.ndarray:
    body: Any = stored.body
    whole = (stored.n_chunks - 1) * stored.chunk_size
    is_far = isinstance(body, jax.Array) and any(device.platform != "cpu" for device in body.devices())
    return np.asarray(body[:LOOKED_AT] if is_far and whole > LOOKED_AT else body)[:whole]

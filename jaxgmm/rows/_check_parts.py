"""Checks of rows that come in parts: blocks, partitions, the shards of devices and of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np


def finite_block(
    rows: np.ndarray,
    weights: np.ndarray | None,
    first: int,
    name: str,
    place_of: Callable[[int], str] = lambda row: "",
    names: Any = None,
) -> None:
    """Rows (n, D), the first of which is row `first` of all, are finite; those of weight 0 may be anything. place_of:
    which block or file a row is in. names: of the columns, or None."""
    is_bad = ~np.isfinite(rows) if weights is None else ~np.isfinite(rows) & (weights > 0.0)[:, None]
    bad = np.argwhere(is_bad)
    if len(bad):
        row, column = bad[0]
        called = f" ({names[column]!r})" if names else ""
        place = f" ({place})" if (place := place_of(first + int(row))) else ""
        raise ValueError(
            f"{name} holds {rows[row, column]} in row {first + row}, column {column}{called}, as {rows.dtype}{place}; "
            "EM needs finite numbers. Leave such rows out, or give them weight 0."
        )


def block_weights(weights: np.ndarray, first: int, name: str) -> None:
    """Weights (n,) of blocks are finite and not negative."""
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0.0)))
    if len(bad):
        raise ValueError(
            f"{name}: weights must be finite and not negative, got {weights[bad[0]]} in row {first + bad[0]}. To "
            "leave a row out, give it weight 0."
        )


def some_weight(total: float, name: str) -> None:
    if not total > 0.0:
        raise ValueError(f"{name}: the weights of all rows are 0, or there are no rows: at least one row must count.")


def same_rows(now: Any, at_first: Any, name: str) -> None:
    """Every pass over blocks gives the same rows. now, at_first: a `Tally` each."""
    if now.n_rows != at_first.n_rows:
        raise ValueError(
            f"{name} gave {at_first.n_rows} rows at first and {now.n_rows} in a later pass. What is read in blocks "
            "must give the same rows every time."
        )
    if now.differs(at_first):
        raise ValueError(
            f"{name} gave other rows in a later pass: the sum of all numbers was {at_first.total:.9g} at first, and "
            f"is {now.total:.9g}. What is read in blocks must give the same rows every time, in any order."
        )


def same_partitions(of_weights: int, of_rows: int) -> None:
    """Weights have as many partitions as their rows."""
    if of_weights != of_rows:
        raise ValueError(f"The weights are in {of_weights} partitions and the rows in {of_rows}. Rechunk one of them.")


def fail_with_another(process: int) -> NoReturn:
    """Raises in the processes whose own input is valid, where that of another is not."""
    raise ValueError(f"Process {process} was given what cannot be fitted; its own error says what.")


def same_in_all(told: np.ndarray, names: tuple[str, ...]) -> None:
    """The arguments that each of P processes was given, (P, ·), are the same in all."""
    bad = np.argwhere(told != told[0])
    if len(bad):
        process, column = bad[0]
        raise ValueError(
            f"All processes must be given the same kind of rows and the same arguments: process 0 has "
            f"{told[0, column]} {names[column]}, process {process} has {told[process, column]}."
        )


def rows_of_each_process(with_rows: set[int], n_processes: int) -> None:
    """Each process holds rows that no other holds."""
    without = set(range(n_processes)) - with_rows
    if without:
        raise ValueError(
            f"x is shared out such that process {min(without)} holds no rows but copies of others'. Share it out over "
            "the devices of all processes."
        )


def same_layout(of_weights: Any, holders: Any) -> None:
    """Weights are sharded as their rows are. of_weights: by device; holders: the device of each range of rows."""
    for (first, after), device in holders.items():
        place = of_weights.get(device)
        if place is None or (place[0].start or 0, place[0].stop) not in ((first, after), (first, None)):
            raise ValueError("sample_weight is shared out otherwise than x. Share it out by rows over the same mesh.")


def whole_rows(columns: tuple[int, int], n_features: int) -> None:
    """Each device holds whole rows, not some of their features."""
    if columns != (0, n_features):
        raise ValueError(
            f"x is shared out by features: one device holds {columns[1] - columns[0]} of {n_features}. Share it out by "
            "rows, PartitionSpec('rows') or PartitionSpec('rows', None)."
        )


def rows_for_devices(n_rows: int, n_devices: int) -> None:
    """There is at least one row for each device."""
    if n_rows < n_devices:
        raise ValueError(f"x has {n_rows} rows, and there are {n_devices} devices here: leave out device='all'.")

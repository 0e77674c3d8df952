"""Problems of nearby lengths, which share a pair of programs."""

from __future__ import annotations

import numpy as np

from ..._base.programs import Effort, next_power_of_two

WORTH_A_PROGRAM = 2**22
"""Responsibilities of a step of all problems of a bucket up to which they join the next larger one, and up to which its
programs are compiled in a hurry: all steps then take less time than to compile them, or to compile them well. For two
components and 320 rows that is 6,500 runs."""

WORTH_COMPILING_WELL = 2**26
"""As many up to which those of larger buckets are compiled briskly: that takes a second less, and the steps of
some 2**23 of them a tenth of a second longer."""


def effort_for(n_responsibilities: float) -> Effort:
    """How well to compile for a bucket, by the responsibilities of a step of all its problems."""
    if n_responsibilities <= WORTH_A_PROGRAM:
        return Effort.HURRIED
    return Effort.BRISK if n_responsibilities <= WORTH_COMPILING_WELL else Effort.WELL


def buckets(lengths: np.ndarray, of_a_row: float) -> list[tuple[int, np.ndarray]]:
    """Problems of these lengths (B,) by how many rows they are padded to: the longest first.

    of_a_row: responsibilities of a row. The longest are padded by a quarter at most and the others to a power of two;
    and those that are not worth a program of their own go with the next longer.
    """
    if not len(lengths):
        return []
    largest = _room(int(lengths.max()))
    rooms = np.minimum(largest, np.maximum(16, 2 ** np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)))
    found: list[tuple[int, np.ndarray]] = []
    for room in np.unique(rooms)[::-1]:
        members = np.flatnonzero(rooms == room)
        if found and len(members) * found[-1][0] * of_a_row <= WORTH_A_PROGRAM:
            found[-1] = found[-1][0], np.sort(np.concatenate([found[-1][1], members]))
        else:
            found.append((int(room), members))
    return found


def _room(n_rows: int) -> int:
    """So many rows, or a little more: a multiple of an eighth of the next power of two."""
    step = max(16, next_power_of_two(n_rows) // 8)
    return -(-n_rows // step) * step

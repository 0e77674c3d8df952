"""Buckets of problems with similar numbers of rows, which share a pair of programs."""

from __future__ import annotations

import numpy as np

from ..._base.programs import Effort, next_power_of_two

WORTH_A_PROGRAM = 2**22
"""Responsibilities in a step of all problems of a bucket up to which it is merged with the next larger one, and up to
which its programs are compiled HURRIED: all steps then take less time than compiling, or than compiling well would. For
two components and 320 rows that is 6,500 runs."""

WORTH_COMPILING_WELL = 2**26
"""Responsibilities in a step up to which programs of larger buckets are compiled BRISK: that takes a second less, and
all steps of some 2**23 responsibilities take a tenth of a second longer."""


def effort_for(n_responsibilities: float) -> Effort:
    """The compiler effort for a bucket, by the responsibilities in a step of all its problems."""
    if n_responsibilities <= WORTH_A_PROGRAM:
        return Effort.HURRIED
    return Effort.BRISK if n_responsibilities <= WORTH_COMPILING_WELL else Effort.WELL


def buckets(lengths: np.ndarray, of_a_row: float) -> list[tuple[int, np.ndarray]]:
    """Group problems of these lengths (B,) by the number of rows they are padded to, the longest first.

    of_a_row: responsibilities per row. The longest are padded by a quarter at most, and the others to a power of two;
    a bucket that is not worth its own program is merged with the next longer one.
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
    """Round n_rows up to a multiple of an eighth of the next power of two."""
    step = max(16, next_power_of_two(n_rows) // 8)
    return -(-n_rows // step) * step

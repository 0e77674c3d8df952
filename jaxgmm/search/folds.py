"""Folds: parts of the rows that are held out in turn, and judged under fits to all the others (Smyth 2000)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax import Array

from .._base import check
from ..rows import _check as rows_check
from ..rows.batches import Batches
from ..rows.rows import Rows
from .criteria import Criterion

FOR_FOLDS = "n_folds", "a fold is a weight of 0 for every row of the others"


def folds(key: Array, rows: Rows, n_folds: int, n_components: int) -> Iterable[tuple[Batches, Batches]]:
    """For each fold, the rows without it and the fold alone. Other rows get weight 0, so no row is moved."""
    if not n_folds:
        return
    batches = rows.whole(*FOR_FOLDS)
    weights = batches.row_weights()
    counted_rows = np.flatnonzero(weights)
    rows_check.enough_for_folds(len(counted_rows), n_folds, n_components)
    shuffled = np.random.default_rng(np.asarray(jax.random.bits(key, (4,)))).permutation(counted_rows)
    for fold in range(n_folds):
        is_held_out = np.zeros(len(weights), bool)
        is_held_out[shuffled[fold::n_folds]] = True
        training, held_out = (np.where(counts, weights, 0.0) for counts in (~is_held_out, is_held_out))
        yield batches.reweighted(training), batches.reweighted(held_out)


def folds_asked(n_folds: Any, criterion: Criterion, init: Any) -> int:
    """The number of folds from a user's argument: 0 for none, or 5 where the criterion needs some."""
    n_folds = check.count(n_folds, "n_folds", least=0)
    if criterion.needs_folds and not n_folds:
        n_folds = 5
    if n_folds == 1:
        raise ValueError("n_folds must be 0, or at least 2: what is held out is one part of several.")
    if n_folds and not isinstance(init, str):
        raise ValueError("A start of your own has seen all rows, the held-out ones too: name a seeding, or n_folds=0.")
    return n_folds

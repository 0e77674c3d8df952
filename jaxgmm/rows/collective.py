"""Calls that every process makes together: arrays of all gathered, and errors of one raised in all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from . import _check_parts

T = TypeVar("T")


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, which have the same shape. -> (P, ...)."""
    return multihost_utils.process_allgather(array) if jax.process_count() > 1 else array[None]


def gather_exactly(part: np.ndarray) -> list[np.ndarray]:
    """As `gather`, for any dtype. Sent as bytes: float64 and int64 would be rounded while JAX's x64 setting is off."""
    sent = gather(np.frombuffer(part.tobytes(), np.uint8))
    return [np.frombuffer(np.asarray(each).tobytes(), part.dtype).reshape(part.shape) for each in sent]


def in_all_or_none(check: Callable[[], T]) -> T:
    """The result of the check. If it raises in one process it raises in all: else the others would wait for ever."""
    error, found = None, None
    try:
        found = check()
    except (TypeError, ValueError) as raised:
        error = raised
    has_failed = gather(np.array(error is not None)).ravel()
    if error is not None:
        raise error
    if has_failed.any():
        _check_parts.fail_with_another(int(np.argmax(has_failed)))
    return found  # pyright: ignore

"""The memory that a fit of ours needs above one copy of the data, and whether it grows with the number of rows.

In a child process the data lie as a JAX array. After a first run at the same shapes, which compiles, free memory goes
back to the system and the peak is reset; then the peak during a run, less what was resident just before it, is the
figure. Null where it cannot be read. Of a GPU `card` has it.
"""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from itertools import product
from typing import Any

import jax

import jaxgmm
from jaxgmm import em

from . import isolate
from .child import clusters, near
from .markdown import NONE, Columns, bullets, by_columns, digits
from .options import Options
from .ratios import Place

FAMILIES = ("full", "diag")
CALLS = ("em", "fit")  # em.init with STEPS steps of em.run; and jaxgmm.fit with one restart and as many
STEPS = 2
SIZES = ((100_000, 4, 64), (1_000_000, 4, 64), (10_000_000, 4, 64), (1_000_000, 16, 64))  # (N, D, K)
MORE_SIZES = {"full": (), "diag": ((20_000, 1_000, 256),)}
QUICK_SIZES = ((200_000, 4, 64),)
TARGET, WIDE_TARGET = 64e6, 200e6  # bytes, for K <= 64 and D <= 16, and for more
GROWS_FROM = (0.5, 4e6)  # bytes a row and bytes in all: half of the smallest array over rows, and what pages blur
LIMIT = 300.0  # seconds


def measure(options: Options) -> dict[str, Any]:
    quick, cells, growth = options.quick, [], []
    calls = CALLS[:1] if quick else CALLS
    for family in FAMILIES[:1] if quick else FAMILIES:
        for (n, d, k), what in product(QUICK_SIZES if quick else SIZES + MORE_SIZES[family], calls):
            answer = isolate.ask(peak, LIMIT, "cpu", n=n, d=d, k=k, family=family, what=what)
            cells.append({"dtype": "float32", "data_bytes": None, "above_bytes": None, **answer})
        growth += [grows(cells, "cpu", family, what) for what in calls]
    return {"target_bytes": TARGET, "steps": STEPS, "cells": cells, "growth": growth}


def grows(cells: list[dict[str, Any]], device: str, family: str, what: str) -> dict[str, Any]:
    """Bytes a row between the fewest and the most rows at D = 4, and whether that is growth; None if not measured."""
    of = {"device": device, "family": family, "what": what, "d": 4}
    mine = [cell for cell in cells if cell["above_bytes"] is not None and of.items() <= cell.items()]
    if len(mine) < 2:
        return {**of, "bytes_per_row": None, "grows": None}
    few, many = (pick(mine, key=lambda cell: cell["n"]) for pick in (min, max))
    more = many["above_bytes"] - few["above_bytes"]
    per_row = more / (many["n"] - few["n"])
    return {**of, "bytes_per_row": per_row, "grows": per_row > GROWS_FROM[0] and more > GROWS_FROM[1]}


def peak(n: int, d: int, k: int, family: str, what: str) -> dict[str, Any]:
    """In a child: bytes of the data, and above them during the call."""
    rows, means = clusters(0, n, d, k)
    x = jax.device_put(rows)
    jax.block_until_ready(x)
    del rows
    start, settings, key = near(means, family), em.Settings(tol=0.0, ridge=1e-6), jax.random.key(0)

    def by_em() -> Any:
        batches = jaxgmm.Batches.of(x, n_components=k)
        return em.run(em.init(start, batches), batches, settings, STEPS)

    def by_fit() -> Any:
        return jaxgmm.fit(key, x, k, family, n_restarts=1, init="random_rows", tol=0.0, max_steps=STEPS)

    return {"data_bytes": x.nbytes, "above_bytes": above({"em": by_em, "fit": by_fit}[what])}


def above(call: Callable[[], Any]) -> int | None:
    """Bytes of the process's peak during a call, made for the second time, above those resident before it."""
    jax.block_until_ready(call())
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # freed memory that malloc keeps would hide what the call needs
        ctypes.CDLL(None).malloc_trim(0)
    before = isolate.held_bytes()
    if before is None or not isolate.reset_peak():
        return None
    jax.block_until_ready(call())
    peak = isolate.held_bytes("VmHWM")
    return None if peak is None else max(0, peak - before)


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line a call, and whether it grows with the rows."""

    def within(cell: dict[str, Any]) -> str:
        is_wide = cell["d"] > 16
        most, said = (WIDE_TARGET, f" {digits(WIDE_TARGET, scale=1e-6)} MB") if is_wide else (found["target_bytes"], "")
        return NONE if cell["above_bytes"] is None else ("yes" if cell["above_bytes"] <= most else "**no**") + said

    head: Columns = {"call": "what", "type": "family", "N": "n", "D": "d", "K": "k"}
    head = {**head, "data, MB": lambda cell: digits(cell["data_bytes"], scale=1e-6)}
    above = {"above, MB": lambda cell: digits(cell["above_bytes"], scale=1e-6)}
    body: Columns = {**above, f"within {digits(found['target_bytes'], scale=1e-6)} MB": within}
    growth = [{**of, "said": "grows" if of["grows"] else "no growth"} for of in place.cells(found, "growth")]
    said = "{what}, {family}: {bytes_per_row:.3f} bytes a row, {said}"
    shown = by_columns(place.cells(found), head, body, f"### Memory above one copy of the data, {place.label}")
    return [shown, bullets(said.format(**of) for of in growth if of["grows"] is not None)]

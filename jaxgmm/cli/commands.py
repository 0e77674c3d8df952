"""The command line: fit a table, label rows, draw rows. Computations are in float64 by default.

    jaxgmm fit data.csv --components 1-8 --families full,diag --restarts 16 --out fitted
    jaxgmm predict fitted/model.jaxgmm data.csv
    jaxgmm sample fitted/model.jaxgmm -n 1000
    jaxgmm bench

An error prints one line on standard error, with exit status 2. An interrupt exits with 130, after the results of the
fits that had finished are written; where none had, of those that were under way.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._base.cache import enable_cache
from .._base.status import FAILED, Status, explain
from ..io import columns_of, load, save
from ..mixture import Mixture
from ..rows.readers import Reading, Source, positions, reading
from ..search.progress import Bar
from ..search.sweep import sweep
from ..search.table import counted
from . import options, tables
from .columns import match
from .doubts import of_columns, of_search
from .pictures import pictures

BLOCK = 65536
"""Rows that are labelled, sampled or written at a time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; -> the exit status. (argparse itself raises SystemExit: 0 after --help, 2 for misuse.)"""
    arguments = options.parser().parse_args(argv)
    status: int | None = 0
    try:
        if arguments.command != "bench":
            _keep_programs()
        with _rare_collections():
            status = RUN[arguments.command](arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Without this Python would report it again on closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("jaxgmm: interrupted", file=sys.stderr)
        return 130
    except (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"jaxgmm: error: {_in_one_line(error)}", file=sys.stderr)
        return 2
    return status or 0


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Make garbage collections rare: tracing makes many long-lived objects, and a check every 700 took 1 s of 5."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _keep_programs() -> None:
    """Switch on the compilation cache, which an application may do and a library may not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        enable_cache()
    for warning in said:
        print(f"jaxgmm: warning: {warning.message}", file=sys.stderr)


def _fit(arguments: argparse.Namespace) -> int:
    """Fit, and write the results. -> the exit status."""
    if arguments.format == "parquet":
        tables.require_pyarrow()  # fail before the work, not after it
    table, weights = _read(arguments)
    x = table.values
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    bar = Bar(sys.stderr, arguments.criterion)
    shows = arguments.progress or (bar.redraws and not arguments.quiet)
    try:
        with warnings.catch_warnings():
            # Reported below, in our own format.
            warnings.filterwarnings("ignore", message="The search was interrupted", category=UserWarning)
            found = sweep(
                jax.random.key(arguments.seed),
                x,
                arguments.components,
                arguments.families,
                arguments.restarts,
                arguments.criterion,
                sample_weight=weights,
                init=arguments.init,
                tol=arguments.tol,
                max_steps=arguments.max_steps,
                ridge=arguments.ridge,
                relative_ridge=arguments.relative_ridge,
                acceleration=arguments.acceleration,
                stopping=arguments.stopping,
                race=arguments.race,
                escape=arguments.escape,
                polish=arguments.polish,
                n_folds=arguments.folds,
                dtype=arguments.dtype,
                progress=bar if shows else _unseen,
            )
    finally:
        bar.clear()
    seconds = time.perf_counter() - began
    status = Status(int(found.best.status))
    if not found.is_complete and (status in FAILED or not int(found.best.n_steps)):
        raise KeyboardInterrupt
    if status in FAILED:
        raise ValueError(f"every fit failed. Of the best of them: {explain(status)}.")
    found = found.with_names(list(table.names))
    say: Callable[..., None] = (lambda *_: None) if arguments.quiet else _say
    say(tables.described(arguments.data, table))
    is_finite = np.isfinite(x).all(axis=1)  # a row of weight 0 need not be
    shown = x if is_finite.all() else x[is_finite]
    for doubt in of_columns(table.names, shown):
        print(f"jaxgmm: warning: {doubt} Leave it out with --columns.", file=sys.stderr)
    say(found)
    size = f"{counted(len(x), 'row')} x {counted(x.shape[1], 'column')}"
    say(f"{counted(len(found.cells), 'fit')} of {size} in {seconds:.1f} s, compilation included.")
    for said in of_search(found, arguments):
        print(f"jaxgmm: warning: {said}", file=sys.stderr)

    out, mixture = arguments.out, found.best.mixture
    save(out / "model.jaxgmm", mixture, table.columns(is_all=arguments.columns is None and weights is None))
    written = ["model.jaxgmm", f"labels.{arguments.format}", f"responsibilities.{arguments.format}", "table.csv"]
    labels = list(_labels(mixture, x))
    tables.write(out / written[1], ["component"], labels)
    tables.write(out / written[2], _component_names(mixture), _responsibilities(mixture, x))
    tables.write(out / written[3], found.columns, [[row.values() for row in found.table()]])
    if not arguments.no_plots:
        if importlib.util.find_spec("matplotlib") is None:
            print('jaxgmm: no pictures without matplotlib: pip install "jaxgmm[plot]"', file=sys.stderr)
        else:
            names = table.names if table.is_named else None
            written += pictures(out, found, shown, np.concatenate(labels)[is_finite, 0], names)
    say(f"Wrote {', '.join(written)} to {out}.")
    return 0 if found.is_complete else 130


def _predict(arguments: argparse.Namespace) -> None:
    mixture, known = _model(arguments)
    notes: list[str] = []

    def chosen(source: Source) -> list[int]:
        found = match(known, mixture.n_features, source, arguments.columns, arguments.by_position)
        notes.extend(filter(None, [*source.notes, found.note]))
        return found.places

    x = tables.read(arguments.data, chosen, _reading(arguments)).values
    if notes and not arguments.quiet:
        print(f"jaxgmm: note: {tables.called(arguments.data)}: {'; '.join(notes)}.", file=sys.stderr)
    names = _component_names(mixture) if arguments.proba else ["component"]
    blocks = _responsibilities(mixture, x) if arguments.proba else _labels(mixture, x)
    if arguments.out is None:
        tables.write_csv(sys.stdout, names, blocks)
    else:
        tables.write(arguments.out, names, blocks)


def _sample(arguments: argparse.Namespace) -> None:
    if arguments.n < 0:
        raise ValueError(f"-n must be at least 0, got {arguments.n}.")
    mixture, known = _model(arguments)
    names = [name for name in known or () if isinstance(name, str)] or [f"x{d}" for d in range(mixture.n_features)]
    key = jax.random.key(arguments.seed)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, arguments.n, BLOCK):
            rows = mixture.sample(jax.random.fold_in(key, start // BLOCK), min(BLOCK, arguments.n - start))
            yield np.asarray(rows)

    tables.write_csv(sys.stdout, names, blocks())


def _model(arguments: argparse.Namespace) -> tuple[Mixture, tuple[str | int, ...] | None]:
    """The model, and what it knows of its columns; of a folder that `fit` has written, the model in it."""
    path = Path(arguments.model)
    path = path / "model.jaxgmm" if path.is_dir() else path
    return load(path), columns_of(path)


def _bench(arguments: argparse.Namespace) -> None:
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / "benchmarks" / "__main__.py").exists():
        raise ValueError(
            "the benchmarks are part of the repository, not of the installed package: run this from a checkout that is "
            "installed with pip install -e."
        )
    ended = subprocess.run([sys.executable, "-m", "benchmarks", *arguments.rest], cwd=root, check=False)
    if ended.returncode:
        raise RuntimeError(f"the benchmarks ended with exit status {ended.returncode}.")


def _read(arguments: argparse.Namespace) -> tuple[tables.Table, np.ndarray | None]:
    """The rows to fit, and their weights."""

    def chosen(source: Source) -> list[int]:
        asked = arguments.columns
        if arguments.weights is None:
            return source.features() if asked is None else positions(asked, source.names, source.path)
        if asked is not None:
            return positions([*asked, arguments.weights], source.names, source.path)
        (place,) = positions([arguments.weights], source.names, source.path)
        features = [feature for feature in source.features() if feature != place]
        if not features:
            raise ValueError(f"{source.path} has no column besides the weights {source.names[place]!r}.")
        return [*features, place]

    table = tables.read(arguments.data, chosen, _reading(arguments), is_weighted=arguments.weights is not None)
    if arguments.weights is None:
        return table, None
    weights = table.values[:, -1]
    if np.any(weights < 0.0):
        row = int(np.argmax(weights < 0.0))
        raise ValueError(
            f"{tables.called(arguments.data)}: data row {row + 1}, column {table.names[-1]!r} is {weights[row]}, but a "
            "weight cannot be negative."
        )
    return table.without_last(), weights


def _reading(arguments: argparse.Namespace) -> Reading:
    return reading(arguments.header, arguments.separator, arguments.decimal, arguments.encoding)


def _labels(mixture: Mixture, x: np.ndarray) -> Iterator[np.ndarray]:
    """The most probable component of each row; −1 for a row that is not finite, as one of weight 0 may be."""
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK]
        labels = np.asarray(mixture.predict(rows))
        yield np.where(np.isfinite(rows).all(axis=1), labels, -1)[:, None]


def _responsibilities(mixture: Mixture, x: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(x), BLOCK):
        yield np.asarray(mixture.responsibilities(x[start : start + BLOCK]))


def _component_names(mixture: Mixture) -> list[str]:
    return [f"component_{k}" for k in range(mixture.n_components)]


def _unseen(_: Any) -> None:
    """A progress callback that shows nothing: with a callback, an interrupt is handled between two reports."""


def _say(what: object) -> None:
    """Print on standard output, whose encoding may lack characters of a column's name."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(str(what).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text or type(error).__name__


RUN = {"fit": _fit, "predict": _predict, "sample": _sample, "bench": _bench}
"""The function of each command; it returns the exit status, or None for 0."""

"""The command line: fit a table, label rows, draw rows. Computations are in float64 by default.

    jaxgmm fit data.csv --components 1-8 --families full,diag --restarts 16 --out fitted
    jaxgmm predict fitted/model.jaxgmm data.csv
    jaxgmm sample fitted/model.jaxgmm -n 1000
    jaxgmm bench

An error prints one line on standard error, with exit status 2. An interrupt exits with 130, after the results of the
fits that had finished are written.
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
from .._base.files import atomically
from .._base.status import FAILED, Status, explain
from ..io import load, save
from ..mixture import Mixture
from ..search.progress import Bar
from ..search.sweep import sweep
from ..search.table import Sweep, counted
from . import options, tables

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
    x, weights, names = _read(arguments)
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
    if status in FAILED and not found.is_complete:
        raise KeyboardInterrupt
    if status in FAILED:
        raise ValueError(f"every fit failed. Of the best of them: {explain(status)}.")
    found = found.with_names(names)
    say: Callable[..., None] = (lambda *_: None) if arguments.quiet else print
    say(found)
    size = f"{len(x)} rows x {x.shape[1]} columns"
    say(f"{counted(len(found.cells), 'fit')} of {size} in {seconds:.1f} s, compilation included.")
    if not found.is_complete:
        wanted = len(arguments.components) * len(dict.fromkeys(arguments.families))
        print(
            f"jaxgmm: warning: interrupted after {len(found.cells)} of {counted(wanted, 'fit')}: what follows is the "
            "best of those.",
            file=sys.stderr,
        )
    if status is not Status.CONVERGED:
        print(f"jaxgmm: warning: the best fit is {status.name}: {explain(status)}.", file=sys.stderr)

    if not found.is_sound(found.best_cell):
        print(
            "jaxgmm: warning: a component of every fit, and of the best, stands on the ridge alone; the table says in "
            "which columns.",
            file=sys.stderr,
        )

    out, mixture = arguments.out, found.best.mixture
    save(out / "model.jaxgmm", mixture)
    written = ["model.jaxgmm", f"labels.{arguments.format}", f"responsibilities.{arguments.format}", "table.csv"]
    labels = list(_labels(mixture, x))
    tables.write(out / written[1], ["component"], labels)
    tables.write(out / written[2], _component_names(mixture), _responsibilities(mixture, x))
    tables.write(out / written[3], found.columns, [[row.values() for row in found.table()]])
    if not arguments.no_plots:
        if importlib.util.find_spec("matplotlib") is None:
            print('jaxgmm: no pictures without matplotlib: pip install "jaxgmm[plot]"', file=sys.stderr)
        else:
            written += _pictures(out, found, x, np.concatenate(labels)[:, 0], names)
    say(f"Wrote {', '.join(written)} to {out}.")
    return 0 if found.is_complete else 130


def _predict(arguments: argparse.Namespace) -> None:
    mixture = load(arguments.model)
    x, _ = tables.read(arguments.data, arguments.columns)
    if x.shape[1] != mixture.n_features:
        raise ValueError(
            f"{arguments.data} gives {x.shape[1]} columns, the model has {mixture.n_features} features: choose them "
            "with --columns."
        )
    names = _component_names(mixture) if arguments.proba else ["component"]
    blocks = _responsibilities(mixture, x) if arguments.proba else _labels(mixture, x)
    if arguments.out is None:
        tables.write_csv(sys.stdout, names, blocks)
    else:
        tables.write(arguments.out, names, blocks)


def _sample(arguments: argparse.Namespace) -> None:
    if arguments.n < 0:
        raise ValueError(f"-n must be at least 0, got {arguments.n}.")
    mixture = load(arguments.model)
    key = jax.random.key(arguments.seed)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, arguments.n, BLOCK):
            rows = mixture.sample(jax.random.fold_in(key, start // BLOCK), min(BLOCK, arguments.n - start))
            yield np.asarray(rows)

    tables.write_csv(sys.stdout, [f"x{d}" for d in range(mixture.n_features)], blocks())


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


def _read(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """The rows to fit, their weights, and the names of the features."""
    if arguments.weights is None:
        values, names = tables.read(arguments.data, arguments.columns)
        return values, None, names
    columns = None if arguments.columns is None else [*arguments.columns, arguments.weights]
    values, names = tables.read(arguments.data, columns)
    place = len(names) - 1 if columns else tables.positions([arguments.weights], names, arguments.data)[0]
    weights = values[:, place]
    if np.any(weights < 0.0):
        row = int(np.argmax(weights < 0.0))
        raise ValueError(
            f"{arguments.data}: data row {row + 1}, column {names[place]!r} is {weights[row]}, but a weight cannot be "
            "negative."
        )
    features = [d for d in range(len(names)) if d != place]
    if not features:
        raise ValueError(f"{arguments.data} has no column besides the weights {names[place]!r}.")
    return np.ascontiguousarray(values[:, features]), weights, tuple(names[d] for d in features)


def _labels(mixture: Mixture, x: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(x), BLOCK):
        yield np.asarray(mixture.predict(x[start : start + BLOCK]))[:, None]


def _responsibilities(mixture: Mixture, x: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(x), BLOCK):
        yield np.asarray(mixture.responsibilities(x[start : start + BLOCK]))


def _component_names(mixture: Mixture) -> list[str]:
    return [f"component_{k}" for k in range(mixture.n_components)]


def _pictures(out: Path, found: Sweep, x: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[str]:
    """Draw the three pictures without pyplot, so that no display is needed. -> their file names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .. import plot

    dims = _telling_features(found.best.mixture)

    def clusters(ax: Any) -> None:
        plot.clusters(found.best.mixture, x, dims=dims, ax=ax, labels=labels)
        ax.set_xlabel(names[dims[0]])
        if len(dims) > 1:
            ax.set_ylabel(names[dims[1]])

    def history(ax: Any) -> None:
        plot.history(found.best, ax=ax)

    def criterion(ax: Any) -> None:
        plot.criterion(found, ax=ax)

    written = []
    for name, draw in (("clusters", clusters), ("history", history), ("criterion", criterion)):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        with atomically(out / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=150)
        written.append(f"{name}.png")
    return written


def _telling_features(mixture: Mixture) -> tuple[int, ...]:
    """The two features in which the components differ most: the largest share of variance between means."""
    weights, means = np.asarray(mixture.weights)[:, None], np.asarray(mixture.means)
    within = np.sum(weights * np.diagonal(np.asarray(mixture.covariances), axis1=1, axis2=2), axis=0)
    between = np.sum(weights * np.square(means - np.sum(weights * means, axis=0)), axis=0)
    share = between / (within + between)
    return tuple(int(d) for d in np.sort(np.argsort(-share, kind="stable")[:2]))


def _unseen(_: Any) -> None:
    """A progress callback that shows nothing: with a callback, an interrupt is handled between two reports."""


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text or type(error).__name__


RUN = {"fit": _fit, "predict": _predict, "sample": _sample, "bench": _bench}
"""The function of each command; it returns the exit status, or None for 0."""

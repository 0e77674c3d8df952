"""The command line: fit a table, label rows, draw rows. All in float64 unless asked otherwise.

    jaxgmm fit data.csv --components 1-8 --families full,diag --restarts 16 --out fitted
    jaxgmm predict fitted/model.jaxgmm data.csv
    jaxgmm sample fitted/model.jaxgmm -n 1000
    jaxgmm bench

Errors are one line on standard error, with exit status 2. An interrupt exits with 130; what a search had finished by
then is written first.
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
from typing import Any, NoReturn

import jax
import numpy as np

from .._base.cache import enable_cache
from .._base.files import atomically
from .._base.status import FAILED, Status, explain
from .._version import __version__
from ..em.state import STOPPING
from ..em.steppers.memory import METHODS
from ..families import SHELF
from ..io import load, save
from ..mixture import Mixture
from ..search.escape import ESCAPES
from ..search.progress import Bar
from ..search.seeding.shelf import SEEDINGS
from ..search.sweep import sweep
from ..search.table import CRITERIA, Sweep, counted
from . import tables

BLOCK = 65536
"""Rows that are labelled, drawn or written at a time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; -> the exit status. (argparse itself leaves by SystemExit: 0 after --help, 2 for misuse.)"""
    arguments = _parser().parse_args(argv)
    status: int | None = 0
    try:
        if arguments.run is not _bench:
            _keep_programs()
        with _rare_collections():
            status = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has what it wanted. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("jaxgmm: interrupted", file=sys.stderr)
        return 130
    except (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"jaxgmm: error: {_in_one_line(error)}", file=sys.stderr)
        return 2
    return status or 0


class _Parser(argparse.ArgumentParser):
    """argparse, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxgmm", description="Gaussian mixture models, fitted by EM in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxgmm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    table = f"table of numbers ({', '.join(tables.READABLE)})"
    columns = "columns to use, by name or by position from 0, such as a,b or 0,2"

    one = commands.add_parser("fit", help="search families and numbers of components, and keep the best fit")
    one.set_defaults(run=_fit)
    one.add_argument("data", metavar="DATA", help=table)
    one.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for all results; made if need be")
    one.add_argument(
        "--components", type=_counts, default="1-8", metavar="K", help="such as 3, 1-8 or 1,2,5 (%(default)s)"
    )
    one.add_argument(
        "--families",
        type=_families,
        default="full,tied,diag,spherical",
        metavar="NAMES",
        help=f"of {', '.join(SHELF)} (%(default)s)",
    )
    one.add_argument("--restarts", type=int, default=16, metavar="R", help="starts of each fit (%(default)s)")
    one.add_argument("--criterion", choices=CRITERIA, default="bic", help="what to choose by (%(default)s)")
    one.add_argument("--init", choices=tuple(SEEDINGS), default="k-means++", help="how starts are seeded (%(default)s)")
    one.add_argument(
        "--tol", type=float, default=1e-3, help="change of the mean log-likelihood to stop at (%(default)s)"
    )
    one.add_argument("--max-steps", type=int, default=200, metavar="STEPS", help="EM steps at most (%(default)s)")
    one.add_argument("--ridge", type=float, default=1e-6, help="added to the variances (%(default)s)")
    one.add_argument(
        "--relative-ridge",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="added to the variances, as a share of each column's own (%(default)s)",
    )
    one.add_argument(
        "--stopping",
        choices=STOPPING,
        default="gain",
        help="what --tol is compared with: the last step's change, or that of all steps to come (%(default)s)",
    )
    one.add_argument("--acceleration", choices=tuple(METHODS), help="of slow fits, where --tol is below 1e-4 (none)")
    one.add_argument("--race", action="store_true", help="run all starts a few steps, and only the best to their ends")
    one.add_argument("--escape", choices=tuple(ESCAPES), help="a way out of the optimum that was found (none)")
    one.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="N",
        help="parts of the rows to hold out in turn (%(default)s; with --criterion held_out 5)",
    )
    one.add_argument("--columns", type=_names, metavar="COLUMNS", help=columns)
    one.add_argument("--weights", metavar="COLUMN", help="column that says how many rows each row counts for")
    one.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    one.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="precision (%(default)s)")
    one.add_argument(
        "--format", choices=("csv", "parquet"), default="csv", help="of labels and responsibilities (%(default)s)"
    )
    one.add_argument("--no-plots", action="store_true", help="draw no pictures")
    one.add_argument("--quiet", action="store_true", help="print nothing but errors and warnings")
    one.add_argument("--progress", action="store_true", help="show progress even where standard error is no terminal")

    two = commands.add_parser("predict", help="label the rows of a table by a fitted model")
    two.set_defaults(run=_predict)
    two.add_argument("model", metavar="MODEL", help="file that fit has written")
    two.add_argument("data", metavar="DATA", help=table)
    two.add_argument("--columns", type=_names, metavar="COLUMNS", help=columns)
    two.add_argument("--proba", action="store_true", help="the responsibilities of all components, not the label")
    two.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"{' or '.join(tables.WRITABLE)} file (default: CSV to standard output)",
    )

    three = commands.add_parser("sample", help="draw rows from a fitted model, as CSV on standard output")
    three.set_defaults(run=_sample)
    three.add_argument("model", metavar="MODEL", help="file that fit has written")
    three.add_argument("-n", type=int, default=1000, metavar="N", help="how many rows (%(default)s)")
    three.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")

    # All that follows is the benchmarks' own to read, --help included, so argparse is not to look at it.
    four = commands.add_parser(
        "bench", add_help=False, prefix_chars="\0", help="run the benchmarks of a checkout: bench --help tells more"
    )
    four.set_defaults(run=_bench)
    four.add_argument("rest", nargs="*", metavar="ARGUMENTS", help="as for python -m benchmarks")
    return parser


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """To trace programs makes many objects that stay. To look for garbage among them every 700 took 1 s of 5."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _keep_programs() -> None:
    """An application may switch on what a library may not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        enable_cache()
    for warning in said:
        print(f"jaxgmm: warning: {warning.message}", file=sys.stderr)


def _fit(arguments: argparse.Namespace) -> int:
    """-> the exit status."""
    if arguments.format == "parquet":
        tables.require_pyarrow()  # before the work, not after it
    x, weights, names = _read(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    shows = arguments.progress or (sys.stderr.isatty() and not arguments.quiet)
    bar = Bar(sys.stderr, arguments.criterion)
    try:
        with warnings.catch_warnings():
            # Said below, in a line of our own.
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
    root = Path(__file__).resolve().parent.parent
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
    """Draw the three pictures, without pyplot, so that no display is asked for. -> their names."""
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
    """Is told of progress where none is shown: between two calls an interrupt gets through."""


def _counts(text: str) -> list[int]:
    """Numbers of components from 3, 1-8 or 1,2,5."""
    counts: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"expected numbers such as 3, 1-8 or 1,2,5, got {text!r}")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= 100_000:
            raise argparse.ArgumentTypeError(f"{part.strip()!r} is no range of numbers from 1 upwards")
        counts.extend(range(low, high + 1))
    return list(dict.fromkeys(counts))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _families(text: str) -> list[str]:
    names = _names(text)
    for name in names:
        if name not in SHELF:
            raise argparse.ArgumentTypeError(f"unknown family {name!r}, expected one of {', '.join(SHELF)}")
    if not names:
        raise argparse.ArgumentTypeError(f"expected at least one of {', '.join(SHELF)}")
    return names


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text or type(error).__name__

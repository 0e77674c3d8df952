"""The arguments of the command line, all declared here."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NoReturn

from .._version import __version__
from ..em.state import STOPPING
from ..em.steppers.memory import METHODS
from ..families import SHELF
from ..search.criteria import CRITERIA
from ..search.escape import ESCAPES
from ..search.seeding import SEEDINGS
from . import tables


class _Parser(argparse.ArgumentParser):
    """argparse's parser, with one-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    whole = _Parser(prog="jaxgmm", description="Gaussian mixture models, fitted by EM in JAX.")
    whole.add_argument("--version", action="version", version=f"jaxgmm {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    table = f"table of numbers ({', '.join(tables.READABLE)}; text may be compressed), or - for standard input"
    of_columns = (
        "columns to use, by name or by position from 0, such as a,b or 0,2; a name with a comma as in CSV: '\"a, b\",c'"
    )

    one = commands.add_parser("fit", help="search families and numbers of components, and keep the best fit")
    one.add_argument("data", metavar="DATA", help=table)
    one.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for all results; made if need be")
    one.add_argument(
        "--components", type=counts, default="1-8", metavar="K", help="such as 3, 1-8 or 1,2,5 (%(default)s)"
    )
    one.add_argument(
        "--families",
        type=families,
        default="full,tied,diag,spherical",
        metavar="NAMES",
        help=f"of {', '.join(SHELF)} (%(default)s)",
    )
    one.add_argument("--restarts", type=int, default=16, metavar="R", help="starts of each fit (%(default)s)")
    one.add_argument("--criterion", choices=tuple(CRITERIA), default="bic", help="what to choose by (%(default)s)")
    one.add_argument("--init", choices=tuple(SEEDINGS), default="k-means++", help="how starts are seeded (%(default)s)")
    one.add_argument(
        "--tol", type=float, default=1e-3, help="change of the mean log-likelihood to stop at (%(default)s)"
    )
    one.add_argument("--max-steps", type=int, default=200, metavar="STEPS", help="EM steps at most (%(default)s)")
    one.add_argument(
        "--ridge",
        type=ridge,
        default="resolution",
        help="added to the variances: a number, or %(default)s, the variance of rounding to the step of each column's "
        "values (%(default)s)",
    )
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
        "--no-polish",
        dest="polish",
        action="store_false",
        help="leave fits where --tol stopped them, and not at their optima",
    )
    one.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="N",
        help="parts of the rows to hold out in turn (%(default)s; with --criterion held_out 5)",
    )
    one.add_argument("--columns", type=columns, metavar="COLUMNS", help=of_columns)
    _of_text(one)
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
    two.add_argument("model", metavar="MODEL", help="file that fit has written, or its folder")
    two.add_argument("data", metavar="DATA", help=table)
    two.add_argument("--columns", type=columns, metavar="COLUMNS", help=of_columns)
    two.add_argument(
        "--by-position", action="store_true", help="take columns in the model's order though their names are others"
    )
    _of_text(two)
    two.add_argument("--proba", action="store_true", help="the responsibilities of all components, not the label")
    two.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"{' or '.join(tables.WRITABLE)} file (default: CSV to standard output)",
    )
    two.add_argument("--quiet", action="store_true", help="print no notes on how the table was read")

    three = commands.add_parser("sample", help="draw rows from a fitted model, as CSV on standard output")
    three.add_argument("model", metavar="MODEL", help="file that fit has written, or its folder")
    three.add_argument("-n", type=int, default=1000, metavar="N", help="how many rows (%(default)s)")
    three.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")

    # All arguments after `bench`, --help included, are passed on to the benchmarks: argparse must not parse them.
    four = commands.add_parser(
        "bench", add_help=False, prefix_chars="\0", help="run the benchmarks of a checkout: bench --help tells more"
    )
    four.add_argument("rest", nargs="*", metavar="ARGUMENTS", help="as for python -m benchmarks")
    return whole


def _of_text(command: argparse.ArgumentParser) -> None:
    """How a file of text is to be read."""
    command.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the first line has the names of the columns, or is a row of data (told by comparing it with the others)",
    )
    command.add_argument(
        "--separator",
        metavar="SIGN",
        help="between cells, such as ';' or comma, semicolon, tab, space, bar (told from the first lines)",
    )
    command.add_argument("--decimal", metavar="SIGN", help="point or comma (told from the first lines)")
    command.add_argument("--encoding", metavar="NAME", help="such as cp1252 (UTF-8 where it is that, else cp1252)")


def counts(text: str) -> list[int]:
    """Numbers of components from text such as 3, 1-8 or 1,2,5."""
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


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def ridge(text: str) -> float | str:
    """A number, or the word for a ridge that is found from the columns."""
    if text == "resolution":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or resolution, got {text!r}") from None


def columns(text: str) -> list[str]:
    """Names or positions of columns, separated by commas; quoted as in CSV if they hold commas or quotes."""
    try:
        fields = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be read as names in a row of CSV ({error}). A name with a comma is written in double "
            "quotes, as in '\"a, b\",c'; a double quote within is doubled"
        ) from None
    return [name.strip() for name in fields if name.strip()]


def families(text: str) -> list[str]:
    chosen = names(text)
    for name in chosen:
        if name not in SHELF:
            raise argparse.ArgumentTypeError(f"unknown family {name!r}, expected one of {', '.join(SHELF)}")
    if not chosen:
        raise argparse.ArgumentTypeError(f"expected at least one of {', '.join(SHELF)}")
    return chosen

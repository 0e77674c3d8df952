"""Which family and how many components: information criteria, and the search over both.

Criteria have scikit-learn's sign: smaller is better. (mclust's are their negatives.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _check, em
from ._linalg import columns
from ._precision import is_traced, keeps_precision, precision_for
from .batches import Batches
from .covariances import Form
from .families import SHELF, Family
from .fit import FitResult, Progress, Told, admit, drive, seeding, start
from .groups import Group, fit_group, group_of, groups
from .mixture import Mixture, in_safe_form, prepare
from .status import FAILED, Status

CRITERIA = ("bic", "aic", "icl")
KINDS = ("soft", "hard")


def n_parameters(mixture: Mixture) -> Any:
    """Free parameters: means, weights (which sum to 1) and covariances. Components of weight 0 are not counted."""
    active: Any = jnp.sum(mixture.log_weights != -jnp.inf) if is_traced(mixture) else _count_active(mixture)
    n_features = mixture.n_features
    return active * n_features + active - 1 + mixture.family.n_free(active, n_features)


def aic(log_likelihood: Any, n_parameters: Any) -> Any:
    """Akaike 1974: −2 log L + 2 p. log_likelihood: the total, nats."""
    return -2.0 * log_likelihood + 2.0 * n_parameters


def bic(log_likelihood: Any, n_parameters: Any, n: Any) -> Any:
    """Schwarz 1978: −2 log L + p log n. log_likelihood: the total, nats; n: the total weight of the rows."""
    return -2.0 * log_likelihood + n_parameters * (jnp.log(n) if is_traced(n) else np.log(n))


def icl(log_likelihood: Any, n_parameters: Any, n: Any, entropy: Any) -> Any:
    """Biernacki, Celeux and Govaert 2000: bic + 2 · `entropy` of the responsibilities (total, nats).

    With the soft entropy it is their criterion; with the hard one it is mclust's.
    """
    return bic(log_likelihood, n_parameters, n) + 2.0 * entropy


def entropy(mixture: Mixture, batches: Batches | Any, kind: str = "soft") -> Array:
    """Entropy of the responsibilities r, summed over weighted rows, nats. x (N, D) or `Batches` -> ().

    kind "soft": −Σ w Σ_k r log r. kind "hard": −Σ w log max_k r, which counts the winning component only. Chunk by
    chunk: nothing of size N×K is made. ValueError for another kind, or where D differs.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of entropy {kind!r}. Expected one of {', '.join(map(repr, KINDS))}.")
    if not isinstance(batches, Batches):
        _check.matrix_shape(np.shape(batches), "x")
        batches = Batches.of(batches, n_components=mixture.n_components, dtype=mixture.means.dtype)
    _check.last_axis((batches.n_features,), mixture.n_features)
    return _evidence(mixture, batches, np.zeros((), batches.dtype), kind=kind)[1]


class SweepProgress(NamedTuple):
    """What a sweep's progress callback is told, a few times a second."""

    n_done: int  # cells
    n_cells: int
    family: str
    n_components: int
    cell: Progress  # of the fit under way


class Cell(NamedTuple):
    """One row of a sweep's table."""

    family: str
    K: int
    log_likelihood: float  # total, nats
    n_params: int
    aic: float
    bic: float
    icl: float  # with the soft entropy
    n_steps: int
    status: str  # the name of a `Status`


@dataclass(frozen=True)
class Sweep:
    """Every fit of a search over families and numbers of components, and the figures to choose by."""

    results: dict[tuple[str, int], FitResult]  # by (family, K)
    cells: tuple[Cell, ...]
    criterion: str

    @property
    def best_cell(self) -> Cell:
        """The smallest criterion; a failed fit wins only where all have failed."""
        failed = {Status(status).name for status in FAILED}

        def rank(cell: Cell) -> tuple[bool, float]:
            value = getattr(cell, self.criterion)
            return cell.status in failed, value if math.isfinite(value) else math.inf

        return min(self.cells, key=rank)

    @property
    def best(self) -> FitResult:
        """The fit of the best cell."""
        return self.results[self.best_cell.family, self.best_cell.K]

    def table(self) -> list[dict[str, Any]]:
        """A dict a cell: family, K, log_likelihood (total, nats), n_params, aic, bic, icl, n_steps, status."""
        return [cell._asdict() for cell in self.cells]

    def plot(self, ax: Any = None) -> Any:
        """The criterion against K, a line a family, on a matplotlib Axes. See `jaxgmm.plot.criterion`."""
        from .plot import criterion

        return criterion(self, ax=ax)

    def __repr__(self) -> str:
        best = self.best_cell
        header = tuple(Cell._fields)
        rows = [tuple(f"{value:.2f}" if isinstance(value, float) else str(value) for value in c) for c in self.cells]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        left = {"family", "status"}

        def line(mark: str, row: tuple[str, ...]) -> str:
            cells = zip(header, row, widths, strict=True)
            return f"{mark} " + "  ".join(t.ljust(w) if name in left else t.rjust(w) for name, t, w in cells).rstrip()

        winner = f"the best by {self.criterion} is {best.family!r} with K = {best.K} (*)"
        title = f"Sweep of {counted(len(self.cells), 'fit')}; {winner}"
        body = [line("*" if cell is best else " ", row) for cell, row in zip(self.cells, rows, strict=True)]
        return "\n".join([title, line(" ", header), *body])


def sweep(
    key: Array,
    x: Any,
    n_components: int | Iterable[int] = range(1, 11),
    families: str | Family | Iterable[str | Family] = ("full", "tied", "diag", "spherical"),
    n_restarts: int = 16,
    criterion: str = "bic",
    *,
    sample_weight: Any = None,
    init: Any = "k-means++",
    tol: float = 1e-3,
    max_steps: int = 200,
    ridge: float = 1e-6,
    acceleration: str | None = None,
    chunk_size: int | None = None,
    dtype: Any = None,
    progress: Callable[[SweepProgress], None] | None = None,
) -> Sweep:
    """Fit rows x (N, D) with every family and every number of components, and choose by a criterion.

    n_components: one K or several. families: names or Family objects, one or several. criterion: "bic", "aic" or
    "icl". `init` of your own (see `fit`) needs a single K. Everything else as for `fit`; total weight stands for N in
    the criteria, so weights should count rows. A cell's result depends on the key, its family and its K, and but for
    rounding not on which other cells are in the sweep; at the same K all families begin from the same seeds. One
    component is started once, since all starts end in the same place.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled.
    """
    counts = _several_counts(n_components)
    chosen = _several_families(families)
    n_restarts = _check.count(n_restarts, "n_restarts", least=1)
    if criterion not in CRITERIA:
        raise ValueError(f"Unknown criterion {criterion!r}. Expected one of {', '.join(map(repr, CRITERIA))}.")
    if not isinstance(init, str) and len(counts) > 1:
        raise ValueError(
            f"A start of your own fits one number of components, but n_components is {counts}. Give one of them, or "
            "name a seeding such as init='k-means++'."
        )
    max_steps = _check.count(max_steps, "max_steps", least=0)
    settings = em.Settings(tol=tol, ridge=ridge, acceleration=acceleration)
    n_lanes = 1
    if isinstance(init, str):
        seeding(init)
        n_lanes = n_restarts
    batches = admit(x, sample_weight, max(counts), n_lanes, chunk_size, dtype)
    _check.enough_rows(int(batches.n_rows), sample_weight, max(counts))

    results: dict[tuple[str, int], FitResult] = {}
    cells: dict[tuple[str, int], Cell] = {}

    def keep(family: Family, count: int, result: FitResult, evidence: Any) -> None:
        results[family.name, count] = result
        cells[family.name, count] = _describe(family.name, count, result, evidence, float(batches.total))

    n_cells = len(chosen) * len(counts)
    with precision_for(batches.dtype):
        if isinstance(init, str):
            shared = [group_of(key, group, batches, init, n_restarts) for group in groups(counts, batches)]
            for family in chosen:
                for group in shared:
                    watch = progress and _Watch(progress, len(cells), n_cells, family.name, group, max_steps)
                    found = fit_group(group, batches, family, settings, max_steps, _evidence_of, watch)
                    for count, (result, evidence) in zip(group.counts, found, strict=True):
                        keep(family, count, result, evidence)
        else:
            for family in chosen:
                report = progress and partial(_report, progress, len(cells), n_cells, family.name, counts[0])
                states = start(key, batches, init, counts[0], family, settings, 1)
                result = drive(states, batches, settings, max_steps, report)
                keep(family, counts[0], result, _evidence_of(result, batches))
    order = [(family.name, count) for family in chosen for count in counts]
    return Sweep({of: results[of] for of in order}, tuple(cells[of] for of in order), criterion)


def counted(number: int, thing: str) -> str:
    """A number of things in words, such as "1 fit" and "2 fits"."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _report(
    progress: Callable[[SweepProgress], None], n_done: int, n_cells: int, family: str, count: int, cell: Progress
) -> None:
    progress(SweepProgress(n_done, n_cells, family, count, cell))


class _Watch:
    """Tells of the cells of a group one after the other: of those that have ended since, and of the first that goes."""

    def __init__(
        self,
        progress: Callable[[SweepProgress], None],
        n_done: int,
        n_cells: int,
        family: str,
        group: Group,
        max_steps: int,
    ) -> None:
        self.say = partial(_report, progress)
        self.n_done, self.n_cells, self.family, self.max_steps = n_done, n_cells, family, max_steps
        self.left = list(zip(group.counts, group.members, group.n_starts, strict=True))

    def __call__(self, told: Told) -> None:
        while self.left:
            count, lanes, n_starts = self.left[0]
            cell = Progress.of(Told(*(value[lanes[:n_starts]] for value in told)), self.max_steps)
            self.say(self.n_done, self.n_cells, self.family, count, cell)
            if cell.n_running:
                return
            self.left.pop(0)
            self.n_done += 1


def _several_counts(n_components: Any) -> list[int]:
    values = list(n_components) if isinstance(n_components, Iterable) else [n_components]
    if not values:
        raise ValueError("n_components is empty: give at least one number of components.")
    return list(dict.fromkeys(_check.count(value, "n_components", least=1) for value in values))


def _several_families(families: Any) -> list[Family]:
    values = list(families) if isinstance(families, Iterable) and not isinstance(families, str) else [families]
    if not values:
        raise ValueError(f"families is empty: give at least one of {', '.join(map(repr, SHELF))}.")
    chosen = list(dict.fromkeys(_check.family(value, SHELF) for value in values))
    names = [family.name for family in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two different families are called {name!r}; a sweep tells its results apart by name.")
    return chosen


def _describe(family: str, count: int, result: FitResult, evidence: tuple[Any, Any], n: float) -> Cell:
    """The figures of one fit to rows of total weight n."""
    # Summed once more, about the mean that is known: the steps of a float32 total of 1e6 rows are about a nat.
    rest, soft = map(float, evidence)
    log_likelihood = float(result.objective) * n + rest
    p = int(n_parameters(result.mixture))
    return Cell(
        family=family,
        K=count,
        log_likelihood=log_likelihood,
        n_params=p,
        aic=float(aic(log_likelihood, p)),
        bic=float(bic(log_likelihood, p, n)),
        icl=float(icl(log_likelihood, p, n, soft)),
        n_steps=int(result.n_steps),
        status=Status(int(result.status)).name,
    )


def _count_active(mixture: Mixture) -> int:
    return int(np.sum(np.asarray(mixture.log_weights) != -np.inf))


def _evidence_of(result: FitResult, batches: Batches) -> tuple[Array, Array]:
    # The safe form alone: once a fit its speed does not matter, and the program is half as long to compile.
    return _evidence(result.mixture, batches, result.objective, kind="soft", form=Form.SAFE)


@keeps_precision
@partial(jax.jit, static_argnames=("kind", "form"))
def _evidence(
    mixture: Mixture, batches: Batches, centre: Any, *, kind: str, form: Form | None = None
) -> tuple[Array, Array]:
    """Σ w (log density − centre), and the entropy of the responsibilities."""

    def program(form: Form) -> tuple[Array, Array]:
        operands = prepare(mixture, batches.origin, form)

        def chunk(_: Array, rows: Array, weights: Array) -> tuple[Array, Array]:
            joint = mixture.scales.exponent(operands, columns(rows))
            largest = jnp.max(joint, axis=0)
            below = joint - largest
            shares = jnp.exp(below)
            total = jnp.sum(shares, axis=0)
            # −log of the winner's share is log(total); −Σ r log r adds the mean of −below, where 0 · −∞ is 0.
            spread = jnp.log(total)
            if kind == "soft":
                spread = spread - jnp.sum(jnp.where(shares > 0.0, shares * below, 0.0), axis=0) / total
            counts = weights > 0.0
            return (
                jnp.sum(jnp.where(counts, weights * (largest + jnp.log(total) - centre), 0.0)),
                jnp.sum(jnp.where(counts, weights * spread, 0.0)),
            )

        return batches.sum(chunk)

    return program(form) if form else in_safe_form(mixture, batches.origin, program)

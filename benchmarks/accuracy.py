"""float32 against float64: what ten EM steps differ by, for data far from the origin and clusters far apart.

Both start from the same float32 parameters and read the same float32 rows, so only the arithmetic differs. Errors are
those of tests/tolerances.py: the objective in nats (row "objective"), means in standard deviations (row "means"),
covariances in units of sqrt(Σ_ii Σ_jj) (row "covariances"). What is promised is that table's float32 column; a
float32 mean is itself rounded to `distance` · eps standard deviations, which `float32_variances` there adds, and
`promised` here.
"""

import math
from itertools import product
from typing import Any

import jax
import numpy as np

import jaxgmm
from jaxgmm import em
from jaxgmm.families import SHELF

from . import isolate
from .child import about, form_of
from .markdown import NONE, bullets, table
from .options import Options
from .ratios import Place

# tests/tolerances.py, TABLE, float32: the rows "objective" (relative, absolute), "means" and "covariances" (absolute).
OBJECTIVE_RELATIVE, OBJECTIVE_ABSOLUTE, MEANS, COVARIANCES = 1e-6, 2e-5, 1e-4, 1e-4
EPS = float(np.finfo(np.float32).eps)

D, K, STEPS = 4, 4, 10
SHIFTS = (0.0, 1e3, 1e4)  # of all data from the origin, in standard deviations of a cluster
APART = (3.0, 10.0, 100.0, 1000.0)  # standard deviations between any two means
ENDS = ((0.0, 3.0), (0.0, 1000.0), (1e4, 3.0), (1e4, 1000.0))  # of both: what many rows are tried with
ROWS, MORE_ROWS = 10_000, (("full", 1_000_000), ("diag", 10_000_000), ("spherical", 10_000_000))
QUICK_ROWS = 2_000
LIMIT = 600.0  # seconds for one family and number of rows


def measure(options: Options) -> dict[str, Any]:
    sizes = [("full", QUICK_ROWS)] if options.quick else [*((family, ROWS) for family in SHELF), *MORE_ROWS]
    rows: list[dict[str, Any]] = []
    for device, (family, n) in product(options.devices, sizes):
        situations = list(product(SHIFTS, APART)) if n == ROWS else ENDS
        answer = isolate.ask(compare, LIMIT, device, family=family, n=n, situations=situations)
        found: list[dict[str, Any]] = answer.get("rows") or [{"missing": answer["missing"]}]
        rows += [{"family": family, "n": n, "device": device, "d": D, "k": K, **row} for row in found]
    return {"steps": STEPS, "rows": rows}


def compare(family: str, n: int, situations: list[tuple[float, float]]) -> dict[str, Any]:
    """In a child: the errors of one family at every pair of shift and distance."""
    return {"rows": [one(family, n, shift, apart) for shift, apart in situations]}


def one(family: str, n: int, shift: float, apart: float) -> dict[str, Any]:
    """Float32 against float64 in one situation."""
    x, means = rows_of(n, shift, apart)
    with jax.enable_x64(True):
        exact, _ = steps(x, means, family, "float64")
    ours, form = steps(x, means, family, "float32")
    deviations = np.sqrt(np.diagonal(exact["covariances"], axis1=1, axis2=2))
    units = deviations[:, :, None] * deviations[:, None, :]
    errors = {
        "objective_error": abs(ours["objective"] - exact["objective"]),
        "means_error": float(np.max(np.abs(ours["means"] - exact["means"]) / deviations)),
        "covariances_error": float(np.max(np.abs(ours["covariances"] - exact["covariances"]) / units)),
    }
    allowed = promised(exact["objective"], shift + apart)
    situation = {"missing": None, "shift": shift, "apart": apart, "form": form, "objective": exact["objective"]}
    kept = all(errors[f"{name}_error"] <= value for name, value in allowed.items())  # False for NaN
    return {**situation, "steps": [ours["steps"], exact["steps"]], **errors, "promised": allowed, "kept": kept}


def rows_of(n: int, shift: float, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Float32 rows x (N, D) of K correlated clusters whose means (K, D), float64, lie `apart` from each other."""
    rng = np.random.default_rng(0)
    means = apart / np.sqrt(2.0) * np.eye(K, D) + shift
    factors = np.eye(D) + 0.3 * rng.standard_normal((K, D, D))
    x = np.empty((n, D), np.float32)
    for first in range(0, n, 100_000):  # in pieces, in float64, and rounded once
        labels = rng.integers(0, K, min(100_000, n - first))
        noise = np.einsum("nij,nj->ni", factors[labels], rng.standard_normal((len(labels), D)))
        x[first : first + len(labels)] = means[labels] + noise
    return x, means


def steps(x: np.ndarray, means: np.ndarray, family: str, dtype: str) -> tuple[dict[str, Any], str]:
    """The parameters after STEPS steps as float64 arrays, and the form in which the last step ran."""
    moved = (means + 0.3 * np.random.default_rng(1).standard_normal(means.shape)).astype(np.float32)
    start = about(moved, family, dtype)
    batches = jaxgmm.Batches.of(x, n_components=K, dtype=np.dtype(dtype))
    state = em.run(em.init(start, batches), batches, em.Settings(tol=0.0, ridge=0.0), STEPS)
    mixture = state.mixture
    arrays = {"means": mixture.means, "covariances": mixture.covariances}
    ended = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
    ended |= {"objective": float(state.objective), "steps": int(state.n_steps)}
    return ended, form_of(mixture, batches.origin)


def promised(objective: float, distance: float) -> dict[str, float]:
    """What float32 may be off by, with data `distance` standard deviations from the origin."""
    rounding = distance * EPS
    return {
        "objective": OBJECTIVE_ABSOLUTE + OBJECTIVE_RELATIVE * abs(objective),
        "means": MEANS + rounding,
        "covariances": COVARIANCES + rounding,
    }


QUANTITIES = {"objective": "nats", "means": "sd", "covariances": "sd²"}


def tables(found: dict[str, Any], place: Place) -> list[str]:
    """A line for each family and number of rows: the worst of its situations. Those that break the promise in full."""
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in place.cells(found, "rows"):
        grouped.setdefault((row["family"], row["n"]), []).append(row)
    if not grouped:
        return []

    def line(family: str, n: int, rows: list[dict[str, Any]]) -> list[Any]:
        made = [row for row in rows if not row["missing"]]
        if not made:
            return [family, n, f"missing: {rows[0]['missing']}", *[NONE] * 4]
        kept, safe = sum(row["kept"] for row in made), sum(row["form"] == "safe" for row in made)
        held = f"{kept} of {len(made)}" if kept == len(made) else f"**{kept} of {len(made)}**"
        return [family, n, f"{len(made)} ({safe})", *(worst(made, name) for name in QUANTITIES), held]

    units = (f"{name}, {unit}" for name, unit in QUANTITIES.items())
    broken = (
        f"{row['family']}, N = {row['n']}, {row['shift']:g} sd from the origin, {row['apart']:g} sd apart, "
        f"{row['form']} form: " + ", ".join(f"{name} {worst([row], name)}" for name in QUANTITIES)
        for rows in grouped.values()
        for row in rows
        if not row["missing"] and not row["kept"]
    )
    return [
        f"### float32 against float64 after {found['steps']} steps, {place.label}",
        "The error that comes nearest to what tests/tolerances.py promises, or exceeds it, and its share of that.",
        table(
            ["family", "N", "situations (safe form)", *units, "kept"],
            (line(*of, rows) for of, rows in grouped.items()),
        ),
        bullets(broken),
    ]


def worst(rows: list[dict[str, Any]], name: str) -> str:
    """The largest share of a promise that is made use of, as the error and the share. NaN is the worst."""
    shares = [(row[f"{name}_error"] / row["promised"][name], row[f"{name}_error"]) for row in rows]
    share, error = max(shares, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])
    return f"{error:.1e} ({100.0 * share:.3g} %)"

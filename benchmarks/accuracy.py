"""float32 against float64: what ten EM steps differ by, for data far from the origin and clusters far apart.

Both start from the same float32 parameters and read the same float32 rows, so only the arithmetic differs. Errors are
those of tests/tolerances.py: the objective in nats (row "objective"), means in standard deviations (row "means"),
covariances in units of sqrt(Σ_ii Σ_jj) (row "covariances"). What is promised is that table's float32 column; a
float32 mean is itself rounded to `distance` · eps standard deviations, which `float32_variances` there adds, and
`promised` here.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from . import isolate
from .child import form_of
from .limits import on_device
from .options import Options

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
    from jaxgmm.families import SHELF

    sizes = [("full", QUICK_ROWS)] if options.quick else [*((family, ROWS) for family in SHELF), *MORE_ROWS]
    rows: list[dict[str, Any]] = []
    for device in options.devices:
        for family, n in sizes:
            of = {"family": family, "n": n}
            situations = list(product(SHIFTS, APART)) if n == ROWS else ENDS
            request = {**of, "situations": situations}
            answer = isolate.run("benchmarks.accuracy:compare", request, LIMIT, on_device(device))
            found: list[dict[str, Any]] = answer.get("rows") or [{"missing": answer.get("missing")}]
            rows += [{**of, "device": device, "d": D, "k": K, **row} for row in found]
            note = answer.get("missing") or f"{sum(row['kept'] for row in found)} of {len(found)} as promised"
            print(f"accuracy {device} {family} N={n}: {note}", flush=True)
    return {"steps": STEPS, "rows": rows}


def compare(family: str, n: int, situations: list[tuple[float, float]]) -> dict[str, Any]:
    """In a child: the errors of one family at every pair of shift and distance."""
    return {"rows": [one(family, n, shift, apart) for shift, apart in situations]}


def one(family: str, n: int, shift: float, apart: float) -> dict[str, Any]:
    """Float32 against float64 in one situation."""
    import jax

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
    import jaxgmm
    from jaxgmm import em

    moved = (means + 0.3 * np.random.default_rng(1).standard_normal(means.shape)).astype(np.float32)
    unit = np.broadcast_to(np.eye(D), (K, D, D))
    start = jaxgmm.Mixture.create(np.full(K, 1.0 / K), moved, unit, family, dtype=np.dtype(dtype))
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

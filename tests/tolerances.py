"""One table of tolerances, by quantity and dtype, each with its reason. No test states another.

A difference passes where |actual − expected| <= factor · (absolute + relative · |expected|). `factor` is for what a
law itself makes grow (condition number, distance from the origin in standard deviations), never for what was seen.
Means are compared in standard deviations, covariances in units of sqrt(Σ_ii Σ_jj): see `assert_same_mixture`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    relative: float
    absolute: float


EPS = {"float32": float(np.finfo(np.float32).eps), "float64": float(np.finfo(np.float64).eps)}

TABLE: dict[str, dict[str, Tolerance]] = {
    # Mean log-likelihood, nats. The mean of rounding errors of log-densities of size 10, each some tens of eps; the
    # promise of the library to its users (float32 against float64), so it is not tightened to what a machine shows.
    "objective": {"float32": Tolerance(1e-6, 2e-5), "float64": Tolerance(1e-13, 1e-12)},
    # How far an objective may fall from one step to the next: the rounding of one mean of log-densities, twice.
    "fall": {"float32": Tolerance(1e-6, 4e-6), "float64": Tolerance(2e-15, 1e-14)},
    # Parameters reached by two orders of summation: rounding, times 1/(1 − rate) of a few dozen EM steps.
    "weights": {"float32": Tolerance(1e-4, 1e-5), "float64": Tolerance(1e-11, 1e-12)},
    "means": {"float32": Tolerance(0.0, 1e-4), "float64": Tolerance(0.0, 1e-11)},
    "covariances": {"float32": Tolerance(0.0, 1e-4), "float64": Tolerance(0.0, 1e-11)},
    # Log-density of one row, nats: the fast form may lose 64 eps of a squared distance (4096 in float64).
    "log_density": {"float32": Tolerance(1e-5, 2e-5), "float64": Tolerance(1e-12, 2e-12)},
    # A responsibility moves by at most a quarter of what a difference of two log-densities does.
    "responsibilities": {"float32": Tolerance(0.0, 2e-5), "float64": Tolerance(0.0, 2e-12)},
    # K shares divided by their own sum: K roundings.
    "sum_to_one": {"float32": Tolerance(0.0, 1e-6), "float64": Tolerance(0.0, 2e-15)},
    # Small linear algebra on matrices of condition number under 100: D · eps · 100.
    "matrices": {"float32": Tolerance(5e-5, 1e-6), "float64": Tolerance(1e-13, 1e-14)},
    # Moments of the data by the two forms: as a row's log-density, times the responsibilities' share.
    "moments": {"float32": Tolerance(5e-5, 5e-5), "float64": Tolerance(1e-11, 1e-11)},
    # An iterative estimate against the exact optimum: VEI makes 20 rounds of a linear iteration from where it was.
    "inner_iteration": {"float32": Tolerance(1e-4, 1e-4), "float64": Tolerance(1e-7, 1e-7)},
    # Where two fits have both settled at a tol of 1e-6, each may still be some hundred tol under its optimum; two
    # optima that differ by less are the same.
    "settled": {"float32": Tolerance(0.0, 5e-4), "float64": Tolerance(0.0, 5e-4)},
    # Mean log-likelihood, nats, with and without a floor that is a share s of up to a tenth of a cluster's variance: a
    # variance that is off by s costs s²/4 for each feature, 2.5e-3 for one, and few of the features have as much.
    "floored": {"float64": Tolerance(0.0, 5e-3)},
    # Weights of a polished fit, 1e-6 nats under the optimum: the likelihood falls by the square of a shift, by little
    # along the direction in which overlapping clusters share rows.
    "polished weights": {"float64": Tolerance(0.0, 5e-3)},
    # Derivatives against central differences of step 1e-5: the square of the step, and eps over the step.
    "derivatives": {"float64": Tolerance(1e-6, 1e-8)},
    # Against programs of other people after the same number of steps, both float64: the same arithmetic in another
    # order; 50 steps of a slowly converging fit let it grow by a few hundred.
    "sklearn": {"float64": Tolerance(1e-10, 1e-10)},
    "oracle": {"float64": Tolerance(1e-10, 1e-10)},
    # Where one program adds a ridge of 1e-6 to variances near 1 and another none: the ridge, which four EM steps of
    # overlapping clusters let grow by ten or so.
    "without_ridge": {"float64": Tolerance(1e-5, 1e-5)},
    # mclust's numbers agree with separate code to 2e-12 (parameters) and 5e-14 (log-likelihoods); the same growth.
    "mclust": {"float64": Tolerance(1e-10, 1e-10)},
    # mclust ends VEI's inner iteration at a relative change of sqrt(eps) = 1.5e-8; this library after 20 rounds. The
    # parameters differ by that over (1 − rate); a log-likelihood by its square plus rounding, where both are near
    # the inner optimum, and by no more than a few 1e-8 of itself before.
    "mclust_inner": {"float64": Tolerance(1e-6, 1e-6)},
    "mclust_inner_loglik": {"float64": Tolerance(5e-8, 1e-8)},
    # 60-digit truths: `factor` carries condition number or offset.
    "multiprecision": {
        "float32": Tolerance(8 * EPS["float32"], 8 * EPS["float32"]),
        "float64": Tolerance(8 * EPS["float64"], 8 * EPS["float64"]),
    },
    # Variances of float32 against float64 on the same data: what the library promises. `float32_variances` adds what
    # the rounding of the means does.
    "variances": {"float32": Tolerance(1e-4, 0.0)},
}


def tolerance(quantity: str, dtype: Any) -> Tolerance:
    return TABLE[quantity][np.dtype(dtype).name]


def float32_variances(distance: float) -> float:
    """Relative tolerance of a float32 variance with data `distance` standard deviations from 0.

    A float32 mean is rounded to distance · eps/2 standard deviations. That moves log-densities in their first order
    and so, where components overlap, responsibilities and variances by up to about twice as much: 1.3e-3 at 1e4.
    """
    return tolerance("variances", "float32").relative + distance * EPS["float32"]


def excess(actual: Any, expected: Any, quantity: str, dtype: Any, factor: Any = 1.0) -> float:
    """The largest difference as a multiple of what is allowed; infinite for a NaN or infinity that differs."""
    actual, expected = np.broadcast_arrays(np.asarray(actual, np.float64), np.asarray(expected, np.float64))
    allowed = tolerance(quantity, dtype)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        ratio = np.abs(actual - expected) / (factor * (allowed.absolute + allowed.relative * np.abs(expected)))
    ratio = np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))
    return float(ratio.max(initial=0.0))


def assert_close(actual: Any, expected: Any, quantity: str, dtype: Any, factor: Any = 1.0, note: str = "") -> None:
    """Equal to the table's tolerance for the quantity in this dtype."""
    assert np.shape(actual) == np.shape(expected), (quantity, np.shape(actual), np.shape(expected))
    ratio = excess(actual, expected, quantity, dtype, factor)
    assert ratio <= 1.0, f"{quantity} {note}: off by {ratio:.3g} times the tolerance\n{actual}\n{expected}"


def in_deviations(means: Any, other: Any, covariances: Any) -> np.ndarray:
    """The difference of two sets of means (K, D) in standard deviations."""
    spread = np.sqrt(np.diagonal(np.asarray(covariances, np.float64), axis1=-2, axis2=-1))
    return (np.asarray(means, np.float64) - np.asarray(other, np.float64)) / spread


def relative_covariances(covariances: Any, other: Any) -> np.ndarray:
    """The difference of two sets of covariances (K, D, D) in units of sqrt(Σ_ii Σ_jj) of the second."""
    covariances, other = np.asarray(covariances, np.float64), np.asarray(other, np.float64)
    spread = np.sqrt(np.diagonal(other, axis1=-2, axis2=-1))
    return (covariances - other) / (spread[..., :, None] * spread[..., None, :])


def assert_same_parameters(
    actual: tuple[Any, Any, Any],
    expected: tuple[Any, Any, Any],
    dtype: Any,
    quantity: str | None = None,
    note: str = "",
) -> None:
    """(weights, means, dense covariances) equal; `quantity` where one tolerance rules all three."""
    zero = np.zeros_like
    assert_close(actual[0], expected[0], quantity or "weights", dtype, note=f"weights {note}")
    means = in_deviations(actual[1], expected[1], expected[2])
    assert_close(means, zero(means), quantity or "means", dtype, note=f"means {note}")
    covariances = relative_covariances(actual[2], expected[2])
    assert_close(covariances, zero(covariances), quantity or "covariances", dtype, note=f"covariances {note}")


def assert_same_mixture(actual: Any, expected: Any, dtype: Any, quantity: str | None = None, note: str = "") -> None:
    """Two `Mixture`s with equal parameters."""
    parts = [(mixture.weights, mixture.means, mixture.covariances) for mixture in (actual, expected)]
    assert_same_parameters(parts[0], parts[1], dtype, quantity, note)

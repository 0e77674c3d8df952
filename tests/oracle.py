"""Slow, plain float64 NumPy: mixtures and EM as the definitions say them, loop by loop. Nothing here is shared with
the library: log-densities solve a linear system for each row, and every family's estimate is written out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).parent / "data"


class Parameters(NamedTuple):
    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    covariances: np.ndarray  # (K, D, D)


class Blobs(NamedTuple):
    """Rows drawn from known Gaussians."""

    x: np.ndarray  # (N, D)
    labels: np.ndarray  # (N,)
    start: Parameters  # some way from the truth


def blobs(
    seed: int, n_rows: int, n_features: int, n_components: int, distance: float = 3.0, start_near: float = 0.5
) -> Blobs:
    """Correlated clusters whose centres lie about `distance` standard deviations apart, and a start for EM."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_components, n_features)) * distance / math.sqrt(2.0)
    # Entries shrink from four features on, since matrices of many features would otherwise be all but singular.
    entry = 0.3 * min(1.0, 2.0 / math.sqrt(n_features))
    mixing = np.eye(n_features) + entry * rng.normal(size=(n_components, n_features, n_features))
    labels = np.arange(n_rows) % n_components
    x = centres[labels] + np.einsum("nij,nj->ni", mixing[labels], rng.normal(size=(n_rows, n_features)))
    means = centres + start_near * rng.normal(size=centres.shape)
    weights = rng.dirichlet(np.full(n_components, 10.0))
    covariances = np.stack([np.diag(rng.uniform(0.8, 2.0, n_features)) for _ in range(n_components)])
    return Blobs(x, labels, Parameters(weights, means, covariances))


def table(name: str) -> np.ndarray:
    """The numeric columns of a data set, without its classes. -> (N, D)."""
    path = DATA / f"{name}.csv"
    with path.open() as lines:
        columns = [i for i, column in enumerate(lines.readline().split(",")) if column.strip().strip('"') != "class"]
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=columns, ndmin=2)


def log_gaussian(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """−½ (D log 2π + log|Σ| + (x−μ)ᵀ Σ⁻¹ (x−μ)) of one row."""
    _, log_det = np.linalg.slogdet(covariance)
    residual = x - mean
    return -0.5 * (len(x) * math.log(2 * math.pi) + log_det + residual @ np.linalg.solve(covariance, residual))


def log_joint(x: np.ndarray, parameters: Parameters) -> np.ndarray:
    """log π_k + log N(x_n; μ_k, Σ_k). -> (N, K)."""
    weights, means, covariances = parameters
    joint = np.empty((len(x), len(weights)))
    for n in range(len(x)):
        for k in range(len(weights)):
            joint[n, k] = np.log(weights[k]) + log_gaussian(x[n], means[k], covariances[k])
    return joint


def log_sum_exp(joint: np.ndarray) -> np.ndarray:
    largest = joint.max(axis=1, keepdims=True)
    return (largest + np.log(np.exp(joint - largest).sum(axis=1, keepdims=True)))[:, 0]


def log_prob(x: np.ndarray, parameters: Parameters) -> np.ndarray:
    return log_sum_exp(log_joint(x, parameters))


def log_likelihood(x: np.ndarray, parameters: Parameters, sample_weight: np.ndarray | None = None) -> float:
    """Mean log-density, nats per unit weight."""
    return float(np.average(log_prob(x, parameters), weights=sample_weight))


def scatters(x: np.ndarray, shares: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Σ_n share_nk (x_n−μ_k)(x_n−μ_k)ᵀ. -> (K, D, D)."""
    out = np.zeros((shares.shape[1], x.shape[1], x.shape[1]))
    for k in range(shares.shape[1]):
        for n in range(len(x)):
            residual = x[n] - means[k]
            out[k] += shares[n, k] * np.outer(residual, residual)
    return out


def estimate(family: str, scatter: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """The covariances that maximise Σ_k −½ (mass_k log|Σ_k| + tr(scatter_k Σ_k⁻¹)). Celeux and Govaert 1995."""
    n_components, n_features = scatter.shape[:2]
    identity = np.eye(n_features)
    own = scatter / mass[:, None, None]
    pooled = scatter.sum(axis=0) / mass.sum()
    if family == "full":
        return own
    if family == "tied":
        return np.stack([pooled] * n_components)
    if family == "diag":
        return own * identity
    if family == "spherical":
        return np.stack([np.trace(own[k]) / n_features * identity for k in range(n_components)])
    if family == "EEI":
        return np.stack([pooled * identity] * n_components)
    if family == "VEI":
        variances = np.stack([np.diag(own[k]) for k in range(n_components)])
        shape = np.ones(n_features)
        for _ in range(10_000):
            volumes = (variances / shape).mean(axis=1)
            new = (mass[:, None] * variances / volumes[:, None]).sum(axis=0)
            new /= np.exp(np.log(new).mean())
            moved, shape = np.abs(new / shape - 1).max(), new
            if moved < 1e-15:
                break
        volumes = (variances / shape).mean(axis=1)
        return np.stack([np.diag(volume * shape) for volume in volumes])
    raise KeyError(f"the estimate of {family} is to be written here")


def em(
    x: np.ndarray,
    start: Parameters,
    family: str,
    n_steps: int,
    ridge: float = 0.0,
    sample_weight: np.ndarray | None = None,
) -> list[tuple[Parameters, float]]:
    """The parameters after 0, 1, … n_steps pairs of E and M, each with its own mean log-likelihood."""
    x = np.asarray(x, np.float64)
    rows = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    parameters = start
    history = [(parameters, log_likelihood(x, parameters, rows))]
    for _ in range(n_steps):
        joint = log_joint(x, parameters)
        shares = np.exp(joint - log_sum_exp(joint)[:, None]) * rows[:, None]
        mass = shares.sum(axis=0)
        means = (shares.T @ x) / mass[:, None]
        scatter = scatters(x, shares, means) + ridge * mass[:, None, None] * np.eye(x.shape[1])
        parameters = Parameters(mass / mass.sum(), means, estimate(family, scatter, mass))
        history.append((parameters, log_likelihood(x, parameters, rows)))
    return history


class Diagonal(NamedTuple):
    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    variances: np.ndarray  # (K, D)


def diagonal_em(
    x: np.ndarray, start: Diagonal, tol: float = 1e-5, max_steps: int = 1000
) -> tuple[Diagonal, np.ndarray]:
    """The NumPy tutorial that this project grew from: EM for diagonal covariances.

    E: log weight + log density, normalised by a log-sum-exp over components. M: the weighted averages. The
    log-likelihood (a sum over rows) is noted before each M-step; the loop ends where it changed by less than `tol`.
    -> the parameters, and the log-likelihoods of the start and after each step.
    """
    weights, means, variances = start
    history: list[float] = []
    for _ in range(max_steps + 1):
        joint = np.stack(
            [
                np.log(weights[k])
                - 0.5 * np.sum(np.log(2 * np.pi * variances[k]) + (x - means[k]) ** 2 / variances[k], axis=1)
                for k in range(len(weights))
            ],
            axis=1,
        )
        each = log_sum_exp(joint)
        history.append(float(each.sum()))
        if len(history) > 1 and abs(history[-1] - history[-2]) < tol:
            break
        shares = np.exp(joint - each[:, None])
        mass = shares.sum(axis=0)
        weights = mass / len(x)
        means = shares.T @ x / mass[:, None]
        variances = np.stack([shares[:, k] @ (x - means[k]) ** 2 / mass[k] for k in range(len(mass))])
    return Diagonal(weights, means, variances), np.array(history)

"""`fit_many`: checks its arguments and returns the result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..._base import check, threefry
from ..._base.mesh import outside_meshes
from ..._base.precision import is_traced, is_transforming, precision_for
from ...families import Family, shape_of_scales
from ...mixture import Mixture
from ...rows.conversion import floating_dtype
from .. import _check
from ..plan import Plan
from ..progress import listening
from ..result import FitResult
from .problems import Common, Given, Problems
from .work import Work

MOST_STEPS = 2**24
"""Most steps of a run: float32, in which the count is packed with the state, is exact up to this."""


def fit_many(
    key: Array,
    xs: Any,
    n_components: int,
    family: str | Family = "full",
    *,
    sample_weight: Any = None,
    n_restarts: int = 1,
    init: str | Mixture | Any = "k-means++",
    tol: float = 1e-3,
    max_steps: int = 200,
    ridge: Any = 1e-6,
    relative_ridge: float = 0.0,
    stopping: str = "gain",
    dtype: Any = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> FitResult:
    """Fit a mixture of K Gaussians to each of B small problems by EM, from R starts each, through two programs.

    key: a JAX random key. xs: an array (B, N, D), or a sequence of B arrays (N, D) of one D and any N, held in memory.
    sample_weight: (B, N), or a sequence of B arrays (N,). init: the name of a seeding, as for `fit`, or your own
    means (B, K, D) or stack of mixtures, from which one run starts for each. relative_ridge times a feature's variance
    over the problem's own rows is added to `ridge`. progress: True for a bar on standard error, or a function that is
    called with (done, B) as problems finish. Everything else as for `fit`.

    -> one `FitResult` whose leaves have a leading axis of problems, in the order given: objective, status and n_steps
    (B,), means (B, K, D), history (B, max_steps + 1), restarts (B, R). `result[b]` is that of problem b: what
    `fit(jax.random.fold_in(key, b), xs[b], ...)` finds, up to rounding and whatever the other problems are. Objectives
    are nats per unit of weight. Long histories are cut so that all together hold at most 2**26 numbers.

    Each problem has its own status, and a failed one does not affect the others. A problem with fewer rows of positive
    weight than components is COLLAPSED from the start, and its mixture and objective are NaN. Ctrl-C ends the work
    early, with a warning: unfinished problems are returned as RUNNING, as far as they got, and with NaN where they had
    not begun. Where there is nothing yet, it is a KeyboardInterrupt.

    Problems with similar numbers of rows share programs, which depend on D, K and the family, and not on B or R; if
    there is little work, they are compiled with less optimisation.

    Raises ValueError or TypeError for arguments and data that cannot be used, before anything is compiled; values that
    are not finite are named by problem, row and column.
    """
    check.random_key(key)
    plan = Plan.of(
        n_components,
        family,
        n_restarts=n_restarts,
        init=init,
        tol=tol,
        max_steps=max_steps,
        ridge=ridge,
        relative_ridge=relative_ridge,
        stopping=stopping,
    )
    if plan.of_resolution:
        raise ValueError("fit_many takes numbers as its ridge: each problem would have a resolution of its own.")
    n_components, settings, n_restarts = plan.n_components, plan.settings, plan.search.n_restarts
    max_steps = min(plan.search.max_steps, MOST_STEPS)
    dtype = None if dtype is None else floating_dtype((), dtype)
    if is_traced((key, xs, sample_weight, settings, init)) or is_transforming():
        check.concrete((key, xs, sample_weight, settings, init), "fit_many")
    problems = Problems.of(xs, sample_weight, dtype)
    shape = (len(problems.lengths), n_components, problems.rows.shape[1])
    given = None if isinstance(init, str) else _given(init, plan.family, shape, problems.dtype)
    check.of_features(settings.ridge, shape[2])
    tell = (lambda now: progress(now.n_done, now.n_parts)) if callable(progress) else progress
    _check.progress(progress)
    with outside_meshes(), precision_for(problems.dtype), listening(tell, None) as listener:
        keys = _pairs_of_keys(key, len(problems.lengths), n_restarts)
        impl = jax.random.key_impl(key)
        how = Common(plan.family, settings, plan.relative_ridge, max_steps, None if given else str(init), impl)
        work = Work(problems, keys, given, how, n_components, n_restarts, listener)
        work.run()
        if work.n_done < len(problems.lengths):
            if not np.isfinite(work.found.objective).any():
                raise KeyboardInterrupt("fit_many was interrupted before there was anything to give back.")
            warnings.warn(
                f"fit_many was interrupted: of {len(problems.lengths)} problems {work.n_done} are done. The others "
                "come back with status RUNNING: as far as they got, or with NaN where they had not begun.",
                stacklevel=2,
            )
        return work.found.result(problems.exponents)


def _given(init: Any, family: Family, shape: tuple[int, int, int], dtype: np.dtype) -> Given:
    if isinstance(init, Mixture):
        _check.mixtures_of_problems(init, family, shape)
        return Given(jax.tree.map(lambda leaf: np.asarray(leaf, dtype), init), np.ones(3, bool))
    means = _check.starts_of_problems(init, shape).astype(dtype)
    like = shape_of_scales(family, *shape[1:], dtype)
    scales = jax.tree.map(lambda leaf: np.zeros((shape[0], *leaf.shape), dtype), like)
    return Given(Mixture(np.zeros(shape[:2], dtype), means, scales, family), np.array([False, True, False]))  # pyright: ignore


def _pairs_of_keys(key: Array, n_problems: int, n_restarts: int) -> np.ndarray:
    """A pair of keys per run, as key data: those that `fit` would derive from `fold_in(key, b)`. -> (B, R, 2, ·)."""
    if threefry.matches(key):
        of_each = threefry.fold_in(np.asarray(jax.random.key_data(key)), np.arange(n_problems))
        return threefry.split(of_each, (n_restarts, 2))
    of_each = jax.vmap(lambda b: jax.random.split(jax.random.fold_in(key, b), (n_restarts, 2)))(
        jnp.arange(n_problems, dtype=jnp.int32)
    )
    return np.asarray(jax.random.key_data(of_each))

"""Checks of the arguments of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._base import check
from ..rows.conversion import real_array


def seeding(name: str, shelf: Iterable[str]) -> None:
    """Check that a name is one of the seedings."""
    if name not in shelf:
        raise ValueError(
            f"Unknown init {name!r}. Expected one of {', '.join(map(repr, shelf))}, or a start of your own."
        )


def criterion(value: Any, shelf: Mapping[str, Any]) -> Any:
    """A Criterion object, from its name or from the object itself."""
    if isinstance(value, str):
        return shelf[check.one_of(value, shelf, "criterion")]
    if not hasattr(value, "of") or not hasattr(value, "larger_is_better"):
        raise TypeError(f"criterion must be a name or a Criterion object, got {type(value).__name__}: {value!r}.")
    return value


def listed(value: Any, name: str, wanted: str) -> list[Any]:
    """One value or several, as a list. ValueError, which asks for what is `wanted`, for an empty one."""
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if not values:
        raise ValueError(f"{name} is empty: give {wanted}.")
    return values


def is_resolution(ridge: Any) -> bool:
    """Whether the ridge is to be found from the columns. ValueError for any other text."""
    if not isinstance(ridge, str):
        return False
    if ridge != "resolution":
        raise ValueError(f"ridge must be a number, one for each feature (D,), or 'resolution', got {ridge!r}.")
    return True


def race(value: Any, kind: type) -> Any:
    """A `Race` or None, from a user's argument: True stands for a race with its defaults."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return kind() if value else None
    if not isinstance(value, kind):
        raise TypeError(f"race must be True, False or a {kind.__name__}, got {type(value).__name__}: {value!r}.")
    return value


def progress(value: Any) -> bool:
    """Whether a bar is shown. TypeError for what is neither True, False, None nor a function."""
    if not (value is None or isinstance(value, (bool, np.bool_)) or callable(value)):
        raise TypeError(
            f"progress must be True for a bar, or a function that is told of progress, got {type(value).__name__}."
        )
    return value is not None and not callable(value) and bool(value)


def problems(xs: Any) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """B tables with the same D, concatenated: rows (ΣN, D), their lengths (B,), and an array of each input dtype.

    xs is an array (B, N, D) or a sequence of arrays (N, D), of any N. Shapes are checked, values are not.
    """
    if isinstance(xs, Mapping):
        raise TypeError(f"xs must be a sequence of tables, got a {type(xs).__name__}. Give list(xs.values()).")
    parts = _parts_of(xs, "xs")
    if isinstance(parts, np.ndarray):
        if parts.ndim != 3 or 0 in (parts.shape[0], parts.shape[2]):
            raise ValueError(
                f"xs must be an array (B, N, D) or a sequence of B arrays (N, D), got an array of shape {parts.shape}. "
                "One problem alone is xs[None]."
            )
        n_problems, n_rows, n_features = parts.shape
        return parts.reshape(-1, n_features), np.full(n_problems, n_rows), [parts]
    if not parts:
        raise ValueError("xs is empty: give at least one problem.")
    n_features = parts[0].shape[1] if parts[0].ndim == 2 else 0
    for index, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] == 0:
            raise ValueError(f"xs[{index}] must be a matrix (N, D) with at least one column, got shape {part.shape}.")
        if part.shape[1] != n_features:
            raise ValueError(
                f"xs[{index}] has {part.shape[1]} features, and xs[0] has {n_features}: all problems of one call have "
                "the same."
            )
    dtypes = list({part.dtype: part[:0] for part in parts}.values())
    return np.concatenate(parts), np.array([len(part) for part in parts]), dtypes


def weights_of_problems(weights: Any, lengths: np.ndarray) -> np.ndarray | None:
    """Weights of all rows (ΣN,), finite and not negative, from an array (B, N) or a sequence of arrays (N,)."""
    if weights is None:
        return None
    parts = _parts_of(weights, "sample_weight")
    if len(parts) != len(lengths):
        raise ValueError(f"sample_weight is of {len(parts)} problems, and xs of {len(lengths)}.")
    for index, (part, n_rows) in enumerate(zip(parts, lengths, strict=True)):
        if part.shape != (n_rows,):
            raise ValueError(
                f"sample_weight[{index}] must have shape ({n_rows},), a weight for each row of xs[{index}], got "
                f"{part.shape}."
            )
    flat = parts.reshape(-1) if isinstance(parts, np.ndarray) else np.concatenate(parts)
    bad = np.flatnonzero(~(np.isfinite(flat) & (flat >= 0)))
    if bad.size:
        problem, row = _place(int(bad[0]), lengths)
        raise ValueError(
            f"sample_weight must be finite and not negative: problem {problem}, row {row} has weight {flat[bad[0]]}."
        )
    return flat


def values_of_problems(rows: np.ndarray, lengths: np.ndarray, dtype: Any, weights: np.ndarray | None) -> None:
    """Check that rows (ΣN, D) are finite and not too large for the dtype; rows of weight 0 may hold anything.

    The error names the problem, row and column of the first bad value.
    """
    if not jnp.issubdtype(rows.dtype, jnp.floating):
        return
    largest = float(jnp.finfo(dtype).max) if jnp.finfo(rows.dtype).max > jnp.finfo(dtype).max else math.inf
    with np.errstate(invalid="ignore"):
        is_good = np.abs(rows) <= largest if largest < math.inf else np.isfinite(rows)
    if is_good.all():
        return
    if weights is not None:
        is_good |= (weights == 0)[:, None]
    bad = np.argwhere(~is_good)
    if not len(bad):
        return
    value, (problem, row) = rows[tuple(bad[0])], _place(int(bad[0, 0]), lengths)
    where = f"problem {problem}, row {row}, column {bad[0, 1]}"
    if np.isfinite(value):
        raise ValueError(f"xs contains {value} in {where}, which is too large for {dtype}. Scale it, or use float64.")
    what = "NaN" if np.isnan(value) else "infinity"
    raise ValueError(f"xs contains {what}: {where} is {value}. Drop or replace such rows.")


def starts_of_problems(means: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """The initial means (B, K, D) that a user gives, checked to be finite."""
    values = np.asarray(real_array(means, "init"))
    if values.shape != shape:
        raise ValueError(
            f"init must be the name of a seeding, means of shape {shape} (problems, components, features) or a stack "
            f"of that many mixtures, got shape {values.shape}."
        )
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"init holds {values[tuple(bad[0])]} in problem {bad[0, 0]}, component {bad[0, 1]}: means must be finite."
        )
    return values


def mixtures_of_problems(mixture: Any, family: Any, shape: tuple[int, int, int]) -> None:
    """Check that a user's stack of mixtures has means of this shape (B, K, D) and the family that is fitted."""
    if mixture.family != family or mixture.means.shape != shape:
        raise ValueError(
            f"init is a stack of mixtures with means of shape {mixture.means.shape} and of family "
            f"{mixture.family.name!r}; shape {shape} (problems, components, features) and family {family.name!r} were "
            "asked for."
        )


def _parts_of(values: Any, name: str) -> np.ndarray | list[np.ndarray]:
    """One NumPy array or a list of them; arrays of JAX and other libraries are converted."""
    is_list = isinstance(values, (list, tuple)) or not (hasattr(values, "ndim") or hasattr(values, "__dlpack__"))
    if isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1:
        is_list = True
    if not is_list:
        return np.asarray(real_array(values, name))
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be an array or a sequence of arrays, got {type(values).__name__}.")
    plain = np.float32, np.float64  # skip the check, which thousands of parts would repeat
    return [
        value
        if type(value) is np.ndarray and value.dtype in plain and value.dtype.isnative
        else np.asarray(real_array(value, f"{name}[{index}]"))
        for index, value in enumerate(values)
    ]


def _place(row: int, lengths: np.ndarray) -> tuple[int, int]:
    """The problem that a row of the concatenated table belongs to, and its index within that problem."""
    ends = np.cumsum(lengths)
    problem = int(np.searchsorted(ends, row, side="right"))
    return problem, row - int(ends[problem] - lengths[problem])

"""Mixtures on disk: a title line with the format, a checksum, and arrays. No pickle: loading executes no code.

jaxgmm-mixture 0001\\n     20 bytes: file type and version of the format
sha256                    32 bytes: digest of that line and of all that follows
npz                       NumPy arrays: `about` (a text in JSON), log_weights (K,), means (K, D), scales.<field>

`about` has the family, its settings, and, where they are known, the names of the columns; who does not ask for these
reads the file without them, so a file with names is of the same format as one without.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._base.files import atomically
from ._base.fork import refuse_if_forked
from ._base.precision import is_traced, precision_for
from ._version import __version__
from .covariances import Covariance
from .families import SHELF, Family
from .mixture import Mixture

FORMAT = 1

_TITLE = re.compile(rb"jaxgmm-mixture (\d{4})\n")


_TITLE_SIZE, _DIGEST_SIZE = 20, hashlib.sha256().digest_size

_STORED = (np.float16, np.float32, np.float64)


def save(path: str | os.PathLike[str], mixture: Mixture, columns: Sequence[str | int] | None = None) -> None:
    """Write a mixture to exactly this path, completely or not at all.

    columns: the names (D,) of the columns that it was fitted to, by which `jaxgmm predict` finds them in a table, and
    which `columns_of` gives back; of a table without names their positions, from 0. An existing file is replaced
    atomically. TypeError if mixture is not a Mixture, or is being traced; ValueError for a mixture with leading axes
    (as `vmap` returns), of a family that is not on `jaxgmm.families.SHELF`, or for other than D columns.
    """
    if not isinstance(mixture, Mixture):
        raise TypeError(
            f"save takes a Mixture, got {type(mixture).__name__}. A fit keeps its own under .mixture, a sweep under "
            ".best.mixture, an estimator under .mixture_."
        )
    if is_traced(mixture):
        raise TypeError("This mixture is being traced by a JAX transformation: save it outside of jit, vmap or grad.")
    if mixture.means.ndim != 2:
        raise ValueError(
            f"save takes one mixture with means (K, D), got means of shape {mixture.means.shape}. Save them one by one."
        )
    if mixture.means.dtype not in _STORED:
        raise TypeError(f"A file keeps float16, float32 or float64, got {mixture.means.dtype}. Convert it first.")
    about: dict[str, Any] = {"jaxgmm": __version__, "family": mixture.family.name}
    about["settings"] = _settings(mixture.family)
    if columns is not None:
        about["columns"] = _columns(columns, mixture.n_features)
    arrays = {"log_weights": mixture.log_weights, "means": mixture.means, **_leaves(mixture.scales)}
    payload = io.BytesIO()
    host: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(payload, about=np.array(json.dumps(about)), **host)
    title = b"jaxgmm-mixture %04d\n" % FORMAT
    with atomically(path) as file:
        file.write(title)
        file.write(hashlib.sha256(title + payload.getbuffer()).digest())
        file.write(payload.getbuffer())


def load(path: str | os.PathLike[str]) -> Mixture:
    """The mixture that `save` wrote, in its own dtype, float64 included whatever JAX's x64 switch says.

    FileNotFoundError if there is no file; ValueError, naming the path, for a file that is damaged, truncated, of
    another type, of a newer format, or of a family that this version does not have.
    """
    return _read(path)[0]


def columns_of(path: str | os.PathLike[str]) -> tuple[str | int, ...] | None:
    """The names of the columns (D,) that a saved mixture was fitted to; their positions, from 0, where the table had no
    names; None where the file does not say. Errors as of `load`."""
    return _read(path)[1]


def _read(path: str | os.PathLike[str]) -> tuple[Mixture, tuple[str | int, ...] | None]:
    refuse_if_forked()
    name = os.fspath(path)
    with open(path, "rb") as file:
        content = file.read()
    title = _TITLE.fullmatch(content[:_TITLE_SIZE])
    if title is None:
        raise ValueError(f"{name} is not a jaxgmm mixture: it does not begin as `jaxgmm.save` writes it.")
    if int(title[1]) > FORMAT:
        raise ValueError(
            f"{name} has format {int(title[1])}, this version of jaxgmm ({__version__}) reads up to {FORMAT}. "
            "Install a newer jaxgmm."
        )
    digest, payload = content[_TITLE_SIZE : _TITLE_SIZE + _DIGEST_SIZE], content[_TITLE_SIZE + _DIGEST_SIZE :]
    if hashlib.sha256(content[:_TITLE_SIZE] + payload).digest() != digest:
        raise ValueError(f"{name} is damaged: its checksum does not match. Restore it from a copy, or fit again.")
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        about = json.loads(str(arrays.pop("about")))
        stored_family, settings, columns = about["family"], dict(about["settings"]), about.get("columns")
    except Exception as error:  # any parser error: the checksum is right, so the file was not written by us
        raise ValueError(f"{name} is not a jaxgmm mixture: its content cannot be read ({error}).") from error
    if stored_family not in SHELF:
        raise ValueError(
            f"{name} holds a mixture of family {stored_family!r}, which this version of jaxgmm ({__version__}) does "
            f"not have. It has {', '.join(map(repr, SHELF))}."
        )
    try:
        shelved: Any = SHELF[stored_family]
        mixture = _build(dataclasses.replace(shelved, **settings), arrays)
        return mixture, None if columns is None else tuple(_columns(columns, mixture.n_features))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} holds no usable mixture of family {stored_family!r}: {error}.") from error


def _columns(columns: Sequence[str | int], n_features: int) -> list[str | int]:
    """Names, or positions, of D columns as JSON values."""
    if isinstance(columns, str) or not all(isinstance(column, (str, int, np.integer)) for column in columns):
        raise TypeError(f"columns must be names, or positions from 0, got {columns!r}.")
    if len(columns) != n_features:
        raise ValueError(f"columns must be {n_features}, one a feature, got {len(columns)}.")
    return [str(column) if isinstance(column, str) else int(column) for column in columns]


def _settings(family: Family) -> dict[str, Any]:
    """The fields in which a family differs from the one of its name on the shelf, as JSON values."""
    shelved = SHELF.get(family.name)
    if type(shelved) is not type(family) or not dataclasses.is_dataclass(family):
        raise ValueError(
            f"Family {family.name!r} ({type(family).__name__}) is not on jaxgmm.families.SHELF, so no file could be "
            "read again. Keep the arrays of the mixture yourself."
        )
    values = {field.name: getattr(family, field.name) for field in dataclasses.fields(family) if field.init}
    settings = {name: value for name, value in values.items() if value != getattr(shelved, name)}
    for name, value in settings.items():
        if not isinstance(value, (bool, int, float, str)):
            raise ValueError(f"Family {family.name!r} with {name}={value!r} cannot be written to a file.")
    return settings


def _leaves(scales: Any) -> dict[str, Any]:
    """The arrays of a Covariance, keyed by field name."""
    return {"scales" + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(scales)}


def _build(family: Family, arrays: dict[str, np.ndarray]) -> Mixture:
    """The mixture from its arrays, checked against the shapes and dtypes that the family has for this K and D."""
    means = arrays["means"]
    if means.ndim != 2 or means.dtype not in _STORED:
        raise ValueError(f"expected floating means (K, D), got {means.dtype} of shape {means.shape}")
    n_components, n_features = means.shape

    def read(covariances: Any) -> Covariance:
        return family.read(covariances, n_features)

    with precision_for(means.dtype):
        dense = jax.ShapeDtypeStruct((n_components, n_features, n_features), means.dtype)
        template = jax.eval_shape(read, dense)
        expected = {
            "log_weights": jax.ShapeDtypeStruct((n_components,), means.dtype),
            "means": jax.ShapeDtypeStruct(means.shape, means.dtype),
            **_leaves(template),
        }
        if arrays.keys() != expected.keys():
            raise ValueError(f"expected the arrays {sorted(expected)}, got {sorted(arrays)}")
        for key, wanted in expected.items():
            if arrays[key].shape != wanted.shape or arrays[key].dtype != wanted.dtype:
                raise ValueError(
                    f"expected {key} as {wanted.dtype} of shape {wanted.shape}, got {arrays[key].dtype} of shape "
                    f"{arrays[key].shape}"
                )
        leaves = [jnp.asarray(arrays[key]) for key in _leaves(template)]
        scales = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return Mixture(jnp.asarray(arrays["log_weights"]), jnp.asarray(means), scales, family)

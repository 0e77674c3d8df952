"""The unit in which rows' weights are kept: a power of two.

A common factor of all weights does not change a fit, but float32 has no 1e-50, and a sum of weights of 1e308 is
infinite. So weights of an unusual scale are divided by the power of two just above their largest, before they are
rounded to the dtype of the computation and before anything is summed. A power of two changes no digit. Weights of an
ordinary scale are kept as they are, and so are sums of them that users see, such as `State.moments`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._base.precision import is_traced, precision_for
from .._base.programs import program

ORDINARY = 2.0**-20, 2.0**20
"""Between these the largest weight is ordinary: the sums of a table of any size then fit into float32."""


def exponent_of(largest: float) -> int:
    """The exponent of the unit for weights of which this is the largest."""
    return int(exponents_of(np.float64(largest)))


def exponents_of(largest: Any) -> np.ndarray:
    """`exponent_of` for each of several sets of weights."""
    is_ordinary = (largest >= ORDINARY[0]) & (largest <= ORDINARY[1])
    return np.where(is_ordinary, 0, np.frexp(largest)[1])


def exponent_above(largest: float) -> int:
    """The exponent of the power of two just above a number; 0 for 0."""
    return int(np.frexp(np.float64(largest))[1])


def in_unit(weights: Any, exponent: Any, dtype: Any) -> np.ndarray:
    """Weights on the host, in units of 2^exponent, rounded to a dtype.

    What is below the dtype's normal numbers becomes 0, as it does in a compiled program.
    """
    found = np.ldexp(np.asarray(weights, np.float64), -exponent).astype(dtype)
    found[found < np.finfo(dtype).tiny] = 0.0
    return found


def from_unit(value: Any, exponent: Any) -> Any:
    """A sum of weights, or of products with them, in the unit of the user's own weights.

    A host number or array becomes float64, which holds it; a traced one keeps its dtype.
    """
    if is_traced((value, exponent)):
        return _times_power_of_two(value, exponent)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(np.asarray(value, np.float64), int(exponent))


def scaled(weights: Any, dtype: Any) -> tuple[Any, Any]:
    """Checked weights (N,), or None, in their unit; and its exponent, an int or, for traced weights, an int32 ()."""
    if weights is None:
        return None, 0
    if is_traced(weights):
        return _scaled_in_program(weights, dtype)
    if isinstance(weights, jax.Array) and any(device.platform != "cpu" for device in weights.devices()):
        exponent = exponent_of(float(weights.max()))
        with precision_for(weights.dtype):
            return (_times(weights, np.int32(-exponent)) if exponent else weights), exponent
    values = np.asarray(weights)
    exponent = exponent_of(float(values.max(initial=0)))
    is_plain = values.dtype.kind in "biu" or not np.any((values < np.finfo(dtype).tiny) & (values > 0))
    return (weights, 0) if not exponent and is_plain else (in_unit(values, exponent, dtype), exponent)


def _scaled_in_program(weights: Array, dtype: Any) -> tuple[Array, Array]:
    if not (jnp.issubdtype(weights.dtype, jnp.floating) and weights.dtype.itemsize >= 4):
        weights = weights.astype(dtype)
    largest = lax.stop_gradient(jnp.max(weights))
    is_ordinary = ((largest >= ORDINARY[0]) & (largest <= ORDINARY[1])) | ~(largest > 0.0)
    exponent = jnp.where(is_ordinary, 0, jnp.frexp(largest)[1]).astype(jnp.int32)
    return _times_power_of_two(weights, -exponent), exponent


def _times_power_of_two(values: Any, exponent: Any) -> Array:
    """values · 2^exponent, in two factors, since one may leave the range of the dtype."""
    values = jnp.asarray(values)
    half = exponent // 2
    first, second = (jnp.exp2(jnp.asarray(part).astype(values.dtype)) for part in (half, exponent - half))
    return values * first * second


@program(hurried=True)
def _times(weights: Array, exponent: Array) -> Array:
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        weights = weights.astype(jnp.float32)
    return _times_power_of_two(weights, exponent)

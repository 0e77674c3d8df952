"""Information criteria: a mixture's log-likelihood with a penalty on its parameters.

They have scikit-learn's sign: smaller is better. (mclust's are their negatives.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._base.precision import is_traced
from ._criterion import Evidence


def aic(log_likelihood: Any, n_parameters: Any) -> Any:
    """Akaike 1974: −2 log L + 2 p. log_likelihood: the total, nats."""
    return -2.0 * log_likelihood + 2.0 * _real(n_parameters, log_likelihood)


def bic(log_likelihood: Any, n_parameters: Any, n: Any) -> Any:
    """Schwarz 1978: −2 log L + p log n. log_likelihood: the total, nats; n: the total weight of the rows."""
    n = _real(n, log_likelihood)
    return -2.0 * log_likelihood + _real(n_parameters, log_likelihood) * (jnp.log(n) if is_traced(n) else np.log(n))


def icl(log_likelihood: Any, n_parameters: Any, n: Any, entropy: Any) -> Any:
    """Biernacki, Celeux and Govaert 2000: bic + 2 · `entropy` of the responsibilities (total, nats).

    With the soft entropy it is their criterion; with the hard one it is mclust's.
    """
    return bic(log_likelihood, n_parameters, n) + 2.0 * entropy


def _real(count: Any, log_likelihood: Any) -> Any:
    """A JAX integer as a float of the log-likelihood's dtype: the two are not promoted under strict dtypes."""
    if not (isinstance(count, jax.Array) and jnp.issubdtype(count.dtype, jnp.integer)):
        return count
    return count.astype(log_likelihood.dtype if isinstance(log_likelihood, jax.Array) else jnp.result_type(float))


@dataclass(frozen=True)
class Information:
    """A criterion that is computed from the rows that were fitted."""

    name: str
    formula: Callable[[Evidence], Any]
    larger_is_better: bool = False
    needs_folds: bool = False

    def of(self, evidence: Evidence) -> float:
        return float(self.formula(evidence))


# Functions with names, and not lambdas: a search holds its criterion, and can be pickled only with it.


def _aic(of: Evidence) -> Any:
    return aic(of.log_likelihood, of.n_parameters)


def _bic(of: Evidence) -> Any:
    return bic(of.log_likelihood, of.n_parameters, of.n)


def _icl(of: Evidence) -> Any:
    return icl(of.log_likelihood, of.n_parameters, of.n, of.entropy)


AIC, BIC, ICL = Information("aic", _aic), Information("bic", _bic), Information("icl", _icl)

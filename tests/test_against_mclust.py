"""mclust's numbers (R), from its own hard labels, after the same (M, E) pairs: parameters, traces, ends, weights.

By `fit`, which compiles nothing for tables as small, and for one of them by the compiled step.
"""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, em
from jaxgmm.families import SHELF
from jaxgmm.search.resident import Resident
from tests import oracle
from tests.tolerances import assert_close, assert_same_parameters

NAMES = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical", "EEI": "EEI", "VEI": "VEI"}
"""mclust's names and ours."""

IN_ONE_DIMENSION = {"V": ("full", "diag", "spherical"), "E": ("tied", "EEI")}

SETS = {"faithful": 2, "iris": 3, "diabetes": 3}


@cache
def truth(data):
    return json.loads((oracle.DATA / "mclust" / f"{data}.json").read_text())


class Case(NamedTuple):
    data: str
    n_components: int
    model: str
    family: str


CASES = [Case(data, size, model, ours) for data, size in SETS.items() for model, ours in NAMES.items()]
CASES += [Case("galaxies", 3, model, ours) for model, names in IN_ONE_DIMENSION.items() for ours in names]


def name_of(case):
    return f"{case.data}-{case.n_components}-{case.model}-{case.family}"


every_case = pytest.mark.parametrize("case", CASES, ids=name_of)


def weighted_fit(case):
    """mclust's fit with weights for this model and number of components; None where it has none."""
    for fit in truth(case.data)["weighted"]["fits"]:
        if (fit["model"], fit["G"]) == (case.model, case.n_components):
            return fit
    return None


def entry(case, section, **more):
    """The one entry of a section for this model and number of components; None where mclust has none."""
    wanted = {"model": case.model, "G": case.n_components, **more}
    found = [e for e in truth(case.data)[section] if all(e.get(k) == v for k, v in wanted.items())]
    return found[0] if found else None


def labels(case, init):
    return np.array(truth(case.data)["labels"][init][str(case.n_components)]) - 1


def after(case, pairs, init, weights=None):
    """The fit after this many pairs of mclust's: the first M-step is from labels or responsibilities."""
    x = oracle.table(case.data)
    how = {"tol": 0.0, "max_steps": pairs - 1, "ridge": 0.0, "dtype": np.float64}
    how |= {"init": init, "sample_weight": weights}
    result = jaxgmm.fit(jax.random.key(0), x, case.n_components, case.family, **how)
    assert int(result.n_steps) == pairs - 1
    return result, len(x) if weights is None else float(np.sum(weights))


def parameters(mixture):
    return mixture.weights, mixture.means, mixture.covariances


def quantities(case):
    """Tolerances of parameters and log-likelihood: looser where mclust's own inner iteration stops early."""
    return ("mclust_inner", "mclust_inner_loglik") if case.family == "VEI" else ("mclust", "mclust")


def assert_parameters(mixture, expected, case):
    values = tuple(np.array(expected[key], np.float64) for key in ("weights", "means", "covariances"))
    n_features = mixture.n_features
    values = (values[0], values[1].reshape(-1, n_features), values[2].reshape(-1, n_features, n_features))
    assert_same_parameters(parameters(mixture), values, np.float64, quantities(case)[0])


@every_case
def test_from_hard_labels(case):
    """One step, the trace of fifty, and the end that mclust comes to at a relative change of 1e-14."""
    _, loglik = quantities(case)
    first = entry(case, "one_step", kind="hard")
    result, total = after(case, 1, labels(case, first["init"]))
    assert_parameters(result.mixture, first, case)
    assert_close(float(result.objective) * total, first["loglik"], loglik, np.float64)
    trace = entry(case, "trace", kind="hard", init=first["init"])
    result, total = after(case, trace["k"][-1], labels(case, first["init"]))
    for pairs, expected in zip(trace["k"], trace["loglik"], strict=True):
        ours = float(result.history[pairs - 1]) * total
        assert_close(ours, expected, loglik, np.float64, note=f"after {pairs} pairs")
    end = entry(case, "grid_tight")
    result, total = after(case, end["n_iter"], labels(case, truth(case.data)["main_init"]))
    assert_close(float(result.objective) * total, end["loglik"], loglik, np.float64, note="at the end")
    n_features = result.mixture.n_features
    n_free = case.n_components * (n_features + 1) - 1 + SHELF[case.family].n_free(case.n_components, n_features)
    assert n_free == end["df"]
    if "weights" in end:
        assert_parameters(result.mixture, end, case)


@pytest.mark.parametrize("case", [case for case in CASES if case.data == "faithful"], ids=name_of)
def test_compiled_steps_from_hard_labels(case, x64):
    """One step and the trace of fifty."""
    _, loglik = quantities(case)
    first = entry(case, "one_step", kind="hard")
    x, settings = oracle.table(case.data), em.Settings(tol=0.0, ridge=0.0)
    batches, init = Batches.of(x, n_components=case.n_components), labels(case, first["init"])
    mixture = Resident(batches).mixture_from(init, case.n_components, SHELF[case.family], settings.ridge)
    state = em.init(mixture, batches)
    assert_parameters(state.mixture, first, case)
    trace = entry(case, "trace", kind="hard", init=first["init"])
    for pairs, expected in zip(trace["k"], trace["loglik"], strict=True):
        state = em.run(state, batches, settings, pairs - 1)
        assert int(state.n_steps) == pairs - 1
        assert_close(float(state.objective) * len(x), expected, loglik, np.float64, note=f"after {pairs} pairs")


@every_case
def test_from_soft_responsibilities(case):
    """One step from 0.8 · one-hot + 0.2/G, with mclust's responsibilities after it."""
    expected = entry(case, "one_step", kind="soft")
    hard = np.eye(case.n_components)[labels(case, expected["init"])]
    result, total = after(case, 1, 0.8 * hard + 0.2 / case.n_components)
    assert_parameters(result.mixture, expected, case)
    quantity, loglik = quantities(case)
    assert_close(float(result.objective) * total, expected["loglik"], loglik, np.float64)
    assert_close(result.effective_counts, np.array(expected["resp_colsum"]), quantity, np.float64)
    head = np.array(expected["resp_head"])
    shares = result.mixture.responsibilities(oracle.table(case.data)[: len(head)])
    assert_close(shares, head.reshape(len(head), -1), quantity, np.float64)


@pytest.mark.parametrize("case", [case for case in CASES if weighted_fit(case)], ids=name_of)
def test_integer_weights(case):
    """Weights are repeated rows: mclust's fit of the repeated rows, after five pairs and at its end."""
    expected, weights = weighted_fit(case), np.array(truth(case.data)["weighted"]["w"], np.float64)
    _, loglik = quantities(case)
    init = labels(case, truth(case.data)["main_init"])
    for pairs, name in ((5, "loglik_repeated_after_5"), (1001, "loglik_repeated_rows")):
        result, total = after(case, pairs, init, weights)
        assert_close(float(result.objective) * total, expected[name], loglik, np.float64, note=name)

"""What a stranger writes needs no shelf and no private name, and passes for one of ours."""

from __future__ import annotations

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Status, em
from tests import oracle, stranger
from tests.tolerances import assert_close

BLOBS = oracle.blobs(seed=3, n_rows=100, n_features=3, n_components=2)
X = BLOBS.x.astype(np.float32)
KEY = jax.random.key(0)


def test_a_stranger_s_file_knows_public_names_alone():
    tree = ast.parse(Path(stranger.__file__).read_text())
    taken = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxgmm")
        for alias in node.names
    ]
    assert sorted(taken) == [("jaxgmm", "criteria"), ("jaxgmm", "families"), ("jaxgmm", "priors")]
    used = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert not [name for name in used if name.startswith("_")]


def test_a_stranger_s_family_is_fitted():
    result = jaxgmm.fit(KEY, X, 2, stranger.SharedSpherical(), n_restarts=2)
    matrices = np.asarray(result.mixture.covariances)
    assert int(result.status) == Status.CONVERGED
    np.testing.assert_array_equal(matrices, np.broadcast_to(matrices[0, 0, 0] * np.eye(3), (2, 3, 3)))


@pytest.mark.parametrize("family", ["full", "EII"])
def test_a_stranger_s_criterion_chooses(family):
    """It stands in the table beside ours, is what the best is the best by, and is drawn."""
    pytest.importorskip("matplotlib").use("Agg")
    chosen = stranger.SharedSpherical() if family == "EII" else family
    sweep = jaxgmm.sweep(KEY, X, [1, 2, 3], chosen, n_restarts=2, criterion=stranger.ConsistentAIC())
    table = sweep.table()
    for row in table:
        assert_close(row["caic"], row["bic"] + row["n_params"], "objective", np.float64)
    assert sweep.best_cell.K == min(table, key=lambda row: row["caic"])["K"]
    assert "caic" in repr(sweep)
    assert "CAIC" in sweep.plot().get_ylabel()


def test_a_stranger_s_prior_pulls_the_means():
    """The posterior never falls, and means lie nearer to the centre the stronger the prior is."""
    start = jaxgmm.Mixture.create(*BLOBS.start, dtype=np.float32)
    distances = []
    for strength in (0.0, 50.0, 5000.0):
        prior = stranger.ShrunkMeans(np.zeros(3), strength)
        settings = em.Settings(prior=prior)
        state = em.init(start, X, settings)
        for _ in range(5):
            before, state = state, em.step(state, X, settings)
            assert int(state.status) != Status.NOT_MONOTONE
        assert float(state.objective) >= float(before.objective) - 1e-5
        distances.append(np.linalg.norm(state.mixture.means))
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize("criterion", ["best", 3, object()])
def test_what_is_no_criterion_is_refused(criterion):
    with pytest.raises((TypeError, ValueError), match="criterion"):
        jaxgmm.sweep(KEY, X, [1], "diag", criterion=criterion)

"""Every notebook runs from its first cell to its last, without Jupyter, and leaves what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str = "code") -> list[dict]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def run(path: Path) -> dict:
    """All code cells in one namespace. -> that namespace."""
    namespace = {"__name__": path.stem}
    for number, cell in enumerate(cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), namespace)
    return namespace


def from_numpy_to_jax(left: dict) -> None:
    """NumPy and JAX agree, the restarts beat the poor start, the bad seed has a status, the estimator agrees."""
    assert left["largest_difference"] < 1e-10
    assert left["status"].name == "CONVERGED"
    assert int(left["state"].n_steps) == len(left["history"]) - 1
    assert np.all(np.diff(left["history"]) > 0.0)
    assert left["bad_status"].name == "COLLAPSED"
    assert left["objectives"].shape == (32,)
    assert left["objectives"].max() > left["history"][-1] + 0.1
    # The classes that the data were drawn from are found again.
    fitted = np.asarray(left["result"].mixture.means)
    nearest = np.argmin(np.linalg.norm(fitted[:, None] - left["class_means"], axis=2), axis=1)
    assert sorted(nearest) == list(range(5))
    assert np.abs(fitted - left["class_means"][nearest]).max() < 0.2
    assert left["gm"].converged_


def choosing_a_mixture(left: dict) -> None:
    """mclust's choice, three criteria that differ, a grid that only the escape solves, a spike, the command line."""
    assert (left["ours"].family, left["ours"].K) == ("tied", 3)
    assert len({(left[name].family, left[name].K) for name in ("ours", "by_icl", "by_held_out")}) == 3
    objective = left["objective"]
    reached = {name for name, value in objective.items() if value > objective["from the true means"] - 1e-3}
    assert reached == {"one start, split-merge", "from the true means"}
    assert len(left["heights"]) > 1
    assert not left["sound"].spurious.any()
    assert left["spiked"].spurious.sum() == 1
    assert left["errors"].n_failed == 0
    assert left["tests"][0].p_value < left["tests"][1].p_value
    assert np.allclose(left["same_mixture"].covariances, left["sweep"].best.mixture.covariances)


PROMISES = {"01_from_numpy_to_jax": (2, from_numpy_to_jax), "02_choosing_a_mixture": (2, choosing_a_mixture)}
"""By notebook: how many figures it draws, and what it leaves behind."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_leaves_what_it_promises(path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    n_figures, check = PROMISES[path.stem]
    pyplot.close("all")
    try:
        with matplotlib.rc_context():
            left = run(path)
        assert len(pyplot.get_fignums()) == n_figures
        assert all(pyplot.figure(number).axes for number in pyplot.get_fignums())
        check(left)
    finally:
        pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_executed_in_order_and_small(path):
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == PROMISES[path.stem][0]
    assert path.stat().st_size < 300_000


def test_there_is_a_promise_for_every_notebook():
    assert {path.stem for path in NOTEBOOKS} == set(PROMISES)

"""The benchmark suite: that its problems, counts and judge are right, that a cell is measured, and how one dies."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from benchmarks import __main__ as suite
from benchmarks import contenders, isolate, iteration, limits, problems, record
from benchmarks.contenders import CONTENDERS
from benchmarks.options import Options
from benchmarks.problems import Problem

from .tolerances import assert_close

TINY = {family: Problem(family, 1000, 3, 4) for family in ("full", "tied", "diag", "spherical")}


def ask(function, request=None, time_limit=60.0):
    return isolate.run(f"tests.benchmark_children:{function}", request or {}, time_limit)


def test_a_child_answers_from_another_process():
    answer = ask("double", {"number": 21})
    assert answer["doubled"] == 42
    assert answer["pid"] != os.getpid()
    assert answer["peak_bytes"] is None or answer["peak_bytes"] > 1e6


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("refuse", "it is not for me"),
        ("die", "crashed with SIGABRT"),
        ("raise_with_a_folder", "ValueError: nothing in …/benchmarks at all"),
        ("absent", "AttributeError"),
    ],
)
def test_how_a_child_fails_is_a_reason(function, reason):
    assert ask(function)["missing"].startswith(reason)


def test_a_child_that_hangs_is_ended():
    assert ask("sleep", time_limit=3.0) == {"missing": "ran past the limit of 3 s"}


def test_a_child_inherits_no_limits_and_may_print(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    answer = ask("chatter")
    assert (answer["variable"], answer["limit"]) == (None, None)
    assert {"OPENBLAS_CORETYPE", "OMP_NUM_THREADS"} <= set(record.machine()["environment"]["dropped"])


# Problems, their judge and their counts


def test_problems_are_the_same_in_every_dtype_and_have_names_of_their_own():
    assert [p.name for p in problems.PROBLEMS[:3]] == ["full_200k_16_16", "diag_500k_8_32", "full_1M_3_8"]
    for quick in (False, True):
        names = [p.name for p in problems.chosen(None, quick)]
        assert len(set(names)) == len(names)
    single, double = (TINY["full"].data(dtype) for dtype in ("float32", "float64"))
    assert single.x.dtype == np.float32
    assert all(np.array_equal(a, b.astype(np.float32)) for a, b in zip(single, double, strict=True))
    with pytest.raises(ValueError, match="no problem is called 'full_1_1_1'"):
        problems.chosen(("full_1_1_1",), False)


@pytest.mark.parametrize("family", TINY)
def test_the_judge_agrees_with_scipy(family, monkeypatch):
    monkeypatch.setattr(problems, "BLOCK", 300)
    rng = np.random.default_rng(0)
    data = TINY[family].data("float64")
    covariances = data.covariances * rng.uniform(0.5, 2.0, data.covariances.shape)
    weights = rng.dirichlet(np.ones(4))
    shown = {
        "full": lambda k: covariances[k],
        "tied": lambda k: covariances,
        "diag": lambda k: np.diag(covariances[k]),
        "spherical": lambda k: covariances[k] * np.eye(3),
    }[family]
    density = sum(w * multivariate_normal(data.means[k], shown(k)).pdf(data.x) for k, w in enumerate(weights))
    found = problems.objective(family, data.x, weights, data.means, covariances)
    assert found == pytest.approx(np.mean(np.log(density)), rel=1e-12)


def test_counts_by_hand():
    """N = 1000, D = 3, K = 4."""
    counted = {family: (limits.flops(p), limits.flops_symmetric(p)) for family, p in TINY.items()}
    assert counted == {
        "full": (144_000, 96_000),
        "tied": (84_000, 72_000),
        "diag": (96_000, 96_000),
        "spherical": (48_000, 48_000),
    }
    rates = {"gemm_flops_per_s": 1e6, "copy_bytes_per_s": 1e6}
    assert limits.floor(TINY["full"], "float32", rates) == 0.144
    assert limits.floor(TINY["full"], "float64", {**rates, "gemm_flops_per_s": 1e9}) == 0.024
    assert limits.floor(TINY["full"], "float32", {"missing": "no GPU"}) is None


# Contenders


@pytest.mark.parametrize("family", TINY)
def test_contenders_agree_on_where_em_goes(family):
    """Those that are here and do without torch, which is slow to import. oneDAL's ridge is for singular matrices."""
    ended = {}
    data = TINY[family].data("float64")
    for name in ("jaxgmm", "scikit-learn", "daal4py"):
        if contenders.missing(CONTENDERS[name], TINY[family], "float64", "cpu") is None:
            ended[name] = CONTENDERS[name].prepare(TINY[family], data, "cpu")(4, 0.0)
    assert {outcome.n_iterations for outcome in ended.values()} == {4}
    ours = ended.pop("jaxgmm")
    assert ours.covariances.shape == data.covariances.shape
    for name, theirs in ended.items():
        for a, b in zip(ours[:3], theirs[:3], strict=True):
            assert_close(a, b, "without_ridge" if name == "daal4py" else "sklearn", "float64", note=name)


def test_why_a_contender_is_missing():
    tied = TINY["tied"]
    for name, reason in (("daal4py", "has no tied covariances"), ("gmmx", "has no tied covariances")):
        assert CONTENDERS[name].unsupported(tied, "float32", "cpu") == reason
    assert CONTENDERS["gmmx"].unsupported(TINY["full"], "float64", "cpu") == "refuses float64"
    assert CONTENDERS["scikit-learn"].unsupported(tied, "float32", "gpu") == "runs on the CPU only"
    absent = contenders.CONTENDERS["gmmx"].__class__(modules=("no_such_module",))
    assert contenders.missing(absent, TINY["full"], "float32", "cpu") == "not installed"


# Cells, and the whole


def test_the_count_of_a_long_call_is_found_in_steps():
    def call(iterations):
        return 1e-3 * iterations, contenders.Outcome(*[np.zeros(0)] * 3, iterations)

    many, seconds = iteration._many(call, quick=False)
    assert 300 <= many <= 1500
    assert seconds == pytest.approx(1e-3 * many)
    figures, made = iteration._pairs(call, many, seconds, repeats=7, timed=0.0)
    assert figures == pytest.approx([1e-3] * 5)
    assert made == [1, many]
    with pytest.raises(isolate.Unsupported, match="stopped after 1 of 9 iterations"):
        iteration._pairs(lambda _: call(1), 9, 0.1, repeats=3, timed=0.0)


def test_one_file_holds_a_run(tmp_path, monkeypatch, capsys):
    """Limits and one problem, ours alone; and a section that fails costs no other."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(limits, "QUICK_PRODUCT", 64)
    arguments = "--quick --sections iteration --problems full_2k_2_5 --contenders jaxgmm --devices cpu --repeats 3"
    assert suite.main(arguments.split()) == 0
    (path,) = tmp_path.glob("*-quick.json")
    written = json.loads(path.read_text())
    assert written["options"]["quick"]
    assert set(written["limits"]["cpu"]["float32"]) >= {"gemm_flops_per_s", "copy_bytes_per_s"}
    (cell,) = written["iteration"]["cells"]
    assert cell["missing"] is None
    spread = cell["seconds_per_iteration"]
    assert len(spread["runs"]) == 3
    assert spread["low"] <= spread["median"] <= spread["high"]
    assert cell["objective_after"] == iteration.PROBE
    assert cell["fraction_of_floor"] == pytest.approx(cell["floor_s"] / spread["median"])
    (converged,) = written["iteration"]["converged"]
    assert converged["objective"] >= cell["objective"] - 0.01
    assert "full_2k_2_5" in capsys.readouterr().out


def test_a_section_that_fails_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "visible_devices", lambda: ("cpu",))
    monkeypatch.setattr(suite.importlib, "import_module", lambda name: {"benchmarks.import_time": Working}[name])
    assert suite.main("--quick --sections memory import_time".split()) == 1
    written = json.loads(next(tmp_path.glob("*-quick.json")).read_text())
    assert written["memory"]["missing"].startswith("KeyError")
    assert written["import_time"] == {"repeats": 3}


class Working:
    @staticmethod
    def measure(options: Options):
        return {"repeats": options.repeats}


def test_misuse_is_told_before_anything_runs(capsys):
    for arguments in ("--problems nothing", "--contenders nobody", "--sections none"):
        with pytest.raises(SystemExit) as ended:
            suite.main(["--devices", "cpu", *arguments.split()])
        assert ended.value.code == 2
    assert "no contender is called 'nobody'" in capsys.readouterr().err

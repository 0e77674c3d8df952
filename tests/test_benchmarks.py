"""The benchmark suite: that its problems, counts and judge are right, that a cell is measured, and how one dies."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal

from benchmarks import __main__ as suite
from benchmarks import (
    card,
    child,
    contenders,
    hard,
    isolate,
    iteration,
    limits,
    memory,
    problems,
    ratios,
    record,
    searches,
    starts,
    statistics,
    timing,
)
from benchmarks.contenders import CONTENDERS
from benchmarks.options import LEFT_OUT, Options
from benchmarks.problems import Problem

from . import benchmark_children as children
from .tolerances import assert_close

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _as_users_have_jax():
    """Other packages are measured here, too, and they leave promotion to JAX."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


TINY = {family: Problem(family, 1000, 3, 4) for family in ("full", "tied", "diag", "spherical")}


def test_a_child_answers_from_another_process(capsys):
    """What was asked stands beside the answer, and both are told."""
    answer = isolate.ask(children.double, 60.0, "cpu", number=21)
    assert answer.pop("pid") != os.getpid()
    assert answer == {"device": "cpu", "number": 21, "missing": None, "doubled": 42}
    assert "benchmark_children double, device cpu, number 21: doubled 42, pid " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (children.refuse, "it is not for me"),
        (children.die, "crashed with SIGABRT"),
        (children.raise_with_a_folder, "ValueError: nothing in …/benchmarks at all"),
    ],
)
def test_how_a_child_fails_is_a_reason(function, reason):
    assert isolate.run(function, {}, 60.0)["missing"].startswith(reason)


def test_a_child_that_hangs_is_ended():
    assert isolate.run(children.sleep, {}, 3.0) == {"missing": "ran past the limit of 3 s"}


def test_a_child_inherits_no_limits_and_may_print(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    answer = isolate.run(children.chatter, {}, 60.0)
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
    counted = {family: limits.flops(problem) for family, problem in TINY.items()}
    assert counted == {"full": 144_000, "tied": 84_000, "diag": 96_000, "spherical": 48_000}
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
        if CONTENDERS[name].missing(TINY[family], "float64", "cpu") is None:
            ended[name] = CONTENDERS[name].prepare(TINY[family], data, "cpu")(4, 0.0)
    assert {outcome.steps for outcome in ended.values()} == {4}
    ours = ended.pop("jaxgmm")
    assert ours.covariances.shape == data.covariances.shape
    for name, theirs in ended.items():
        for a, b in zip(ours[1:4], theirs[1:4], strict=True):
            assert_close(a, b, "without_ridge" if name == "daal4py" else "sklearn", "float64", note=name)


def test_why_a_contender_is_missing():
    here = {name: replace(contender, modules=("numpy",)) for name, contender in CONTENDERS.items()}
    for name, family, dtype, device, reason in (
        ("daal4py", "tied", "float32", "cpu", "has no tied covariances"),
        ("gmmx", "tied", "float32", "cpu", "has no tied covariances"),
        ("gmmx", "full", "float64", "cpu", "refuses float64"),
        ("scikit-learn", "tied", "float32", "gpu", "runs on the CPU only"),
        ("jaxgmm", "tied", "float64", "gpu", None),
    ):
        assert here[name].missing(TINY[family], dtype, device) == reason
    absent = replace(CONTENDERS["gmmx"], modules=("no_such_module",))
    assert absent.missing(TINY["full"], "float32", "cpu") == "not installed"


# Cells, and the whole


def costing(each, overhead=0.4, settles=5000):
    """A call whose iterations take `each` seconds, and which makes `settles` of them at most."""

    def call(iterations, tol=0.0):
        made = min(iterations, settles if tol == 0.0 else 12)
        return overhead + each * made, child.Fitted("full", *[np.zeros(0)] * 3, made)

    return call


def counted(call):
    """The same call, of which only how many iterations it made is asked."""

    def made(iterations):
        seconds, outcome = call(iterations)
        return seconds, outcome.steps

    return made


def test_a_long_call_outlasts_a_short_one_whatever_calls_cost():
    call = counted(costing(1e-3))
    many, each, seconds = timing.long_enough(call, call(1)[0])
    assert 300 <= many <= 1500
    assert (each, seconds) == pytest.approx((1e-3, call(many)[0]))
    figures, made = timing.pairs(call, many, 5)
    assert figures == pytest.approx([1e-3] * 5)
    assert made == [1, many]


def test_a_slow_peer_makes_few_iterations_and_few_calls():
    call = counted(costing(6.0))
    many, each, seconds = timing.long_enough(call, call(1)[0])
    assert (many, each, seconds) == (timing.PROBE, pytest.approx(6.0), 12.4)
    assert 6.4 + 12.4 > timing.TIMED
    assert timing.pairs(call, many, 3) == (pytest.approx([6.0]), [1, 2])
    assert timing.pairs(call, many, 3, [5.0], 30.0) == ([5.0], [1, 2])


def test_a_peer_that_stops_at_once_is_missing():
    with pytest.raises(isolate.Unsupported, match="stopped after 1 of 9 iterations"):
        timing.pairs(counted(costing(1e-3, settles=1)), 9, 3)


def test_turns_are_taken():
    """So that a slow moment of the machine meets all."""
    order = []
    measures = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    assert timing.by_turns(measures, 2) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_fits_to_convergence_are_as_long_as_can_be_afforded(monkeypatch):
    monkeypatch.setattr(child, "objective", lambda *_: -3.0)
    x = TINY["full"].data("float64").x
    slow, fast = (iteration._to_convergence(costing(each), x, each) for each in (2.0, 0.01))
    assert (slow["limit"], slow["iterations"]) == (3, 3)
    assert (fast["limit"], fast["iterations"]) == (iteration.MAX_STEPS, 12)
    assert fast["seconds"] == pytest.approx(0.52)
    slowest = iteration._to_convergence(costing(20.0), x, 20.0)
    assert slowest == {"missing": "an iteration takes 20 s"}


def test_the_fast_are_measured_in_two_rounds_and_the_slow_in_one(monkeypatch):
    """The second round begins when all have had the first; figures of both are pooled, ours and theirs alike."""
    seconds = {"jaxgmm": 0.01, "scikit-learn": 0.02, "daal4py": 2.0}
    asked = []

    def run(function, request, *_):
        name, pairs = request["contender"], request["n_pairs"]
        asked.append((function.__name__, name, pairs))
        if function is iteration.again:
            return {"runs": [2.0 * seconds[name]] * pairs} if name == "jaxgmm" else {"missing": "crashed with SIGABRT"}
        runs = [seconds[name]] * pairs
        made = {"missing": None, "rounds": [runs], "iterations": {"asked": [1, 30]}, "objective": -3.0}
        return made | {"seconds_per_iteration": timing.spread(runs)}

    monkeypatch.setattr(isolate, "run", run)
    monkeypatch.setattr(contenders.Contender, "missing", lambda *_: None)
    monkeypatch.setattr(limits, "measure", lambda _: {"cpu": {"float32": {"missing": "not measured"}}})
    made = iteration.measure(Options(dtypes=("float32",), contenders=tuple(seconds), problems=("full_2k_2_5",)))
    first = [("cell", name, 5) for name in seconds]
    assert asked == [*first, ("again", "jaxgmm", 4), ("again", "scikit-learn", 4)]
    ours, peer, slow = made["cells"]
    assert ours["seconds_per_iteration"]["runs"] == [0.01] * 5 + [0.02] * 4
    assert (ours["seconds_per_iteration"]["median"], ours["seconds_per_iteration"]["high"]) == (0.01, 0.02)
    assert peer["rounds"] == [[0.02] * 5, []]
    assert len(slow["rounds"]) == 1


def test_what_time_does_not_allow_is_named(monkeypatch):
    """Nothing is begun when the time is up, and a child that was begun just before has a little more."""
    asked = []
    monkeypatch.setattr(isolate, "run", lambda *arguments: asked.append(arguments) or {"missing": "crashed"})
    monkeypatch.setattr(limits, "measure", lambda _: {"cpu": {"float32": {"missing": "not measured"}}})
    options = {"dtypes": ("float32",), "contenders": ("jaxgmm",), "problems": ("full_2k_2_5",)}
    late, in_time = (Options(**options, until=time.monotonic() + seconds) for seconds in (-1.0, 60.0))
    assert [cell["missing"] for cell in iteration.measure(late)["cells"]] == [LEFT_OUT]
    assert card.measure(late) == {"cpu": {name: {"missing": LEFT_OUT} for name in card.PARTS}}
    assert not asked
    assert [cell["missing"] for cell in iteration.measure(in_time)["cells"]] == ["crashed"]
    assert 60.0 < asked[0][2] < iteration.TIME_LIMIT
    assert Options().limit(7.0) == 7.0


def test_a_card_s_parts_are_measured_one_by_one(monkeypatch, tmp_path):
    """What identifies a measurement stands beside it; one that fails is a reason, one that comes too late is named."""

    def some(size):
        return {"seconds": 0.5} if size == 1 else 1 / 0 if size == 2 else now.append(100.0) or {}

    now = [0.0]
    monkeypatch.setattr(card.time, "monotonic", lambda: now[-1])
    monkeypatch.setitem(card.PARTS, "some", card.Part(1.0, some, [{"size": size} for size in (1, 2, 3, 4)], []))
    failed = {"size": 2, "missing": "ZeroDivisionError: division by zero"}
    made = card.part("some", False, 10.0, str(tmp_path / "kept"))
    assert made == {"rows": [{"size": 1, "seconds": 0.5}, failed, {"size": 3}], "left_out": ["size 4"]}
    assert json.loads((tmp_path / "kept").read_text())["rows"] == made["rows"]


def test_a_card_s_part_that_is_ended_keeps_its_rows(monkeypatch):
    """What a child had measured when it was ended is in the result, beside the floor; shares fit the time there is."""
    problem = card.QUICK
    asked = []

    def run(function, request, *_):
        asked.append(request["seconds"])
        rows = {"rows": [{"problem": problem, "seconds": 0.5}], "left_out": []}
        Path(request["kept"]).write_text(json.dumps(rows))
        return {"missing": "ran past the limit of 3 s"}

    monkeypatch.setattr(isolate, "run", run)
    rates = {"gemm_flops_per_s": 1e9, "copy_bytes_per_s": 1e9}
    monkeypatch.setattr(limits, "measure", lambda _: {"gpu": {"float32": rates}})
    options = Options(devices=("cpu", "gpu"), sections=("card", "iteration"), until=time.monotonic() + 100.0)
    found = card.measure(options)
    assert set(found) == {"gpu"}
    assert found["gpu"]["large"]["missing"] == "ran past the limit of 3 s"
    (row,) = found["gpu"]["large"]["rows"]
    assert row["floor_s"] == limits.floor(Problem.of(problem), "float32", rates)
    assert row["fraction_of_floor"] == row["floor_s"] / 0.5
    assert sum(asked) <= 100.0 * card.OURS


@pytest.mark.parametrize("name", card.PARTS)
def test_a_card_s_parts_run_on_a_processor(name, tmp_path):
    """Tiny, and all of them but what asks for a card; every time is a time."""
    made = card.part(name, True, 60.0, str(tmp_path / "kept"))
    assert made["rows"]
    assert not made["left_out"]
    for row in made["rows"]:
        if name == "kernels":
            assert row["missing"].startswith("there is no")
        elif "TF32" not in row.get("precision", ""):
            assert "missing" not in row
            times = [value for column, value in row.items() if column == "seconds" or column.endswith("_s")]
            assert times
            assert all(value > 0.0 for value in times)


def test_one_file_holds_a_run(tmp_path, monkeypatch, capsys):
    """Limits and one problem, ours alone; and a section that fails costs no other."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as a quick run does: set here, it is unset again
    monkeypatch.setattr(limits, "QUICK", (64, limits.QUICK[1]))
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
    assert [len(runs) for runs in cell["rounds"]] == [2, 1]
    assert spread["low"] <= spread["median"] <= spread["high"]
    assert cell["objective_after"] == timing.PROBE
    assert cell["fraction_of_floor"] == pytest.approx(cell["floor_s"] / spread["median"])
    (converged,) = written["iteration"]["converged"]
    assert converged["objective"] >= cell["objective"] - 0.01
    assert "full_2k_2_5" in capsys.readouterr().out


def test_a_section_that_fails_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as a quick run does: set here, it is unset again
    monkeypatch.setattr(suite, "visible_devices", lambda: ("cpu",))
    monkeypatch.setattr(suite.importlib, "import_module", lambda name: {"benchmarks.many": Working}[name])
    assert suite.main("--quick --sections memory many".split()) == 1
    written = json.loads(next(tmp_path.glob("*-quick.json")).read_text())
    assert written["memory"]["missing"].startswith("KeyError")
    assert written["many"] == {"repeats": 3}


def test_a_run_that_is_ended_early_keeps_what_it_has(tmp_path, monkeypatch):
    """The sections before the interruption are in the file, and nothing half-written lies beside it."""

    class Interrupted:
        @staticmethod
        def measure(options: Options):
            raise KeyboardInterrupt

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "visible_devices", lambda: ("cpu",))
    modules = {"benchmarks.many": Working, "benchmarks.memory": Interrupted}
    monkeypatch.setattr(suite.importlib, "import_module", modules.__getitem__)
    with pytest.raises(KeyboardInterrupt):
        suite.main("--sections many memory".split())
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["many"] == {"repeats": 9}


class Working:
    @staticmethod
    def measure(options: Options):
        return {"repeats": options.repeats}


def test_misuse_is_told_before_anything_runs(capsys, monkeypatch):
    monkeypatch.setattr(suite, "visible_devices", lambda: ("cpu",))
    for arguments in ("--problems nothing", "--contenders nobody", "--sections none", "--devices gpu"):
        with pytest.raises(SystemExit) as ended:
            suite.main(["--devices", "cpu", *arguments.split()])
        assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "no contender is called 'nobody'" in said
    assert "JAX sees no GPU here" in said


# The other sections


def test_seconds_of_a_step_are_a_difference():
    """What a call costs besides cancels, and a pair of slow calls is enough."""
    for each, pairs in ((1e-3, 4), (5.0, 1)):
        timed = timing.of_iterations(lambda count, each=each: (0.2 + each * count, count), 4)
        assert timed["seconds_per_iteration"]["runs"] == pytest.approx([each] * pairs)
        assert timed["iterations"]["made"] == timed["iterations"]["asked"]


def test_p_values_spread_between_their_neighbours_are_uniform_where_statistics_are_exchangeable():
    """Ties too, as where half of all statistics are clipped at 0: a mean of 4,000 is 0.5 ± 0.0046."""
    rng = np.random.default_rng(0)
    drawn = np.maximum(rng.normal(size=(4000, 20)), 0.0)
    drawn[:, 19] = np.nan  # a failed replicate
    values = [statistics.continuous(one[0], one[1:], rng.uniform()) for one in drawn]
    assert kstest(values, "uniform").pvalue > 0.01
    assert statistics.continuous(3.0, np.array([1.0, 3.0, 5.0, np.nan]), 0.25) == (1 + 0.25 * 2) / 4


def test_a_null_and_an_alternative_are_measured():
    measured = statistics.measure(Options(quick=True))
    assert [cell["is_null"] for cell in measured["cells"]].count(True) == 3
    for cell in measured["cells"]:
        assert cell["missing"] is None
        assert sum(cell["counts"]) + cell["n_left_out"] == measured["n_tables"]
    (text,) = statistics.tables(measured, ratios.Place("cpu", "cpu", {}))
    assert "2 tables, 3 samples each, full, cpu" in text
    assert text.count("(not K clusters)") == 1


def test_the_best_of_some_starts_stands_beside_scikit_learn_s(monkeypatch):
    """Every problem is won, tied, lost or spiked; where all are spiked nobody is higher."""
    pytest.importorskip("sklearn")
    of = {"n": 100, "d": 2, "k": 2, "n_init": 2}
    asked = {"init": "kmeans", "count": 2, **of}
    made = starts.compare(**asked)
    assert sum(made[name] for name in ("won", "tied", "lost", "spiked")) == 2
    assert 1.0 <= made["ends"] <= 2.0
    assert min(made["seconds"], made["peer_seconds"]) > 0.0
    monkeypatch.setattr(starts, "SPIKE", np.inf)
    spiked = starts.compare(**asked)
    assert (spiked["spiked"], spiked["higher_by"]) == (2, None)
    rows = [{"init": "kmeans", "missing": None, **made}, {"init": "random", "missing": None, **spiked}]
    (text,) = starts.tables({**of, "problems": 2, "rows": rows}, ratios.Place("cpu", "cpu", {}))
    assert "### Best of 2 starts against scikit-learn's, 2 problems of 100 × 2, K = 2, cpu" in text
    assert "| random | 0 / 0 / 0 | 2 | – |" in text


def test_growth_of_memory_is_more_than_pages_blur():
    of = {"device": "cpu", "family": "full", "what": "em", "d": 4}
    sizes = ((10**5, 20e6), (10**6, 30e6), (10**7, 22e6))
    cells = [{**of, "n": n, "above_bytes": above} for n, above in sizes]
    cells += [{**of, "d": 16, "n": 10**8, "above_bytes": 1e9}, {**of, "n": 10**9, "above_bytes": None}]
    assert not memory.grows(cells, "cpu", "full", "em")["grows"]
    cells[2]["above_bytes"] = 60e6
    assert memory.grows(cells, "cpu", "full", "em") == {**of, "bytes_per_row": pytest.approx(40 / 9.9), "grows": True}
    assert memory.grows(cells, "cpu", "diag", "em")["grows"] is None


@pytest.mark.parametrize("contender", ["jaxgmm", "scikit-learn"])
def test_searches_end_where_they_should(contender):
    """Both programs at tiny tasks: two components fit better than the one whose likelihood is known."""
    pytest.importorskip("sklearn")
    how = {"contender": contender, "dtype": "float64", "n": 400, "d": 2, "later": 1, "init": "k-means++"}
    how |= {"tol": 1e-3, "max_steps": 50}
    made = searches.restarts(**how, k=2, n_restarts=2)
    x = child.unlike_clusters(0, 400, 2, 2, "float64")
    single = -0.5 * (2.0 * np.log(2.0 * np.pi) + np.linalg.slogdet(np.cov(x.T, bias=True))[1] + 2.0)
    assert made["objectives"][0] > single
    assert len(made["objectives"]) == len(made["steps"]) == 2
    swept = searches.sweep(**how, counts=[2], families=["full"], n_restarts=2)
    assert [(cell["family"], cell["k"]) for cell in swept["chosen"]] == [("full", 2)] * 2


def test_the_searches_that_are_asked_for(monkeypatch):
    """Ours in each dtype; scikit-learn's variant, and the sweep, in the first."""
    asked = []

    def run(function, request, *_, **more):
        asked.append((function, request))
        return {"missing": "not run"}

    monkeypatch.setattr(isolate, "run", run)
    made = searches.measure(Options())
    restarts = [(cell["contender"], cell["dtype"]) for cell in made["restarts"]["cells"]]
    both = [("jaxgmm", "float32"), ("scikit-learn", "float32"), ("scikit-learn, k-means++", "float32")]
    assert restarts == [*both, ("jaxgmm", "float64"), ("scikit-learn", "float64")]
    assert [(cell["contender"], cell["dtype"]) for cell in made["sweep"]["cells"]] == [*both, ("tgmm", "float32")]
    later = {function: request["later"] for function, request in asked if request.get("init") == "kmeans"}
    assert later == {searches.restarts: 1, searches.sweep: 3}


def test_cells_of_a_sweep_beside_scikit_learn_s():
    """Of one component: both find the one optimum there is, and it is told what each took."""
    pytest.importorskip("sklearn")
    how = {"counts": [1], "families": ["full"], "n_restarts": 2, "tol": 1e-4}
    made = searches.free_starts(300, 2, seeds=2, their_restarts=2, polish=1e-6, **how)
    assert [cell["seed"] for cell in made["cells"]] == [0, 1]
    assert all(abs(cell["ours"] - cell["theirs"]) <= 1e-9 for cell in made["cells"])
    assert min(made["our_s"]["median"], made["their_s"]["median"]) > 0.0


def test_precisions_are_in_scikit_learn_s_shapes():
    dense = np.tile(np.diag([1.0, 2.0, 3.0]), (4, 1, 1))
    shapes = {"full": (4, 3, 3), "tied": (3, 3), "diag": (4, 3), "spherical": (4,)}
    assert {family: problems.shaped(dense, family).shape for family in TINY} == shapes
    assert {family: problem.unit_covariances().shape for family, problem in TINY.items()} == shapes


# Hard problems


def test_hard_problems_are_what_they_are_called():
    for problem in (*hard.QUICK, *hard.PROBLEMS):
        assert problem.rows().shape == (problem.n, problem.d)
    assert [problem.k for problem in hard.PROBLEMS] == [25, 50]


def test_peers_search_until_the_time_is_up():
    """Best so far, which never falls."""
    pytest.importorskip("sklearn")
    calls = hard.theirs(hard.QUICK[0]._asdict(), "k-means++", 0.05)["calls"]
    objectives = [call["objective"] for call in calls]
    assert objectives == sorted(objectives)
    assert calls[-1]["seconds"] >= 0.05

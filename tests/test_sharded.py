"""Rows shared out to eight devices of a process, and to several processes, give what they give in memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import launch
from tests import oracle
from tests.laws import KINDS
from tests.tolerances import assert_close, assert_same_parameters

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def found():
    """What `sharded_child.py` says."""
    command = [sys.executable, "-m", "tests.sharded_child"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=1500)
    return json.loads(made.stdout.splitlines()[-1])


WAYS = [*KINDS, "weighted", "float32", "as it lies", "with copies", "all rows on each"]


@pytest.mark.parametrize("way", WAYS)
def test_rows_on_eight_devices(way, found):
    assert found["devices"] == 8
    dtype = np.float32 if way in WAYS[WAYS.index("float32") :] else np.float64
    whole, spread = found[way]["whole"], found[way]["spread"]
    names = ("weights", "means", "covariances")
    assert_same_parameters(tuple(spread[n] for n in names), tuple(whole[n] for n in names), dtype)
    assert_close(spread["history"], whole["history"], "objective", dtype)


def test_restarts_begin_from_the_same_seeds(found):
    ours, theirs = (found["restarts"][where]["objectives"] for where in ("spread", "whole"))
    assert len(ours) == 3
    assert_close(ours, theirs, "objective", np.float64)


def test_a_sweep_on_eight_devices(found):
    assert_close(np.array(found["sweep"]) / 1003, np.array(found["sweep in memory"]) / 1003, "settled", np.float64)


def test_an_estimator_on_eight_devices(found):
    one, all_of_them, one_of_8, all_of_8 = found["estimator"]
    assert_close(all_of_them, one, "settled", np.float64)
    assert_close(all_of_8, one_of_8, "objective", np.float64)


@pytest.mark.parametrize("search", ["whole", "race"])
def test_restarts_on_eight_devices(search, found):
    """Each of them ends as it does on one device, and so does the best."""
    of_all = found["restarts on devices"]
    assert of_all["is replicated"] == 8
    one, on_eight = of_all[search]["steps"]
    assert one == on_eight
    assert len(one) == 11
    one, on_eight = of_all[search]["fits"]
    assert_close(on_eight["objectives"], one["objectives"], "objective", np.float64)
    # Several restarts end in the best optimum, each with another order of its components.
    assert_close(np.sort(on_eight["means"], axis=0), np.sort(one["means"], axis=0), "settled", np.float64)


def test_the_best_of_restarts_on_devices_lies_on_one(found):
    assert found["restarts on devices"]["lies on"] == 1
    assert np.isfinite(found["restarts on devices"]["rows"]).all()


def test_a_sweep_of_restarts_on_devices(found):
    """With folds, which rows that are shared out do not have."""
    one, all_of_them = map(np.array, found["restarts on devices"]["sweep"])
    assert one.shape == (2, 3)
    per_row = np.array([1003, 1, 1003])
    assert_close(all_of_them / per_row, one / per_row, "objective", np.float64)


@pytest.mark.parametrize("what", ["weights elsewhere", "ridge elsewhere", "under a mesh", "mapped over ridges"])
def test_restarts_on_devices_of_arguments_that_lie_elsewhere(what, found):
    one, on_eight = found["restarts on devices"]["elsewhere"][what]
    assert_close(on_eight, one, "objective", np.float32)


@pytest.mark.parametrize(
    "way", ["rows", "two axes", "copies", "one device", "a device", "set, host", "set, rows", "set, copies"]
)
def test_rows_on_a_mesh_with_explicit_axes(way, found):
    host, ours = found["meshes"]["host"], found["meshes"][way]
    assert {"fit", "predict", "log_prob", "step", "predict_proba"} <= ours.keys()
    assert way != "set, rows" or ours.keys() == host.keys()
    for name, value in ours.items():
        assert_close(np.asarray(value), np.asarray(host[name]), "log_density", np.float32, factor=4.0, note=name)


def test_rows_sharded_by_features_along_an_explicit_axis(found):
    expected, *others = found["by features"]
    for other in others:
        assert_close(np.asarray(other), np.asarray(expected), "log_density", np.float32, factor=4.0)


def test_restarts_on_devices_go_on_where_they_were_interrupted(found):
    """To the same bits."""
    first, again, whole = found["restarts on devices"]["resumed"]
    assert 0 < first < 30
    for name in again:
        assert np.array_equal(np.array(again[name], float), np.array(whole[name], float), equal_nan=True), name


@pytest.mark.parametrize(
    ("what", "message"),
    {
        "by features": "x is shared out by features: one device holds 1 of 2",
        "not finite": "x holds inf in row 700, column 2",
        "no such device": "device must be None or 'all', got 'both'",
        "escape": "escape='split-merge' needs the rows in memory",
        "one row a device": "x has 7 rows, and there are 8 devices",
        "one axis": "x must be a matrix (N, D)",
        "too few that count": "n_components = 4, n_samples = 3",
        "labels": "for rows that are not held as one array give means (4, 3)",
        "overflow": "x holds inf in row 3, column 0, as float32",
        "negative": "sample_weight must not be negative: row 9",
    }.items(),
)
def test_what_cannot_be_shared_out(what, message, found):
    assert message in found["refused"][what]


def test_variances_are_about_the_rows_and_not_about_the_first(found):
    """In float32 sums of squares about a row that lies far off would hold nothing else."""
    ours, theirs = found["variances"]
    assert_close(np.array(ours), np.array(theirs), "moments", np.float32)


# Processes


SCRIPT = """
    import json
    import os
    import signal
    import sys

    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    import jaxgmm
    from tests import oracle

    x = oracle.blobs(seed=21, n_rows=1004, n_features=3, n_components=4, distance=4.0).x
    weights = 1.0 + np.arange(len(x)) % 3
    own, n, task = jax.process_index(), jax.process_count(), sys.argv[1]
    cuts = [0, 100, 1004] if n == 2 else [0, 0, 400, 401, 1004]  # of four the first has no rows
    own_rows = slice(cuts[own], cuts[own + 1])
    more = {"n_restarts": 3, "tol": 0.0, "max_steps": 5, "dtype": np.float64, "device": "all"}


    def told(progress):
        if task == "dies" and own == 1 and progress.n_steps == 2:
            raise SystemExit(7)


    def refused(x, k=4, **more):
        try:
            jaxgmm.fit(jax.random.key(4), x, k, device="all", max_steps=1, **more)
        except (TypeError, ValueError) as error:
            return str(error)
        return "nothing"


    start = jaxgmm.Mixture.create([0.25] * 4, x[:4], np.ones((4, 3)), "diag", np.float64)
    asked = {"init": start, "family": "diag", "tol": 0.0, "max_steps": 3, "dtype": np.float64, "device": "all"}
    differing = {
        "key": {"key": jax.random.key(4 + own)},
        "n_components": {"n_components": 4 + own},
        "family": {"family": ["diag", "full"][own > 0], "init": "k-means++"},
        "n_restarts": {"n_restarts": 2 + own, "init": "k-means++"},
        "init": {"init": x[:4] + own},
        "tol": {"tol": 0.1 * own},
        "max_steps": {"max_steps": 3 + own},
        "ridge": {"ridge": [1e-6, 1.0][own > 0]},
        "relative_ridge": {"relative_ridge": 1e-3 * own},
        "acceleration": {"acceleration": [None, "squarem"][own > 0]},
        "stopping": {"stopping": ["gain", "aitken"][own > 0]},
        "race": {"race": bool(own), "init": "k-means++"},
        "chunk_size": {"chunk_size": 64 + 64 * own},
        "sample_weight": {"sample_weight": [None, weights[own_rows]][own > 0]},
        "dtype": {"dtype": [np.float64, np.float32][own > 0]},
    }


    def differs(key=jax.random.key(4), n_components=4, call=jaxgmm.fit, **more):
        try:
            call(key, x[own_rows], n_components, **more)
        except ValueError as error:
            return str(error)
        return "nothing"


    if task == "errors":
        said = {name: differs(**asked | more) for name, more in differing.items()}
        del asked["family"], asked["init"]
        said["the call"] = differs(call=[jaxgmm.fit, jaxgmm.sweep][own > 0], **asked)
        print("differs", own, json.dumps(said), flush=True)
        rows = x[own_rows]
        bad = np.where(np.arange(len(rows))[:, None] == 7, np.nan, rows)
        copies = NamedSharding(jax.make_mesh((1, 2), ("a", "b")), PartitionSpec("a"))
        said = {
            "not finite": refused(bad if own else rows),
            "negative": refused(rows, sample_weight=np.where(np.arange(len(rows)) == 5, 1.0 - 2.0 * own, 1.0)),
            "features": refused(rows[:, : 3 - own]),
            "copies": refused(jax.make_array_from_callback(x.shape, copies, lambda place: x[place])),
        }
        print("refused", own, json.dumps(said), flush=True)
    elif task == "other arguments":
        jaxgmm.fit(jax.random.key(4), x[own_rows], 4, **asked | {"tol": 0.1 * own})
    elif task in ("stays", "leaves", "killed", "absent"):

        def fault(progress):
            if own == 1 and progress.n_steps == 2 and task == "leaves":
                raise SystemExit(0)
            if own == 1 and progress.n_steps == 2 and task == "killed":
                os.kill(os.getpid(), signal.SIGKILL)

        for _ in range(own + (task != "absent")):
            jaxgmm.fit(jax.random.key(4), x[own_rows], 4, progress=fault, **asked)
            print("found", own, flush=True)
    else:
        result = jaxgmm.fit(jax.random.key(4), x[own_rows], 4, "full", progress=told, **more)
        print("fit", own, np.asarray(result.restarts.objective).tolist(), flush=True)
    if task == "fit" and n == 2:
        by_rows = NamedSharding(jax.make_mesh((n,), ("rows",)), PartitionSpec("rows"))
        lying, weighing = (
            jax.make_array_from_callback(each.shape, by_rows, lambda place, each=each: each[place].astype(np.float32))
            for each in (x, weights)
        )
        del more["device"]
        result = jaxgmm.fit(jax.random.key(4), lying, 4, "full", sample_weight=weighing, **more)
        print("lies", own, np.asarray(result.restarts.objective).tolist(), flush=True)
"""


def written(folder):
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    return folder / "script.py"


@pytest.fixture
def script(tmp_path):
    return written(tmp_path)


# Without a buffer `print` writes a line and its end one after the other, and those of two processes mix.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}


def launched(n_processes, script, *arguments):
    command = [sys.executable, "-m", "jaxgmm.launch", "--processes", str(n_processes), script, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def said_by(made):
    """What each process printed, by its task and the process's number."""
    assert made.returncode == 0, made.stderr
    lines = re.findall(r"^(fit|lies|differs|refused) (\d) (.*)$", made.stdout, re.MULTILINE)  # JAX prints others
    return {(task, int(own)): json.loads(text) for task, own, text in lines}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Of two processes, with rows of their own and with rows that lie with them. (One takes seconds to begin.)"""
    return said_by(launched(2, written(tmp_path_factory.mktemp("both")), "fit"))


def test_two_processes_with_rows_of_their_own(both):
    """Each says the same, and what one process says of all rows."""
    assert_each_says(both, 2, "fit", None)


@pytest.mark.slow
def test_four_processes_with_rows_of_their_own(script):
    assert_each_says(said_by(launched(4, script, "fit")), 4, "fit", None)


def test_rows_and_weights_that_lie_with_two_processes(both):
    assert_each_says(both, 2, "lies", 1.0 + np.arange(1004) % 3)


def assert_each_says(said, n_processes, task, weights):
    assert sorted(own for what, own in said if what == task) == list(range(n_processes))
    objectives = [said[task, own] for own in range(n_processes)]
    assert all(each == objectives[0] for each in objectives)
    x = oracle.blobs(seed=21, n_rows=1004, n_features=3, n_components=4, distance=4.0).x
    x = x if weights is None else x.astype(np.float32)
    more = {"n_restarts": 3, "tol": 0.0, "max_steps": 5, "dtype": np.float64, "sample_weight": weights}
    whole = jaxgmm.fit(jax.random.key(4), x, 4, "full", **more)
    assert_close(objectives[0], np.asarray(whole.restarts.objective), "objective", np.float64)


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """What two processes say, one after the other, of all that one of them is asked or given otherwise."""
    return said_by(launched(2, written(tmp_path_factory.mktemp("errors")), "errors"))


def test_what_is_wrong_in_one_process_is_told_by_all(errors):
    """At once, and with its place where it is: the others would wait for its sums."""
    said = {own: errors["refused", own] for own in (0, 1)}
    for what, message in {
        "not finite": "x holds nan in row 7, column 0",
        "negative": "must not be negative: row 5",
    }.items():
        assert message in said[1][what]
        assert "Process 1 was given what cannot be fitted" in said[0][what]
    for what, message in {
        "features": "process 0 has 3 features, process 1 has 2",
        "copies": "process 1 holds no rows but copies of others'",
    }.items():
        assert message in said[0][what], what
        assert message in said[1][what], what


def test_processes_that_are_asked_for_different_things_all_say_which(errors):
    """Before the first sum: else one would wait for another that goes elsewhere, or each end with its own fit."""
    said = errors["differs", 0]
    assert said == errors["differs", 1]
    assert len(said) == 16
    for name, message in said.items():
        assert message.startswith(f"All processes must be given the same arguments: {name} is "), message
        assert " in process 0 and " in message
        assert message.endswith(" in process 1."), message


FAULTS = {
    "other arguments": "All processes must be given the same arguments: tol is 0.0 in process 0 and 0.1 in process 1.",
    "dies": "a process ended with 7; the others are ended",
    "stays": "This fit waits for process 0, which has ended. All processes must make the same calls",
    "absent": "This fit waits for process 0, which has ended. All processes must make the same calls",
    "leaves": "waits in a fit that others have left: process 1 (SystemExit)",
    "killed": "a process ended with -9; the others are ended",
}
"""What process 1 of two does that the other does not, or process 0 where process 1 stays for one more fit."""

IN_SECONDS = ("other arguments", "dies")


@pytest.mark.parametrize(
    "fault", [name if name == "other arguments" else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_what_one_process_does_alone_ends_all(fault, script):
    """None waits without end: all end with an error that says what happened, and none with a fit."""
    began = time.monotonic()
    made = launched(2, script, fault)
    assert FAULTS[fault] in made.stderr
    assert made.returncode == 7 if fault == "dies" else made.returncode != 0
    assert "fit " not in made.stdout
    if fault in IN_SECONDS:
        assert time.monotonic() - began < 60 + launch.GRACE


@pytest.mark.slow
@pytest.mark.parametrize("way", ["by the launcher", "by itself"])
def test_a_process_that_is_done_waits_for_the_others(way, tmp_path):
    """JAX's own `shutdown` waits for them, too, but five minutes at most; and a script may call it."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
            import atexit
            import pathlib
            import sys
            import time

            import jax

            own = jax.process_index()
            first_is_done = pathlib.Path(__file__).with_name("done")
            atexit.register(lambda: print("ends", own, flush=True))
            if own == 0:
                first_is_done.touch()
                if sys.argv[1] == "by itself":
                    jax.distributed.shutdown()
            else:
                until = time.monotonic() + 20
                while not first_is_done.exists() and time.monotonic() < until:
                    time.sleep(0.01)
                time.sleep(1)  # in which the first would end, if it did not wait
                print("done", own, flush=True)
        """)
    )
    made = launched(2, tmp_path / "script.py", way)
    assert made.returncode == 0, made.stderr
    said = made.stdout.splitlines()
    assert said[0] == "done 1"
    assert sorted(said[1:]) == ["ends 0", "ends 1"]


def test_a_script_is_run_as_python_runs_it(tmp_path):
    """With its own folder before all others, and with what `sys.exit` says."""
    script = tmp_path / "script.py"
    (tmp_path / "neighbour.py").write_text("WHO = 'the one next door'")
    script.write_text("import sys, neighbour\nprint(sys.argv, sys.path, neighbour.WHO)\nsys.exit('that is all')")
    python = subprocess.run([sys.executable, script, "more"], env=ENVIRONMENT, capture_output=True, text=True)
    made = launched(1, script, "more")
    assert "next door" in made.stdout
    assert made.stdout == python.stdout
    assert made.returncode == python.returncode == 1
    assert "that is all" in made.stderr.splitlines()
    assert "Traceback" not in made.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere signals are others")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", -2), ("SIGKILL", -9)])
def test_with_the_launcher_all_processes_end(name, status, tmp_path):
    """Their output is at its end only when none of them is left to write to it."""
    (tmp_path / "script.py").write_text("import time\nprint('runs', flush=True)\ntime.sleep(60)")
    # Tests may run where SIGINT is ignored, and so would what they start.
    listens = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    )
    starts = [sys.executable, "-m", "jaxgmm.launch", "--processes", "2", tmp_path / "script.py"]
    command = [sys.executable, "-c", listens, *starts]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as launcher:
        assert launcher.stdout is not None
        assert [launcher.stdout.readline() for _ in range(2)] == ["runs\n"] * 2
        launcher.send_signal(getattr(signal, name))
        launcher.communicate(timeout=20)
    assert launcher.returncode == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py"], "none.py: there is no such file"),
        (["--of", "4", __file__], "say by --coordinator at which address process 0 listens"),
        (["--first", "1", __file__], "processes 1 to 2 of 2: there are none"),
        (["--processes", "0", __file__], "there are none"),
    ],
)
def test_the_launcher_refuses_nonsense(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        launch.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err

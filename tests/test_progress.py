"""What is told of long work, and the line that shows it."""

from __future__ import annotations

import io
import math
import sys

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm.rows import streamed as stream
from jaxgmm.rows.blocks import Blocks
from jaxgmm.search import progress
from jaxgmm.search.progress import Bar, Count, Progress
from tests import oracle

X = oracle.blobs(seed=7, n_rows=900, n_features=2, n_components=3, distance=2.0).x
KEY = jax.random.key(1)
BRIEF = {"n_restarts": 2, "max_steps": 4, "tol": 0.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(file):
    return [text.rstrip() for text in file.getvalue().split("\r")]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setenv("COLUMNS", "200")


def test_a_line_says_steps_rows_objective_and_the_time_that_is_left(monkeypatch):
    clock, file = Clock(monkeypatch), Terminal()
    bar = Bar(file)
    told = [
        (0.0, Progress(0, 100, 4, 4, -math.inf)),
        (1.0, Progress(0, 100, 4, 4, -math.inf, n_read=5_000_000)),
        (19.0, Progress(20, 100, 4, 4, -1.25, n_read=500_000_000, n_rows=1_000_000_000)),
        (20.5, Progress(30, 100, 2, 4, -1.0)),
        (30.0, Progress(100, 100, 0, 4, -1.0)),
    ]
    for seconds, now in told:
        clock.now = 100.0 + seconds
        bar(now)
    assert drawn(file)[1:] == [
        "[..........] step 0/100  4/4 running",
        "[..........] step 0/100  row 5e+06  4/4 running",
        "[##........] step 20/100  row 5e+08/1e+09  4/4 running  best -1.2500  74 s left at most",
        "[######....] step 30/100  2/4 running  best -1.0000  11 s left at most",
        "[##########] step 100/100  0/4 running  best -1.0000",
    ]
    bar.clear()
    assert drawn(file)[-2:] == ["", ""]


def test_a_line_is_drawn_seldom_but_its_end_always(monkeypatch):
    clock, file = Clock(monkeypatch), Terminal()
    bar = Bar(file, every=0.5)
    for index in range(1000):
        clock.now += 0.001
        bar(Count(index + 1, 1000, "samples"))
    assert drawn(file)[-1] == "[##########] 1000/1000 samples"
    assert len(drawn(file)) == 4  # what is before the first line, the first, one after half a second, the last


def test_in_a_file_lines_are_whole_and_few(monkeypatch):
    """Nothing can be redrawn in the log of a service: a line every ten seconds, and the last."""
    clock, file = Clock(monkeypatch), io.StringIO()
    bar = Bar(file)
    for index in range(250):
        clock.now += 0.125
        bar(Count(index + 1, 250, "samples"))
    bar.clear()
    lines = file.getvalue().splitlines()
    assert "\r" not in file.getvalue()
    assert [line.split("] ")[1].split(" s")[0] for line in lines] == [
        "1/250",
        "81/250",
        "161/250",
        "241/250",
        "250/250",
    ]


class Broken(io.StringIO):
    def write(self, text):
        raise OSError("no space left on device")


@pytest.mark.parametrize("error", [None, io.StringIO(), Broken()], ids=["absent", "a file", "full"])
def test_a_bar_needs_no_terminal(error, monkeypatch):
    """No standard error, as in a service on Windows; one that is a file, or can no longer be written to."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", error)
        watched, silent = WORK["fit"](progress=True), WORK["fit"]()
    assert repr(watched) == repr(silent)
    if error is not None and error.getvalue():
        assert "\r" not in error.getvalue()
        assert error.getvalue().endswith("\n")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7100.0, "118 min"), (7200.0, "2 h")]
)
def test_times_are_told_in_words(seconds, words):
    assert progress._in_words(seconds) == words


WORK = {
    "fit": lambda **more: jaxgmm.fit(KEY, X, 3, "diag", **BRIEF, **more).restarts,
    "blocks": lambda **more: jaxgmm.fit(KEY, Blocks.from_array(X), 3, "diag", **BRIEF, **more).restarts,
    "sweep": lambda **more: jaxgmm.sweep(KEY, X, [1, 3], "diag", **BRIEF, **more),
    "likelihood ratio": lambda **more: jaxgmm.likelihood_ratio_test(
        KEY, X[:50], 1, "diag", 3, n_restarts=1, max_steps=4, **more
    ),
}


@pytest.mark.parametrize("work", WORK)
def test_a_bar_is_shown_where_it_is_asked_for_and_gone_at_the_end(work, monkeypatch):
    """On standard error; the result is that of a call which nobody watches."""
    error, out = Terminal(), io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", error)
        patch.setattr(sys, "stdout", out)
        watched, silent = WORK[work](progress=True), WORK[work](progress=False)
    assert out.getvalue() == ""
    lines = drawn(error)
    assert lines[1].startswith("[")
    assert lines[-2:] == ["", ""]
    assert lines[-3].startswith("[##########]")
    assert repr(watched) == repr(silent)


def test_the_rows_of_a_pass_are_told_block_by_block(monkeypatch):
    """The pass that counts them as well; at the end of a pass what it has found is told, and not its rows."""
    monkeypatch.setattr(stream, "BLOCK", 2**11)
    told = []
    more = {"chunk_size": 64, "dtype": np.float32, "n_restarts": 1, "max_steps": 2, "tol": 0.0, "progress": told.append}
    jaxgmm.fit(KEY, Blocks.from_array(X), 3, "diag", **more)
    passes = {}
    for now in told:
        passes.setdefault((now.n_steps, now.n_rows), []).append(now.n_read)
    size = 2**11 // (2 * 4)
    inner = list(range(size, len(X), size))
    assert len(inner) >= 3
    assert passes.pop((0, 0)) == [*inner, 0]  # counted; and what the start says
    assert passes.pop((0, len(X))) == 3 * inner  # the rows nearest to each seed, the start, the first step
    assert passes.pop((1, 0)) == [0]
    assert passes.pop((1, len(X))) == inner
    assert passes == {(2, 0): [0]}
    swept = []
    jaxgmm.sweep(KEY, Blocks.from_array(X), [2], "diag", **more | {"progress": swept.append})
    assert {now.cell.n_rows for now in swept} == {0, len(X)}
    assert all((now.family, now.n_components, now.n_cells) == ("diag", 2, 1) for now in swept)


def test_what_is_no_progress_is_refused():
    for call in WORK.values():
        with pytest.raises(TypeError, match="progress must be True for a bar, or a function that is told of progress"):
            call(progress="bar")

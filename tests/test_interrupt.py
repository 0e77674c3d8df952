"""Ctrl-C ends a search where it is, and what there is comes back."""

from __future__ import annotations

import signal
import threading

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Blocks, Status
from jaxgmm._base import programs
from jaxgmm.em import by_numpy
from jaxgmm.search import bootstrap as module
from jaxgmm.search import in_step, observer, one_by_one, passes, pool, replicates, side_by_side, stepping
from jaxgmm.search.many import work as many
from tests import oracle
from tests.stranger import SharedSpherical
from tests.tolerances import assert_close, assert_same_mixture

K, D = 4, 2
X = oracle.blobs(seed=7, n_rows=900, n_features=D, n_components=K, distance=2.0).x
MANY = np.tile(X, (10, 1))  # a run keeps a core busy
KEY = jax.random.key(1)
HOW = {"n_restarts": 6, "tol": 0.0, "max_steps": 30, "dtype": np.float64}

WAYS = {
    "small": (by_numpy, {"x": X}),
    "one by one": (stepping, {"x": MANY, "family": SharedSpherical()}),
    "side by side": (side_by_side, {"x": X, "chunk_size": 512}),
    "accelerated": (side_by_side, {"x": X, "acceleration": "lbfgs"}),
    "streamed": (passes, {"x": Blocks.from_array(X)}),
    "race": (by_numpy, {"x": X, "race": jaxgmm.Race(3, 2)}),
    "escape": (by_numpy, {"x": X, "escape": "split-merge"}),
}
STEPS = {by_numpy: "begin_step", stepping: "_run", side_by_side: "_work", passes: "step_lanes"}


class Counted:
    """A program of a search, which sends this process SIGINT at its n-th call in the main thread."""

    def __init__(self, whole, n):
        self.whole, self.n, self.n_calls = whole, n, 0

    def __call__(self, *args, **kwargs):
        return self._sent(self.whole, *args, **kwargs)

    def compiled(self, *args, **kwargs):
        return self._sent(self.whole.compiled, *args, **kwargs)

    def _sent(self, whole, *args, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self.n_calls += 1
            if self.n_calls == self.n:
                signal.raise_signal(signal.SIGINT)
        return whole(*args, **kwargs)


@pytest.fixture
def in_steps(monkeypatch):
    """Every burst is a step, whatever the clock says."""
    for of in (observer, one_by_one, side_by_side):
        monkeypatch.setattr(of, "BURST", 1e-9)


def fit(x, family="diag", **more):
    return jaxgmm.fit(KEY, x, K, family, **HOW | more)


def interrupted(monkeypatch, way, n, call=fit, **more):
    of, how = WAYS[way]
    with monkeypatch.context() as patch:
        patch.setattr(of, STEPS[of], Counted(getattr(of, STEPS[of]), n))
        with pytest.warns(UserWarning, match="The search was interrupted: the best so far comes back") as said:
            result = call(**how | more)
    assert said[0].filename == __file__
    return result


def same_bits(ours, theirs):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("way", WAYS)
def test_steps_in_bursts_have_the_bits_of_steps_in_one_go(way, monkeypatch):
    """Accelerated ones only to rounding: JAX 0.12 computes them otherwise on an Intel Xeon with AVX-512, by 1e-15, and
    in every run alike."""
    how = WAYS[way][1]
    whole = fit(**how)
    for of in (observer, one_by_one, side_by_side):
        monkeypatch.setattr(of, "BURST", 1e-9)
    ours = fit(**how)
    if way != "accelerated":
        assert same_bits(ours, whole)
    assert_close(ours.history, whole.history, "objective", np.float64)
    assert_close(ours.restarts.objective, whole.restarts.objective, "objective", np.float64)
    assert_same_mixture(ours.mixture, whole.mixture, np.float64)


@pytest.mark.parametrize("way", ["one by one", "accelerated"])
def test_starts_in_groups_are_those_of_one_go(way, monkeypatch):
    """To rounding: XLA compiles another loop around them."""
    how = WAYS[way][1] | {"max_steps": 2, "x": np.tile(MANY, (7, 1)), "n_restarts": 9}
    whole, made = fit(**how), []
    monkeypatch.setattr(observer, "steps_of_a_burst", lambda *_: made.append(1) or 1)
    ours = fit(**how)
    assert made
    assert_close(ours.restarts.objective, whole.restarts.objective, "objective", np.float64)
    assert_same_mixture(ours.mixture, whole.mixture, np.float64)


@pytest.mark.parametrize("way", WAYS)
def test_what_there_is_comes_back(way, monkeypatch, in_steps):
    """The best run so far, consistent in itself, and which of the runs had not ended."""
    result = interrupted(monkeypatch, way, 8)
    n_steps, history = int(result.n_steps), np.asarray(result.history)
    assert 0 < n_steps < HOW["max_steps"]
    assert np.isfinite(history[: n_steps + 1]).all()
    assert np.isnan(history[n_steps + 1 :]).all()
    assert float(result.objective) == history[n_steps]
    with jax.enable_x64(True):
        assert_close(np.mean(result.mixture.log_prob(X)), result.objective, "objective", np.float64)
    status = np.asarray(result.restarts.status)
    assert len(status) == HOW["n_restarts"]
    assert (status == Status.RUNNING).any()
    assert (np.asarray(result.restarts.n_steps) >= 0).all()
    assert repr(result)


@pytest.mark.parametrize("between", ["rows", "lines"])
def test_an_interrupt_between_the_steps_of_a_small_search(between, monkeypatch):
    """While its rows are prepared, or between a history's line and the state that it is of."""
    if between == "rows":
        monkeypatch.setattr(by_numpy.HostRows, "of", Counted(by_numpy.HostRows.of, 2))
    else:
        written = in_step.write_objectives

        def interrupted(*of):
            written(*of)
            if of[2].max() == 4:
                raise KeyboardInterrupt

        monkeypatch.setattr(in_step, "write_objectives", interrupted)
    with pytest.warns(UserWarning, match="The search was interrupted"):
        result = fit(X, progress=lambda now: None)
    n_steps, history = int(result.n_steps), np.asarray(result.history)
    assert n_steps == {"rows": 0, "lines": 3}[between]
    assert float(result.objective) == history[n_steps]
    assert np.isnan(history[n_steps + 1 :]).all()


def test_an_escape_that_is_interrupted_gives_back_what_it_began_from(monkeypatch, in_steps):
    whole = fit(X)
    n_calls = max(np.asarray(whole.restarts.n_steps)) + 1  # runs step side by side
    result = interrupted(monkeypatch, "escape", int(n_calls) + 20)
    assert float(result.objective) >= float(whole.objective)
    assert len(result.escapes) >= 1


def test_an_estimator_is_fitted_with_what_there_is(monkeypatch, in_steps):
    def call(x):
        model = jaxgmm.GaussianMixture(K, covariance_type="diag", n_init=6, tol=0.0, max_iter=30, random_state=0)
        return model.fit(x)

    with pytest.warns(jaxgmm.estimator._sklearn.convergence_warning()):
        model = interrupted(monkeypatch, "small", 8, call)
    assert model.status_ is Status.RUNNING
    assert not model.converged_
    assert np.isfinite(model.score(X))


@pytest.mark.parametrize("way", ["small", "side by side", "streamed"])
def test_what_is_kept_on_disk_is_the_state_at_the_interrupt(way, tmp_path, monkeypatch, in_steps):
    """And the same call goes on from there, to the same bits."""
    part = interrupted(monkeypatch, way, 8, checkpoint=tmp_path)
    how = WAYS[way][1]
    assert same_bits(fit(**how, checkpoint=tmp_path), fit(**how))
    assert int(part.n_steps) > 0


def test_a_callback_may_interrupt_as_well(in_steps):
    def told(now):
        if now.n_steps >= 5:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="The search was interrupted"):
        result = fit(X, progress=told)
    assert 5 <= int(result.n_steps) < HOW["max_steps"]


def test_where_there_is_nothing_an_interrupt_is_raised(monkeypatch, in_steps):
    monkeypatch.setattr(by_numpy, "begin_step", Counted(by_numpy.begin_step, 1))
    with pytest.raises(KeyboardInterrupt):
        fit(X, n_restarts=1)


MIXTURE = jaxgmm.Mixture.create(np.full(K, 1 / K), X[:K], np.ones((K, D)), "diag", np.float64)


def bootstrap(**more):
    return jaxgmm.bootstrap(KEY, X, MIXTURE, 20, **{"max_steps": 12, "tol": 0.0} | more)


@pytest.mark.parametrize(
    "how", [{}, {"acceleration": "squarem"}, {"kind": "weights"}], ids=["rows", "squarem", "weights"]
)
def test_replicates_in_bursts_and_groups_are_those_of_one_go(how, monkeypatch):
    whole = bootstrap(**how)
    monkeypatch.setattr(replicates, "steps_of_a_burst", lambda *_: 8)
    monkeypatch.setattr(replicates, "BURST", 1e-9)
    monkeypatch.setattr(replicates, "choose_width", lambda *_: 3)
    ours = bootstrap(**how)
    for name in ("weights", "means", "covariances", "objective"):
        assert_close(np.asarray(getattr(ours, name)), np.asarray(getattr(whole, name)), "settled", np.float64)
    assert (np.asarray(ours.status) == np.asarray(whole.status)).all()


def test_replicates_that_are_done_come_back(monkeypatch):
    monkeypatch.setattr(replicates, "steps_of_a_burst", lambda *_: 8)
    monkeypatch.setattr(replicates, "choose_width", lambda *_: 3)
    whole = bootstrap()
    for n, n_done in ((4, 9), (1, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_begun", Counted(module._begun, n))
            if not n_done:
                with pytest.raises(KeyboardInterrupt):
                    bootstrap()
                continue
            with pytest.warns(UserWarning, match="of 20 replicates 9 are done, and come back") as said:
                part = bootstrap()
        assert said[0].filename == __file__
        assert len(part.status) == n_done
        assert np.array_equal(np.asarray(part.means), np.asarray(whole.means)[:n_done])
        assert np.isfinite(part.standard_error().means).all()


def test_a_test_by_the_samples_that_are_done(monkeypatch):
    def told(n_done, n_samples):
        if n_done == 3:
            raise KeyboardInterrupt

    how = {"n_restarts": 1, "max_steps": 5}
    with pytest.warns(UserWarning, match="of 9 samples 2 are done, and the p-value is by those") as said:
        part = jaxgmm.likelihood_ratio_test(KEY, X[:60], 1, "diag", 9, progress=told, **how)
    assert said[0].filename == __file__
    whole = jaxgmm.likelihood_ratio_test(KEY, X[:60], 1, "diag", 2, **how)
    assert np.array_equal(part.replicates, whole.replicates)
    assert part.p_value == whole.p_value


# Wherever it comes


CUTS = X[:888].reshape(8, 111, D)
BRIEF = {"n_restarts": 3, "tol": 1e-3, "max_steps": 20, "dtype": np.float64}
CALLERS = {
    "fit": lambda: jaxgmm.fit(KEY, X, K, "diag", **BRIEF, polish=True),
    "fit of blocks": lambda: jaxgmm.fit(KEY, Blocks.from_array(X), K, "diag", **BRIEF),
    "fit with an escape": lambda: jaxgmm.fit(KEY, X, K, "diag", **BRIEF, escape="split-merge"),
    "estimator": lambda: jaxgmm.GaussianMixture(K, covariance_type="diag", n_init=6, tol=1e-3, random_state=0).fit(X),
    "sweep": lambda: jaxgmm.sweep(KEY, X, [1, K], ["diag"], **BRIEF, n_folds=2),
    "sweep of blocks": lambda: jaxgmm.sweep(KEY, Blocks.from_array(X), [1, 2], ["diag"], **BRIEF | {"max_steps": 5}),
    "sweep from a start": lambda: jaxgmm.sweep(KEY, X, [K], ["diag"], **BRIEF | {"init": X[:K], "n_restarts": 1}),
    "fit_many": lambda: jaxgmm.fit_many(KEY, CUTS, K, "diag", tol=0.0, max_steps=9),
    "bootstrap": lambda: bootstrap(tol=1e-6),
    "likelihood_ratio_test": lambda: jaxgmm.likelihood_ratio_test(KEY, X[:60], 1, "diag", 3, n_restarts=1, max_steps=5),
}


@pytest.mark.filterwarnings("ignore:Best performing initialization")
@pytest.mark.parametrize("caller", CALLERS)
def test_once_there_is_something_no_interrupt_loses_it(caller, monkeypatch, in_steps):
    """Ctrl-C at a program's call or a step of NumPy's, the first and the last among them: nothing, said in one line,
    and from some call on a result with a warning. Signals are handled as before, and what comes back can be shown."""
    for of in (pool, one_by_one, many):  # with one thread there are as many calls every time
        monkeypatch.setattr(of, "n_cores", lambda: 1)
    monkeypatch.setattr(many, "BURST", 1e-9)
    monkeypatch.setattr(many, "steps_of_a_burst", lambda *_: 1)
    seen = {"n": 0, "at": 0}

    def counted(real):
        def call(*args, **kwargs):
            if threading.current_thread() is threading.main_thread():
                seen["n"] += 1
                if seen["n"] == seen["at"]:
                    signal.raise_signal(signal.SIGINT)
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(programs._One, "call", counted(programs._One.call))
    monkeypatch.setattr(by_numpy, "begin_step", counted(by_numpy.begin_step))
    CALLERS[caller]()
    n_calls, came = seen["n"], []
    for at in sorted({1, *np.linspace(1, 0.9 * n_calls, 8).astype(int).tolist()}):
        seen.update(n=0, at=at)
        try:
            with pytest.warns(UserWarning, match="interrupted: "):
                assert repr(CALLERS[caller]())
            came.append(True)
            said = "interrupted before"
        except KeyboardInterrupt as error:
            came.append(False)
            said = " ".join([str(error), *getattr(error, "__notes__", [])])
        assert "interrupted before" in said
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert came == sorted(came)
    assert came[-1]


def test_a_search_that_was_interrupted_within_its_first_cells_goes_on(tmp_path, in_steps):
    """With the same checkpoint, to the same bits."""

    def told(now):
        if now.cell.n_steps >= 5:
            raise KeyboardInterrupt

    how = {"n_components": [2, 3], "families": ["diag", "full"]} | BRIEF | {"max_steps": 8}
    with pytest.warns(UserWarning, match="none is done"):
        jaxgmm.sweep(KEY, X, **how, progress=told, checkpoint=tmp_path)
    assert same_bits(jaxgmm.sweep(KEY, X, **how, checkpoint=tmp_path).results, jaxgmm.sweep(KEY, X, **how).results)


@pytest.mark.parametrize("rows", ["in memory", "blocks"])
def test_cells_that_were_under_way_come_back_if_none_is_done(rows, in_steps):
    """Each as its best run stands, and none of them polished."""

    def told(now):
        if now.cell.n_steps >= 5:
            raise KeyboardInterrupt

    x = X if rows == "in memory" else Blocks.from_array(X)
    with pytest.warns(UserWarning, match="of 4 cells none is done, and 2 come back as far as they got") as said:
        part = jaxgmm.sweep(KEY, x, [2, 3], ["diag", "full"], progress=told, **HOW | {"tol": 1e-9})
    assert said[0].filename == __file__
    assert not part.is_complete
    assert [(cell.family, cell.K, cell.status, cell.polished) for cell in part.cells] == [
        ("diag", 2, "RUNNING", False),
        ("diag", 3, "RUNNING", False),
    ]
    with jax.enable_x64(True):
        total = np.sum(part.best.mixture.log_prob(X))
    assert_close(part.best_cell.log_likelihood, total, "objective", np.float64, factor=len(X))
    assert np.isfinite(part.best_cell.icl) == (rows == "in memory")  # the entropy would be a pass


def test_an_interrupt_does_not_wait_for_the_compiler(monkeypatch):
    """It compiles in another thread, which goes on, and what it makes is there for the next call."""
    compiling, may_end = threading.Event(), threading.Event()

    @programs.program
    def slow(x):
        compiling.set()
        may_end.wait(60.0)
        return x + 1.0

    threading.Thread(target=lambda: compiling.wait(60.0) and signal.pthread_kill(main, signal.SIGINT)).start()
    main = threading.main_thread().ident
    with pytest.raises(KeyboardInterrupt):
        slow(np.float32(1.0))
    may_end.set()
    assert slow(np.float32(2.0)) == 3.0


def test_a_handler_of_the_users_own_is_left_alone(in_steps):
    """And in another thread no handler is set."""
    seen, fits = [], []
    theirs = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        whole = fit(X, progress=lambda now: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, theirs)
    assert len(seen) > 1
    one = threading.Thread(target=lambda: fits.append(fit(X)))
    one.start()
    one.join()
    assert same_bits(fits[0], whole)

"""After a fork: an answer, or an error at once, and never a wait for threads that are not there."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm
from tests import oracle
from tests.tolerances import assert_close

ROOT = Path(__file__).resolve().parent.parent

LONG = 120
"""Seconds after which a process that says nothing is taken to wait for ever."""

X = oracle.blobs(seed=5, n_rows=200, n_features=2, n_components=2, distance=4.0).x.astype(np.float32)
KEY = jax.random.key(0)
MIXTURE = jaxgmm.Mixture.create(
    np.array([0.5, 0.5], np.float32), X[:2], np.stack([np.eye(2, dtype=np.float32)] * 2), "full"
)

COMPUTES = {
    "fit": lambda: jaxgmm.fit(KEY, X, 2),
    "fit of blocks": lambda: jaxgmm.fit(KEY, jaxgmm.Blocks([X[:90], X[90:]]), 2),
    "fit_many": lambda: jaxgmm.fit_many(KEY, X.reshape(2, 100, 2), 2),
    "sweep": lambda: jaxgmm.sweep(KEY, X, [1, 2], "diag"),
    "bootstrap": lambda: jaxgmm.bootstrap(KEY, X, MIXTURE, 2),
    "likelihood ratio": lambda: jaxgmm.likelihood_ratio_test(KEY, X, 1, n_replicates=1),
    "estimator": lambda: jaxgmm.GaussianMixture(2, random_state=0).fit(X),
    "log_prob": lambda: MIXTURE.log_prob(X),
    "sample": lambda: MIXTURE.sample(KEY, 3),
    "create": lambda: jaxgmm.Mixture.create([1.0], np.zeros((1, 2)), np.ones((1, 2)), "diag"),
    "online": lambda: jaxgmm.online.init(MIXTURE),
    "em": lambda: jaxgmm.em.init(MIXTURE, X),
    "batches": lambda: jaxgmm.Batches.of(X),
}


def said_in_a_fork(job):
    """What the job says in a forked process, or its error. Its silence is an error here."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's own, in the parent
        child = os.fork()
    if not child:
        try:
            said = f"{job()}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writes, said.encode())
        os._exit(0)
    os.close(writes)
    try:
        with open(reads, "rb") as file:
            assert select.select([file], [], [], LONG)[0], "it waits for ever"
            return file.read().decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_whatever_computes_in_a_fork_is_an_error_that_says_what_to_do():
    def all_of_them():
        said = {}
        for name, job in COMPUTES.items():
            try:
                said[name] = f"answers {job()}"
            except Exception as error:
                said[name] = f"{type(error).__name__}: {error}"
        return "\n".join(f"{name}: {text}" for name, text in said.items())

    lines = said_in_a_fork(all_of_them).splitlines()
    assert len(lines) == len(COMPUTES)
    for line in lines:
        assert "RuntimeError: This process was forked" in line
        assert "'spawn'" in line
        assert "'forkserver'" in line
        assert "loky" in line


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_an_estimator_evaluates_few_rows_in_a_fork():
    """NumPy does; rows that are JAX's, and many, are an error."""
    fitted = jaxgmm.GaussianMixture(2, random_state=0).fit(X)
    predicted, score = said_in_a_fork(lambda: (fitted.predict(X).tolist(), float(fitted.score(X)))).rsplit(",", 1)
    assert predicted[1:] == f"{fitted.predict(X).tolist()}"
    assert_close(float(score[:-1]), float(fitted.score(X)), "objective", np.float32)
    for rows in (jax.device_put(X), np.tile(X, (1000, 1))):
        assert "RuntimeError: This process was forked" in said_in_a_fork(lambda rows=rows: fitted.predict(rows))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_what_computes_nothing_goes_on_in_a_fork():
    """Work that is sent to a forked worker is unpickled there: an error then would be lost, and the pool would wait."""
    sent = pickle.dumps(jaxgmm.fit(KEY, X, 2, n_restarts=1, max_steps=1))
    assert said_in_a_fork(lambda: pickle.loads(sent).mixture.means.shape) == "(2, 2)"


SCRIPT = """
    import os
    import sys
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)


    def in_a_fork(name, job):
        child = os.fork()
        if not child:
            try:
                print(name, job(), flush=True)
            except RuntimeError as error:
                print(name, error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)


    def fits():
        import jaxgmm

        return jaxgmm.GaussianMixture(1, max_iter=0, random_state=0).fit(x).converged_


    if sys.argv[1] == "imported first":
        import jaxgmm

        in_a_fork("before use:", fits)
        print("here:", fits())
        in_a_fork("a fork's", lambda: in_a_fork("fork:", fits))
    else:
        import jax

        jax.numpy.ones(3).sum().block_until_ready()
        in_a_fork("imported there:", fits)
        print("here:", fits())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("order", "said"),
    {
        "imported first": {"before use": "False", "here": "False", "fork": "This process was forked"},
        "imported late": {"imported there": "This process was forked", "here": "False"},
    }.items(),
)
def test_it_is_JAX_in_use_that_matters_and_not_the_import(order, said):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), order]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=2 * LONG)
    lines = dict(line.split(": ", 1) for line in made.stdout.splitlines() if ": " in line)
    assert {name: lines[name][: len(text)] for name, text in said.items()} == said

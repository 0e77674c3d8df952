"""Polishing: a search's figures are those of optima, wherever the rows lie, and no program is compiled for it."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Blocks, GaussianMixture, Status
from jaxgmm._base import programs
from jaxgmm.search import ascent, in_step
from jaxgmm.search import checkpoint as checkpoints
from jaxgmm.search import polish as polish_module
from tests.laws import KINDS, every_kind
from tests.tolerances import assert_close, assert_same_mixture, tolerance

N, D, K = 240, 2, 3
STILL_TO_COME = 1e-6
"""The promise, nats per unit of weight."""


def overlapping(seed=1, n_rows=N):
    """Three clusters that overlap, from which EM climbs slowly."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]])
    return centres[np.arange(n_rows) % 3] + rng.normal(size=(n_rows, D))


X = overlapping()
fit = partial(jaxgmm.fit, jax.random.key(0), n_restarts=4, dtype=np.float64)


def excess(result, x=X, **more):
    """What EM still gains from a result, nats per unit of weight."""
    more = {"family": result.mixture.family, "tol": 1e-10, "max_steps": 5000, "polish": False} | more
    on = fit(x, result.mixture.n_components, init=result.mixture, **more)
    return float(on.objective) - float(result.objective)


@every_kind
def test_little_is_still_to_come(family):
    plain, polished = (fit(X, K, family, polish=polish) for polish in (False, True))
    assert excess(polished) < STILL_TO_COME < excess(plain)
    assert int(polished.status) == Status.CONVERGED
    # Steps and histories are those of all that was done.
    n_steps, history = int(polished.n_steps), np.asarray(polished.history)
    assert n_steps > int(plain.n_steps)
    assert history[n_steps] == float(polished.objective)
    assert np.isnan(history[n_steps + 1 :]).all()
    assert (np.diff(history[: n_steps + 1]) >= -tolerance("fall", np.float64).absolute).all()
    # No restart is lower than it was, and the best is the result.
    after, before = (np.asarray(of.restarts.objective) for of in (polished, plain))
    assert (after >= before - tolerance("fall", np.float64).absolute).all()
    assert after.max() == float(polished.objective)


@every_kind
def test_float32_reaches_the_same_optimum(family):
    """From one start: among several, rounding decides which of two optima the best of them is near."""
    start = X[[0, 1, 2]]
    exact, single = (fit(X, K, family, init=start, polish=True, dtype=dtype) for dtype in (np.float64, np.float32))
    assert_close(single.objective, exact.objective, "settled", np.float32)


@pytest.mark.parametrize("family", ["EEI", "VEI"])
def test_constrained_families_get_there_too(family):
    assert excess(fit(X, K, family, polish=True)) < STILL_TO_COME


@every_kind
def test_rows_in_blocks_reach_the_optimum_of_rows_in_memory(family):
    """From one start, since blocks are seeded from a sample; and weighted rows as repeated ones."""
    start = fit(X, K, family, n_restarts=1, max_steps=3).mixture
    whole = fit(X, K, family, init=start, polish=True)
    streamed = fit(Blocks(np.array_split(X, 3)), K, family, init=start, polish=True)
    assert_close(streamed.objective, whole.objective, "settled", np.float64)
    assert excess(streamed) < STILL_TO_COME
    twice = fit(X, K, family, init=start, polish=True, sample_weight=np.full(N, 2.0))
    assert_close(twice.objective, whole.objective, "settled", np.float64)


@pytest.mark.parametrize("rows", [X, Blocks(np.array_split(X, 3))], ids=["in memory", "in blocks"])
def test_the_best_quarter_of_restarts_is_run_on_before_one_is_chosen(rows, monkeypatch):
    """And the others stay where tol ended them, but for those that are polished."""
    search = partial(fit, rows, K + 2, "tied", n_restarts=8)  # tied covariances have no spikes, which would not count
    at_tol, found = (search(polish=polish) for polish in (False, True))
    monkeypatch.setattr(polish_module, "SIFTED", 0.0)
    alone = search(polish=True)
    before, after, unsifted = (np.asarray(of.restarts.objective) for of in (at_tol, found, alone))
    of_quarter = set(np.argsort(-before, kind="stable")[:2].tolist())
    assert of_quarter <= set(np.flatnonzero(after > before).tolist())
    assert (after >= before - tolerance("fall", np.float64).absolute).all()
    assert np.count_nonzero(after != before) <= 2 + polish_module.FINALISTS
    assert 0 < np.count_nonzero(unsifted != before) <= polish_module.FINALISTS
    statuses = [np.asarray(of.restarts.status).tolist() for of in (at_tol, found)]
    assert statuses[0] == statuses[1]
    assert excess(found) < STILL_TO_COME
    n_steps, history = int(found.n_steps), np.asarray(found.history)
    assert history[n_steps] == float(found.objective)
    assert np.isfinite(history[: n_steps + 1]).all()
    assert (np.diff(history[: n_steps + 1]) >= -tolerance("fall", np.float64).absolute).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_cell_does_not_depend_on_how_long_other_cells_take(seed):
    """The best quarter of its runs goes on as far as it would alone. Small tables share a program for all these K."""
    key, x = jax.random.key(0), overlapping(seed)
    swept = partial(jaxgmm.sweep, key, x, families="diag", n_restarts=8, dtype=np.float64)
    alone, among = (swept(counts).results["diag", 2] for counts in ([2], [2, 3, 5]))
    assert np.array_equal(alone.restarts.n_steps, among.restarts.n_steps)
    assert_close(alone.objective, among.objective, "settled", np.float64)


def test_an_ascent_over_blocks_resumes_with_the_same_bits(tmp_path, monkeypatch):
    """Ended in the middle of the ascent, as by a killed process, and called again."""
    blocks = Blocks(np.array_split(X, 3))
    search = partial(fit, blocks, K, init=fit(X, K, n_restarts=1, max_steps=3).mixture, polish=True)
    whole = search()
    kept = []
    keep = checkpoints.Entry.keep

    def dies(self, tree, is_done=False):
        keep(self, tree, is_done)
        kept.append(is_done)
        if sum(kept) == 1 and len(kept) > kept.index(True) + 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Entry, "keep", dies)
        with pytest.raises(KeyboardInterrupt):
            search(checkpoint=checkpoints.Checkpoint(tmp_path, every=0.0))
    again = search(checkpoint=checkpoints.Checkpoint(tmp_path, every=0.0))
    assert float(again.objective) == float(whole.objective)
    assert int(again.n_steps) == int(whole.n_steps)
    np.testing.assert_array_equal(again.mixture.means, whole.mixture.means)


def test_a_sweep_is_polished_unless_told_otherwise_and_compiles_nothing_for_it():
    def sweep(**more):
        return jaxgmm.sweep(jax.random.key(0), X, range(1, 5), list(KINDS), 4, dtype=np.float64, **more)

    plain = sweep(polish=False)
    before = programs.n_kept()
    found = sweep()
    assert programs.n_kept() == before
    assert "polished" not in plain.columns
    for cell in found.cells:
        assert cell.polished == found.is_sound(cell)
        if cell.polished:
            result = found.results[cell.family, cell.K]
            assert excess(result) < STILL_TO_COME
            assert cell.n_steps == int(result.n_steps)
            assert cell.log_likelihood >= float(plain.results[cell.family, cell.K].objective) * N - 1e-9
    assert [row["polished"] for row in found.table()] == [cell.polished for cell in found.cells]
    assert any(cell.polished for cell in found.cells)
    assert "polished" in repr(found)


def test_overlapping_clusters_of_unequal_size_get_their_weights():
    """300 and 100 rows of two clusters that overlap: the default tol stops EM where the weights are 0.6 and 0.4
    (scikit-learn's issue 10122, where the distributions are from)."""
    rng = np.random.RandomState(1234)
    x = np.concatenate(
        [
            rng.multivariate_normal([2.0, 4.0], [[5.0, 2.0], [2.0, 6.0]], 300),
            rng.multivariate_normal([0.0, 0.0], [[4.0, 2.0], [2.0, 3.0]], 100),
        ]
    )
    fits = {polish: GaussianMixture(2, n_init=4, random_state=0, polish=polish).fit(x) for polish in (False, True)}
    optimum = fit(x, 2, init=fits[True].mixture_, tol=1e-13, max_steps=20_000)
    assert_close(np.sort(fits[True].weights_), np.sort(optimum.mixture.weights), "polished weights", np.float64)
    assert fits[True].score(x) > fits[False].score(x)
    assert fits[True].weights_.max() - fits[False].weights_.max() > 0.05


def test_tol_0_makes_exactly_the_steps_it_is_given():
    plain, polished = (fit(X, K, tol=0, max_steps=7, polish=polish) for polish in (False, True))
    assert int(polished.n_steps) == int(plain.n_steps) == 7
    assert_same_mixture(polished.mixture, plain.mixture, np.float64)


def test_escape_and_race_are_polished_at_their_end():
    found = fit(X, K, polish=True, escape="split-merge")
    assert excess(found) < STILL_TO_COME
    assert found.escapes is not None
    assert excess(fit(X, K, polish=True, race=True)) < STILL_TO_COME
    single = fit(X, K, polish=True, escape="split-merge", dtype=np.float32)
    assert single.objective.dtype == np.float32


def test_what_cannot_be_polished_is_refused_by_name():
    with pytest.raises(TypeError, match="polish must be True or False, got str: 'yes'"):
        fit(X, K, polish="yes")
    with pytest.raises(TypeError, match="polish"):
        jax.jit(lambda x: jaxgmm.fit(jax.random.key(0), x, K, polish=True).objective)(X.astype(np.float32))


@pytest.mark.parametrize("n_pairs", [0, 1, 12])
def test_the_direction_is_that_of_the_two_loops_of_lbfgs(n_pairs, rng):
    """Nocedal 1980, from the identity: what the compact form is a shorter way to write."""
    root = rng.normal(size=(20, 20))
    moves, slope = rng.normal(size=(n_pairs, 20)), rng.normal(size=20)
    changes = moves @ (root @ root.T + np.eye(20))
    left, amounts = slope, np.empty(n_pairs)
    for i in reversed(range(n_pairs)):
        amounts[i] = moves[i] @ left / (moves[i] @ changes[i])
        left = left - amounts[i] * changes[i]
    for i in range(n_pairs):
        left = left + (amounts[i] - changes[i] @ left / (moves[i] @ changes[i])) * moves[i]
    assert_close(ascent._lbfgs(slope, moves, changes), left, "oracle", np.float64)


def test_an_interrupt_while_several_ascend_keeps_what_they_have(monkeypatch):
    """The cells come back as far as they got, and the search says that it is not complete."""
    learn, seen = in_step.learn, []

    def interrupted(ascended, point, stepped):
        seen.append(stepped)
        if len(seen) == 4:  # no ascent ends in so few
            raise KeyboardInterrupt
        return learn(ascended, point, stepped)

    monkeypatch.setattr(in_step, "learn", interrupted)
    with pytest.warns(UserWarning, match="The search was interrupted"):
        found = jaxgmm.sweep(jax.random.key(0), X, [2, 3, 4], ["full"], 2, dtype=np.float64)
    assert len(seen) == 4
    assert not found.is_complete
    assert {cell.status for cell in found.cells} == {"RUNNING"}
    assert all(np.isfinite(cell.log_likelihood) for cell in found.cells)
    assert len(found.cells) == 3


def test_an_ascent_ends_where_rounding_hides_what_is_left(monkeypatch):
    """In float32: the objective has risen by more than `AT_REST` roundings over every `WINDOW` before the last, but for
    steps with which a proposal is only shortened."""
    lines, keep = [], polish_module.ended
    monkeypatch.setattr(polish_module, "ended", lambda each: lines.append(each.line) or keep(each))
    jaxgmm.sweep(jax.random.key(0), X.astype(np.float32), [8, 10], "full", 4)
    made = [line[~np.isnan(line)].astype(np.float64) for line in lines]
    assert max(map(len, made)) > 2 * ascent.WINDOW
    for line in made:
        rose = (line[ascent.WINDOW :] - line[: -ascent.WINDOW]) / np.maximum(np.abs(line[ascent.WINDOW :]), 1.0)
        assert np.all(np.maximum(rose[:-2], rose[1:-1]) >= ascent.AT_REST * np.finfo(np.float32).eps)

"""Pictures, by what is drawn: positions, lengths, data, not pixels."""

from __future__ import annotations

import builtins

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse, Rectangle

import jaxgmm
from jaxgmm import Mixture, Status, plot
from jaxgmm.search.result import FitResult, Restarts
from jaxgmm.search.table import Cell, Sweep

COVARIANCES = np.array(
    [[[4.0, 1.5, 0.3], [1.5, 1.0, 0.2], [0.3, 0.2, 0.5]], [[1.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 1.0]]]
)
MEANS = np.array([[0.0, 1.0, 2.0], [8.0, -3.0, 5.0]])


@pytest.fixture(autouse=True)
def _figures_are_closed_and_settings_kept():
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def mixture():
    return Mixture.create([0.25, 0.75], MEANS, COVARIANCES)


def ellipses(ax):
    """The coloured ones; each lies on a wider white one."""
    return [p for p in ax.patches if isinstance(p, Ellipse) and p.get_edgecolor()[:3] != (1.0, 1.0, 1.0)]


def scatter(ax):
    (points,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    return points


def line_named(ax, start):
    (line,) = [line for line in ax.lines if str(line.get_label()).startswith(start)]
    return line


# Clusters


def test_ellipses_are_the_marginals_at_one_and_two_deviations(mixture):
    dims = (2, 0)
    ax = plot.clusters(mixture, dims=dims)
    found = ellipses(ax)
    assert len(found) == 4
    for k in range(2):
        marginal = COVARIANCES[k][np.ix_(dims, dims)]
        for deviations, ellipse in zip((1.0, 2.0), found[2 * k : 2 * k + 2], strict=True):
            assert np.allclose(ellipse.center, MEANS[k, dims])
            turn = np.deg2rad(ellipse.angle)
            axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            halves = np.array([ellipse.width, ellipse.height]) / 2 / deviations
            assert np.allclose(axes @ np.diag(halves**2) @ axes.T, marginal, atol=1e-5)


def test_means_are_marked_and_numbered(mixture):
    ax = plot.clusters(mixture)
    marks = [line.get_xydata() for line in ax.lines]
    assert np.allclose(np.concatenate(marks), MEANS[:, :2])
    assert [(text.get_text(), text.xy) for text in ax.texts] == [
        ("0", pytest.approx(MEANS[0, :2])),
        ("1", pytest.approx(MEANS[1, :2])),
    ]


def test_rows_stand_where_they_are_in_the_colour_of_their_component(mixture):
    x = np.asarray(mixture.sample(jax.random.key(0), 200))
    ax = plot.clusters(mixture, x, dims=(0, 1))
    points = scatter(ax)
    assert np.allclose(points.get_offsets(), x[:, :2])
    colours = [to_rgba(line.get_markeredgecolor())[:3] for line in ax.lines]
    expected = np.array(colours)[np.asarray(mixture.predict(x))]
    assert np.allclose(points.get_facecolors()[:, :3], expected)
    assert len(set(colours)) == 2


def test_labels_of_the_users_colour_the_rows(mixture):
    x = np.asarray(mixture.sample(jax.random.key(0), 50))
    labels = np.arange(50) % 2
    ax = plot.clusters(mixture, x, labels=labels)
    faces = scatter(ax).get_facecolors()
    assert len(np.unique(faces[labels == 0], axis=0)) == len(np.unique(faces[labels == 1], axis=0)) == 1
    assert not np.allclose(faces[0], faces[1])


def test_many_rows_are_thinned_evenly_and_rasterised(mixture):
    x = np.column_stack([np.arange(100_000.0)] * 3)
    points = scatter(plot.clusters(mixture, x))
    shown = np.asarray(points.get_offsets())[:, 0]
    assert len(shown) == plot.POINTS
    assert (shown[0], shown[-1]) == (0.0, 99_999.0)
    assert set(np.diff(shown)) <= {4.0, 5.0, 6.0}
    assert points.get_rasterized()
    again = scatter(plot.clusters(mixture, x))
    assert np.array_equal(again.get_offsets(), points.get_offsets())


def test_all_that_is_drawn_lies_in_view(mixture):
    ax = plot.clusters(mixture)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    reach = 2 * np.sqrt(np.diagonal(COVARIANCES, axis1=1, axis2=2))[:, :2]
    assert left <= (MEANS[:, :2] - reach)[:, 0].min()
    assert right >= (MEANS[:, :2] + reach)[:, 0].max()
    assert bottom <= (MEANS[:, :2] - reach)[:, 1].min()
    assert top >= (MEANS[:, :2] + reach)[:, 1].max()


@pytest.mark.parametrize("n_components", [2, 8, 9, 40])
def test_every_component_has_a_colour_of_its_own(n_components):
    mixture = Mixture.create(
        np.full(n_components, 1 / n_components),
        np.arange(2.0 * n_components).reshape(-1, 2),
        np.ones(n_components),
        family="spherical",
    )
    colours = {to_rgba(e.get_edgecolor()) for e in ellipses(plot.clusters(mixture))}
    assert len(colours) == n_components


def test_a_component_of_weight_0_is_not_drawn():
    mixture = Mixture.create([1.0, 0.0], np.zeros((2, 2)), np.ones(2), family="spherical")
    assert len(ellipses(plot.clusters(mixture))) == 2


def test_shared_covariances_are_drawn_for_every_component():
    mixture = Mixture.create([0.5, 0.5], np.array([[0.0, 0.0], [5.0, 5.0]]), np.diag([4.0, 1.0]), family="tied")
    assert [e.width for e in ellipses(plot.clusters(mixture))] == pytest.approx([4.0, 8.0, 4.0, 8.0])


def densities(mixture, grid, d):
    weights, means = np.asarray(mixture.weights), np.asarray(mixture.means)[:, d]
    variances = np.asarray(mixture.covariances)[:, d, d]
    z = (grid[:, None] - means) ** 2 / variances
    return weights * np.exp(-0.5 * z) / np.sqrt(2 * np.pi * variances)


@pytest.mark.parametrize("dims", [(0,), (2,)])
def test_one_feature_gives_a_histogram_and_the_marginal_densities(mixture, dims):
    x = np.asarray(mixture.sample(jax.random.key(0), 500))
    ax = plot.clusters(mixture, x, dims=dims)
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert sum(bar.get_width() * bar.get_height() for bar in bars) == pytest.approx(1.0)
    assert bars[0].get_x() == pytest.approx(x[:, dims[0]].min())
    for k in range(2):
        line = line_named(ax, f"component {k}")
        assert np.allclose(line.get_ydata(), densities(mixture, line.get_xdata(), dims[0])[:, k], rtol=1e-4)
    whole = line_named(ax, "mixture")
    grid, values = whole.get_data()
    assert np.allclose(values, densities(mixture, grid, dims[0]).sum(axis=1), rtol=1e-4)
    assert np.trapezoid(values, grid) == pytest.approx(1.0, abs=2e-3)


def test_one_dimensional_mixtures_need_no_dims():
    mixture = Mixture.create([0.5, 0.5], [[0.0], [1e4]], np.array([1e-4, 1.0]), family="spherical")
    ax = plot.clusters(mixture)
    assert ax.get_xlabel() == "feature 0"
    # The narrow peak falls between the points of an even grid over all of it.
    assert line_named(ax, "component 0").get_ydata().max() == pytest.approx(0.5 / np.sqrt(2 * np.pi * 1e-4), rel=1e-3)


def test_the_axes_given_are_drawn_on_and_returned(mixture):
    _, axes = plt.subplots(1, 2)
    assert plot.clusters(mixture, ax=axes[1]) is axes[1]
    assert not axes[0].patches
    assert len(ellipses(axes[1])) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": (0, 3)}, r"dims must name one or two different features from 0 to 2, got \(0, 3\)"),
        ({"dims": (1, 1)}, "two different features"),
        ({"dims": (0, 1, 2)}, "one or two different features"),
        ({"dims": (-1, 0)}, "dims must be at least 0"),
        ({"x": np.zeros((4, 2))}, "The mixture has 3 features"),
        ({"x": np.zeros((4, 3)), "labels": np.zeros(3, int)}, r"labels must have shape \(4,\)"),
    ],
)
def test_clusters_names_what_is_wrong(mixture, arguments, message):
    with pytest.raises(ValueError, match=message):
        plot.clusters(mixture, **arguments)


# History

HISTORIES = np.array([[-5.0, -4.0, -3.5, np.nan], [-6.0, -3.0, -2.0, -1.0], [-7.0, -6.5, np.nan, np.nan]], np.float32)


def result_of(histories, winner, statuses, escapes=None, last=None):
    """A fit whose restarts have these histories; with `last`, that of the run after the last of its moves."""
    objective = np.array([line[np.isfinite(line)][-1] for line in histories], np.float32)
    n_steps = np.isfinite(histories).sum(axis=1) - 1
    restarts = Restarts(*map(jnp.asarray, (objective, np.array(statuses, np.int32), n_steps, histories)))
    mixture = Mixture.create([1.0], np.zeros((1, 2)), np.ones(1), family="spherical")
    return FitResult(
        mixture,
        restarts.objective[winner],
        restarts.status[winner],
        restarts.n_steps[winner],
        restarts.history[winner] if last is None else jnp.asarray(last, jnp.float32),
        jnp.ones(1),
        jnp.zeros(1, bool),
        restarts,
        None if escapes is None else jnp.asarray(escapes, jnp.float32),
    )


def test_the_winner_is_bold_and_all_others_stand_behind_it():
    ended = [Status.CONVERGED, Status.MAX_STEPS, Status.COLLAPSED]
    ax = plot.history(result_of(HISTORIES, 1, ended))
    best = line_named(ax, "best restart")
    assert best.get_label() == "best restart (max steps)"
    assert np.array_equal(best.get_xydata(), [[0, -6], [1, -3], [2, -2], [3, -1]])
    (others,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    drawn = [segment.tolist() for segment in others.get_segments()]
    assert drawn == [[[0, -5], [1, -4], [2, -3.5]], [[0, -7], [1, -6.5]]]
    assert others.get_label() == "2 other restarts"
    assert best.get_linewidth() > 2 * others.get_linewidth()[0]
    assert line_named(ax, "1 failed").get_xydata().tolist() == [[1, -6.5]]


def collections(ax):
    return {c.get_label(): c for c in ax.collections if isinstance(c, LineCollection)}


def test_what_a_race_left_behind_is_told_from_what_went_on():
    """By its steps, fewer than the limit; a finalist that met the limit made all of them."""
    histories = np.array([[-5, -4, np.nan, np.nan], [-6, -3, -2, -1], [-7, -6, -5, -4], [-8, -7, np.nan, np.nan]])
    ended = [Status.MAX_STEPS, Status.CONVERGED, Status.MAX_STEPS, Status.MAX_STEPS]
    drawn = collections(plot.history(result_of(histories, 1, ended)))
    assert set(drawn) == {"2 out of the race", "1 other restarts"}
    assert [len(line) for line in drawn["2 out of the race"].get_segments()] == [2, 2]
    assert len(drawn["1 other restarts"].get_segments()[0]) == 4
    assert len({to_rgba(lines.get_color()[0])[:3] for lines in drawn.values()}) == 2


def test_moves_rise_from_the_restart_that_they_began_from():
    """It is not the first one, and its history is not the result's."""
    last = [-2.5, -0.6, -0.5, np.nan]
    ended = [Status.CONVERGED, Status.MAX_STEPS, Status.COLLAPSED]
    ax = plot.history(result_of(HISTORIES, 1, ended, [-1.0, -0.8, -0.5], last))
    assert line_named(ax, "best restart").get_xydata().tolist() == [[0, -6], [1, -3], [2, -2], [3, -1]]
    moves = line_named(ax, "2 split-merge moves").get_xydata()
    assert np.allclose(moves[:, 1], [-0.8, -0.5])
    assert 3 < moves[0, 0] < moves[1, 0]
    (run,) = [line for line in ax.lines if len(line.get_xdata()) == 3 and np.isclose(line.get_ydata()[0], -2.5)]
    assert run.get_xdata()[0] == moves[0, 0]
    assert run.get_xdata()[-1] == moves[1, 0]


def test_an_escape_that_found_nothing_looks_like_a_fit_without_one():
    ended = [Status.CONVERGED, Status.MAX_STEPS, Status.COLLAPSED]
    ax = plot.history(result_of(HISTORIES, 1, ended, [-1.0]))
    assert not [line for line in ax.lines if "split-merge" in str(line.get_label())]
    assert line_named(ax, "best restart").get_ydata()[-1] == -1.0


def test_a_single_run_needs_no_legend():
    ax = plot.history(result_of(HISTORIES[:1], 0, [Status.CONVERGED]))
    assert ax.get_legend() is None
    assert np.array_equal(line_named(ax, "best").get_ydata(), [-5, -4, -3.5])


def test_histories_may_be_plain_arrays():
    one = plot.history([-3.0, -2.0, -1.5])
    assert one.lines[0].get_xydata().tolist() == [[0, -3], [1, -2], [2, -1.5]]
    several = plot.history(HISTORIES)
    (lines,) = several.collections
    assert [len(segment) for segment in lines.get_segments()] == [3, 4, 2]
    assert several.get_ylabel() == "mean log-likelihood (nats)"
    with pytest.raises(ValueError, match=r"Expected a FitResult or histories .* got shape \(2, 2, 2\)"):
        plot.history(np.zeros((2, 2, 2)))


def test_a_real_fit_has_its_own_history_drawn(rng):
    result = jaxgmm.fit(jax.random.key(0), rng.normal(size=(80, 2)), 2, n_restarts=3)
    values = line_named(plot.history(result), "best").get_ydata()
    assert np.array_equal(values.astype(np.float32), np.asarray(result.history)[: int(result.n_steps) + 1])
    assert values[-1].astype(np.float32) == result.objective


# Criterion


def cells(family, *values, status="CONVERGED"):
    return [
        Cell(family, k, 0.0, 1, value + 100, value, value + 200, 1, status) for k, value in enumerate(values, start=1)
    ]


def sweep_of(*cells, criterion="bic"):
    return Sweep({}, tuple(cells), criterion)


def test_every_family_is_a_line_and_the_best_is_ringed():
    found = sweep_of(*cells("full", 9.0, 5.0, 6.0), *cells("tied", 9.0, 7.0, 4.0))
    ax = found.plot()
    assert line_named(ax, "full").get_xydata().tolist() == [[1, 9], [2, 5], [3, 6]]
    assert line_named(ax, "tied").get_xydata().tolist() == [[1, 9], [2, 7], [3, 4]]
    ring = line_named(ax, "best")
    assert ring.get_xydata().tolist() == [[3, 4]]
    assert ring.get_label() == "best: tied, K = 3"
    assert ax.get_xticks().tolist() == [1, 2, 3]
    assert ax.get_ylabel() == "BIC (smaller is better)"


def test_the_chosen_criterion_is_drawn():
    ax = plot.criterion(sweep_of(*cells("full", 9.0, 5.0), criterion="icl"))
    assert line_named(ax, "full").get_ydata().tolist() == [209, 205]
    assert ax.get_ylabel() == "ICL (smaller is better)"


def test_failed_fits_leave_a_gap_and_are_not_ringed():
    good = cells("full", 9.0, 1.0, 6.0)
    good[1] = good[1]._replace(status="COLLAPSED")
    ax = plot.criterion(sweep_of(*good))
    assert np.array_equal(line_named(ax, "full").get_ydata(), [9, np.nan, 6], equal_nan=True)
    assert line_named(ax, "best").get_xydata().tolist() == [[3, 6]]


def test_fits_that_stand_on_the_ridge_are_hollow_and_off_the_line():
    found = Sweep({}, tuple(cells("full", 9.0, 1.0, 6.0)), "bic", spurious=frozenset({("full", 2)}))
    ax = plot.criterion(found)
    assert np.array_equal(line_named(ax, "full").get_ydata(), [9, np.nan, 6], equal_nan=True)
    (hollow,) = [line for line in ax.lines if line.get_xydata().tolist() == [[2, 1]]]
    assert to_rgba(hollow.get_markerfacecolor()) == to_rgba("white")
    assert hollow.get_linestyle() == "None"
    assert line_named(ax, "best").get_xydata().tolist() == [[3, 6]]
    assert line_named(ax, "hollow")


def test_of_held_out_rows_the_largest_is_ringed():
    held_out = [cell._replace(held_out=-cell.bic) for cell in cells("full", 9.0, 5.0, 6.0)]
    ax = plot.criterion(sweep_of(*held_out, criterion="held_out"))
    assert line_named(ax, "best").get_xydata().tolist() == [[2, -5]]
    assert ax.get_ylabel() == "held-out log-likelihood, nats a row (larger is better)"
    assert not [line for line in ax.lines if str(line.get_label()).startswith("hollow")]


def test_lines_go_by_k_whatever_the_order_of_the_search():
    ax = plot.criterion(sweep_of(*reversed(cells("full", 9.0, 5.0, 6.0))))
    assert line_named(ax, "full").get_xdata().tolist() == [1, 2, 3]


# Without matplotlib


def test_without_matplotlib_an_error_names_what_to_install(mixture, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    found = sweep_of(*cells("full", 1.0))
    for draw in (
        lambda: plot.clusters(mixture),
        lambda: plot.history([1.0]),
        lambda: plot.criterion(found),
        found.plot,
    ):
        with pytest.raises(ImportError, match=r'pip install "jaxgmm\[plot\]"'):
            draw()


def test_drawing_reads_float64_with_jaxs_switch_off():
    mixture = Mixture.create([1.0], np.array([[1.0, 2.0]]), np.ones(1), family="spherical", dtype="float64")
    x = np.array([[1.0 + 1e-12, 2.0]])
    ax = plot.clusters(mixture, x)
    assert scatter(ax).get_offsets()[0, 0] == x[0, 0]


# Anything that holds a mixture or a history


def test_a_result_a_sweep_and_an_estimator_are_drawn_as_what_they_hold():
    from sklearn.mixture import GaussianMixture as SklearnMixture

    x = MEANS[np.arange(60) % 2] + np.random.default_rng(0).normal(size=(60, 3))
    estimator = jaxgmm.GaussianMixture(2, random_state=0).fit(x)
    result, theirs = estimator.result_, SklearnMixture(2, random_state=0).fit(x)
    best = Cell("full", 2, -1.0, 3, 1.0, 1.0, 1.0, 4, "CONVERGED")
    sweep = Sweep({("full", 2): result}, (best,), "bic")
    places = [tuple(e.get_center()) for e in ellipses(plot.clusters(estimator.mixture_, x))]
    for holder in (result, estimator, sweep):
        assert [tuple(e.get_center()) for e in ellipses(plot.clusters(holder, x))] == places
        drawn = plot.history(holder).lines[0].get_ydata()
        np.testing.assert_array_equal(drawn, plot.history(result).lines[0].get_ydata())
    assert len(ellipses(plot.clusters(theirs))) == 4
    np.testing.assert_array_equal(plot.history(theirs).lines[0].get_ydata(), theirs.lower_bounds_)
    estimator.means_ += 100.0
    assert min(e.get_center()[0] for e in ellipses(plot.clusters(estimator))) > 50.0


@pytest.mark.parametrize(
    ("draw", "what", "message"),
    [
        (plot.clusters, np.zeros((5, 3)), "clusters draws a jaxgmm.Mixture, a FitResult, .* got ndarray"),
        (plot.clusters, None, "got NoneType"),
        (plot.clusters, jaxgmm.GaussianMixture(), "not fitted yet"),
        (plot.clusters, jaxgmm.GaussianMixture, "got type"),
        (plot.history, Mixture.create([1.0], [[0.0]], [1.0], "spherical"), "A Mixture has none"),
        (plot.history, None, "history draws a FitResult, .* got None"),
        (plot.history, "fit", "history draws a FitResult, .* got 'fit'"),
        (plot.criterion, jaxgmm.GaussianMixture(), "criterion draws a jaxgmm.Sweep.*got GaussianMixture"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, what, message):
    with pytest.raises((TypeError, ValueError), match=message):
        draw(what)
    assert not plt.get_fignums()  # nothing is left half drawn

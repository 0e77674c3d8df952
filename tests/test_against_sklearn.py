"""The same steps as scikit-learn's GaussianMixture from the same start, live and from stored runs.

Stored runs of small tables are made as `fit` makes them, which compiles nothing; all else by the compiled step.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Batches, Mixture, em
from jaxgmm.families import SHELF
from tests import oracle
from tests.tolerances import assert_close, assert_same_parameters

TYPES = ("full", "tied", "diag", "spherical")
STORED = sorted(path.stem for path in (oracle.DATA / "sklearn").glob("gm_*.npz"))

every_type = pytest.mark.parametrize("kind", TYPES)


def covariances_from(precisions, kind):
    """Covariances of the type's own shape from its precisions."""
    return np.linalg.inv(precisions) if kind in ("full", "tied") else 1.0 / np.asarray(precisions)


def parameters(mixture):
    return mixture.weights, mixture.means, mixture.covariances


def dense(kind, covariances, n_components, n_features):
    """scikit-learn's shape as (K, D, D), by hand."""
    if kind == "full":
        return covariances
    if kind == "tied":
        return np.stack([covariances] * n_components)
    return np.stack([np.eye(n_features) * covariances[k] for k in range(n_components)])


@every_type
def test_the_same_mixture_after_every_step(kind, x64):
    """Weights, means and covariances after 1, 2, 5 and 50 iterations of scikit-learn, run here and now."""
    mixture_module = pytest.importorskip("sklearn.mixture")
    exceptions = pytest.importorskip("sklearn.exceptions")
    n_rows, n_features, n_components, ridge = 300, 3, 4, 1e-6
    blobs = oracle.blobs(seed=11, n_rows=n_rows, n_features=n_features, n_components=n_components)
    family = SHELF[kind]
    start = Mixture.create(*blobs.start, family=family)
    batches = Batches.of(blobs.x, n_components=n_components)
    settings = em.Settings(tol=0.0, ridge=ridge)
    shown = np.asarray(family.show(start.scales, n_components))
    state = em.init(start, batches)
    for n_steps in (1, 2, 5, 50):
        theirs = mixture_module.GaussianMixture(
            n_components,
            covariance_type=kind,
            tol=0.0,
            reg_covar=ridge,
            max_iter=n_steps,
            weights_init=np.asarray(start.weights),
            means_init=np.asarray(start.means),
            precisions_init=covariances_from(shown, kind),
        )
        with pytest.warns(exceptions.ConvergenceWarning):
            theirs.fit(blobs.x)
        state = em.run(state, batches, settings, n_steps)
        assert int(state.n_steps) == n_steps
        expected = (theirs.weights_, theirs.means_, dense(kind, theirs.covariances_, n_components, n_features))
        assert_same_parameters(parameters(state.mixture), expected, np.float64, "sklearn", f"after {n_steps}")
        assert_close(state.objective, theirs.score(blobs.x), "sklearn", np.float64)
        assert_close(state.mixture.log_prob(blobs.x), theirs.score_samples(blobs.x), "sklearn", np.float64)
        assert_close(state.mixture.responsibilities(blobs.x), theirs.predict_proba(blobs.x), "sklearn", np.float64)


def stored_rows(name):
    """The data of a stored run; `china` is scikit-learn's sample image."""
    data_set = name.split("_")[1]
    if data_set != "china":
        return oracle.table(data_set)
    datasets = pytest.importorskip("sklearn.datasets")
    pytest.importorskip("PIL")
    return (datasets.load_sample_image("china.jpg").reshape(-1, 3) / 255)[::4]


def by_fit(start, x, ridge):
    """A function of the number of steps, which counts from the start, to the mixture and its objective."""

    def after(n_steps):
        how = {"init": start, "tol": 0.0, "max_steps": n_steps, "ridge": ridge, "dtype": np.float64}
        found = jaxgmm.fit(jax.random.key(0), x, start.n_components, start.family, **how)
        assert int(found.n_steps) == n_steps
        return found.mixture, found.objective

    return after


def by_programs(start, x, ridge):
    """The same, for numbers of steps that do not fall."""
    batches = Batches.of(x, n_components=start.n_components)
    state = em.init(start, batches)

    def after(n_steps):
        nonlocal state
        state = em.run(state, batches, em.Settings(tol=0.0, ridge=ridge), n_steps)
        assert int(state.n_steps) == n_steps
        return state.mixture, state.objective

    return after


@every_type
@pytest.mark.parametrize("name", STORED)
def test_stored_runs(name, kind, x64):
    """Parameters, score, bic and aic (through `n_free`) at every stored iteration, and the trace of the objective."""
    with np.load(oracle.DATA / "sklearn" / f"{name}.npz") as archive:
        truth = {key.removeprefix(f"{kind}__"): archive[key] for key in archive if key.startswith(f"{kind}__")}
    x = stored_rows(name)
    n_rows, n_features = x.shape
    n_components = len(truth["init_weights"])
    start = Mixture.create(
        truth["init_weights"],
        truth["init_means"],
        dense(kind, covariances_from(truth["init_precisions"], kind), n_components, n_features),
        family=kind,
    )
    after = (by_programs if "china" in name else by_fit)(start, x, float(truth["reg_covar"]))
    stops = sorted(int(key[2:].removesuffix("_weights")) for key in truth if key.startswith("it") and "weights" in key)
    n_free = n_components * n_features + n_components - 1 + SHELF[kind].n_free(n_components, n_features)
    assert n_free == int(truth["n_parameters"])
    # lower_bounds[j] belongs to the parameters before the j-th M-step: to the state after j steps.
    assert_close(after(0)[1], truth["lower_bounds"][0], "sklearn", np.float64)
    for stop in stops:
        made = int(truth[f"it{stop}_n_iter"])  # fewer where scikit-learn met an exact repeat
        mixture, objective = after(made)
        expected = (
            truth[f"it{stop}_weights"],
            truth[f"it{stop}_means"],
            dense(kind, truth[f"it{stop}_covariances"], n_components, n_features),
        )
        assert_same_parameters(parameters(mixture), expected, np.float64, "sklearn", f"after {made}")
        assert_close(objective, truth[f"it{stop}_score"], "sklearn", np.float64)
        loglik = float(objective) * n_rows
        assert_close(-2 * loglik + n_free * np.log(n_rows), truth[f"it{stop}_bic"], "sklearn", np.float64)
        assert_close(-2 * loglik + 2 * n_free, truth[f"it{stop}_aic"], "sklearn", np.float64)
    labels = truth["labels_last"]
    joint = np.asarray(mixture.log_joint(x[: len(labels)]))
    assert np.array_equal(joint.argmax(axis=1), labels)
    log_prob = oracle.log_sum_exp(joint[:20])
    assert_close(log_prob, truth["score_samples_first20"], "sklearn", np.float64)
    assert_close(np.exp(joint[:20] - log_prob[:, None]), truth["proba_first20"], "sklearn", np.float64)

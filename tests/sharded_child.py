"""In a process with eight devices: fits of rows in memory, and of the same rows shared out. Prints JSON.

What is compared is compared by `test_sharded.py`; here everything is as a user would write it.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

jax.config.update("jax_num_cpu_devices", 8)  # before anything asks for a device

import jaxgmm  # noqa: E402
from jaxgmm.rows.door import admit_rows  # noqa: E402
from jaxgmm.rows.options import RowOptions, Workload  # noqa: E402
from tests import be_strict, oracle  # noqa: E402
from tests.laws import KINDS  # noqa: E402

be_strict()
if "JAXGMM_TEST_PROGRAMS" in os.environ:
    os.environ["JAXGMM_CACHE"] = ""  # off, for the command line
    jaxgmm.enable_cache(os.environ["JAXGMM_TEST_PROGRAMS"])

N, D, K = 1003, 3, 4
BLOBS = oracle.blobs(seed=21, n_rows=N, n_features=D, n_components=K, distance=4.0)
SEEDS = BLOBS.x[:: N // K][:K]
WEIGHTS = np.random.default_rng(5).uniform(0.0, 2.0, N) * (np.arange(N) % 5 > 0)
KEY = jax.random.key(4)


def parameters(result: Any) -> dict[str, Any]:
    mixture = result.mixture
    parts = {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}
    parts |= {"history": result.history, "objectives": result.restarts.objective}
    return {name: np.asarray(part, np.float64).tolist() for name, part in parts.items()}


def both(x: Any, spread: Any, family: str, **how: Any) -> dict[str, Any]:
    """In memory and shared out."""
    on_all = {} if isinstance(spread, jax.Array) else {"device": "all"}
    how = {"tol": 0.0, "max_steps": 8, "init": SEEDS} | how
    whole = jaxgmm.fit(KEY, x, K, family, **how)
    return {"whole": parameters(whole), "spread": parameters(jaxgmm.fit(KEY, spread, K, family, **how, **on_all))}


def refused(x: Any, **how: Any) -> str:
    try:
        jaxgmm.fit(KEY, x, K, **{"n_restarts": 1, **how})
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing"


def variances(x: Any, weights: Any) -> list[float]:
    return np.asarray(
        admit_rows(KEY, x, RowOptions(weights, 64, None, "all"), Workload(K)).variances(), np.float64
    ).tolist()


def of_restarts(x: Any) -> dict[str, Any]:
    """Searches of small tables with as many restarts as devices, and more: in memory and on all devices."""
    found: dict[str, Any] = {}
    for name, race in (("whole", False), ("race", jaxgmm.Race(3, 2))):
        how = {"race": race, "n_restarts": 11, "tol": 1e-10, "dtype": np.float64}
        results = [jaxgmm.fit(KEY, x, K, "spherical", device=device, **how) for device in (None, "all")]
        steps = [np.asarray(result.restarts.n_steps).tolist() for result in results]
        found[name] = {"fits": [parameters(result) for result in results], "steps": steps}
    found["lies on"] = len(results[1].mixture.means.devices())
    found["rows"] = np.asarray(results[1].mixture.log_prob(x[:5])).tolist()
    more = {"n_folds": 2, "tol": 1e-6, "dtype": np.float64}
    swept = [jaxgmm.sweep(KEY, x, [2], ["full", "spherical"], 8, device=device, **more) for device in (None, "all")]
    found["sweep"] = [[[cell.log_likelihood, cell.held_out, cell.icl] for cell in each.cells] for each in swept]
    found["is replicated"] = admit_rows(KEY, x, RowOptions(device="all"), Workload(K, 8)).n_copies
    found["resumed"] = resumed(x)
    found["elsewhere"] = elsewhere(x[:200].astype(np.float32), WEIGHTS[:200])
    return found


def elsewhere(x: Any, weights: Any) -> dict[str, list[Any]]:
    """Objectives of fits of which something lies on a device of its own, or a mesh is set: on one device and on all."""
    first, last = jax.devices()[0], jax.devices()[-1]
    mesh = jax.make_mesh((8,), ("mine",), axis_types=(jax.sharding.AxisType.Auto,))
    ridges = np.array([1e-6, 0.3], np.float32)  # far enough apart that one in place of the other would show

    def fitted(device: Any, x: Any = x, weights: Any = weights, **how: Any) -> Any:
        how = {"n_restarts": 8, "max_steps": 3, "tol": 0.0, "sample_weight": weights, "device": device} | how
        return jaxgmm.fit(KEY, x, K, "spherical", **how).objective

    def under_mesh(device: Any) -> Any:
        with jax.set_mesh(mesh):
            return fitted(device)

    ways = {
        "weights elsewhere": lambda device: fitted(
            device, jax.device_put(x, first), jax.device_put(weights.astype(np.float32), last if device else first)
        ),
        "ridge elsewhere": lambda device: fitted(device, ridge=jax.device_put(1e-6, first), escape="split-merge"),
        "under a mesh": under_mesh,
        "mapped over ridges": lambda device: jax.vmap(lambda ridge: fitted(device, ridge=ridge))(ridges),
    }
    return {name: [np.asarray(way(device)).tolist() for device in (None, "all")] for name, way in ways.items()}


def on_meshes(x: np.ndarray) -> dict[str, dict[str, Any]]:
    """What is done with rows that lie on a mesh whose axes are Explicit, as those of `jax.make_mesh` are by default in
    newer versions, or under `jax.set_mesh`; and with the same rows on the host."""
    axis = jax.sharding.AxisType.Explicit
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(axis,))
    two = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis, axis))
    alone = jax.make_mesh((1,), ("rows",), axis_types=(axis,), devices=jax.devices()[5:6])
    start = jaxgmm.fit(KEY, x, K, "diag", init=SEEDS.astype(np.float32), max_steps=1, tol=0.0).mixture
    model = jaxgmm.GaussianMixture(K, random_state=0).fit(x)

    def of(x: Any, is_all: bool = False) -> dict[str, Any]:
        """What touches rows directly; or all, for the host's rows and where rows and all else lie on the mesh."""
        how = {"init": SEEDS.astype(np.float32), "max_steps": 4, "tol": 0.0}
        fitted = jaxgmm.fit(KEY, x, K, "diag", **how)
        found = {
            "fit": fitted.objective,
            "predict": fitted.mixture.predict(x),
            "log_prob": start.log_prob(x),
            "step": jaxgmm.em.step(jaxgmm.em.init(start, x), x).objective,
            "predict_proba": model.predict_proba(x),
        }
        if is_all:
            swept = jaxgmm.sweep(KEY, x, [2], ["diag"], 2, max_steps=4, tol=0.0)
            found |= {
                "sweep": [cell.log_likelihood / x.shape[0] for cell in swept.cells],
                "sample": start.sample(KEY, 5),
                "estimator": jaxgmm.GaussianMixture(K, random_state=0).fit(x).score(x),
                "online": jaxgmm.online.update(jaxgmm.online.init(start), x).objective,
                "bootstrap": jaxgmm.bootstrap(KEY, x, start, 2, max_steps=2, tol=0.0).objective,
            }
        return {name: np.asarray(value, np.float64).tolist() for name, value in found.items()}

    def put(mesh: Any, *spec: Any) -> Any:
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    ways = {"rows": put(mesh, "rows"), "two axes": put(two, "a"), "copies": put(mesh), "one device": put(alone, "rows")}
    ways |= {"a device": jax.device_put(x, jax.devices()[3])}
    found = {"host": of(x, is_all=True)} | {name: of(rows) for name, rows in ways.items()}
    with jax.set_mesh(mesh):
        found |= {"set, host": of(x), "set, rows": of(ways["rows"], is_all=True)}
        found |= {"set, copies": of(jax.numpy.asarray(x))}
    return found


def of_rows_by_features(x: np.ndarray) -> list[Any]:
    """Log-densities of rows (n, 3) on the host, and of such as lie on three devices by features, eagerly and jitted."""
    axis = jax.sharding.AxisType.Explicit
    mesh = jax.make_mesh((3,), ("features",), axis_types=(axis,), devices=jax.devices()[:3])
    lying = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "features")))
    mixture = jaxgmm.fit(KEY, x, K, "full", init=SEEDS.astype(np.float32), max_steps=1, tol=0.0).mixture
    with jax.set_mesh(mesh):
        jitted = jax.jit(mixture.log_prob)(lying)
    return [np.asarray(of, np.float64).tolist() for of in (mixture.log_prob(x), mixture.log_prob(lying), jitted)]


def resumed(x: Any) -> list[Any]:
    """A fit on all devices that is interrupted, and goes on; and one that is not."""

    def interrupt(told: Any) -> None:
        if told.n_steps > 0:  # after the first burst, of a few steps: how many the next has is a matter of time
            raise KeyboardInterrupt

    how = {"n_restarts": 9, "tol": 0.0, "max_steps": 30, "device": "all"}
    with tempfile.TemporaryDirectory() as folder:
        kept = jaxgmm.Checkpoint(folder, every=0.0)
        try:
            jaxgmm.fit(KEY, x, K, "spherical", progress=interrupt, checkpoint=kept, **how)
        except KeyboardInterrupt:
            pass
        told: list[int] = []
        again = jaxgmm.fit(
            KEY, x, K, "spherical", progress=lambda now: told.append(now.n_steps), checkpoint=kept, **how
        )
    return [told[0], parameters(again), parameters(jaxgmm.fit(KEY, x, K, "spherical", **how))]


def main() -> None:
    x = BLOBS.x
    found = {"devices": len(jax.devices())}
    found |= {family: both(x, x, family, dtype=np.float64) for family in KINDS}
    found["float32"] = both(x.astype(np.float32), x.astype(np.float32), "full")
    found["weighted"] = both(x, x, "full", dtype=np.float64, sample_weight=WEIGHTS)
    found["restarts"] = both(x, x, "diag", dtype=np.float64, init="k-means++", n_restarts=3)
    even = x[:1000].astype(np.float32)
    by_rows = NamedSharding(jax.make_mesh((8,), ("anything",)), PartitionSpec("anything"))
    found["as it lies"] = both(even, jax.device_put(even, by_rows), "tied")
    copied = NamedSharding(jax.make_mesh((4, 2), ("a", "b")), PartitionSpec("a"))
    found["with copies"] = both(even, jax.device_put(even, copied), "tied")
    everywhere = NamedSharding(jax.make_mesh((8,), ("a",)), PartitionSpec())
    again = both(even, jax.device_put(even, everywhere), "tied", device="all")
    found["all rows on each"] = {"whole": found["with copies"]["whole"], "spread": again["spread"]}
    by_features = NamedSharding(jax.make_mesh((2,), ("a",), devices=jax.devices()[:2]), PartitionSpec(None, "a"))
    bad = x.copy()
    bad[700, 2] = np.inf
    found["refused"] = {
        "by features": refused(jax.device_put(even[:, :2], by_features)),
        "not finite": refused(bad, device="all", dtype=np.float64),
        "no such device": refused(x, device="both"),
        "escape": refused(x, device="all", escape="split-merge"),
        "one row a device": refused(x[:7], device="all"),
    }
    found["refused"] |= {
        "one axis": refused(jax.device_put(even[:, 0], by_rows)),
        "too few that count": refused(x, device="all", sample_weight=np.arange(N) < K - 1),
        "labels": refused(x, device="all", init=np.zeros(N, int)),
        "overflow": refused(np.where(np.arange(N)[:, None] == 3, 1e300, x), device="all", dtype=np.float32),
        "negative": refused(x, device="all", sample_weight=np.where(np.arange(N) == 9, -1.0, 1.0)),
    }
    # The first row of all is no number and weighs nothing, the next one lies far off.
    odd, light = x.astype(np.float32), np.ones(N)
    odd[0], light[0], odd[1] = np.nan, 0.0, 1e6
    found["variances"] = [variances(odd, light), odd[1:].astype(np.float64).var(axis=0).tolist()]
    swept = jaxgmm.sweep(KEY, x, [2, 4], ["diag"], 2, dtype=np.float64, device="all")
    found["sweep"] = [[cell.log_likelihood, cell.icl] for cell in swept.cells]
    swept = jaxgmm.sweep(KEY, x, [2, 4], ["diag"], 2, dtype=np.float64)
    found["sweep in memory"] = [[cell.log_likelihood, cell.icl] for cell in swept.cells]
    found["restarts on devices"] = of_restarts(x)
    found["meshes"] = on_meshes(x[:96].astype(np.float32))
    found["by features"] = of_rows_by_features(x[:96].astype(np.float32))
    models = [
        jaxgmm.GaussianMixture(K, random_state=0, device=device, n_init=n_init).fit(x)
        for n_init in (1, 8)
        for device in (None, "all")
    ]
    found["estimator"] = [model.lower_bound_ for model in models]
    print(json.dumps(found))


if __name__ == "__main__":
    main()

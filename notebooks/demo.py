"""Two real data sets, fitted: the eruptions of Old Faithful, and the colours of a photograph.

Run it with `make demo`, or `python notebooks/demo.py`. It prints tables and leaves pictures in demo/.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures go to files: no display is needed

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import jaxgmm
from jaxgmm import plot

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "demo"


def main() -> None:
    OUT.mkdir(exist_ok=True)
    jaxgmm.enable_cache()  # a second run loads what the first has compiled
    device = jax.devices()[0]
    print(f"jaxgmm {jaxgmm.__version__} on {device.device_kind} ({os.cpu_count()} CPU cores), JAX {jax.__version__}")
    old_faithful()
    photograph()
    print(f"\nPictures: {', '.join(sorted(path.name for path in OUT.glob('*.png')))} in {OUT.relative_to(ROOT)}/")


def old_faithful() -> None:
    """Which family, and how many kinds of eruption? 272 rows of length (min) and waiting time (min), float64."""
    x = np.loadtxt(ROOT / "tests" / "data" / "faithful.csv", delimiter=",", skiprows=1)
    began = time.perf_counter()
    sweep = jaxgmm.sweep(
        jax.random.key(1),
        x,
        n_components=range(1, 6),
        families=["full", "tied"],
        n_restarts=32,
        tol=1e-5,
        max_steps=500,
        dtype="float64",
    )
    seconds = time.perf_counter() - began
    print(f"\nOld Faithful: {len(x)} rows, 32 restarts of each fit\n")
    print(sweep)
    print(f"\n{len(sweep.cells)} fits in {seconds:.1f} s, compiling included: a program a family, for all K.")
    best = sweep.best
    print_components(best.mixture, ["eruption", "waiting"])
    print_restarts(best)

    ax = plot.clusters(best.mixture, x)
    ax.set(xlabel="eruption (min)", ylabel="waiting for the next (min)")
    ax.set_title(f"Old Faithful: {sweep.best_cell.family}, K = {sweep.best_cell.K}, best by BIC")
    keep(ax, "faithful_clusters.png")
    ax = plot.history(best)
    ax.set_title("Old Faithful: every restart of the best fit")
    keep(ax, "faithful_history.png")
    ax = sweep.plot()
    ax.set_title("Old Faithful: how many components?")
    keep(ax, "faithful_criterion.png")


def photograph() -> None:
    """A photograph in eight colours: every pixel is a row of three, float32.

    Many starts on a sample of the pixels, and the best of them finished on all of them: a 25th of the work.
    """
    image = load_sample_image("china.jpg")
    pixels = np.asarray(image / 255.0, np.float32)
    x, sample = pixels.reshape(-1, 3), pixels[::5, ::5].reshape(-1, 3)
    n_components, n_restarts, ridge = 8, 32, 1e-5  # the ridge's root is 0.8 of a step of 1/255
    times = [time.perf_counter()]
    found = jaxgmm.fit(
        jax.random.key(0),
        sample,
        n_components,
        n_restarts=n_restarts,
        ridge=ridge,
        progress=lambda _: times.append(time.perf_counter()),  # called for the first time before the first step
    )
    times.append(time.perf_counter())
    result = jaxgmm.fit(jax.random.key(0), x, n_components, init=found.mixture, ridge=ridge)
    jax.block_until_ready(result.objective)
    finished = time.perf_counter() - times[-1]
    steps = int(np.asarray(found.restarts.n_steps).sum())
    print(f"\nPhotograph: {len(x):,} pixels, K = {n_components}\n")
    print(f"{n_restarts} restarts on every 5th pixel both ways ({len(sample):,} rows): {times[1] - times[0]:.1f} s to")
    print(f"compile and seed, then {times[-1] - times[1]:.1f} s for {steps} EM steps in all")
    print(f"the best of them on all pixels: {finished:.1f} s for {int(result.n_steps)} EM steps, compiling included")
    mixture = result.mixture
    print_components(mixture, ["red", "green", "blue"])
    print_restarts(found)

    labels = np.asarray(mixture.predict(x)).reshape(image.shape[:2])
    colours = np.clip(np.asarray(mixture.means), 0.0, 1.0)
    _, (left, right) = plt.subplots(1, 2, figsize=(12.8, 4.75), layout="constrained")
    left.imshow(image)
    left.set_title(f"{len(x):,} pixels")
    right.imshow(colours[labels])
    right.set_title(f"each in the mean colour of its component, K = {n_components}")
    for ax in (left, right):
        ax.set_axis_off()
    keep(right, "photograph.png")
    ax = plot.clusters(mixture, x, dims=(0, 2))
    ax.set(xlabel="red", ylabel="blue", title="The photograph's colours: 20,000 of its pixels, by component")
    keep(ax, "photograph_clusters.png")


def print_components(mixture: jaxgmm.Mixture, names: list[str]) -> None:
    """Weights, means and standard deviations, the heaviest component first."""
    weights, means = np.asarray(mixture.weights), np.asarray(mixture.means)
    deviations = np.sqrt(np.diagonal(np.asarray(mixture.covariances), axis1=1, axis2=2))
    print("\ncomponent  weight  " + "  ".join(f"{name + ' (sd)':>16}" for name in names))
    for k in np.argsort(-weights):
        cells = (f"{mean:.3f} ({sd:.3f})" for mean, sd in zip(means[k], deviations[k], strict=True))
        print(f"{k:>9}  {weights[k]:6.3f}  " + "  ".join(f"{cell:>16}" for cell in cells))


def print_restarts(result: jaxgmm.FitResult) -> None:
    """How far apart the restarts ended: why one start is not enough."""
    objective = np.asarray(result.restarts.objective)
    ended = objective[np.isfinite(objective)]
    near = int(np.sum(ended > ended.max() - 1e-3))
    print(
        f"\nrestarts: mean log-likelihood {ended.max():.4f} (best), {np.median(ended):.4f} (median), {ended.min():.4f} "
        f"(worst) nats;\n{near} of {objective.size} within 0.001 of the best, {objective.size - len(ended)} failed"
    )


def keep(ax: plt.Axes, name: str) -> None:
    figure = ax.figure
    figure.savefig(OUT / name, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())

"""What people run: 64 restarts, and a search over K and types.

Ours against scikit-learn, each in its own process, with the mean log-likelihood (nats, in float64 by
`problems.objective`) or the criterion reached beside every time. Both are given the same data, tol, step limit and
ridge. scikit-learn is timed with its own default start (a k-means of its own for every restart) and, as "scikit-learn,
k-means++" and in the first dtype, with the start that ours uses. A first call counts compiling; later calls fit other
data of the same shape: LATER of ours, and one of scikit-learn, which compiles nothing; of a sweep LATER of everyone, on
the same tables. The sweep, where ours is mostly compilation, is done in the first dtype. Whether ours finds as good
optima is asked of every cell of such a sweep. Older results have more, which README tells of.
"""

import statistics
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from . import isolate
from .child import Fitted, compilations, estimator, in_their_names, of_ours, of_scikit_learn, unlike_clusters
from .markdown import NONE, Columns, bullets, by_columns, digits, duration, of_calls, size
from .options import Options
from .problems import RIDGE
from .ratios import OURS, REFERENCE, Place
from .timing import spread, stopwatch

VARIANT = f"{REFERENCE}, k-means++"
STARTS = {OURS: "k-means++", REFERENCE: "kmeans", VARIANT: "k-means++"}  # init, init_params
TOL = 1e-3
COMMON = {"tol": TOL, "max_steps": 200}
LATER = 3
LIMIT = 900.0  # seconds for one contender in one dtype
FREE = {"n_restarts": 8, "tol": TOL, "their_restarts": 8, "seeds": 5, "polish": 1e-6}
# As many restarts as theirs; by ours' default, which are more; and these to a lower tol.
DEFAULT = {**FREE, "n_restarts": 16}
COMPARED = {"free_starts": FREE, "default_starts": DEFAULT, "longer_starts": {**DEFAULT, "tol": 1e-4}}
NOT_BELOW = 1e-6  # nats a row by which a cell of ours may lie under theirs
SAME = 0.05  # nats of the total: mclust stops at a relative change of 1e-5
FAR = 1e-3  # nats: below that a tol of as much may be all there is to a difference


def measure(options: Options) -> dict[str, Any]:
    quick, dtypes, device = options.quick, options.dtypes, options.devices[0]
    size = {"n": 1_000 if quick else 5_000, "d": 4}
    types = ["full", "tied", "diag", "spherical"][: 1 if quick else 4]
    grid = {**size, "counts": [2] if quick else list(range(1, 11)), "families": types}
    of_restarts = {**COMMON, **size, "k": 5, "n_restarts": 2 if quick else 64}
    of_sweep = {**COMMON, **grid, "n_restarts": 2 if quick else 8}
    found = {
        "restarts": beside_peers(options, restarts, of_restarts, dtypes, STARTS),
        "sweep": beside_peers(options, sweep, of_sweep, dtypes[:1], {**STARTS, "tgmm": "kpp"}),
    }
    if options.wants(OURS) and options.wants(REFERENCE):
        for name, how in COMPARED.items():
            request: dict[str, Any] = {**grid, **how} | ({"seeds": 1} if quick else {})
            found[name] = {"not_below": NOT_BELOW, **isolate.ask(free_starts, LIMIT, device, **request)}
    return found


def beside_peers(
    options: Options, function: isolate.Child, request: dict[str, Any], dtypes: tuple[str, ...], starts: dict[str, str]
) -> dict[str, Any]:
    """What a function below measures, for every contender, dtype and device."""
    found = []
    for device, dtype, contender in options.places(starts, dtypes):
        asked = {**request, "contender": contender.partition(",")[0], "init": starts[contender], "dtype": dtype}
        asked["later"] = LATER if contender == OURS or function is sweep else 1
        found.append({**isolate.ask(function, LIMIT, device, **asked), "contender": contender})
    return {**request, "cells": found}


def our_fit(seed: int, x: Any, k: int, family: str = "full", **how: Any) -> Fitted:
    """A fit of ours in the dtype of the rows. how: `fit`'s arguments."""
    import jax

    import jaxgmm

    result = jaxgmm.fit(jax.random.key(seed), x, k, family, dtype=x.dtype, ridge=RIDGE, **how)
    return of_ours(result.mixture, result.n_steps)


def their_fit(seed: int, x: Any, k: int, family: str = "full", **how: Any) -> Fitted:
    """A fit of scikit-learn's. how: by our names."""
    model = estimator(REFERENCE)(k, covariance_type=family, random_state=seed, reg_covar=RIDGE, **in_their_names(how))
    return of_scikit_learn(model.fit(x))


def restarts(contender: str, dtype: str, n: int, d: int, k: int, later: int, **how: Any) -> dict[str, Any]:
    """Many restarts on a table of full covariances, and later calls on other tables of its shape: seconds of the first
    and of the later ones, and what each of them reached."""
    estimator(contender)  # so that no import is in the time of a first call
    tables = [unlike_clusters(seed, n, d, k, dtype) for seed in range(1 + later)]
    fit = our_fit if contender == OURS else their_fit
    timed = [stopwatch(fit, seed, x, k, **how) for seed, x in enumerate(tables)]
    first, *later_s = (seconds for seconds, _ in timed)
    return {
        "first_call_s": first,
        "second_call_s": statistics.median(later_s),
        "objectives": [fitted.objective(x) for (_, fitted), x in zip(timed, tables, strict=True)],
        "steps": [fitted.steps for _, fitted in timed],
    }


def sweep(contender: str, dtype: str, n: int, d: int, later: int, **how: Any) -> dict[str, Any]:
    """Every K with every type, chosen by BIC; K = 1 has one start, since all end in the same place."""
    tables = [unlike_clusters(seed, n, d, 5, dtype) for seed in range(1 + later)]
    is_ours = contender == OURS
    heard = compilations() if is_ours else []
    search = partial(our_sweep if is_ours else their_sweep, contender)
    timed, compiled = [], [0]
    for seed, x in enumerate(tables):
        timed.append(stopwatch(search, seed, x, **how))
        compiled.append(len(heard))
    (first, *later_s), chosen = zip(*timed, strict=True)
    made = {"first_call_s": first, "second_call_s": statistics.median(later_s), "chosen": chosen}
    return made | ({"programs": np.diff(compiled).tolist()[:2]} if is_ours else {})


def our_sweep(contender: str, *arguments: Any, **how: Any) -> dict[str, Any]:
    swept = swept_by_ours(*arguments, **how)
    best = swept.best_cell
    return {"family": best.family, "k": best.K, "bic": best.bic, "padding": swept.padding, "groups": swept.groups}


def swept_by_ours(seed: int, x: np.ndarray, counts: list[int], **how: Any) -> Any:
    import jax

    import jaxgmm

    return jaxgmm.sweep(jax.random.key(seed), x, counts, ridge=RIDGE, dtype=x.dtype, **how)


def their_sweep(
    contender: str, seed: int, x: np.ndarray, counts: list[int], families: list[str], n_restarts: int, **how: Any
) -> dict[str, Any]:
    """The best cell by a peer that is fitted one cell after the other."""
    peer, found = estimator(contender), []
    more = {"random_state": seed, "reg_covar": RIDGE, **in_their_names(how)}
    for family, k in product(families, counts):
        model = peer(k, covariance_type=family, n_init=n_restarts if k > 1 else 1, **more)
        found.append({"family": family, "k": k, "bic": float(model.fit(x).bic(x))})
    return min(found, key=lambda cell: cell["bic"])


def free_starts(n: int, d: int, seeds: int, their_restarts: int, polish: float, **ours: Any) -> dict[str, Any]:
    """Each cell of a sweep of ours, `ours`, beside scikit-learn's fit, which but for its restarts is by default.

    Both mixtures are then run on by ours to the tol `polish`, and polished: what is compared is the optimum that was
    found, and not how near to it a tol stops. Seconds are of a table, without that, and of ours without the first,
    which compiles.
    """
    found: list[dict[str, Any]] = []
    rows = [unlike_clusters(seed, n, d, 5, "float64") for seed in range(seeds)]
    # All of ours first: the polishing below needs more programs than are kept.
    our_s, sweeps = zip(*(stopwatch(swept_by_ours, seed, x, **ours) for seed, x in enumerate(rows)), strict=True)
    their_s: list[float] = []
    for seed, (x, swept) in enumerate(zip(rows, sweeps, strict=True)):
        their_s.append(0.0)
        for (family, k), result in swept.results.items():
            seconds, theirs = stopwatch(their_fit, seed, x, k, family, n_restarts=their_restarts)
            their_s[-1] += seconds
            ends = {"our": of_ours(result.mixture, result.n_steps), "their": theirs}
            made = {f"{whose}s": polished(x, end, family, polish).objective(x) for whose, end in ends.items()}
            made |= {f"{whose}_steps": end.steps for whose, end in ends.items()}
            found.append({"seed": seed, "family": family, "k": k, **made})
    return {"cells": found, "our_s": spread(list(our_s[1:])), "their_s": spread(their_s)}


def polished(x: np.ndarray, found: Fitted, family: str, tol: float) -> Fitted:
    """The optimum that a mixture lies under.

    EM goes on to `tol`, and an ascent from there. By the program of all steps: with an acceleration every type and K
    would compile one of its own.
    """
    how: dict[str, Any] = {"tol": tol, "max_steps": 5_000, "polish": True, "init": found.mixture(family)}
    return our_fit(0, x, len(found.weights), family, **how)


def tables(found: dict[str, Any], place: Place) -> list[str]:
    parts = [said for name, show in SHOWN.items() if found.get(name) for said in show(found[name], place)]
    return [f"### Searches, {place.label}", *parts] if any(parts) else []


def joined(name: str) -> Callable[[dict[str, Any]], str]:
    """What shows all values of a field, a call each."""
    return lambda cell: ", ".join(f"{one:.5f}" if isinstance(one, float) else str(one) for one in cell[name])


REACHED: Columns = {"mean log-likelihoods, nats": joined("objectives")}


def restarts_shown(found: dict[str, Any], place: Place) -> list[str]:
    cells = place.cells(found)
    columns = of_calls(cells, {**REACHED, "steps of the best": joined("steps")})
    return [by_columns(cells, *columns, f"{found['n_restarts']} restarts, full, (N, D, K) = {size(found)}:")]


def photograph(found: dict[str, Any], place: Place) -> list[str]:
    cells = place.cells(found)
    n = next((cell["n"] for cell in cells if not cell["missing"]), "?")
    title = f"The pixels of a photograph ({n} × 3), K = {found['k']}, full, at most {found['max_steps']} steps:"
    return [by_columns(cells, *of_calls(cells, {**REACHED, "steps": joined("steps")}), title)]


def sweep_shown(found: dict[str, Any], place: Place) -> list[str]:
    """Times and choices; how many programs a sweep of ours compiled, and what several K in one program cost."""

    def chosen(cell: dict[str, Any]) -> str:
        return ", ".join("{family} {k} ({bic:.1f})".format(**of) for of in cell.get("chosen") or []) or NONE

    def shared(cell: dict[str, Any]) -> str:
        first, later = cell["programs"]
        padding = [100 * one["padding"] for one in cell["chosen"]]
        together = "; ".join(", ".join(map(str, group)) for group in cell["chosen"][0]["groups"])
        return (
            f"{cell['contender']}, {cell['dtype']}: {first} programs compiled by the first call, {later} by the "
            f"second; {digits(min(padding))} to {digits(max(padding))} % of the components stepped were padding; the "
            f"K that shared a program: {together}."
        )

    cells = place.cells(found)
    title = f"{grid(found)}, {found['n_restarts']} restarts, (N, D) = ({found['n']}, {found['d']}), chosen by BIC:"
    times = by_columns(cells, *of_calls(cells, {"chosen (BIC)": chosen}), title)
    return [times, *(shared(cell) for cell in cells if cell.get("programs"))]


def grid(found: dict[str, Any], word: str = "from") -> str:
    return f"K {word} {found['counts'][0]} to {found['counts'][-1]}, {len(found['families'])} types"


def small(found: dict[str, Any], place: Place) -> list[str]:
    """First fits in fresh processes, which only older results have."""
    head: Columns = {
        "contender": lambda cell: " ".join(filter(None, [cell["contender"], cell["how"], cell["cache"]])),
        "dtype": "dtype",
    }
    body: Columns = {"import": "import_s", "first fit": "first_call_s", "second fit": "second_call_s", **REACHED}
    title = f"A first fit in a fresh process, (N, D, K) = {size(found)}, at the defaults:"
    return [by_columns(place.cells(found), head, {**body, "steps": joined("steps")}, title)]


def beside(found: dict[str, Any], place: Place) -> list[str]:
    """Every cell of a sweep, ours beside scikit-learn's: a line for each type, and the worst cells."""
    if found["device"] != place.device:
        return []
    # An older result tells neither its tol nor their restarts, which were ours.
    found = {"tol": 1e-3, "max_steps": None, "their_restarts": found.get("n_restarts"), **found}
    starts, how = "from the same starts", "tol {tol:g}, {max_steps} steps at most"
    if "polish" in found:
        starts = "{n_restarts} restarts of ours to tol {tol:g} and {their_restarts} of scikit-learn's by default"
        how = "each end then run on to its optimum (tol {polish:g})"
    said = "{grid}, (N, D) = ({n}, {d}), {seeds} tables, " + f"{starts}, {how}, float64: "
    title = (said + "mean log-likelihood, ours less scikit-learn's, nats.").format(**found, grid=grid(found))
    if found["missing"]:
        return [title, f"missing: {found['missing']}"]
    least, cells = found["not_below"], [{**cell, "off": cell["ours"] - cell["theirs"]} for cell in found["cells"]]
    of_types = {of: [cell["off"] for cell in cells if cell["family"] == of] for of in found["families"]}
    offs = [{"type": of, "offs": some} for of, some in {**of_types, "all": [cell["off"] for cell in cells]}.items()]
    body: Columns = {
        f"no more than {least:g} below": lambda of: f"{sum(o >= -least for o in of['offs'])} of {len(of['offs'])}",
        f"more than {least:g} above": lambda of: sum(o > least for o in of["offs"]),
        f"more than {FAR:g} below": lambda of: sum(o < -FAR for o in of["offs"]),
        "least": lambda of: f"{min(of['offs']):+.1e}",
        "largest": lambda of: f"{max(of['offs']):+.1e}",
    }
    took = ""
    if found.get("our_s") and found.get("their_s"):
        ours, theirs = (duration(found[of]["median"]) for of in ("our_s", "their_s"))
        took = f"A table took ours {ours} and scikit-learn {theirs}, in the middle."
    lowest = [cell for cell in sorted(cells, key=lambda cell: cell["off"])[:5] if cell["off"] < -least]
    said = "{family} {k}, table {seed}: {off:+.1e} ({our_steps} steps, scikit-learn {their_steps})"
    worst = "The lowest cells:\n\n" + bullets(said.format(**cell) for cell in lowest) if lowest else ""
    return [title, by_columns(offs, {"type": "type"}, body), took, worst]


def choices(found: dict[str, Any], place: Place) -> list[str]:
    """What was chosen by BIC on real data, ours beside mclust's, and how the likelihoods of the cells compare, in older
    results."""
    if found["device"] != place.device:
        return []
    title = (
        f"K and family by BIC on real data, {found['n_restarts']} restarts, tol {found['tol']:g}, beside mclust's "
        "choice among the same; cells by log-likelihood (the total, nats), ours against mclust's:"
    )

    def offs(of: dict[str, Any]) -> list[float]:
        return [fit["ours"] - fit["theirs"] for fit in of["fits"] if fit["status"] not in ("COLLAPSED", "NON_FINITE")]

    def chosen(whose: str) -> Callable[[dict[str, Any]], str]:
        return lambda of: "{} {} ({:.2f})".format(*of["chosen"][whose])

    body: Columns = {
        "size": "{n} × {d}",
        "ours (BIC)": chosen("ours"),
        "mclust (BIC)": chosen("theirs"),
        "same": lambda of: sum(abs(off) <= SAME for off in offs(of)),
        "ours higher": lambda of: sum(off > SAME for off in offs(of)),
        "ours lower": lambda of: sum(off < -SAME for off in offs(of)),
        "ours failed": lambda of: len(of["fits"]) - len(offs(of)),
    }
    return [by_columns(found["sets"], {"data": "data"}, body, title)]


SHOWN = {
    **{"restarts": restarts_shown, "sweep": sweep_shown},
    **dict.fromkeys(("common_starts", *COMPARED), beside),
    **{"choices": choices, "small": small, "photograph": photograph},
}


def readme(place: Place) -> str:
    """The searches in a few lines, ours against scikit-learn's own way, in the first dtype."""
    lines = []
    for name, of in place.section("searches").items():
        if name in ("restarts", "sweep") and (cells := place.cells(of)):
            what = f"full, {size(of)}" if name == "restarts" else f"({of['n']}, {of['d']})"
            over = "" if name == "restarts" else f"{grid(of, '=')}, "
            lines.append({"search": f"{over}{of['n_restarts']} restarts, {what}", **took(cells)})
    body: Columns = {
        "ours, first call": "first_call_s",
        "ours, later": "second_call_s",
        REFERENCE: "their_s",
        f"{REFERENCE} / ours, later": "ratio",
    }
    title = "Searches in {dtype}, {label}:".format(**lines[0], label=place.label) if lines else ""
    return by_columns(lines, {"search": "search"}, body, title)


def took(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """First and later calls of ours, scikit-learn's call, and their ratio."""
    dtype = cells[0]["dtype"]
    by_name = {cell["contender"]: cell for cell in cells if cell["dtype"] == dtype and not cell["missing"]}
    ours, theirs = by_name.get(OURS, {"dtype": dtype}), by_name.get(REFERENCE, {}).get("second_call_s")
    later = ours.get("second_call_s")
    return {**ours, "their_s": theirs, "ratio": theirs / later if theirs and later else None}

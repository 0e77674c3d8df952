"""The benchmark's report: ratios are right, who is missing is named, the README is changed between its markers only."""

from __future__ import annotations

import json

import pytest

from benchmarks import card, hard, iteration, picture, ratios, report

PROBLEMS = ("full_2k_2_5", "diag_2k_8_32")


def cell(contender, milliseconds, problem=PROBLEMS[0], device="cpu", dtype="float32", objective=-3.0, missing=None):
    """A cell as `benchmarks.iteration` writes it."""
    kind, _, d, k = problem.split("_")
    made = {"problem": problem, "n": 2000, "d": int(d), "k": int(k), "family": kind, "dtype": dtype, "device": device}
    made |= {"contender": contender, "missing": missing, "flops": 1, "bytes": 1, "floor_s": 1e-4}
    if missing:
        return made | {"fraction_of_floor": None}
    seconds = milliseconds / 1e3
    spread = {"median": seconds, "low": 0.9 * seconds, "high": 1.2 * seconds, "runs": [seconds]}
    made |= {"seconds_per_iteration": spread, "iterations": {"asked": [1, 5], "made": [1, 5]}, "objective": objective}
    return made | {"first_call_s": 1.0, "second_call_s": 0.1, "fraction_of_floor": 0.25}


CELLS = (
    cell("jaxgmm", 2.0),
    cell("scikit-learn", 10.0),
    cell("quick", 4.0),
    cell("wrong", 1.0, objective=-3.5),
    cell("absent", None, missing="not installed"),
    cell("jaxgmm", 3.0, PROBLEMS[1]),
    cell("scikit-learn", 6.0, PROBLEMS[1]),
    cell("quick", None, PROBLEMS[1], missing="has no diagonal covariances"),
    cell("absent", None, PROBLEMS[1], missing="not installed"),
)


def result(cells=CELLS, **sections):
    """A result file as `benchmarks.record` writes it."""
    devices = sorted({one["device"] for one in cells})
    converged = [{**one, "seconds": 0.5, "iterations": 12, "limit": 200} for one in cells]
    return {
        "benchmark": "suite",
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef",
        "dirty": False,
        "machine": {"cpu": "A processor", "cores": 2, "architecture": "x86_64", "system": "Linux"},
        "versions": {"python": "3.11.0", "jaxgmm": "0.1", "jax": "0.10.2", "gmmx": None},
        "options": {"quick": False, "devices": devices},
        "iteration": {"tol": 1e-3, "cells": list(cells), "converged": converged},
        **sections,
    }


def shown(name, **sections):
    """A section's part of the report, where nothing else was measured."""
    (place,) = ratios.places([alone(**sections)])
    return "\n\n".join(report.of_section(name, place))


def alone(**sections):
    """A result file without the section iteration."""
    return result((), options={"devices": ["cpu"]}, **sections)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "2026-01-02T030405Z-suite.json"
    path.write_text(json.dumps(result()))
    return path


def test_ratios():
    """Their time over ours; who did less work is nobody's best peer; median and least over the rows."""
    (place,) = ratios.places([result()])
    first, second = ratios.rows(place)
    assert ratios.against_reference(place, first) == pytest.approx(5.0)
    assert ratios.against_best(first) == pytest.approx(2.0)
    assert (first.best_peer(), second.best_peer()) == ("quick", "scikit-learn")
    assert first.is_worse("wrong")
    assert not first.is_worse("quick")
    lines = iteration.summary(place, [first, second])
    assert "median 3.50, least 2.00 (diag_2k_8_32, float32)" in lines[0]
    assert "median 2.00, least 2.00 (" in lines[1]


def test_the_reference_is_float64_where_it_ran():
    cells = [cell("jaxgmm", 1.0, objective=-3.1), cell("scikit-learn", 1.0, objective=-3.1)]
    cells += [cell("scikit-learn", 2.0, dtype="float64", objective=-3.0)]
    (place,) = ratios.places([result(cells)])
    assert all(row.reference == -3.0 for row in ratios.rows(place))
    assert ratios.rows(place)[0].is_worse("jaxgmm")


def test_tables():
    """Times with their range, ratios, the share of the floor; a mark and a line for what is wrong or missing."""
    text = report.report([result()])
    row = next(line for line in text.splitlines() if line.startswith("| full_2k_2_5 | float32 | 2.00"))
    assert "10.0 (9.00–12.0)" in row
    assert "1.00 (0.9–1.20)†" in row
    assert "2.00 (quick)" in row
    assert "25.0 %" in row
    assert "- absent: not installed (everywhere)" in text
    assert "- quick: has no diagonal covariances (diag_2k_8_32 float32)" in text
    assert "A processor, 2 cores; commit 0123456789ab, 2026-01-02; python 3.11.0, jaxgmm 0.1, jax 0.10.2" in text
    assert "500 ms, 12 it., -3.00000" in text


def test_devices_stand_side_by_side():
    """Of one file or several; on a GPU scikit-learn's time is that of its own file's CPU."""
    with_gpu = result([*CELLS, cell("jaxgmm", 0.1, device="gpu"), cell("tgmm", 0.4, device="gpu")])
    found = ratios.places([result(), with_gpu])
    assert [place.label for place in found] == ["cpu, run 1", "cpu, run 2", "gpu"]
    text = report.report([result(), with_gpu])
    assert "jaxgmm, cpu, run 1 | best peer, cpu, run 1" in text
    assert "0.4 (tgmm)" in text
    gpu = found[-1]
    assert ratios.against_reference(gpu, ratios.rows(gpu)[0]) == pytest.approx(100.0)
    assert "vs scikit-learn on the CPU" in "".join(report.of_section("iteration", gpu))


def test_other_sections():
    """Each of them is shown; one that failed is named with its reason."""
    search = {"contender": "jaxgmm", "dtype": "float32", "device": "cpu", "missing": None, "objectives": [-1.25]}
    search |= {"first_call_s": 2.0, "second_call_s": 0.5, "steps": [7]}
    peer = search | {"contender": "scikit-learn", "first_call_s": 3.0, "second_call_s": 2.5, "objectives": [-1.5]}
    absent = {name: search[name] for name in ("dtype", "device")} | {"contender": "none", "missing": "not installed"}
    size = {"n": 5000, "d": 4, "k": 5, "n_restarts": 64}
    kept = {"what": "fit", "family": "full", "n": 100, "d": 4, "k": 64, "device": "cpu", "missing": None}
    kept |= {"data_bytes": 1600, "above_bytes": 65e6}
    text = report.report([
        result(
            searches={"restarts": {**size, "cells": [search, peer, absent]}},
            memory={"target_bytes": 64e6, "cells": [kept], "growth": []},
            import_time={"missing": "OSError: no interpreter"},
        )
    ])  # fmt: skip
    assert "| scikit-learn | float32 | 3.00 s | 2.50 s | 1.50 | 5.00 | -1.50000 | 7 |" in text
    assert "missing: not installed" in text
    assert "65.0 | **no**" in text
    assert "The section import_time failed: OSError: no interpreter" in text


def search(contender, first, later, dtype="float32", **more):
    """A cell of a search as `benchmarks.searches` writes it."""
    made = {"contender": contender, "dtype": dtype, "device": "cpu", "missing": None}
    return made | {"first_call_s": first, "second_call_s": later} | more


def test_the_searches_in_short():
    """In the first dtype, ours beside scikit-learn's own way; what was not measured is left out, or shown as such."""
    cells = [search("jaxgmm", 4.5, 0.5), search("scikit-learn", 3.0, 2.5), search("jaxgmm", 9.0, 9.0, "float64")]
    restarts = {"n": 100, "d": 2, "k": 3, "n_restarts": 64, "cells": cells}
    absent = {**search("scikit-learn", 0, 0), "missing": "not installed"}
    sweep = {"n": 100, "d": 2, "counts": [1, 4], "families": ["full"], "n_restarts": 8, "cells": [cells[0], absent]}
    made = {"how": "fit", "objectives": [-1.0, -2.0], "steps": [7, 8]}
    fits = [
        search("jaxgmm", first, 0.25, cache=cache, **made) for first, cache in ((2.0, None), (0.75, "filled cache"))
    ]
    small = {"n": 100, "d": 2, "k": 3, "cells": fits}
    text = report.readme([alone(searches={"restarts": restarts, "sweep": sweep, "small": small})])
    assert "Searches in float32" in text
    assert "| 64 restarts, full, (100, 2, 3) | 4.50 s | 500 ms | 2.50 s | 5.00 |" in text
    assert "| K = 1 to 4, 1 types, 8 restarts, (100, 2) | 4.50 s | 500 ms | – | – |" in text
    assert "9.00" not in text
    only_fits = alone(searches={"small": small})
    assert report.readme([only_fits]) == ""
    whole = report.report([only_fits])
    assert "| jaxgmm fit | float32 | – | 2.00 s | 250 ms | -1.00000, -2.00000 | 7, 8 |" in whole
    assert "| jaxgmm fit filled cache | float32 | – | 750 ms | 250 ms | -1.00000, -2.00000 | 7, 8 |" in whole
    assert report.readme([alone()]) == ""


def test_a_card(file, capsys):
    """A table a part, of the columns that its rows have, in units; what was left out, and why a part is missing."""
    parts = {
        "products": {"rows": [{"size": 8192, "flops_per_s": 5e13, "largest_error": 2e-6}], "left_out": []},
        "large": {
            "rows": [
                {"problem": "full_10M_16_32", "seconds": 0.0123, "fraction_of_floor": 0.61, "above_data_bytes": 3.2e7},
                {"problem": "diag_1M_8_16", "missing": "OutOfMemory: no"},
            ],
            "left_out": ["problem tied_10M_32_64"],
        },
        "chunks": {"missing": "crashed with SIGABRT"},
    }
    (place,) = ratios.places([result(card={"cpu": parts})])
    whole, some = ("\n\n".join(card.tables({"cpu": parts}, place, names)) for names in (None, ["large"]))
    assert "| 8192 | 50000 G/s | 2.0e-06 |" in whole
    assert "chunks: crashed with SIGABRT" in whole
    for text in (whole, some):
        assert "| problem | seconds | fraction of floor | above data bytes | missing |" in text
        assert "| full_10M_16_32 | 12.3 ms | 61.0 % | 32.0 MB | – |" in text
        assert "| diag_1M_8_16 | – | – | – | OutOfMemory: no |" in text
        assert "Left out: problem tied_10M_32_64" in text
    assert "8192" not in some
    assert shown("card") == ""
    assert report.main([str(file), "--short"]) == 0
    assert "| `full_2k_2_5` | 2.00 | 4.00 (quick) |" in capsys.readouterr().out


def test_readme_and_plot(file, tmp_path, capsys):
    """From the command line; what stands outside the markers stays, and nothing unfinished is left behind."""
    pytest.importorskip("matplotlib")
    readme, plot = tmp_path / "README.md", tmp_path / "ratios.png"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        assert report.main([str(file), "--readme", str(readme), "--plot", str(plot)]) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| `full_2k_2_5` | 2.00 | 4.00 (quick) | 10.0 | 2.00 | 5.00 |" in text
    assert "A processor, 2 cores; commit 0123456789ab" in text
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, "README.md", "ratios.png"]
    assert "## Benchmarks" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["nothing", f"{report.BEGIN} alone", f"{report.END}{report.BEGIN}"])
def test_a_readme_without_markers_is_left_alone(file, tmp_path, capsys, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(SystemExit):
        report.main([str(file), "--readme", str(readme)])
    assert "README.md needs the lines" in capsys.readouterr().err
    assert readme.read_text() == text


def test_other_files_are_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text('{"benchmark": "import_time"}')
    with pytest.raises(SystemExit):
        report.main([str(path)])
    assert "other.json is no result of the suite" in capsys.readouterr().err


def test_acceleration():
    """Passes beside how many times as many plain EM makes; the three slowest are marked."""

    def problem(name, plain, lbfgs, missing=None):
        runs = [{"way": "plain", "passes": plain}, {"way": "lbfgs", "passes": lbfgs}]
        return {"name": name, "family": "full", "missing": missing, **({} if missing else {"runs": runs})}

    found = [problem(f"p{n}", n, 10) for n in (20, 400, 300, 200)]
    found += [problem("lost", 30, None), problem("dead", None, None, "crashed")]
    text = shown("acceleration", acceleration={"within": 1e-6, "device": "cpu", "problems": found})
    assert "| p20 | full | 20 | not reached | not reached | 10 (2.00) |" in text
    assert "| p400 * | full | 400 | not reached | not reached | 10 (40.0) |" in text
    assert "| lost | full | 30 | not reached | not reached | not reached |" in text
    assert "| dead | full | missing: crashed | – | – | – |" in text
    assert text.count(" * |") == 3
    assert shown("acceleration") == ""


def test_what_acceleration_was_to_come_to():
    """Three times fewer passes on the three slowest, hardly more on the others; not to get there is to miss."""

    def problem(name, plain, squarem, lbfgs):
        made = {"plain": plain, "squarem": squarem, "anderson": None, "lbfgs": lbfgs}
        runs = [{"way": way, "passes": passes} for way, passes in made.items()]
        return {"name": name, "family": "full", "missing": None, "runs": runs}

    found = [problem("a", 900, 300, 301), problem("b", 800, 100, 100), problem("c", 700, 100, 100)]
    found += [problem("d", 100, 110, 111)]
    section = {"within": 1e-6, "device": "cpu", "targets": {"slow": 3.0, "fast": 1.1}, "problems": found}
    text = shown("acceleration", acceleration=section)
    assert "| a | plain ≥ 3 × its passes | met | **missed** | **missed** |" in text
    assert "| d | passes ≤ 1.1 × plain's | met | **missed** | **missed** |" in text
    assert "| met |  | 4 of 4 | 0 of 4 | 2 of 4 |" in text
    del section["targets"]
    assert "aimed at" not in shown("acceleration", acceleration=section)


def test_targets_are_seen_whatever_was_measured_since(tmp_path, monkeypatch, capsys):
    """Where nothing is named and the newest file has no acceleration, that of the last that has stands below it."""
    run = {"way": "plain", "passes": 123}
    problem = {"name": "p", "family": "full", "missing": None, "runs": [run]}
    section = {"within": 1e-6, "device": "cpu", "targets": {"slow": 3.0, "fast": 1.1}, "problems": [problem]}
    for day, made in ((1, result(acceleration=section, commit="old")), (2, result(commit="new"))):
        (tmp_path / f"2026-01-0{day}T000000Z-suite.json").write_text(json.dumps(made))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.main([]) == 0
    newer, _, older = capsys.readouterr().out.partition("commit old")
    assert "commit new" in newer
    assert "| p * | full | 123 |" in older
    assert "Milliseconds" not in older


def hard_section():
    """Two ways of ours and one of scikit-learn, which is as good as the first after its second start."""

    def calls(*pairs):
        return [{"seed": i, "seconds": s, "objective": o, "steps": 9} for i, (s, o) in enumerate(pairs)]

    ways = [
        {"way": "1 start", "missing": None, "compile_s": 2.0, "calls": calls((0.5, -3.5), (0.5, -3.25), (1.5, -3.25))},
        {"way": "race of 16", "missing": None, "compile_s": 3.0, "calls": calls((2.0, -3.0))},
        {"way": "lost", "missing": "crashed with SIGABRT"},
    ]
    peers = [{"peer": "scikit-learn", "missing": None, "calls": calls((1.0, -4.0), (2.5, -3.25), (60.0, -3.125))}]
    runs = [
        {"coldest": coldest, "seed": 0, "steps": steps, "objective": objective}
        for coldest, steps, objective in ((1.0, 20, -3.5), (0.5, 60, -3.25))
    ]
    problem = {"name": "grid", "n": 500, "d": 2, "k": 25, "ways": ways, "peers": peers, "annealing": {"runs": runs}}
    row = {"steps": 10, "share": 0.125, "finalists": 4, "gap_race": 0.002, "gap_equal_steps": 0.004, "gap_whole": 0.001}
    row |= {"share_of_steps": 0.25, "better": 0.5, "worse": 0.125}
    race = {"problem": "grid", "k": 25, "runners": 32, "rows": [row]}
    return {"device": "cpu", "tie": 1e-6, "draws": 200, "problems": [problem], "races": [race]}


def test_of_a_section_the_latest_counts():
    """Older results keep what no later one has, in the order of their dates."""
    old = {"date": "2026-01-01", "machine": {"cores": 2}, "limits": {"a": 1}, "hard": {"b": 2}}
    new = {"date": "2026-02-01", "machine": {"cores": 2}, "limits": {"a": 3}}
    assert report.latest([new, old]) == [{name: old[name] for name in ("date", "machine", "hard")}, new]
    assert report.latest([new]) == [new]


def test_hard_problems(tmp_path):
    """Gaps to the best that anyone found, when scikit-learn is as good, races and annealing; and a picture."""
    (place,) = found = ratios.places([result(hard=hard_section())])
    text = shown("hard", hard=hard_section())
    assert "best found -3.00000" in text
    assert "| 1 start | 3 | 2.00 s | 500 ms | 0.25 (0.25–0.5) | – | 2.50 s (5.00) |" in text
    assert "| race of 16 | 1 | 3.00 s | 2.00 s | 0 (0–0) | – | not in 60.0 s |" in text
    assert "| lost | missing: crashed with SIGABRT |" in text
    assert "- scikit-learn: 3 starts in 60.0 s, gap 0.125" in text
    assert "| grid, 25 | 10 | 4 | 0.002 | 0.004 | 0.001 | 25 % | 50 % | 12 % |" in text
    assert "| grid | from β = 0.5 | 0.25 | 0.25 | 60 | 1 of 1 |" in text
    assert "| grid (500, 2, 25), race of 16 | 2.00 s | 0 | not in 60.0 s |" in hard.readme(place)
    assert "Hard problems" in report.report([result(hard=hard_section())])
    assert shown("hard") == hard.readme(ratios.places([result()])[0]) == ""
    pytest.importorskip("matplotlib")
    picture.draw_hard(found, tmp_path / "hard.png")
    assert (tmp_path / "hard.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="no hard problem"):
        picture.draw_hard(ratios.places([result()]), tmp_path / "none.png")


def test_rows_that_are_spread():
    """Shares of the slower of reading and computing, what blocks cost, and marks where an aim is missed."""
    times = {name: {"median": seconds} for name, seconds in (("read", 8.0), ("step", 10.0), ("slow", 12.0))}
    file = {"family": "full", "n": 100, "missing": None, "bytes": 2e9, "survey_s": 9.0, "read_s": times["read"]}
    file |= {"step_s": times["step"], "in_memory_s": 5.0, "resident_bytes": 2e8}
    worse = {**file, "family": "diag", "step_s": times["slow"], "resident_bytes": 2e9}
    fits = {"family": "full", "n": 50, "missing": None}
    fits |= {"step_s": {"in memory": times["step"], "array": times["slow"], "memmap": times["step"]}}
    scaling = [
        {"n": 50, "way": "devices", "number": 2, "missing": None, "step_s": times["step"], "reduced_bytes": 17476},
        {"n": 50, "way": "processes", "number": 2, "missing": "crashed"},
    ]
    found = {"d": 16, "k": 16, "targets": {"resident_bytes": 1e9, "of_the_slower": 0.7, "overhead": 0.15}}
    text = report.report([result(spread={**found, "streamed": [file, worse], "fits": [fits], "scaling": scaling})])
    assert "| full | 100 | 2.00 | 9.00 s | 10.0 s | 8.00 s | 5.00 s | 80 % | 200 |" in text
    assert "| diag | 100 | 2.00 | 9.00 s | 12.0 s | 8.00 s | 5.00 s | 67 % **!** | 2000 **!** |" in text
    assert "| full | 50 | 10.0 s | 12.0 s (+20 % **!**) | 10.0 s (+0 %) |" in text
    assert "| 2 devices | 50 | 10.0 s | 17476 |" in text
    assert "| 2 processes | 50 | missing: crashed |" in text


def test_cells_beside_scikit_learn():
    """How many cells of ours are no worse, and by how much the worst is; what a sweep of ours compiled."""
    cells = [
        {"seed": 0, "family": family, "k": k, "ours": -2.0 + off, "theirs": -2.0, "our_steps": 7, "their_steps": 8}
        for family, k, off in (("full", 1, 0.0), ("full", 2, -2e-3), ("diag", 1, 5e-7), ("diag", 2, 1e-2))
    ]
    asked = {"counts": [1, 2], "families": ["full", "diag"], "n": 50, "d": 4, "seeds": 1, "not_below": 1e-6}
    asked |= {"device": "cpu", "missing": None, "cells": cells}
    shared = {"family": "full", "k": 2, "bic": 1.0, "padding": 0.25, "groups": [[1, 2], [3]]}
    sweep = {"n": 50, "d": 4, "counts": [1, 3], "families": ["full"], "n_restarts": 8}
    sweep |= {"cells": [search("jaxgmm", 2.0, 1.0, chosen=[shared, shared | {"padding": 0.5}], programs=[30, 0])]}
    logs = {"full": (-10.0, -10.01, "CONVERGED"), "tied": (-9.0, -10.0, "MAX_STEPS"), "VEI": (-9.0, -1.0, "COLLAPSED")}
    fits = [{"family": f, "k": 2, "ours": o, "theirs": t, "status": s} for f, (o, t, s) in logs.items()]
    chosen = {"ours": ["tied", 3, 2314.3], "theirs": ["tied", 2, 2314.4]}
    choice = {"data": "faithful", "n": 272, "d": 2, "chosen": chosen, "fits": fits}
    seconds = {of: {"median": median} for of, median in (("our_s", 2.0), ("their_s", 9.0))}
    sections = {
        "sweep": sweep,
        "common_starts": {**asked, "tol": 1e-6, "max_steps": 500},
        "free_starts": {**asked, "n_restarts": 8, "polish": 1e-6, "missing": "crashed"},
        "longer_starts": {**asked, "n_restarts": 16, "tol": 1e-4, "their_restarts": 8, "polish": 1e-6, **seconds},
        "choices": {"n_restarts": 16, "tol": 1e-9, "device": "cpu", "missing": None, "sets": [choice]},
    }
    text = report.report([result(searches=sections)])
    assert "| full | 1 of 2 | 0 | 1 | -2.0e-03 | +0.0e+00 |" in text
    assert "| all | 3 of 4 | 1 | 1 | -2.0e-03 | +1.0e-02 |" in text
    assert "- full 2, table 0: -2.0e-03 (7 steps, scikit-learn 8)" in text
    assert "missing: crashed" in text
    assert "8 restarts of ours to tol 0.001 and 8 of scikit-learn's by default" in text
    assert (
        "16 restarts of ours to tol 0.0001 and 8 of scikit-learn's by default, each end then run on to its optimum "
        "(tol 1e-06)" in text
    )
    assert "A table took ours 2.00 s and scikit-learn 9.00 s" in text
    assert "| faithful | 272 × 2 | tied 3 (2314.30) | tied 2 (2314.40) | 1 | 1 | 0 | 1 |" in text
    assert "30 programs compiled by the first call, 0 by the second; 25.0 to 50.0 %" in text
    assert "a program: 1, 2; 3." in text

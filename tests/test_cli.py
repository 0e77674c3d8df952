"""The command line: what it leaves, what it prints, and how it fails."""

from __future__ import annotations

import csv
import gc
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm.cli import commands as cli
from jaxgmm.cli import main, options, tables
from jaxgmm.search.progress import Bar, Progress, SweepProgress
from jaxgmm.search.table import Cell
from tests import oracle

FAITHFUL = str(oracle.DATA / "faithful.csv")
PNG = b"\x89PNG\r\n\x1a\n"
FILES = {
    "model.jaxgmm", "labels.csv", "responsibilities.csv", "table.csv", "clusters.png", "history.png", "criterion.png"
}  # fmt: skip


def rows_of(text):
    header, *rows = csv.reader(io.StringIO(text))
    return header, np.array(rows, float)


def x_of(path=FAITHFUL):
    return tables.read(path).values


class Terminal(io.StringIO):
    """Standard error on which a line can be drawn again."""

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One search, whose folder most tests look at: (folder, what was printed)."""
    folder = tmp_path_factory.mktemp("cli") / "deep" / "fitted"
    with pytest.MonkeyPatch.context() as patch:
        out, err = io.StringIO(), Terminal()
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        status = main(
            f"fit {FAITHFUL} --components 1-2 --families full,tied --restarts 3 --progress --out {folder}".split()
        )
    assert status == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.fixture
def failing(capsys):
    """Run a command that must fail in one line; -> that line."""

    def run(*argv):
        try:
            status = main([str(a) for a in argv])
        except SystemExit as left:  # argparse's own way
            status = left.code
        printed = capsys.readouterr()
        assert status == 2
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert "Traceback" not in printed.err
        return printed.err

    return run


# fit


def test_fit_leaves_all_it_promises(fitted):
    folder = fitted[0]
    assert set(os.listdir(folder)) == FILES
    for name in ("clusters", "history", "criterion"):
        content = (folder / f"{name}.png").read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 10_000


def test_the_model_is_the_best_of_the_table_in_float64(fitted):
    mixture = jaxgmm.load(fitted[0] / "model.jaxgmm")
    assert mixture.means.dtype == np.float64
    with open(fitted[0] / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["family"], row["K"]) for row in table] == [("full", "1"), ("full", "2"), ("tied", "1"), ("tied", "2")]
    best = min(table, key=lambda row: float(row["bic"]))
    assert (best["family"], best["K"]) == (mixture.family.name, str(mixture.n_components)) == ("full", "2")
    assert float(best["log_likelihood"]) == pytest.approx(
        float(np.sum(np.asarray(mixture.log_prob(x_of())))), rel=1e-12
    )
    assert {row["status"] for row in table} == {"CONVERGED"}


def test_labels_and_responsibilities_are_the_models(fitted):
    mixture = jaxgmm.load(fitted[0] / "model.jaxgmm")
    header, labels = rows_of((fitted[0] / "labels.csv").read_text())
    assert header == ["component"]
    assert np.array_equal(labels[:, 0], mixture.predict(x_of()))
    header, shares = rows_of((fitted[0] / "responsibilities.csv").read_text())
    assert header == ["component_0", "component_1"]
    assert np.array_equal(shares, mixture.responsibilities(x_of()))
    assert shares.sum(axis=1) == pytest.approx(1.0)


def test_the_search_is_printed_as_a_table(fitted):
    lines = fitted[1].splitlines()
    assert lines[0].endswith("faithful.csv: 272 rows of 2 columns: eruptions, waiting.")
    assert "best by bic is 'full' with K = 2" in lines[1]
    assert lines[2].split() == [
        "family",
        "K",
        "log_likelihood",
        "n_params",
        "aic",
        "bic",
        "icl",
        "n_steps",
        "status",
        "polished",
    ]
    assert [line.split()[1:3] for line in lines if line.startswith("*")] == [["full", "2"]]
    assert "compilation included" in lines[7]
    for name in FILES:
        assert name in lines[8]


def test_progress_is_one_line_that_is_cleared(fitted):
    drawn = fitted[2].split("\r")
    assert drawn[-1] == ""
    assert drawn[-2].strip() == ""
    bars = [text for text in drawn if text.startswith("[")]
    assert bars[0].startswith("[..........] 1/4 full K=1  step 0/200  1/1 running  best -")
    assert any("2/4 full K=2" in text and "/3 running" in text for text in bars)
    assert any("3/4 tied K=1  best full K=2 bic=2322.1" in text for text in bars)
    filled = [text.count("#") for text in bars]
    assert filled == sorted(filled)
    assert bars[-1].startswith("[##########] 4/4 tied K=2")
    assert "\n" not in fitted[2]


def test_the_bar_never_goes_back_and_names_the_best_so_far(monkeypatch):
    """A run that waited begins at step 0 when one that had made many has ended; and a race is nine tenths over soon."""
    monkeypatch.setenv("COLUMNS", "200")
    file = Terminal()
    bar = Bar(file, "held_out", every=0.0)
    best = Cell("diag", 4, 0.0, 1, 0.0, 0.0, 0.0, 1, "CONVERGED", held_out=-4.17374)
    for n_steps, n_running, of in ((0, 2, None), (180, 2, None), (0, 1, best), (100, 1, best)):
        bar(SweepProgress(0, 1, "full", 2, Progress(n_steps, 200, n_running, 2, -1.5), of))
    first, second, third, last = file.getvalue().split("\r")[1:]
    assert [text.count("#") for text in (first, second, third, last)] == [0, 9, 9, 9]
    assert "best -1.5000" in second
    assert "1/1 full K=2  best diag K=4 held_out=-4.17374  step 100/200  1/2 running  this fit -1.5000" in last


def test_nothing_is_shown_where_nobody_looks(tmp_path, capsys):
    """No progress without a terminal; with --quiet no word at all."""
    arguments = ["fit", FAITHFUL, "--components", "1", "--families", "tied", "--no-plots", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "Sweep of 1 fit;" in printed.out
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert set(os.listdir(tmp_path)) == {"model.jaxgmm", "labels.csv", "responsibilities.csv", "table.csv"}


def test_jaxs_switches_are_left_alone(fitted):
    del fitted
    assert not jax.config.jax_enable_x64


def test_the_same_seed_gives_the_same_files(fitted, tmp_path):
    arguments = f"fit {FAITHFUL} --components 1-2 --families full,tied --restarts 3 --no-plots --quiet --out {tmp_path}"
    assert main(arguments.split()) == 0
    for name in ("model.jaxgmm", "labels.csv", "responsibilities.csv", "table.csv"):
        assert (tmp_path / name).read_bytes() == (fitted[0] / name).read_bytes()


def test_options_reach_the_fit(tmp_path, capsys):
    """Against the functions with the same arguments: columns, weights, ridge, steps, criterion, dtype, seed, init."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(40, 2)).astype(np.float32), rng.integers(1, 4, 40)
    lines = [f"{a!r},{name},{w},{b!r}" for (a, b), w, name in zip(x.tolist(), weights, "pq" * 20, strict=True)]
    data = tmp_path / "data.csv"
    data.write_text("\n".join(["a,name,count,b", *lines]))
    options = "--columns b,a --weights count --ridge 0.5 --max-steps 3 --tol 0 --criterion aic --dtype float32 --seed 7"
    arguments = f"fit {data} {options} --init random_rows --components 2 --families diag --restarts 2 --out {tmp_path}"
    assert main([*arguments.split(), "--no-plots"]) == 0
    printed = capsys.readouterr()
    assert "best by aic" in printed.out
    assert "warning: the best fit is MAX_STEPS: the step limit was reached" in printed.err
    found = jaxgmm.sweep(
        jax.random.key(7), x[:, ::-1], 2, "diag", 2, "aic", sample_weight=weights, init="random_rows", tol=0.0,
        max_steps=3, ridge=0.5, dtype="float32",
    )  # fmt: skip
    mixture = jaxgmm.load(tmp_path / "model.jaxgmm")
    assert mixture.means.dtype == np.float32
    assert np.array_equal(mixture.means, found.best.mixture.means)
    assert np.array_equal(mixture.covariances, found.best.mixture.covariances)


def test_options_of_the_search_reach_it(tmp_path, monkeypatch, capsys):
    asked = {}

    def record(*arguments, **options):
        asked.update(options, criterion=arguments[5])
        raise ValueError("enough")

    monkeypatch.setattr(cli, "sweep", record)
    options = "--race --escape split-merge --stopping aitken --relative-ridge 1e-4 --folds 3 --criterion held_out"
    assert main(f"fit {FAITHFUL} {options} --out {tmp_path}".split()) == 2
    wanted = {"race": True, "escape": "split-merge", "stopping": "aitken", "relative_ridge": 1e-4, "n_folds": 3}
    assert asked.items() >= {**wanted, "criterion": "held_out"}.items()
    assert main(f"fit {FAITHFUL} --out {tmp_path}".split()) == 2
    plain = {"race": False, "escape": None, "stopping": "gain", "relative_ridge": 0.0, "n_folds": 0}
    assert asked.items() >= {**plain, "criterion": "bic"}.items()
    capsys.readouterr()


def test_with_folds_the_table_has_a_column_more(tmp_path, capsys):
    options = "--components 1-2 --families tied --restarts 2 --folds 2 --criterion held_out"
    assert main(f"fit {FAITHFUL} {options} --out {tmp_path}".split()) == 0
    assert "best by held_out is 'tied' with K = 2" in capsys.readouterr().out
    with open(tmp_path / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [name for name in Cell._fields if name != "others"]
    found = jaxgmm.sweep(
        jax.random.key(0), x_of(), [1, 2], "tied", 2, "held_out", n_folds=2, ridge="resolution", dtype="float64"
    )
    assert [float(row["held_out"]) for row in table] == [cell.held_out for cell in found.cells]
    assert (tmp_path / "criterion.png").read_bytes().startswith(PNG)


def test_weights_are_taken_out_of_the_columns(tmp_path):
    """Without --columns too; and a row of weight 2 is two rows."""
    np.savetxt(tmp_path / "w.csv", [[1, 2, 5], [2, 1, 3], [0, 1, 4]], delimiter=",", header="a,n,b", comments="")
    np.savetxt(tmp_path / "r.csv", [[1, 5], [1, 5], [2, 3], [0, 4]], delimiter=",", header="a,b", comments="")
    options = ["--components", "1", "--families", "full", "--no-plots", "--quiet", "--ridge", "0.1", "--out"]
    assert main(["fit", str(tmp_path / "w.csv"), "--weights", "n", *options, str(tmp_path / "w")]) == 0
    assert main(["fit", str(tmp_path / "r.csv"), *options, str(tmp_path / "r")]) == 0
    weighted, repeated = (jaxgmm.load(tmp_path / name / "model.jaxgmm") for name in "wr")
    assert np.allclose(weighted.means, repeated.means, rtol=1e-12)
    assert np.allclose(weighted.covariances, repeated.covariances, rtol=1e-12)


def test_a_row_of_weight_0_may_hold_what_is_missing(tmp_path, capsys):
    """It is no row: as if it were not there, but for a line without a component."""
    (tmp_path / "w.csv").write_text("a,n,b\n1,1,5\n2,1,3\nNA,0,7\n0,1,4\n")
    np.savetxt(tmp_path / "r.csv", [[1, 5], [2, 3], [0, 4]], delimiter=",", header="a,b", comments="")
    options = ["--components", "1", "--families", "full", "--quiet", "--ridge", "0.1", "--out"]
    assert main(["fit", str(tmp_path / "w.csv"), "--weights", "n", *options, str(tmp_path / "w")]) == 0
    assert main(["fit", str(tmp_path / "r.csv"), *options, str(tmp_path / "r")]) == 0
    weighted, without = (jaxgmm.load(tmp_path / name / "model.jaxgmm") for name in "wr")
    assert np.allclose(weighted.covariances, without.covariances, rtol=1e-12)
    assert (tmp_path / "w" / "labels.csv").read_text().split() == ["component", "0", "0", "-1", "0"]
    (tmp_path / "w.csv").write_text("a,n,b\n1,1,5\n2,NA,3\n0,1,4\n")
    assert main(["fit", str(tmp_path / "w.csv"), "--weights", "n", *options, str(tmp_path / "w")]) == 2
    assert "data row 2, column 'n' is missing ('NA')" in capsys.readouterr().err


def test_parquet_in_and_out(tmp_path):
    data = tmp_path / "data.parquet"
    tables.write(data, ["a", "b"], [x_of()])
    arguments = f"fit {data} --components 1 --families tied --format parquet --no-plots --quiet --out {tmp_path}"
    assert main(arguments.split()) == 0
    assert {"labels.parquet", "responsibilities.parquet", "table.csv"} <= set(os.listdir(tmp_path))
    assert tables.read(tmp_path / "responsibilities.parquet").values.tolist() == [[1.0]] * 272


def test_pictures_show_the_features_that_tell_the_components_apart(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    x[:30, 1] += 20
    x[:30, 3] -= 20
    np.savetxt(tmp_path / "d.csv", x, delimiter=",", header="p,q,r,s", comments="")
    drawn = []
    real = jaxgmm.plot.clusters

    def record(*arguments, **options):
        drawn.append((real(*arguments, **options), options["dims"]))
        return drawn[0][0]

    monkeypatch.setattr(jaxgmm.plot, "clusters", record)
    arguments = f"fit {tmp_path / 'd.csv'} --components 2 --families spherical --restarts 2 --quiet --out {tmp_path}"
    assert main(arguments.split()) == 0
    ((ax, dims),) = drawn
    assert dims == (1, 3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("q", "s")


def test_without_matplotlib_one_line_says_so(tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    arguments = f"fit {FAITHFUL} --components 1 --families tied --out {tmp_path}"
    assert main(arguments.split()) == 0
    printed = capsys.readouterr()
    assert printed.err == 'jaxgmm: no pictures without matplotlib: pip install "jaxgmm[plot]"\n'
    assert ".png" not in printed.out
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("text", "counts"),
    [("3", [3]), ("1-4", [1, 2, 3, 4]), ("1,2,5", [1, 2, 5]), ("1-3,2,8-9", [1, 2, 3, 8, 9]), (" 2 , 4-5", [2, 4, 5])],
)
def test_numbers_of_components(text, counts):
    assert options.counts(text) == counts


# predict and sample


def test_predict_prints_the_label_of_every_row(fitted, capsys):
    assert main(["predict", str(fitted[0] / "model.jaxgmm"), FAITHFUL]) == 0
    assert capsys.readouterr().out == (fitted[0] / "labels.csv").read_text()


def test_a_model_is_found_in_the_folder_of_its_fit(fitted, failing, tmp_path, capsys):
    for command in (["predict", "{}", str(FAITHFUL)], ["sample", "{}", "-n", "2"]):
        printed = []
        for model in (fitted[0], fitted[0] / "model.jaxgmm"):
            assert main([part.format(model) for part in command]) == 0
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1] != ""
    assert f"{tmp_path / 'model.jaxgmm'}: No such file" in failing("predict", tmp_path, FAITHFUL)


def test_columns_that_tell_no_rows_apart_are_named(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = np.insert(rng.normal(size=(272, 2)), [0, 2], 5.0, axis=1)
    np.savetxt(tmp_path / "d.csv", rows, delimiter=",", header="a,b,c,d", comments="")
    arguments = (
        f"fit {tmp_path / 'd.csv'} --components 1 --families full --restarts 1 --no-plots --quiet --out {tmp_path}"
    )
    assert main(arguments.split()) == 0
    assert "the same value in every row of column 'a', 'd': that tells no rows apart" in capsys.readouterr().err
    np.savetxt(tmp_path / "d.csv", np.c_[np.arange(3.0, 275.0), rows], delimiter=",", header="id,a,b,c,d", comments="")
    assert main([*arguments.split(), "--columns", "id,b,c"]) == 0
    assert "column 'id' counts the rows, as an index does" in capsys.readouterr().err
    assert main([*arguments.split(), "--columns", "b,c"]) == 0
    assert capsys.readouterr().err == ""


def test_predict_prints_or_writes_responsibilities(fitted, tmp_path, capsys):
    model = str(fitted[0] / "model.jaxgmm")
    assert main(["predict", model, FAITHFUL, "--proba"]) == 0
    assert capsys.readouterr().out == (fitted[0] / "responsibilities.csv").read_text()
    for name in ("r.csv", "r.parquet"):
        assert main(["predict", model, FAITHFUL, "--proba", "--out", str(tmp_path / name)]) == 0
        assert np.array_equal(
            tables.read(tmp_path / name).values, rows_of((fitted[0] / "responsibilities.csv").read_text())[1]
        )
    assert capsys.readouterr() == ("", "")


def test_predict_chooses_columns(fitted, tmp_path, capsys):
    wide = tmp_path / "wide.csv"
    header, *lines = Path(FAITHFUL).read_text().splitlines()
    swapped = [",".join(["text", *reversed(line.split(","))]) for line in lines]
    wide.write_text("\n".join([f"kind,{','.join(reversed(header.split(',')))}", *swapped]))
    assert main(["predict", str(fitted[0] / "model.jaxgmm"), str(wide), "--columns", "eruptions,1"]) == 0
    assert capsys.readouterr().out == (fitted[0] / "labels.csv").read_text()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b", ["a", "b"]),
        ("a, b ,", ["a", "b"]),
        ('"a, b",c', ["a, b", "c"]),
        ('c, "a, b"', ["c", "a, b"]),
        ('"say ""x""",0', ['say "x"', "0"]),
        ('5" pipe,b', ['5" pipe', "b"]),
        ('"two\nlines",b', ["two\nlines", "b"]),
    ],
)
def test_columns_are_named_as_in_a_row_of_csv(text, names):
    assert options.columns(text) == names


def test_names_of_columns_may_hold_commas(fitted, tmp_path, capsys):
    wide = tmp_path / "wide.csv"
    _, *lines = Path(FAITHFUL).read_text().splitlines()
    wide.write_text(
        "\n".join(['"minutes, of eruption","minutes, ""waiting""",kind', *(f"{line},text" for line in lines)])
    )
    chosen = '"minutes, of eruption","minutes, ""waiting"""'
    assert main(["predict", str(fitted[0] / "model.jaxgmm"), str(wide), "--columns", chosen, "--by-position"]) == 0
    assert capsys.readouterr().out == (fitted[0] / "labels.csv").read_text()


def test_predictions_do_not_depend_on_the_blocks(fitted, monkeypatch, capsys):
    monkeypatch.setattr(cli, "BLOCK", 100)
    assert main(["predict", str(fitted[0] / "model.jaxgmm"), FAITHFUL]) == 0
    assert capsys.readouterr().out == (fitted[0] / "labels.csv").read_text()


def test_sample_prints_rows_of_the_model(fitted, capsys):
    model = str(fitted[0] / "model.jaxgmm")
    assert main(["sample", model, "-n", "20000"]) == 0
    first = capsys.readouterr().out
    header, x = rows_of(first)
    assert header == ["eruptions", "waiting"]
    assert x.shape == (20000, 2)
    mixture = jaxgmm.load(model)
    deviations = np.sqrt(np.diag(np.asarray(mixture.covariance())))
    assert np.abs((x.mean(axis=0) - np.asarray(mixture.mean())) / deviations).max() < 5 / np.sqrt(20000)
    assert main(["sample", model, "-n", "20000"]) == 0
    assert capsys.readouterr().out == first
    assert main(["sample", model, "-n", "20000", "--seed", "1"]) == 0
    assert capsys.readouterr().out != first


def test_samples_of_several_blocks_differ_from_each_other(fitted, monkeypatch, capsys):
    monkeypatch.setattr(cli, "BLOCK", 16)
    assert main(["sample", str(fitted[0] / "model.jaxgmm"), "-n", "40"]) == 0
    x = rows_of(capsys.readouterr().out)[1]
    assert x.shape == (40, 2)
    assert len(np.unique(x, axis=0)) == 40


def test_a_sample_may_be_empty(fitted, capsys):
    assert main(["sample", str(fitted[0] / "model.jaxgmm"), "-n", "0"]) == 0
    assert capsys.readouterr().out == "eruptions,waiting\n"


def test_the_collector_of_garbage_is_as_before(fitted, capsys):
    before = gc.get_threshold()
    assert main(["sample", str(fitted[0] / "model.jaxgmm"), "-n", "1"]) == 0
    assert gc.get_threshold() == before


# Failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("dance", "invalid choice: 'dance'"),
        ("fit {data}", "the following arguments are required: --out"),
        ("fit nowhere.csv --out {out}", "nowhere.csv: No such file or directory"),
        ("fit {iris} --out {out}", "column 'class' holds text, in data row 1 'setosa'"),
        ("fit {data} --out {out} --missing em", "unrecognized arguments: --missing em"),
        ("fit {data} --out {out} --components 0-3", "'0-3' is no range"),
        ("fit {data} --out {out} --components 4-2", "'4-2' is no range"),
        ("fit {data} --out {out} --components two", "expected numbers such as 3, 1-8 or 1,2,5, got 'two'"),
        ("fit {data} --out {out} --components 300", "n_components = 300, n_samples = 272"),
        ("fit {data} --out {out} --families full,round", "unknown family 'round', expected one of full"),
        ("fit {data} --out {out} --criterion mdl", "invalid choice: 'mdl'"),
        ("fit {data} --out {out} --restarts 0", "n_restarts must be at least 1, got 0"),
        ("fit {data} --out {out} --folds 1", "n_folds must be 0, or at least 2"),
        ("fit {data} --out {out} --relative-ridge -1", "relative_ridge must be finite and not negative"),
        ("fit {data} --out {out} --escape tunnel", "invalid choice: 'tunnel'"),
        ("fit {data} --out {out} --tol -1", "tol must be finite and not negative"),
        ("fit {data} --out {out} --ridge nan", "ridge must be finite"),
        ("fit {data} --out {out} --columns waiting,length", "has no column 'length'. It has 'eruptions', 'waiting'"),
        ('fit {data} --out {out} --columns "waiting', "cannot be read as names in a row of CSV"),
        ("fit {data} --out {out} --weights none", "has no column 'none'"),
        ("fit {data} --out {out} --columns 0 --weights eruptions", "is chosen twice"),
        ("fit {data} --out {data}", "faithful.csv: File exists"),
        ("predict {data} {data}", "faithful.csv is not a jaxgmm mixture"),
        ("predict nowhere {data}", "nowhere: No such file or directory"),
        ("predict {model} {iris} --columns 0,1,2", "'eruptions', 'waiting' are missing among those chosen"),
        ("predict {model} {iris} --columns 0,1,2 --by-position", "gives 3 columns, the model has 2 features"),
        ("fit {data} --out {out} --separator ab", "separator must be one character, or one of comma, semicolon"),
        ("predict {model} {data} --out labels.txt", "labels.txt: expected a file ending in one of .csv, .parquet"),
        ("sample {model} -n -3", "-n must be at least 0, got -3"),
        ("sample {model} -n many", "invalid int value: 'many'"),
    ],
)
def test_errors_are_one_line(fitted, failing, tmp_path, arguments, message):
    places = {
        "data": FAITHFUL,
        "iris": oracle.DATA / "iris.csv",
        "model": fitted[0] / "model.jaxgmm",
        "out": tmp_path / "out",
    }
    assert message in failing(*(part.format(**places) for part in arguments.split()))
    assert not (tmp_path / "out" / "model.jaxgmm").exists()


def test_bad_cells_are_named_by_row_and_column(failing, tmp_path):
    (tmp_path / "d.csv").write_text("a,b\n1,2\n3,\n")
    assert "d.csv: data row 2, column 'b' is missing (empty)" in failing("fit", tmp_path / "d.csv", "--out", tmp_path)
    (tmp_path / "d.csv").write_text("a,w\n1,2\n3,-1\n")
    line = failing("fit", tmp_path / "d.csv", "--weights", "w", "--out", tmp_path)
    assert "data row 2, column 'w' is -1.0, but a weight cannot be negative" in line


def test_a_search_in_which_all_failed_leaves_no_model(failing, tmp_path):
    np.savetxt(tmp_path / "d.csv", np.ones((20, 2)), delimiter=",")
    arguments = [
        "--components",
        "2",
        "--families",
        "full",
        "--ridge",
        "0",
        "--restarts",
        "2",
        "--out",
        tmp_path / "out",
    ]
    assert "every fit failed" in failing("fit", tmp_path / "d.csv", *arguments)
    assert not (tmp_path / "out" / "model.jaxgmm").exists()


def test_benchmarks_need_the_repository(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "jaxgmm" / "cli" / "commands.py"))
    assert "the benchmarks are part of the repository" in failing("bench")


def test_benchmarks_of_the_checkout_are_run(tmp_path, monkeypatch, capfd):
    """With all arguments that follow, help and all."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\nraise SystemExit('--fail' in sys.argv)\n")
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "jaxgmm" / "cli" / "commands.py"))
    assert main(["bench", "--quick", "--problems", "a", "b", "--help"]) == 0
    assert capfd.readouterr().out == "['--quick', '--problems', 'a', 'b', '--help']\n"
    assert main(["bench", "--fail"]) == 2
    assert "the benchmarks ended with exit status 1" in capfd.readouterr().err


def test_an_interrupt_is_no_traceback(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "sweep", interrupted)
    assert main(["fit", FAITHFUL, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "jaxgmm: interrupted\n"


def interrupt_when(monkeypatch, is_time):
    """Ctrl-C, as the real search meets it."""
    real = cli.sweep

    def pressed(*arguments, progress, **options):
        def told(now):
            progress(now)
            if is_time(now):
                raise KeyboardInterrupt

        return real(*arguments, progress=told, **options)

    monkeypatch.setattr(cli, "sweep", pressed)


def test_an_interrupted_search_writes_what_is_done(fitted, tmp_path, capsys, monkeypatch, recwarn):
    interrupt_when(monkeypatch, lambda now: now.family == "tied")
    arguments = f"fit {FAITHFUL} --components 1-2 --families full,tied --restarts 3 --out {tmp_path}"
    assert main(arguments.split()) == 130
    printed = capsys.readouterr()
    assert printed.err == "jaxgmm: warning: interrupted after 2 of 4 fits: what follows is the best of those.\n"
    assert not recwarn.list
    assert "best by bic is 'full' with K = 2" in printed.out
    assert set(os.listdir(tmp_path)) == FILES
    assert (tmp_path / "model.jaxgmm").read_bytes() == (fitted[0] / "model.jaxgmm").read_bytes()
    whole = (fitted[0] / "table.csv").read_text().splitlines()
    assert (tmp_path / "table.csv").read_text().splitlines() == whole[:3]


def test_an_interrupt_before_the_first_fit_is_done_writes_what_there_is(tmp_path, capsys, monkeypatch):
    """Nothing before the first step, and then the best fit that was under way."""
    arguments = f"fit {FAITHFUL} --components 1-2 --families full,tied --restarts 3 --tol 0 --out {tmp_path}"
    steps = [0]
    interrupt_when(monkeypatch, lambda now: now.cell.n_steps >= steps[0])
    assert main(arguments.split()) == 130
    assert capsys.readouterr() == ("", "jaxgmm: interrupted\n")
    assert not os.listdir(tmp_path)
    steps[0] = 5
    assert main(arguments.split()) == 130
    assert "interrupted within the first fits: what follows is the best of those." in capsys.readouterr().err
    assert set(os.listdir(tmp_path)) == FILES


# As a program


def program(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "jaxgmm", *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_the_program_tells_its_version_and_its_commands():
    assert program("--version").stdout == f"jaxgmm {jaxgmm.__version__}\n"
    done = program("--help")
    assert done.returncode == 0
    for command in ("fit", "predict", "sample", "bench"):
        assert command in done.stdout


def test_the_program_fails_with_status_2_and_without_a_traceback(tmp_path):
    done = program("fit", tmp_path / "nowhere.csv", "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"jaxgmm: error: {tmp_path}/nowhere.csv: No such file or directory\n"


def test_a_reader_that_leaves_early_is_no_error(fitted):
    """`jaxgmm sample … | head -n 1`: the rest is written to nobody."""
    command = [sys.executable, "-m", "jaxgmm", "sample", str(fitted[0] / "model.jaxgmm"), "-n", "300000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "eruptions,waiting\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0

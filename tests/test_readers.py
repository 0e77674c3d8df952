"""Files of any form: what is told from their first lines, every digit of the numbers, and the place of every fault."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import string
import sys
import threading

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies

import jaxgmm
from jaxgmm import Blocks, Mixture
from jaxgmm.cli import main, pictures, tables
from jaxgmm.cli.columns import match
from jaxgmm.io import columns_of, load, save
from jaxgmm.rows.readers import Reading, reading, source_of, text

NAN = float("nan")


def encoded(content, encoding="utf-8"):
    return content if isinstance(content, bytes) else content.encode(encoding)


GUESSED = Reading()


def read(folder, content, said=GUESSED, name="x.csv"):
    """-> names (or None), values with NaN for missing cells, and notes."""
    (folder / name).write_bytes(encoded(content))
    source = source_of(folder / name, said)
    places = source.features()
    values = np.concatenate(list(source.blocks(places)))
    return tuple(source.names[place] for place in places) if source.is_named else None, values, source.notes


ROWS = "0.512,1.25,-3.125\n0.25,2.5,7.0\n-1.5,0.125,2.75\n"
THREE = [[0.512, 1.25, -3.125], [0.25, 2.5, 7.0], [-1.5, 0.125, 2.75]]
SEMICOLONS, COMMAS = "separated by semicolons", "decimal commas"
EURO = ROWS.replace(",", ";").replace(".", ",")
NUMBERED = "".join(f"{i},{line}\n" for i, line in enumerate(ROWS.splitlines()))

WHOLE = "5,3,8,1\n4,40,7,2\n50,6,2,9\n7,2,96,8\n1,8,5,61\n3,5,6,4\n"
OF_WHOLE = [[5, 3, 8, 1], [4, 40, 7, 2], [50, 6, 2, 9], [7, 2, 96, 8], [1, 8, 5, 61], [3, 5, 6, 4]]

FORMS = {
    # Separators and decimal signs.
    "semicolons": ("a;b;c\n" + ROWS.replace(",", ";"), "abc", THREE, {SEMICOLONS}),
    "tabs": ("a\tb\tc\n" + ROWS.replace(",", "\t"), "abc", THREE, {"separated by tabs"}),
    "bars": ("a|b|c\n" + ROWS.replace(",", "|"), "abc", THREE, {"separated by bars"}),
    "runs of spaces": ("  a  b   c\n" + ROWS.replace(",", "   "), "abc", THREE, {"separated by spaces"}),
    "decimal commas": ("a;b;c\n" + EURO, "abc", THREE, {SEMICOLONS, COMMAS}),
    "decimal commas and tabs": ("a\tb\tc\n" + EURO.replace(";", "\t"), "abc", THREE, {"separated by tabs", COMMAS}),
    "Excel's first line": ("sep=;\r\na;b;c\r\n" + EURO.replace("\n", "\r\n"), "abc", THREE, {SEMICOLONS, COMMAS}),
    "spaces after commas": ("a, b, c\n" + ROWS.replace(",", ", "), "abc", THREE, set()),
    "a comma in a name, between semicolons": (
        '"a, in m";b\n1.5;2\n3;4\n',
        ("a, in m", "b"),
        [[1.5, 2], [3, 4]],
        {SEMICOLONS},
    ),
    # Headers.
    "none": (ROWS, None, THREE, {"no header"}),
    "of pandas": ("0,1,2\n" + ROWS, "012", THREE, {"a header of numbers"}),
    "of pandas, one column": ("0\n0.512\n-1.25\n0.125\n", "0", [[0.512], [-1.25], [0.125]], {"a header of numbers"}),
    "of pandas, whole numbers": (
        "0,1,2,3\n" + WHOLE,
        "0123",
        OF_WHOLE,
        {"a header of numbers"},
    ),
    "years": ("2019,2020,2021\n" + ROWS, ("2019", "2020", "2021"), THREE, {"a header of numbers"}),
    "years above whole numbers": (
        "1990,2000,2010,2020\n" + WHOLE,
        ("1990", "2000", "2010", "2020"),
        OF_WHOLE,
        {"a header of numbers"},
    ),
    "text and a year": ("x,2020,y\n" + ROWS, ("x", "2020", "y"), THREE, set()),
    "pixels": ("17,230,41\n" + ROWS, ("17", "230", "41"), THREE, {"a header of numbers"}),
    "quoted numbers": ('"7","9"\n1,2\n2,1\n', ("7", "9"), [[1, 2], [2, 1]], {"a header of numbers"}),
    "NumPy's comment": ("# a,b,c\n" + ROWS, "abc", THREE, {"names from the comment above the rows"}),
    "comments above a header": ("# made by x\n# 2024\na,b,c\n" + ROWS, "abc", THREE, set()),
    "a comment above rows": ("# made by x\n" + ROWS, None, THREE, {"no header"}),
    "rows that step evenly": ("1,2,3\n4,5,6\n7,8,9\n", None, [[1, 2, 3], [4, 5, 6], [7, 8, 9]], {"no header"}),
    "rows of zeros and ones": ("0,1\n1,1\n0,1\n1,0\n", None, [[0, 1], [1, 1], [0, 1], [1, 0]], {"no header"}),
    "a series that begins with whole numbers": (
        "0 10 5\n0.001 9.9912 5.0213\n0.002 9.9818 5.0437\n0.003 9.9714 5.0628\n",
        None,
        [[0, 10, 5], [0.001, 9.9912, 5.0213], [0.002, 9.9818, 5.0437], [0.003, 9.9714, 5.0628]],
        {"separated by spaces", "no header"},
    ),
    "a first row with a missing cell": ("NA,1.5\n2,3\n", None, [[NAN, 1.5], [2, 3]], {"no header"}),
    # Row names and indices.
    "R's row names": (
        '"a","b","c"\n' + "".join(f'"r {i}",{line}\n' for i, line in enumerate(ROWS.splitlines())),
        "abc",
        THREE,
        {"row names left out, for which the header has no cell"},
    ),
    "R's row numbers, with spaces": (
        '"a" "b" "c"\n' + NUMBERED.replace(",", " "),
        "abc",
        THREE,
        {"separated by spaces", "row names left out, for which the header has no cell"},
    ),
    "names of rows that R quotes": (
        '"a"\n"7",0.5\n"3",1.5\n',
        "a",
        [[0.5], [1.5]],
        {"row names left out, for which the header has no cell"},
    ),
    "R's numbers of rows that were drawn": (
        "a b\n7 0.5 1.5\n3 2.5 3.5\n",
        "ab",
        [[0.5, 1.5], [2.5, 3.5]],
        {"separated by spaces", "row names left out, for which the header has no cell"},
    ),
    "an index of pandas": (",a,b,c\n" + NUMBERED, "abc", THREE, {"an index without a name left out"}),
    "an index above which years stand": (
        ",2019,2020,2021\n" + NUMBERED,
        ("2019", "2020", "2021"),
        THREE,
        {"a header of numbers", "an index without a name left out"},
    ),
    "of rows that were drawn": (
        ",a,b\n7,0.5,1.5\n3,2.5,3.5\n",
        "ab",
        [[0.5, 1.5], [2.5, 3.5]],
        {"an index without a name left out"},
    ),
    "an index read as a column": ("Unnamed: 0,a,b,c\n" + NUMBERED, "abc", THREE, {"row names, 'Unnamed: 0', left out"}),
    "an index of joined tables": (
        "Unnamed: 0,a\n0,0.5\n1,1.5\n0,2.5\n",
        "a",
        [[0.5], [1.5], [2.5]],
        {"row names, 'Unnamed: 0', left out"},
    ),
    "an index written twice": (
        "Unnamed: 0.1,Unnamed: 0,a\n0,4,0.5\n1,7,1.5\n",
        "a",
        [[0.5], [1.5]],
        {"row names, 'Unnamed: 0.1', left out", "row names, 'Unnamed: 0', left out"},
    ),
    "numbers without a name": (
        "Unnamed: 0,a\n0.25,1\n0.5,2\n",
        ("Unnamed: 0", "a"),
        [[0.25, 1], [0.5, 2]],
        set(),
    ),
    "Rdatasets": ("rownames,a\nMazda,0.5\nFord,1.5\n", "a", [[0.5], [1.5]], {"row names, 'rownames', left out"}),
    "a column called index that is none": ("index,a\n0.5,1\n0.25,2\n", ("index", "a"), [[0.5, 1], [0.25, 2]], set()),
    # Cells.
    "booleans": ("a,b\nTRUE,1\nfalse,2\nTrue,0\n", "ab", [[1, 1], [0, 2], [1, 0]], set()),
    "missing cells": (
        "a,b\nNA,1\n,2\n?,3\nNone,4\n#N/A,5\nnull,6\nNaN,7\n-,8\n.,9\n<NA>,10\n\\N,11\n-nan,12\nn/a,13\n3,14\n",
        "ab",
        [*([NAN, i] for i in range(1, 14)), [3, 14]],
        set(),
    ),
    "quoted numbers, minus signs": ('a,b\n"1.5"," -2"\n\N{MINUS SIGN}3,+4e-1\n', "ab", [[1.5, -2], [-3, 0.4]], set()),
    # Lines.
    "line ends of Windows, blank lines": (
        "\r\na,b,c\r\n\r\n" + ROWS.replace("\n", "\r\n") + "\r\n  \r\n",
        "abc",
        THREE,
        set(),
    ),
    "empty rows of a sheet": ("a,b,c\n" + ROWS + ",,\n,,\n", "abc", THREE, set()),
    "a separator at every end": ("a,b,c,\n" + ROWS.replace("\n", ",\n"), "abc", THREE, set()),
    "a separator at the end of rows": ("a,b,c\n" + ROWS.replace("\n", ",\n"), "abc", THREE, set()),
    "a separator at the end of the header": ("a,b,c,\n" + ROWS, "abc", THREE, set()),
    # Encodings.
    "UTF-8 with a mark": (("größe,b,c\n" + ROWS).encode("utf-8-sig"), ("größe", "b", "c"), THREE, set()),
    "Latin-1": (
        ("größe,b,c\n" + ROWS).encode("latin-1"),
        ("größe", "b", "c"),
        THREE,
        {"read as cp1252, since it is not UTF-8"},
    ),
    "UTF-16": (("größe,b,c\n" + ROWS).encode("utf-16"), ("größe", "b", "c"), THREE, {"read as UTF-16"}),
    # Compression.
    "gzip": (gzip.compress(("a,b,c\n" + ROWS).encode()), "abc", THREE, set()),
    "bzip2": (bz2.compress(("a,b,c\n" + ROWS).encode()), "abc", THREE, set()),
    "xz": (lzma.compress(("a,b,c\n" + ROWS).encode()), "abc", THREE, set()),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_file_is_told_from_its_first_lines(tmp_path, form):
    content, names, values, notes = FORMS[form]
    found = read(tmp_path, content)
    assert found[0] == (None if names is None else tuple(names))
    assert np.array_equal(found[1], values, equal_nan=True)
    assert set(found[2]) == notes


@pytest.mark.parametrize(
    ("content", "said", "names", "values"),
    [
        ("0,1\n0,0\n1,1\n", reading(header=True), "01", [[0, 0], [1, 1]]),
        ("0,1,2\n" + ROWS, reading(header=False), None, [[0, 1, 2], *THREE]),
        ("# a,b\n1,2\n", reading(header=False), None, [[1, 2]]),
        ("a~b\n1~2\n", reading(separator="~"), "ab", [[1, 2]]),
        ("x\n1,5\n2,5\n", reading(separator=";"), "x", [[1.5], [2.5]]),
        ('a,b\n"1,5","2,25"\n', reading(decimal="comma"), "ab", [[1.5, 2.25]]),
        ("a;b\n1;2\n3;4\n", reading(separator="semicolon", decimal=","), "ab", [[1, 2], [3, 4]]),
        ("größe\n1\n".encode("utf-16-le"), reading(encoding="utf-16-le"), ("größe",), [[1]]),
        ("a,b\n1,Jos\xe9\n".encode("latin-1"), reading(encoding="utf-8", header=True), None, None),
    ],
)
def test_what_is_said_goes_before_what_would_be_told(tmp_path, content, said, names, values):
    if values is None:
        with pytest.raises(ValueError, match=r"x\.csv: column 'b' holds text, in data row 1 'Jos\ufffd'"):
            read(tmp_path, content, said)
        return
    found = read(tmp_path, content, said)
    assert found[0] == (None if names is None else tuple(names))
    assert found[1].tolist() == values


REFUSED = {
    "names or a row": (
        "0,1\n5,7\n3,8\n6,2\n0,9\n8,5\n7,1\n4,7\n9,0\n",
        r"its first line, '0', '1', may have names .* or be a row .*--header or --no-header",
    ),
    "a row with a typing error": ("1.2x,2.5\n1.3,2.1\n", "its first line, '1.2x', '2.5', may have names"),
    "an index or a missing cell": (",1.5\n1,2.5\n", "its first line"),
    "a header that is too long": ("a,b,c\n1,2\n3,4\n", "line 2: data row 1 has 2 cells, expected 3 as the header"),
    "a header that is too short": ("a\n1,2,3\n4,5,6\n", "line 2: data row 1 has 3 cells, expected 1 as the header"),
    "row names that repeat": ("x\n1,5\n1,7\n", r"no row names, since they repeat.*--separator.*--decimal"),
    "a title above two columns": (
        "Temperatures\n0.12,-0.13\n0.51,0.32\n",
        r"the header has 1 cell and the rows have 2, .* no row names, but numbers, such as '0\.12', '0\.51'",
    ),
    "a name that is missing": ("a,b\n0.1,0.2,0.3\n0.4,0.5,0.6\n", "no row names, but numbers"),
    "a column of decimal commas": ("temp\n44,03\n41,71\n", r"no row names, but numbers.*--decimal"),
    "a short row far down": (
        "a,b\n" + "1,2\n" * 40_000 + "\n\n3\n",
        "line 40004: data row 40001 has 1 cell, expected 2",
    ),
    "a short row below a cell of two lines": ('a,b\n"\n1",2\n3\n', "line 4: data row 2 has 1 cell"),
    "a quote that is not closed": ('a,b\n1,"2\n3,4\n', "x.csv"),
    "a decimal comma late": ("a;b\n" + "1;2\n" * 300 + "3;1,5\n", r"data row 301 '1,5'.*decimal comma.*--decimal ,"),
    "a point among decimal commas": ("a;b\n1,5;2,5\n" + "1.234;2,5\n", r"'1,5'.*decimal comma.*--decimal ,"),
    "thousands": ('a,b\n"1,234",2\n', "'1,234'.*decimal comma"),
    "Python's thousands": ("a\n1_000\n", "holds text, in data row 1 '1_000'"),
    "two columns in one": ("a\n1~2\n3~4\n", "column 'a' holds text"),
    "a name that is none": ("a,,b\n1,2,3\n", "column 1 has no name"),
    "an unnamed column of numbers": (",a\n0.5,1\n", "column 0 has no name"),
    "text": ("a,b,kind\n1,2,x\n", r"column 'kind' holds text, in data row 1 'x'\. Leave it out: --columns a,b"),
    "names that hold commas": ('"a, b",c,kind\n1,2,x\n', r"""--columns '"a, b",c'"""),
    "zero bytes": (b"a,b\n1,\x002\n", "holds zero bytes"),
    "UTF-16 without a mark": ("a,b\n1,2\n".encode("utf-16-le"), "holds zero bytes: .*--encoding utf-16"),
    "a workbook": (b"PK\x03\x04 and so on", "is no text but a zip archive or a workbook of Excel"),
    "Parquet": (b"PAR1 and so on", r"is no text but Parquet: give it the ending \.parquet"),
    "a cut archive": (gzip.compress(b"a,b\n" + os.urandom(999))[:200], "is damaged or cut short"),
    "nothing": (b"", "is empty"),
    "nothing, compressed": (gzip.compress(b""), "is empty"),
    "blank lines": (b"\r\n\r\n  \n,,\n", "is empty"),
    "a huge cell": (b"a\n" + b"1" * 200_000, "x.csv"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_read_is_refused_by_path_and_place(tmp_path, fault):
    content, message = REFUSED[fault]
    (tmp_path / "x.csv").write_bytes(encoded(content))
    with pytest.raises(ValueError, match=message) as caught:
        tables.read(tmp_path / "x.csv")
    assert "x.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"separator": "ab"}, "separator must be one character"),
        ({"separator": '"'}, "separator must be one character"),
        ({"separator": "1"}, "separator must be one character"),
        ({"decimal": ";"}, "decimal must be a point or a comma"),
        ({"encoding": "base64"}, "no encoding 'base64'"),
        ({"encoding": "nothing"}, "no encoding 'nothing'"),
    ],
)
def test_what_is_no_sign_is_refused(tmp_path, said, message):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=message):
        Blocks.from_file(tmp_path / "x.csv", **said)


def test_endings_count_in_any_case_and_folders_are_no_files(tmp_path):
    for name in ("A.CSV", "b.Txt", "c.CSV.GZ"):
        assert read(tmp_path, ROWS, name=name)[1].tolist() == THREE
    np.save(tmp_path / "d.npy", THREE)
    (tmp_path / "d.npy").rename(tmp_path / "D.NPY")
    assert tables.read(tmp_path / "D.NPY").values.tolist() == THREE
    pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / "E.PARQUET")
    assert tables.read(tmp_path / "E.PARQUET").values.tolist() == [[1], [2]]
    for name in ("f.csv", "f.npy", "f.npz"):
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match=name):
            tables.read(tmp_path / name)
    for name in ("g", "g.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=f"{name}.*Parquet"):
            tables.read(tmp_path / name)
        pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / name / "part.parquet")
        assert tables.read(tmp_path / name).values.tolist() == [[1], [2]]


# What any writer writes comes back


def written(rng):
    """A table, and the bytes of a file of it in a form drawn at random. -> content, names or None, values."""
    separator = rng.choice(",;\t| ")
    n_rows, n_columns = rng.randint(3, 30), rng.randint(2, 8)
    decimal = "," if separator != "," and rng.random() < 0.5 else "."
    digits = rng.randint(3, 12)
    cells = [[f"{rng.gauss(0, 10):.{digits}f}" for _ in range(n_columns)] for _ in range(n_rows)]
    values = np.array(cells, float)
    if n_columns > 2 and rng.random() < 0.3:
        for row in range(n_rows):
            values[row, 1] = rng.randint(0, 1)
            cells[row][1] = rng.choice(["True", "TRUE"] if values[row, 1] else ["False", "FALSE"])
    if rng.random() < 0.3:
        for _ in range(3):
            row, column = rng.randrange(n_rows), rng.randrange(n_columns)
            values[row, column] = NAN
            cells[row][column] = rng.choice(["NA", "nan", "null", "?", "None"] + ([""] if separator != " " else []))
    cells = [[cell.replace(".", decimal) for cell in row] for row in cells]
    header = rng.choice(["none", "text", "text", "strange", "range", "years"])
    names = {
        "none": None,
        "text": [f"c{i}" for i in range(n_columns)],
        "strange": ["".join(rng.choices(string.ascii_letters + "ößé€$%()", k=5)) for _ in range(n_columns)],
        "range": [str(i) for i in range(n_columns)],
        "years": [str(2000 + i) for i in range(n_columns)],
    }[header]
    quoted = rng.random() < 0.3
    lines = [list(row) for row in cells]
    if names is not None:
        index = rng.choice(["none", "none", "unnamed", "short"])
        if index != "none":
            of_rows = [f"r{i}" for i in range(n_rows)] if rng.random() < 0.5 else [str(i) for i in range(n_rows)]
            lines = [[name, *row] for name, row in zip(of_rows, lines, strict=True)]
        above = ['""' if separator == " " else "", *names] if index == "unnamed" else names
        lines.insert(0, [f'"{name}"' if quoted and name not in ("", '""') else name for name in above])
    end = rng.choice(["\n", "\r\n", "\r"])
    content = end.join(separator.join(line) for line in lines) + rng.choice(["", end, 3 * end])
    raw = content.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    return rng.choice([bytes, bytes, gzip.compress])(raw), names, values


@given(rng=strategies.randoms(use_true_random=False))
@settings(max_examples=100)
def test_what_any_writer_writes_comes_back(tmp_path, rng):
    content, names, values = written(rng)
    found = read(tmp_path, content)
    assert found[0] == (None if names is None else tuple(names))
    assert np.array_equal(found[1], values, equal_nan=True)


PIECES = [
    *("1 0 -2.5 3e5 1,5 2.25 1_0 NA nan ? TRUE inf x größe 2019 1.234,5 0x1 1e999 None - ' -inf ۱ # #a sep=;".split()),
    *(
        ",",
        ";",
        "\t",
        "|",
        " ",
        "",
        '"',
        '"q"',
        '"a\nb"',
        "\0",
        "\ufeff",
        "\N{MINUS SIGN}3",
        "a,b",
        "\x85",
        "\u2028",
        "1" * 400,
    ),
]


def anything(rng, whole):
    """A name and bytes: pieces of tables in any order, damaged files of every kind, noise."""
    name = rng.choice(["x.csv"] * 6 + ["x.TSV", "x.txt", "x.csv.gz", "x.npy", "x.npz", "x.parquet"])
    kind = rng.random()
    if name in whole and kind < 0.8:
        raw = bytearray(whole[name])
        for _ in range(rng.randint(0, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return name, bytes(raw[: rng.choice([len(raw), rng.randint(0, len(raw))])])
    if kind < 0.1:
        return name, rng.randbytes(rng.randint(0, 300))
    if kind < 0.3:
        raw = bytearray(written(rng)[0])
        for _ in range(rng.randint(0, 3)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return name, bytes(raw[: rng.choice([len(raw), rng.randint(0, len(raw))])])
    separator, end = rng.choice(",;\t| "), rng.choice(["\n", "\r\n", "\r"])
    lines = [separator.join(rng.choices(PIECES, k=rng.randint(0, 4))) for _ in range(rng.randint(0, 6))]
    return name, end.join(lines).encode(rng.choice(["utf-8", "utf-16", "cp1252"]), "replace")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Small sound files, to be damaged."""
    folder = tmp_path_factory.mktemp("whole")
    np.save(folder / "x.npy", np.ones((5, 2)))
    np.savez_compressed(folder / "x.npz", x=np.ones((5, 2)))
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [1, None], "c": ["x", "y"]}), folder / "x.parquet")
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


@given(rng=strategies.randoms(use_true_random=False))
@settings(max_examples=250)
def test_whatever_the_file_there_is_an_answer_or_one_error_that_names_it(tmp_path, rng, whole):
    name, content = anything(rng, whole)
    check_answer_or_error(tmp_path, rng, name, content)


@given(
    name=strategies.sampled_from(["x.csv", "x.tsv", "x.csv.gz", "x.npy", "x.npz", "x.parquet"]),
    content=strategies.one_of(
        strategies.binary(max_size=60),
        strategies.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
        strategies.text('0123456789.,;- \t\n"eNA+', max_size=60).map(str.encode),
    ),
    rng=strategies.randoms(use_true_random=False),
)
@settings(max_examples=250)
def test_whatever_is_in_a_file_there_is_an_answer_or_one_error_that_names_it(tmp_path, rng, name, content):
    check_answer_or_error(tmp_path, rng, name, content)


def check_answer_or_error(folder, rng, name, content):
    """Finite numbers, one name a column; or an error with the file's name. So by the command line and by `Blocks`."""
    (folder / name).write_bytes(content)
    said = Reading(
        rng.choice([None, None, True, False]),
        rng.choice([None, None, ";", " "]),
        rng.choice([None, None, ","]),
        rng.choice([None, None, "utf-8", "utf-16", "ascii"]),
    )
    try:
        found = tables.read(folder / name, rng.choice([None, None, [0], ["c1", "c0"], ["1", 0]]), said)
    except (ValueError, OSError) as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert np.isfinite(found.values).all()
        assert found.values.shape[1] == len(found.names) > 0
    try:
        rows, weights = Blocks.from_file(folder / name).in_memory()
    except (ValueError, OSError) as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert rows.ndim == 2
        assert weights is None


def test_sound_files_are_among_those_that_are_tried(tmp_path, whole):
    """Else the laws above would hold of a reader that refuses everything."""
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
        assert tables.read(tmp_path / name, [0]).values.shape[1] == 1


# In blocks


def test_text_is_read_in_blocks_as_often_as_asked(tmp_path, monkeypatch, rng):
    values = rng.normal(size=(500, 3))
    frame = pd.DataFrame(values, columns=["a", "b", "c"]).assign(w=2.0, kind="t")
    frame.to_csv(tmp_path / "x.csv.gz", sep=";", decimal=",")
    monkeypatch.setattr(text, "AT_ONCE", 64)
    blocks = Blocks.from_file(tmp_path / "x.csv.gz", ["c", "a"], weights="w")
    assert blocks.notes == ("separated by semicolons", "decimal commas", "an index without a name left out")
    for _ in range(2):
        pieces = [piece for piece in blocks.pieces(128, np.float64) if piece is not None]
        assert np.array_equal(np.concatenate([p.rows[: p.count] for p in pieces]), values[:, [2, 0]])
        assert all((p.weights[: p.count] == 2.0).all() for p in pieces)


@pytest.mark.parametrize(
    "columns", [np.arange(2), np.flatnonzero([True, True, False]), ["a", np.int64(1)], ("0", "ab")]
)
def test_columns_are_chosen_by_positions_of_any_kind(tmp_path, columns):
    (tmp_path / "x.csv").write_text("a,ab,b\n1,2,3\n4,5,6\n")
    assert Blocks.from_file(tmp_path / "x.csv", columns).in_memory()[0].tolist() == [[1, 2], [4, 5]]


def test_a_single_column_is_one_name_and_not_its_letters(tmp_path):
    (tmp_path / "x.csv").write_text("a,ab,b\n1,2,3\n4,5,6\n")
    pd.DataFrame({"a": [1.0, 4.0], "ab": [2.0, 5.0], "b": [3.0, 6.0]}).to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        assert Blocks.from_file(tmp_path / name, "ab").in_memory()[0].tolist() == [[2], [5]]
    for wrong in (True, 0.5, None):
        with pytest.raises(TypeError, match="columns must be names or positions from 0, got"):
            Blocks.from_file(tmp_path / "x.csv", [wrong])


def test_a_fit_reads_the_path_of_a_table_of_text(tmp_path, rng):
    x = rng.normal(size=(60, 2)) + 6.0 * rng.integers(0, 2, (60, 1))
    pd.DataFrame(x, columns=["a", "b"]).to_csv(tmp_path / "x.CSV", index=False)
    np.save(tmp_path / "x.npy", x)
    one, other = (
        jaxgmm.fit(jax.random.key(0), tmp_path / name, 2, family="diag", n_restarts=1, dtype="float64")
        for name in ("x.CSV", "x.npy")
    )
    assert np.array_equal(one.mixture.means, other.mixture.means)
    assert float(one.objective) == float(other.objective)


def test_a_missing_cell_and_a_table_that_changes_end_a_fit_with_the_path(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n3,NA\n")
    with pytest.raises(ValueError, match=r"x\.csv.*nan.*row 1, column 1"):
        jaxgmm.fit(jax.random.key(0), path, 1)
    blocks = Blocks.from_file(path, ["a"])
    path.write_text("b,a\n1,2\n3,4\n5,6\n")
    with pytest.raises(ValueError, match=r"x\.csv has changed"):
        list(blocks.pieces(8, np.float64))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.csv"):
        list(blocks.pieces(8, np.float64))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(gzip.compress(("a,b,c\n" + ROWS).encode()),), daemon=True).start()
    source = source_of(pipe)
    assert np.concatenate(list(source.blocks([2, 0]))).tolist() == [[row[2], row[0]] for row in THREE]
    with pytest.raises(ValueError, match="is a pipe, which can be read only once"):
        list(source.blocks([0]))


# Columns of a saved model

TABLE = "b,t,a\n1.5,x,2.5\n3.5,y,4.5\n"
BARE = "1.5,2.5,3.5\n4.5,5.5,6.5\n"


@pytest.mark.parametrize(
    ("known", "content", "asked", "by_position", "places", "note"),
    [
        (("a", "b"), TABLE, None, False, [2, 0], None),
        (("a", "b"), TABLE, ["b", "a"], False, [2, 0], None),
        (("a", "b"), TABLE, ["b", "a"], True, [0, 2], "by position, as asked: columns 'b', 'a' for 'a', 'b'"),
        (("u", "v"), TABLE, ["0", "2"], True, [0, 2], "columns 'b', 'a' for 'u', 'v'"),
        (
            ("a", "b", "c"),
            BARE,
            None,
            False,
            [0, 1, 2],
            "it has no names of columns, so by position: columns 0, 1, 2 for 'a'",
        ),
        (("a", "b"), BARE, ["2", "1"], False, [2, 1], "by position: columns 2, 1 for 'a', 'b'"),
        (None, BARE, None, False, [0, 1, 2], "neither it nor the model has names"),
        ((2, 0), BARE, None, False, [2, 0], "by position: columns 2, 0"),
        (None, TABLE, ["b", "a"], False, [0, 2], "the model knows no names of columns"),
        (("a", "a"), "a,a\n1.5,2.5\n", None, False, [0, 1], None),
    ],
)
def test_columns_are_found_by_name_and_by_position_where_there_are_none(
    tmp_path, known, content, asked, by_position, places, note
):
    (tmp_path / "x.csv").write_text(content)
    found = match(known, len(known or places), source_of(tmp_path / "x.csv"), asked, by_position)
    assert found.places == places
    assert (found.note is None) if note is None else (note in (found.note or ""))


@pytest.mark.parametrize(
    ("known", "content", "asked", "message"),
    [
        (("a", "c"), TABLE, None, "'c' is missing, and 'b', 't' not the model's.*--columns, and add --by-position"),
        (("u", "v"), TABLE, None, "'u', 'v' are missing"),
        (("a", "b"), TABLE, ["a"], "'b' is missing among those chosen"),
        (("a", "b"), "a,a,b\n1.5,2,3\n", None, "column 'a' is twice there"),
        (("a", "b"), BARE, None, "gives 3 columns, the model has 2 features"),
        ((4, 0), BARE, None, "has 3 columns, and the model was fitted to columns 4, 0"),
    ],
)
def test_another_table_is_refused_with_the_difference(tmp_path, known, content, asked, message):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        match(known, 2, source_of(tmp_path / "x.csv"), asked, False)
    assert "x.csv" in str(caught.value)


def a_mixture():
    return Mixture.create([0.5, 0.5], [[0.0, 0.0], [6.0, -6.0]], np.ones(2), family="spherical", dtype="float64")


@pytest.mark.parametrize("columns", [None, ("a", "größe, $$"), (2, 0), np.array(["a", "b"]), pd.Index(["a", "b"])])
def test_a_saved_model_knows_its_columns(tmp_path, columns):
    save(tmp_path / "m", a_mixture(), columns)
    assert columns_of(tmp_path / "m") == (None if columns is None else tuple(columns))
    assert np.array_equal(load(tmp_path / "m").means, a_mixture().means)


def test_a_model_that_was_saved_without_columns_is_loaded(tmp_path):
    """As all were before a file could have them: the same format, without the entry."""
    save(tmp_path / "m", a_mixture())
    content = (tmp_path / "m").read_bytes()
    with np.load(io.BytesIO(content[52:])) as archive:
        assert set(json.loads(str(archive["about"]))) == {"jaxgmm", "family", "settings"}
    assert content.startswith(b"jaxgmm-mixture 0001\n")


@pytest.mark.parametrize(("columns", "error"), [(["a"], ValueError), ("ab", TypeError), ([0.5, 1.5], TypeError)])
def test_columns_that_do_not_fit_are_refused(tmp_path, columns, error):
    with pytest.raises(error, match="columns must be"):
        save(tmp_path / "m", a_mixture(), columns)
    assert not os.listdir(tmp_path)


# The command line


@pytest.fixture
def run(capsys):
    """Run a command; -> what it printed, status first."""

    def running(*argv):
        status = main([str(a) for a in argv])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    return running


FIT = ["--components", "2", "--families", "diag", "--restarts", "2"]


def test_a_model_is_applied_to_its_columns_wherever_they_stand(tmp_path, rng, run, monkeypatch):
    x = rng.normal(size=(40, 2))
    x[20:] += [6.0, -9.0]
    frame = pd.DataFrame(x, columns=["a", "b"])
    frame.to_csv(tmp_path / "ab.csv", index=False)
    model, labels = tmp_path / "out" / "model.jaxgmm", tmp_path / "out" / "labels.csv"
    for columns in ([], ["--columns", "b,a"]):
        assert run("fit", tmp_path / "ab.csv", *FIT, *columns, "--no-plots", "--out", tmp_path / "out")[0] == 0
        for others in (["b", "a"], ["a", "b"]):
            frame.assign(kind="t")[[*others, "kind"]].to_csv(tmp_path / "other.csv", sep="\t")
            status, out, err = run("predict", model, tmp_path / "other.csv")
            assert (status, out) == (0, labels.read_text())
            assert "note: " in err
            assert "separated by tabs; an index without a name left out" in err
    assert columns_of(model) == ("b", "a")
    np.savetxt(tmp_path / "bare.csv", x[:, ::-1], delimiter=",")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "bare.csv").read_bytes())))
    status, out, err = run("predict", model, "-")
    assert (status, out) == (0, labels.read_text())
    assert "standard input: no header; it has no names of columns, so by position: columns 0, 1 for 'b', 'a'" in err
    status, out, err = run("predict", model, tmp_path / "bare.csv", "--no-header", "--quiet")
    assert (status, out, err) == (0, labels.read_text(), "")
    (tmp_path / "sample.csv").write_text(run("sample", model, "-n", "5")[1])
    assert run("predict", model, tmp_path / "sample.csv")[::2] == (0, "")
    frame.set_axis(["u", "b"], axis=1).to_csv(tmp_path / "other.csv", index=False)
    status, out, err = run("predict", model, tmp_path / "other.csv")
    assert (status, out) == (2, "")
    assert "other.csv has not the columns of this model: 'a' is missing, and 'u' not the model's" in err
    assert run("predict", model, tmp_path / "other.csv", "--columns", "b,u", "--by-position")[1] == labels.read_text()


def test_a_model_of_a_table_without_names_knows_the_positions_that_were_chosen(tmp_path, rng, run):
    np.save(tmp_path / "x.npy", rng.normal(size=(30, 2)))
    for columns, known in (([], None), (["--columns", "1,0"], (1, 0))):
        assert run("fit", tmp_path / "x.npy", *FIT, *columns, "--no-plots", "--out", tmp_path)[0] == 0
        assert columns_of(tmp_path / "model.jaxgmm") == known
        assert run("predict", tmp_path / "model.jaxgmm", tmp_path / "x.npy")[1] == (tmp_path / "labels.csv").read_text()


NAMES = ["$$ spent", "größe\nüber alles", "\\frac{", "", "\ud800 \x07", "日本", "_" * 400, "a_b^c"]


def test_any_name_of_a_column_can_be_drawn(tmp_path, rng):
    found = jaxgmm.sweep(jax.random.key(0), rng.normal(size=(30, 2)), 1, "diag", 1)
    labels = np.zeros(30, int)
    for first, second in zip(NAMES[::2], NAMES[1::2], strict=True):
        x = rng.normal(size=(30, 2))
        assert len(pictures.pictures(tmp_path, found, x, labels, (first, second))) == 3
        assert (tmp_path / "clusters.png").read_bytes().startswith(b"\x89PNG")
    assert pictures.drawable("größe\nüber") == "größe über"
    assert len(pictures.drawable("_" * 400)) == pictures.LONGEST


def test_what_was_told_from_a_table_is_said(tmp_path, run):
    content = "größe;höhe\n" + "".join(f"{i % 7},{i % 5}5;{i % 3 * 4},25\n" for i in range(30))
    (tmp_path / "x.csv").write_bytes(content.encode("latin-1"))
    status, out, err = run("fit", tmp_path / "x.csv", *FIT, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    assert "x.csv: 30 rows of 2 columns: größe, höhe (separated by semicolons; decimal commas; read as cp1252" in out
    assert columns_of(tmp_path / "out" / "model.jaxgmm") == ("größe", "höhe")
    assert len(list((tmp_path / "out").glob("*.png"))) == 3

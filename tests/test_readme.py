"""The README's Python runs as pasted, from the first block to the last, and prints what it says it prints."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np

from jaxgmm import cli

README = Path(__file__).parent.parent / "README.md"
PYTHON = re.compile(r"^```python\n(.*?)^```$(?:\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(README.read_text(encoding="utf-8")) if name == language]


def test_the_python_blocks_run_and_print_what_stands_below_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # one of them saves a model
    namespace = {"__name__": "readme"}
    python = PYTHON.findall(README.read_text(encoding="utf-8"))
    assert sum(bool(shown) for _, shown in python) == len(blocks("text")) >= 2
    for number, (block, shown) in enumerate(python):
        exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)
        printed = capsys.readouterr().out
        if shown:
            assert printed == shown


def test_every_file_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_command_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-2.0, 0.5, (60, 2)), rng.normal(2.0, 0.5, (60, 2))])
    np.savetxt("data.csv", rows, delimiter=",", header="a,b", comments="")
    lines = [line for block in blocks("console") for line in block.splitlines() if line.startswith("jaxgmm ")]
    assert [line.split()[1] for line in lines] == ["fit", "predict", "sample"]
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        try:
            status = cli.main()
        except SystemExit as end:
            status = end.code
        assert not status, (line, capsys.readouterr().err)
    assert Path("fitted/model.jaxgmm").is_file()

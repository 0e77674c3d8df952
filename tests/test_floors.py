"""The house: a file imports only from lower floors, only the door raises, and every product states its precision."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jaxgmm
from jaxgmm.families import SHELF

HOUSE = Path(jaxgmm.__file__).parent

FLOORS = [
    {"_linalg", "status", "_precision", "_version", "_files", "programs", "_threefry"},
    {"_check", "moments", "covariances", "cache"},
    {"families", "batches", "blocks", "checkpoint"},
    {"mixture", "fused", "crews"},
    {"expectation", "maximisation", "criteria"},
    {"acceleration"},
    {"em"},
    {"seeding", "lanes"},
    {"spread", "small", "one_by_one"},
    {"stream", "sharded", "runs"},
    {"workers", "escape", "progress"},
    {"fit", "online"},
    {"groups", "many", "io", "_arrays", "_sklearn", "_check_estimator"},
    {"selection", "bootstrap"},
    {"estimator", "plot", "tables"},
    {"cli", "__init__", "__main__", "launch"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

UPWARDS = {("selection", "plot")}
"""`Sweep.plot()` is promised, and draws: it imports the drawing where it is called."""

PRODUCTS = {"dot", "matmul", "einsum", "tensordot", "inner", "vdot", "dot_general", "vecdot"}

FILES = sorted(HOUSE.rglob("*.py"))

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))


def room(path):
    """The module, or the package folder, that a file belongs to."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path):
    """The rooms of the house that a file imports from, wherever in it the import stands."""
    package = ["jaxgmm", *path.relative_to(HOUSE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        for name in names:
            if name[0] == "jaxgmm" and len(name) > 1:
                yield name[1] if name[1] in FLOOR else "__init__"


@every_file
def test_a_file_imports_only_from_lower_floors(path):
    """Files of one package folder may import each other; every file has a floor."""
    own = room(path)
    assert own in FLOOR, f"{own} has no floor yet: give it one in FLOORS"
    wrong = [name for name in imported(path) if name != own and FLOOR[name] >= FLOOR[own]]
    wrong = [name for name in wrong if (own, name) not in UPWARDS]
    # The command line prints the package's version and uses its shelf.
    if own in ("cli", "__main__"):
        wrong = [name for name in wrong if name not in ("__init__", "cli")]
    if own == "__init__":
        wrong = []
    assert not wrong, f"{own} (floor {FLOOR[own]}) imports {wrong}"


@every_file
def test_only_the_door_raises_on_values(path):
    """On floors 0 to 7 ValueError and TypeError come from `_check` alone; `em._admit` may say that families differ."""
    doors = ("_check", "blocks", "checkpoint")  # the latter two are those of files and of what else is read
    if room(path) not in FLOOR or FLOOR[room(path)] > FLOOR["seeding"] or room(path) in doors:
        pytest.skip("may raise")
    tree = ast.parse(path.read_text())
    allowed = {
        inner
        for node in ast.walk(tree)
        if room(path) == "em" and isinstance(node, ast.FunctionDef) and node.name == "_admit"
        for inner in ast.walk(node)
    }
    raised = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node not in allowed and node.exc is not None
    ]
    assert not [text for text in raised if "ValueError" in text or "TypeError" in text]


@every_file
def test_no_family_is_named_by_a_string(path):
    """Below the top floors: families/ itself, default arguments and docstrings apart."""
    if room(path) not in FLOOR or FLOOR[room(path)] >= FLOOR["estimator"] or room(path) in ("families", "_sklearn"):
        pytest.skip("may name families")
    tree = ast.parse(path.read_text())
    excused = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for default in filter(None, [*node.args.defaults, *node.args.kw_defaults]):
                excused.update(ast.walk(default))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            excused.add(node.body[0].value)
    named = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in SHELF and node not in excused
    ]
    # Shapes have names of their own in an error's text; they are not looked at as families.
    if room(path) == "_check":
        named = [entry for entry in named if entry[1] not in _names_of_shapes(tree)]
    assert not named


def _names_of_shapes(tree):
    """The strings of the table `allowed` in `mixture_shapes`."""
    return {
        value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "mixture_shapes"
        for inner in ast.walk(node)
        if isinstance(inner, ast.Dict)
        for value in inner.values
        if isinstance(value, ast.Constant)
    }


@every_file
def test_every_product_states_its_precision(path):
    """Outside `_linalg` nobody multiplies matrices but through its `einsum`, or says at which precision."""
    if room(path) == "_linalg":
        pytest.skip("here it is stated")
    tree = ast.parse(path.read_text())
    silent = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            silent.append(node.lineno)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PRODUCTS:
            on_host = isinstance(node.func.value, ast.Name) and node.func.value.id == "np"
            if not on_host and "precision" not in {keyword.arg for keyword in node.keywords}:
                silent.append(node.lineno)
    assert not silent, f"products without precision in lines {silent}"


def test_the_walls_stand():
    """The reader of imports sees what is there: em imports expectation, families their covariances."""
    assert {"expectation", "mixture", "batches", "_check"} <= set(imported(HOUSE / "em.py"))
    assert {"covariances", "moments", "families"} <= set(imported(HOUSE / "families" / "full.py"))

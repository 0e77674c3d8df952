"""The house: a file imports only from lower floors, only the door raises, and every product states its precision."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import jaxgmm
from jaxgmm.families import SHELF

HOUSE = Path(jaxgmm.__file__).parent

FLOORS = [
    {"_base", "_version"},
    {"rows"},
    {"moments", "covariances", "families", "priors", "density", "evaluation", "mixture"},
    {"em", "online"},
    {"search"},
    {"estimator", "cli", "plot", "io", "launch", "__init__", "__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
SEARCH, FACES = FLOOR["search"], FLOOR["estimator"]

UPWARDS = {("search.table", "plot")}
"""`Sweep.plot()` is promised, and draws: it imports the drawing where it is called."""

MAY_RAISE = {"_base.check", "_base.fork", "_base.processes", "em.loop"}
MAY_RAISE |= {f"rows.{name}" for name in ("_check", "_check_parts", "conversion", "blocks", "door", "files", "names")}
MAY_RAISE |= {f"rows.{name}" for name in ("npy", "parquet", "partitions", "several", "sources")}
MAY_RAISE |= {f"rows.readers.{name}" for name in ("source", "form", "opening", "text", "parquet", "arrays", "shelf")}
"""Below `search`: checks of what a user gave, and what is read only when its turn comes. `em.loop._admit`
may say that families differ; `_base.fork` that nothing can be computed here; `_base.processes` that processes were
given different arguments."""

LONGEST = 300
LONG = {"estimator/gaussian_mixture.py": "scikit-learn's interface is one class, of short methods"}
"""Files of more than `LONGEST` lines, and why they are not cut."""

PRODUCTS = {"dot", "matmul", "einsum", "tensordot", "inner", "vdot", "dot_general", "vecdot"}

FILES = sorted(HOUSE.rglob("*.py"))


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))


def module(path):
    """The dotted name within the package; of a folder's shelf, the folder's."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1])


MODULES = {module(path): path for path in FILES}


def room(name):
    """The file or folder of the house that a module stands in."""
    return name.split(".")[0]


def imported(name):
    """The modules of the house that a module imports from, wherever in it the import stands."""
    path = MODULES[name]
    package = list(path.relative_to(HOUSE).parts[:-1])
    for node in ast.walk(tree_of(path)):
        targets = []
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "jaxgmm"):
            base = package[: len(package) - node.level + 1] if node.level else []
            within = (node.module or "").split(".")[0 if node.level else 1 :]
            targets = [[*base, *filter(None, within), alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == "jaxgmm"]
        for target in targets:
            found = ".".join(target) if ".".join(target) in MODULES else ".".join(target[:-1])
            yield found or "__init__"


def test_there_are_six_floors_and_one_exception():
    """And the lists in this file name nothing that is no longer there."""
    assert len(FLOORS) == 6
    assert {room(name) for name in MODULES} == set(FLOOR)
    assert len(UPWARDS) <= 1
    for lower, upper in UPWARDS:
        assert upper in set(imported(lower)), f"{lower} does not import {upper} any more: take the pair out of UPWARDS"
        assert FLOOR[room(lower)] < FLOOR[room(upper)]
    assert set(MODULES) >= MAY_RAISE | MAY_ASK
    assert all(LONG.values())


@every_file
def test_a_file_imports_only_from_its_own_floor_and_below(path):
    own = module(path)
    assert room(own) in FLOOR, f"{own} has no floor yet: give its folder one in FLOORS"
    floor = FLOOR[room(own)]
    wrong = [name for name in imported(own) if FLOOR[room(name)] > floor and (own, name) not in UPWARDS]
    assert not wrong, f"{own} (floor {floor}) imports {wrong}"


def test_no_circles():
    """No module comes to import itself."""
    below = {name: set(imported(name)) - {name} for name in MODULES}
    below = {name: {other for other in others if (name, other) not in UPWARDS} for name, others in below.items()}
    while True:
        ground = {name for name, others in below.items() if not others}
        if not ground:
            break
        below = {name: others - ground for name, others in below.items() if name not in ground}
    assert not below, f"in circles or above them: {below}"


def test_no_folder_looks_into_what_is_private_to_another():
    """Modules and names that begin with an underscore are for their own folder; `_base` and the checks of rows are for
    all."""
    wrong, for_all = [], ("_base", "_version", "_check", "_check_parts")
    for name, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            is_elsewhere = node.level > 1 or "." in (node.module or "")
            for part in [*(node.module or "").split("."), *(alias.name for alias in node.names)]:
                is_private = part.startswith("_") and not part.startswith("__")
                if is_private and part not in for_all and is_elsewhere:
                    wrong.append((name, part))
    assert not wrong


def test_files_are_short():
    lengths = {str(path.relative_to(HOUSE)): path.read_text().count("\n") for path in FILES}
    assert {name for name, length in lengths.items() if length > LONGEST} == set(LONG)


@every_file
def test_only_the_door_raises_on_values(path):
    own = module(path)
    if FLOOR[room(own)] >= SEARCH or own in MAY_RAISE - {"em.loop"}:
        pytest.skip("may raise")
    tree = tree_of(path)
    allowed = {
        inner
        for node in ast.walk(tree)
        if own == "em.loop" and isinstance(node, ast.FunctionDef) and node.name == "_admit"
        for inner in ast.walk(node)
    }
    raised = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node not in allowed and node.exc is not None
    ]
    assert not [text for text in raised if "ValueError" in text or "TypeError" in text]


HOLDERS = {"Batches", "PartitionedRows", "Replicated", "Streamed", "Sharded", "DaskRows"}

MAY_ASK = {"rows.door", "search.driver", "search.pool"}
"""The door, of what a user gave; the one place that chooses the driver; and that which deals lanes out to devices."""


def asks_where_rows_lie(path):
    """The lines in which a file asks an object whether it is a holder of rows, in whatever way."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1]
        elif isinstance(node, ast.Compare) and "type(" in ast.unparse(node):
            asked = node
        elif isinstance(node, ast.MatchClass):
            asked = node.cls
        else:
            continue
        if HOLDERS & {ast.unparse(inner).split(".")[-1] for inner in ast.walk(asked) if hasattr(inner, "ctx")}:
            yield node.lineno


@every_file
def test_where_rows_lie_is_asked_in_three_places(path):
    asked = list(asks_where_rows_lie(path))
    if module(path) not in MAY_ASK:
        assert not asked, f"a holder of rows is asked for in lines {asked}: a method of `Rows` or of `Driver` says it"
    elif module(path) != "rows.door":
        assert len(asked) == 1


def test_all_holders_of_rows_are_known_here():
    assert len(MAY_ASK) <= 3
    classes = [node for path in FILES for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
    bases = {"Batches", "PartitionedRows"}
    found = bases | {node.name for node in classes if bases & {ast.unparse(base) for base in node.bases}}
    assert found == HOLDERS


@every_file
def test_no_family_is_named_by_a_string(path):
    """Below the faces: families/ itself, default arguments and docstrings apart."""
    own = module(path)
    if FLOOR[room(own)] >= FACES or room(own) == "families":
        pytest.skip("may name families")
    tree = tree_of(path)
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
    if own == "_base.check":
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
    """Outside `_base/linalg.py` nobody multiplies matrices but through its `einsum`, or says at which precision."""
    if module(path) == "_base.linalg":
        pytest.skip("here it is stated")
    tree = tree_of(path)
    silent = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            silent.append(node.lineno)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PRODUCTS:
            on_host = isinstance(node.func.value, ast.Name) and node.func.value.id == "np"
            if not on_host and "precision" not in {keyword.arg for keyword in node.keywords}:
                silent.append(node.lineno)
    assert not silent, f"products without precision in lines {silent}"


def test_the_map_shows_the_house():
    """ARCHITECTURE.md has the floors that are declared here, and names no file or folder that is not there."""
    text = (HOUSE.parent / "ARCHITECTURE.md").read_text()
    for number, cells in re.findall(r"^\| (\d) \| (.+?) \|", text, flags=re.MULTILINE):
        shown = {name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", cells)}
        assert shown == FLOORS[int(number)] - {"_version", "__init__", "__main__"}
    named = re.findall(r"`([\w./]+(?:\.py|/))`", text)
    assert len(named) > 40
    assert not [name for name in named if not (HOUSE / name).exists() and not (HOUSE.parent / name).exists()]


def test_the_walls_stand():
    """The reader of imports sees what is there."""
    assert {"em.expectation", "em.state", "em.verdict", "mixture", "rows.batches"} <= set(imported("em.loop"))
    assert {"covariances", "moments", "families._family"} <= set(imported("families.full"))
    assert "plot" in set(imported("search.table"))

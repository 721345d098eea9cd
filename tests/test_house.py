"""Packages are floors: each imports from lower floors only, and models/ imports nothing but its siblings."""

import ast
import configparser
import functools
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "rd_hf"
FLOORS = [
    ["_version", "models", "scoring", "arguments"],
    ["runtime"],
    ["tasks", "data", "cards", "pages"],
    ["students", "teacher_cache"],
    ["inference"],
    ["exports"],
    ["hub"],
    ["training"],
    ["comparison"],
    ["registration", "cli", "__init__", "__main__"],
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The package that a file belongs to; of the files at the top, their own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def imported(path: Path) -> list[tuple[int, list[str], int]]:
    """Relative imports of a file, also those inside functions: line, dotted target below rd_hf, number of dots."""
    folder = list(path.relative_to(PACKAGE).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            target = base + (node.module.split(".") if node.module else [])
            modules = [[*target, alias.name] for alias in node.names]
            targets = [own if PACKAGE.joinpath(*own).with_suffix(".py").is_file() else target for own in modules]
            found += [(node.lineno, names, node.level) for names in targets]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = room_of(path)
    for line, target, _ in imported(path):
        if target[0] != own and own not in ("__init__", "__main__"):
            assert FLOOR_OF[target[0]] < FLOOR_OF[own], f"{path}:{line} imports {'.'.join(target)}"


def test_every_package_has_a_floor():
    assert {room_of(path) for path in SOURCES} == set(FLOOR_OF)


def test_every_package_is_installed():
    """setup.cfg lists them by name; a checkout that is installed for editing does not miss one."""
    listed = configparser.ConfigParser()
    listed.read(REPOSITORY / "setup.cfg")
    packages = {".".join(path.parent.relative_to(REPOSITORY).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(listed["options"]["packages"].split()) == packages | {"rd_hf.model_cards"}


def test_no_import_of_rd_hf_is_absolute():
    """Absolute ones would escape the two tests here, and break the code that travels to the Hub."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            registering = path.name == "loading.py" and names == ["rd_hf"]  # for what the import itself does
            assert registering or not any(name.split(".")[0] == "rd_hf" for name in names), f"{path}:{node.lineno}"


def test_what_travels_imports_only_flat_siblings():
    """transformers copies what `from .name import X` names, beside the weights; it does not follow packages."""
    files = {path.stem for path in (PACKAGE / "models").glob("*.py")}
    for path in (PACKAGE / "models").glob("*.py"):
        for line, target, level in imported(path):
            assert level == 1 and len(target) == 2 and target[1] in files, f"{path}:{line}"


def test_modules_of_one_package_form_no_circle():
    """Imports at the top of files (those for annotations alone too) are a graph without circles in each package."""
    graph = {}
    for path in SOURCES:
        name = list(path.relative_to(PACKAGE).with_suffix("").parts)
        tops = {".".join(target) for _, target, _ in imported(path)}
        graph[".".join(name)] = {top for top in tops if top != ".".join(name)}
    done, under_way = set(), []

    def visit(name: str) -> None:
        assert name not in under_way, " -> ".join([*under_way[under_way.index(name) :], name])
        if name in done or name not in graph:
            return
        under_way.append(name)
        for other in sorted(graph[name]):
            visit(other)
        under_way.pop()
        done.add(name)

    for name in graph:
        visit(name)

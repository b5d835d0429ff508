"""The import graph: layers, circles, and the number of modules in `rsicrc` (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.source_files import PACKAGES, package_modules, parse

# The units of `rsicrc` (modules and packages directly in it), top layer first. A unit imports only lower layers. A new
# unit must be added here and in docs/architecture.md.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(units.split())
    for units in (
        "__main__",
        "cli",
        "reports",
        "index evaluation scenes serve cluster",
        "loading",
        "engine",
        "decoding",
        "backends datasets",
        "inputs",
        "manifest",
        "preprocessing results text",
        "cpu files progress timings tuning untrusted",
        "errors",
    )
)
MOST_MODULES = 12
MOST_PACKAGES = 14
FORBIDDEN = {
    "rsicrc": {"rsicrc_train", "rsicrc_export", "torch", "torchvision", "open_clip", "lightning_fabric"},
    "rsicrc_train": {"rsicrc_export"},
    "rsicrc_export": set[str](),
}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_lower_packages(package: str) -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module in package_modules()
        if _package(module) == package
        for name, line in _imported_names(module)
        if _package(name) in FORBIDDEN[package] and module != "rsicrc.backends.torch"  # a backend of an extra
    ]
    assert not wrong, "\n".join(wrong)


def test_runtime_units_have_a_layer() -> None:
    assert {unit for name in package_modules() if (unit := _unit(name))} <= frozenset().union(*LAYERS)


def test_runtime_imports_run_downward() -> None:
    layer = {unit: number for number, units in enumerate(LAYERS) for unit in units}
    upward = [
        f"{module} imports {name}"
        for module, imported in _graph().items()
        for name in sorted(imported)
        if (here := _unit(module)) and (there := _unit(name)) and here != there and layer[there] <= layer[here]
    ]
    assert not upward, "\n".join(upward)


def test_only_commands_import_the_command_line() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, imported in _graph().items()
        for name in sorted(imported)
        if _unit(name) == "cli" and module.split(".")[1:2] not in (["cli"], ["__main__"])
    ]
    assert not wrong, "\n".join(wrong)


def test_library_modules_do_not_import_the_public_names() -> None:
    # `from rsicrc import …` reaches every module through the list of public names, so it would hide upward imports.
    wrong = [
        f"{module}:{line} imports {name}"
        for module in package_modules()
        if _unit(module) not in {None, "cli", "__main__"}
        for name, line in _imported_names(module)
        if _module(name) == "rsicrc"
    ]
    assert not wrong, "\n".join(wrong)


def test_import_graph_has_no_circle() -> None:
    circle = _circle(_graph())
    assert circle is None, " → ".join(circle or [])


def test_circle_is_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_rsicrc_has_few_modules() -> None:
    root = PACKAGES["rsicrc"]
    modules = sorted(path.stem for path in root.glob("*.py") if path.stem != "__init__")
    packages = sorted(path.parent.name for path in root.glob("*/__init__.py"))
    assert len(modules) <= MOST_MODULES, modules
    assert len(packages) <= MOST_PACKAGES, packages


@cache
def _graph() -> dict[str, set[str]]:
    """Return module → the modules of the three packages that it imports, in functions and for type checkers too."""
    graph: dict[str, set[str]] = {}
    for module in package_modules():
        imported = {_module(name) for name, _ in _imported_names(module)}
        graph[module] = {name for name in imported if name is not None and name != module}
    return graph


def _imported_names(module: str) -> Iterator[tuple[str, int]]:
    """Yield the dotted names that a module imports anywhere in its text, with their lines."""
    path = package_modules()[module]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, path)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """Return the absolute name of the module that `from … import` names."""
    if node.level == 0:
        return node.module or ""
    parts = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _module(name: str) -> str | None:
    """Return the module that a dotted name belongs to; None outside the three packages."""
    modules = package_modules()
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def _package(name: str) -> str:
    return name.partition(".")[0]


def _unit(module: str) -> str | None:
    """Return the module or package directly in `rsicrc` that a module belongs to; None for others."""
    parts = module.split(".")
    return parts[1] if parts[0] == "rsicrc" and len(parts) > 1 else None


def _circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return one circle of a directed graph, its first node repeated at the end; None if there is none."""
    finished: set[str] = set()
    trail: list[str] = []

    def visit(node: str) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in finished:
            return None
        trail.append(node)
        for following in sorted(graph.get(node, ())):
            if found := visit(following):
                return found
        finished.add(trail.pop())
        return None

    for node in sorted(graph):
        if found := visit(node):
            return found
    return None

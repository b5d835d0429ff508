"""The Python files of the repository, for tests that read source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("runtime", "train", "export", "benchmarks", "studies", "tests")
PACKAGES = {
    "rsicrc": ROOT / "runtime" / "rsicrc",
    "rsicrc_train": ROOT / "train" / "rsicrc_train",
    "rsicrc_export": ROOT / "export" / "rsicrc_export",
}


def python_files(*folders: str) -> Iterator[Path]:
    """Yield the Python files below folders of the repository, sorted."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


@cache
def package_modules() -> dict[str, Path]:
    """Return the modules of the three packages: dotted name → file; a package is named without `__init__`."""
    modules = {}
    for name, folder in PACKAGES.items():
        for path in python_files(str(folder.relative_to(ROOT))):
            parts = path.relative_to(folder).with_suffix("").parts
            modules[".".join((name, *parts)).removesuffix(".__init__")] = path
    return modules


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))

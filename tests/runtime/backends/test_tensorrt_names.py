"""Names of TensorRT that the code uses exist in both libraries.

`tensorrt` cannot be imported without the vendor's libraries, but its bindings can, over stand-in libraries: the classes
and methods then have their names but do not work. `tensorrt_rtx` is imported as it is.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

import rsicrc.backends.tensorrt

SOURCES = Path(rsicrc.backends.tensorrt.__file__).parent
MODULES = ("trt", "module")  # variables and attributes that hold the library's module
# Classes of the library by variable or attribute, in the files that use its objects.
HOLDERS = {
    "building.py": {
        "builder": "Builder",
        "config": "IBuilderConfig",
        "parser": "OnnxParser",
        "error": "ParserError",
        "profile": "IOptimizationProfile",
        "cache": "ITimingCache",
    },
    "library.py": {"severities": "ILogger.Severity"},
    "backend.py": {
        "_runtime": "Runtime",
        "engine": "ICudaEngine",
        "_context": "IExecutionContext",
        "config": "IRuntimeConfig",
    },
}
# Attributes that only tensorrt_rtx has; the code checks for them before it uses them.
ONLY_RTX = {
    "ComputeCapability",
    "ComputeCapability.__members__",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
}
STAND_INS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIST_NAMES = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
names = []
def add(holder, prefix):
    for name in dir(holder):
        names.append(prefix + name)
        if isinstance(getattr(holder, name), type) and name != "__class__" and prefix.count(".") < 2:
            add(getattr(holder, name), f"{prefix}{name}.")
add(module, "")
print(json.dumps(names))
"""


@dataclass(frozen=True)
class Access:
    """An access to an attribute in a source file: `holder.attribute`, where the holder is a variable or attribute."""

    file: str
    holder: str
    attribute: str


def accesses() -> Iterator[tuple[Access, ast.expr]]:
    """Yield all accesses to attributes in the sources, with the expression of the holder."""
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                yield Access(path.name, _last_name(node.value), node.attr), node.value


def used_names() -> set[str]:
    """Return the names of the module that the sources use, and methods and attributes as "Class.name"."""
    found = set()
    for access, value in accesses():
        holders = HOLDERS.get(access.file, {})
        if _is_module(value):
            found.add(access.attribute)
        elif isinstance(value, ast.Attribute) and _is_module(value.value):
            found.add(f"{value.attr}.{access.attribute}")
        elif access.holder in holders:
            found.add(f"{holders[access.holder]}.{access.attribute}")
    return found - {"__version__"}


def names_of(module: str, **environment: str) -> set[str]:
    """Return the names of a module, and methods and attributes of its classes as "Class.name"."""
    done = subprocess.run(
        [sys.executable, "-c", LIST_NAMES, module],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def rtx_names() -> set[str]:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs rsicrc[tensorrt-rtx]")
    return names_of("tensorrt_rtx")


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_module(node: ast.expr) -> bool:
    return _last_name(node) in MODULES


def test_every_holder_is_a_variable_of_its_file() -> None:
    """A renamed variable must be renamed in HOLDERS too, or its attributes would no longer be checked."""
    found = {(access.file, access.holder) for access, _ in accesses()}
    assert {(file, holder) for file, holders in HOLDERS.items() for holder in holders} - found == set()
    assert {each.name for each in SOURCES.glob("*.py")} >= set(HOLDERS)


def test_every_object_of_the_library_is_in_a_holder(rtx_names: set[str]) -> None:
    """A new variable with an object of the library must be added to HOLDERS.

    Only names with an underscore count as names of the library: others, such as `shape`, are also names of our own.
    """
    members = {name.rpartition(".")[2] for name in rtx_names if "." in name}
    unchecked = {
        access
        for access, value in accesses()
        if access.attribute in members
        and "_" in access.attribute.strip("_")
        and access.holder not in (*HOLDERS.get(access.file, {}), *MODULES, "self")
        and not (isinstance(value, ast.Attribute) and _is_module(value.value))
    }
    assert unchecked == set()


def test_used_names_are_found() -> None:
    assert {"OnnxParser", "BuilderFlag.TF32", "Builder.build_serialized_network", "ParserError.desc"} <= used_names()
    assert used_names() >= ONLY_RTX
    assert any(name.startswith("IExecutionContext.") for name in used_names())


def test_tensorrt_rtx_has_all_used_names(rtx_names: set[str]) -> None:
    assert used_names() - rtx_names == set()


def test_tensorrt_bindings_have_all_used_names(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-ins")
    major = version("tensorrt-cu13-bindings").split(".")[0]
    source = tmp_path / "stand_ins.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in STAND_INS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        target = tmp_path / f"lib{library}.so.{major}"
        subprocess.run([compiler, "-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", target, source], check=True)
    names = names_of("tensorrt_bindings", LD_LIBRARY_PATH=str(tmp_path))
    assert used_names() - names == ONLY_RTX

"""The names that we use of TensorRT exist in both libraries.

`tensorrt` cannot be loaded without the vendor's libraries, but its bindings can, over stand-ins that do nothing: every
class and method has its name, and none works. `tensorrt_rtx` is there as it is.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import rsicrc.backends.tensorrt

pytest.importorskip("tensorrt_rtx")

SOURCES = Path(rsicrc.backends.tensorrt.__file__).parent
# Which of the library's classes a variable or attribute of ours is, by file.
HOLDERS = {
    "building.py": {
        "builder": "Builder",
        "config": "IBuilderConfig",
        "parser": "OnnxParser",
        "error": "ParserError",
        "profile": "IOptimizationProfile",
        "cache": "ITimingCache",
    },
    "backend.py": {
        "_runtime": "Runtime",
        "engine": "ICudaEngine",
        "context": "IExecutionContext",
        "_context": "IExecutionContext",
        "config": "IRuntimeConfig",
    },
}
# What tensorrt_rtx alone has; the code asks before it uses them.
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
for name in dir(module):
    names.append(name)
    if isinstance(getattr(module, name), type):
        names += [f"{name}.{each}" for each in dir(getattr(module, name))]
print(json.dumps(names))
"""


def used_names() -> set[str]:
    """Names of the module, and methods and attributes as "Class.name"."""
    found = set()
    for path in SOURCES.glob("*.py"):
        holders = HOLDERS.get(path.name, {})
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            holder = _last_name(node.value)
            if _is_module(node.value):
                found.add(node.attr)
            elif isinstance(node.value, ast.Attribute) and _is_module(node.value.value):
                found.add(f"{node.value.attr}.{node.attr}")
            elif holder in holders:
                found.add(f"{holders[holder]}.{node.attr}")
    return found - {"__version__"}


def names_of(module: str, **environment: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LIST_NAMES, module],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return set(json.loads(done.stdout))


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_module(node: ast.expr) -> bool:
    return _last_name(node) in ("trt", "module")


def test_the_names_that_are_used_are_found() -> None:
    assert {"OnnxParser", "BuilderFlag.TF32", "Builder.build_serialized_network", "ParserError.desc"} <= used_names()
    assert used_names() >= ONLY_RTX
    assert any(name.startswith("IExecutionContext.") for name in used_names())


def test_tensorrt_rtx_has_them() -> None:
    assert used_names() - names_of("tensorrt_rtx") == set()


def test_the_bindings_of_tensorrt_have_them(tmp_path: Path) -> None:
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

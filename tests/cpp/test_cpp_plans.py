"""TensorRT plans of the C++ library: only from the user's cache or a folder that the user names."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsicrc.backends.tensorrt.plans import plan_folder
from rsicrc.manifest import Manifest, sha256_file
from tests.cpp.conftest import Build, run

pytestmark = pytest.mark.slow
LIBRARY, VERSION, DEVICE = "tensorrt", "10.13.3", "NVIDIA H200 9.0"
KEYS = json.loads((Path(__file__).parents[1] / "plan_folders.json").read_text())

Choose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new cache."""
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def choose(gcc_build: Build, model_folder: Path) -> Choose:
    """Return a function that searches a plan of the decoder for this library, version and device."""

    def choose(*engines: Path) -> subprocess.CompletedProcess[str]:
        command = ["plan", str(model_folder), "decoder", LIBRARY, VERSION, DEVICE, *map(str, engines)]
        return subprocess.run([str(gcc_build.program("probe")), *command], capture_output=True, text=True, check=False)

    return choose


def write_plans(engines: Path, folder: Path, *plans: dict[str, Any]) -> Path:
    """Write a list of TensorRT plans, which all name one file that is no plan. Return the file."""
    engines.mkdir(parents=True, exist_ok=True)
    file = engines / "decoder.plan"
    file.write_bytes(b"no plan")
    fitting = {
        "graph": "decoder",
        "library": LIBRARY,
        "version": VERSION,
        "device": DEVICE,
        "graph_sha256": Manifest.load(folder).files["decoder.onnx"].sha256,
        "file": file.name,
        "sha256": sha256_file(file),
    }
    (engines / "engines.json").write_text(json.dumps({"engines": [{**fitting, **plan} for plan in plans]}))
    return file


def cache_folder(folder: Path, device: str = DEVICE) -> Path:
    found = plan_folder(Manifest.load(folder).files["decoder.onnx"].sha256, LIBRARY, VERSION, device)
    assert found is not None
    return found


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key["device"]))
def test_plan_folder_is_that_of_the_golden_file(gcc_build: Build, cache: Path, key: dict[str, str]) -> None:
    """tests/runtime/backends/test_tensorrt_plans.py compares the Python library with the same file."""
    names = ("graph_sha256", "library", "version", "device")
    done = run(gcc_build.program("probe"), "plan_folder", *(key[name] for name in names))
    assert Path(done.stdout) == cache / key["folder"]


def test_cache_is_where_python_has_it(gcc_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for own, shared, home in (
        ("", str(tmp_path / "shared"), "/h"),
        ("", "", str(tmp_path / "home")),
        ("", "", ""),
        (str(tmp_path / "own"), str(tmp_path / "shared"), "/h"),
    ):
        monkeypatch.setenv("RSICRC_CACHE", own)
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        monkeypatch.setenv("HOME", home)
        done = run(gcc_build.program("probe"), "plan_folder", "0", LIBRARY, VERSION, DEVICE)
        assert Path(done.stdout) == plan_folder("0", LIBRARY, VERSION, DEVICE)


def test_plan_in_the_cache_is_found(choose: Choose, model_folder: Path) -> None:
    assert "the user's cache: no plan of decoder fits. Build plans on this machine" in choose().stderr
    portable = write_plans(
        cache_folder(model_folder, "any"), model_folder, {"device": "any", "compute_capabilities": ["8.9", "9.0"]}
    )
    assert choose().stdout.strip() == str(portable)
    own = write_plans(cache_folder(model_folder), model_folder, {})
    assert choose().stdout.strip() == str(own)
    own.write_bytes(b"No plan")
    assert choose().stdout.strip() == str(portable)  # a damaged plan in the cache does not fit
    portable.unlink()
    assert choose().returncode == 1
    assert "changed since it was built" in choose().stderr
    assert "missing" in choose().stderr


def test_plan_in_a_model_folder_is_ignored(gcc_build: Build, model_folder: Path, tmp_path: Path) -> None:
    """A stranger's plan fits in every field, with its own hash."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    planted = write_plans(folder / "engines", folder, {})
    command = [str(gcc_build.program("probe")), "plan", str(folder), "decoder", LIBRARY, VERSION, DEVICE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no plan of decoder fits" in done.stderr
    assert run(*command, folder / "engines").stdout.strip() == str(planted)


def test_plan_of_a_named_folder_must_fit(choose: Choose, model_folder: Path, tmp_path: Path) -> None:
    engines = tmp_path / "plans"
    assert f"{engines}: no plan of decoder fits. Build" in choose(engines).stderr
    plan = write_plans(engines, model_folder, {"version": "10.3.0"}, {"device": "NVIDIA L4 8.9"}, {})
    assert choose(engines).stdout.strip() == str(plan)
    write_plans(engines, model_folder, {"device": "any", "compute_capabilities": ["8.9", "9.0"]})
    assert choose(engines).stdout.strip() == str(plan)
    others: tuple[tuple[dict[str, Any], str], ...] = (
        ({"version": "10.3.0"}, "version 10.3.0, not 10.13.3"),
        ({"device": "NVIDIA L4 8.9"}, "device NVIDIA L4 8.9, not NVIDIA H200 9.0"),
        ({"library": "tensorrt_rtx"}, "library tensorrt_rtx, not tensorrt"),
        ({"graph_sha256": "0"}, "graph_sha256 0"),
        ({"sha256": "0"}, "changed since it was built"),
        ({"file": "../decoder.plan"}, "plain file name"),
        ({"compute_capabilities": ["8.6", "8.9"]}, "compute capabilities 8.6, 8.9, not NVIDIA H200 9.0"),
    )
    for other, reason in others:
        write_plans(engines, model_folder, other)
        assert (choose(engines).returncode, choose(engines).stdout) == (1, "")
        assert reason in choose(engines).stderr
    (engines / "engines.json").write_text("[")
    assert "not a list of TensorRT plans" in choose(engines).stderr

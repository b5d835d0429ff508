from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rsicrc.backends.tensorrt import plans
from rsicrc.backends.tensorrt.library import Library
from rsicrc.backends.tensorrt.plans import Plan, ensure_plans, find_plan, read_plans, targets
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.manifest import DECODER, GRAPH_NAMES, Manifest

DEVICE = "NVIDIA H200 9.0"
NATIVE = Library("tensorrt", "10.13.3", SimpleNamespace())
CAPABILITIES = {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM89": 89, "SM120": 120}
PORTABLE = Library(
    "tensorrt_rtx", "1.7.1", SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=CAPABILITIES))
)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "model", ignore=shutil.ignore_patterns("engines"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Fake TensorRT builds: the file of each graph and its compute capabilities."""
    calls: list[tuple[str, Any]] = []

    def build(library: Library, graph: Path, shapes: Any, *, capabilities: Any, **options: Any) -> bytes:
        calls.append((graph.name, capabilities))
        return f"{library.name} {graph.name} {sorted(shapes.items())}".encode()

    monkeypatch.setattr(plans, "build_plan", build)
    return calls


def test_no_plans_are_built_of_the_graphs_for_single_images(
    per_image_folder: Path, tmp_path: Path, built: list[tuple[str, Any]]
) -> None:
    folder = shutil.copytree(per_image_folder, tmp_path / "model")
    found = ensure_plans(folder, Manifest.load(folder), NATIVE, DEVICE, Profile(), lambda _: None)
    assert set(found) == set(GRAPH_NAMES)
    assert len(built) == len(GRAPH_NAMES)


def test_missing_plans_are_built_once(folder: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    lines: list[str] = []
    first = ensure_plans(folder, manifest, NATIVE, DEVICE, Profile(), lines.append)
    assert [name for name, _ in built] == [manifest.graphs[name].file for name in GRAPH_NAMES]
    assert f"decoder.onnx: building a plan with tensorrt 10.13.3 for {DEVICE}, 1:8:64,1:3:8" in lines
    reported = len(lines)
    assert ensure_plans(folder, manifest, NATIVE, DEVICE, Profile((1, 2, 16), (5, 5, 5)), lines.append) == first
    assert len(built) == len(GRAPH_NAMES)
    assert len(lines) == reported
    assert all(path.is_file() for path in first.values())
    Manifest.load(folder)  # still verifies: only `engines` was added


def test_plan_of_a_changed_graph_is_built_again(folder: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    path = folder / "engines" / "engines.json"
    document = json.loads(path.read_text())
    assert {entry["graph"] for entry in document["engines"]} == set(GRAPH_NAMES)
    for entry in document["engines"]:
        assert set(entry) == {
            "graph", "precision", "library", "version", "device", "graph_sha256", "profile", "file", "sha256",
        }  # fmt: skip
        assert entry["graph_sha256"] == manifest.files[f"{entry['graph']}.onnx"].sha256
        if entry["graph"] == DECODER:
            entry["graph_sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    assert [name for name, _ in built[len(GRAPH_NAMES) :]] == ["decoder.onnx"]


@pytest.mark.parametrize(
    ("library", "device", "profile", "reason"),
    [
        (Library("tensorrt", "10.3.0", None), DEVICE, None, "version 10.13.3, not 10.3.0"),
        (NATIVE, "NVIDIA L4 8.9", None, f"device {DEVICE}, not NVIDIA L4 8.9"),
        (PORTABLE, DEVICE, None, "library tensorrt, not tensorrt_rtx"),
        (NATIVE, DEVICE, Profile((1, 8, 128)), "profile 1:8:64,1:3:8, not 1:8:128,1:3:8"),
    ],
)
def test_plan_that_does_not_fit_is_refused_with_the_reason(
    folder: Path,
    built: list[tuple[str, Any]],
    library: Library,
    device: str,
    profile: Profile | None,
    reason: str,
) -> None:
    manifest = Manifest.load(folder)
    ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    assert find_plan(folder, manifest, DECODER, NATIVE, DEVICE).suffix == ".plan"
    with pytest.raises(BackendError, match="no plan of decoder fits") as caught:
        find_plan(folder, manifest, DECODER, library, device, profile)
    assert reason in str(caught.value)
    assert "rsicrc-export --tensorrt" in str(caught.value)


def test_portable_plans_fit_all_their_gpus(folder: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    ensure_plans(folder, manifest, PORTABLE, None, None)
    assert {capabilities for _, capabilities in built} == {("8.0", "8.9", "12.0")}
    assert {plan.device for plan in read_plans(folder)} == {"any"}
    find_plan(folder, manifest, DECODER, PORTABLE, "NVIDIA GeForce RTX 4090 8.9")
    with pytest.raises(BackendError, match=r"compute capabilities 8\.0, 8\.9, 12\.0, not Tesla T4 7\.5"):
        find_plan(folder, manifest, DECODER, PORTABLE, "Tesla T4 7.5")
    ensure_plans(folder, manifest, PORTABLE, "Tesla T4 7.5", None)  # too old for the portable plans
    assert built[-1][1] == ("7.5",)
    find_plan(folder, manifest, DECODER, PORTABLE, "Tesla T4 7.5")
    find_plan(folder, manifest, DECODER, PORTABLE, "NVIDIA GeForce RTX 4090 8.9")


def test_devices_without_plans_are_refused() -> None:
    with pytest.raises(
        BackendError, match=r"supports the compute capabilities 7\.5.*, not NVIDIA H200 9\.0: use tensorrt"
    ):
        targets(PORTABLE, DEVICE)
    with pytest.raises(BackendError, match="only on the GPU that they are for, and there is none here"):
        targets(NATIVE, None)


def test_newest_plan_comes_first(folder: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    ensure_plans(folder, manifest, NATIVE, DEVICE, Profile((1, 1, 1)))
    old = find_plan(folder, manifest, DECODER, NATIVE, DEVICE)
    new = ensure_plans(folder, manifest, NATIVE, DEVICE, Profile((1, 8, 16)))[DECODER]
    assert find_plan(folder, manifest, DECODER, NATIVE, DEVICE) == new != old


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda engines: (engines / "engines.json").write_text("["), "damaged"),
        (lambda engines: (engines / "engines.json").write_text('{"engines": [{"graph": "decoder"}]}'), "damaged"),
        (lambda engines: [path.write_bytes(b"x") for path in engines.glob("*.plan")], r"changed since it was built"),
        (lambda engines: [path.unlink() for path in engines.glob("*.plan")], "missing, or changed"),
    ],
)
def test_damaged_plans_are_reported(
    folder: Path, built: list[tuple[str, Any]], damage: Callable[[Path], object], message: str
) -> None:
    manifest = Manifest.load(folder)
    ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    damage(folder / "engines")
    with pytest.raises(ModelFolderError, match=message) as caught:
        ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    assert f"remove {folder / 'engines'}" in str(caught.value)


def test_plan_outside_the_folder_is_refused() -> None:
    fields = Plan("decoder", "tensorrt", "10.13.3", DEVICE, "0", "decoder.plan", "0", "fp32", Profile()).to_dict()
    assert Plan.from_dict(fields).file == "decoder.plan"
    with pytest.raises(ValueError, match="not a plain file name"):
        Plan.from_dict({**fields, "file": "../decoder.plan"})


def test_folder_that_cannot_be_written_is_reported(folder: Path, built: list[tuple[str, Any]]) -> None:
    (folder / "engines").write_text("a file instead of a folder")
    with pytest.raises(ModelFolderError):
        ensure_plans(folder, Manifest.load(folder), NATIVE, DEVICE, None)

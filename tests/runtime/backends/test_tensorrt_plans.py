"""TensorRT plans: only from the user's cache or a folder that the user names, and only as they were recorded."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rsicrc.backends.tensorrt import plans
from rsicrc.backends.tensorrt.library import Library
from rsicrc.backends.tensorrt.plan import Plan
from rsicrc.backends.tensorrt.plan_list import read_plans
from rsicrc.backends.tensorrt.plans import ensure_plans, find_plan, plan_folder, targets
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError
from rsicrc.manifest import DECODER, GRAPH_NAMES, Manifest

DEVICE = "NVIDIA H200 9.0"
NATIVE = Library("tensorrt", "10.13.3", SimpleNamespace())
CAPABILITIES = {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM89": 89, "SM120": 120}
PORTABLE = Library(
    "tensorrt_rtx", "1.7.1", SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=CAPABILITIES))
)


Damage = Callable[[Path], object]


@pytest.fixture
def folder(model_copy: Path) -> Path:
    """Return a copy of the model folder."""
    return model_copy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new cache."""
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Fake TensorRT builds: the file of each graph and its compute capabilities."""
    calls: list[tuple[str, Any]] = []

    def build(
        library: Library, graph: Path, shapes: Any, *, capabilities: Any, timings: bytes, **options: Any
    ) -> tuple[bytes, bytes | None]:
        calls.append((graph.name, capabilities))
        measured = None if capabilities else timings + graph.name.encode()
        return f"{library.name} {graph.name} {sorted(shapes.items())}".encode(), measured

    monkeypatch.setattr(plans, "build_plan", build)
    return calls


def test_no_plans_are_built_of_the_graphs_for_single_images(
    per_image_folder: Path, cache: Path, built: list[tuple[str, Any]]
) -> None:
    found = ensure_plans(per_image_folder, Manifest.load(per_image_folder), NATIVE, DEVICE, Profile(), lambda _: None)
    assert set(found) == set(GRAPH_NAMES)
    assert len(built) == len(GRAPH_NAMES)


def test_missing_plans_are_built_once(folder: Path, cache: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    before = files(folder)
    lines: list[str] = []
    first = ensure_plans(folder, manifest, NATIVE, DEVICE, Profile(), lines.append)
    assert [name for name, _ in built] == [manifest.graphs[name].file for name in GRAPH_NAMES]
    assert f"decoder.onnx: building a plan with tensorrt 10.13.3 for {DEVICE}, 1:8:64,1:3:8" in lines
    reported = len(lines)
    assert ensure_plans(folder, manifest, NATIVE, DEVICE, Profile((1, 2, 16), (5, 5, 5)), lines.append) == first
    assert len(built) == len(GRAPH_NAMES)
    assert len(lines) == reported
    assert files(folder) == before
    for name, plan in first.items():
        digest = manifest.files[manifest.graphs[name].file].sha256
        assert plan.path.parent == plan_folder(digest, NATIVE.name, NATIVE.version, DEVICE)
        assert plan.path.is_relative_to(cache / "compiled" / digest)
        assert plan.read() == plan.path.read_bytes()
        assert stat.S_IMODE(plan.path.parent.stat().st_mode) == 0o700


def test_plans_in_a_model_folder_are_ignored(folder: Path, tmp_path: Path, built: list[tuple[str, Any]]) -> None:
    """A stranger's plans fit in every field, with their own hash; they are only used if the user names the folder."""
    manifest = Manifest.load(folder)
    honest = ensure_plans(folder, manifest, NATIVE, DEVICE, None)[DECODER].read()
    planted = folder / "engines"
    shutil.copytree(next(tmp_path.rglob("decoder.*.plan")).parent, planted)
    document = json.loads((planted / "engines.json").read_text())
    (planted / document["engines"][0]["file"]).write_bytes(b"evil")
    document["engines"][0]["sha256"] = hashlib.sha256(b"evil").hexdigest()
    (planted / "engines.json").write_text(json.dumps(document))
    assert find_plan(manifest, DECODER, NATIVE, DEVICE).read() == honest
    assert ensure_plans(folder, manifest, NATIVE, DEVICE, None)[DECODER].read() == honest
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(BackendError, match="the user's cache: no plan of decoder fits"):
        find_plan(manifest, DECODER, NATIVE, DEVICE)
    assert ensure_plans(folder, manifest, NATIVE, DEVICE, None)[DECODER].read() == honest
    assert find_plan(manifest, DECODER, NATIVE, DEVICE, engines=planted).read() == b"evil"


def test_plans_of_a_named_folder_are_built_and_found(
    folder: Path, tmp_path: Path, cache: Path, built: list[tuple[str, Any]]
) -> None:
    manifest, engines = Manifest.load(folder), tmp_path / "shipped" / "plans"
    plans = ensure_plans(folder, manifest, NATIVE, DEVICE, None, engines=engines)
    assert {plan.path.parent for plan in plans.values()} == {engines}
    assert {plan.graph for plan in read_plans(engines)} == set(GRAPH_NAMES)
    assert not list(cache.rglob("*.plan"))
    assert find_plan(manifest, DECODER, NATIVE, DEVICE, engines=engines) == plans[DECODER]
    ensure_plans(folder, manifest, NATIVE, DEVICE, None, engines=engines)
    assert len(built) == len(GRAPH_NAMES)
    with pytest.raises(BackendError, match=r"absent: no plan of decoder fits\..*--tensorrt --engines .*absent"):
        find_plan(manifest, DECODER, NATIVE, DEVICE, engines=tmp_path / "absent")


def test_list_names_the_properties_of_a_plan(folder: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    for plan in ensure_plans(folder, manifest, NATIVE, DEVICE, None).values():
        (entry,) = json.loads((plan.path.parent / "engines.json").read_text())["engines"]
        assert set(entry) == {
            "graph", "precision", "library", "version", "device", "graph_sha256", "profile", "file", "sha256",
        }  # fmt: skip
        assert entry["graph_sha256"] == manifest.files[f"{entry['graph']}.onnx"].sha256


def test_plan_of_another_graph_is_not_used(folder: Path, cache: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    path = ensure_plans(folder, manifest, NATIVE, DEVICE, None)[DECODER].path
    document = json.loads((path.parent / "engines.json").read_text())
    document["engines"][0]["graph_sha256"] = "0" * 64
    (path.parent / "engines.json").write_text(json.dumps(document))
    ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    assert [name for name, _ in built[len(GRAPH_NAMES) :]] == ["decoder.onnx"]


KEYS = json.loads((Path(__file__).parents[2] / "plan_folders.json").read_text())


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key["device"]))
def test_plan_folder_is_that_of_the_golden_file(cache: Path, key: dict[str, str]) -> None:
    """tests/cpp/test_cpp_plans.py compares the C++ library with the same file."""
    folder = plan_folder(*(key[name] for name in ("graph_sha256", "library", "version", "device")))
    assert folder == cache / key["folder"]


def recorded_timings(cache: Path) -> Path:
    (record,) = cache.glob("timings/*/record.json")
    return record.with_name(json.loads(record.read_text())["sha256"] + ".blob")


def test_measured_times_are_used_by_later_builds(folder: Path, cache: Path, built: list[tuple[str, Any]]) -> None:
    ensure_plans(folder, Manifest.load(folder), NATIVE, DEVICE, None)
    path = recorded_timings(cache)
    everything = "".join(f"{name}.onnx" for name in GRAPH_NAMES).encode()
    assert path.read_bytes() == everything
    (folder / "engines").mkdir()
    (folder / "engines" / "tensorrt-10.13.3.timing").write_bytes(b"evil")
    path.write_bytes(everything[:-1] + b"?")
    ensure_plans(folder, Manifest.load(folder), NATIVE, DEVICE, Profile((1, 1, 128)))
    # The damaged file was left out, and the shipped file too.
    assert recorded_timings(cache).read_bytes() == everything


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
    tmp_path: Path,
    built: list[tuple[str, Any]],
    library: Library,
    device: str,
    profile: Profile | None,
    reason: str,
) -> None:
    manifest, engines = Manifest.load(folder), tmp_path / "plans"
    ensure_plans(folder, manifest, NATIVE, DEVICE, None, engines=engines)
    assert find_plan(manifest, DECODER, NATIVE, DEVICE, engines=engines).path.suffix == ".plan"
    with pytest.raises(BackendError, match="no plan of decoder fits") as caught:
        find_plan(manifest, DECODER, library, device, profile, engines)
    assert reason in str(caught.value)
    assert "rsicrc-export CKPT --tensorrt --engines" in str(caught.value)


def test_portable_plans_fit_all_their_gpus(folder: Path, cache: Path, built: list[tuple[str, Any]]) -> None:
    manifest = Manifest.load(folder)
    plans = ensure_plans(folder, manifest, PORTABLE, None, None)
    assert {capabilities for _, capabilities in built} == {("8.0", "8.9", "12.0")}
    assert {plan.device for file in plans.values() for plan in read_plans(file.path.parent)} == {"any"}
    assert not (cache / "timings").exists()
    find_plan(manifest, DECODER, PORTABLE, "NVIDIA GeForce RTX 4090 8.9")
    with pytest.raises(BackendError, match=r"compute capabilities 8\.0, 8\.9, 12\.0, not Tesla T4 7\.5"):
        find_plan(manifest, DECODER, PORTABLE, "Tesla T4 7.5")
    ensure_plans(folder, manifest, PORTABLE, "Tesla T4 7.5", None)  # too old for the portable plans
    assert built[-1][1] == ("7.5",)
    find_plan(manifest, DECODER, PORTABLE, "Tesla T4 7.5")
    find_plan(manifest, DECODER, PORTABLE, "NVIDIA GeForce RTX 4090 8.9")


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
    old = find_plan(manifest, DECODER, NATIVE, DEVICE)
    new = ensure_plans(folder, manifest, NATIVE, DEVICE, Profile((1, 8, 16)))[DECODER]
    assert find_plan(manifest, DECODER, NATIVE, DEVICE) == new != old


DAMAGES: list[tuple[Damage, str]] = [
    (lambda plan: (plan.parent / "engines.json").write_text("["), "not a list of TensorRT plans"),
    (lambda plan: (plan.parent / "engines.json").write_text("[" * 100_000), "not a list of TensorRT plans"),
    (
        lambda plan: (plan.parent / "engines.json").write_text('{"engines": [{"graph": "decoder"}]}'),
        "not a list of TensorRT plans",
    ),
    (lambda plan: plan.write_bytes(b"x"), "changed since it was built"),
    (lambda plan: plan.write_bytes(plan.read_bytes()[:-1] + b"?"), "changed since it was built"),
    (lambda plan: plan.unlink(), "missing, or changed"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_plan_in_the_cache_is_built_again(
    folder: Path, built: list[tuple[str, Any]], damage: Damage, message: str
) -> None:
    manifest = Manifest.load(folder)
    first = ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    content = first[DECODER].read()
    damage(first[DECODER].path)
    with pytest.raises(BackendError, match=message):
        find_plan(manifest, DECODER, NATIVE, DEVICE)
    again = ensure_plans(folder, manifest, NATIVE, DEVICE, None)
    assert again == first
    assert [name for name, _ in built[len(GRAPH_NAMES) :]] == ["decoder.onnx"]
    assert again[DECODER].read() == content


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_plan_of_a_named_folder_is_an_error(
    folder: Path, tmp_path: Path, built: list[tuple[str, Any]], damage: Damage, message: str
) -> None:
    manifest, engines = Manifest.load(folder), tmp_path / "plans"
    damage(ensure_plans(folder, manifest, NATIVE, DEVICE, None, engines=engines)[DECODER].path)
    for search in (
        lambda: find_plan(manifest, DECODER, NATIVE, DEVICE, engines=engines),
        lambda: ensure_plans(folder, manifest, NATIVE, DEVICE, None, engines=engines),
    ):
        with pytest.raises(BackendError, match=message) as caught:
            search()
        assert str(engines) in str(caught.value)


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES[-3:]])
def test_plan_that_changes_after_the_search_is_not_read(
    folder: Path, built: list[tuple[str, Any]], damage: Damage
) -> None:
    plan = ensure_plans(folder, Manifest.load(folder), NATIVE, DEVICE, None)[DECODER]
    damage(plan.path)
    with pytest.raises(BackendError, match=r"changed since it was built|cannot be read"):
        plan.read()


def test_plan_outside_the_folder_is_refused() -> None:
    fields = Plan("decoder", "tensorrt", "10.13.3", DEVICE, "0", "decoder.plan", "0", "fp32", Profile()).to_dict()
    assert Plan.from_dict(fields).file == "decoder.plan"
    with pytest.raises(ValueError, match="not a plain file name"):
        Plan.from_dict({**fields, "file": "../decoder.plan"})


def test_folder_that_cannot_be_written_is_reported(
    folder: Path, cache: Path, tmp_path: Path, built: list[tuple[str, Any]]
) -> None:
    for engines in (None, tmp_path / "plans"):
        (engines or cache).write_text("a file instead of a folder")
        with pytest.raises(BackendError, match=r"plans cannot be written \(.*\): free disk space, set \$RSICRC_CACHE"):
            ensure_plans(folder, Manifest.load(folder), NATIVE, DEVICE, None, engines=engines)


def test_missing_home_is_reported(folder: Path, built: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsicrc.files.user_cache", lambda: None)
    with pytest.raises(BackendError, match=r"no home folder: set \$RSICRC_CACHE, or name a folder of plans"):
        ensure_plans(folder, Manifest.load(folder), NATIVE, DEVICE, None)
    assert built == []

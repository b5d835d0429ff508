"""TensorRT plans of a model folder: their list `engines/engines.json`, and building of missing plans.

The C++ library reads the same file (runtime/cpp/src/plans.cpp, docs/cpp.md). Plans are disposable: they are not part of
the manifest, and the folder `engines` can be removed at the cost of building the plans again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.backends.tensorrt.building import build_plan
from rsicrc.backends.tensorrt.library import Library, LogFunction
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.files import replacing
from rsicrc.manifest import GRAPH_NAMES, Manifest, sha256_file

FOLDER, INDEX = "engines", "engines.json"
PORTABLE = "any"  # the device of portable plans
# Portable plans are built for the generations with bfloat16; a plan for older ones too could not use newer features.
_OLDEST_PORTABLE = (8, 0)

DeviceName = str  # name and compute capability of a GPU, as in "NVIDIA H200 9.0"


@dataclass(frozen=True)
class Plan:
    """One entry of `engines.json`.

    Attributes:
        graph: Name of the graph in the manifest.
        library: "tensorrt" or "tensorrt_rtx".
        version: Version of the library, three numbers.
        device: Name and compute capability of the GPU; `PORTABLE` for portable plans.
        graph_sha256: SHA-256 of the ONNX file.
        file: File name of the plan in the folder `engines`.
        sha256: SHA-256 of the plan.
        precision: Precision of the graph, for information only.
        profile: Sizes that the plan runs with.
        capabilities: Compute capabilities that a portable plan runs on; empty for a plan of one device.
    """

    graph: str
    library: str
    version: str
    device: DeviceName
    graph_sha256: str
    file: str
    sha256: str
    precision: str
    profile: Profile
    capabilities: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_dict` wrote."""
        texts = ("graph", "library", "version", "device", "graph_sha256", "file", "sha256", "precision")
        plan = cls(
            **{name: str(fields[name]) for name in texts},
            profile=Profile.from_dict(fields["profile"]),
            capabilities=tuple(str(each) for each in fields.get("compute_capabilities", ())),
        )
        if Path(plan.file).name != plan.file:
            raise ValueError(f"{plan.file!r} is not a plain file name")
        return plan

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        fields = {
            "graph": self.graph,
            "precision": self.precision,
            "library": self.library,
            "version": self.version,
            "device": self.device,
            "graph_sha256": self.graph_sha256,
            "profile": self.profile.to_dict(),
            "file": self.file,
            "sha256": self.sha256,
        }
        return {**fields, "compute_capabilities": list(self.capabilities)} if self.capabilities else fields

    def mismatch(self, library: Library, device: DeviceName | None, graph_sha256: str, profile: Profile | None) -> str:
        """Return the reason why the plan does not fit, "" if it fits. None stands for any device or any profile."""
        for field, listed, required in (
            ("library", self.library, library.name),
            ("version", self.version, library.version),
            ("graph_sha256", self.graph_sha256, graph_sha256),
        ):
            if listed != required:
                return f"{field} {listed}, not {required}"
        if device is not None and self.capabilities:
            if capability(device) not in self.capabilities:
                return f"compute capabilities {', '.join(self.capabilities)}, not {device}"
        elif device is not None and self.device != device:
            return f"device {self.device}, not {device}"
        if profile is not None and not self.profile.covers(profile):
            return f"profile {self.profile}, not {profile}"
        return ""


def capability(device: DeviceName) -> str:
    """Return the compute capability from the name of a device: "9.0" of "NVIDIA H200 9.0"."""
    return device.rpartition(" ")[2]


def read_plans(folder: Path) -> list[Plan]:
    """Return the plans in the list of a model folder; empty if there is no list.

    Raises:
        ModelFolderError: The list is damaged.
    """
    path = folder / FOLDER / INDEX
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["engines"]
        return [Plan.from_dict(entry) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(
            f"{path}: damaged ({type(error).__name__}: {error}): remove {path.parent}, its plans are built again"
        ) from error


def find_plan(
    folder: Path,
    manifest: Manifest,
    name: str,
    library: Library,
    device: DeviceName | None,
    profile: Profile | None = None,
) -> Path:
    """Return the file of the first plan of a graph that fits, after a check of its hash.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        name: Name of the graph.
        library: Library that will read the plan.
        device: GPU that will run the plan; None for any.
        profile: Sizes that the plan must run with; None for any.

    Raises:
        BackendError: No plan fits; the message has the reason for each plan of the graph.
        ModelFolderError: The list is damaged, or the plan is missing or has changed.
    """
    found, reasons = _search(folder, manifest, name, library, device, profile)
    if found is not None:
        return found
    because = ": " + "; ".join(reasons) if reasons else ""
    raise BackendError(
        f"{folder}: no plan of {name} fits{because}. Build plans on this machine with `rsicrc-export --tensorrt` "
        f"({library.name} {library.version})"
    )


def ensure_plans(
    folder: Path,
    manifest: Manifest,
    library: Library,
    device: DeviceName | None,
    profile: Profile | None,
    report: LogFunction = lambda line: None,
    library_log: LogFunction | None = None,
) -> dict[str, Path]:
    """Find the plans of all graphs, and build the missing plans.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        library: Library that will read the plans.
        device: GPU that will run the plans; None to build portable plans without a GPU.
        profile: Sizes that the plans must run with; None accepts existing plans for any sizes, and builds missing plans
            for the default profile.
        report: Function that receives a line about each plan that is built.
        library_log: Function that receives the lines of TensorRT's own log.

    Returns:
        Plan files by name of the graph.

    Raises:
        BackendError: TensorRT cannot build a graph, or not for this device.
        ModelFolderError: A plan has changed, or the folder cannot be written.
    """
    paths = {}
    for name in GRAPH_NAMES:  # the graphs for single images are used on CPUs only
        found, _ = _search(folder, manifest, name, library, device, profile)
        paths[name] = found or _build(
            folder, manifest, name, library, device, profile or Profile(), report, library_log
        )
    return paths


def targets(library: Library, device: DeviceName | None) -> tuple[str, ...]:
    """Return the compute capabilities that a plan is built for; empty if the plan is for this device only.

    Raises:
        BackendError: The library cannot build plans for this device, or not without a GPU.
    """
    if not library.is_portable:
        if device is None:
            raise BackendError(
                f"{library.name} builds plans only on the GPU that they are for, and there is none here: run this on "
                "the machine with the GPU, or build portable plans with tensorrt_rtx (`pip install tensorrt_rtx`)"
            )
        return ()
    portable = tuple(each for each in library.capabilities if _numbers(each) >= _OLDEST_PORTABLE)
    if device is None or capability(device) in portable:
        return portable
    if capability(device) in library.capabilities:
        return (capability(device),)
    raise BackendError(
        f"{library.name} {library.version} supports the compute capabilities {', '.join(library.capabilities)}, not "
        f"{device}: use tensorrt (`pip install 'rsicrc[tensorrt]'`)"
    )


def _search(
    folder: Path,
    manifest: Manifest,
    name: str,
    library: Library,
    device: DeviceName | None,
    profile: Profile | None,
) -> tuple[Path | None, list[str]]:
    """Return the first plan that fits, and the reasons why the plans before it do not fit."""
    digest = manifest.files[manifest.graphs[name].file].sha256
    reasons = []
    for plan in read_plans(folder):
        if plan.graph != name:
            continue
        if reason := plan.mismatch(library, device, digest, profile):
            reasons.append(f"{plan.file} is for {reason}")
            continue
        path = folder / FOLDER / plan.file
        if not path.is_file() or sha256_file(path) != plan.sha256:
            raise ModelFolderError(
                f"{path}: missing, or changed since it was built (SHA-256 differs): remove {path.parent}, its plans "
                "are built again"
            )
        return path, reasons
    return None, reasons


def _build(
    folder: Path,
    manifest: Manifest,
    name: str,
    library: Library,
    device: DeviceName | None,
    profile: Profile,
    report: LogFunction,
    library_log: LogFunction | None,
) -> Path:
    graph = manifest.graphs[name]
    digest = manifest.files[graph.file].sha256
    capabilities = targets(library, device)
    target = device if device is not None and not capabilities else PORTABLE
    purpose = "compute capability " + ", ".join(capabilities) if capabilities else target
    report(f"{graph.file}: building a plan with {library.name} {library.version} for {purpose}, {profile}")
    started = time.monotonic()
    engines = folder / FOLDER
    key = hashlib.sha256(
        json.dumps([library.name, library.version, target, capabilities, digest, profile.to_dict()]).encode()
    ).hexdigest()
    path = engines / f"{Path(graph.file).stem}.{key[:12]}.plan"
    try:
        engines.mkdir(exist_ok=True)
        content = build_plan(
            library,
            folder / graph.file,
            profile.shapes(name, graph, manifest.max_len),
            capabilities=capabilities,
            timing_cache=engines / f"{library.name}-{library.version}.timing",
            report=report,
            library_log=library_log,
        )
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        plan = Plan(
            name,
            library.name,
            library.version,
            target,
            digest,
            path.name,
            hashlib.sha256(content).hexdigest(),
            manifest.precision,
            profile,
            capabilities,
        )
        _add(folder, plan)
    except OSError as error:
        raise ModelFolderError(
            f"{engines}: cannot be written ({error.strerror or error}): free disk space or make the folder writable, "
            "or build the plans in a copy of the folder"
        ) from error
    report(f"{path.name}: {len(content) / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    return path


def _add(folder: Path, plan: Plan) -> None:
    """Insert a plan at the beginning of the list: readers use the first plan that fits, so the newest one."""
    others = [each for each in read_plans(folder) if each.file != plan.file]
    document = {"engines": [each.to_dict() for each in (plan, *others)]}
    with replacing(folder / FOLDER / INDEX) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))

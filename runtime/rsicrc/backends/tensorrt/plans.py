"""`engines/engines.json`: the plans of a model folder, what each was built for, and the building of what is missing.

The C++ library reads the same file (runtime/cpp/src/plans.cpp, docs/cpp.md). Plans are disposable: the manifest does
not know them, and removing the folder costs nothing but the time to build them again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.backends.tensorrt.building import build_plan
from rsicrc.backends.tensorrt.library import Library, Report
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.files import replacing
from rsicrc.manifest import Manifest, sha256_file

FOLDER, INDEX = "engines", "engines.json"
PORTABLE = "any"  # the device of plans that fit several
# The first generation with bfloat16; a plan that must run on older ones too does without what came later.
_OLDEST_OF_MANY = (8, 0)

DeviceName = str  # a GPU's name and compute capability, as in "NVIDIA H200 9.0"


@dataclass(frozen=True)
class Plan:
    """One entry of `engines.json`.

    Attributes:
        graph: the graph's name in the manifest.
        library: "tensorrt" or "tensorrt_rtx".
        version: the library's, three numbers.
        device: the GPU's name and compute capability; `PORTABLE` where `capabilities` say more.
        graph_sha256: of the ONNX file.
        file: the plan's name in the folder `engines`.
        sha256: of the plan.
        precision: of the graph, for people.
        profile: for which sizes.
        capabilities: compute capabilities that a portable plan runs on; empty for a plan of one device.
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
        """Read what `to_dict` wrote."""
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
        """Say why the plan does not fit; "" if it does. None stands for any device, and for any profile."""
        for field, there, here in (
            ("library", self.library, library.name),
            ("version", self.version, library.version),
            ("graph_sha256", self.graph_sha256, graph_sha256),
        ):
            if there != here:
                return f"{field} {there}, not {here}"
        if device is not None and self.capabilities:
            if capability(device) not in self.capabilities:
                return f"compute capabilities {', '.join(self.capabilities)}, not {device}"
        elif device is not None and self.device != device:
            return f"device {self.device}, not {device}"
        if profile is not None and not self.profile.admits(profile):
            return f"profile {self.profile}, not {profile}"
        return ""


def capability(device: DeviceName) -> str:
    """Return the compute capability in a device's name: "9.0" of "NVIDIA H200 9.0"."""
    return device.rpartition(" ")[2]


def read_plans(folder: Path) -> list[Plan]:
    """Return the plans that a model folder lists; none where there is no list.

    Raises:
        ModelFolderError: the list is damaged.
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
    """Return the file of a graph's plan that fits, checked against its hash.

    Args:
        folder: the model folder.
        manifest: its manifest, at the precision that is wanted.
        name: the graph's.
        library: who will read the plan.
        device: on which GPU; None for any.
        profile: sizes that it must run with; None for whatever it was built for.

    Raises:
        BackendError: there is none; the message has the reason for each plan that does not fit.
        ModelFolderError: the list is damaged, or the plan is gone or changed.
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
    report: Report = lambda line: None,
    listen: Callable[[str], None] | None = None,
) -> dict[str, Path]:
    """Find the plans of all graphs, and build those that are missing.

    Args:
        folder: the model folder.
        manifest: its manifest, at the precision that is wanted.
        library: who will read them.
        device: on which GPU. None, where there is none, builds portable plans.
        profile: sizes that they must run with; None for whatever is there, and the default for what is not.
        report: gets a line about each plan that is built.
        listen: gets TensorRT's own lines.

    Returns:
        Graph name → plan file.

    Raises:
        BackendError: TensorRT cannot build a graph, or not for this device.
        ModelFolderError: a plan was changed, or the folder cannot be written.
    """
    paths = {}
    for name in manifest.graphs:
        found, _ = _search(folder, manifest, name, library, device, profile)
        paths[name] = found or _build(folder, manifest, name, library, device, profile or Profile(), report, listen)
    return paths


def targets(library: Library, device: DeviceName | None) -> tuple[str, ...]:
    """Return the compute capabilities that a plan is built for; none where it is for the one device alone.

    Raises:
        BackendError: the library cannot build for this device, or for none.
    """
    if not library.is_portable:
        if device is None:
            raise BackendError(
                f"{library.name} builds plans only on the GPU that they are for, and there is none here: run this on "
                "the machine with the GPU, or build portable plans with tensorrt_rtx (`pip install tensorrt_rtx`)"
            )
        return ()
    many = tuple(each for each in library.capabilities if _numbers(each) >= _OLDEST_OF_MANY)
    if device is None or capability(device) in many:
        return many
    if capability(device) in library.capabilities:
        return (capability(device),)
    raise BackendError(
        f"{library.name} {library.version} knows the compute capabilities {', '.join(library.capabilities)}, and "
        f"{device} is another: use tensorrt (`pip install 'rsicrc[tensorrt]'`)"
    )


def _search(
    folder: Path,
    manifest: Manifest,
    name: str,
    library: Library,
    device: DeviceName | None,
    profile: Profile | None,
) -> tuple[Path | None, list[str]]:
    """Return the first plan that fits, and why those before it do not."""
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
                f"{path}: gone, or changed since it was built (SHA-256 differs): remove {path.parent}, its plans are "
                "built again"
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
    report: Report,
    listen: Callable[[str], None] | None,
) -> Path:
    graph = manifest.graphs[name]
    digest = manifest.files[graph.file].sha256
    capabilities = targets(library, device)
    place = device if device is not None and not capabilities else PORTABLE
    purpose = "compute capability " + ", ".join(capabilities) if capabilities else place
    report(f"{graph.file}: building a plan with {library.name} {library.version} for {purpose}, {profile}")
    begun = time.monotonic()
    engines = folder / FOLDER
    key = hashlib.sha256(
        json.dumps([library.name, library.version, place, capabilities, digest, profile.to_dict()]).encode()
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
            listen=listen,
        )
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        plan = Plan(
            name,
            library.name,
            library.version,
            place,
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
            f"{engines}: cannot be written ({error.strerror or error}): make room or make it writable, or build the "
            "plans in a copy of the folder"
        ) from error
    report(f"{path.name}: {len(content) / 1e6:.1f} MB in {time.monotonic() - begun:.1f} s")
    return path


def _add(folder: Path, plan: Plan) -> None:
    """List a plan before the others: readers take the first that fits, so the one that was asked for last."""
    others = [each for each in read_plans(folder) if each.file != plan.file]
    document = {"engines": [each.to_dict() for each in (plan, *others)]}
    with replacing(folder / FOLDER / INDEX) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))

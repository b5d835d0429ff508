"""The properties of one TensorRT plan: the graph, library, GPU and sizes that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.backends.tensorrt.library import Library
from rsicrc.backends.tensorrt.profiles import Profile

PORTABLE = "any"  # the device of portable plans

DeviceName = str  # name and compute capability of a GPU, as in "NVIDIA H200 9.0"


@dataclass(frozen=True)
class Plan:
    """One entry of a list of plans.

    Attributes:
        graph: Name of the graph in the manifest.
        library: "tensorrt" or "tensorrt_rtx".
        version: Version of the library, three numbers.
        device: Name and compute capability of the GPU; `PORTABLE` for portable plans.
        graph_sha256: SHA-256 of the ONNX file.
        file: File name of the plan, in the folder of the list.
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

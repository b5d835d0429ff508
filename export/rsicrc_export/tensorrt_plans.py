"""TensorRT plans of a new model folder: in all its precisions that a GPU takes, for every profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsicrc.backends.tensorrt.library import Library, LogFunction, open_library
from rsicrc.backends.tensorrt.plans import DeviceName, ensure_plans, targets
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError
from rsicrc.manifest import ON_GPU, Manifest


@dataclass(frozen=True)
class PlanBuilder:
    """What plans are built with and for.

    Attributes:
        library: the TensorRT library.
        device: the first GPU; None where there is none, and plans are portable.
        profiles: one plan of each graph for each.
    """

    library: Library
    device: DeviceName | None
    profiles: tuple[Profile, ...]

    @classmethod
    def open(cls, profiles: Sequence[str]) -> PlanBuilder:
        """Find out, before any work is done, whether plans can be built here.

        Args:
            profiles: as `Profile.parse` reads them; none for the default.

        Raises:
            ArgumentError: one is not a profile.
            BackendError: TensorRT is not installed, or cannot build on this machine.
        """
        parsed = tuple(Profile.parse(text) for text in profiles) or (Profile(),)
        library = open_library()
        device = _first_device()
        targets(library, device)
        return cls(library, device, parsed)

    def build(self, folder: Path, manifest: Manifest, report: LogFunction) -> None:
        """Build what the folder does not have yet.

        Raises:
            BackendError: TensorRT does not take a graph.
            ModelFolderError: the folder cannot be written.
        """
        for precision in manifest.precisions:
            if precision not in ON_GPU.values():
                report(f"{precision}: for processors only, no plans")
                continue
            for profile in self.profiles:
                ensure_plans(folder, manifest.at(precision), self.library, self.device, profile, report)


def _first_device() -> DeviceName | None:
    from rsicrc.backends.cuda import Device

    try:
        return Device(0).title
    except BackendError:
        return None

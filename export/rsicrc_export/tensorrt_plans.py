"""TensorRT plans for a new model folder: for every profile, in every precision for GPUs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsicrc.backends.tensorrt.library import Library, open_library
from rsicrc.backends.tensorrt.plan import DeviceName
from rsicrc.backends.tensorrt.plans import ensure_plans, targets
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError
from rsicrc.manifest import ON_GPU, Manifest

logger = logging.getLogger("rsicrc.export")


@dataclass(frozen=True)
class PlanBuilder:
    """The library, device and profiles for which plans are built.

    Attributes:
        library: The TensorRT library.
        device: The first GPU; None without a GPU, where plans are portable.
        profiles: Ranges of sizes; each graph gets one plan for each profile.
        engines: Folder for the plans; None for the user's cache.
    """

    library: Library
    device: DeviceName | None
    profiles: tuple[Profile, ...]
    engines: Path | None = None

    @classmethod
    def open(cls, profiles: Sequence[str], engines: Path | None = None) -> PlanBuilder:
        """Check, before any work is done, that plans can be built on this machine.

        Args:
            profiles: Profiles in the format of `Profile.parse`; empty for the default profile.
            engines: Folder for the plans; None for the user's cache.

        Raises:
            ArgumentError: A text is not a profile.
            BackendError: TensorRT is not installed, or cannot build plans on this machine.
        """
        parsed = tuple(Profile.parse(text) for text in profiles) or (Profile(),)
        library = open_library()
        device = _first_device()
        targets(library, device)
        return cls(library, device, parsed, engines)

    def build(self, folder: Path, manifest: Manifest) -> None:
        """Build the missing plans for a model folder; the log `rsicrc.export` (level INFO) gets a line for each.

        Raises:
            BackendError: TensorRT rejects a graph, or the plans cannot be written.
        """
        for precision in manifest.precisions:
            if precision not in ON_GPU.values():
                logger.info("%s: for CPUs only, no plans", precision)
                continue
            for profile in self.profiles:
                at_precision = manifest.at(precision)
                ensure_plans(
                    folder, at_precision, self.library, self.device, profile, logger.info, engines=self.engines
                )


def _first_device() -> DeviceName | None:
    from rsicrc.backends.cuda import Device

    try:
        return Device(0).title
    except BackendError:
        return None

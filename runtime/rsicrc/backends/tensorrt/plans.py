"""TensorRT plans of a model folder: the search in the user's cache or in a folder that the user names, and building.

Plans are code, so nothing inside a model folder is used unless the user names that folder. In the user's cache, plans
are disposable: they can be removed at the cost of building them again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsicrc.backends.compiled_file import CompiledFile
from rsicrc.backends.tensorrt.building import build_plan
from rsicrc.backends.tensorrt.library import Library, LogFunction
from rsicrc.backends.tensorrt.plan import PORTABLE, DeviceName, Plan, capability
from rsicrc.backends.tensorrt.plan_list import PlanFile, add_plan, open_plan, read_plans
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError
from rsicrc.files import compiled_folder, timing_folder
from rsicrc.manifest import GRAPH_NAMES, Manifest

logger = logging.getLogger("rsicrc")

PLANNED = GRAPH_NAMES  # graphs with plans; the graphs for single images are used on CPUs only
# Everything that changes a plan beside the graph, the library, the device and the profile. The folder of a graph in the
# cache holds the plans of all profiles, because a reader accepts any. runtime/cpp/src/plans.cpp has the same text.
SETTINGS = "strongly typed, no TF32"
# Portable plans are built for the generations with bfloat16; a plan for older ones too could not use newer features.
_OLDEST_PORTABLE = (8, 0)


def find_plan(
    manifest: Manifest,
    name: str,
    library: Library,
    device: DeviceName | None,
    profile: Profile | None = None,
    engines: Path | None = None,
) -> PlanFile:
    """Return the file of the first plan of a graph that fits, after a check of its hash.

    Args:
        manifest: The manifest, at the requested precision.
        name: Name of the graph.
        library: Library that will read the plan.
        device: GPU that will run the plan; None for any.
        profile: Sizes that the plan must run with; None for any.
        engines: Folder of plans; None for the user's cache.

    Raises:
        BackendError: No plan fits; the message has the reason for each plan of the graph. Or the folder's list is
            damaged, or its plan has changed; in the user's cache, such plans do not fit.
    """
    found, reasons = _search(manifest, name, library, device, profile, engines)
    if found is not None:
        return found
    because = ": " + "; ".join(reasons) if reasons else ""
    where = "the user's cache" if engines is None else f"{engines}"
    option = "" if engines is None else f" --engines {engines}"
    raise BackendError(
        f"{where}: no plan of {name} fits{because}. Build plans on this machine with "
        f"`rsicrc-export CKPT --tensorrt{option}` ({library.name} {library.version})"
    )


def ensure_plans(
    folder: Path,
    manifest: Manifest,
    library: Library,
    device: DeviceName | None,
    profile: Profile | None,
    report: LogFunction = lambda line: None,
    library_log: LogFunction | None = None,
    engines: Path | None = None,
) -> dict[str, PlanFile]:
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
        engines: Folder of plans, which is created; None for the user's cache.

    Returns:
        Plan files by name of the graph.

    Raises:
        BackendError: TensorRT cannot build a graph, or not for this device; a plan in `engines` has changed; or the
            plans cannot be written.
    """
    plans = {}
    for name in PLANNED:
        found, _ = _search(manifest, name, library, device, profile, engines)
        plans[name] = found or _build(
            folder, manifest, name, library, device, profile or Profile(), report, library_log, engines
        )
    return plans


def plan_folder(graph_sha256: str, library: str, version: str, device: DeviceName) -> Path | None:
    """Return the folder in the user's cache for the plans of a graph; None without a cache."""
    return compiled_folder(graph_sha256, library, version, device, SETTINGS)


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
    manifest: Manifest,
    name: str,
    library: Library,
    device: DeviceName | None,
    profile: Profile | None,
    engines: Path | None,
) -> tuple[PlanFile | None, list[str]]:
    """Return the first plan that fits, and the reasons why the plans before it do not fit."""
    digest = manifest.files[manifest.graphs[name].file].sha256
    if engines is not None:
        return _search_folder(engines, name, library, device, digest, profile)
    reasons = []
    for folder in _cache_folders(digest, library, device):
        try:
            found, others = _search_folder(folder, name, library, device, digest, profile)
        except BackendError as error:  # damaged: built again, as everything in a cache
            reasons.append(str(error))
            continue
        if found is not None:
            return found, reasons
        reasons += others
    return None, reasons


def _search_folder(
    folder: Path, name: str, library: Library, device: DeviceName | None, digest: str, profile: Profile | None
) -> tuple[PlanFile | None, list[str]]:
    reasons = []
    for plan in read_plans(folder):
        if plan.graph != name:
            continue
        if reason := plan.mismatch(library, device, digest, profile):
            reasons.append(f"{plan.file} is for {reason}")
            continue
        return open_plan(folder, plan), reasons
    return None, reasons


def _cache_folders(digest: str, library: Library, device: DeviceName | None) -> Iterator[Path]:
    """Yield the folders of the user's cache with plans for a device: its own plans, and portable plans."""
    for each in (PORTABLE,) if device is None else (device, PORTABLE):
        if (folder := plan_folder(digest, library.name, library.version, each)) is not None:
            yield folder


def _build(
    folder: Path,
    manifest: Manifest,
    name: str,
    library: Library,
    device: DeviceName | None,
    profile: Profile,
    report: LogFunction,
    library_log: LogFunction | None,
    engines: Path | None,
) -> PlanFile:
    graph = manifest.graphs[name]
    digest = manifest.files[graph.file].sha256
    capabilities = targets(library, device)
    target = device if device is not None and not capabilities else PORTABLE
    place = engines or plan_folder(digest, library.name, library.version, target)
    if place is None:
        raise BackendError(
            "there is no folder for TensorRT plans, because this user has no home folder: set $RSICRC_CACHE, or name a "
            "folder of plans with --engines"
        )
    purpose = "compute capability " + ", ".join(capabilities) if capabilities else target
    report(f"{graph.file}: building a plan with {library.name} {library.version} for {purpose}, {profile}")
    started = time.monotonic()
    timings = CompiledFile(timing_folder(library.name, library.version, target, SETTINGS))
    plan, measured = build_plan(
        library,
        folder / graph.file,
        profile.shapes(name, graph, manifest.max_len),
        capabilities=capabilities,
        timings=_read_timings(timings),
        report=report,
        library_log=library_log,
    )
    if measured is not None:
        timings.write(measured, {})
    key = json.dumps([library.name, library.version, target, capabilities, digest, profile.to_dict()])
    entry = Plan(
        graph=name,
        library=library.name,
        version=library.version,
        device=target,
        graph_sha256=digest,
        file=f"{Path(graph.file).stem}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.plan",
        sha256=hashlib.sha256(plan).hexdigest(),
        precision=manifest.precision,
        profile=profile,
        capabilities=capabilities,
    )
    try:
        place.mkdir(mode=0o700 if engines is None else 0o777, parents=True, exist_ok=True)
        file = add_plan(place, entry, plan)
    except OSError as error:
        raise BackendError(
            f"{place}: TensorRT plans cannot be written ({error.strerror or error}): free disk space, set "
            "$RSICRC_CACHE, or name another folder with --engines"
        ) from error
    report(f"{file.path.name}: {len(plan) / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    return file


def _read_timings(file: CompiledFile) -> bytes:
    found = file.read(lambda size: np.empty(size, np.uint8))
    return b"" if found is None else found[0].tobytes()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))

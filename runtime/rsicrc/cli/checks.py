"""Checks of the machine and the installation, with advice for each problem."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import rsicrc
from rsicrc.backends.cuda import Device, device_count, driver_version
from rsicrc.cpu import available_cpus, cpu_fields, cpu_flags, has_bf16
from rsicrc.errors import BackendError, ModelNotFoundError, RsicrcError
from rsicrc.files import user_cache

LIBRARIES = ("numpy", "pillow", "tokenizers")
# All of these distributions install a module named onnxruntime into the same folder.
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
# Flags of /proc/cpuinfo that decide the speed of each precision.
CPU_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
}
_LITTLE_MEMORY = 2e9


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        topic: Subject of the check, in a word or two.
        level: Severity.
        text: State of the subject.
        advice: Remedy of a problem, or a possible improvement.
    """

    topic: str
    level: Level
    text: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return plain containers for JSON."""
        return {name: str(value) for name, value in asdict(self).items()}


def examine(model: Path | None = None) -> list[Finding]:
    """Run every check.

    Args:
        model: The model folder to check; by default the folder that `rsicrc.load` opens.
    """
    installed = installed_distributions()
    gpus = list(check_gpus())
    openvino, tensorrt = check_openvino(installed), check_tensorrt(has_gpu=any(gpu.level is Level.OK for gpu in gpus))
    others = [finding.topic for finding in (openvino, tensorrt) if finding.level is Level.OK]
    return [
        Finding("rsicrc", Level.OK, rsicrc.__version__),
        Finding("python", Level.OK, f"{platform.python_version()} ({sys.executable})"),
        *check_libraries(installed),
        *check_onnx_runtimes(installed, others),
        *([check_onnx_runtime_module()] if any(name in installed for name in ONNX_RUNTIMES) else []),
        openvino,
        *gpus,
        tensorrt,
        check_cpu(),
        check_threads(),
        check_memory(),
        check_cache(),
        check_model(model),
    ]


def installed_distributions() -> dict[str, str]:
    """Return the version of every installed distribution, by normalized name."""
    names = ((each.metadata["Name"], each.version) for each in metadata.distributions())
    return {name.lower().replace("_", "-"): version for name, version in names if name}


def check_libraries(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Report the libraries that results depend on."""
    for name in LIBRARIES:
        if name in installed:
            yield Finding(name, Level.OK, installed[name])
        else:
            yield Finding(name, Level.PROBLEM, "not installed", "pip install --force-reinstall rsicrc")


def check_onnx_runtimes(installed: Mapping[str, str], others: Sequence[str] = ()) -> Iterator[Finding]:
    """Check that exactly one ONNX Runtime is installed, or none if another library runs models.

    Args:
        installed: Version by distribution name, from `installed_distributions`.
        others: Names of other libraries that work on this machine.
    """
    found = [name for name in ONNX_RUNTIMES if name in installed]
    text = ", ".join(f"{name} {installed[name]}" for name in found)
    if not found and others:
        yield Finding("onnxruntime", Level.NOTE, f"not installed; models run on {' and '.join(others)}")
    elif not found:
        advice = "pip install 'rsicrc[cpu]'"
        yield Finding("onnxruntime", Level.PROBLEM, "not installed, so no model can run", advice)
    elif len(found) > 1:
        extra = "gpu" if "onnxruntime-gpu" in found else "cpu"
        yield Finding(
            "onnxruntime",
            Level.PROBLEM,
            f"{text} are all installed, but share one folder: each overwrote files of the others",
            f"pip uninstall -y {' '.join(found)} && pip install 'rsicrc[{extra}]'",
        )
    else:
        yield Finding("onnxruntime", Level.OK, text)


def check_onnx_runtime_module() -> Finding:
    """Import ONNX Runtime and list its execution providers."""
    topic, advice = "providers", "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'rsicrc[cpu]'"
    try:
        module = importlib.import_module("onnxruntime")
        providers = module.get_available_providers()
    except (ImportError, OSError) as error:
        return Finding(topic, Level.PROBLEM, f"onnxruntime cannot be imported ({error})", advice)
    except AttributeError:
        # Uninstalling one of two packages leaves an incomplete module in the shared folder.
        return Finding(topic, Level.PROBLEM, "the installed onnxruntime is incomplete", advice)
    return Finding(topic, Level.OK, ", ".join(name.removesuffix("ExecutionProvider") for name in providers))


def check_openvino(installed: Mapping[str, str]) -> Finding:
    """Import OpenVINO, if it is installed, and check its CPU plug-in.

    Args:
        installed: Version by distribution name, from `installed_distributions`.
    """
    topic, advice = "openvino", "pip install 'rsicrc[openvino]'"
    if topic not in installed:
        text = "not installed; with it the image encoder is faster on processors with VNNI, AVX-512 BF16 or AMX"
        return Finding(topic, Level.NOTE, text, advice)
    try:
        devices = importlib.import_module("rsicrc.backends.openvino_runtime").CORE.available_devices
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        again = "pip install --force-reinstall openvino"
        return Finding(topic, Level.PROBLEM, f"openvino {installed[topic]} cannot be used ({error})", again)
    if "CPU" not in devices:
        return Finding(topic, Level.PROBLEM, f"openvino {installed[topic]} finds no CPU plug-in", advice)
    precisions = "fp32, bf16, int8" if has_bf16() else "fp32, int8; no bf16 on this processor"
    return Finding(topic, Level.OK, f"openvino {installed[topic]}: {precisions}")


def check_gpus() -> Iterator[Finding]:
    """List the GPUs. A machine without a GPU or a driver is no problem."""
    try:
        driver = driver_version()
    except BackendError as error:
        yield Finding("gpu", Level.NOTE, f"not looked for: {error}")
        return
    try:
        for number in range(device_count()):
            device = Device(number)
            free, total = device.memory()
            memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
            newest = "" if driver is None else f", CUDA {driver[0]}.{driver[1]}"
            yield Finding("gpu", Level.OK, f"cuda:{number}: {device.title}, {memory}{newest}")
    except BackendError as error:
        yield Finding("gpu", Level.NOTE if driver is None else Level.PROBLEM, str(error))


def check_tensorrt(*, has_gpu: bool = True) -> Finding:
    """Import the TensorRT library, if one is installed.

    Args:
        has_gpu: False on a machine without a usable GPU, where TensorRT cannot work and is not needed.
    """
    from rsicrc.backends.tensorrt.library import LIBRARIES, open_library

    topic = "tensorrt"
    installed = any(importlib.util.find_spec(name) is not None for name in LIBRARIES)
    if installed and not has_gpu:
        return Finding(topic, Level.NOTE, "installed, but not used without a GPU")
    try:
        library = open_library()
    except BackendError as error:
        return Finding(topic, Level.PROBLEM if installed else Level.NOTE, str(error))
    return Finding(topic, Level.OK, f"{library.name} {library.version}")


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Report the processor and the instruction sets that matter to a model."""
    model = cpu_fields(cpuinfo).get("model name") or platform.processor() or platform.machine()
    flags = cpu_flags(cpuinfo)
    features = [label for flag, label in CPU_FEATURES.items() if flag in flags]
    return Finding("cpu", Level.OK, f"{model}: {', '.join(features) or 'no AVX2, AVX-512 or AMX reported'}")


def check_threads() -> Finding:
    """Report how many threads a model will use here."""
    usable, machine = available_cpus(), os.cpu_count() or 1
    limit = f" of the machine's {machine} (affinity or container limit)" if usable < machine else ""
    return Finding("threads", Level.OK, f"{usable}{limit}")


def check_memory(meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")) -> Finding:
    """Report the memory, and the container's limit where it is lower."""
    kilobytes = {line.partition(":")[0]: line.split()[1] for line in _lines(meminfo) if len(line.split()) > 1}
    if not {"MemTotal", "MemAvailable"} <= kilobytes.keys():
        return Finding("memory", Level.NOTE, "unknown on this system")
    total, free = (1024 * int(kilobytes[name]) for name in ("MemTotal", "MemAvailable"))
    text = f"{free / 1e9:.1f} GB available of {total / 1e9:.1f} GB"
    bound = (_lines(limit) or ["max"])[0].strip()
    if bound.isdigit() and int(bound) < total:
        text += f", container limit {int(bound) / 1e9:.1f} GB"
        free = min(free, int(bound))
    if free < _LITTLE_MEMORY:
        return Finding("memory", Level.NOTE, text, "Large models may not fit: lower --batch-size and --threads")
    return Finding("memory", Level.OK, text)


def check_cache() -> Finding:
    """Report the folder for compiled graphs."""
    topic, advice = "cache", "set RSICRC_CACHE to a folder that you can write: models open faster"
    try:
        folder = user_cache()
    except RuntimeError:
        folder = None
    if folder is None:
        return Finding(topic, Level.NOTE, "no home folder, so compiled graphs are not kept", advice)
    existing = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not os.access(existing, os.W_OK):
        return Finding(topic, Level.NOTE, f"{folder}: cannot be written, so compiled graphs are not kept", advice)
    return Finding(topic, Level.OK, str(folder))


def check_model(model: Path | None) -> Finding:
    """Compare every file of the model folder with its hash."""
    from rsicrc.loading import MODEL_VARIABLE, find_model
    from rsicrc.manifest import Manifest

    try:
        folder = find_model(model)
        manifest = Manifest.load(folder)
    except ModelNotFoundError as error:
        # Without --model and $RSICRC_MODEL, a missing folder is normal for a new installation.
        asked = model is not None or bool(os.environ.get(MODEL_VARIABLE))
        return Finding("model", Level.PROBLEM if asked else Level.NOTE, str(error))
    except (RsicrcError, OSError) as error:
        return Finding("model", Level.PROBLEM, str(error))
    size = sum(record.bytes for record in manifest.files.values())
    held = f"{', '.join(manifest.precisions)}, {size / 1e6:.1f} MB, {len(manifest.files)} files"
    text = f"{folder}: {held}, all as their SHA-256 says"
    return Finding("model", Level.OK, text)


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel; none if the file is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

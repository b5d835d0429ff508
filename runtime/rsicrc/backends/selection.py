"""The choice of a backend: by the caller's settings, the installed libraries, the machine and the model folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsicrc.backends.cuda import device_count, device_number
from rsicrc.backends.onnx_file import check_graphs
from rsicrc.backends.protocol import Backend
from rsicrc.backends.table import BACKENDS, CPU, CUDA, PRECISIONS, BackendDescriptor, OpenOptions, on_device
from rsicrc.errors import ArgumentError, BackendError, RsicrcError
from rsicrc.manifest import BF16, EXACT, INT8, ON_GPU, TEXT_ENCODER, Manifest
from rsicrc.text.vocabulary import END, START
from rsicrc.untrusted.fields import shown

logger = logging.getLogger("rsicrc")

AUTO = "auto"


def at_precision(folder: Path, manifest: Manifest, precision: str, device: str = CPU) -> Manifest:
    """Return the manifest of a folder with the graphs for a precision.

    Args:
        folder: The model folder.
        manifest: The manifest of the folder.
        precision: One of `rsicrc.backends.table.PRECISIONS`.
        device: Kind of device: "cpu" or "cuda".

    Raises:
        BackendError: There is no such precision, or the folder has no graphs for it.
    """
    _require_precision(precision)
    if precision == BF16 and device == CPU:
        # OpenVINO rounds the weights to bfloat16 itself, so it opens the exact graphs.
        return replace(manifest, precision=BF16)
    variant = precision if device == CPU else ON_GPU[precision]
    if variant not in manifest.precisions:
        options = "".join(f" --precision {each}" for each in variant.split("-"))
        options += " --calibration DATA" if precision == INT8 else ""
        raise BackendError(
            f"{folder}: no graphs in {variant}, only in {', '.join(manifest.precisions)}: "
            f"export it again with `rsicrc-export CKPT -o {folder} --force{options}`"
        )
    return manifest.at(variant)


def open_backend(
    folder: Path,
    manifest: Manifest,
    device: str = AUTO,
    backend: str = AUTO,
    precision: str = EXACT,
    threads: int | None = None,
    streams: int | None = None,
    engines: Path | None = None,
) -> tuple[Backend, Manifest]:
    """Choose and open a backend.

    With the device "auto", a GPU that does not work is left out, and the log has the reason.

    Args:
        folder: The model folder.
        manifest: The manifest of the folder.
        device: See `rsicrc.load`.
        backend: See `rsicrc.load`.
        precision: See `rsicrc.load`.
        threads: See `rsicrc.load`.
        streams: See `rsicrc.load`.
        engines: See `rsicrc.load`.

    Returns:
        The backend, and the manifest with the graphs that the backend runs.

    Raises:
        BackendError: There is no such backend or device, the backend is not installed, or it cannot compute in this
            precision on this machine.
        ModelFolderError: A graph is not as rsicrc-export writes graphs; see `rsicrc.backends.onnx_file`.
        ArgumentError: `streams` or `engines` is given, but the backend has no such setting.
    """
    if engines is not None:
        backend = _backend_with_engines(backend)
    kinds = _kinds(backend)
    _require_precision(precision)
    options = OpenOptions(folder, manifest, device, threads, streams, engines)
    if device not in (AUTO, CPU):
        device_number(device)
        return _open_on_cuda(options, backend, precision)
    if kinds == [CUDA]:
        if device == CPU:
            raise BackendError(f"{backend} is for GPUs: choose another backend, or device='cuda'")
        return _open_on_cuda(replace(options, device=CUDA), backend, precision)
    if device == AUTO and CUDA in kinds and streams is None:
        try:
            opened = _open_on_cuda(replace(options, device=CUDA), backend, precision)
            _run_smallest_graph(opened[0])
            return opened
        except RsicrcError as error:
            logger.log(logging.WARNING if _has_gpu() else logging.DEBUG, "no GPU is used: %s", error)
    return _open_on_cpu(replace(options, device=CPU), backend, precision)


def _backend_with_engines(backend: str) -> str:
    """Return the backend that reads plans from a folder; "auto" could choose one that would leave the folder out."""
    names = [each.name for each in BACKENDS if each.has_engines]
    if backend not in (AUTO, *names):
        raise ArgumentError(f"engines is a setting of {' and '.join(names)}: leave it out, or choose that backend")
    return names[0] if backend == AUTO else backend


def _kinds(backend: str) -> list[str]:
    """Return the kinds of device that a backend runs on."""
    kinds = [each.device for each in BACKENDS if backend in (AUTO, each.name)]
    if not kinds:
        names = dict.fromkeys(each.name for each in BACKENDS)
        raise BackendError(f"no backend {shown(backend)}: there is {', '.join(names)}, and 'auto'")
    return kinds


def _candidates(device: str, backend: str) -> list[BackendDescriptor]:
    """Return the backends to try on a kind of device, in order of preference."""
    if backend != AUTO:
        return [each for each in on_device(device) if each.name == backend]
    preferred = [(each.preference, each) for each in on_device(device) if each.preference is not None]
    return [each for _, each in sorted(preferred, key=lambda ranked: ranked[0])]


def _open_on_cuda(options: OpenOptions, backend: str, precision: str) -> tuple[Backend, Manifest]:
    candidates = _candidates(CUDA, backend)
    if not candidates:
        names = ", ".join(each.name for each in on_device(CUDA))
        raise BackendError(f"{backend} runs on the CPU only: on a GPU there is {names}")
    _require_streams(options, candidates)
    device_count()  # first: without a driver, the messages of the libraries are misleading
    manifest = at_precision(options.folder, options.manifest, precision, CUDA)
    check_graphs(options.folder, manifest)
    options = replace(options, manifest=manifest)
    problems = []
    for candidate in candidates:
        try:
            if reason := candidate.refuses(precision):
                raise BackendError(reason)
            return candidate.open(options), manifest
        except BackendError as error:
            if backend != AUTO:
                raise
            problems.append(f"{candidate.name}: {error}")
    raise BackendError(f"no backend for {options.device}: {'; '.join(problems)}")


def _open_on_cpu(options: OpenOptions, backend: str, precision: str) -> tuple[Backend, Manifest]:
    manifest = at_precision(options.folder, options.manifest, precision)
    check_graphs(options.folder, manifest)
    problem = f"no backend computes in {precision} on a CPU"
    for candidate in _candidates(CPU, backend):
        if backend == AUTO and precision not in candidate.precisions:
            continue
        reason = candidate.refuses(precision)
        if reason is None:
            _require_streams(options, [candidate])
            return candidate.open(replace(options, manifest=manifest)), manifest
        problem = reason  # the reason of the last candidate is raised: its requirements are the smallest
    raise BackendError(problem)


def _require_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise BackendError(f"no precision {shown(precision)}: there is {', '.join(PRECISIONS)}")


def _require_streams(options: OpenOptions, candidates: list[BackendDescriptor]) -> None:
    if options.streams is not None and not any(each.has_streams for each in candidates):
        titles = " and ".join(each.title for each in BACKENDS if each.has_streams)
        raise ArgumentError(f"streams is a setting of {titles}: leave it out, or choose that backend")


def _run_smallest_graph(backend: Backend) -> None:
    """Run the text encoder on one sentence: installed libraries may still not work together."""
    ids = np.array([[START, END]], np.int64)
    backend.numpy(backend.run(TEXT_ENCODER, {"input_ids": ids})["text_embedding"])


def _has_gpu() -> bool:
    try:
        return device_count() > 0
    except BackendError:
        return False

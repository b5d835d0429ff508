"""Loading of a model folder: folder, device, backend and precision."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rsicrc.backends.selection import open_backend
from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, ModelNotFoundError
from rsicrc.files import is_folder
from rsicrc.manifest import EXACT, MANIFEST_FILE, Manifest

logger = logging.getLogger("rsicrc")

MODEL_VARIABLE = "RSICRC_MODEL"
DEFAULT_MODEL = "model"
_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_HUB = "hf:"


def find_model(model: str | Path | None = None) -> Path:
    """Return the model folder to use: the argument, else `$RSICRC_MODEL`, else `./model`.

    Raises:
        ModelNotFoundError: The folder does not exist; the message names the folder and how to make one.
    """
    variable = os.environ.get(MODEL_VARIABLE)
    if model is not None:
        folder, source = Path(model), "as asked for"
    elif variable:
        folder, source = Path(variable), f"from ${MODEL_VARIABLE}"
    else:
        folder, source = Path(DEFAULT_MODEL), f"the default; ${MODEL_VARIABLE} is not set"
    if is_folder(folder):
        return folder
    if folder.suffix.lower() in _CHECKPOINTS or str(folder).startswith(_HUB):
        name = str(model or variable)
        raise ModelNotFoundError(
            f"{name:.200}: this is a checkpoint, not a model folder: export it first with "
            f"`rsicrc-export {name:.200} -o {DEFAULT_MODEL}`, then name the folder {DEFAULT_MODEL}"
        )
    if folder.name == MANIFEST_FILE:
        raise ModelNotFoundError(f"{folder}: a file of a model folder ({source}). Name the folder")
    raise ModelNotFoundError(
        f"{folder!s:.200}: no such model folder ({source}). Make one with `rsicrc-export ckpt.pt -o {folder!s:.200}`, "
        f"or name another with --model, model= or ${MODEL_VARIABLE}"
    )


def load(
    model: str | Path | None = None,
    device: str = "auto",
    *,
    backend: str = "auto",
    precision: str = EXACT,
    threads: int | None = None,
    streams: int | None = None,
    engines: str | Path | None = None,
) -> Engine:
    """Open a model folder. Its files are checked against the hashes in the manifest; graphs are opened at first use.

    Args:
        model: The folder; see `find_model` for the default.
        device: "cpu"; "cuda" or "cuda:N" for a GPU; or "auto" for a GPU if one works. The log `rsicrc` (level INFO)
            names the choice.
        backend: "onnxruntime" or "openvino"; on a GPU "tensorrt", "onnxruntime" or "onnxruntime-tensorrt"; or "auto" to
            choose by the installed packages and the machine.
        precision: "fp32", which is exact; or "fp16", "bf16" or "int8" (docs/precisions.md has their use and accuracy).
        threads: Number of threads for the graphs; by default as many as this process may use.
        streams: Number of parts of a batch that OpenVINO computes at the same time, sharing the threads; by default 1.
        engines: Folder of TensorRT plans, made by `rsicrc-export --tensorrt --engines`. Plans are code that the GPU and
            this process run: name a folder only if you trust whoever made it. By default, plans are read from the
            user's cache and built there if they are missing. `engines` of a model folder is never read by itself.

    Raises:
        ModelNotFoundError: The folder does not exist.
        ModelFolderError: The folder is damaged, incomplete or of a newer format.
        BackendError: There is no such backend or device, or the backend, the processor or the folder lacks the
            precision, or no plan in `engines` fits.
        ArgumentError: `threads` or `streams` is not positive, or the backend has no streams or plans.
    """
    for name, value in (("threads", threads), ("streams", streams)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name} must be at least 1, not {value}")
    folder = find_model(model)
    plans = None if engines is None else Path(engines)
    opened, manifest = open_backend(folder, Manifest.load(folder), device, backend, precision, threads, streams, plans)
    if "auto" in (device, backend):
        logger.info("%s: %s, %s on %s with %d threads", folder, precision, opened.name, opened.device, opened.threads)
    return Engine(folder, manifest, opened)

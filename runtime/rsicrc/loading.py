"""Loading of a model folder: folder, device, backend and precision."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rsicrc.backends.selection import open_backend
from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, ModelNotFoundError
from rsicrc.manifest import EXACT, Manifest

logger = logging.getLogger("rsicrc")

MODEL_VARIABLE = "RSICRC_MODEL"
DEFAULT_MODEL = "model"


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
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{folder}: no such model folder ({source}). Make one with `rsicrc-export ckpt.pt -o {folder}`, "
            f"or name another with --model, model= or ${MODEL_VARIABLE}"
        )
    return folder


def load(
    model: str | Path | None = None,
    device: str = "auto",
    *,
    backend: str = "auto",
    precision: str = EXACT,
    threads: int | None = None,
    streams: int | None = None,
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

    Raises:
        ModelNotFoundError: The folder does not exist.
        ModelFolderError: The folder is damaged, incomplete or of a newer format.
        BackendError: There is no such backend or device, or the backend, the processor or the folder lacks the
            precision.
        ArgumentError: `threads` or `streams` is not positive, or the backend has no streams.
    """
    for name, value in (("threads", threads), ("streams", streams)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name} must be at least 1, not {value}")
    folder = find_model(model)
    opened, manifest = open_backend(folder, Manifest.load(folder), device, backend, precision, threads, streams)
    if "auto" in (device, backend):
        logger.info("%s: %s, %s on %s with %d threads", folder, precision, opened.name, opened.device, opened.threads)
    return Engine(folder, manifest, opened)

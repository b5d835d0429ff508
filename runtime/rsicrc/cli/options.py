"""What several commands need: options, and the name of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

# A file that a user names. Whether it is there and good is the work's matter (exit code 1), not the parser's.
FILE = click.Path(path_type=Path)

model_option = click.option(
    "--model", type=FILE, metavar="DIR", help="Model folder. [default: $RSICRC_MODEL, else ./model]"
)
_Command = TypeVar("_Command", bound=Callable[..., Any])
# How `rsicrc.load` is to open the model, beside its folder.
_ENGINE_OPTIONS = {
    "device": click.option(
        "--device",
        metavar="NAME",
        default="auto",
        help="cpu, cuda or cuda:N; auto is a GPU that works. [default: auto]",
    ),
    "backend": click.option(
        "--backend",
        metavar="NAME",
        default="auto",
        help="onnxruntime; on a CPU openvino; on a GPU tensorrt, or onnxruntime-tensorrt. [default: auto]",
    ),
    "precision": click.option(
        "--precision",
        metavar="NAME",
        default="fp32",
        help="fp32 is exact; bf16 and int8 are faster; fp16 is for GPUs. [default: fp32]",
    ),
    "threads": click.option("--threads", type=click.IntRange(min=1), help="Threads of the model. [default: all cores]"),
    "streams": click.option(
        "--streams",
        type=click.IntRange(min=1),
        help="OpenVINO: parts of a batch that share the threads. [default: 1]",
    ),
}
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def engine_options(command: _Command) -> _Command:
    """Add the options that say how the model is to run; the command gets them as one dict `settings` for `load`."""

    @wraps(command)
    def grouped(*args: Any, **options: Any) -> Any:
        settings = {name: options.pop(name) for name in _ENGINE_OPTIONS}
        return command(*args, **options, settings=settings)

    for option in reversed(_ENGINE_OPTIONS.values()):
        grouped = option(grouped)
    return grouped  # type: ignore[return-value]


def model_id(folder: Path, precision: str = "fp32") -> str:
    """Name a model folder by its content, in 12 characters: its manifest holds the hash of every other file.

    A precision other than the exact one follows behind a dash, for it gives other results.
    """
    from rsicrc.manifest import EXACT, MANIFEST_FILE, sha256_file

    name = sha256_file(folder / MANIFEST_FILE)[:12]
    return name if precision == EXACT else f"{name}-{precision}"

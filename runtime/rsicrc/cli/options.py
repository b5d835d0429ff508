"""Options that several commands share, and the functions that use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rsicrc import __version__
from rsicrc.cli.console import WRONG_USAGE

if TYPE_CHECKING:
    from rsicrc.engine import Engine

AUTO = "auto"
# Settings of `typer.Typer`. Help in colors would import rich, which takes longer than the help itself.
APP_SETTINGS: Final[dict[str, Any]] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{context.find_root().info_name} {__version__}")
        raise typer.Exit


def _show_log(wanted: bool) -> None:
    if wanted:
        from rsicrc.cli.log import show_all

        show_all()


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
]
Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", callback=_show_log, help="Show the log on stderr: choices, details, warnings."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Model = Annotated[
    Path | None,
    typer.Option("--model", metavar="DIR", help="Model folder. [default: $RSICRC_MODEL, else ./model]"),
]
Beams = Annotated[
    int | None,
    typer.Option("--beams", metavar="N", min=1, help="Width of the beam search; 1 is greedy. [default: the model's]"),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", metavar="N", min=1, help="Pairs that go through the model together.")
]
Match = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--match",
        metavar="BEFORE AFTER",
        help="Patterns of the image names in folders, with {id} for the common part.",
    ),
]

# Options of `rsicrc.load`.
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="cpu, cuda or cuda:N; auto takes a GPU if one works.")
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="onnxruntime; on a CPU also openvino; on a GPU also tensorrt or onnxruntime-tensorrt; auto chooses.",
    ),
]
Precision = Annotated[
    str,
    typer.Option("--precision", metavar="NAME", help="fp32 is exact; bf16 and int8 are faster; fp16 is for GPUs."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="CPU threads that the model uses. [default: all cores]"),
]
Streams = Annotated[
    int | None,
    typer.Option("--streams", metavar="N", min=1, help="Parts of a batch that OpenVINO computes at once. [default: 1]"),
]
Engines = Annotated[
    Path | None,
    typer.Option(
        "--engines",
        metavar="DIR",
        help="Folder of TensorRT plans that you trust: plans are code. [default: the user's cache]",
    ),
]


def require_command(context: typer.Context) -> None:
    """Print the help to stderr and exit with code 2 if the command line names no sub-command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(WRONG_USAGE)


def engine_settings(
    device: str, backend: str, precision: str, threads: int | None, streams: int | None, engines: Path | None
) -> dict[str, Any]:
    """Return the options of the engine as arguments of `rsicrc.load` by name."""
    return {
        "device": device,
        "backend": backend,
        "precision": precision,
        "threads": threads,
        "streams": streams,
        "engines": engines,
    }


def report_choice(engine: Engine, settings: dict[str, Any]) -> None:
    """Print the device, backend, precision and threads to stderr if the device or the backend was `auto`.

    Call this function when all arguments have been checked: a wrong argument is reported as one line.

    Args:
        engine: The engine.
        settings: Arguments of `rsicrc.load` that it was opened with.
    """
    from rsicrc.cli.log import shows_information

    # With --verbose, `rsicrc.load` writes the same to the log.
    if AUTO not in (settings["device"], settings["backend"]) or shows_information():
        return
    backend = engine.backend
    threads = f"{backend.threads} thread{'' if backend.threads == 1 else 's'}"
    typer.echo(f"rsicrc: {backend.name} on {backend.device}, {settings['precision']}, {threads}", err=True)


def check_folder_of(path: Path | None) -> None:
    """Fail before the work, not after it, if the folder of an output file is missing.

    Raises:
        OSError: The folder is missing or cannot be read.
    """
    if path is not None:
        path.parent.stat()


def model_id(folder: Path, precision: str = "fp32") -> str:
    """Return the identifier of a model folder (see `rsicrc.manifest.model_id`)."""
    from rsicrc.manifest import model_id

    return model_id(folder, precision)

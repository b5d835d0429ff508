"""`rsicrc-export`: from a checkpoint to a model folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from rsicrc import __version__
from rsicrc.cli.console import run_command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", metavar="CKPT")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="model", show_default=True, help="Its folder.")
@click.option("--force", is_flag=True, help="Replace the model folder; the old one stays until the new one is proven.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    multiple=True,
    help="Another precision beside fp32, which is always there; int8 with --calibration. May be repeated.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="A couple of hundred real pairs, for int8: a data set such as LEVIR-CC, or a table.",
)
@click.option("--tensorrt", is_flag=True, help="Build TensorRT plans too, into the folder's `engines`.")
@click.option(
    "--profile",
    "profiles",
    metavar="PAIRS,BEAMS",
    multiple=True,
    help="For which sizes plans are built, MIN:OPT:MAX each; may be repeated.  [default: 1:8:64,1:3:8]",
)
@click.option("--config", type=click.Path(path_type=Path), help="config.json of the published weights.")
@click.option("--vocab", type=click.Path(path_type=Path), help="levir_vocab.json of the published weights.")
@click.version_option(__version__, prog_name="rsicrc-export")
def command(
    checkpoint: str,
    output: Path,
    force: bool,
    precisions: tuple[str, ...],
    calibration: Path | None,
    tensorrt: bool,
    profiles: tuple[str, ...],
    config: Path | None,
    vocab: Path | None,
) -> None:
    """Export CKPT to a model folder: ONNX graphs, each proven equal to the PyTorch model.

    CKPT is a checkpoint of rsicrc-train, or published weights (a state dict) with their --config and --vocab; a file,
    or a reference to the Hugging Face hub, hf:owner/repo[/file].
    """
    if (config is None) != (vocab is None):
        raise click.UsageError("published weights need both --config and --vocab")
    if "int8" in precisions and calibration is None:
        raise click.UsageError(
            "--precision int8 needs --calibration: a couple of hundred real pairs like those that the model is for, "
            "in a data set such as LEVIR-CC or a table (CSV with the columns before and after)"
        )
    others = tuple(dict.fromkeys(each for each in precisions if each != "fp32"))
    if calibration is not None and not others:
        raise click.UsageError("--calibration goes with --precision int8, fp16 or bf16")

    if profiles and not tensorrt:
        raise click.UsageError("--profile goes with --tensorrt")

    from rsicrc_export import hub, tensorrt_plans as plans
    from rsicrc_export.model_folder import check_target, export_checkpoint
    from rsicrc_export.source import Source

    check_target(output, force=force)  # before a download or anything else that takes long
    builder = plans.PlanBuilder.open(profiles) if tensorrt else None
    files = hub.resolve(checkpoint) if hub.is_reference(checkpoint) else hub.HubCheckpoint(Path(checkpoint))
    with _log_on_stderr():
        manifest = export_checkpoint(
            Source.read(files.weights, config or files.config, vocab or files.vocab),
            output,
            force=force,
            precisions=others,
            calibration=calibration,
        )
        if builder is not None:
            builder.build(output, manifest)
    click.echo(output)


def main() -> NoReturn:
    """Run the command line."""
    run_command(command, "rsicrc-export", extra="export")


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show the lines of the log `rsicrc.export` on stderr while the block runs."""
    logger = logging.getLogger("rsicrc.export")
    handler = logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)

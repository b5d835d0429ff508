"""The program `rsicrc-export`, and the command `rsicrc-train evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rsicrc.cli.commands.evaluate import (
    Data,
    EvaluationOptions,
    Html,
    Limit,
    Masks,
    Output,
    Scene,
    Split,
    run_evaluation,
)
from rsicrc.cli.console import UsageError, run_command
from rsicrc.cli.options import (
    APP_SETTINGS,
    AUTO,
    Backend,
    Beams,
    Device,
    Engines,
    Json,
    Precision,
    Streams,
    Threads,
    Verbose,
    Version,
    engine_settings,
)

app = typer.Typer(**APP_SETTINGS)
evaluate_app = typer.Typer(**APP_SETTINGS)


class ExportPrecision(StrEnum):
    """Precisions that can be exported."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", show_default=False, help="Checkpoint to export.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Model folder to create.")] = Path(
        "model"
    ),
    force: Annotated[
        bool, typer.Option("--force", help="Replace the model folder; the old one stays until the new one is checked.")
    ] = False,
    precisions: Annotated[
        list[ExportPrecision] | None,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="Export fp16, bf16 or int8 in addition to fp32, which is always exported; int8 needs --calibration. "
            "May be repeated.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="DATA",
            help="A few hundred real pairs for int8: a data set such as LEVIR-CC, or a table.",
        ),
    ] = None,
    per_image: Annotated[
        bool,
        typer.Option(
            "--per-image",
            help="Also write the image encoder in two parts, for series of dates: each image is encoded only once.",
        ),
    ] = False,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Also build TensorRT plans, in the user's cache.")
    ] = False,
    engines: Annotated[
        Path | None,
        typer.Option(
            "--engines",
            metavar="DIR",
            help="Folder for the TensorRT plans, to ship them: plans are code, so whoever uses them must trust you.",
        ),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="PAIRS,BEAMS",
            help="Sizes that the TensorRT plans are built for, MIN:OPT:MAX each; may be repeated. "
            "[default: 1:8:64,1:3:8]",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="config.json of published weights.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option("--vocab", metavar="FILE", help="levir_vocab.json of published weights.")
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            "--pixel-size",
            metavar="METERS",
            help="Pixel size of the training images on the ground, for `rsicrc-run scene`: 0.5 for LEVIR-CC. "
            "[default: that of the training]",
        ),
    ] = None,
    image_side: Annotated[
        int | None,
        typer.Option(
            "--image-side",
            metavar="PIXELS",
            help="Side of the training images: 256 for LEVIR-CC. [default: that of the training]",
        ),
    ] = None,
    version: Version = False,
    verbose: Verbose = False,
) -> None:
    """Export CKPT to a model folder: ONNX graphs, each compared with the PyTorch model.

    CKPT is a checkpoint of rsicrc-train, or published weights (a state dict) with their --config and --vocab; a file,
    or a reference to the Hugging Face hub, hf:owner/repo[@revision][/file], such as hf:RogerFerrod/RSICRC.
    """
    chosen = [precision.value for precision in precisions or ()]
    if (config is None) != (vocab is None):
        raise UsageError("published weights need both --config and --vocab")
    if "int8" in chosen and calibration is None:
        raise UsageError(
            "--precision int8 needs --calibration: a few hundred real pairs like those that the model is for, "
            "in a data set such as LEVIR-CC or a table (CSV with the columns before and after)"
        )
    others = tuple(dict.fromkeys(each for each in chosen if each != "fp32"))
    if calibration is not None and not others:
        raise UsageError("--calibration goes with --precision int8, fp16 or bf16")

    if profiles and not tensorrt:
        raise UsageError("--profile goes with --tensorrt")
    if engines is not None and not tensorrt:
        raise UsageError("--engines goes with --tensorrt")

    from rsicrc.cli.log import show_information
    from rsicrc_export import hub, tensorrt_plans as plans
    from rsicrc_export.model_folder import check_target, export_checkpoint
    from rsicrc_export.precisions import PrecisionError
    from rsicrc_export.source import Source

    check_target(output, force=force)  # before a download or other long work
    builder = plans.PlanBuilder.open(profiles or (), engines) if tensorrt else None
    files = hub.resolve(checkpoint) if hub.is_reference(checkpoint) else hub.HubCheckpoint(Path(checkpoint))
    show_information("rsicrc.export")
    source = Source.read(files.weights, config or files.config, vocab or files.vocab)
    try:
        manifest = export_checkpoint(
            source,
            output,
            force=force,
            precisions=others,
            calibration=calibration,
            pixel_size=pixel_size,
            image_side=image_side,
            per_image=per_image,
        )
    except PrecisionError as error:
        if builder is not None:
            builder.build(output, error.manifest)
        raise
    if builder is not None:
        builder.build(output, manifest)
    typer.echo(output)


@evaluate_app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", show_default=False, help="Checkpoint to evaluate.")],
    data: Data,
    split: Split = "test",
    beams: Beams = None,
    limit: Limit = None,
    as_json: Json = False,
    output: Output = None,
    html: Html = None,
    masks: Masks = None,
    scene: Scene = None,
    device: Device = AUTO,
    backend: Backend = AUTO,
    precision: Precision = "fp32",
    threads: Threads = None,
    streams: Streams = None,
    engines: Engines = None,
    verbose: Verbose = False,
) -> None:
    """Measure the captions, text search and change decisions of CKPT on DATA, as `rsicrc-run evaluate` does.

    The checkpoint is exported to a temporary folder, so the metrics are those of the exported model.
    """
    from rsicrc.datasets.registry import read_split
    from rsicrc_export.temporary import temporary_export

    settings = engine_settings(device, backend, precision, threads, streams, engines)
    read_split(data, split)  # the export takes longer: report errors in the data before it
    with temporary_export(checkpoint) as folder:
        run_evaluation(
            data, folder, EvaluationOptions(split, beams, limit, as_json, output, html, masks, scene, settings)
        )


def main() -> NoReturn:
    """Run `rsicrc-export` on the process's arguments and leave with its exit code."""
    run_command(app, "rsicrc-export", extra="export")

"""The program `rsicrc-train`: data, training, and studies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rsicrc.cli.console import FAILED, UsageError, progress, run_command
from rsicrc.cli.options import APP_SETTINGS, Json, Verbose, Version, require_command
from rsicrc.cli.plugins import plugin_group
from rsicrc_train.quoting import quote

# `evaluate` exports a checkpoint and belongs to rsicrc_export, which registers the command by an entry point.
app = typer.Typer(cls=plugin_group("rsicrc_train.commands", {"evaluate": "export"}), **APP_SETTINGS)

Data = Annotated[
    Path, typer.Argument(metavar="DATA", show_default=False, help="Data set or table with captioned pairs.")
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda; auto takes a GPU if there is one.")
]


@app.callback(invoke_without_command=True)
def start(ctx: typer.Context, version: Version = False, verbose: Verbose = False) -> None:
    """Train models that describe and find changes between two images of one place."""
    require_command(ctx)
    from rsicrc.cli.log import show_information

    show_information("rsicrc.train")


@app.command()
def synth(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", show_default=False, help="New folder for the data.")
    ],
    pairs: Annotated[
        int | None, typer.Option("--pairs", metavar="N", min=1, show_default=False, help="Number of pairs to generate.")
    ] = None,
    scene: Annotated[
        str | None,
        typer.Option(
            "--scene",
            metavar="WIDTHxHEIGHT",
            help="Instead of pairs, one large pair as GeoTIFF files with its changes as GeoJSON; size in pixels.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed generates the same bytes.")] = 0,
    splits: Annotated[
        str, typer.Option("--splits", metavar="SHARES", help="Share of each split of the data.")
    ] = "train=0.8,val=0.1,test=0.1",
    grounds: Annotated[
        str, typer.Option("--grounds", metavar="NAMES", help="Kinds of terrain, separated by commas.")
    ] = "bareland,meadow,woods",
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            metavar="FOLDER",
            show_default=False,
            help="Compose the pairs from the aerial photographs of this folder instead of drawing them.",
        ),
    ] = None,
    drawn: Annotated[
        float, typer.Option("--drawn", metavar="SHARE", min=0, max=1, help="Share of drawn scenes with --photos.")
    ] = 0.0,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Processes that make images.")] = 1,
    verbose: Verbose = False,
) -> None:
    """Generate captioned pairs in the layout of LEVIR-CC, or one large georeferenced pair, into DIRECTORY.

    Without --photos, the scenes are drawn. With --photos, the pairs are composed from photographs of one date: parcels
    of other land, houses, roads and trees appear or disappear, and both dates get their own season, sun and camera.
    Name subfolders or files by their land (forest/1.jpg, denseresidential07.jpg), so that the captions can name the
    land; the masks of the changes are written into images/*/label.
    """
    from rsicrc_train.composites.dataset import compose
    from rsicrc_train.synth import generate, generate_scene

    if scene is not None and pairs is None:
        match = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", scene)
        if match is None:
            raise UsageError(f"--scene {quote(scene)} is not of the form 2048x2048")
        width, height = int(match[1]), int(match[2])
        with progress(height, "drawing") as advance:
            generate_scene(directory, width, height, seed, advance)
        typer.echo(directory)
        return
    if scene is not None or pairs is None:
        raise UsageError("give either --pairs N or --scene WIDTHxHEIGHT")
    try:
        shares = {name: float(share) for name, share in (part.split("=") for part in splits.split(","))}
    except ValueError:
        raise UsageError(f"--splits {quote(splits)} is not of the form train=0.8,val=0.1,test=0.1") from None
    if photos is None and drawn:
        raise UsageError("--drawn needs --photos: without photographs, all scenes are drawn")
    with progress(pairs, "drawing" if photos is None else "composing") as advance:
        if photos is None:
            generate(directory, pairs, seed, shares, workers, advance, grounds.split(","))
        else:
            compose(directory, photos, pairs, seed, shares, drawn, workers, advance)
    typer.echo(directory)


@app.command()
def fit(
    data: Data,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", show_default=False, help="Folder of the training run.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME", help="Model and training options: a name, or a YAML file. [default: tiny]"
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Passes over the training data. [default: the recipe's]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Pairs in a training step. [default: the recipe's]")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", metavar="X", help="Highest learning rate of the schedule. [default: the recipe's]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="Seed of weights, order and augmentation. [default: the recipe's]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Processes that read images. [default: the recipe's]")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="WEIGHTS",
            help="Start the trunk from CLIP weights: a file, or hf:owner/repo[@revision]/file.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Set any other training option of the recipe; may be repeated."
        ),
    ] = None,
    device: Device = "auto",
    devices: Annotated[
        int, typer.Option("--devices", metavar="N", min=1, help="Number of devices on each machine.")
    ] = 1,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, help="Number of machines.")] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the run in the output folder, with its own recipe; other options are refused."
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Train on DATA; the best checkpoint becomes best.pt in the run's folder.

    DATA is a folder in the layout of LEVIR-CC, SECOND-CC, Dubai-CC or CLEVR-Change, or a table with the columns before,
    after, captions and split.
    """
    from contextlib import nullcontext

    from rsicrc.progress import ignore_progress
    from rsicrc_train.recipes import load_recipe, parse_setting
    from rsicrc_train.run_folder import check_resumed_options
    from rsicrc_train.trainer import Trainer

    overrides: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "workers": workers,
    }
    for name, value in map(parse_setting, settings or ()):
        if overrides.get(name) not in (None, value):
            raise UsageError(f"{name} is given twice, as {overrides[name]} and as {value}")
        overrides[name] = value
    chosen = load_recipe(recipe or "tiny", overrides)
    if resume:
        check_resumed_options(output, recipe, overrides)
    trainer = Trainer(data, output, chosen, resume=resume, init=init, device=device, devices=devices, nodes=nodes)
    bar = progress(trainer.total_steps, "training", completed=trainer.state.step)
    with bar if trainer.is_main_process else nullcontext(ignore_progress) as advance:
        best = trainer.fit(advance)
    if trainer.is_main_process:
        typer.echo(best)


@app.command("check-data")
def check_data(
    data: Data,
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="NAME", help="Recipe of the training: a name, or a YAML file."),
    ] = "tiny",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="CKPT", help="Use the vocabulary of this checkpoint, not that of the data."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Threads that read images. [default: all cores]")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check DATA for faults, and print what a training with the recipe would use of it.

    DATA is a folder in the layout of LEVIR-CC, SECOND-CC, Dubai-CC or CLEVR-Change, or a table with the columns before,
    after, captions and split. Faults are missing and broken images, pairs of unequal size, and pairs in two splits; the
    exit code is 1 if there are any. Long captions, unknown words, and pairs that occur twice in a split or belong to an
    unknown split are only counted.
    """
    import json

    from rsicrc.datasets.registry import read_splits, unknown_splits
    from rsicrc_train.data_check import check_data as check
    from rsicrc_train.data_use import describe_use
    from rsicrc_train.recipes import load_recipe
    from rsicrc_train.vocabulary_source import find_vocabulary

    splits = read_splits(data)
    vocabulary = find_vocabulary(splits, recipe, checkpoint)
    use = describe_use(splits, vocabulary, load_recipe(recipe).training)
    with progress(None, "reading") as advance:
        found = check(splits, vocabulary, unknown_splits=unknown_splits(data), workers=workers, advance=advance)
    if as_json:
        document = {"data": str(data), **found.to_dict(), "training": use.to_dict()}
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        for split, pairs in found.pairs.items():
            changed = found.changed[split]
            typer.echo(f"{split}: {pairs} pairs, {changed} of them changed ({100 * changed / pairs:.1f} %)")
        typer.echo(f"vocabulary: {found.words} words")
        for line in use.lines():
            typer.echo(line)
        for finding in found.findings:
            typer.echo(f"{finding.count:>8} {finding.message}")
            for example in finding.examples:
                typer.echo(f"{'':>11}{example}")
    if not found.sound:
        raise typer.Exit(FAILED)


@app.command()
def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", show_default=False, help="Description of the study.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", show_default=False, help="Folder for data, runs and the table."),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Run the short form of the study; use another output folder for it.")
    ] = False,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Train and evaluate every cell of a study, and write the metrics as one table and as curves.

    Finished cells are kept and unfinished cells resumed: the same command continues an interrupted study.
    """
    from rsicrc_train.study.run import run_study
    from rsicrc_train.study.spec import read_study
    from rsicrc_train.study.table import TABLE

    run_study(read_study(study, quick=quick), output, device=device)
    typer.echo((output / TABLE).read_text(encoding="utf-8"), nl=False)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN…", show_default=False, help="Folders of training runs.")
    ],
    curves: Annotated[
        Path | None, typer.Option("--curves", metavar="FILE.png", help="Draw the losses of all runs into this file.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare training runs: metrics, options and data that differ, and validation losses."""
    import json

    from rsicrc_train import comparison

    if len(runs) < 2:
        raise UsageError("name at least two runs")
    read = [comparison.read_run(folder) for folder in runs]
    if curves is not None:
        comparison.draw_comparison(read, curves)
    if as_json:
        typer.echo(json.dumps(comparison.to_dict(read), ensure_ascii=False, indent=2))
        return
    for number, table in enumerate(comparison.tables(read)):
        if number:
            typer.echo()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for name, *values in table:
            typer.echo("  ".join([name.ljust(widths[0]), *map(str.rjust, values, widths[1:])]))


def main() -> NoReturn:
    """Run `rsicrc-train` on the process's arguments and leave with its exit code."""
    run_command(app, "rsicrc-train", extra="train")


if __name__ == "__main__":
    main()

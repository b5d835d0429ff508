"""`rsicrc-train`: generate scenes, train a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsicrc import __version__
from rsicrc.cli.commands.evaluate import evaluation_options, run_evaluation
from rsicrc.cli.console import FAILED, progress, run_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rsicrc-train")
def commands() -> None:
    """Train models that describe and find changes between two images of one place."""


@commands.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--pairs", type=click.IntRange(min=1), required=True, help="How many pairs to make.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same bytes.")
@click.option("--splits", default="train=0.8,val=0.1,test=0.1", show_default=True, help="Each split's share.")
@click.option("--grounds", default="bareland,meadow,woods", show_default=True, help="Kinds of scene.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that draw.")
def synth(directory: Path, pairs: int, seed: int, splits: str, grounds: str, workers: int) -> None:
    """Generate captioned scenes in LEVIR-CC's layout into DIRECTORY."""
    from rsicrc_train.synth import generate

    try:
        shares = {name: float(share) for name, share in (part.split("=") for part in splits.split(","))}
    except ValueError:
        raise click.UsageError(f"--splits {splits!r} is not of the form train=0.8,val=0.1,test=0.1") from None
    with progress(pairs, "drawing") as advance:
        generate(directory, pairs, seed, shares, workers, advance, grounds.split(","))
    click.echo(directory)


@commands.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option("--recipe", default="tiny", show_default=True, help="A recipe's name, or a YAML file.")
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@click.option("--batch-size", type=int, help="Instead of the recipe's.")
@click.option("--learning-rate", type=float, help="Instead of the recipe's.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option("--workers", type=int, help="Processes that read images, instead of the recipe's.")
@click.option("--init", metavar="WEIGHTS", help="Start the trunk from CLIP weights: a file, or hf:owner/repo/file.")
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any training option instead of the recipe's; repeat.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Devices of each machine.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Machines.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, by the recipe it began with.")
def fit(
    data: Path,
    output: Path,
    recipe: str,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int | None,
    workers: int | None,
    init: str | None,
    settings: tuple[str, ...],
    device: str,
    devices: int,
    nodes: int,
    resume: bool,
) -> None:
    """Train on DATA; the best checkpoint becomes best.pt in the run's folder.

    DATA is a folder in the layout of LEVIR-CC, SECOND-CC, Dubai-CC or CLEVR-Change, or a table with the columns before,
    after, captions and split.
    """
    from contextlib import nullcontext

    from rsicrc.progress import ignore_progress
    from rsicrc_train.recipes import load_recipe, parse_setting
    from rsicrc_train.trainer import Trainer

    overrides = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "workers": workers,
        **dict(map(parse_setting, settings)),
    }
    chosen = load_recipe(recipe, overrides)
    trainer = Trainer(data, output, chosen, resume=resume, init=init, device=device, devices=devices, nodes=nodes)
    bar = progress(trainer.total_steps, "training", completed=trainer.state.step)
    with bar if trainer.is_main_process else nullcontext(ignore_progress) as advance:
        best = trainer.fit(advance)
    if trainer.is_main_process:
        click.echo(best)


@commands.command()
@click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@evaluation_options
def evaluate(ctx: click.Context, checkpoint: Path, data: Path, split: str, **options: Any) -> None:
    """Measure the captions, text search and change decisions of CKPT on DATA, as `rsicrc-run evaluate` does.

    The checkpoint is exported to a folder that is not kept, so the figures are those of the model that will be used.
    """
    from rsicrc.datasets.registry import read_split
    from rsicrc_train.exported import exported

    read_split(data, split)  # the export takes longer: what is wrong with the data is said before it
    with exported(checkpoint) as folder:
        run_evaluation(ctx, data, folder, split=split, **options)


@commands.command("check-data")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--recipe", default="tiny", show_default=True, help="Whose longest caption counts: a name, or a YAML file."
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Whose words count, instead of the data's own.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that read images. [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def check_data(
    ctx: click.Context, data: Path, recipe: str, checkpoint: Path | None, workers: int | None, as_json: bool
) -> None:
    """Look DATA over: missing and broken images, pairs in two splits, captions that the model would cut.

    DATA is a folder in the layout of LEVIR-CC, SECOND-CC, Dubai-CC or CLEVR-Change, or a table with the columns before,
    after, captions and split. Exits with 1 if anything is wrong; long captions and unknown words are only counted.
    """
    import json

    from rsicrc.datasets.registry import read_splits
    from rsicrc_train.data_check import check_data as check
    from rsicrc_train.vocabulary_source import find_vocabulary

    splits = read_splits(data)
    vocabulary = find_vocabulary(splits, recipe, checkpoint)
    with progress(None, "reading") as advance:
        found = check(splits, vocabulary, workers=workers, advance=advance)
    if as_json:
        click.echo(json.dumps({"data": str(data), **found.to_dict()}, ensure_ascii=False, indent=2))
    else:
        for split, pairs in found.pairs.items():
            click.echo(f"{split}: {pairs} pairs, {found.changed[split]} of them changed")
        click.echo(f"vocabulary: {found.words} words")
        for finding in found.findings:
            click.echo(f"{finding.count:>8} {finding.message}")
            for example in finding.examples:
                click.echo(f"{'':>11}{example}")
    if not found.sound:
        ctx.exit(FAILED)


@commands.command()
@click.argument("study", metavar="STUDY.yaml", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for data, runs and table.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def study(study: Path, output: Path, device: str) -> None:
    """Train and evaluate every cell of a study, and put the figures into one table and curves.

    Finished cells are kept and unfinished ones resumed: the same command goes on after a stop.
    """
    from rsicrc_train.study.run import run_study
    from rsicrc_train.study.spec import read_study
    from rsicrc_train.study.table import TABLE

    run_study(read_study(study), output, device=device)
    click.echo((output / TABLE).read_text(encoding="utf-8"), nl=False)


def main() -> None:
    """Run the command line."""
    run_command(commands, "rsicrc-train", extra="train")


if __name__ == "__main__":
    main()

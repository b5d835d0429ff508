"""The command `rsicrc-run evaluate`: metrics of a model folder on captioned pairs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsicrc.cli.console import FAILED, UsageError, progress
from rsicrc.cli.options import (
    AUTO,
    Backend,
    Beams,
    Device,
    Engines,
    Json,
    Model,
    Precision,
    Streams,
    Threads,
    Verbose,
    check_folder_of,
    engine_settings,
    model_id,
    report_choice,
)
from rsicrc.files import replacing

if TYPE_CHECKING:
    from rsicrc.evaluation.evaluate import EvaluationReport

_ABSENT = "–"


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation command.

    Attributes:
        split: Part of the data set: "train", "val" or "test".
        beams: Width of the beam search; None for the model's default.
        limit: Number of pairs to evaluate; None for all.
        as_json: Print one JSON document instead of tables.
        output: JSON lines file for the caption and scores of each pair.
        html: File for a page with selected pairs.
        masks: Folder with a mask of the change for each pair; None without masks.
        scene: Regular expression that finds the scene of a pair in its file name; None without scenes.
        settings: Arguments of `rsicrc.load` beyond the folder.
    """

    split: str
    beams: int | None
    limit: int | None
    as_json: bool
    output: Path | None
    html: Path | None
    masks: Path | None
    scene: str | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Table:
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | None]]

    def lines(self) -> list[tuple[str, ...]]:
        """Return the header and the rows as text."""
        body = [(name, *map(_number, values)) for name, values in self.rows.items()]
        return [(self.title, *self.columns), *body]


Data = Annotated[
    Path, typer.Argument(metavar="DATA", show_default=False, help="Data set or table with captioned pairs.")
]
Split = Annotated[str, typer.Option("--split", metavar="NAME", help="Part of the data set: train, val or test.")]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, help="Evaluate only this number of pairs, from the first. [default: all]"
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="JSONL", help="Write the caption and scores of each pair.")
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="PAGE", help="Write a page with the best, worst and misjudged pairs.")
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        metavar="FOLDER",
        help="Masks of the change, under the file names of the after images; not black is changed.",
    ),
]
Scene = Annotated[
    str | None,
    typer.Option(
        "--scene",
        metavar="REGEX",
        help="Scene of a pair in its file name, such as 'test_([0-9]+)': intervals are drawn over scenes. "
        "[default: every pair]",
    ),
]


def evaluate(
    data: Data,
    model: Model = None,
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
    """Measure a model's captions, text search and change decisions.

    DATA is a folder in the layout of LEVIR-CC, SECOND-CC, Dubai-CC or CLEVR-Change, or a table with the columns before,
    after, captions and split. Needs pycocoevalcap.

    Captions are compared with references with their final period, as in the published code ("published"), and
    without ("period-free", as in other publications). Retrieval finds pairs by text: in the published protocol each
    pair's first caption is a query, and pairs with the same label or first caption are right; in the strict protocol
    all captions of changed pairs are queries, and only the caption's own pair is right.

    The change score is compared with the plain difference of pixels, by the area under the ROC curve with its 95 %
    interval, and the captions of changed pairs with the best fixed sentence. With --masks, pairs without changed pixels
    are also compared with pairs of which at least 1 % has changed.
    """
    settings = engine_settings(device, backend, precision, threads, streams, engines)
    options = EvaluationOptions(split, beams, limit, as_json, output, html, masks, scene, settings)
    run_evaluation(data, model, options)


def run_evaluation(data: Path, model: Path | None, options: EvaluationOptions) -> None:
    """Evaluate a model folder, print the metrics and write the requested files.

    Args:
        data: The data set or table.
        model: The model folder; None for the default.
        options: Options of the command.

    Raises:
        typer.Exit: Pairs could not be evaluated; the code is 1.
    """
    from rsicrc.datasets.registry import read_split
    from rsicrc.evaluation.evaluate import Truth, evaluate_pairs
    from rsicrc.loading import load

    truth = Truth(options.masks, _compiled(options.scene))
    check_folder_of(options.output)
    check_folder_of(options.html)
    split = options.split
    pairs = read_split(data, split)[: options.limit]
    engine = load(model, **options.settings)
    report_choice(engine, options.settings)
    with progress(len(pairs), "evaluating") as advance:
        report = evaluate_pairs(engine, pairs, beams=options.beams, truth=truth, advance=advance)
    if options.as_json:
        source = {"data": str(data), "split": split, "model": model_id(engine.folder, engine.manifest.precision)}
        typer.echo(json.dumps({**source, **report.to_dict()}, ensure_ascii=False, indent=2))
    else:
        typer.echo(f"{data}, {split}: {report.pairs} pairs, {report.changed} of them changed; {report.beams} beams")
        _print_tables(list(_tables(report)))
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    if options.output is not None:
        with (
            replacing(options.output) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
        ):
            for prediction in report.predictions:
                file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")
    if options.html is not None:
        from rsicrc.reports.evaluation_page import render_evaluation_page

        page = render_evaluation_page(engine, report, f"{data.name}, {split}")
        with replacing(options.html) as temporary:
            temporary.write_text(page, encoding="utf-8")
    if report.failed:
        raise typer.Exit(FAILED)


def _compiled(scene: str | None) -> re.Pattern[str] | None:
    try:
        return None if scene is None else re.compile(scene)
    except re.error as error:
        raise UsageError(f"--scene {scene!r} is not a regular expression: {error}") from error


def _tables(report: EvaluationReport) -> Iterator[_Table]:
    from rsicrc.evaluation.evaluate import ALL, CHANGED, STRICT
    from rsicrc.evaluation.metrics.captioning import PERIOD_FREE, PROTOCOLS, PUBLISHED

    yield _Table("Headline metrics", ("",), {name: [value] for name, value in report.headline().items()})
    subsets = {ALL: "all pairs", CHANGED: "changed"}
    parts = [report.captions.get(subset, {}).get(protocol, {}) for subset in subsets for protocol in PROTOCOLS]
    columns = [f"{name}, {protocol}" for name in subsets.values() for protocol in (PERIOD_FREE, PUBLISHED)]
    yield _side_by_side("Captions", columns, parts)
    for protocol in (PUBLISHED, STRICT):
        parts = [report.retrieval.get(subset, {}).get(protocol, {}) for subset in subsets]
        yield _side_by_side(f"Retrieval, {protocol}", list(subsets.values()), parts)
    yield _side_by_side("Change or not", [f"by {name}" for name in report.change], list(report.change.values()))
    for truth, values in report.separation.items():
        names = {"model": "change_score", "baseline": "pixel difference", "difference": "difference of both"}
        rows = {names[name]: list(interval.values()) for name, interval in values.items()}
        yield _Table(f"Changed from unchanged, by {truth}", ("AUC", "from", "to"), rows)
    yield _side_by_side("Captions of changed pairs", list(report.fixed), list(report.fixed.values()))


def _side_by_side(title: str, columns: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> _Table:
    names = dict.fromkeys(name for part in parts for name in part)
    return _Table(title, tuple(columns), {name: [part.get(name) for part in parts] for name in names})


def _print_tables(tables: Sequence[_Table]) -> None:
    tables = [table for table in tables if table.rows]
    if sys.stdout.isatty():
        _print_rich(tables)
        return
    for table in tables:
        lines = table.lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        typer.echo()
        for name, *values in lines:
            cells = [name.ljust(widths[0]), *map(str.rjust, values, widths[1:])]
            typer.echo("  ".join(cells).rstrip())


def _print_rich(tables: Sequence[_Table]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for table in tables:
        (title, *columns), *rows = table.lines()
        picture = Table(title, box=SIMPLE_HEAD)
        for column in columns:
            picture.add_column(column, justify="right")
        for row in rows:
            picture.add_row(*row)
        console.print(picture)


def _number(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.4f}"

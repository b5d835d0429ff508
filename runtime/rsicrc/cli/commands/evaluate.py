"""`rsicrc-run evaluate`: how good a model folder is on captioned pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsicrc.cli.console import FAILED, progress
from rsicrc.cli.options import FILE, engine_options, json_option, model_id, model_option
from rsicrc.files import replacing

if TYPE_CHECKING:
    from rsicrc.evaluation.evaluate import EvaluationReport

_ABSENT = "–"


@dataclass(frozen=True)
class _Table:
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | None]]

    def lines(self) -> list[tuple[str, ...]]:
        """Return the header and the rows as text."""
        body = [(name, *map(_number, values)) for name, values in self.rows.items()]
        return [(self.title, *self.columns), *body]


def evaluation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `run_evaluation`."""
    for option in (
        click.option("--split", default="test", show_default=True, help="train, val or test."),
        click.option(
            "--beams", type=click.IntRange(min=1), help="Width of the beam search; 1 is greedy. [default: the model's]"
        ),
        click.option("--limit", type=click.IntRange(min=1), help="Only the first so many pairs."),
        json_option,
        click.option("-o", "--output", type=FILE, metavar="JSONL", help="Write what was said about each pair."),
        click.option("--html", type=FILE, metavar="PAGE", help="Write the best, worst and most wrong pairs as a page."),
        engine_options,
        click.pass_context,
    )[::-1]:
        command = option(command)
    return command


@click.command()
@click.argument("data", type=FILE)
@model_option
@evaluation_options
def evaluate(ctx: click.Context, data: Path, model: Path | None, **options: Any) -> None:
    """Measure a model's captions, text search and change decisions.

    DATA is a folder in the layout of LEVIR-CC, SECOND-CC, Dubai-CC or CLEVR-Change, or a table with the columns before,
    after, captions and split. Needs pycocoevalcap.

    Captions are measured against references with their final period, as in the published code ("published"), and
    without ("period-free", as others report). Retrieval looks for pairs by text: in the published protocol each pair's
    first caption is a query, and pairs with the same label or first caption are right; in the strict one all captions
    of changed pairs are queries, and only the own pair is right.
    """
    run_evaluation(ctx, data, model, **options)


def run_evaluation(
    ctx: click.Context,
    data: Path,
    model: Path | None,
    *,
    split: str,
    beams: int | None,
    limit: int | None,
    as_json: bool,
    output: Path | None,
    html: Path | None,
    settings: dict[str, Any],
) -> None:
    """Evaluate a model folder, print the figures and write what else was asked for."""
    from rsicrc.datasets.registry import read_split
    from rsicrc.evaluation.evaluate import evaluate_pairs
    from rsicrc.loading import load

    for path in (output, html):
        if path is not None:
            path.parent.stat()  # a folder that is not there is no news for the end of a long run
    pairs = read_split(data, split)[:limit]
    engine = load(model, **settings)
    with progress(len(pairs), "evaluating") as advance:
        report = evaluate_pairs(engine, pairs, beams=beams, advance=advance)
    if as_json:
        source = {"data": str(data), "split": split, "model": model_id(engine.folder, engine.manifest.precision)}
        click.echo(json.dumps({**source, **report.to_dict()}, ensure_ascii=False, indent=2))
    else:
        click.echo(f"{data}, {split}: {report.pairs} pairs, {report.changed} of them changed; {report.beams} beams")
        _print_tables(list(_tables(report)))
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    if output is not None:
        with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
            for prediction in report.predictions:
                file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")
    if html is not None:
        from rsicrc.reports.evaluation_page import render_evaluation_page

        page = render_evaluation_page(engine, report, f"{data.name}, {split}")
        with replacing(html) as temporary:
            temporary.write_text(page, encoding="utf-8")
    if report.failed:
        ctx.exit(FAILED)


def _tables(report: EvaluationReport) -> Iterator[_Table]:
    from rsicrc.evaluation.evaluate import ALL, BY_CAPTION, BY_SCORE, CHANGED, STRICT
    from rsicrc.evaluation.metrics.captioning import PERIOD_FREE, PROTOCOLS, PUBLISHED

    yield _Table("Headline metrics", ("",), {name: [value] for name, value in report.headline().items()})
    subsets = {ALL: "all pairs", CHANGED: "changed"}
    parts = [report.captions.get(subset, {}).get(protocol, {}) for subset in subsets for protocol in PROTOCOLS]
    columns = [f"{name}, {protocol}" for name in subsets.values() for protocol in (PERIOD_FREE, PUBLISHED)]
    yield _side_by_side("Captions", columns, parts)
    for protocol in (PUBLISHED, STRICT):
        parts = [report.retrieval.get(subset, {}).get(protocol, {}) for subset in subsets]
        yield _side_by_side(f"Retrieval, {protocol}", list(subsets.values()), parts)
    parts = [report.change.get(name, {}) for name in (BY_CAPTION, BY_SCORE)]
    yield _side_by_side("Change or not", ["by caption", "by change_score"], parts)


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
        click.echo()
        for name, *values in lines:
            cells = [name.ljust(widths[0]), *map(str.rjust, values, widths[1:])]
            click.echo("  ".join(cells).rstrip())


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

"""The command `rsicrc-run search`: text and image retrieval in an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsicrc.cli.console import UsageError
from rsicrc.cli.options import (
    AUTO,
    Backend,
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
    report_choice,
)

if TYPE_CHECKING:
    from rsicrc.index.hits import Hits
    from rsicrc.index.index import Index

_PAGES = (".html", ".htm")
_MAPS = (".geojson", ".json")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", show_default=False, help="Index folder.")]
Text = Annotated[
    str | None, typer.Argument(metavar="TEXT", show_default=False, help="Description of the change to find.")
]
Like = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--like", metavar="BEFORE AFTER", show_default=False, help="Search by an example instead of a text."),
]
Count = Annotated[int, typer.Option("-k", metavar="N", min=1, help="Number of pairs to show.")]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="SQL",
        help='Show only pairs that meet this condition, e.g. "change_score > 0.5 and year = 2020".',
    ),
]
Rerank = Annotated[
    int, typer.Option("--rerank", metavar="N", min=0, help="Reorder the first N pairs by the decoder's probabilities.")
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a report with images, as one file that needs no network."),
]
Sheet = Annotated[
    Path | None, typer.Option("--sheet", metavar="PNG", help="Draw the content of the report as one image.")
]
Places = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="GEOJSON", help="Write the tiles of scenes that were found, with their places."
    ),
]


def search(
    index: IndexFolder,
    text: Text = None,
    like: Like = None,
    k: Count = 10,
    where: Where = None,
    rerank: Rerank = 0,
    as_json: Json = False,
    output: Places = None,
    html: Html = None,
    sheet: Sheet = None,
    model: Model = None,
    device: Device = AUTO,
    backend: Backend = AUTO,
    precision: Precision = "fp32",
    threads: Threads = None,
    streams: Streams = None,
    engines: Engines = None,
    verbose: Verbose = False,
) -> None:
    """Find the pairs in INDEX that show the change described by TEXT, best first.

    The index records its model; --model names the folder if it has moved.

    --rerank reads the images of the first N pairs again and computes the probability of TEXT for each with the decoder.
    The order is better, and the search takes longer.
    """
    settings = engine_settings(device, backend, precision, threads, streams, engines)
    if (text is None) == (like is None):
        raise UsageError("give either a TEXT or --like BEFORE AFTER")
    if like is not None and rerank:
        raise UsageError("--rerank goes with a TEXT: an example has no words")
    for option, path, suffixes in (("-o", output, _MAPS), ("--html", html, _PAGES), ("--sheet", sheet, _PICTURES)):
        if path is not None and path.suffix.lower() not in suffixes:
            raise UsageError(f"{option} {path}: the name must end in one of {', '.join(suffixes)}")
        check_folder_of(path)
    from rsicrc.index.index import Index

    opened = Index.open(index, model, **settings)
    hits = opened.search(text if text is not None else (like or ()), k, where=where, rerank=rerank)
    report_choice(opened.engine, settings)
    if as_json:
        typer.echo(json.dumps(_document(opened, hits, where), ensure_ascii=False, indent=2, default=str))
    else:
        _print(hits)
    if not len(hits):
        typer.echo("no pair to show" if where is None else f"no pair for which {where}", err=True)
    if output is not None:
        from rsicrc.index.places import write_hits

        write_hits(hits, output)
        typer.echo(f"map: {output}", err=True)
    if html is not None or sheet is not None:
        _report(opened, hits, where, html, sheet)


def _document(index: Index, hits: Hits, where: str | None) -> dict[str, Any]:
    from rsicrc.results import rounded

    return {
        "query": hits.query,
        "unknown_words": list(hits.unknown),
        "where": where,
        "index": str(index.store.folder),
        "pairs": len(index),
        "hits": [rounded(row) for row in hits],
    }


def _print(hits: Hits) -> None:
    rows = hits.to_list()
    width = max((len(row["id"]) for row in rows), default=0)
    for row in rows:
        numbers = f"{row['similarity']:7.4f}"
        if "log_prob" in row:
            numbers += f"  {row['log_prob']:9.3f}" if row["log_prob"] is not None else " " * 11
        typer.echo(f"{row['rank']:3d}  {numbers}  {row['id']:{width}}  {row['caption'] or ''}".rstrip())
        typer.secho(f"     {row['before']} → {row['after']}", dim=True)


def _report(index: Index, hits: Hits, where: str | None, html: Path | None, sheet: Path | None) -> None:
    from rsicrc.files import replacing
    from rsicrc.reports.contact_sheet import draw_contact_sheet
    from rsicrc.reports.html import make_cards, make_heading, render_page

    heading = make_heading(hits, len(index), where)
    cards = make_cards(index.engine, hits)
    if html is not None:
        with replacing(html) as temporary:
            temporary.write_text(render_page(heading, cards), encoding="utf-8")
        typer.echo(f"report: {html}", err=True)
    if sheet is not None:
        picture = draw_contact_sheet(heading, cards)
        with replacing(sheet) as temporary:
            picture.save(temporary)
        typer.echo(f"sheet: {sheet}", err=True)

"""`rsicrc-run search`: find pairs in an index by text or by example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsicrc.cli.options import FILE, engine_options, json_option, model_option

if TYPE_CHECKING:
    from rsicrc.index.hits import Hits
    from rsicrc.index.index import Index

_PAGES = (".html", ".htm")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@click.command()
@click.argument("index", type=FILE)
@click.argument("text", required=False)
@click.option("--like", type=FILE, nargs=2, metavar="BEFORE AFTER", help="Search by an example instead of a text.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many pairs to show.")
@click.option(
    "--where", metavar="SQL", help='Only pairs for which this holds, e.g. "change_score > 0.5 and year = 2020".'
)
@click.option(
    "--rerank", type=click.IntRange(min=0), default=0, metavar="N", help="Order the first N by the decoder as well."
)
@json_option
@click.option("--html", type=FILE, metavar="FILE", help="Write a report with pictures, one file that opens offline.")
@click.option("--sheet", type=FILE, metavar="PNG", help="Draw the same as one picture.")
@model_option
@engine_options
def search(
    index: Path,
    text: str | None,
    like: tuple[Path, Path] | None,
    k: int,
    where: str | None,
    rerank: int,
    as_json: bool,
    html: Path | None,
    sheet: Path | None,
    model: Path | None,
    settings: dict[str, Any],
) -> None:
    """Find the pairs in INDEX that show what TEXT says, best first.

    The model is the one that the index was made with; --model names it where its folder has moved.

    --rerank reads the images of the first N pairs again and asks the captioning half of the model how probable TEXT is
    for each, which orders them better and takes longer.
    """
    if (text is None) == (like is None):
        raise click.UsageError("give either a TEXT or --like BEFORE AFTER")
    if like is not None and rerank:
        raise click.UsageError("--rerank goes with a TEXT: an example has no words")
    for option, path, suffixes in (("--html", html, _PAGES), ("--sheet", sheet, _PICTURES)):
        if path is not None and path.suffix.lower() not in suffixes:
            raise click.UsageError(f"{option} {path}: the name must end in one of {', '.join(suffixes)}")
        if path is not None:
            path.parent.stat()  # a folder that is not there is no news for the end
    from rsicrc.index.index import Index

    opened = Index.open(index, model, **settings)
    hits = opened.search(text if text is not None else (like or ()), k, where=where, rerank=rerank)
    if as_json:
        click.echo(json.dumps(_document(opened, hits, where), ensure_ascii=False, indent=2, default=str))
    else:
        _print(hits)
    if not len(hits):
        click.echo("no pair to show" if where is None else f"no pair for which {where}", err=True)
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
        figures = f"{row['similarity']:7.4f}"
        if "log_prob" in row:
            figures += f"  {row['log_prob']:9.3f}" if row["log_prob"] is not None else " " * 11
        click.echo(f"{row['rank']:3d}  {figures}  {row['id']:{width}}  {row['caption'] or ''}".rstrip())
        click.secho(f"     {row['before']} → {row['after']}", dim=True)


def _report(index: Index, hits: Hits, where: str | None, html: Path | None, sheet: Path | None) -> None:
    from rsicrc.files import replacing
    from rsicrc.reports.contact_sheet import draw_contact_sheet
    from rsicrc.reports.html import make_cards, make_heading, render_page

    heading = make_heading(hits, len(index), where)
    cards = make_cards(index.engine, hits)
    if html is not None:
        with replacing(html) as temporary:
            temporary.write_text(render_page(heading, cards), encoding="utf-8")
        click.echo(f"report: {html}", err=True)
    if sheet is not None:
        picture = draw_contact_sheet(heading, cards)
        with replacing(sheet) as temporary:
            picture.save(temporary)
        click.echo(f"sheet: {sheet}", err=True)

"""`rsicrc-run index`: make pairs searchable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsicrc.cli.console import FAILED, INTERRUPTED, progress
from rsicrc.cli.options import FILE, engine_options, model_option

_LISTED = 20


@click.command()
@click.argument("pairs", type=FILE)
@click.argument("after", type=FILE, required=False)
@click.option("-o", "--output", type=FILE, metavar="INDEX", required=True, help="The index: a folder, new or not.")
@click.option("--captions", is_flag=True, help="Write a caption and a change score for each pair too.")
@model_option
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@engine_options
@click.pass_context
def index(
    ctx: click.Context,
    pairs: Path,
    after: Path | None,
    output: Path,
    captions: bool,
    model: Path | None,
    batch_size: int,
    settings: dict[str, Any],
) -> None:
    """Make pairs of images searchable by text.

    PAIRS is a table with the columns `before` and `after` (CSV, JSON lines or Parquet; other columns, such as a date or
    a place, can be searched by), a folder in LEVIR-CC's layout, or a folder with the folders A and B in it. With AFTER,
    PAIRS is the folder of the earlier images, and AFTER has the later ones under the same names.

    An index grows: only what is new or changed goes through the model. A run that was stopped goes on where it was when
    the same command is run again.
    """
    from rsicrc.index.index import Index
    from rsicrc.index.source import read_source

    rows = read_source(pairs, after)
    opened = Index.create(output, model, **settings)
    earlier = len(opened)
    try:
        with progress(len(rows), "indexing") as advance:
            added = opened.add(rows, captions=captions, batch_size=batch_size, advance=advance)
    except KeyboardInterrupt:
        click.echo(f"interrupted; {len(opened) - earlier} new pairs are kept, run the same command to go on", err=True)
        ctx.exit(INTERRUPTED)
    counts = {
        "new": added.new,
        "changed": added.changed,
        "captioned": added.captioned,
        "updated": added.updated,
        "unchanged": added.unchanged,
        "failed": len(added.failures),
    }
    done = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    click.echo(f"{output}: {len(opened)} pairs ({done})")
    for number, (row_id, problem) in enumerate(added.failures.items()):
        if number == _LISTED:
            click.echo(f"… and {len(added.failures) - _LISTED} more", err=True)
            break
        click.echo(f"failed: {row_id}: {problem}", err=True)
    if added.failures:
        ctx.exit(FAILED)

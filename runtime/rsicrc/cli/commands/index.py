"""The command `rsicrc-run index`: an index of image pairs for text search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsicrc.cli.console import FAILED, InterruptedCommand, progress
from rsicrc.cli.options import (
    AUTO,
    Backend,
    BatchSize,
    Device,
    Engines,
    Match,
    Model,
    Precision,
    Streams,
    Threads,
    Verbose,
    report_choice,
)

_LISTED = 20


Pairs = Annotated[
    Path,
    typer.Argument(
        metavar="PAIRS", show_default=False, help="Table, data set or folder with the pairs, or - for a table on stdin."
    ),
]
After = Annotated[
    Path | None,
    typer.Argument(
        metavar="AFTER", show_default=False, help="Folder of the later images; PAIRS has the earlier images."
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="INDEX", show_default=False, help="Index folder to create or extend.")
]
Captions = Annotated[bool, typer.Option("--captions", help="Also store a caption and a change score for each pair.")]


def index(
    pairs: Pairs,
    output: Output,
    after: After = None,
    match: Match = None,
    captions: Captions = False,
    model: Model = None,
    batch_size: BatchSize = 32,
    device: Device = AUTO,
    backend: Backend = AUTO,
    precision: Precision = "fp32",
    threads: Threads = None,
    streams: Streams = None,
    engines: Engines = None,
    verbose: Verbose = False,
) -> None:
    """Make pairs of images searchable by text.

    PAIRS is a table with the columns `before` and `after` (CSV, JSON lines or Parquet; other columns, such as a date or
    a place, can be used in `search --where`), a folder in the layout of LEVIR-CC, or a folder that contains the folders
    A and B. With AFTER, PAIRS is the folder of the earlier images, and AFTER has the later images under the same names.
    If the names differ, --match gives their patterns: --match 't1_{id}.png' 't2_{id}.png'.

    Only new or changed pairs go through the model. The same command continues an interrupted run.
    """
    from rsicrc.errors import printable
    from rsicrc.index.index import Index
    from rsicrc.index.source import read_source

    settings = {
        "device": device,
        "backend": backend,
        "precision": precision,
        "threads": threads,
        "streams": streams,
        "engines": engines,
    }
    rows = read_source(pairs, after, match)
    opened = Index.create(output, model, **settings)
    report_choice(opened.engine, settings)
    earlier = len(opened)
    try:
        with progress(len(rows), "indexing") as advance:
            added = opened.add(rows, captions=captions, batch_size=batch_size, advance=advance)
    except KeyboardInterrupt:
        message = f"interrupted; {len(opened) - earlier} new pairs are kept, run the same command to continue"
        raise InterruptedCommand(message) from None
    counts = {
        "new": added.new,
        "changed": added.changed,
        "captioned": added.captioned,
        "updated": added.updated,
        "unchanged": added.unchanged,
        "failed": len(added.failures),
    }
    done = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    typer.echo(f"{output}: {len(opened)} pairs ({done})")
    for number, (row_id, problem) in enumerate(added.failures.items()):
        if number == _LISTED:
            typer.echo(f"… and {len(added.failures) - _LISTED} more", err=True)
            break
        typer.echo(f"failed: {printable(row_id)}: {problem}", err=True)
    if added.failures:
        raise typer.Exit(FAILED)

"""The command `rsicrc-run index`: an index of image pairs for text search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rsicrc.cli.console import FAILED, InterruptedCommand, UsageError, progress
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
    engine_settings,
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

IsScene = Annotated[
    bool, typer.Option("--scene", help="PAIRS and AFTER are two georeferenced images; their tiles are indexed.")
]
AnyResolution = Annotated[
    bool, typer.Option("--any-resolution", help="With --scene: take the pixels as they are, however coarse or fine.")
]


def index(
    pairs: Pairs,
    output: Output,
    after: After = None,
    match: Match = None,
    captions: Captions = False,
    scene: IsScene = False,
    any_resolution: AnyResolution = False,
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

    With --scene, PAIRS and AFTER are two GeoTIFF or JPEG 2000 files, as for `scene`; their tiles are indexed with their
    places, which `search -o hits.geojson` writes.

    Only new or changed pairs go through the model. The same command continues an interrupted run.
    """
    from rsicrc.index.index import Index
    from rsicrc.index.source import read_source

    settings = engine_settings(device, backend, precision, threads, streams, engines)
    if scene:
        if after is None or match is not None:
            raise UsageError("--scene goes with two files, BEFORE AFTER, and without --match")
        _index_scene(pairs, after, output, captions, any_resolution, batch_size, model, settings)
        return
    if any_resolution:
        raise UsageError("--any-resolution goes with --scene")
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
    _report(output, len(opened), counts, added.failures)


def _index_scene(
    before: Path,
    after: Path,
    output: Path,
    captions: bool,
    any_resolution: bool,
    batch_size: int,
    model: Path | None,
    settings: dict[str, Any],
) -> None:
    from rsicrc.index.index import Index
    from rsicrc.scenes.scene import Scene

    opened_scene = Scene.open(before, after, any_resolution=any_resolution)  # before an index is created
    from rsicrc.cli.scene_index import add_scene

    opened = Index.create(output, model, **settings)
    report_choice(opened.engine, settings)
    plan = opened_scene.plan(opened.engine.manifest)
    earlier = len(opened)
    try:
        with progress(len(plan.boxes), "indexing") as advance:
            added = add_scene(opened, opened_scene, captions=captions, batch_size=batch_size, advance=advance)
    except KeyboardInterrupt:
        message = f"interrupted; {len(opened) - earlier} new tiles are kept, run the same command to continue"
        raise InterruptedCommand(message) from None
    counts = {
        "written": added.added,
        "unchanged": added.unchanged,
        "left out": added.left_out,
        "failed": len(added.failures),
    }
    _report(output, len(opened), counts, added.failures)


def _report(output: Path, pairs: int, counts: Mapping[str, int], failures: Mapping[str, str]) -> None:
    from rsicrc.errors import printable

    done = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    typer.echo(f"{output}: {pairs} pairs ({done})")
    for number, (row_id, problem) in enumerate(failures.items()):
        if number == _LISTED:
            typer.echo(f"… and {len(failures) - _LISTED} more", err=True)
            break
        typer.echo(f"failed: {printable(row_id)}: {problem}", err=True)
    if failures:
        raise typer.Exit(FAILED)

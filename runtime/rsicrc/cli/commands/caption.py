"""The command `rsicrc-run caption`: captions for one pair of images or a table of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rsicrc.cli.console import FAILED, InterruptedCommand, UsageError, progress
from rsicrc.cli.options import (
    AUTO,
    Backend,
    BatchSize,
    Beams,
    Device,
    Engines,
    Match,
    Model,
    Precision,
    Streams,
    Threads,
    Verbose,
    engine_settings,
    model_id,
    report_choice,
)
from rsicrc.errors import RsicrcError

if TYPE_CHECKING:
    from rsicrc.engine import Engine
    from rsicrc.results import Caption, Explanation
    from rsicrc.timings import Timings

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


Before = Annotated[Path | None, typer.Argument(metavar="BEFORE", show_default=False, help="Image before the change.")]
After = Annotated[
    Path | None, typer.Argument(metavar="AFTER", show_default=False, help="Image after the change, of the same size.")
]
NBest = Annotated[
    int, typer.Option("--n-best", metavar="N", min=1, help="Number of captions to print, at most the number of beams.")
]
LengthPenalty = Annotated[
    float | None,
    typer.Option("--length-penalty", metavar="X", help="Values above 0 favor longer captions. [default: the model's]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document (always JSON lines with --pairs).")]
Heatmap = Annotated[
    Path | None, typer.Option("--heatmap", metavar="PNG", help="Draw which part of the images each word comes from.")
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="PAIRS",
        help="Caption all pairs of this table, data set or folder, or - for a table on stdin.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="JSONL", help="File for the captions of --pairs, one a line. [default: stdout]"
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an output file made with another model or other options.")
]
Tile = Annotated[
    bool,
    typer.Option("--tile", help="Cover the images with overlapping square tiles; print the strongest change first."),
]
ShowTimings = Annotated[bool, typer.Option("--timings", help="Print the time of each part of the work to stderr.")]


def caption(
    before: Before = None,
    after: After = None,
    model: Model = None,
    beams: Beams = None,
    n_best: NBest = 1,
    length_penalty: LengthPenalty = None,
    as_json: Json = False,
    heatmap: Heatmap = None,
    pairs: Pairs = None,
    match: Match = None,
    output: Output = None,
    batch_size: BatchSize = 32,
    force: Force = False,
    tile: Tile = False,
    timings: ShowTimings = False,
    device: Device = AUTO,
    backend: Backend = AUTO,
    precision: Precision = "fp32",
    threads: Threads = None,
    streams: Streams = None,
    engines: Engines = None,
    verbose: Verbose = False,
) -> None:
    """Describe the change between two images of the same place.

    BEFORE and AFTER are PNG, JPEG, TIFF, WebP or BMP images of the same size.

    --pairs takes a table (CSV, JSON lines or Parquet) with the columns `before` and `after` (paths, relative to the
    file), and `id` if rows have names; other columns are copied to the output. It also takes a folder with the folders
    A and B, or a data set of a known layout. If BEFORE and AFTER are folders, their images of the same name are pairs;
    if the names differ, --match gives their patterns: --match 't1_{id}.png' 't2_{id}.png'. One JSON line is written
    for each pair. With -o, the same command continues an interrupted run and tries failed pairs again.
    """
    search = {"beams": beams, "n_best": n_best, "length_penalty": length_penalty}
    settings = engine_settings(device, backend, precision, threads, streams, engines)
    later = None
    if pairs is None and before is not None and after is not None and before.is_dir() and after.is_dir():
        pairs, later, before, after = before, after, None, None
    if pairs is not None:
        if before is not None or heatmap is not None or tile:
            raise UsageError("--pairs goes with neither BEFORE and AFTER nor --heatmap or --tile")
        if output is not None and output.exists() and pairs.exists() and output.samefile(pairs):
            raise UsageError("-o is the table itself: give another file")
        _caption_table((pairs, later, match), model, settings, search, output, batch_size, force, timings)
        return
    if before is None or after is None:
        raise UsageError("give two images, BEFORE and AFTER, or a table of them with --pairs")
    if output is not None or force:
        raise UsageError("-o and --force go with --pairs or two folders")
    if match is not None:
        raise UsageError("--match goes with --pairs or two folders")
    if tile and heatmap is not None:
        raise UsageError("--heatmap does not go with --tile")
    if heatmap is not None and heatmap.suffix.lower() not in _PICTURES:
        raise UsageError(f"--heatmap {heatmap}: the name must end in one of {', '.join(_PICTURES)}")
    if tile:
        _caption_tiles(before, after, model, settings, search, as_json)
        return
    _caption_one(before, after, model, settings, search, as_json, heatmap, timings)


def _caption_one(
    before: Path,
    after: Path,
    model: Path | None,
    settings: dict[str, Any],
    search: dict[str, Any],
    as_json: bool,
    heatmap: Path | None,
    timings: bool,
) -> None:
    from rsicrc.inputs.images import load_pair
    from rsicrc.loading import load

    pair = load_pair((before, after))  # before the model is loaded, so that a wrong path is reported at once
    engine = load(model, **settings)
    result, explanation = _caption_and_explain(engine, pair, search, explain=heatmap is not None)
    report_choice(engine, settings)
    if as_json:
        from rsicrc.results import rounded

        made = {"before": str(before), "after": str(after), "model": model_id(engine.folder, engine.manifest.precision)}
        document = {**made, **rounded(result.to_dict())}
        if timings:
            document["timings"] = rounded(result.timings.to_dict())
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        _print_caption(result)
        if timings:
            _print_timings(result.timings)
    if heatmap is not None:
        if explanation is None:
            raise RsicrcError("no heat map: the caption has no words")
        from rsicrc.files import replacing
        from rsicrc.reports.heatmap import draw_heatmap

        picture = draw_heatmap(*pair, explanation)
        with replacing(heatmap) as temporary:
            picture.save(temporary)
        typer.echo(f"heat map: {heatmap}", err=True)


def _caption_and_explain(
    engine: Engine, pair: Any, search: dict[str, Any], *, explain: bool
) -> tuple[Caption, Explanation | None]:
    """Caption a pair and, if wanted, return the attention of each word; None for a caption without words."""
    if not explain:
        return engine.caption([pair], **search)[0], None
    explanation = engine.explain(pair, **search)
    caption = cast("Caption", explanation.caption)  # part of the result since no text was given
    return caption, explanation if caption.text else None


def _caption_tiles(
    before: Path, after: Path, model: Path | None, settings: dict[str, Any], search: dict[str, Any], as_json: bool
) -> None:
    from rsicrc.inputs.images import load_pair
    from rsicrc.loading import load
    from rsicrc.results import rounded

    pair = load_pair((before, after))
    engine = load(model, **settings)
    captions = engine.caption_tiles(pair, **search)
    report_choice(engine, settings)
    if as_json:
        made = {"before": str(before), "after": str(after), "model": model_id(engine.folder, engine.manifest.precision)}
        tiles = [rounded(caption.to_dict()) for caption in captions]
        typer.echo(json.dumps({**made, "tiles": tiles}, ensure_ascii=False, indent=2))
        return
    for caption in captions:
        left, top, right, bottom = caption.seen.box if caption.seen is not None else (0, 0, 0, 0)
        typer.secho(caption.text or "(no words)", bold=True)
        typer.echo(f"columns {left} to {right}, rows {top} to {bottom}   {_metrics(caption)}")
        for line in caption.warnings:
            typer.echo(f"note: {line}", err=True)


def _metrics(caption: Caption) -> str:
    decision = {True: " (changed)", False: " (unchanged)", None: ""}[caption.changed]
    # A person reads the value that decides; `--json` has both.
    value = caption.change_score if caption.change_probability is None else caption.change_probability
    change = "" if value is None else f"   change {value:.3f}{decision}"
    return f"score {caption.score:.4f}{change}"


def _print_caption(result: Caption) -> None:
    typer.secho(result.text or "(no words)", bold=True)
    typer.echo(_metrics(result))
    if len(result.n_best) > 1:
        typer.echo()
        for rank, hypothesis in enumerate(result.n_best, start=1):
            typer.echo(f"{rank:3d}  {hypothesis.score:9.4f}  {hypothesis.text or '(no words)'}")
    for line in result.warnings:
        typer.echo(f"note: {line}", err=True)


def _print_timings(timings: Timings) -> None:
    spent = timings.to_dict()
    typer.echo(f"{spent.pop('pairs')} pairs, {spent.pop('decoder_steps')} decoder steps, milliseconds", err=True)
    for part, seconds in spent.items():
        typer.echo(f"  {part:<14}{1e3 * seconds:10.2f}", err=True)


def _caption_table(
    source: tuple[Path, Path | None, tuple[str, str] | None],
    model: Path | None,
    settings: dict[str, Any],
    search: dict[str, Any],
    output: Path | None,
    batch_size: int,
    force: bool,
    timings: bool,
) -> None:
    from rsicrc.cli.captions_file import CaptionsFile, caption_rows, require_json_lines
    from rsicrc.datasets.source import read_source
    from rsicrc.decoding.options import CaptionOptions
    from rsicrc.inputs.pair_table import RESULT_COLUMNS
    from rsicrc.loading import load

    require_json_lines(output)
    rows = read_source(*source, taken=RESULT_COLUMNS)
    engine = load(model, **settings)
    options = CaptionOptions(**search)
    provenance = {
        "model": model_id(engine.folder, engine.manifest.precision),
        "search": str(options.resolve(engine.manifest)),
    }
    captions = CaptionsFile(output, rows, provenance, replace=force)
    report_choice(engine, settings)
    earlier = len(captions.done)
    if earlier:
        typer.echo(f"{earlier} of {len(rows)} rows are done already", err=True)
    try:
        with progress(len(rows), "captioning", completed=earlier) as advance:
            spent = caption_rows(engine, rows, captions, options, batch_size=batch_size, advance=advance)
    except KeyboardInterrupt:
        again = "; run the same command to continue" if output is not None else ""
        raise InterruptedCommand(f"interrupted after {len(captions.done)} of {len(rows)}{again}") from None
    if timings:
        _print_timings(spent)
    if captions.failed:
        again = "; run the same command to try them again" if output is not None else ""
        typer.echo(f"{captions.failed} of {len(rows)} rows failed, see 'error' in their lines{again}", err=True)
        raise typer.Exit(FAILED)

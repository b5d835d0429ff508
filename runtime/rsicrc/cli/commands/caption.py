"""`rsicrc-run caption`: one pair on the command line, or a table of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsicrc.cli.console import FAILED, INTERRUPTED, progress
from rsicrc.cli.options import FILE, engine_options, model_id, model_option

if TYPE_CHECKING:
    from rsicrc.results import Caption
    from rsicrc.timings import Timings

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@click.command()
@click.argument("before", type=FILE, required=False)
@click.argument("after", type=FILE, required=False)
@model_option
@click.option(
    "--beams", type=click.IntRange(min=1), help="Width of the beam search; 1 is greedy. [default: the model's]"
)
@click.option("--n-best", type=click.IntRange(min=1), default=1, help="Print that many captions, at most one a beam.")
@click.option("--length-penalty", type=float, help="Above 0 favors longer captions. [default: the model's]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (JSON lines with --pairs).")
@click.option("--heatmap", type=FILE, metavar="PNG", help="Draw where the model looked for each word.")
@click.option("--pairs", type=FILE, metavar="CSV", help="Caption every row of a table instead.")
@click.option("-o", "--output", type=FILE, metavar="JSONL", help="With --pairs: where to write. [default: stdout]")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="With --pairs.")
@click.option("--force", is_flag=True, help="With -o: replace captions that this run would not make.")
@click.option("--timings", is_flag=True, help="Say where the time went.")
@engine_options
@click.pass_context
def caption(
    ctx: click.Context,
    before: Path | None,
    after: Path | None,
    model: Path | None,
    beams: int | None,
    n_best: int,
    length_penalty: float | None,
    as_json: bool,
    heatmap: Path | None,
    pairs: Path | None,
    output: Path | None,
    batch_size: int,
    force: bool,
    timings: bool,
    settings: dict[str, Any],
) -> None:
    """Say what changed between two images of the same place.

    BEFORE and AFTER are PNG, JPEG, TIFF, WebP or BMP images of the same size.

    --pairs takes a CSV file with the columns `before` and `after` (paths, relative to the file), and `id` if rows have
    names; other columns are passed through. It writes a JSON line for each row. With -o, a run that was stopped goes on
    where it was when the same command is run again, and rows that failed are tried again.
    """
    search = {"beams": beams, "n_best": n_best, "length_penalty": length_penalty}
    if pairs is not None:
        if before is not None or heatmap is not None:
            raise click.UsageError("--pairs goes with neither BEFORE and AFTER nor --heatmap")
        if output is not None and output.exists() and pairs.exists() and output.samefile(pairs):
            raise click.UsageError("-o is the table itself: give another file")
        code = _caption_table(pairs, model, settings, search, output, batch_size, force, timings)
        ctx.exit(code)
    if before is None or after is None:
        raise click.UsageError("give two images, BEFORE and AFTER, or a table of them with --pairs")
    if output is not None or force:
        raise click.UsageError("-o and --force go with --pairs")
    if heatmap is not None and heatmap.suffix.lower() not in _PICTURES:
        raise click.UsageError(f"--heatmap {heatmap}: the name must end in one of {', '.join(_PICTURES)}")
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

    pair = load_pair((before, after))  # before the model: a wrong path is answered at once
    engine = load(model, **settings)
    result = engine.caption([pair], **search)[0]
    if as_json:
        from rsicrc.results import rounded

        made = {"before": str(before), "after": str(after), "model": model_id(engine.folder, engine.manifest.precision)}
        document = {**made, **rounded(result.to_dict())}
        if timings:
            document["timings"] = rounded(result.timings.to_dict())
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        _print_caption(result)
        if timings:
            _print_timings(result.timings)
    if heatmap is not None:
        if not result.text:
            raise click.ClickException("no heat map: the caption has no words")
        from rsicrc.files import replacing
        from rsicrc.reports.heatmap import draw_heatmap

        picture = draw_heatmap(*pair, engine.explain(pair, result.text))
        with replacing(heatmap) as temporary:
            picture.save(temporary)
        click.echo(f"heat map: {heatmap}", err=True)


def _print_caption(result: Caption) -> None:
    click.secho(result.text or "(no words)", bold=True)
    change = "" if result.change_score is None else f"   change {result.change_score:.3f}"
    click.echo(f"score {result.score:.4f}{change}")
    if len(result.n_best) > 1:
        click.echo()
        for rank, hypothesis in enumerate(result.n_best, start=1):
            click.echo(f"{rank:3d}  {hypothesis.score:9.4f}  {hypothesis.text or '(no words)'}")


def _print_timings(timings: Timings) -> None:
    spent = timings.to_dict()
    click.echo(f"{spent.pop('pairs')} pairs, {spent.pop('decoder_steps')} decoder steps, milliseconds", err=True)
    for part, seconds in spent.items():
        click.echo(f"  {part:<14}{1e3 * seconds:10.2f}", err=True)


def _caption_table(
    pairs: Path,
    model: Path | None,
    settings: dict[str, Any],
    search: dict[str, Any],
    output: Path | None,
    batch_size: int,
    force: bool,
    timings: bool,
) -> int:
    from rsicrc.cli.captions_file import CaptionsFile, caption_rows
    from rsicrc.decoding.options import CaptionOptions
    from rsicrc.inputs.pair_table import read_pairs
    from rsicrc.loading import load

    rows = read_pairs(pairs)
    engine = load(model, **settings)
    options = CaptionOptions(**search)
    provenance = {
        "model": model_id(engine.folder, engine.manifest.precision),
        "search": str(options.resolve(engine.manifest)),
    }
    captions = CaptionsFile(output, rows, provenance, replace=force)
    earlier = len(captions.done)
    if earlier:
        click.echo(f"{earlier} of {len(rows)} rows are done already", err=True)
    try:
        with progress(len(rows), "captioning", completed=earlier) as advance:
            spent = caption_rows(engine, rows, captions, options, batch_size=batch_size, advance=advance)
    except KeyboardInterrupt:
        again = "; run the same command to go on" if output is not None else ""
        click.echo(f"interrupted after {len(captions.done)} of {len(rows)}{again}", err=True)
        return INTERRUPTED
    if timings:
        _print_timings(spent)
    if captions.failed:
        again = "; run the same command to try them again" if output is not None else ""
        click.echo(f"{captions.failed} of {len(rows)} rows failed, see 'error' in their lines{again}", err=True)
        return FAILED
    return 0

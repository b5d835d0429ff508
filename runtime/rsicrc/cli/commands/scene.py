"""The command `rsicrc-run scene`: a map of captioned changes between georeferenced images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsicrc.cli.console import UsageError, progress
from rsicrc.cli.options import (
    AUTO,
    Backend,
    BatchSize,
    Beams,
    Device,
    Engines,
    Model,
    Precision,
    Streams,
    Threads,
    Verbose,
    engine_settings,
    report_choice,
)
from rsicrc.errors import SceneError

if TYPE_CHECKING:
    from rsicrc.engine import Engine
    from rsicrc.scenes.result import SceneResult
    from rsicrc.scenes.scene import Scene

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="BEFORE AFTER...",
        show_default=False,
        help="GeoTIFF, COG or JPEG 2000 files, the earliest first; paths, or addresses with https:// or s3://.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Map to write: .geojson, .gpkg, .parquet or .csv."),
]
Raster = Annotated[
    Path | None,
    typer.Option("--raster", metavar="TIF", help="Also write the change raster, a cloud-optimized GeoTIFF."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write a page with both dates, the change raster and the tiles."),
]
Stac = Annotated[bool, typer.Option("--stac", help="Also write a STAC Item next to the map.")]
Regions = Annotated[
    bool, typer.Option("--regions", help="Write outlines of connected change with their area, instead of tiles.")
]
AllTiles = Annotated[bool, typer.Option("--all-tiles", help="Write unchanged tiles too.")]
Bands = Annotated[
    str | None,
    typer.Option("--bands", metavar="R,G,B", help="Numbers of the red, green and blue band. [default: by color]"),
]
Bbox = Annotated[
    str | None, typer.Option("--bbox", metavar="XMIN,YMIN,XMAX,YMAX", help="Area to caption. [default: the overlap]")
]
BboxCrs = Annotated[str, typer.Option("--bbox-crs", metavar="CRS", help="Reference system of --bbox.")]
Aoi = Annotated[
    Path | None, typer.Option("--aoi", metavar="GEOJSON", help="Caption only tiles that touch these polygons.")
]
Resolution = Annotated[
    float | None,
    typer.Option("--resolution", metavar="METERS", help="Pixel size of the common grid. [default: the model's]"),
]
AnyResolution = Annotated[
    bool, typer.Option("--any-resolution", help="Take the pixels as they are, however coarse or fine.")
]
Overlap = Annotated[
    float, typer.Option("--overlap", metavar="SHARE", help="Smallest overlap of neighboring tiles, 0 to 0.9.")
]
StretchOption = Annotated[
    str,
    typer.Option(
        "--stretch",
        metavar="LOW,HIGH",
        help="Percentiles that become 0 and 255 for files with more than 8 bits; none takes the range of the type.",
    ),
]
StretchFrom = Annotated[
    Path | None,
    typer.Option("--stretch-from", metavar="FILE", help="Use the stretch that an earlier map records."),
]
Align = Annotated[bool, typer.Option("--align", help="Correct a shift of the whole image between the dates.")]
MinValid = Annotated[
    float, typer.Option("--min-valid", metavar="SHARE", help="Leave out tiles with a smaller share of valid pixels.")
]
Dates = Annotated[
    str | None,
    typer.Option("--dates", metavar="T1,T2,...", help="Times of the files (ISO 8601). [default: from the files]"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print grid, tiles, bands and stretch, and stop.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing outputs, and an unfinished run of other options.")
]
Creation = Annotated[
    list[str] | None,
    typer.Option(
        "--co", metavar="KEY=VALUE", help="Creation option of the raster (GDAL's COG driver); may be repeated."
    ),
]


def scene(
    files: Files,
    output: Output = None,
    raster: Raster = None,
    html: Html = None,
    stac: Stac = False,
    regions: Regions = False,
    all_tiles: AllTiles = False,
    bands: Bands = None,
    bbox: Bbox = None,
    bbox_crs: BboxCrs = "EPSG:4326",
    aoi: Aoi = None,
    resolution: Resolution = None,
    any_resolution: AnyResolution = False,
    overlap: Overlap = 0.25,
    stretch: StretchOption = "2,98",
    stretch_from: StretchFrom = None,
    align: Align = False,
    min_valid: MinValid = 0.5,
    dates: Dates = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    creation: Creation = None,
    model: Model = None,
    beams: Beams = None,
    batch_size: BatchSize = 32,
    device: Device = AUTO,
    backend: Backend = AUTO,
    precision: Precision = "fp32",
    threads: Threads = None,
    streams: Streams = None,
    engines: Engines = None,
    verbose: Verbose = False,
) -> None:
    """Write a map of the captioned changes between georeferenced images of one place.

    Each image is compared with the one before it. The images may differ in reference system, pixel size, extent and
    rotation: all are read on one grid, that of the last image. An interrupted run is resumed by the same command.
    """
    settings = engine_settings(device, backend, precision, threads, streams, engines)
    if len(files) < 2:
        raise UsageError("give two or more images, the earliest first")
    if output is None and not dry_run:
        raise UsageError("give a file for the map with -o, or --dry-run")
    if regions and all_tiles:
        raise UsageError("--all-tiles does not go with --regions")
    creation_options = _creation(creation or [])
    if creation_options and raster is None:
        raise UsageError("--co goes with --raster")
    from rsicrc.loading import find_model, load
    from rsicrc.manifest import Manifest
    from rsicrc.scenes.options import SceneOptions
    from rsicrc.scenes.scene import Scene

    options = SceneOptions(
        bands=_three(_numbers(bands, "--bands", 3)) if bands else None,
        bbox=_four(_numbers(bbox, "--bbox", 4)) if bbox else None,
        bbox_crs=bbox_crs,
        aoi=aoi,
        resolution=resolution,
        overlap=overlap,
        stretch=None if stretch == "none" else _two(_numbers(stretch, "--stretch", 2)),
        stretch_from=stretch_from,
        align=align,
        min_valid=min_valid,
        any_resolution=any_resolution,
        dates=tuple(part.strip() for part in dates.split(",")) if dates else (),
    )
    if output is not None:
        _check_outputs(output, raster, html, stac, files, overwrite=overwrite)
    opened = Scene.open(*files, options=options)
    if dry_run or output is None:
        _print_plan(opened, Manifest.load(find_model(model), verify=False))
        return
    engine = load(model, **settings)
    _print_plan(opened, engine.manifest)
    if stac:
        from rsicrc.scenes.stac import item_times

        item_times(opened.plan(engine.manifest))  # before the work
    report_choice(engine, settings)
    journal = output.resolve().with_name(f".{output.name}.unfinished")
    result = _caption(opened, engine, beams, batch_size, journal, overwrite=overwrite)
    opened.write(output, all_tiles=all_tiles, regions=regions, overwrite=overwrite)
    written = {"changes": output}
    if raster is not None:
        opened.write_raster(raster, creation=creation_options, overwrite=overwrite)
        written["raster"] = raster
    if html is not None:
        from rsicrc.reports.scene_page import write_scene_page

        write_scene_page(result, html, overwrite=overwrite)
        written["page"] = html
    if stac:
        from rsicrc.scenes.stac import item_path, write_item

        write_item(result, output, written)
        written["item"] = item_path(output)
    journal.unlink(missing_ok=True)
    _report(result)
    for path in written.values():
        typer.echo(path)


def _caption(
    scene: Scene, engine: Engine, beams: int | None, batch_size: int, journal: Path, *, overwrite: bool
) -> SceneResult:
    from rsicrc.decoding.options import CaptionOptions

    plan = scene.plan(engine.manifest)
    tiles = scene.captions(
        engine, CaptionOptions(beams=beams), batch_size=batch_size, journal=journal, restart=overwrite
    )
    changed = 0
    with progress(len(plan.boxes) * len(plan.pairs), "captioning") as advance:
        for tile in tiles:
            changed += tile.changed is not False
            advance(note=f"{changed} changed")
    result = scene.result
    if result is None or not result.tiles:
        journal.unlink(missing_ok=True)
        raise SceneError(
            f"no tile has enough valid pixels (a share of {plan.options.min_valid:g}): lower --min-valid, "
            "or check the nodata values of the files"
        )
    return result


def _print_plan(scene: Scene, manifest: Any) -> None:
    plan = scene.plan(manifest)
    typer.echo(f"rsicrc: {plan.line()}", err=True)
    for note in plan.notes:
        typer.echo(f"rsicrc: warning: {note}", err=True)


def _report(result: SceneResult) -> None:
    changed = len(result.selected(all_tiles=False))
    failed = sum(tile.error is not None for tile in result.tiles)
    left_out = f", {result.left_out} left out (too few valid pixels)" if result.left_out else ""
    typer.echo(
        f"rsicrc: {changed} of {len(result.tiles)} tiles changed{left_out}{f', {failed} failed' if failed else ''}",
        err=True,
    )


def _check_outputs(
    output: Path, raster: Path | None, html: Path | None, stac: bool, files: list[str], *, overwrite: bool
) -> None:
    from rsicrc.reports.scene_page import ENDINGS as PAGE_ENDINGS
    from rsicrc.scenes.outputs import ENDINGS
    from rsicrc.scenes.result import check_output
    from rsicrc.scenes.stac import item_path

    paths: list[tuple[Path, tuple[str, ...]]] = [(output, ENDINGS)]
    if raster is not None:
        paths.append((raster, (".tif", ".tiff")))
    if html is not None:
        paths.append((html, PAGE_ENDINGS))
    if stac:
        paths.append((item_path(output), (".json",)))
    for path, endings in paths:
        check_output(path, endings, overwrite=overwrite)
        if any(Path(file).exists() and path.exists() and path.samefile(file) for file in files):
            raise UsageError(f"{path} is one of the images: give another file")


def _creation(values: list[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, mark, _ in pairs:
        if not (name and mark):
            raise UsageError(f"--co {name}: give KEY=VALUE")
    return {name: value for name, _, value in pairs}


def _numbers(text: str, option: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise UsageError(f"{option} {text}: give {count} numbers with commas between")
    return numbers


def _two(numbers: list[float]) -> tuple[float, float]:
    return numbers[0], numbers[1]


def _three(numbers: list[float]) -> tuple[int, int, int]:
    if any(number != int(number) for number in numbers):
        raise UsageError("--bands: give whole numbers")
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def _four(numbers: list[float]) -> tuple[float, float, float, float]:
    return numbers[0], numbers[1], numbers[2], numbers[3]

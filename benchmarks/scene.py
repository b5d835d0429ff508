"""Scenes: square kilometers per hour and peak memory of `Scene.captions` on generated GeoTIFFs.

    python benchmarks/scene.py MODEL [--side 20000] [--seconds 20] [--work runs/benchmarks/scene]

The same engine captions the same tiles from memory for comparison (`Engine.caption_stream`), before and after the
scene, because the speed of a machine changes; the share is relative to the mean. The time of the image encoder at the
measured peak rate gives the share of the roofline.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import rasterio
from common.costs import graph_cost
from common.peaks import measure
from common.processes import say
from rasterio.transform import from_origin
from rasterio.windows import Window

from rsicrc import CaptionOptions, Engine, Scene, load
from rsicrc.manifest import IMAGE_ENCODER
from rsicrc.scenes.plan import ScenePlan
from rsicrc.scenes.reader import Pixels, TileReader

_PIXEL_SIZE = 0.5
_BLOCK = 512
_TILES = 256  # tiles in memory for the comparison
_PEAK_SIZE, _PEAK_BUFFER = 2048, 1 << 28


def main() -> None:
    """Generate the files, measure, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--side", type=int, default=20_000, help="side of the scene in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="least time of a comparison")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/scene"), help="folder for the files")
    arguments = parser.parse_args()
    files = [generate(arguments.work, arguments.side, date) for date in range(2)]
    options = CaptionOptions(beams=3)
    with load(arguments.model, device="cpu", threads=arguments.threads) as engine:
        scene = Scene.open(*files, any_resolution=True)
        plan = scene.plan(engine.manifest)
        engine.warmup(32, 3)
        first = rate_in_memory(engine, plan, options, arguments.seconds)
        start = time.perf_counter()
        tiles = sum(1 for _ in scene.captions(engine, options))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # before other work takes memory
        second = rate_in_memory(engine, plan, options, arguments.seconds)
        macs = graph_cost(engine.folder / engine.manifest.graphs[IMAGE_ENCODER].file, {"B": 1}).macs
    in_memory = (first + second) / 2
    area = (arguments.side * _PIXEL_SIZE / 1000) ** 2
    least = tiles * macs / (measure("cpu", _PEAK_SIZE, _PEAK_BUFFER).gmacs["fp32"] * 1e9)
    rate = tiles / seconds
    say(f"{arguments.side} x {arguments.side} pixels, {tiles} tiles in {seconds:.1f} s")
    say(f"{rate:.1f} tiles/s, {rate / in_memory:.0%} of {in_memory:.1f} tiles/s from memory")
    say(f"({first:.1f} before, {second:.1f} after)")
    say(f"{area / seconds * 3600:.0f} km² per hour at {_PIXEL_SIZE} m")
    say(f"{least / seconds:.0%} of the roofline of the image encoder")
    say(f"peak memory {peak:.2f} GB")


def generate(folder: Path, side: int, date: int) -> Path:
    """Write a date of the scene by blocks: fields of one color with noise; some blocks differ between the dates."""
    path = folder / f"{side}-{date}.tif"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 3,
        "width": side,
        "height": side,
        "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_200_000, _PIXEL_SIZE, _PIXEL_SIZE),
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "compress": "deflate",
        "photometric": "RGB",
    }
    part = path.with_suffix(".part.tif")
    with rasterio.open(part, "w", **profile) as dataset:
        for top in range(0, side, _BLOCK):
            for left in range(0, side, _BLOCK):
                random = np.random.default_rng([top, left, date if (top + left) // _BLOCK % 3 == 0 else 0])
                fields = random.integers(30, 220, (3, _BLOCK // 64, _BLOCK // 64)).repeat(64, axis=1).repeat(64, axis=2)
                block = (fields + np.random.default_rng(top + left).integers(0, 16, fields.shape)).astype(np.uint8)
                width, height = min(_BLOCK, side - left), min(_BLOCK, side - top)
                dataset.write(block[:, :height, :width], window=Window(left, top, width, height))
    part.rename(path)
    return path


def rate_in_memory(engine: Engine, plan: ScenePlan, options: CaptionOptions, least: float) -> float:
    """Return the tiles per second of `caption_stream` on tiles of the scene that are in memory."""
    reader = TileReader(plan)
    pairs = [tile.images for tile in islice(reader.tiles(), _TILES) if tile.images is not None]

    def repeated(seconds: float) -> Iterator[tuple[Pixels, Pixels]]:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            yield from pairs

    start = time.perf_counter()
    count = sum(1 for _ in engine.caption_stream(repeated(least), options))
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()

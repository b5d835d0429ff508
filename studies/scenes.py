"""Changes that `scene` finds on drawn scenes, plain and written in other ways.

    python studies/scenes.py --model model [--scenes 20] [--side 2048] [--seed 1000] [--work DIR] [--json FILE]

Every scene is drawn by `rsicrc-train synth --scene`, so its changes are known. Every second scene is also written as a
variant: in another reference system, with other pixels, rotated, in 16 bits, or with nodata. Two shares are printed for
all scenes (variants where there are any), for the plain scenes alone, and for the scenes with variants both ways:

* found: share of the true changes whose center lies in a reported tile,
* right: share of the reported tiles with a part of a true change in them or within 64 pixels.

Changes at places without valid pixels do not count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import calculate_default_transform, reproject

import rsicrc
from rsicrc.engine import Engine
from rsicrc.scenes.grid import project
from rsicrc.scenes.result import SceneResult
from rsicrc.scenes.scene import Scene
from rsicrc_train.synth import generate_scene
from rsicrc_train.synth.large_scene import AFTER_FILE, BEFORE_FILE, CHANGES_FILE, PIXEL_SIZE

NEAR = 64  # pixels
STRIP = 300  # columns without data in the variant "nodata"
SAMPLES = 17  # points of a change along each side
ANGLE = 12.0  # degrees


@dataclass
class Counts:
    """Numbers of changes and reported tiles, and of those that fit."""

    changes: int = 0
    found: int = 0
    reported: int = 0
    right: int = 0
    tiles: int = 0

    def add(self, other: Counts) -> None:
        """Add the numbers of another scene."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        found, right = self.found / max(1, self.changes), self.right / max(1, self.reported)
        return (
            f"found {found:.1%} ({self.found} of {self.changes} changes), "
            f"right {right:.1%} ({self.right} of {self.reported} reported of {self.tiles} tiles)"
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, help="folder for the scenes, which are drawn only once")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engine = rsicrc.load(arguments.model, "cpu", threads=arguments.threads)
    totals = {name: Counts() for name in ("all", "plain", "variants", "the same scenes, plain")}
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(arguments.scenes):
            folder = (arguments.work or Path(scratch)) / str(arguments.seed + number)
            if not (folder / CHANGES_FILE).is_file():
                generate_scene(folder, arguments.side, arguments.side, arguments.seed + number)
            kinds = [""] if number % 2 == 0 else ["", list(VARIANTS)[number // 2 % len(VARIANTS)]]
            for kind in kinds:
                counts = measure(engine, folder, kind)
                print(f"{folder.name} {kind or 'plain'}: {counts}", flush=True)  # noqa: T201
                records.append({"scene": folder.name, "variant": kind or None, **asdict(counts)})
                if kind == kinds[-1]:
                    totals["all"].add(counts)
                if len(kinds) == 1:
                    totals["plain"].add(counts)
                else:
                    totals["variants" if kind else "the same scenes, plain"].add(counts)
    for name, total in totals.items():
        print(f"{name}: {total}")  # noqa: T201
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def measure(engine: Engine, folder: Path, kind: str) -> Counts:
    """Run one scene, and compare its tiles with the true changes."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [folder / BEFORE_FILE, folder / AFTER_FILE]
        if kind:
            files = VARIANTS[kind](files, Path(scratch))
        scene = Scene.open(*files)
        for _ in scene.captions(engine):
            pass
    if scene.result is None:
        raise RuntimeError("the scene has no result")
    return compare(scene.result, json.loads((folder / CHANGES_FILE).read_text(encoding="utf-8")), kind)


def compare(result: SceneResult, truth: dict[str, Any], kind: str) -> Counts:
    """Count the changes that were found, and the reported tiles that are right."""
    hidden = STRIP if kind == "nodata" else 0
    changes = [
        _points(result, feature["geometry"]["coordinates"][0])
        for feature in truth["features"]
        if feature["properties"]["pixels"][0] >= hidden
    ]
    boxes = np.array([tile.box for tile in result.tiles if tile.changed], np.float64).reshape(-1, 4)
    counts = Counts(len(changes), reported=len(boxes), tiles=len(result.tiles))
    counts.found = sum(bool(_inside(points.mean(axis=0)[np.newaxis], boxes, 0).any()) for points in changes)
    if changes:
        near = [_inside(points, boxes, NEAR).any(axis=0) for points in changes]
        counts.right = int(np.any(near, axis=0).sum())
    return counts


def _points(result: SceneResult, ring: list[list[float]]) -> NDArray[np.float64]:
    """Return points of a rectangle of longitudes and latitudes in pixels of the scene's grid, [N, 2]."""
    lower_left, lower_right, upper_right, upper_left = (np.array(corner) for corner in ring[:4])
    share = np.linspace(0, 1, SAMPLES)
    u, v = (axis.reshape(-1, 1) for axis in np.meshgrid(share, share))
    positions = (1 - v) * ((1 - u) * lower_left + u * lower_right) + v * ((1 - u) * upper_left + u * upper_right)
    x, y = project(CRS.from_epsg(4326), result.plan.grid.crs, positions).T
    return np.column_stack(~result.plan.grid.transform @ (x, y))


def _inside(points: NDArray[np.float64], boxes: NDArray[np.float64], margin: float) -> NDArray[np.bool_]:
    """Return, for each point and each box, whether the point lies in the box or near it, [N, M]."""
    x, y = points[:, :1], points[:, 1:]
    left, top, right, bottom = boxes.T + np.array([[-margin], [-margin], [margin], [margin]])
    return np.asarray((x >= left) & (x <= right) & (y >= top) & (y <= bottom))


def _warped(file: Path, folder: Path, crs: str, pixel: float | None, angle: float = 0.0) -> Path:
    """Write an image in another reference system or pixel size, or rotated, with an alpha band."""
    with rasterio.open(file) as source:
        size = {} if pixel is None else {"resolution": pixel}
        transform, width, height = calculate_default_transform(
            source.crs, crs, source.width, source.height, *source.bounds, **size
        )
        if angle:
            middle = transform @ (width / 2, height / 2)
            diagonal = round(1.5 * max(width, height))
            step = transform.a
            transform = (
                rasterio.Affine.translation(*middle)
                @ rasterio.Affine.rotation(angle)
                @ rasterio.Affine.scale(step, -step)
                @ rasterio.Affine.translation(-diagonal / 2, -diagonal / 2)
            )
            width = height = diagonal
        bands = np.concatenate([source.read(), np.full((1, source.height, source.width), 255, np.uint8)])
        pixels = np.zeros((4, height, width), np.uint8)
        reproject(
            bands,
            pixels,
            src_transform=source.transform,
            src_crs=source.crs,
            dst_transform=transform,
            dst_crs=crs,
            resampling=Resampling.cubic,
        )
        profile = {**source.profile, "count": 4, "crs": crs, "transform": transform, "width": width, "height": height}
        tags = source.tags()
    # A share of an alpha value at the edge of the data is no valid pixel.
    pixels[3] = np.where(pixels[3] == 255, 255, 0)
    return _write(folder / file.name, pixels, profile, tags, alpha=True)


def _write(
    path: Path, pixels: NDArray[Any], profile: dict[str, Any], tags: dict[str, str], *, alpha: bool = False
) -> Path:
    with rasterio.open(path, "w", **{**profile, "dtype": pixels.dtype.name}) as file:
        if alpha:
            file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
        file.write(pixels)
        file.update_tags(**tags)
    return path


def _in_16_bits(files: list[Path], folder: Path) -> list[Path]:
    written = []
    for file in files:
        with rasterio.open(file) as source:
            pixels = source.read().astype(np.uint16) * 37 + 500
            written.append(_write(folder / file.name, pixels, dict(source.profile), source.tags()))
    return written


def _with_nodata(files: list[Path], folder: Path) -> list[Path]:
    before, after = files
    with rasterio.open(before) as source:
        pixels = source.read()
        pixels[:, :, :STRIP] = 0
        profile = {**source.profile, "nodata": 0}
        return [_write(folder / before.name, pixels, profile, source.tags()), after]


UTM = "EPSG:32632"
VARIANTS: dict[str, Callable[[list[Path], Path], list[Path]]] = {
    "before in EPSG:3035": lambda files, folder: [_warped(files[0], folder, "EPSG:3035", PIXEL_SIZE), files[1]],
    "both in EPSG:4326": lambda files, folder: [_warped(file, folder, "EPSG:4326", None) for file in files],
    "before with 0.4 m": lambda files, folder: [_warped(files[0], folder, UTM, 0.4), files[1]],
    "both rotated": lambda files, folder: [_warped(file, folder, UTM, PIXEL_SIZE, ANGLE) for file in files],
    "uint16": _in_16_bits,
    "nodata": _with_nodata,
}


if __name__ == "__main__":
    main()

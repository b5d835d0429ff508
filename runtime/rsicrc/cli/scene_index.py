"""Tiles of a scene in an index."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rsicrc.index.encoded import EncodedRow
from rsicrc.index.places import GEOMETRY
from rsicrc.results import PairFailure
from rsicrc.scenes.features import Feature, geographic
from rsicrc.scenes.geojson import geometry
from rsicrc.scenes.reader import Pixels, TilePair, TileReader

if TYPE_CHECKING:
    from rsicrc.index.index import Index
    from rsicrc.progress import ProgressCallback
    from rsicrc.scenes.plan import ScenePlan
    from rsicrc.scenes.scene import Scene

_TYPES = {
    GEOMETRY: pa.string(),
    "longitude": pa.float64(),
    "latitude": pa.float64(),
    "before_time": pa.string(),
    "after_time": pa.string(),
    "valid_share": pa.float64(),
}


@dataclass
class AddedTiles:
    """Numbers of tiles of a scene by the result of `add_scene`; `failures` has the reasons by id."""

    added: int
    unchanged: int
    left_out: int
    failures: dict[str, str]


def add_scene(index: Index, scene: Scene, *, captions: bool, batch_size: int, advance: ProgressCallback) -> AddedTiles:
    """Put the tiles of a scene into an index; tiles with the same pixels as in the index are not encoded again.

    The paths of a tile are those of its files with the box of the tile in pixels of the scene's grid: a tile is no
    file, so a search cannot rerank tiles or show their images.

    Args:
        index: The index.
        scene: The scene.
        captions: Also store captions and change scores.
        batch_size: Number of tiles that go through the graphs together.
        advance: Called once per tile.

    Raises:
        SceneError: The dates do not fit, or a file is damaged.
        IndexWriteError: The index could not be written. Earlier commits are kept.
    """
    plan = scene.plan(index.engine.manifest)
    known = index.checksums()
    result = AddedTiles(0, 0, 0, {})
    waiting: deque[tuple[TilePair, str, tuple[str, str]]] = deque()
    scene_id = _scene_id(plan)

    def images() -> Iterator[tuple[Pixels, Pixels]]:
        with closing(TileReader(plan).tiles()) as tiles:
            for tile in tiles:
                advance()
                if tile.images is None:
                    result.left_out += 1
                    continue
                row_id = f"{scene_id}-{tile.pair}-{tile.index}"
                sums = (_digest(tile.images[0]), _digest(tile.images[1]))
                before, after, is_captioned = known.get(row_id, ("", "", False))
                if sums == (before, after) and (is_captioned or not captions):
                    result.unchanged += 1
                    continue
                waiting.append((tile, row_id, sums))
                yield tile.images

    def rows() -> Iterator[EncodedRow]:
        for outcome in index.engine.encode_stream(images(), captions=captions, batch_size=batch_size, workers=1):
            tile, row_id, sums = waiting.popleft()
            if isinstance(outcome, PairFailure):
                result.failures[row_id] = str(outcome.error)
                continue
            sources = [plan.sources[date] for date in plan.pairs[tile.pair]]
            box = ",".join(map(str, tile.box))
            before, after = (f"{Path(source.name).absolute()}#{box}" for source in sources)
            times = {"before_time": sources[0].time, "after_time": sources[1].time}
            columns = {**_place(plan, tile), **times, "valid_share": tile.valid_share}
            yield EncodedRow(row_id, before, after, *sums, outcome, columns)

    result.added = index.add_encoded(rows(), _TYPES)
    return result


def _scene_id(plan: ScenePlan) -> str:
    """Return the id of a scene, the same for the same files, grid and tiles."""
    names = [str(Path(source.name).absolute()) for source in plan.sources]
    facts = json.dumps([names, plan.grid.name, list(plan.grid.transform), plan.side, list(plan.boxes)])
    return f"{Path(names[-1]).stem}-{hashlib.sha256(facts.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _place(plan: ScenePlan, tile: TilePair) -> dict[str, Any]:
    ring = plan.grid.ring(tile.box)
    (polygons,) = geographic([Feature((ring,), {})], plan.grid.crs)
    points = np.array(polygons[0][0][:-1])
    longitude, latitude = points.mean(axis=0).round(7).tolist()
    return {GEOMETRY: json.dumps(geometry(polygons)), "longitude": longitude, "latitude": latitude}

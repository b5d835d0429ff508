"""Scenes: rasters of one place at two or more dates, captioned tile by tile."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np

from rsicrc.decoding.options import CaptionOptions
from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, SceneError
from rsicrc.manifest import Manifest, model_id
from rsicrc.results import EncodedPair, PairFailure
from rsicrc.scenes.captioning import caption_tiles
from rsicrc.scenes.journal import Journal
from rsicrc.scenes.options import SceneOptions, SceneSettings
from rsicrc.scenes.plan import ScenePlan, make_plan
from rsicrc.scenes.reader import TilePair, TileReader
from rsicrc.scenes.recorded import recorded_stretches
from rsicrc.scenes.result import SceneResult
from rsicrc.scenes.source import Source
from rsicrc.scenes.tile import SceneTile


class Scene:
    """Rasters of one place at two or more dates; made by `Scene.open`.

    Attributes:
        sources: The dates, in the order in which they were given.
        options: The options.
        result: The captioned tiles, after `captions` has ended; before that those so far; None before the first.
    """

    def __init__(self, sources: tuple[Source, ...], options: SceneOptions) -> None:
        self.sources = sources
        self.options = options
        self.result: SceneResult | None = None
        self._plan: tuple[Manifest, ScenePlan] | None = None

    @classmethod
    def open(
        cls, *files: str | os.PathLike[str], options: SceneOptions | None = None, **settings: Unpack[SceneSettings]
    ) -> Self:
        """Read the headers of the files.

        Args:
            *files: Two or more GeoTIFF or JPEG 2000 files, the earliest first: paths, or addresses that begin with
                https:// or s3://.
            options: The options.
            **settings: Single fields of `SceneOptions` instead of `options`.

        Raises:
            SceneError: A file cannot be used.
            ArgumentError: An option is out of its range, or there is only one file.
        """
        if options is not None and settings:
            raise ArgumentError(f"{', '.join(settings)}: give either options, or single settings, not both")
        options = options or SceneOptions(**settings)
        if len(files) < 2:
            raise ArgumentError("a scene has at least two files, the earliest first")
        if options.dates and len(options.dates) != len(files):
            raise ArgumentError(f"dates: {len(options.dates)} for {len(files)} files")
        times = options.dates or (None,) * len(files)
        sources = (Source.read(os.fspath(file), options.bands, time) for file, time in zip(files, times, strict=True))
        return cls(tuple(sources), options)

    def plan(self, manifest: Manifest) -> ScenePlan:
        """Return the grid, tiles, stretches and shifts for a model; computed once.

        Raises:
            SceneError: The dates do not overlap, or their pixels are too coarse for the model.
        """
        if self._plan is None or self._plan[0] is not manifest:
            known = None if self.options.stretch_from is None else recorded_stretches(Path(self.options.stretch_from))
            self._plan = manifest, make_plan(self.sources, self.options, manifest, known)
        return self._plan[1]

    def captions(
        self,
        engine: Engine,
        options: CaptionOptions | None = None,
        *,
        batch_size: int = 32,
        journal: Path | None = None,
        restart: bool = False,
    ) -> Generator[SceneTile, None, None]:
        """Caption the tiles of all pairs of dates; results are streamed in order.

        The pixels of a few batches are in memory, and about 1 kB for each captioned tile, for `write`.

        Args:
            engine: The engine.
            options: Options of captioning.
            batch_size: Number of tiles that go through the graphs together.
            journal: File for the finished tiles; if it exists, the run resumes after them, and they are yielded first.
            restart: Drop a journal of another run.

        Raises:
            SceneError: The dates do not fit, a file is damaged, or the journal belongs to another run.
        """
        plan = self.plan(engine.manifest)
        options = options or CaptionOptions()
        options.resolve(engine.manifest)  # an option that is out of its range is reported at the call
        model = model_id(engine.folder, engine.manifest.precision)
        self.result = SceneResult(plan, [], 0, model, engine.manifest.change_threshold)
        finished = None
        if journal is not None:
            finished = Journal(journal, self._identity(plan, model, options), restart=restart)
        return self._captions(engine, options, batch_size, self.result, finished)

    def write(
        self, path: str | os.PathLike[str], *, all_tiles: bool = False, regions: bool = False, overwrite: bool = False
    ) -> None:
        """Write the captioned tiles; the ending of the path is the format (.geojson, .gpkg, .parquet or .csv).

        Args:
            path: The file.
            all_tiles: Write unchanged tiles too.
            regions: Write outlines of connected change instead of tiles.
            overwrite: Replace an existing file.

        Raises:
            SceneError: There is no result yet, the ending is unknown, or the file exists.
            OSError: The file cannot be written; an existing file is unchanged.
        """
        from rsicrc.scenes.outputs import write_result

        write_result(self._finished(), Path(path), all_tiles=all_tiles, regions=regions, overwrite=overwrite)

    def write_raster(
        self, path: str | os.PathLike[str], *, creation: dict[str, str] | None = None, overwrite: bool = False
    ) -> None:
        """Write the change raster as a cloud-optimized GeoTIFF.

        Args:
            path: The file (.tif).
            creation: Creation options of GDAL's COG driver, for example {"COMPRESS": "ZSTD"}.
            overwrite: Replace an existing file.

        Raises:
            SceneError: There is no result yet, or the file exists.
            OSError: The file cannot be written; an existing file is unchanged.
        """
        from rsicrc.scenes.change_raster import write_raster

        write_raster(self._finished(), Path(path), creation or {}, overwrite=overwrite)

    def _finished(self) -> SceneResult:
        if self.result is None:
            raise SceneError("no tile is captioned yet: run captions(engine) to its end first")
        return self.result

    def _captions(
        self, engine: Engine, options: CaptionOptions, batch_size: int, result: SceneResult, journal: Journal | None
    ) -> Generator[SceneTile, None, None]:
        done: set[tuple[int, int]] = set()
        left_out: set[tuple[int, int]] = set()
        try:
            if journal is not None:
                left_out |= journal.left_out
                done = {*left_out, *((tile.index, tile.pair) for tile in journal.tiles)}
                for tile in journal.tiles:
                    result.tiles.append(tile)
                    yield tile
            reader = TileReader(result.plan, done)
            is_series = len(result.plan.pairs) > 1
            with closing(caption_tiles(engine, reader, options, batch_size, is_series=is_series)) as stream:
                for pair, outcome in stream:
                    if outcome is None:
                        left_out.add((pair.index, pair.pair))
                        if journal is not None:
                            journal.leave_out(pair.index, pair.pair)
                        continue
                    tile = _tile(result, pair, outcome)
                    if journal is not None:
                        journal.append(tile)
                    result.tiles.append(tile)
                    yield tile
            self.result = replace(result, left_out=len(left_out))
        finally:
            if journal is not None:
                journal.close()

    def _identity(self, plan: ScenePlan, model: str, options: CaptionOptions) -> dict[str, Any]:
        stamps = []
        for source in self.sources:
            path = Path(source.path)
            status = path.stat() if path.is_file() else None
            stamps.append([source.name, *((status.st_size, status.st_mtime_ns) if status else ())])
        facts = {name: value for name, value in plan.to_dict().items() if name != "sources"}
        return {
            "sources": stamps,
            "model": model,
            "plan": json.loads(json.dumps(facts)),
            "tiles": len(plan.boxes),
            "aoi": None if self.options.aoi is None else str(self.options.aoi),
            "overlap": self.options.overlap,
            "min_valid": self.options.min_valid,
            "captioning": repr(options),
        }


def _tile(result: SceneResult, pair: TilePair, outcome: EncodedPair | PairFailure) -> SceneTile:
    plan = result.plan
    before, after = (plan.sources[position] for position in plan.pairs[pair.pair])
    tile = SceneTile(
        index=pair.index,
        pair=pair.pair,
        box=pair.box,
        ring=plan.grid.ring(pair.box),
        valid_share=pair.valid_share,
        caption=None,
        score=None,
        change_score=None,
        changed=None,
        before=before.name,
        after=after.name,
        before_datetime=before.time,
        after_datetime=after.time,
        model=result.model,
        cells=pair.cells,
    )
    if isinstance(outcome, PairFailure):
        return replace(tile, error=str(outcome.error))
    caption, similarity = outcome.caption, outcome.similarity
    if caption is None or similarity is None:
        raise ArgumentError("the stream of tiles has no captions")
    return replace(
        tile,
        caption=caption.text,
        score=caption.score,
        change_score=caption.change_score,
        changed=caption.changed,
        similarity=similarity.astype(np.float16),
    )

"""Captions of a scene's tiles by an engine, in a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing

from rsicrc.decoding.options import CaptionOptions
from rsicrc.engine import Engine
from rsicrc.results import EncodedPair, PairFailure
from rsicrc.scenes.reader import Pixels, TilePair, TileReader


def caption_tiles(
    engine: Engine, reader: TileReader, options: CaptionOptions, batch_size: int
) -> Generator[tuple[TilePair, EncodedPair | PairFailure | None], None, None]:
    """Caption the tiles of a reader in order; only a few batches are in memory.

    Yields:
        The tile and its result; None for a tile with too few valid pixels, which is not captioned.
    """
    waiting: deque[TilePair] = deque()

    def images() -> Generator[tuple[Pixels, Pixels], None, None]:
        with closing(reader.tiles()) as tiles:
            for tile in tiles:
                waiting.append(tile)
                if tile.images is not None:
                    yield tile.images

    source = images()
    with closing(source):
        stream = engine.encode_stream(source, captions=options, similarity=True, batch_size=batch_size)
        for result in stream:
            while waiting[0].images is None:
                yield waiting.popleft(), None
            yield waiting.popleft(), result
    while waiting:
        yield waiting.popleft(), None

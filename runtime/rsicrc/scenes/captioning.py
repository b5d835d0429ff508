"""Captions of a scene's tiles by an engine, in a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import closing

from rsicrc.decoding.options import CaptionOptions
from rsicrc.engine import Engine
from rsicrc.inputs.images import Pair
from rsicrc.results import EncodedPair, PairFailure
from rsicrc.scenes.reader import Pixels, TilePair, TileReader
from rsicrc.scenes.series import encode_series


def caption_tiles(
    engine: Engine, reader: TileReader, options: CaptionOptions, batch_size: int, *, is_series: bool = False
) -> Generator[tuple[TilePair, EncodedPair | PairFailure | None], None, None]:
    """Caption the tiles of a reader in order; only a few batches are in memory.

    Args:
        engine: The engine.
        reader: The reader of the tiles.
        options: Options of captioning.
        batch_size: Number of tiles that go through the graphs together.
        is_series: True for more than two dates: the image of a date is encoded once for both of its pairs.

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
        pairs: Iterable[Pair] = encode_series(engine, source, batch_size) if is_series else source
        stream = engine.encode_stream(pairs, captions=options, similarity=True, batch_size=batch_size)
        for result in stream:
            while waiting[0].images is None:
                yield waiting.popleft(), None
            yield waiting.popleft(), result
    while waiting:
        yield waiting.popleft(), None

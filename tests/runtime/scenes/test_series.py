"""Series of dates: each image is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc.inputs.features import ImageFeatures
from rsicrc.scenes.reader import Pixels
from rsicrc.scenes.series import encode_series


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_series_encodes_every_date_once(
    batch_size: int, per_image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = rsicrc.load(per_image_folder, threads=1)
    random = np.random.default_rng(0)
    tiles = random.integers(0, 256, (2, 4, 80, 80, 3), np.uint8)  # two tiles at four dates
    pairs = [(dates[n].copy(), dates[n + 1].copy()) for dates in tiles for n in range(3)]
    pairs[1][1][:9] = pairs[2][0][:9] = 0  # invalid at another date: equal in pairs 1 and 2
    pairs[4][1][:9] = 0  # different in pairs 4 and 5
    encoded: list[Pixels] = []
    encode = engine.encode_images

    def counted(images: Sequence[Any], **settings: Any) -> list[ImageFeatures]:
        encoded.extend(images)
        return encode(images, **settings)

    monkeypatch.setattr(engine, "encode_images", counted)
    found = engine.embed_images(list(encode_series(engine, pairs, batch_size)))
    assert len(encoded) == 9  # 4 dates of the first tile, 5 different images of the second
    np.testing.assert_allclose(found, engine.embed_images(pairs), atol=1e-5)

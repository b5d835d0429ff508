"""TIFF files: every layout is decoded exactly, or refused with a remedy.

The expected pixels are the arrays that were written, so the tests need no second decoder.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsicrc.errors import ImageError
from rsicrc.inputs.images import load_image
from tests.runtime.inputs.tiff_writer import directory, tiff


def pixels(samples: int = 3, dtype: str = "u1") -> np.ndarray:
    rows, columns, bands = np.mgrid[:40, :52, :samples]
    values: np.ndarray = ((rows * 5 + columns * 3 + bands * 31) % 256).astype(dtype)
    return values


LAYOUTS: list[dict[str, Any]] = [
    {"planar": planar, "order": order, "big": big, "deflate": deflate, **blocks}
    for planar in (1, 2)
    for order in "<>"
    for big in ((False, True) if order == "<" else (False,))
    for deflate in (False, True)
    for blocks in ({}, {"rows": 7}, {"tile": 16})
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_8_bit_rgb_is_exact_in_every_layout(layout: dict[str, Any]) -> None:
    np.testing.assert_array_equal(np.asarray(load_image(tiff(pixels(), **layout))), pixels())


@pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", "c8", "u8"])
@pytest.mark.parametrize(("samples", "photometric"), [(1, 0), (1, 1), (2, 1), (3, 2), (4, 2), (4, 5)])
def test_other_samples_are_refused_in_every_layout(dtype: str, samples: int, photometric: int) -> None:
    extra = (0,) if samples == {1: 2, 2: 4}.get(photometric) else ()
    for layout in LAYOUTS:
        image = tiff(pixels(samples, dtype), photometric=photometric, extra=extra, **layout)
        with pytest.raises(ImageError, match=r"(more than 8 bits a channel|not unsigned 8-bit).*gdal_translate"):
            load_image(image)
    with Image.open(io.BytesIO(tiff(pixels(3, "u2"), planar=2))) as opened:
        opened.load()
        with pytest.raises(ImageError, match="more than 8 bits a channel"):
            load_image(opened)


@pytest.mark.parametrize(
    ("samples", "photometric", "extra"), [(4, 2, (2,)), (4, 2, ()), (4, 2, (0,)), (5, 2, (0, 0)), (2, 1, (2,))]
)
def test_bands_after_the_colors_are_dropped(samples: int, photometric: int, extra: tuple[int, ...]) -> None:
    written = pixels(samples)
    expected = written[..., :3] if photometric == 2 else written[..., [0, 0, 0]]
    for layout in LAYOUTS:
        image = tiff(written, photometric=photometric, extra=extra, **layout)
        if layout["planar"] == 1 or (photometric == 2 and extra == (2,)):
            np.testing.assert_array_equal(np.asarray(load_image(image)), expected)
        else:
            with pytest.raises(ImageError, match=r"band after band.*gdal_translate"):
                load_image(image)


@pytest.mark.parametrize("options", [{"photometric": 0}, {"photometric": 1, "tags": {258: (4,)}}])
def test_single_plane_of_another_scale_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="rare order"):
        load_image(tiff(pixels(1), planar=2, **options))


def test_gray_of_both_directions_is_exact() -> None:
    gray = pixels(1)
    for layout in LAYOUTS:
        if layout["planar"] == 1:
            np.testing.assert_array_equal(
                np.asarray(load_image(tiff(gray, photometric=1, **layout))), gray[..., [0, 0, 0]]
            )
            np.testing.assert_array_equal(
                np.asarray(load_image(tiff(gray, photometric=0, **layout))), 255 - gray[..., [0, 0, 0]]
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photometric": 6}, "YCbCr TIFF without JPEG"),
        ({"photometric": 6, "planar": 2}, "YCbCr TIFF without JPEG"),
        ({"photometric": 8}, "Lab, not RGB"),
        ({"photometric": 1}, r"three 8-bit bands \(3 bands\)"),
        ({"tags": {262: None}}, "photometric interpretation"),
        ({"tags": {258: (8, 8, 16)}}, "more than 8 bits"),
        ({"tags": {258: (5, 6, 5)}}, "bits 5, 6, 5"),
        ({"tags": {258: (8, 8)}}, "three 8-bit bands"),
        ({"tags": {339: (1, 2, 1)}}, "signed integers"),
        ({"tags": {339: (4, 4, 4)}}, "unknown format"),
        ({"tags": {259: (6,)}}, "unsupported compression 6"),
        ({"tags": {266: (2,)}}, "rare order"),
        ({"tags": {273: (8, 8)}}, "damaged"),
        ({"tags": {273: (0,)}}, "sparse"),
        ({"tags": {279: (0,)}}, "sparse"),
        ({"tags": {279: (100,)}}, "damaged"),
        ({"rows": 7, "tags": {278: (8,)}}, "6 strips, not 5"),
        ({"tags": {278: (4,)}}, "1 strips, not 10"),
        ({"tags": {257: (400,)}}, "damaged"),
        ({"tags": {273: None}}, "either strips or tiles"),
        ({"tags": {324: (8,)}}, "either strips or tiles"),
        ({"tags": {322: (16,), 323: (16,)}}, "either strips or tiles"),
        ({"tags": {279: None}}, "damaged"),
        ({"tags": {317: (2,)}}, "predictor 2"),
        ({"deflate": True, "tags": {317: (3,)}}, "predictor 3"),
    ],
)
def test_doubtful_layouts_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(tiff(pixels(), **options))


def test_big_endian_bigtiff_is_refused() -> None:
    with pytest.raises(ImageError, match=r"big-endian BigTIFF.*gdal_translate"):
        load_image(tiff(pixels(), order=">", big=True))


def test_associated_alpha_is_refused() -> None:
    with pytest.raises(ImageError, match="multiplied by an alpha band"):
        load_image(tiff(pixels(4), extra=(1,)))


def test_palette_of_8_bit_colors_is_refused() -> None:
    index, ramp = pixels(1), tuple(range(256))
    good = tiff(index, photometric=3, tags={320: tuple(257 * value for value in ramp) * 3})
    np.testing.assert_array_equal(np.asarray(load_image(good)), index[..., [0, 0, 0]])
    with pytest.raises(ImageError, match="palette"):
        load_image(tiff(index, photometric=3, tags={320: ramp * 3}))


def test_pages_of_the_same_size_are_refused_and_overviews_are_not() -> None:
    def page(**values: Any) -> bytes:
        return tiff(pixels(), following=b"\0").removesuffix(b"\0") + directory(values_of(**values), 0)

    def values_of(width: int, kind: int) -> dict[int, tuple[int, ...]]:
        return {254: (kind,), 256: (width,), 257: (40,), 262: (1,)}

    with pytest.raises(ImageError, match="several pages"):
        load_image(page(width=52, kind=0))
    for width, kind in ((26, 0), (52, 1), (52, 4)):
        np.testing.assert_array_equal(np.asarray(load_image(page(width=width, kind=kind))), pixels())


def test_many_strips_and_tags_are_refused_before_they_are_read(tmp_path: Path) -> None:
    count = 2_000_000
    many = directory({256: (52,), 257: (40,), 273: (8,) * count, 279: (1,) * count, 278: (1,), 262: (2,)}, 8)
    (tmp_path / "strips.tif").write_bytes(b"II*\0\x08\0\0\0" + many)
    entries = b"".join(bytes([code % 256, 128 + code // 256, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0]) for code in range(20_000))
    (tmp_path / "tags.tif").write_bytes(b"II*\0\x08\0\0\0" + (20_000).to_bytes(2, "little") + entries + bytes(4))
    for name in ("strips.tif", "tags.tif"):
        begin = time.perf_counter()
        with pytest.raises(ImageError, match="at most"):
            load_image(tmp_path / name)
        assert time.perf_counter() - begin < 0.5


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_cut_tags_are_refused(length: int) -> None:
    whole = tiff(pixels(), order=">", rows=7)
    position = int.from_bytes(whole[4:8])
    with pytest.raises(ImageError):
        load_image(whole[: min(position + length, len(whole) - 1)])

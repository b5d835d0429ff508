from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsicrc.errors import ImageError
from rsicrc.inputs.images import load_image, load_pair


def pixels(height: int = 40, width: int = 60) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 6, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)


def save(image: Image.Image, path: Path, **options: Any) -> None:
    """Save an image with little loss; Pillow ignores options of other formats."""
    image.save(path, quality=95, **options)


@pytest.fixture
def color() -> Image.Image:
    return Image.fromarray(pixels())


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_supported_formats_are_read(suffix: str, color: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    save(color, path, lossless=True)
    for argument in (path, str(path)):
        read = load_image(argument)
        assert (read.mode, read.size) == ("RGB", (60, 40))
        tolerance = 12 if suffix == "jpg" else 0
        assert np.abs(np.asarray(read).astype(int) - pixels()).max() <= tolerance


def test_paths_are_closed(color: Image.Image, tmp_path: Path) -> None:
    color.save(tmp_path / "good.png")
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(tmp_path / "bad.png")
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [load_image(tmp_path / "good.png") for _ in range(5)]
    for _ in range(5):
        with pytest.raises(ImageError):
            load_image(tmp_path / "bad.png")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(kept) == 5


def test_arrays_and_pillow_images_are_read(color: Image.Image) -> None:
    np.testing.assert_array_equal(np.asarray(load_image(pixels())), pixels())
    np.testing.assert_array_equal(np.asarray(load_image(pixels()[::-1, ::-1])), pixels()[::-1, ::-1])
    np.testing.assert_array_equal(np.asarray(load_image(color)), pixels())


class Stream(io.BytesIO):
    """A binary stream without seek, like a network connection."""

    def seek(self, position: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("seek")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_bytes_and_files_are_read_like_paths(suffix: str, color: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(color, path, exif=exif)
    expected = np.asarray(load_image(path))
    content = path.read_bytes()
    with path.open("rb") as file:
        file.seek(7)
        for image in (content, io.BytesIO(content), file, file, Stream(content)):
            np.testing.assert_array_equal(np.asarray(load_image(image)), expected)
        assert not file.closed
    before, after = load_pair((content, path))
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_bytes_and_files_have_the_limits_of_paths(color: Image.Image, tmp_path: Path) -> None:
    _write_16_bit_tiff(tmp_path / "scene.tif", None)
    _write_16_bit_tiff(tmp_path / "bands.tif", None, bands=7)
    (tmp_path / "bomb.png").write_bytes(_png(100_000, 100_000, depth=8, color=2, rows=[]))
    (tmp_path / "large.png").write_bytes(_png(8193, 8193, depth=8, color=2, rows=[]))
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.png").write_bytes(b"these are notes")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    color.save(tmp_path / "image.gif")
    color.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:100])
    for path in tmp_path.iterdir():
        with pytest.raises(ImageError) as caught:
            load_image(path)
        problem = str(caught.value).removeprefix(f"{path}")
        content = path.read_bytes()
        with pytest.raises(ImageError) as caught:
            load_image(content)
        assert str(caught.value) == f"the image of {len(content)} bytes{problem}"
        with pytest.raises(ImageError) as caught:
            load_image(io.BytesIO(content))
        assert str(caught.value) == f"the file object{problem}"
        with path.open("rb") as file, pytest.raises(ImageError) as caught:
            load_image(file)
        assert str(caught.value) == f"{path}{problem}"


def test_unusable_file_objects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with (tmp_path / "notes.txt").open() as file, pytest.raises(ImageError, match=r"notes\.txt: a file in text mode"):
        load_image(file)  # type: ignore[arg-type]
    closed = io.BytesIO(b"notes")
    closed.close()
    with pytest.raises(ImageError, match=r"the file object: cannot be read \(I/O operation on closed file"):
        load_image(closed)
    with pytest.raises(ImageError, match="the file object: not an image"):
        load_image(Stream(b"these are notes"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((40, 60)), r"not \[height, width, 3\]"),
        (np.zeros((3, 40, 60), np.uint8), r"np\.moveaxis"),
        (np.zeros((40, 60, 4), np.uint8), r"not \[height, width, 3\]"),
        (np.zeros((40, 60, 3), np.float32), "float32.*not uint8"),
        (np.zeros((40, 60, 3), np.uint16), "uint16.*not uint8"),
        (np.zeros((1, 1, 3), np.uint8), "too small"),
        (np.zeros((0, 0, 3), np.uint8), "too small"),
    ],
)
def test_unsuitable_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png: no such file"):
        load_image(tmp_path / "none.png")


def test_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a folder, not an image"):
        load_image(tmp_path)


def test_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: the file is empty"):
        load_image(tmp_path / "empty.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
def test_truncated_files_are_refused(suffix: str, keep: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    save(Image.fromarray(noise), whole, lossless=True)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: ") as caught:
        load_image(cut)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.png", b"these are notes"), ("page.jpg", b"<html></html>"), ("zeros.tif", bytes(5000)), ("one.png", b"\0")],
)
def test_other_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"{name}: not "):
        load_image(tmp_path / name)


def test_unsupported_formats_are_refused(color: Image.Image, tmp_path: Path) -> None:
    color.save(tmp_path / "image.gif")
    with pytest.raises(ImageError, match="Use PNG, JPEG, TIFF, WebP or BMP"):
        load_image(tmp_path / "image.gif")


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (15, 500)])
def test_small_images_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size).save(tmp_path / "dot.png")
    with pytest.raises(ImageError, match=rf"dot\.png: {size[0]} x {size[1]} pixels is too small"):
        load_image(tmp_path / "dot.png")


def test_narrow_images_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (16, 300)).save(tmp_path / "strip.png")
    with pytest.raises(ImageError, match="too long and narrow"):
        load_image(tmp_path / "strip.png")


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
def test_16_bit_color_tiff_is_refused(compression: str | None, tmp_path: Path) -> None:
    _write_16_bit_tiff(tmp_path / "scene.tif", compression)
    with pytest.raises(ImageError, match=r"scene\.tif: more than 8 bits a channel.*gdal_translate"):
        load_image(tmp_path / "scene.tif")
    with Image.open(tmp_path / "scene.tif") as opened, pytest.raises(ImageError, match="more than 8 bits"):
        load_image(opened)


def test_16_bit_color_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scene.png").write_bytes(_png(40, 40, depth=16, color=2, rows=[bytes(40 * 6)] * 40))
    with Image.open(tmp_path / "scene.png") as opened:
        assert opened.mode == "RGB"  # so the mode does not show the bit depth
    with pytest.raises(ImageError, match="more than 8 bits a channel"):
        load_image(tmp_path / "scene.png")


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32), ("tif", np.float32)]
)
def test_16_and_32_bit_gray_is_refused(suffix: str, dtype: type, tmp_path: Path) -> None:
    Image.fromarray(np.ones((40, 40), dtype)).save(tmp_path / f"band.{suffix}")
    with pytest.raises(ImageError, match="more than 8 bits a channel"):
        load_image(tmp_path / f"band.{suffix}")


def test_grayscale_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(pixels()[..., 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "gray.png")), pixels()[..., :1].repeat(3, axis=-1))


def test_black_and_white_becomes_rgb(tmp_path: Path) -> None:
    mask = pixels()[..., 0] > 100
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "mask.png"))[..., 0], mask * np.uint8(255))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [None, 3, bytes(range(8))])
def test_palette_becomes_rgb(transparency: int | bytes | None, color: Image.Image, tmp_path: Path) -> None:
    palette = color.quantize(8)
    save(palette, tmp_path / "palette.png", transparency=transparency)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "palette.png")), np.asarray(palette.convert("RGB")))


def test_alpha_is_dropped_and_the_color_under_it_stays(tmp_path: Path) -> None:
    alpha = np.dstack([pixels(), np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "alpha.png")), pixels())


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 99])
def test_exif_rotation_is_applied(suffix: str, orientation: int, color: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    # Stored with the inverse rotation of the tag, so that the upright picture is always the same.
    stored = color.transpose(turns[orientation]) if orientation in turns else color
    save(stored, tmp_path / f"turned.{suffix}", exif=exif)
    read = np.asarray(load_image(tmp_path / f"turned.{suffix}")).astype(int)
    assert read.shape == (40, 60, 3)
    assert np.abs(read - pixels()).max() <= (12 if suffix == "jpg" else 0)


def test_cmyk_becomes_rgb(color: Image.Image, tmp_path: Path) -> None:
    color.convert("CMYK").save(tmp_path / "print.tif")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "print.tif")), pixels())


def test_large_image_is_refused_before_decoding(tmp_path: Path) -> None:
    # Pillow accepts 8193 x 8193; the file has no pixels, so that a decoder would raise another error.
    (tmp_path / "bomb.png").write_bytes(_png(8193, 8193, depth=8, color=2, rows=[]))
    with pytest.raises(ImageError, match=r"8193 x 8193 pixels is more than 67108864"):
        load_image(tmp_path / "bomb.png")


def test_image_above_the_limit_of_pillow_is_refused(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "bomb.png").write_bytes(_png(100_000, 100_000, depth=8, color=2, rows=[]))
    with pytest.raises(ImageError, match=r"bomb\.png: more than 67108864 pixels"):
        load_image(tmp_path / "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_unreadable_tiff_error_names_a_conversion(tmp_path: Path) -> None:
    _write_16_bit_tiff(tmp_path / "bands.tif", None, bands=7)
    with pytest.raises(ImageError, match=r"bands\.tif: not a TIFF with three 8-bit bands.*gdal_translate"):
        load_image(tmp_path / "bands.tif")


def test_operating_system_errors_become_image_errors(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(ImageError, match=r"loop\.png: cannot be read \(Too many levels"):
        load_image(tmp_path / "loop.png")


def test_other_types_are_refused() -> None:
    with pytest.raises(ImageError, match="not int 3"):
        load_image(3)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"a pair is two images"):
        load_pair("before.png")
    with pytest.raises(ImageError, match=r"a pair is two images"):
        load_pair((pixels(),))


def test_pair_of_different_sizes_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 60)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"a\.png is 60 x 40 pixels but .*b\.png is 40 x 60"):
        load_pair((tmp_path / "a.png", tmp_path / "b.png"))
    assert load_pair((tmp_path / "a.png", pixels()))[1].size == (60, 40)


@pytest.mark.parametrize("open_image", [Image.open, lambda path: path.open("rb")], ids=["Pillow", "file"])
def test_one_lazy_image_is_read_by_many_threads(open_image: Callable[[Path], Any], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    good: list[bool] = []
    with open_image(tmp_path / "noise.png") as lazy:
        threads = [
            threading.Thread(target=lambda: good.append(bool((np.asarray(load_image(lazy)) == noise).all())))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert good == [True] * 8


def _png(width: int, height: int, depth: int, color: int, rows: list[bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _write_16_bit_tiff(path: Path, compression: str | None, bands: int = 3) -> None:
    """Write a little-endian uint16 TIFF like those of GDAL; Pillow cannot write 16-bit color."""
    size = 40
    raw = np.full((size, size, bands), 2000, "<u2").tobytes()
    code = {None: 1, "tiff_deflate": 8}[compression]
    data = {1: raw, 8: zlib.compress(raw)}[code]
    tags = [
        (256, 3, 1, size), (257, 3, 1, size), (259, 3, 1, code), (262, 3, 1, 2), (277, 3, 1, bands), (278, 3, 1, size),
        (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    entries = len(tags) + 2
    after = 8 + 2 + 12 * entries + 4
    tags += [(258, 3, bands, after), (273, 4, 1, after + 2 * bands)]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHIH", b"II", 42, 8, entries))
        for tag in sorted(tags):
            file.write(struct.pack("<HHII", *tag))
        file.write(struct.pack("<I", 0) + struct.pack(f"<{bands}H", *[16] * bands) + data)

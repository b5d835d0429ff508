"""Checks of a TIFF file by its tags, before a decoder reads the file.

A decoder's choice of a mode is no proof of the layout: files with 16-bit samples in separate planes, signed samples or
missing strips are decoded to noise or black without an error. The tags say which layout the pixels have (TIFF 6.0,
https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf). Only layouts that are decoded exactly are accepted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import IO, Any, NamedTuple, TypeAlias

from rsicrc.errors import ImageError
from rsicrc.inputs.headers import count_scan_markers
from rsicrc.inputs.limits import MAX_PIXELS, MAX_SCANS, SCALE_ADVICE

Tags: TypeAlias = Mapping[int, tuple[int, ...]]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BANDS_ADVICE = (
    "Extract red, green and blue, for example `gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB in.tif out.tif`"
)
_RGB_ADVICE = "Save it as an RGB image, for example as PNG"
_COPY_ADVICE = "Copy or download it again"
_REWRITE_ADVICE = "Write it again, for example `gdal_translate in.tif out.tif`"

# Strips or tiles of an image. 24,576 are needed for 8192 rows in strips of one row and three planes.
MAX_SEGMENTS = 1 << 16
_MAX_ENTRIES = 4096
_MAX_TAG_BYTES = 1 << 26  # color profiles and editors' data take some megabytes
_MAX_PAGES = 256

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_FILL_ORDER, _STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 266, 273, 277, 278, 279, 284, 317
_COLORS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _INKS, _EXTRA, _FORMAT = 320, 322, 323, 324, 325, 332, 338, 339
_READ = frozenset(
    {_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIPS, _SAMPLES, _ROWS}
    | {
        _STRIP_BYTES,
        _PLANAR,
        _PREDICTOR,
        _COLORS,
        _TILE_WIDTH,
        _TILE_HEIGHT,
        _TILES,
        _TILE_BYTES,
        _INKS,
        _EXTRA,
        _FORMAT,
    }
)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BYTE_TYPES = frozenset({1, 2, 6, 7})
_UNSIGNED = {3: "H", 4: "I", 16: "Q"}

_GRAY, _RGB, _PALETTE, _CMYK, _YCBCR = (0, 1), 2, 3, 5, 6
_COLOR_SAMPLES = {0: 1, 1: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_MAX_SURPLUS = {1: 1, _RGB: 3}
_COLOR_NAMES = {4: "a transparency mask", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "a raw color filter array"}
_FORMAT_NAMES = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}
_NONE, _JPEG = 1, 7
_LOSSLESS = frozenset({5, 8, 32773, 32946, 34925, 50000})  # LZW, Deflate, PackBits, Deflate, LZMA, Zstandard
_PREDICTED = _LOSSLESS - {32773}
_FAX = frozenset({2, 3, 4})


class _Directory(NamedTuple):
    """An image file directory.

    Attributes:
        tags: Values of the tags in `_READ`.
        next: Offset of the next directory, or 0.
    """

    tags: dict[int, tuple[int, ...]]
    next: int


def check_tiff(file: IO[bytes], name: str) -> None:
    """Check that a TIFF file can be decoded exactly to 8-bit RGB, and that its structure is bounded.

    Args:
        file: The file; its position is moved.
        name: Name of the image for messages.

    Raises:
        ImageError: The file is damaged, or has a layout that cannot be decoded exactly.
    """
    size = file.seek(0, 2)
    file.seek(0)
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = header[:4] in SIGNATURES[2:]
    if big and order == ">":
        raise ImageError(f"{name}: a big-endian BigTIFF. {_REWRITE_ADVICE}")
    try:
        (offset,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", header, 8 if big else 4)
        first = _read_directory(file, offset, size, order, big, name)
        check_layout(first.tags, size, name)
        if first.tags.get(_COMPRESSION) == (_JPEG,):
            segments = len(first.tags.get(_TILES) or first.tags[_STRIPS])
            if count_scan_markers(file, 0) > MAX_SCANS * segments:
                raise ImageError(f"{name}: a JPEG of more than {MAX_SCANS} scans in a TIFF. {_REWRITE_ADVICE}")
        _check_pages(file, first, size, order, big, name)
    except struct.error as error:
        raise ImageError(f"{name}: damaged or incomplete (a tag is cut off). {_COPY_ADVICE}") from error


def tags_of(directory: Mapping[int, Any]) -> Tags:
    """Return the tags that `check_layout` needs from the directory of an image that Pillow has opened."""
    found = {number: directory[number] for number in _READ if number in directory}
    return {number: tuple(value) if isinstance(value, (tuple, bytes)) else (value,) for number, value in found.items()}


def check_layout(tags: Tags, size: int | None, name: str) -> None:
    """Check that the layout of the pixels is decoded exactly.

    Args:
        tags: Tags of the image.
        size: Size of the file in bytes, if it is known.
        name: Name of the image for messages.

    Raises:
        ImageError: The layout is not supported, or the tags contradict each other.
    """
    _check_samples(tags, name)
    _check_segments(tags, size, name)


def _read_directory(file: IO[bytes], offset: int, size: int, order: str, big: bool, name: str) -> _Directory:
    head, entry, inline, pointer = (8, "HHQ8s", 8, "Q") if big else (2, "HHI4s", 4, "I")
    entry = order + entry
    length = struct.calcsize(entry)
    if offset >= size:
        raise struct.error
    file.seek(offset)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(head))
    if count > _MAX_ENTRIES:
        raise ImageError(f"{name}: a TIFF directory of {count} tags, at most {_MAX_ENTRIES}. {_REWRITE_ADVICE}")
    content = file.read(count * length + inline)
    (following,) = struct.unpack_from(order + pointer, content, count * length)
    tags: dict[int, tuple[int, ...]] = {}
    total = 0
    for number, kind, items, value in struct.iter_unpack(entry, content[: count * length]):
        item = _SIZES.get(kind, 0)
        total += item * items
        if total > _MAX_TAG_BYTES or (kind not in _BYTE_TYPES and items > MAX_SEGMENTS):
            raise ImageError(
                f"{name}: TIFF tag {number} has {items} values, at most {MAX_SEGMENTS}: too many strips or tiles, or "
                f"damaged. {_REWRITE_ADVICE}"
            )
        if number not in _READ:
            continue
        if number in tags or kind not in _UNSIGNED or not items:
            problem = "repeated, empty or of a wrong type"
            raise ImageError(f"{name}: damaged (TIFF tag {number} is {problem}). {_COPY_ADVICE}")
        if item * items > inline:
            (start,) = struct.unpack(order + pointer, value)
            if start + item * items > size:
                raise struct.error
            file.seek(start)
            value = file.read(item * items)
        tags[number] = struct.unpack(f"{order}{items}{_UNSIGNED[kind]}", value[: item * items])
    return _Directory(tags, following)


def _check_pages(file: IO[bytes], first: _Directory, size: int, order: str, big: bool, name: str) -> None:
    """Refuse further pages of the same size, which may be bands or dates; overviews and masks are no such pages."""
    page = first
    for _ in range(_MAX_PAGES):
        if not page.next:
            return
        try:
            page = _read_directory(file, page.next, size, order, big, name)
        except (struct.error, ImageError):
            return  # Only the first page is decoded; damage behind it changes no pixel.
        marked = page.tags.get(_SUBFILE, (0,))[0] & 5 or page.tags.get(_OLD_SUBFILE, (1,))[0] == 2
        if not marked and all(page.tags.get(tag) == first.tags[tag] for tag in (_WIDTH, _HEIGHT)):
            raise ImageError(
                f"{name}: a TIFF with several pages of the same size. Save the image that is meant as a file of its own"
            )


def _check_samples(tags: Tags, name: str) -> None:
    if any(not tags.get(tag) for tag in (_WIDTH, _HEIGHT, _PHOTOMETRIC)):
        raise ImageError(f"{name}: damaged (no width, height or photometric interpretation). {_COPY_ADVICE}")
    photometric = tags[_PHOTOMETRIC][0]
    colors = _COLOR_SAMPLES.get(photometric)
    samples = tags.get(_SAMPLES, (1,))[0]
    bits = _per_sample(tags.get(_BITS, (1,)), samples)
    formats = _per_sample(tags.get(_FORMAT, (1,)), samples)
    extra = tags.get(_EXTRA, ())
    if colors is None:
        space = _COLOR_NAMES.get(photometric, f"of the color space {photometric}")
        raise ImageError(f"{name}: a TIFF that is {space}, not RGB. {_RGB_ADVICE}")
    # Bands that follow the colors, for example alpha or infrared, are not used.
    surplus = samples - colors
    unnamed = not extra and surplus > 0 and (photometric, samples) != (_RGB, 4)
    if (
        bits is None
        or formats is None
        or not 0 <= surplus <= _MAX_SURPLUS.get(photometric, 0)
        or unnamed
        or len(extra) not in (0, surplus)
    ):
        raise ImageError(f"{name}: not a TIFF with three 8-bit bands ({samples} bands). {BANDS_ADVICE}")
    odd = next((kind for kind in formats if kind != 1), None)
    if odd is not None or max(bits) > 8:
        kind = _FORMAT_NAMES.get(odd or 1, "unsigned integers" if odd is None else "numbers of unknown format")
        problem = "more than 8 bits a channel" if max(bits) > 8 else "not unsigned 8-bit samples"
        raise ImageError(f"{name}: {problem} ({max(bits)}-bit {kind}). {SCALE_ADVICE}")
    _check_bands(photometric, samples, bits, extra, name)
    _check_coding(tags, photometric, bits, name)


def _check_bands(photometric: int, samples: int, bits: tuple[int, ...], extra: tuple[int, ...], name: str) -> None:
    colors = _COLOR_SAMPLES[photometric]
    if 1 in extra:
        raise ImageError(f"{name}: the colors are multiplied by an alpha band (associated alpha). {BANDS_ADVICE}")
    few_bits = colors == 1 and samples == 1 and bits[0] in (1, 2, 4)
    if set(bits) != {8} and not few_bits:
        depths = ", ".join(map(str, bits))
        raise ImageError(f"{name}: not a TIFF with three 8-bit bands (bits {depths}). {BANDS_ADVICE}")


def _check_coding(tags: Tags, photometric: int, bits: tuple[int, ...], name: str) -> None:
    compression = tags.get(_COMPRESSION, (_NONE,))[0]
    planar = tags.get(_PLANAR, (1,))[0]
    # Pillow decodes a single plane as black-is-zero with 8 bits.
    inexact = planar == 2 and len(bits) == 1 and (photometric == 0 or bits[0] < 8)
    if planar not in (1, 2) or inexact or tags.get(_FILL_ORDER, (1,))[0] != 1:
        raise ImageError(f"{name}: a TIFF with a rare order of samples or bits. {_REWRITE_ADVICE}")
    # Pillow decodes separate planes with a declared alpha band; other surplus bands become noise or fail.
    alpha = photometric == _RGB and tags.get(_EXTRA) == (2,) and len(bits) == 4
    if planar == 2 and len(bits) > _COLOR_SAMPLES[photometric] and not alpha:
        raise ImageError(f"{name}: a TIFF with surplus bands, stored band after band. {BANDS_ADVICE}")
    if photometric == _YCBCR and (compression != _JPEG or planar != 1):
        raise ImageError(f"{name}: a YCbCr TIFF without JPEG compression. {_RGB_ADVICE}")
    if photometric == _CMYK and tags.get(_INKS, (1,))[0] != 1:
        raise ImageError(f"{name}: a TIFF with inks other than CMYK. {_RGB_ADVICE}")
    known = compression == _NONE or compression in _LOSSLESS
    jpeg = compression == _JPEG and photometric in (1, _RGB, _YCBCR) and bits[0] == 8
    if not (known or jpeg or (compression in _FAX and bits == (1,))):
        raise ImageError(
            f"{name}: a TIFF with the unsupported compression {compression}. "
            "Write it again, for example `gdal_translate -co COMPRESS=DEFLATE in.tif out.tif`"
        )
    predictor = tags.get(_PREDICTOR, (1,))[0]
    if predictor != 1 and (predictor != 2 or compression not in _PREDICTED):
        raise ImageError(f"{name}: a TIFF with predictor {predictor} and compression {compression}. {_REWRITE_ADVICE}")
    colors = tags.get(_COLORS, ())
    if photometric == _PALETTE and (len(colors) != 3 << bits[0] or 0 < max(colors) < 256):
        raise ImageError(f"{name}: a palette TIFF whose colors do not have 16 bits. {_RGB_ADVICE}")


def _check_segments(tags: Tags, size: int | None, name: str) -> None:
    """Check that the strips or tiles cover the image exactly: a decoder leaves a missing part black."""
    width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
    samples, bits = tags.get(_SAMPLES, (1,))[0], tags.get(_BITS, (1,))[0]
    planes = samples if tags.get(_PLANAR, (1,))[0] == 2 else 1
    tiled = _TILES in tags
    others = (_STRIPS, _STRIP_BYTES) if tiled else (_TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES)
    if not (tiled or _STRIPS in tags) or any(tag in tags for tag in others):
        raise ImageError(f"{name}: damaged (needs either strips or tiles). {_COPY_ADVICE}")
    across, down = width, min(tags.get(_ROWS, (height,))[0], height)
    if tiled:
        across, down = tags.get(_TILE_WIDTH, (0,))[0], tags.get(_TILE_HEIGHT, (0,))[0]
        if across % 16 or down % 16 or across * down > MAX_PIXELS:
            raise ImageError(f"{name}: a TIFF with tiles of {across} x {down} pixels. {_REWRITE_ADVICE}")
    if not across or not down:
        raise ImageError(f"{name}: damaged (empty strips or tiles). {_COPY_ADVICE}")
    columns, rows = -(-width // across), -(-height // down)
    offsets, lengths = tags[_TILES if tiled else _STRIPS], tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    kind = "tiles" if tiled else "strips"
    if columns * rows * planes > MAX_SEGMENTS:
        raise ImageError(f"{name}: more than {MAX_SEGMENTS} {kind}. {_REWRITE_ADVICE}")
    if len(offsets) != columns * rows * planes or len(lengths) != len(offsets):
        raise ImageError(f"{name}: damaged ({len(offsets)} {kind}, not {columns * rows * planes}). {_COPY_ADVICE}")
    if not all(offsets) or not all(lengths):
        raise ImageError(f"{name}: a sparse TIFF, some {kind} have no data. {_REWRITE_ADVICE}")
    line = -(-across * bits * (1 if planes > 1 else samples) // 8)
    plain = tags.get(_COMPRESSION, (_NONE,))[0] == _NONE
    for number, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        lines = down if tiled else min(down, height - number % rows * down)
        needed = line * lines if plain else 1
        if length < needed:
            raise ImageError(f"{name}: damaged ({kind} of {length} bytes that need {needed}). {_COPY_ADVICE}")
        if size is not None and offset + max(needed, 0 if plain else length) > size:
            raise ImageError(f"{name}: damaged or incomplete (the file is truncated). {_COPY_ADVICE}")


def _per_sample(values: tuple[int, ...], samples: int) -> tuple[int, ...] | None:
    """Return one value per sample, or None if the number of values is wrong."""
    if len(values) == 1 and 1 <= samples <= MAX_SEGMENTS:
        return values * samples
    return values if len(values) == samples else None

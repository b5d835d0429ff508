"""A writer of small TIFF files of any layout, also of layouts that no library writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

_TYPES = {3: "H", 4: "I", 16: "Q"}


def tiff(
    pixels: np.ndarray,
    *,
    photometric: int = 2,
    planar: int = 1,
    order: Literal["<", ">"] = "<",
    big: bool = False,
    rows: int | None = None,
    tile: int | None = None,
    deflate: bool = False,
    extra: tuple[int, ...] = (),
    tags: Mapping[int, tuple[int, ...] | None] | None = None,
    following: bytes = b"",
) -> bytes:
    """Return a TIFF file.

    Args:
        pixels: Samples [H, W, n] of any numeric type.
        photometric: Photometric interpretation: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, …
        planar: 1 for pixel after pixel, 2 for band after band.
        order: "<" or ">", the byte order.
        big: Write a BigTIFF.
        rows: Rows of a strip; by default one strip.
        tile: Side of square tiles instead of strips.
        deflate: Compress strips or tiles.
        extra: The tag ExtraSamples.
        tags: Values that replace tags; None removes a tag.
        following: Directory of the next page.
    """
    height, width, samples = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[pixels.dtype.kind]
    data = pixels.astype(pixels.dtype.newbyteorder(order))
    planes = [data] if planar == 1 else [data[..., band : band + 1] for band in range(samples)]
    blocks = [block for plane in planes for block in _blocks(plane, rows or height, tile)]
    blocks = [zlib.compress(block) for block in blocks] if deflate else blocks
    start = 16 if big else 8
    offsets = tuple(start + sum(map(len, blocks[:number])) for number in range(len(blocks)))
    values: dict[int, tuple[int, ...] | None] = {
        256: (width,),
        257: (height,),
        258: (8 * pixels.dtype.itemsize,) * samples,
        259: (8 if deflate else 1,),
        262: (photometric,),
        277: (samples,),
        284: (planar,),
        338: extra or None,
        339: (kind,) * samples,
    }
    lengths = tuple(map(len, blocks))
    values |= (
        {322: (tile,), 323: (tile,), 324: offsets, 325: lengths}
        if tile
        else {273: offsets, 278: (rows or height,), 279: lengths}
    )
    values |= tags or {}
    body = b"".join(blocks)
    body += b"\0" * (len(body) % 2)
    end = start + len(body)
    first = directory(values, end, order, big, bool(following))
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    pointer = struct.pack(f"{order}HHQ", 8, 0, end) if big else struct.pack(f"{order}I", end)
    return magic + pointer + body + first + following


def directory(
    values: Mapping[int, Any], position: int, order: str = "<", big: bool = False, more: bool = False
) -> bytes:
    """Return an image file directory that is written at `position`; `more`: another directory follows."""
    present = {tag: value for tag, value in sorted(values.items()) if value is not None}
    inline, entry, pointer = (8, "HHQ", "Q") if big else (4, "HHI", "I")
    entry_size = 20 if big else 12
    end = position + (8 if big else 2) + entry_size * len(present) + inline
    entries, data = b"", b""
    for tag, value in present.items():
        kind = 4 if tag in (256, 257, 273, 278, 279, 324, 325) else 3
        packed = struct.pack(f"{order}{len(value)}{_TYPES[kind]}", *value)
        entries += struct.pack(order + entry, tag, kind, len(value))
        if len(packed) <= inline:
            entries += packed.ljust(inline, b"\0")
        else:
            entries += struct.pack(order + pointer, end + len(data))
            data += packed
    count = struct.pack(order + ("Q" if big else "H"), len(present))
    return count + entries + struct.pack(order + pointer, end + len(data) if more else 0) + data


def _blocks(plane: np.ndarray, rows: int, tile: int | None) -> list[bytes]:
    height, width, _ = plane.shape
    if tile is None:
        return [plane[top : top + rows].tobytes() for top in range(0, height, rows)]
    padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    return [
        padded[top : top + tile, left : left + tile].tobytes()
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]

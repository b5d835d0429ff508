"""Checks of PNG, JPEG and BMP files before a decoder reads them: bit depth, and the number of parts."""

from __future__ import annotations

import re
import struct
from typing import IO

from rsicrc.errors import ImageError
from rsicrc.inputs.limits import MAX_SCANS, SCALE_ADVICE

_MAX_SEGMENTS = 4096  # a color profile takes up to 255 segments
# Chunks of 8 KiB, the default of libpng, are 24,576 for the largest RGB image.
MAX_CHUNKS = 1 << 16
# Pillow decodes run-length encoded BMP files in Python.
_MAX_RLE_PIXELS = 1 << 22

_SAVE_ADVICE = "Save it again, for example as PNG"
_DAMAGED = "damaged or incomplete"
_COPY_ADVICE = "Copy or download it again"
_BLOCK = 1 << 20
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# A marker in entropy-coded data: not a stuffed byte, a restart marker or a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)


def check_png(file: IO[bytes], name: str) -> None:
    """Check the bit depth and the number of chunks of a PNG file.

    Raises:
        ImageError: The file has 16 bits per channel, too many chunks, or no complete header.
    """
    file.seek(8)
    header = file.read(25)
    if len(header) < 25 or header[:8] != b"\0\0\0\x0dIHDR":
        raise ImageError(f"{name}: {_DAMAGED} (no complete PNG header). {_COPY_ADVICE}")
    depth = header[16]
    if depth > 8:
        raise ImageError(f"{name}: more than 8 bits a channel ({depth}-bit PNG). {SCALE_ADVICE}")
    for _ in range(MAX_CHUNKS):
        start = file.read(8)
        if len(start) < 8 or start[4:] == b"IEND":
            return
        if start[4:] == b"IHDR":
            raise ImageError(f"{name}: damaged (a second PNG header). {_COPY_ADVICE}")
        file.seek(int.from_bytes(start[:4]) + 4, 1)
    raise ImageError(f"{name}: a PNG of more than {MAX_CHUNKS} chunks. {_SAVE_ADVICE}")


def check_jpeg(file: IO[bytes], name: str) -> None:
    """Check the bit depth and the number of scans of a JPEG file.

    Raises:
        ImageError: The file has other than 8 bits per channel, too many scans or segments, or no frame.
    """
    file.seek(2)
    depth = None
    for _ in range(_MAX_SEGMENTS):
        marker = file.read(2)
        if len(marker) < 2 or marker[0] != 0xFF:
            raise ImageError(f"{name}: {_DAMAGED} (no JPEG frame). {_COPY_ADVICE}")
        kind = marker[1]
        if kind == 0xFF:
            file.seek(-1, 1)
            continue
        if kind == _SCAN:
            break
        segment = file.read(3)
        if len(segment) < 3 or kind == _END:
            raise ImageError(f"{name}: {_DAMAGED} (no JPEG frame). {_COPY_ADVICE}")
        if kind in _FRAMES:
            depth = segment[2]
        file.seek(int.from_bytes(segment[:2]) - 3, 1)
    else:
        raise ImageError(f"{name}: a JPEG of more than {_MAX_SEGMENTS} segments. {_SAVE_ADVICE}")
    if depth is not None and depth != 8:
        raise ImageError(f"{name}: {depth} bits a channel, a JPEG needs 8. {SCALE_ADVICE}")
    start = file.tell() - 2
    if count_scan_markers(file, start) > MAX_SCANS and _count_scans(file, start) > MAX_SCANS:
        raise ImageError(f"{name}: a JPEG of more than {MAX_SCANS} scans. {_SAVE_ADVICE}")


def check_bmp(file: IO[bytes], name: str) -> None:
    """Check that a run-length encoded BMP file is small.

    Raises:
        ImageError: The file is run-length encoded and large.
    """
    file.seek(14)
    header = file.read(20)
    if len(header) < 20 or int.from_bytes(header[:4], "little") < 40:
        return
    width, height, _, _, compression = struct.unpack_from("<iiHHI", header, 4)
    if compression in (1, 2) and abs(width * height) > _MAX_RLE_PIXELS:
        raise ImageError(f"{name}: a large run-length encoded BMP. {_SAVE_ADVICE}")


def count_scan_markers(file: IO[bytes], start: int) -> int:
    """Return an upper limit of the number of scans from `start` on: the bytes FF DA, also in metadata."""
    file.seek(start)
    count, last = 0, b""
    while block := file.read(_BLOCK):
        count += block.count(b"\xff\xda") + (last == b"\xff" and block[:1] == b"\xda")
        last = block[-1:]
    return count


def _count_scans(file: IO[bytes], start: int) -> int:
    """Count the scans of a JPEG file until the end of the image, at most one more than `MAX_SCANS`."""
    scans, position = 0, start
    while scans <= MAX_SCANS:
        file.seek(position)
        block = file.read(_BLOCK)
        found = _MARKER.search(block)
        if found is None:
            if len(block) < _BLOCK:
                break
            position += len(block) - 1
            continue
        kind, position = block[found.start() + 1], position + found.end()
        if kind == _END:
            break
        scans += kind == _SCAN
        file.seek(position)
        position += int.from_bytes(file.read(2))
    return scans

"""Checks of PNG, JPEG and BMP files before a decoder reads them: bit depth, and the number of parts."""

from __future__ import annotations

import math
import re
import struct
from typing import IO

from rsicrc.errors import ImageError
from rsicrc.inputs.limits import MAX_PIXELS, MAX_SCANS, SCALE_ADVICE

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
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# libjpeg decodes an image of several scans when all scans are read: until then it holds each coefficient in 2 bytes.
# The pixels need 4 bytes in Pillow. An image without compression of the largest size has 3 * MAX_PIXELS bytes.
_MOST_JPEG_BYTES = 2.3 * 3 * MAX_PIXELS
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
    """Check the bit depth, the number of scans and the memory of a JPEG file.

    Raises:
        ImageError: The file has other than 8 bits per channel, too many scans or segments, or no frame, or it needs too
            much memory.
    """
    file.seek(2)
    depth, frame, is_progressive = None, b"", False
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
            depth, is_progressive = segment[2], kind in _PROGRESSIVE
            frame = file.read(5)
            frame += file.read(3 * frame[4]) if len(frame) == 5 else b""
            file.seek(-len(frame), 1)
        file.seek(int.from_bytes(segment[:2]) - 3, 1)
    else:
        raise ImageError(f"{name}: a JPEG of more than {_MAX_SEGMENTS} segments. {_SAVE_ADVICE}")
    if depth is not None and depth != 8:
        raise ImageError(f"{name}: {depth} bits a channel, a JPEG needs 8. {SCALE_ADVICE}")
    start = file.tell() - 2
    in_scan = file.read(3)[2:]
    if (is_progressive or in_scan != frame[4:5]) and _bytes_of_scans(frame) > _MOST_JPEG_BYTES:
        raise ImageError(
            f"{name}: a progressive JPEG of this size takes too much memory. Save it as a JPEG that is not "
            "progressive, or as PNG, or cut it into tiles"
        )
    if count_scan_markers(file, start) > MAX_SCANS and _count_scans(file, start) > MAX_SCANS:
        raise ImageError(f"{name}: a JPEG of more than {MAX_SCANS} scans. {_SAVE_ADVICE}")


def _bytes_of_scans(frame: bytes) -> int:
    """Return the bytes that decoding of several scans needs: coefficients of all components, and the pixels.

    Args:
        frame: Height, width, number of components, and three bytes for each component, as in the header of a frame.
    """
    height, width = int.from_bytes(frame[:2]), int.from_bytes(frame[2:4])
    factors = [(byte >> 4, byte & 15) for byte in frame[6::3]]
    across, down = max((h for h, _ in factors), default=0) or 1, max((v for _, v in factors), default=0) or 1
    blocks = sum(h * v for h, v in factors) * math.ceil(width / (8 * across)) * math.ceil(height / (8 * down))
    return 2 * 64 * blocks + 4 * width * height


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

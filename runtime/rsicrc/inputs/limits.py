"""Limits of images: size, number of parts, and pixels that are decoded at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rsicrc.errors import ImageError

# A smaller image would be mostly interpolation, and is probably a mistake (for example a 1-pixel placeholder).
MIN_SIDE = 16
# 8192 × 8192. Larger images are scenes, which have to be cut into tiles, or decompression bombs.
MAX_PIXELS = 1 << 26
# The center crop would drop nearly all of a narrower image, and the resize before the crop would need gigabytes.
MAX_ASPECT = 16
# Pixels that all threads of a process decode at the same time: two images of the maximum size.
MAX_PIXELS_IN_FLIGHT = 1 << 27
# Every scan of a JPEG file passes over the whole image. libjpeg writes 10 scans for a progressive color image, and
# optimizers write fewer than 25.
MAX_SCANS = 32
# A stream that cannot seek is read into memory. The largest image without compression has 4 × MAX_PIXELS bytes.
MAX_STREAM_BYTES = 1 << 29
SCALE_ADVICE = (
    "Scale both images to 8 bit with the same stretch first, for example "
    "`gdal_translate -ot Byte -scale 0 3000 0 255 in.tif out.tif`"
)


def check_size(width: int, height: int, name: str) -> None:
    """Check the size of an image against the limits.

    Raises:
        ImageError: The image is too small, too large or too narrow.
    """
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels is too small. Each side needs at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels is more than {MAX_PIXELS}. Cut it into tiles")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"{name}: {width} x {height} pixels is too long and narrow. Cut it into square tiles")


class PixelBudget:
    """A semaphore on pixels, granted in the order of the requests.

    A thread must not request pixels while it holds pixels: two threads could wait for each other.

    Args:
        limit: Pixels that may be in use at the same time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` are free, and hold them during the block; `pixels` may not be more than the limit."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._used + pixels <= self._limit)
                self._used += pixels
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


pixel_budget = PixelBudget(MAX_PIXELS_IN_FLIGHT)

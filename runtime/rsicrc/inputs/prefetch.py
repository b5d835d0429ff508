"""Batches of image pairs, read by threads ahead of the graphs, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError, ImageError
from rsicrc.inputs.features import ImageFeatures, join_features
from rsicrc.inputs.images import ImageLike, Pair, check_pair, check_sizes, decoded, describe
from rsicrc.preprocessing import Preprocessing
from rsicrc.results import PairFailure, View
from rsicrc.timings import Timings

# Pixels of a pair, uint8 [2, size, size, 3], or the visual tokens of both images [S, 2, d].
Prepared: TypeAlias = NDArray[Any]


class Pixels(Protocol):
    """Prepared pairs, uint8 [B, 2, size, size, 3]: a numpy array, or an array in the memory of a GPU."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Pixels: ...


@dataclass(frozen=True)
class Batch:
    """Consecutive pairs, read and prepared.

    Attributes:
        images: uint8 [B, 2, size, size, 3], the pairs that could be read; B may be 0.
        failures: One entry for each pair in the order of the input: a failure, or None for a pair in `images`.
        timings: Seconds spent on reading and preparing.
        seen: Seen part of each pair in `images`; empty for pairs that the caller has prepared.
    """

    images: Pixels
    failures: tuple[PairFailure | None, ...]
    timings: Timings
    seen: tuple[View, ...] = ()


class BatchReader(Protocol):
    """An iterator over batches that a backend can prefetch from."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def ready(self) -> bool:
        """Return True if the next batch can be had without waiting for images."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


def prepare_pair(pair: Pair, preprocessing: Preprocessing) -> Prepared:
    """Read a pair and resize it to the input of the image encoder: the pixels of `read_pair`."""
    return read_pair(pair, preprocessing, Timings())[0]


def read_pair(pair: Pair, preprocessing: Preprocessing, timings: Timings) -> tuple[Prepared, View]:
    """Read a pair and resize it to the input of the image encoder.

    Args:
        pair: The pair; features of two images are only joined.
        preprocessing: Preprocessing of the model.
        timings: Timings to which the seconds of reading and preparing are added.

    Returns:
        uint8 [2, size, size, 3], before and after, or the visual tokens [S, 2, d] of features; and the part of the
        images that is left after the center crop.

    Raises:
        ImageError: See `rsicrc.inputs.images.load_pair`.
    """
    check_pair(pair)
    first, second = pair
    if isinstance(first, ImageFeatures) or isinstance(second, ImageFeatures):
        return join_features(first, second)
    # One image after the other, so that only one large image is in memory.
    (before, before_size), (after, after_size) = (
        read_image(image, preprocessing, timings) for image in (first, second)
    )
    check_sizes(pair, before_size, after_size)
    return np.stack([before, after]), View(preprocessing.seen_box(*before_size), before_size)


def read_image(
    image: ImageLike, preprocessing: Preprocessing, timings: Timings
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read and prepare one image; return its pixels, uint8 [size, size, 3], and the size of the original."""
    with ExitStack() as held:
        with timings.measure("read"):
            rgb = held.enter_context(decoded(image))
        try:
            with timings.measure("prepare"):
                return preprocessing.prepare(rgb), rgb.size
        except MemoryError as error:
            raise ImageError(f"{describe(image)}: not enough memory. Free memory, or cut it into tiles") from error


def read_images(
    images: Sequence[ImageLike], preprocessing: Preprocessing, workers: int
) -> tuple[NDArray[np.uint8], list[View]]:
    """Read single images in threads and resize them to the input of the image encoder.

    Returns:
        uint8 [N, size, size, 3], and the part of each image that is left after the center crop.

    Raises:
        ImageError: An image cannot be used; the error names the first one.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="rsicrc-read") as pool:
        read = list(pool.map(lambda image: read_image(image, preprocessing, Timings()), images))
    size = preprocessing.size
    pixels = np.stack([image for image, _ in read]) if read else np.zeros((0, size, size, 3), np.uint8)
    return pixels, [View(preprocessing.seen_box(*original), original) for _, original in read]


class ArrayReader:
    """Batches of pairs that the caller has prepared, without a copy.

    Args:
        pixels: All pairs, uint8 [N, 2, size, size, 3].
        batch_size: Number of pairs in a batch; the last batch may be smaller.
    """

    def __init__(self, pixels: Pixels, batch_size: int) -> None:
        self._pixels = pixels
        self._starts = iter(range(0, len(pixels), batch_size))
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = next(self._starts)
        part = self._pixels[start : start + self._batch_size]
        return Batch(part, (None,) * len(part), Timings(pairs=len(part)))

    def ready(self) -> bool:
        """Return True: the pairs are in memory."""
        return True

    def close(self) -> None:
        """Stop reading."""
        self._starts = iter(range(0))


class PairReader:
    """Batches of pairs that threads read, at most one batch ahead of the batch that was returned last.

    Args:
        pairs: The pairs; taken one by one, in the calling thread. If the iterable raises, the pairs before the error
            are still returned, then the error is raised.
        preprocessing: Preprocessing of the model.
        batch_size: Number of pairs in a batch, readable or not; the last batch may be smaller.
        workers: Number of threads.
    """

    def __init__(self, pairs: Iterable[Pair], preprocessing: Preprocessing, batch_size: int, workers: int) -> None:
        self._source: Iterator[Pair] = iter(pairs)
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="rsicrc-read")
        self._pending: deque[tuple[Future[tuple[Prepared, View]], Timings]] = deque()
        self._source_error: Exception | None = None
        self._index = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        images: list[Prepared] = []
        seen: list[View] = []
        failures: list[PairFailure | None] = []
        timings = Timings()
        while len(failures) < self._batch_size:
            # Submit before every wait, so that the next batch is being read already when this one is full.
            self._submit(self._batch_size + 1 - len(self._pending))
            if not self._pending:
                break
            future, spent = self._pending.popleft()
            try:
                pixels, view = future.result()
                images.append(pixels)
                seen.append(view)
                failures.append(None)
                timings.read += spent.read
                timings.prepare += spent.prepare
            except ImageError as error:
                failures.append(PairFailure(self._index, error))
            self._index += 1
        if not failures:
            self._end()
        if len({each.shape for each in images}) > 1:
            raise ArgumentError("pairs of images and pairs of features cannot be in one call: encode all images")
        size = self._preprocessing.size
        timings.pairs = len(images)
        stacked = np.stack(images) if images else np.zeros((0, 2, size, size, 3), np.uint8)
        return Batch(stacked, tuple(failures), timings, tuple(seen))

    def ready(self) -> bool:
        """Return True if the pairs of the next batch have been read."""
        return bool(self._pending) and all(future.done() for future, _ in self._pending)

    def close(self) -> None:
        """Stop reading and wait for the threads. Pairs that no thread has begun to read are not read."""
        self._source = iter(())
        self._pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, count: int) -> None:
        try:
            for pair in islice(self._source, count):
                timings = Timings()
                self._pending.append((self._pool.submit(read_pair, pair, self._preprocessing, timings), timings))
        except Exception as error:  # an error of the caller's iterable: the pairs before it come first
            self._source_error = error
            self._source = iter(())

    def _end(self) -> None:
        self.close()
        error, self._source_error = self._source_error, None
        raise StopIteration if error is None else error

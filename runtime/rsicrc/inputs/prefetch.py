"""Reading pairs ahead of the graphs: a few threads decode while the graphs work, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.arrays import DeviceArray
from rsicrc.errors import ImageError
from rsicrc.inputs.images import Pair, load_pair
from rsicrc.preprocessing import Preprocessing
from rsicrc.results import PairFailure
from rsicrc.timings import Timings

Prepared: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Consecutive pairs, read and prepared.

    Attributes:
        images: uint8 [B, 2, size, size, 3], the pairs that could be read; B may be 0. On a GPU, once they are uploaded.
        failures: one for each pair that could not, or None in the place of one that could, in the order of the input.
        timings: what reading and preparing took.
        is_next_read: whether the batch after this one could be had without waiting.
    """

    images: NDArray[np.uint8] | DeviceArray
    failures: tuple[PairFailure | None, ...]
    timings: Timings
    is_next_read: Callable[[], bool]


def prepare_pair(pair: Pair, preprocessing: Preprocessing, timings: Timings | None = None) -> Prepared:
    """Return a pair as the image encoder takes it, uint8 [2, size, size, 3].

    Args:
        pair: the pair.
        preprocessing: what the model wants.
        timings: gets what reading and preparing took.

    Raises:
        ImageError: see `rsicrc.inputs.images.load_pair`.
    """
    timings = timings or Timings()
    with timings.measure("read"):
        before, after = load_pair(pair)
    with timings.measure("prepare"):
        return np.stack([preprocessing.prepare(before), preprocessing.prepare(after)])


def array_batches(pixels: NDArray[np.uint8] | DeviceArray, batch_size: int) -> Generator[Batch]:
    """Cut pairs that somebody prepared into batches, without a copy.

    Args:
        pixels: from `rsicrc.backends.arrays.take_pixels`.
        batch_size: pairs in a batch; the last one may be shorter.
    """
    for start in range(0, len(pixels), batch_size):
        part = pixels[start : start + batch_size]
        yield Batch(part, (None,) * len(part), Timings(pairs=len(part)), lambda: True)


def read_batches(
    pairs: Iterable[Pair], preprocessing: Preprocessing, batch_size: int, workers: int
) -> Generator[Batch]:
    """Read pairs with `workers` threads, at most one batch ahead of the one that was asked for.

    Args:
        pairs: the pairs; taken one by one, in the calling thread.
        preprocessing: what the model wants.
        batch_size: pairs in a batch, readable or not; the last one may be shorter.
        workers: threads.

    Yields:
        The batches, in the order of the input.
    """
    size = preprocessing.size
    with ThreadPoolExecutor(workers, thread_name_prefix="rsicrc-read") as pool:
        pending: deque[tuple[Future[Prepared], Timings]] = deque()

        def submit(pair: Pair) -> tuple[Future[Prepared], Timings]:
            timings = Timings()
            return pool.submit(prepare_pair, pair, preprocessing, timings), timings

        def is_next_read() -> bool:
            return bool(pending) and all(future.done() for future, _ in pending)

        source = iter(pairs)
        index = 0
        try:
            while True:
                images: list[Prepared] = []
                timings = Timings()
                failures: list[PairFailure | None] = []
                while len(failures) < batch_size:
                    # Topped up before every wait: when this batch is full, the next one is already being read.
                    missing = batch_size + 1 - len(pending)
                    pending.extend(map(submit, islice(source, missing)))
                    if not pending:
                        break
                    future, spent = pending.popleft()
                    try:
                        images.append(future.result())
                        failures.append(None)
                        timings.read += spent.read
                        timings.prepare += spent.prepare
                    except ImageError as error:
                        failures.append(PairFailure(index, error))
                    index += 1
                if not failures:
                    return
                stacked = np.stack(images) if images else np.zeros((0, 2, size, size, 3), np.uint8)
                timings.pairs = len(images)
                yield Batch(stacked, tuple(failures), timings, is_next_read)
        finally:
            # The caller may stop early (an error, Ctrl-C): what was not begun is not read.
            pool.shutdown(wait=False, cancel_futures=True)

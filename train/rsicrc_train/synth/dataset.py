"""Files: pairs and captions in LEVIR-CC's own layout."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import CAPTIONS_FILE
from rsicrc.errors import ArgumentError
from rsicrc_train.synth.change_facts import GROUNDS
from rsicrc_train.synth.pairs import make_pair

SPLITS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
# Noise does not pack: anything more thorough than Huffman codes would cost more time than the drawing, for no gain.
_PNG = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB),
)
_BATCH = 16

Job = tuple[str, int, int, str, str, tuple[str, ...]]
"""Target directory, seed, index, split, file name, grounds."""


def generate(
    directory: Path,
    pairs: int,
    seed: int,
    splits: Mapping[str, float] | None = None,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    grounds: Sequence[str] = GROUNDS,
) -> None:
    """Write a data set of generated pairs in LEVIR-CC's layout.

    `images/{train,val,test}/{A,B}/*.png` are written first and the captions last, so that a directory with captions is
    complete. The same seed, number of pairs, splits and grounds give the same bytes, whatever the number of workers.
    A pair depends on the seed and its place in the whole set alone: with the same seed, a larger set begins with the
    pairs of a smaller one, so a test set of its own wants a seed of its own.

    Args:
        directory: Where to; made if it is not there.
        pairs: How many pairs, from 1.
        seed: From 0.
        splits: Share of each split, summing to 1; `SPLITS` if None.
        workers: Processes; 1 works in this one.
        progress: Called with the number of pairs done since the last call.
        grounds: Kinds of scene: some of "bareland", "meadow" and "woods".

    Raises:
        FileExistsError: The directory is not empty.
        ArgumentError: An argument is out of range.
    """
    counts = split_counts(pairs, SPLITS if splits is None else splits)
    if seed < 0:
        raise ArgumentError(f"seed must be 0 or more, not {seed}")
    if workers < 1:
        raise ArgumentError(f"workers must be 1 or more, not {workers}")
    if not grounds or not set(grounds) <= set(GROUNDS):
        raise ArgumentError(f"grounds are some of {', '.join(GROUNDS)}, not {', '.join(grounds) or 'none'}")
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not an empty directory: choose another, or remove it first")
    for split in counts:
        for date in "AB":
            (directory / "images" / split / date).mkdir(parents=True, exist_ok=True)
    places = [(split, f"{split}_{n + 1:06d}.png") for split, count in counts.items() for n in range(count)]
    jobs = [(str(directory), seed, index, *place, tuple(grounds)) for index, place in enumerate(places)]
    images = []
    for (_, _, index, split, name, _), (sentences, changed) in zip(jobs, _written(jobs, workers), strict=True):
        images.append(_entry(index, split, name, sentences, changed))
        if progress is not None:
            progress(1)
    target = directory / CAPTIONS_FILE
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps({"images": images, "dataset": "rsicrc-synth"}), encoding="utf-8")
    partial.replace(target)


def split_counts(pairs: int, splits: Mapping[str, float]) -> dict[str, int]:
    """How many pairs each split gets: shares rounded so that they sum to `pairs`, in the order train, val, test.

    Raises:
        ArgumentError: Fewer than one pair, an unknown split, or shares that are negative or do not sum to 1.
    """
    if pairs < 1:
        raise ArgumentError(f"pairs must be 1 or more, not {pairs}")
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise ArgumentError(f"unknown split {unknown[0]!r}: LEVIR-CC has {', '.join(SPLITS)}")
    # Written so that a share that is not a number fails too.
    if not all(share >= 0 for share in splits.values()) or not abs(sum(splits.values()) - 1) < 1e-6:
        raise ArgumentError(f"the shares of the splits must sum to 1 and none be negative: {dict(splits)}")
    names = [name for name in SPLITS if splits.get(name, 0) > 0]
    ends = np.rint(np.cumsum([splits[name] for name in names]) * pairs).astype(int)
    return dict(zip(names, np.diff(ends, prepend=0).tolist(), strict=True))


def _written(jobs: list[Job], workers: int) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Write the pictures of each job; sentences and whether there is a change, in the order of the jobs."""
    if workers == 1:
        yield from map(_write, jobs)
        return
    # Forking a process that holds threads (torch, OpenCV) can lock up, so workers start afresh.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write, jobs, chunksize=_BATCH)


def _write(job: Job) -> tuple[tuple[str, ...], bool]:
    directory, seed, index, split, name, grounds = job
    pair = make_pair(seed, index, grounds)
    for date, picture in (("A", pair.before), ("B", pair.after)):
        path = os.path.join(directory, "images", split, date, name)  # noqa: PTH118 - pathlib costs as much as a tree
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(encode(picture))
    return pair.sentences, pair.changed


def encode(picture: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [height, width, 3] RGB, as PNG."""
    _, packed = cv2.imencode(".png", picture[..., ::-1], _PNG)
    return bytes(packed)


def _entry(index: int, split: str, name: str, sentences: tuple[str, ...], changed: bool) -> dict[str, Any]:
    """What the captions file says on a pair."""
    numbers = [5 * index + k for k in range(5)]
    return {
        "filepath": split,
        "filename": name,
        "imgid": index,
        "split": split,
        "changeflag": int(changed),
        "sentences": [
            {"tokens": text.split(), "raw": f" {text} .", "imgid": index, "sentid": number}
            for text, number in zip(sentences, numbers, strict=True)
        ],
        "sentids": numbers,
    }

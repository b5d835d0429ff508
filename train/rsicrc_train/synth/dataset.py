"""Generation of a data set: image files and captions in the layout of LEVIR-CC."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import CAPTIONS_FILE
from rsicrc.errors import ArgumentError
from rsicrc_train.quoting import quote
from rsicrc_train.synth.change_facts import GROUNDS
from rsicrc_train.synth.pairs import Pair, make_pair

SPLITS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
# Noise is nearly incompressible: stronger compression than Huffman codes would take longer than rendering, for no gain.
_PNG = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB),
)
_BATCH = 16

MASKS = "label"


class PairSource(Protocol):
    """Source of pairs that can be sent to other processes.

    Attributes:
        has_masks: True if some of the pairs have a mask.
    """

    has_masks: ClassVar[bool]

    def __call__(self, index: int, split: str) -> Pair:
        """Return the pair of an index in the data set, which belongs to a split."""
        ...


@dataclass(frozen=True)
class DrawnPairs:
    """Source of drawn scenes."""

    has_masks: ClassVar[bool] = False
    seed: int
    grounds: tuple[str, ...]

    def __call__(self, index: int, split: str) -> Pair:
        """Return the scene of an index; the split has no effect."""
        return make_pair(self.seed, index, self.grounds)


Job = tuple[PairSource, str, int, str, str]
"""Arguments of one pair: source, target directory, index, split, file name."""


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
    A pair depends only on the seed and its index in the whole data set: with the same seed, a larger data set begins
    with the pairs of a smaller one, so a separate test set needs another seed.

    Args:
        directory: Directory to write to; created if it does not exist.
        pairs: Number of pairs, from 1.
        seed: Seed of the generator, from 0.
        splits: Share of each split, summing to 1; `SPLITS` if None.
        workers: Number of processes; 1 generates in this process.
        progress: Callback with the number of pairs done since the last call.
        grounds: Kinds of scene: some of "bareland", "meadow" and "woods".

    Raises:
        FileExistsError: The directory is not empty.
        ArgumentError: An argument is out of range.
    """
    counts = split_counts(pairs, SPLITS if splits is None else splits)
    if seed < 0:
        raise ArgumentError(f"seed must be 0 or more, not {seed}")
    if not grounds or not set(grounds) <= set(GROUNDS):
        raise ArgumentError(f"grounds are some of {', '.join(GROUNDS)}, not {', '.join(grounds) or 'none'}")
    write_pairs(Path(directory), counts, DrawnPairs(seed, tuple(grounds)), workers, progress)


def write_pairs(
    directory: Path,
    counts: Mapping[str, int],
    source: PairSource,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write pairs in LEVIR-CC's layout: the images, masks in `images/{split}/label/`, and last the captions.

    Args:
        directory: Directory to write to; created if it does not exist.
        counts: Number of pairs of each split.
        source: Source of the pairs.
        workers: Number of processes; 1 generates in this process.
        progress: Callback with the number of pairs done since the last call.

    Raises:
        FileExistsError: The directory is not empty.
        ArgumentError: The number of workers is below 1.
    """
    if workers < 1:
        raise ArgumentError(f"workers must be 1 or more, not {workers}")
    require_empty(directory)
    for split in counts:
        for folder in ("A", "B", *((MASKS,) if source.has_masks else ())):
            (directory / "images" / split / folder).mkdir(parents=True, exist_ok=True)
    files = [(split, f"{split}_{n + 1:06d}.png") for split, count in counts.items() for n in range(count)]
    jobs = [(source, str(directory), index, *file) for index, file in enumerate(files)]
    images = []
    for (_, _, index, split, name), (sentences, changed) in zip(jobs, _write_images(jobs, workers), strict=True):
        images.append(_entry(index, split, name, sentences, changed))
        if progress is not None:
            progress(1)
    target = directory / CAPTIONS_FILE
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps({"images": images, "dataset": "rsicrc-synth"}), encoding="utf-8")
    partial.replace(target)


def split_counts(pairs: int, splits: Mapping[str, float]) -> dict[str, int]:
    """Return the number of pairs of each split, in the order train, val, test; the numbers sum to `pairs`.

    Raises:
        ArgumentError: Fewer than one pair, an unknown split, or shares that are negative or do not sum to 1.
    """
    if pairs < 1:
        raise ArgumentError(f"pairs must be 1 or more, not {pairs}")
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise ArgumentError(f"unknown split {quote(unknown[0])}: LEVIR-CC has {', '.join(SPLITS)}")
    # `not all(share >= 0)` and `not … < 1e-6` also reject NaN.
    if not all(share >= 0 for share in splits.values()) or not abs(sum(splits.values()) - 1) < 1e-6:
        raise ArgumentError(f"the shares of the splits must sum to 1 and none be negative: {dict(splits)}")
    names = [name for name in SPLITS if splits.get(name, 0) > 0]
    ends = np.rint(np.cumsum([splits[name] for name in names]) * pairs).astype(int)
    return dict(zip(names, np.diff(ends, prepend=0).tolist(), strict=True))


def encode(image: NDArray[np.uint8]) -> bytes:
    """Encode an RGB image, uint8 [height, width, 3], as PNG."""
    _, packed = cv2.imencode(".png", image[..., ::-1], _PNG)
    return bytes(packed)


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask, bool [height, width], as a gray PNG with 255 where the scene has changed."""
    _, packed = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    return bytes(packed)


def _write_images(jobs: list[Job], workers: int) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Write the images of each job; yield its sentences and true if it has a change, in the order of the jobs."""
    if workers == 1:
        yield from map(_write, jobs)
        return
    # Forking a process with threads (torch, OpenCV) can deadlock, so workers are started by "spawn".
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write, jobs, chunksize=_BATCH)


def _write(job: Job) -> tuple[tuple[str, ...], bool]:
    source, directory, index, split, name = job
    pair = source(index, split)
    files = [("A", encode(pair.before)), ("B", encode(pair.after))]
    if pair.mask is not None:
        files.append((MASKS, encode_mask(pair.mask)))
    for folder, data in files:
        path = os.path.join(directory, "images", split, folder, name)  # noqa: PTH118 - pathlib is measurably slower here
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(data)
    return pair.sentences, pair.changed


def _entry(index: int, split: str, name: str, sentences: tuple[str, ...], changed: bool) -> dict[str, Any]:
    """Return the entry of a pair in the captions file."""
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


def require_empty(directory: Path) -> None:
    """Check that a directory is empty or does not exist.

    Raises:
        FileExistsError: It is not an empty directory.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not an empty directory: choose another, or remove it first")

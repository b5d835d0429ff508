"""Looking a data set over before it is trained on: what is wrong with it, and how much of it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.datasets.registry import read_splits
from rsicrc.errors import ImageError
from rsicrc.inputs.images import load_image
from rsicrc.text.vocabulary import Vocabulary

NEEDED = ("train", "val")  # the splits that training cannot do without
EMPTY, MISSING, BROKEN = "splits without pairs", "missing images", "images that cannot be read"
UNEQUAL, TWICE = "pairs of unequal size", "pairs that an earlier split holds too"
LONG, UNKNOWN = "captions longer than the model's", "captions with unknown words"
_EXAMPLES = 5


@dataclass
class Finding:
    """Something that was looked for.

    Attributes:
        what: it, in words.
        fault: whether training would fail or its figures be false because of it; a mere remark otherwise.
        count: how many there are.
        examples: the first few.
    """

    what: str
    fault: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class Inspection:
    """What a look at a data set found.

    Attributes:
        pairs: how many pairs each split holds.
        changed: how many of them are changed.
        words: how many words the vocabulary has, the special ones among them.
        findings: everything that was looked for, also what was not found.
    """

    pairs: Mapping[str, int]
    changed: Mapping[str, int]
    words: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return not any(finding.count for finding in self.findings if finding.fault)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        return {
            "sound": self.sound,
            "pairs": dict(self.pairs),
            "changed": dict(self.changed),
            "words": self.words,
            "findings": [vars(finding) for finding in self.findings],
        }


def check_data(
    path: Path,
    vocabulary: Callable[[Mapping[str, Sequence[CaptionedPair]]], Vocabulary],
    *,
    workers: int | None = None,
    advance: Callable[[int], object] = lambda steps: None,
) -> Inspection:
    """Look a data set over: every image is read once, by threads, and dropped again.

    Duplicates are found by content: the same pixels on both dates, whatever the files are called.

    Args:
        path: the data set, in one of the layouts of `rsicrc.datasets.registry`.
        vocabulary: makes the words that a model of this data knows from the data set's splits.
        workers: threads that read images; by default one for each core.
        advance: called with the number of pairs just done.

    Raises:
        DataError: it is no data set, or its captions cannot be read.
    """
    splits = read_splits(path)
    words = vocabulary(splits)
    pairs = [(split, pair) for split, of_split in splits.items() for pair in of_split]
    findings = [*_look(splits, pairs, workers, advance), *_read(pairs, words)]
    return Inspection(
        pairs={split: len(of_split) for split, of_split in splits.items()},
        changed={split: sum(pair.changed for pair in of_split) for split, of_split in splits.items()},
        words=len(words),
        findings=tuple(findings),
    )


def _look(
    splits: Mapping[str, Sequence[CaptionedPair]],
    pairs: Sequence[tuple[str, CaptionedPair]],
    workers: int | None,
    advance: Callable[[int], object],
) -> Iterable[Finding]:
    found = {what: Finding(what, fault=True) for what in (EMPTY, MISSING, BROKEN, UNEQUAL, TWICE)}
    for split in NEEDED:
        if split not in splits:
            found[EMPTY].add(split)
    first: dict[bytes, tuple[str, Path]] = {}
    for (split, pair), (digest, problems) in zip(pairs, _inspected(pairs, workers), strict=True):
        for what, example in problems:
            found[what].add(example)
        if digest is not None:
            earlier, same = first.setdefault(digest, (split, pair.after))
            if earlier != split:
                found[TWICE].add(f"{pair.after} is {same}")
        advance(1)
    return found.values()


def _inspected(
    pairs: Sequence[tuple[str, CaptionedPair]], workers: int | None
) -> Iterator[tuple[bytes | None, list[tuple[str, str]]]]:
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        yield from pool.map(_inspect, [pair for _, pair in pairs])


def _inspect(pair: CaptionedPair) -> tuple[bytes | None, list[tuple[str, str]]]:
    """A hash of both dates' pixels, unless one cannot be read, and what is wrong with them."""
    problems, images = [], []
    for path in (pair.before, pair.after):
        if not path.exists():
            problems.append((MISSING, str(path)))
            continue
        try:
            images.append(load_image(path))
        except ImageError as error:
            problems.append((BROKEN, str(error)))
    if len(images) < 2:
        return None, problems
    before, after = images
    if before.size != after.size:
        problems.append((UNEQUAL, f"{pair.after}: {before.size} and {after.size}"))
    digest = hashlib.blake2b(repr((before.size, after.size)).encode())
    for image in images:
        digest.update(image.tobytes())
    return digest.digest(), problems


def _read(pairs: Sequence[tuple[str, CaptionedPair]], words: Vocabulary) -> Iterable[Finding]:
    long = Finding(f"{LONG} {words.max_len - 2} words", fault=False)
    unknown = Finding(UNKNOWN, fault=False)
    counts: Counter[str] = Counter()
    known = {text: (words.is_cut(text), words.unknown_words(text)) for _, pair in pairs for text in pair.sentences}
    for _, pair in pairs:
        for text in pair.sentences:
            cut, strange = known[text]
            if cut:
                long.add(text)
            if strange:
                unknown.count += 1
                counts.update(strange)
    unknown.examples = [f"{word} ({count})" for word, count in counts.most_common(_EXAMPLES)]
    return long, unknown

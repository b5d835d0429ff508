"""Inspection of a data set before training: kinds of problems, and their numbers."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.errors import ImageError
from rsicrc.inputs.images import decoded, describe
from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary

_NEEDED = ("train", "val")  # splits that training needs
EMPTY, MISSING, BROKEN = "splits without pairs", "missing images", "images that cannot be read"
UNEQUAL, DUPLICATE = "pairs of unequal size", "pairs that an earlier split holds too"
REPEATED = "pairs that their own split holds twice"
UNKNOWN_SPLIT = "pairs of splits that are not train, val or test, which nothing uses"
LONG, UNKNOWN = "captions longer than the model's", "captions with unknown words"
NO_WORDS = "vocabulary without words: no word of the training captions is frequent enough"
_EXAMPLES = 5
_ROWS = 256  # rows that are hashed at a time


@dataclass
class Finding:
    """One kind of problem in a data set.

    Attributes:
        message: Description of the problem.
        fault: True if training would fail or its metrics would be wrong because of the problem; else it is a remark.
        count: Number of occurrences.
        examples: The first few occurrences.
    """

    message: str
    fault: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more occurrence."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class Inspection:
    """Result of the inspection of a data set.

    Attributes:
        pairs: Number of pairs by split.
        changed: Number of changed pairs by split.
        words: Number of words in the vocabulary, special tokens included.
        findings: All kinds of problems, those that did not occur included.
    """

    pairs: Mapping[str, int]
    changed: Mapping[str, int]
    words: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """True if there is no fault."""
        return not any(finding.count for finding in self.findings if finding.fault)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"sound": self.sound, **asdict(self)}


def check_data(
    splits: Mapping[str, Sequence[CaptionedPair]],
    vocabulary: Vocabulary,
    *,
    unknown_splits: Mapping[str, int] | None = None,
    workers: int | None = None,
    advance: Callable[[int], object] = lambda steps: None,
) -> Inspection:
    """Inspect a data set: read every image once, by threads, and check every caption against a vocabulary.

    Duplicates are found by content: equal pixels in both images, whatever the names of the files.

    Args:
        splits: Captioned pairs by split, as from `rsicrc.datasets.registry.read_splits`.
        vocabulary: Vocabulary of the model.
        unknown_splits: Number of pairs by split, for splits that are not read.
        workers: Number of threads that read images; by default one per core.
        advance: Progress callback, called with the number of pairs just done.
    """
    pairs = [(split, pair) for split, members in splits.items() for pair in members]
    ignored = Finding(UNKNOWN_SPLIT, fault=False, count=sum((unknown_splits or {}).values()))
    ignored.examples = [f"{name!r} ({count})" for name, count in (unknown_splits or {}).items()][:_EXAMPLES]
    findings = [*_check_images(splits, pairs, workers, advance), ignored, *_check_captions(pairs, vocabulary)]
    return Inspection(
        pairs={split: len(members) for split, members in splits.items()},
        changed={split: sum(pair.changed for pair in members) for split, members in splits.items()},
        words=len(vocabulary),
        findings=tuple(findings),
    )


def _check_images(
    splits: Mapping[str, Sequence[CaptionedPair]],
    pairs: Sequence[tuple[str, CaptionedPair]],
    workers: int | None,
    advance: Callable[[int], object],
) -> Iterable[Finding]:
    findings = {message: Finding(message, fault=True) for message in (EMPTY, MISSING, BROKEN, UNEQUAL, DUPLICATE)}
    findings[REPEATED] = Finding(REPEATED, fault=False)
    for split in _NEEDED:
        if split not in splits:
            findings[EMPTY].add(split)
    first: dict[bytes, tuple[str, Path]] = {}
    for (split, pair), (digest, problems) in zip(pairs, _inspect_pairs(pairs, workers), strict=True):
        for message, example in problems:
            findings[message].add(example)
        if digest is not None:
            if digest in first:
                earlier, same = first[digest]
                kind = REPEATED if earlier == split else DUPLICATE
                findings[kind].add(f"{describe(pair.after)} is {describe(same)}")
            else:
                first[digest] = (split, pair.after)
        advance(1)
    return findings.values()


def _inspect_pairs(
    pairs: Sequence[tuple[str, CaptionedPair]], workers: int | None
) -> Iterator[tuple[bytes | None, list[tuple[str, str]]]]:
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        yield from pool.map(_inspect_pair, [pair for _, pair in pairs])


def _inspect_pair(pair: CaptionedPair) -> tuple[bytes | None, list[tuple[str, str]]]:
    """Return a hash of the pixels of both images, or None if one cannot be read, and the problems found."""
    problems: list[tuple[str, str]] = []
    sizes, digest = [], hashlib.blake2b()
    for path in (pair.before, pair.after):
        try:
            with decoded(path) as image:
                sizes.append(image.size)
                digest.update(repr(image.size).encode())
                for top in range(0, image.height, _ROWS):
                    digest.update(image.crop((0, top, image.width, min(top + _ROWS, image.height))).tobytes())
        except ImageError as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            problems.append((MISSING, describe(path)) if missing else (BROKEN, str(error)))
    if len(sizes) < 2:
        return None, problems
    if sizes[0] != sizes[1]:
        problems.append((UNEQUAL, f"{describe(pair.after)}: {sizes[0]} and {sizes[1]}"))
    return digest.digest(), problems


def _check_captions(pairs: Sequence[tuple[str, CaptionedPair]], vocabulary: Vocabulary) -> Iterable[Finding]:
    long = Finding(f"{LONG} {vocabulary.max_len - 2} words", fault=False)
    unknown = Finding(UNKNOWN, fault=False)
    counts: Counter[str] = Counter()
    checked = {
        text: (vocabulary.is_cut(text), vocabulary.unknown_words(text)) for _, pair in pairs for text in pair.sentences
    }
    for _, pair in pairs:
        for text in pair.sentences:
            cut, unknown_words = checked[text]
            if cut:
                long.add(text)
            if unknown_words:
                unknown.count += 1
                counts.update(unknown_words)
    unknown.examples = [f"{word} ({count})" for word, count in counts.most_common(_EXAMPLES)]
    return Finding(NO_WORDS, fault=True, count=int(len(vocabulary) == len(SPECIAL_WORDS))), long, unknown

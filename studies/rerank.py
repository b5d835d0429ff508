"""Retrieval of pairs by text with and without reranking, and ways to combine the scores.

    python studies/rerank.py DATA [--split test] [--model model] [--first 50] [--captions 1] [--save scores.npz]
    python studies/rerank.py --load scores.npz

DATA is a folder in LEVIR-CC's layout. The captions of changed pairs are the queries, all pairs are searched, and only a
query's own pair is relevant (strict retrieval); "first fits" is the share of queries whose first pair has the query,
word for word, among its captions. The first pairs by cosine are reranked by

    cosine + weight · log p(query | pair)

as in `Index.search`, and in other ways: log p divided by the length of the query, or minus the pair's prior, which is
the mean of log p(query' | pair) per token over a sample of queries; sums of z-scores or of reciprocal ranks. A prior of
the query, log p(query), or a softmax over the candidates is the same for all pairs of a query, so it changes no order.
For each way, the weight with the best MRR is shown. Choose on one data set, report on another.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import rsicrc
from rsicrc.datasets.levir_cc import read_levir
from rsicrc.engine import Engine
from rsicrc.evaluation.metrics.retrieval import rank_metrics
from rsicrc.index.rerank import LOG_PROB_WEIGHT, rank_scores
from rsicrc.inputs.prefetch import PairReader
from rsicrc.manifest import IMAGE_ENCODER, SCORER
from rsicrc.text.encoding import pad

Matrix = NDArray[np.float64]
WEIGHTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0, 1000.0)
FIRSTS = (10, 20)
BATCH, RUN = 32, 256
SUM = "log p"
HEAD = "| order | R@1 | R@5 | R@10 | MRR = mAP | median rank | first fits |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Scores:
    """Scores of the model for queries and pairs.

    Attributes:
        similarity: Cosines, float32 [queries, pairs].
        log_probs: log p(query | pair) of the first pairs by cosine, NaN elsewhere, float64 [queries, pairs].
        lengths: Tokens of each query, with END, int64 [queries].
        targets: Row of each query's own pair, int64 [queries].
        fits: True where the query is word for word one of the pair's captions, bool [queries, pairs].
        sentences: The same number for the same sentence, int64 [queries].
        sample: Mean log p per token of a sample of queries, given each pair, float64 [pairs].
    """

    similarity: NDArray[np.float32]
    log_probs: NDArray[np.float64]
    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]
    fits: NDArray[np.bool_]
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
    logging.getLogger("rsicrc").setLevel(logging.ERROR)  # some sentences are longer than the model reads
    engine = rsicrc.load(arguments.model, threads=arguments.threads)
    pairs = read_levir(arguments.data, arguments.split)[: arguments.limit]
    queries = [
        (row, text) for row, pair in enumerate(pairs) if pair.changed for text in pair.sentences[: arguments.captions]
    ]
    texts = list(dict.fromkeys(text for _, text in queries))
    row_of = {text: number for number, text in enumerate(texts)}
    say(f"{len(pairs)} pairs, {len(queries)} queries, {len(texts)} different sentences")
    encoded = encode(engine, [(pair.before, pair.after) for pair in pairs])
    similarity = engine.embed_texts(texts) @ np.concatenate([each["image_embedding"] for each in encoded]).T
    first = min(arguments.first, len(pairs))
    sample = np.random.default_rng(0).choice(len(texts), min(8, len(texts)), replace=False)
    reranked = np.zeros(similarity.shape, bool)
    np.put_along_axis(reranked, np.argsort(-similarity, axis=1, kind="stable")[:, :first], True, axis=1)
    wanted = reranked.copy()
    wanted[sample] = True
    ids = [engine.vocabulary.encode(text) for text in texts]
    log_probs = score_sentences(engine, encoded, ids, wanted)
    lengths = np.array([len(each) - 1 for each in ids])
    prior = (log_probs[sample] / lengths[sample, np.newaxis]).mean(axis=0)
    log_probs[~reranked] = np.nan
    order = [row_of[text] for _, text in queries]
    targets = np.array([row for row, _ in queries])
    fits = np.array([[text in pair.sentences for pair in pairs] for text in texts])
    return Scores(similarity[order], log_probs[order], lengths[order], targets, fits[order], np.array(order), prior)


def encode(engine: Engine, paths: Sequence[tuple[Path, Path]]) -> list[dict[str, NDArray[np.float32]]]:
    """Run the image encoder; return its outputs for each batch, without the similarity maps."""
    batches = PairReader(paths, engine.manifest.preprocessing, BATCH, engine.backend.threads)
    encoded = []
    for batch in batches:
        for failure in batch.failures:
            if failure is not None:
                raise failure.error
        outputs = engine.backend.run(IMAGE_ENCODER, {"images": batch.images})
        encoded.append({name: engine.backend.numpy(value) for name, value in outputs.items() if name != "similarity"})
    return encoded


def score_sentences(
    engine: Engine,
    encoded: Sequence[Mapping[str, NDArray[np.float32]]],
    ids: Sequence[list[int]],
    wanted: NDArray[np.bool_],
) -> Matrix:
    """Return log p of each sentence given each pair where it is wanted, NaN elsewhere, float64 [sentences, pairs]."""
    result = np.full(wanted.shape, np.nan)
    rows = [(outputs, row) for outputs in encoded for row in range(len(outputs["image_embedding"]))]
    for pair, (outputs, row) in enumerate(rows):
        cross = {name: value[row : row + 1] for name, value in outputs.items() if name.startswith("cross_")}
        texts = sorted(np.flatnonzero(wanted[:, pair]).tolist(), key=lambda text: len(ids[text]))  # for little padding
        for start in range(0, len(texts), RUN):
            part = texts[start : start + RUN]
            feeds = {"input_ids": pad([ids[text] for text in part]), **cross}
            values = engine.backend.numpy(engine.backend.run(SCORER, feeds, ["log_probs"])["log_probs"])
            result[part, pair] = values[0].sum(axis=1, dtype=np.float64)
    return result


def report(scores: Scores) -> None:
    """Print the metrics of the search without reranking, of `Index.search`, and of every other combination."""
    cosine = scores.similarity.astype(np.float64)
    say(HEAD)
    say(line("cosine only", cosine, scores))
    positions = np.argsort(np.argsort(-cosine, axis=1, kind="stable"), axis=1)
    for first in (*FIRSTS, int(np.isfinite(scores.log_probs).sum(axis=1).max())):
        log_probs = np.where(positions < first, scores.log_probs, np.nan)
        shipped = np.stack([rank_scores(*row) for row in zip(scores.similarity, log_probs, strict=True)])
        say(line(f"Index.search (weight {LOG_PROB_WEIGHT:g}), the first {first}", shipped, scores))
    reached = np.isfinite(scores.log_probs[np.arange(len(scores.targets)), scores.targets]).mean()
    say(f"\nThe own pair is among the reranked pairs for {reached:.4f} of the queries.")
    say(f"Pairs that share a sentence cannot all be first: no ranking has an R@1 above {ceiling(scores):.4f}.\n")
    say(HEAD)
    for name, (first_part, evidence) in combinations(scores, cosine).items():
        ordered = {weight: before_rest(first_part + weight * evidence, cosine) for weight in WEIGHTS}
        best = max(WEIGHTS, key=lambda weight: rank_metrics(ranks(ordered[weight], scores.targets))["MRR"])
        for weight in WEIGHTS if name == SUM else (best,):
            say(line(f"{name}, weight {weight:g}", ordered[weight], scores))


def combinations(scores: Scores, cosine: Matrix) -> dict[str, tuple[Matrix, Matrix]]:
    """Return the two summands of each combination by name: one from the cosine, and one from log p."""
    lengths = scores.lengths[:, np.newaxis].astype(np.float64)
    total = scores.log_probs
    reached = np.where(np.isfinite(total), cosine, np.nan)
    return {
        SUM: (cosine, total),
        "log p / length": (cosine, total / lengths),
        "log p / sqrt(length)": (cosine, total / np.sqrt(lengths)),
        "log p - 0.5 pair prior": (cosine, total - 0.5 * lengths * scores.sample),
        "log p - pair prior": (cosine, total - lengths * scores.sample),
        "z-scores": (standard(reached), standard(total)),
        "reciprocal ranks": (1 / (60 + positions_of(reached)), 1 / (60 + positions_of(total))),
    }


def standard(values: Matrix) -> Matrix:
    """Return each query's values with mean 0 and standard deviation 1; NaN stays."""
    centered = values - np.nanmean(values, axis=1, keepdims=True)
    return np.asarray(centered / np.nanstd(values, axis=1, keepdims=True))


def positions_of(values: Matrix) -> Matrix:
    """Return each value's position among the values of its query, from 1; NaN stays."""
    positions = np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1) + 1.0
    return np.where(np.isfinite(values), positions, np.nan)


def before_rest(evidence: Matrix, cosine: Matrix) -> Matrix:
    """Put the reranked pairs before the others, which are ordered by cosine."""
    return np.where(np.isfinite(evidence), evidence + 1e6, cosine)


def ceiling(scores: Scores) -> float:
    """Return the largest possible R@1: of the queries with the same sentence, only those for one pair can be right."""
    queries = zip(scores.sentences.tolist(), scores.targets.tolist(), strict=True)
    counts = Counter(queries)
    best: dict[int, int] = {}
    for (sentence, _), count in counts.items():
        best[sentence] = max(best.get(sentence, 0), count)
    return sum(best.values()) / len(scores.sentences)


def ranks(values: Matrix, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each query's own pair, from 1; of equal values, the earlier pair is first."""
    own = values[np.arange(len(targets)), targets][:, np.newaxis]
    columns = np.arange(values.shape[1])
    before = (values > own) | ((values == own) & (columns < targets[:, np.newaxis]))
    return np.asarray(before.sum(axis=1) + 1)


def line(name: str, values: Matrix, scores: Scores) -> str:
    """Return a row of the table."""
    metrics = rank_metrics(ranks(values, scores.targets))
    recalls = " | ".join(f"{metrics[f'R@{cutoff}']:.4f}" for cutoff in (1, 5, 10))
    fitting = scores.fits[np.arange(len(values)), values.argmax(axis=1)].mean()
    return f"| {name} | {recalls} | {metrics['MRR']:.4f} | {metrics['median rank']:.0f} | {fitting:.4f} |"


def say(text: str) -> None:
    """Print a line without buffering."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

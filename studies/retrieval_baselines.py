"""Simple ways to search pairs by text, as baselines of the retrieval of a trained model.

    python studies/retrieval_baselines.py CHECKPOINT TRAIN TEST [--captions captions.jsonl]

The queries are the first captions of the changed test pairs, in the published protocol:

- any order: pairs in the order of the data set,
- nearest training pair: each test pair gets the first caption of the training pair whose difference of the features of
  both images, from the checkpoint's trunk, is most similar; captions are compared by a sentence encoder,
- caption, then match: each test pair gets the caption of `captions.jsonl`, which `rsicrc-train evaluate CHECKPOINT TEST
  -o captions.jsonl` writes, compared in the same way.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.datasets.registry import read_split
from rsicrc.evaluation.metrics.retrieval import published_retrieval, relevance
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints, distributed
from rsicrc_train.batches import BatchLoader
from rsicrc_train.data import PairDataset
from rsicrc_train.model import RSICRC
from rsicrc_train.recipes import Training
from rsicrc_train.sentence_embeddings import PACKAGED_ENCODER, embed_sentences
from rsicrc_train.trunk_features import cached_features

METRICS = ("P@1", "R@10", "mAP")


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--encoder", default=PACKAGED_ENCODER)
    arguments = parser.parse_args()
    loaded = checkpoints.load(arguments.checkpoint)
    model, vocabulary = loaded.build_model(), Vocabulary.from_words(loaded.vocabulary, loaded.config.max_len)
    train, test = (
        [pair for pair in read_split(path, split) if pair.changed]
        for path, split in ((arguments.train, "train"), (arguments.test, "test"))
    )
    texts = [pair.sentences[0] for pair in test]
    relevant = relevance(range(len(test)), texts)
    queries = embed_sentences(texts, arguments.encoder)
    order = np.eye(len(test), dtype=np.float32)
    found = {"any order": published_retrieval(np.ones_like(order) / len(test) ** 0.5, order, relevant)}

    known, searched = (differences(model, vocabulary, pairs) for pairs in (train, test))
    nearest = (searched @ known.T).argmax(axis=1)
    borrowed = [train[number].sentences[0] for number in nearest.tolist()]
    found["nearest training pair"] = published_retrieval(
        queries, embed_sentences(borrowed, arguments.encoder), relevant
    )
    if arguments.captions is not None:
        rows = map(json.loads, arguments.captions.read_text(encoding="utf-8").splitlines())
        captions = {Path(row["after"]).name: row["caption"] for row in rows}
        own = embed_sentences([captions[pair.after.name] for pair in test], arguments.encoder)
        found["caption, then match"] = published_retrieval(queries, own, relevant)
    lines = [
        f"{len(test)} changed pairs",
        "",
        f"| baseline | {' | '.join(METRICS)} |",
        "|---|" + "---:|" * len(METRICS),
    ]
    lines += [f"| {name} | {' | '.join(f'{metrics[m]:.3f}' for m in METRICS)} |" for name, metrics in found.items()]
    sys.stdout.write("\n".join(lines) + "\n")


def differences(model: RSICRC, vocabulary: Vocabulary, pairs: list[CaptionedPair]) -> NDArray[np.float32]:
    """Return the differences of the trunk's features of both images, float32 [P, C·h·w] of length 1."""
    dataset = PairDataset(pairs, vocabulary, model.config.preprocessing, 1)
    loader = BatchLoader(distributed.launch("cpu", 1, 1, "32-true"), dataset, Training(batch_size=64, workers=0))
    features = cached_features(model, loader)
    if features is None:
        sys.exit("the features do not fit into the cache: set RSICRC_CACHE to a folder with more space")
    before, after = (torch.from_numpy(features[:, side].astype(np.float32)) for side in (0, 1))
    vectors: NDArray[np.float32] = torch.nn.functional.normalize((after - before).flatten(1)).numpy()
    return vectors


if __name__ == "__main__":
    main()

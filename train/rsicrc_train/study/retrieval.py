"""Retrieval metrics of a checkpoint in PyTorch, without an export: for studies of many short trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsicrc.datasets.registry import read_split
from rsicrc.evaluation.evaluate import ALL, CHANGED, STRICT
from rsicrc.evaluation.metrics.captioning import PUBLISHED
from rsicrc.evaluation.metrics.retrieval import published_retrieval, relevance, strict_retrieval
from rsicrc.text.encoding import pad
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints, distributed
from rsicrc_train.batches import BatchLoader
from rsicrc_train.data import PairDataset
from rsicrc_train.recipes import Training
from rsicrc_train.trunk_features import cached_features

_BATCH = 128
AVERAGE_PRECISION = "average_precision"


@torch.no_grad()
def evaluate_retrieval(checkpoint: Path, data: Path, device: str = "auto") -> dict[str, Any]:
    """Search the pairs of a test split by their first captions.

    Args:
        checkpoint: Checkpoint of a training.
        data: Data set with the split `test`.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        The retrieval metrics under the names of `rsicrc evaluate --json`, the numbers of pairs, and the average
        precision of each changed query in the published protocol.
    """
    loaded = checkpoints.load(checkpoint)
    fabric = distributed.launch(device, 1, 1, "32-true")
    model = loaded.build_model().to(fabric.device)
    pairs = read_split(data, "test")
    vocabulary = Vocabulary.from_words(loaded.vocabulary, loaded.config.max_len)
    dataset = PairDataset(pairs, vocabulary, loaded.config.preprocessing, 1)
    loader = BatchLoader(fabric, dataset, Training(batch_size=_BATCH, workers=0))
    if loaded.training.get("trunk") == "frozen":
        dataset.features = cached_features(model, loader)
    images = torch.cat([model.encode_images(batch.images).embedding for _, batch in loader.in_order(0)])
    ids = torch.from_numpy(pad([dataset.ids[numbers[0]] for numbers in dataset.sentences])).to(fabric.device)
    texts = torch.cat([model.encode_text(part).embedding for part in torch.split(ids, _BATCH)])
    candidates, queries = (torch.nn.functional.normalize(each).cpu().numpy() for each in (images, texts))
    changed = [row for row, pair in enumerate(pairs) if pair.changed]
    relevant = relevance(changed, [pairs[row].sentences[0] for row in changed])
    return {
        "pairs": len(pairs),
        "changed": len(changed),
        "retrieval": {
            ALL: {STRICT: strict_retrieval(queries[changed], candidates, changed)},
            CHANGED: {
                PUBLISHED: published_retrieval(queries[changed], candidates[changed], relevant),
                STRICT: strict_retrieval(queries[changed], candidates[changed], range(len(changed))),
            },
        },
        AVERAGE_PRECISION: average_precisions(queries[changed] @ candidates[changed].T, relevant),
    }


def average_precisions(similarities: NDArray[np.float32], relevant: NDArray[np.bool_]) -> list[float]:
    """Return the average precision of each query, from similarities and relevance [queries, candidates]."""
    order = np.argsort(-similarities, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    means: list[float] = ((precision * hits).sum(axis=1) / hits.sum(axis=1)).tolist()
    return means

"""Metrics of the real LEVIR-CC captions, compared with known values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rsicrc.datasets.levir_cc import CaptionedPair, read_levir
from rsicrc.evaluation.metrics.captioning import caption_metrics, caption_scores
from rsicrc.evaluation.metrics.retrieval import published_retrieval, relevance

pytest.importorskip("pycocoevalcap", reason="needs rsicrc[train]")
pytestmark = pytest.mark.shared

UNCHANGED = "the scene is the same as before"


@pytest.fixture(scope="module")
def captions_folder(shared_folder: Path) -> Path:
    return shared_folder / "data" / "captions"


@pytest.fixture(scope="module")
def pairs(captions_folder: Path) -> list[CaptionedPair]:
    return read_levir(captions_folder, "test")


def percent(texts: list[str], pairs: list[CaptionedPair], protocol: str) -> tuple[float, float]:
    """Return BLEU-4 and CIDEr in percent."""
    metrics = caption_metrics(texts, [pair.sentences for pair in pairs], protocol, meteor=False)
    return 100 * metrics["BLEU-4"], 100 * metrics["CIDEr"]


def test_constant_caption_has_the_known_metrics(pairs: list[CaptionedPair]) -> None:
    assert percent([UNCHANGED] * len(pairs), pairs, "published") == pytest.approx((52.33, 93.81), abs=0.01)
    assert percent([UNCHANGED] * len(pairs), pairs, "period-free") == pytest.approx((51.49, 101.93), abs=0.01)


def test_perfect_change_flag_with_two_captions_has_the_known_metrics(
    captions_folder: Path, pairs: list[CaptionedPair]
) -> None:
    train = [pair for pair in read_levir(captions_folder, "train") if pair.changed]
    (frequent, _), *_ = Counter(sentence for pair in train for sentence in pair.sentences).most_common(1)
    assert frequent == "some roads and houses are built on bareland"
    texts = [frequent if pair.changed else UNCHANGED for pair in pairs]
    assert percent(texts, pairs, "published") == pytest.approx((61.31, 116.65), abs=0.01)


@pytest.mark.parametrize(("protocol", "end"), [("published", " ."), ("period-free", "")])
def test_metrics_match_pycocoevalcap(pairs: list[CaptionedPair], protocol: str, end: str) -> None:
    """Compare the last caption with the other captions, here by direct calls of pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    texts, references = [pair.sentences[-1] for pair in pairs], [pair.sentences[:-1] for pair in pairs]
    hypotheses = {number: [text] for number, text in enumerate(texts)}
    truth = {number: [text + end for text in sentences] for number, sentences in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(truth, hypotheses, verbose=0)
    cider, each = Cider().compute_score(truth, hypotheses)
    expected = {f"BLEU-{order}": value for order, value in enumerate(bleu, start=1)}
    rouge = Rouge().compute_score(truth, hypotheses)[0]
    expected |= {"ROUGE-L": rouge, "CIDEr": cider}
    if protocol == "published":
        expected["ROUGE-L without blank token"] = rouge
        raw = {number: [f" {text} ." for text in sentences] for number, sentences in enumerate(references)}
        expected["ROUGE-L"] = Rouge().compute_score(raw, hypotheses)[0]
    assert caption_metrics(texts, references, protocol, meteor=False) == expected
    if not end:
        assert caption_scores(texts, references) == each.tolist()


@pytest.mark.parametrize(
    ("changed_only", "bounds"),
    [
        (False, {"P@1": 1.0, "R@1": 0.438, "R@5": 0.465, "R@10": 0.477, "MRR@1": 1.0, "mAP": 1.0}),
        (True, {"P@1": 1.0, "R@1": 0.876, "R@5": 0.925, "R@10": 0.944, "MRR@1": 1.0, "mAP": 1.0}),
    ],
)
def test_perfect_ranking_has_the_known_upper_bounds(
    pairs: list[CaptionedPair], changed_only: bool, bounds: dict[str, float]
) -> None:
    searched = [pair for pair in pairs if pair.changed or not changed_only]
    labels = [number if pair.changed else -1 for number, pair in enumerate(searched)]
    relevant = relevance(labels, [pair.sentences[0] for pair in searched])
    # Similarity 1 for relevant pairs and 0 for all other pairs.
    metrics = published_retrieval(relevant.astype(np.float32), np.eye(len(searched), dtype=np.float32), relevant)
    assert {name: round(metrics[name], 3) for name in bounds} == bounds

"""Evaluation of a model folder on captioned pairs: captions, text retrieval and change decisions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.datasets.registry import read_split
from rsicrc.decoding.options import CaptionOptions
from rsicrc.errors import ArgumentError, DataError
from rsicrc.evaluation.baselines import CHANGED_SHARE, best_fixed_sentence, changed_share, pixel_difference
from rsicrc.evaluation.metrics.captioning import (
    PERIOD_FREE,
    PROTOCOLS,
    PUBLISHED,
    caption_metrics,
    meteor_problem,
    strip_period,
)
from rsicrc.evaluation.metrics.change import calibration_metrics, decision_metrics, says_changed
from rsicrc.evaluation.metrics.objects import object_metrics
from rsicrc.evaluation.metrics.retrieval import published_retrieval, relevance, strict_retrieval
from rsicrc.evaluation.metrics.separation import separation_metrics
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.progress import ProgressCallback, ignore_progress
from rsicrc.results import Caption, EncodedPair, PairFailure

if TYPE_CHECKING:
    from rsicrc.engine import Engine

ALL, CHANGED = "all", "changed"
STRICT = "strict"
BY_CAPTION, BY_SCORE, BY_PROBABILITY = "caption", "change_score", "change_probability"
BY_FLAG, BY_MASK = "flag", "mask"
THRESHOLD = 0.5
_DECIMALS = 6  # the accuracy of float32 sums

Metrics: TypeAlias = Mapping[str, float]


@dataclass(frozen=True)
class Prediction:
    """A pair and its caption, or a `PairFailure` if the images cannot be used."""

    pair: CaptionedPair
    result: Caption | PairFailure

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        fields = {"before": str(self.pair.before), "after": str(self.pair.after), "changed": self.pair.changed}
        if isinstance(self.result, PairFailure):
            return {**fields, "error": str(self.result.error)}
        caption = self.result
        change = None if caption.change_score is None else round(caption.change_score, _DECIMALS)
        results = {"caption": caption.text, "score": round(caption.score, _DECIMALS), "change_score": change}
        if caption.change_probability is not None:
            results["change_probability"] = round(caption.change_probability, _DECIMALS)
        return {**fields, **results, "references": list(self.pair.sentences)}


@dataclass(frozen=True)
class Truth:
    """Further knowledge about the evaluated pairs.

    Attributes:
        masks: Folder with a mask of the change for each pair, under the file name of the after image; None without.
        scene: Regular expression that finds the scene in the file name of the after image, for the intervals: its first
            group, or the whole match. None takes every pair for a scene of its own.
    """

    masks: Path | None = None
    scene: re.Pattern[str] | None = None

    def scene_of(self, pair: CaptionedPair) -> str:
        """Return the scene of a pair.

        Raises:
            DataError: The expression does not match the file name.
        """
        if self.scene is None:
            return str(pair.after)
        found = self.scene.search(pair.after.name)
        if found is None:
            raise DataError(
                f"{pair.after.name} does not match the scene {self.scene.pattern!r}: correct the expression"
            )
        return found[1] if self.scene.groups else found[0]

    def share_of(self, pair: CaptionedPair) -> float | None:
        """Return the share of changed pixels in the mask of a pair; None without masks.

        Raises:
            DataError: The mask is missing or cannot be read.
        """
        return None if self.masks is None else changed_share(self.masks / pair.after.name)


@dataclass(frozen=True)
class EvaluationReport:
    """All metrics of an evaluation. Metrics without data (for example, of changed pairs if there are none) are absent.

    Attributes:
        pairs: Number of evaluated pairs.
        changed: Number of changed pairs among the evaluated pairs.
        beams: Number of beams of the beam search.
        captions: "all" / "changed" → "period-free" / "published" → `caption_metrics`.
        retrieval: "all" / "changed" → "published" / "strict" → `published_retrieval` / `strict_retrieval`; the queries
            of "strict" are the captions of changed pairs, in both cases.
        change: "caption" (decision from the caption) / "change_score" / "change_probability" (≥ 0.5 is changed; only
            with a calibration) → `decision_metrics`; for the last two also `calibration_metrics`.
        separation: "flag" / "mask" → `separation_metrics` of the change score and of the pixel difference.
        fixed: Metrics of the captions of changed pairs, and those of the best fixed sentence: "model" / 'always "…"' →
            "BLEU-4", "CIDEr", `object_metrics` and "distinct captions".
        notes: Reasons for absent metrics and left-out pairs, one line each.
        predictions: All pairs in order, including failures.
    """

    pairs: int
    changed: int
    beams: int
    captions: Mapping[str, Mapping[str, Metrics]]
    retrieval: Mapping[str, Mapping[str, Metrics]]
    change: Mapping[str, Metrics]
    notes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    separation: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    fixed: Mapping[str, Metrics] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Number of pairs that could not be read."""
        return len(self.predictions) - self.pairs

    def headline(self) -> dict[str, float]:
        """Return the most informative metrics.

        Metrics over all pairs are inflated: half of the pairs share the same five no-change captions.
        """
        metrics = {f"change/no-change accuracy, by {name}": values["accuracy"] for name, values in self.change.items()}
        captions = self.captions.get(CHANGED, {}).get(PERIOD_FREE, {})
        metrics |= {f"{name}, changed pairs, {PERIOD_FREE}": captions[name] for name in ("BLEU-4", "CIDEr") if captions}
        retrieval = self.retrieval.get(CHANGED, {})
        if retrieval:
            metrics[f"P@1 text to pair, changed pairs, {PUBLISHED}"] = retrieval[PUBLISHED]["P@1"]
        return metrics

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON, without the predictions."""
        return {
            "headline": self.headline(),
            "pairs": self.pairs,
            "changed": self.changed,
            "failed": self.failed,
            "beams": self.beams,
            "captions": _plain(self.captions),
            "retrieval": _plain(self.retrieval),
            "change": _plain(self.change),
            "separation": _plain(self.separation),
            "fixed": _plain(self.fixed),
            "notes": list(self.notes),
        }


def evaluate(
    engine: Engine,
    data: Path,
    split: str = "test",
    *,
    beams: int | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    truth: Truth | None = None,
    advance: ProgressCallback = ignore_progress,
) -> EvaluationReport:
    """Evaluate a model folder on one split of a captioned data set.

    Args:
        engine: The model.
        data: The data set, in one of the layouts of `rsicrc.datasets.registry`.
        split: Name of the split: "train", "val" or "test".
        beams: Number of beams; by default that of the model.
        limit: Maximum number of pairs, from the beginning. Retrieval is easier with fewer pairs.
        batch_size: Number of pairs in a batch.
        truth: Masks and scenes of the pairs.
        advance: Called with 1 after each pair.

    Raises:
        DataError: The data set or all of its images cannot be read.
        ArgumentError: A setting is out of range.
        BackendError: Pycocoevalcap is not installed.
    """
    if limit is not None and limit < 1:
        raise ArgumentError(f"limit must be at least 1, not {limit}")
    pairs = read_split(data, split)[:limit]
    return evaluate_pairs(engine, pairs, beams=beams, batch_size=batch_size, truth=truth, advance=advance)


def evaluate_pairs(
    engine: Engine,
    pairs: Sequence[CaptionedPair],
    *,
    beams: int | None = None,
    batch_size: int = 32,
    truth: Truth | None = None,
    advance: ProgressCallback = ignore_progress,
) -> EvaluationReport:
    """Caption and embed the pairs and compute all metrics. Pairs with unusable images are left out and counted.

    Args:
        engine: The model.
        pairs: The pairs, each with at least one sentence.
        beams: Number of beams; by default that of the model.
        batch_size: Number of pairs in a batch.
        truth: Masks and scenes of the pairs.
        advance: Called with 1 after each pair.

    Raises:
        DataError: A pair has no sentences, there are no pairs, no pair can be read, or a mask is missing.
        ArgumentError: A setting is out of range.
        BackendError: Pycocoevalcap is not installed.
    """
    for pair in pairs:
        if not pair.sentences or not all(map(strip_period, pair.sentences)):
            raise DataError(f"{pair.after}: no sentence, or an empty one. Every pair needs a reference caption")
    truth = truth or Truth()
    scenes = [truth.scene_of(pair) for pair in pairs]  # a wrong expression is reported before the long work
    shares = [truth.share_of(pair) for pair in pairs]
    skipped = meteor_problem()  # before the long work, because it raises if pycocoevalcap is missing
    predictions: list[Prediction] = []
    captions: list[Caption] = []
    readable: list[CaptionedPair] = []
    rows: list[int] = []
    vectors: list[NDArray[np.float32]] = []
    paths = [(pair.before, pair.after) for pair in pairs]
    stream = engine.encode_stream(paths, captions=CaptionOptions(beams=beams), batch_size=batch_size)
    for row, (pair, result) in enumerate(zip(pairs, stream, strict=True)):
        if isinstance(result, EncodedPair) and result.caption is not None:
            captions.append(result.caption)
            readable.append(pair)
            rows.append(row)
            vectors.append(result.embedding)
        predictions.append(Prediction(pair, result if isinstance(result, PairFailure) else captions[-1]))
        advance(1)
    if not readable:
        raise DataError(_no_pairs_message(predictions))
    failed = len(predictions) - len(readable)
    embeddings = np.stack(vectors)

    changed = [pair.changed for pair in readable]
    notes = [skipped] if skipped else []
    if failed:
        notes.append(f"{failed} of {len(predictions)} pairs could not be read and are left out")
    if not any(changed):
        notes.append("no changed pairs: metrics of changed pairs and strict retrieval are absent")
    of_captions = _caption_metrics(readable, [caption.text for caption in captions])
    retrieval = _retrieval_metrics(engine, readable, embeddings, notes)
    change = _change_metrics(changed, captions, engine.manifest.no_change_sentences, notes)
    return EvaluationReport(
        pairs=len(readable),
        changed=sum(changed),
        beams=beams or engine.manifest.search.beams,
        captions=of_captions,
        retrieval=retrieval,
        change=change,
        notes=tuple(notes),
        predictions=tuple(predictions),
        separation=_separation_metrics(
            engine, readable, captions, [shares[row] for row in rows], [scenes[row] for row in rows]
        ),
        fixed=_fixed_metrics(readable, captions, of_captions),
    )


def _caption_metrics(pairs: Sequence[CaptionedPair], texts: Sequence[str]) -> dict[str, dict[str, Metrics]]:
    metrics: dict[str, dict[str, Metrics]] = {}
    for subset, rows in _subsets(pairs).items():
        references = [pairs[row].sentences for row in rows]
        hypotheses = [texts[row] for row in rows]
        metrics[subset] = {protocol: caption_metrics(hypotheses, references, protocol) for protocol in PROTOCOLS}
    return metrics


def _retrieval_metrics(
    engine: Engine, pairs: Sequence[CaptionedPair], embeddings: NDArray[np.float32], notes: list[str]
) -> dict[str, dict[str, Metrics]]:
    subsets = _subsets(pairs)
    strict = [(row, sentence) for row in subsets.get(CHANGED, ()) for sentence in pairs[row].sentences]
    # Without duplicates: unchanged pairs share the same five sentences.
    sentences = dict.fromkeys([pair.sentences[0] for pair in pairs] + [sentence for _, sentence in strict])
    position = {sentence: number for number, sentence in enumerate(sentences)}
    inexact = sum(bool(engine.vocabulary.unknown_words(text)) or engine.vocabulary.is_cut(text) for text in sentences)
    if inexact:
        notes.append(f"{inexact} of {len(sentences)} queries are too long or hold words that the model does not know")
    # Without warnings: the note above counts the sentences, of which a data set may have hundreds.
    texts = engine.embed_texts(list(sentences), warn=False)

    metrics: dict[str, dict[str, Metrics]] = {}
    for subset, rows in subsets.items():
        first = [pairs[row].sentences[0] for row in rows]
        labels = [row if pairs[row].changed else -1 for row in rows]
        candidates = embeddings[rows]
        queries = texts[[position[sentence] for sentence in first]]
        metrics[subset] = {PUBLISHED: published_retrieval(queries, candidates, relevance(labels, first))}
        if strict:
            column = {row: number for number, row in enumerate(rows)}
            queries = texts[[position[sentence] for _, sentence in strict]]
            metrics[subset][STRICT] = strict_retrieval(queries, candidates, [column[row] for row, _ in strict])
    return metrics


def _change_metrics(
    changed: Sequence[bool], captions: Sequence[Caption], no_change_sentences: Sequence[str], notes: list[str]
) -> dict[str, Metrics]:
    scores = [caption.change_score for caption in captions if caption.change_score is not None]
    if not no_change_sentences or len(scores) < len(captions):
        notes.append("the model lists no no-change sentences: its change decisions cannot be evaluated")
        return {}
    decided = says_changed([caption.text for caption in captions], no_change_sentences)
    by_score = decision_metrics(changed, [score >= THRESHOLD for score in scores])
    metrics: dict[str, Metrics] = {
        BY_CAPTION: decision_metrics(changed, decided.tolist()),
        BY_SCORE: {**by_score, **calibration_metrics(changed, scores)},
    }
    likely = [caption.change_probability for caption in captions if caption.change_probability is not None]
    if likely:
        by_probability = decision_metrics(changed, [value >= THRESHOLD for value in likely])
        metrics[BY_PROBABILITY] = {**by_probability, **calibration_metrics(changed, likely)}
    return metrics


def _separation_metrics(
    engine: Engine,
    pairs: Sequence[CaptionedPair],
    captions: Sequence[Caption],
    shares: Sequence[float | None],
    scenes: Sequence[str],
) -> dict[str, dict[str, Metrics]]:
    """Compare the change score with the difference of pixels, by the flag of the data set and by the masks."""
    scores = [caption.change_score for caption in captions]
    if None in scores:
        return {}
    differences = [
        pixel_difference(prepare_pair((pair.before, pair.after), engine.manifest.preprocessing)) for pair in pairs
    ]
    truths = {BY_FLAG: {row: pair.changed for row, pair in enumerate(pairs)}}
    # A pair with a few changed pixels is neither changed nor unchanged.
    clear = {row: share > 0 for row, share in enumerate(shares) if share is not None and not 0 < share < CHANGED_SHARE}
    if clear:
        truths[BY_MASK] = clear
    metrics: dict[str, dict[str, Metrics]] = {}
    for name, flags in truths.items():
        chosen = ([column[row] for row in flags] for column in (scores, differences, scenes))
        if found := separation_metrics(list(flags.values()), *chosen):  # type: ignore[arg-type]
            metrics[name] = dict(found)
    return metrics


def _fixed_metrics(
    pairs: Sequence[CaptionedPair], captions: Sequence[Caption], of_captions: Mapping[str, Mapping[str, Metrics]]
) -> dict[str, Metrics]:
    """Compare the captions of changed pairs, whose metrics are known, with the best fixed sentence."""
    rows = [row for row, pair in enumerate(pairs) if pair.changed]
    if not rows:
        return {}
    references = [pairs[row].sentences for row in rows]
    sentence = best_fixed_sentence(references)
    fixed = [sentence] * len(rows)
    compared = {
        "model": ([captions[row].text for row in rows], of_captions[CHANGED][PERIOD_FREE]),
        f'always "{sentence}"': (fixed, caption_metrics(fixed, references, PERIOD_FREE, meteor=False)),
    }
    return {
        name: {
            **{metric: values[metric] for metric in ("BLEU-4", "CIDEr")},
            **object_metrics(texts, references),
            "distinct captions": float(len(set(texts))),
        }
        for name, (texts, values) in compared.items()
    }


def _subsets(pairs: Sequence[CaptionedPair]) -> dict[str, list[int]]:
    """Return the rows of all pairs and, if there are any, of the changed pairs."""
    changed = [row for row, pair in enumerate(pairs) if pair.changed]
    return {ALL: list(range(len(pairs))), **({CHANGED: changed} if changed else {})}


def _no_pairs_message(predictions: Sequence[Prediction]) -> str:
    if not predictions:
        return "there are no pairs to evaluate"
    result = predictions[0].result
    reason = result.error if isinstance(result, PairFailure) else ""
    return f"none of the {len(predictions)} pairs could be read; the first: {reason}"


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) if isinstance(value, Mapping) else value for name, value in metrics.items()}

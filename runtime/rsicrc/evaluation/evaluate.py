"""Evaluation of a model folder on captioned pairs: captions, text search and change decisions, in one report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.datasets.registry import read_split
from rsicrc.errors import ArgumentError, DataError
from rsicrc.evaluation.metrics.captioning import (
    PERIOD_FREE,
    PROTOCOLS,
    PUBLISHED,
    bare,
    caption_metrics,
    meteor_problem,
)
from rsicrc.evaluation.metrics.change import calibration_metrics, decision_metrics, says_changed
from rsicrc.evaluation.metrics.retrieval import published_retrieval, relevance, strict_retrieval
from rsicrc.results import Caption, EncodedPair, PairFailure

if TYPE_CHECKING:
    from rsicrc.engine import Engine

ALL, CHANGED = "all", "changed"
STRICT = "strict"
BY_CAPTION, BY_SCORE = "caption", "change_score"
THRESHOLD = 0.5
_DECIMALS = 6  # what float32 sums are good for

Metrics: TypeAlias = Mapping[str, float]
Progress: TypeAlias = Callable[[int], None]


@dataclass(frozen=True)
class Prediction:
    """What the model said about one pair; a `PairFailure` where its images cannot be used."""

    pair: CaptionedPair
    result: Caption | PairFailure

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        fields = {"before": str(self.pair.before), "after": str(self.pair.after), "changed": self.pair.changed}
        if isinstance(self.result, PairFailure):
            return {**fields, "error": str(self.result.error)}
        caption = self.result
        change = None if caption.change_score is None else round(caption.change_score, _DECIMALS)
        said = {"caption": caption.text, "score": round(caption.score, _DECIMALS), "change_score": change}
        return {**fields, **said, "references": list(self.pair.sentences)}


@dataclass(frozen=True)
class Report:
    """All the figures. What cannot be measured (changed pairs where there are none, say) is absent, and a note says so.

    Attributes:
        pairs: How many pairs were measured.
        changed: How many of them are changed.
        beams: Width of the beam search.
        captions: "all" / "changed" → "period-free" / "published" → `caption_metrics`.
        retrieval: "all" / "changed" → "published" / "strict" → `published_retrieval` / `strict_retrieval`; the queries
            of "strict" are the captions of changed pairs, whichever pairs are searched.
        change: "caption" (the decision that the caption spells out) / "change_score" (≥ 0.5 is changed) →
            `decision_metrics`; the latter with `calibration_metrics`.
        notes: What was left out and why, one line each.
        predictions: Every pair that was asked for, in order, also those that failed.
    """

    pairs: int
    changed: int
    beams: int
    captions: Mapping[str, Mapping[str, Metrics]]
    retrieval: Mapping[str, Mapping[str, Metrics]]
    change: Mapping[str, Metrics]
    notes: tuple[str, ...]
    predictions: tuple[Prediction, ...]

    @property
    def failed(self) -> int:
        """How many pairs could not be read."""
        return len(self.predictions) - self.pairs

    def decisive(self) -> dict[str, float]:
        """Return the few figures that say most; the full set flatters, for half of it is five sentences."""
        figures = {f"change/no-change accuracy, by {name}": values["accuracy"] for name, values in self.change.items()}
        captions = self.captions.get(CHANGED, {}).get(PERIOD_FREE, {})
        figures |= {f"{name}, changed pairs, {PERIOD_FREE}": captions[name] for name in ("BLEU-4", "CIDEr") if captions}
        retrieval = self.retrieval.get(CHANGED, {})
        if retrieval:
            figures[f"P@1 text to pair, changed pairs, {PUBLISHED}"] = retrieval[PUBLISHED]["P@1"]
        return figures

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON: everything but the predictions."""
        return {
            "decisive": self.decisive(),
            "pairs": self.pairs,
            "changed": self.changed,
            "failed": self.failed,
            "beams": self.beams,
            "captions": _plain(self.captions),
            "retrieval": _plain(self.retrieval),
            "change": _plain(self.change),
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
    on_progress: Progress | None = None,
) -> Report:
    """Evaluate a model folder on one split of a captioned data set.

    Args:
        engine: The model folder.
        data: The data set, in one of the layouts of `rsicrc.datasets.registry`.
        split: "train", "val" or "test".
        beams: Width of the beam search; by default the model's.
        limit: Only the first so many pairs. Retrieval gets easier with fewer pairs.
        batch_size: Pairs that go through the graphs together.
        on_progress: See `evaluate_pairs`.

    Raises:
        DataError: The data set cannot be read, or none of its images can.
        ArgumentError: A setting is out of its range.
        BackendError: Pycocoevalcap is not installed.
    """
    if limit is not None and limit < 1:
        raise ArgumentError(f"limit must be at least 1, not {limit}")
    pairs = read_split(data, split)[:limit]
    return evaluate_pairs(engine, pairs, beams=beams, batch_size=batch_size, on_progress=on_progress)


def evaluate_pairs(
    engine: Engine,
    pairs: Sequence[CaptionedPair],
    *,
    beams: int | None = None,
    batch_size: int = 32,
    on_progress: Progress | None = None,
) -> Report:
    """Caption and embed the pairs and measure the result. Pairs whose images cannot be used are left out and counted.

    Args:
        engine: The model folder.
        pairs: The pairs, each with at least one sentence.
        beams: Width of the beam search; by default the model's.
        batch_size: Pairs that go through the graphs together.
        on_progress: Called with the number of pairs just done.

    Raises:
        DataError: A pair without sentences, no pairs, or none that can be read.
        ArgumentError: A setting is out of its range.
        BackendError: Pycocoevalcap is not installed.
    """
    for pair in pairs:
        if not pair.sentences or not all(map(bare, pair.sentences)):
            raise DataError(f"{pair.after}: no sentence, or an empty one. Every pair needs a caption to compare with")
    skipped = meteor_problem()  # before the long work: this is where a missing pycocoevalcap is found
    advance = on_progress or _ignore
    predictions: list[Prediction] = []
    captions: list[Caption] = []
    known: list[CaptionedPair] = []
    vectors: list[NDArray[np.float32]] = []
    paths = [(pair.before, pair.after) for pair in pairs]
    stream = engine.encode_stream(paths, captions=True, beams=beams, batch_size=batch_size)
    for pair, result in zip(pairs, stream, strict=True):
        if isinstance(result, EncodedPair) and result.caption is not None:
            captions.append(result.caption)
            known.append(pair)
            vectors.append(result.embedding)
        predictions.append(Prediction(pair, result if isinstance(result, PairFailure) else captions[-1]))
        advance(1)
    if not known:
        raise DataError(_nothing(predictions))
    failed = len(predictions) - len(known)
    embeddings = np.stack(vectors)

    changed = [pair.changed for pair in known]
    notes = [skipped] if skipped else []
    if failed:
        notes.append(f"{failed} of {len(predictions)} pairs could not be read and are left out")
    if not any(changed):
        notes.append("no changed pairs: their figures and strict retrieval are absent")
    retrieval = _retrieval_figures(engine, known, embeddings, notes)
    change = _change_figures(changed, captions, engine.manifest.no_change_sentences, notes)
    return Report(
        pairs=len(known),
        changed=sum(changed),
        beams=beams or engine.manifest.search.beams,
        captions=_caption_figures(known, [caption.text for caption in captions]),
        retrieval=retrieval,
        change=change,
        notes=tuple(notes),
        predictions=tuple(predictions),
    )


def _caption_figures(pairs: Sequence[CaptionedPair], texts: Sequence[str]) -> dict[str, dict[str, Metrics]]:
    figures: dict[str, dict[str, Metrics]] = {}
    for subset, rows in _subsets(pairs).items():
        references = [pairs[row].sentences for row in rows]
        hypotheses = [texts[row] for row in rows]
        figures[subset] = {protocol: caption_metrics(hypotheses, references, protocol) for protocol in PROTOCOLS}
    return figures


def _retrieval_figures(
    engine: Engine, pairs: Sequence[CaptionedPair], embeddings: NDArray[np.float32], notes: list[str]
) -> dict[str, dict[str, Metrics]]:
    subsets = _subsets(pairs)
    strict = [(row, sentence) for row in subsets.get(CHANGED, ()) for sentence in pairs[row].sentences]
    # Each sentence once: unchanged pairs carry the same five.
    sentences = dict.fromkeys([pair.sentences[0] for pair in pairs] + [sentence for _, sentence in strict])
    place = {sentence: number for number, sentence in enumerate(sentences)}
    mangled = sum(bool(engine.vocabulary.unknown_words(text)) or engine.vocabulary.is_cut(text) for text in sentences)
    if mangled:
        notes.append(f"{mangled} of {len(sentences)} queries are too long or hold words that the model does not know")
    with _quiet():
        texts = engine.embed_texts(list(sentences))

    figures: dict[str, dict[str, Metrics]] = {}
    for subset, rows in subsets.items():
        first = [pairs[row].sentences[0] for row in rows]
        labels = [row if pairs[row].changed else -1 for row in rows]
        candidates = embeddings[rows]
        queries = texts[[place[sentence] for sentence in first]]
        figures[subset] = {PUBLISHED: published_retrieval(queries, candidates, relevance(labels, first))}
        if strict:
            index = {row: position for position, row in enumerate(rows)}
            queries = texts[[place[sentence] for _, sentence in strict]]
            figures[subset][STRICT] = strict_retrieval(queries, candidates, [index[row] for row, _ in strict])
    return figures


def _change_figures(
    changed: Sequence[bool], captions: Sequence[Caption], no_change_sentences: Sequence[str], notes: list[str]
) -> dict[str, Metrics]:
    scores = [caption.change_score for caption in captions if caption.change_score is not None]
    if not no_change_sentences or len(scores) < len(captions):
        notes.append("the model lists no no-change sentences: its change decisions cannot be told")
        return {}
    said = says_changed([caption.text for caption in captions], no_change_sentences)
    by_score = decision_metrics(changed, [score >= THRESHOLD for score in scores])
    return {
        BY_CAPTION: decision_metrics(changed, said.tolist()),
        BY_SCORE: {**by_score, **calibration_metrics(changed, scores)},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's warnings back, one for every long sentence: a data set has hundreds, and a note counts them."""
    logger = logging.getLogger("rsicrc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _subsets(pairs: Sequence[CaptionedPair]) -> dict[str, list[int]]:
    """Return the rows of all pairs, and those of the changed ones where there are any."""
    changed = [row for row, pair in enumerate(pairs) if pair.changed]
    return {ALL: list(range(len(pairs))), **({CHANGED: changed} if changed else {})}


def _nothing(predictions: Sequence[Prediction]) -> str:
    if not predictions:
        return "there are no pairs to evaluate"
    result = predictions[0].result
    reason = result.error if isinstance(result, PairFailure) else ""
    return f"none of the {len(predictions)} pairs could be read; the first: {reason}"


def _plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) if isinstance(value, Mapping) else value for name, value in figures.items()}


def _ignore(steps: int) -> None:
    """Stand in where nobody watches."""

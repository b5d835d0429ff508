"""Captioning metrics by pycocoevalcap: BLEU-1…4, ROUGE-L, CIDEr and, if Java is available, METEOR.

Captions are words separated by single spaces. As in the published code, they are not tokenized by pycocoevalcap: its
tokenizer would drop the period that distinguishes the two protocols.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from rsicrc.errors import ArgumentError, BackendError

if TYPE_CHECKING:
    from pycocoevalcap.meteor.meteor import Meteor

PUBLISHED = "published"
PERIOD_FREE = "period-free"
PROTOCOLS = (PERIOD_FREE, PUBLISHED)
METEOR = "METEOR"
ROUGE = "ROUGE-L"
ROUGE_WITHOUT_BLANK = "ROUGE-L without blank token"


def caption_metrics(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    protocol: str = PERIOD_FREE,
    *,
    meteor: bool = True,
) -> dict[str, float]:
    """Compare captions with reference captions.

    The two protocols differ in the final period. In "published" (the code of Ferrod et al. 2024) the references end
    with " ." and the hypotheses do not, so that even a perfect caption has a BLEU-4 below 1. In "period-free" (used by
    other papers) neither has a period. A final period in the arguments is removed first, in both protocols.

    The published references also begin with a blank, at which pycocoevalcap's ROUGE-L, but no other metric, counts an
    empty token. "published" reproduces this, and reports ROUGE-L without the empty token under a name of its own.

    CIDEr weighs words by their rarity in the given references, so its values for a data set and for a part of the data
    set are on different scales.

    Args:
        hypotheses: N captions.
        references: N lists of one or more reference sentences.
        protocol: Either "period-free" or "published".
        meteor: Compute METEOR if possible (see `meteor_problem`). The first call starts a Java machine, which takes
            several seconds.

    Returns:
        "BLEU-1" … "BLEU-4", "METEOR", "ROUGE-L" in [0, 1] and "CIDEr" in [0, 10]; without "METEOR" if it is skipped;
        in "published" also "ROUGE-L without blank token".

    Raises:
        ArgumentError: The protocol is unknown, there is nothing to compare, a pair has no references, or the lists have
            different lengths.
        BackendError: Pycocoevalcap is not installed.
    """
    if protocol not in PROTOCOLS:
        raise ArgumentError(f"no such protocol: {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if len(hypotheses) != len(references) or not hypotheses:
        raise ArgumentError(f"{len(hypotheses)} captions cannot be compared with the references of {len(references)}")
    end = " ." if protocol == PUBLISHED else ""
    result = {number: [strip_period(text)] for number, text in enumerate(hypotheses)}
    truth = {number: [strip_period(text) + end for text in texts] for number, texts in enumerate(references)}
    for number, texts in truth.items():
        if not any(text not in ("", " .") for text in texts):
            raise ArgumentError(f"pair {number}, counted from 0, has no reference sentence")

    bleu, rouge, cider = _scorers()
    values, _ = bleu.compute_score(truth, result, verbose=0)
    metrics = {f"BLEU-{order}": float(value) for order, value in enumerate(values, start=1)}
    if meteor and meteor_problem() is None:
        metrics[METEOR] = float(_meteor().compute_score(truth, result)[0])
    metrics[ROUGE] = float(rouge.compute_score(truth, result)[0])
    if protocol == PUBLISHED:
        metrics[ROUGE_WITHOUT_BLANK] = metrics[ROUGE]
        blank = {number: [f" {text}" for text in texts] for number, texts in truth.items()}
        metrics[ROUGE] = float(rouge.compute_score(blank, result)[0])
    metrics["CIDEr"] = float(cider.compute_score(truth, result)[0])
    return metrics


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Compute the period-free CIDEr of each caption; the mean is the CIDEr of `caption_metrics`.

    Args:
        hypotheses: N captions.
        references: N lists of one or more reference sentences.

    Returns:
        N values in [0, 10].

    Raises:
        BackendError: Pycocoevalcap is not installed.
    """
    result = {number: [strip_period(text)] for number, text in enumerate(hypotheses)}
    truth = {number: list(map(strip_period, texts)) for number, texts in enumerate(references)}
    _, _, cider = _scorers()
    return [float(score) for score in cider.compute_score(truth, result)[1]]


def strip_period(sentence: str) -> str:
    """Return a sentence with single spaces between the words and without a final period."""
    return " ".join(sentence.split()).removesuffix(".").rstrip()


@cache
def meteor_problem() -> str | None:
    """Return the reason why METEOR cannot be computed, in one line, or None if it can.

    Raises:
        BackendError: Pycocoevalcap is not installed.
    """
    _scorers()
    if shutil.which("java") is None:
        return "METEOR was skipped: it needs Java, and there is no `java` on the PATH"
    meteor = _meteor()
    try:
        meteor.compute_score({0: ["a road is built"]}, {0: ["a road is built"]})
    except (OSError, ValueError) as error:
        # compute_score leaves the object locked and the pipe with unread text: its finalizer would hang or fail.
        meteor.lock.release()
        with suppress(OSError):
            meteor.meteor_p.stdin.close()
        return f"METEOR was skipped: its Java program does not run ({error})"
    return None


@cache
def _meteor() -> Meteor:
    # One object per process: the Java machine takes seconds to read its tables of synonyms.
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()


def _scorers() -> tuple[Any, Any, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise BackendError(f"captioning metrics need pycocoevalcap ({error}): pip install pycocoevalcap") from error
    return Bleu(4), Rouge(), Cider()

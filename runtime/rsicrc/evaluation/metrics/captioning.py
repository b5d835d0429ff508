"""Captioning metrics: BLEU-1…4, ROUGE-L, CIDEr and, where there is Java, METEOR; all computed by pycocoevalcap.

Captions are words with single spaces between them. They go to the metrics as they are, as in the published code:
pycocoevalcap's own tokenizer would only drop the period that tells the two protocols apart.
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


def caption_metrics(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    protocol: str = PERIOD_FREE,
    *,
    meteor: bool = True,
) -> dict[str, float]:
    """Compare captions with what people wrote.

    The two protocols differ in one thing. In "published" (the code of Ferrod et al. 2024) the references keep their
    final " .", which the hypotheses never have, so that not even a perfect caption reaches BLEU-4 1; in "period-free"
    (what the peers report) nobody has it. A final period in what is given here is put aside first, in either case.

    CIDEr weighs words by how rare they are in the references given, so its figures for a set and for a part of it are
    on different scales.

    Args:
        hypotheses: N captions.
        references: For each, one sentence or more.
        protocol: "period-free" or "published".
        meteor: Compute METEOR where it can be (see `meteor_problem`); the first time costs the start of a Java
            machine, several seconds.

    Returns:
        "BLEU-1" … "BLEU-4", "METEOR", "ROUGE-L" in [0, 1] and "CIDEr" in [0, 10]; no "METEOR" where it is skipped.

    Raises:
        ArgumentError: An unknown protocol, nothing to compare, a pair without references, or lists of unequal length.
        BackendError: Pycocoevalcap is not installed.
    """
    if protocol not in PROTOCOLS:
        raise ArgumentError(f"no such protocol: {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if len(hypotheses) != len(references) or not hypotheses:
        raise ArgumentError(f"{len(hypotheses)} captions cannot be compared with the references of {len(references)}")
    end = " ." if protocol == PUBLISHED else ""
    result = {number: [bare(text)] for number, text in enumerate(hypotheses)}
    truth = {number: [bare(text) + end for text in texts] for number, texts in enumerate(references)}
    for number, texts in truth.items():
        if not any(text not in ("", " .") for text in texts):
            raise ArgumentError(f"pair {number}, counted from 0, has no reference sentence")

    bleu, rouge, cider = _scorers()
    values, _ = bleu.compute_score(truth, result, verbose=0)
    metrics = {f"BLEU-{order}": float(value) for order, value in enumerate(values, start=1)}
    if meteor and meteor_problem() is None:
        metrics[METEOR] = float(_meteor().compute_score(truth, result)[0])
    metrics["ROUGE-L"] = float(rouge.compute_score(truth, result)[0])
    metrics["CIDEr"] = float(cider.compute_score(truth, result)[0])
    return metrics


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr of each caption by itself, period-free; their mean is `caption_metrics`'s CIDEr.

    Args:
        hypotheses: N captions.
        references: For each, one sentence or more.

    Returns:
        N figures in [0, 10].

    Raises:
        BackendError: Pycocoevalcap is not installed.
    """
    result = {number: [bare(text)] for number, text in enumerate(hypotheses)}
    truth = {number: list(map(bare, texts)) for number, texts in enumerate(references)}
    _, _, cider = _scorers()
    return [float(score) for score in cider.compute_score(truth, result)[1]]


def bare(sentence: str) -> str:
    """Return a sentence with single spaces between its words and without a final period."""
    return " ".join(sentence.split()).removesuffix(".").rstrip()


@cache
def meteor_problem() -> str | None:
    """Say in one line why METEOR cannot be computed here; None when it can.

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
        # compute_score left it locked, and with text that nobody reads: the object's end would hang or complain.
        meteor.lock.release()
        with suppress(OSError):
            meteor.meteor_p.stdin.close()
        return f"METEOR was skipped: its Java program does not run ({error})"
    return None


@cache
def _meteor() -> Meteor:
    # One for the life of the process: the Java machine takes seconds to read its tables of synonyms.
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

"""Captioning metrics: values computed by hand, both protocols, METEOR with and without Java, wrong arguments."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsicrc.errors import ArgumentError, BackendError
from rsicrc.evaluation.metrics import captioning
from rsicrc.evaluation.metrics.captioning import caption_metrics, meteor_problem

pytest.importorskip("pycocoevalcap", reason="needs rsicrc[train]")

SENTENCES = ["a road is built", "some houses appear on bareland", "the scene is the same as before"]
NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]


@pytest.fixture(autouse=True)
def _fresh_meteor() -> Iterator[None]:
    """Clear the cached availability of Java, which differs between the tests."""
    for cached in captioning.meteor_problem, captioning._meteor:
        cached.cache_clear()
    yield
    for cached in captioning.meteor_problem, captioning._meteor:
        cached.cache_clear()


def measure(hypotheses: list[str], references: list[list[str]], protocol: str = "period-free") -> dict[str, float]:
    return caption_metrics(hypotheses, references, protocol, meteor=False)


def test_perfect_captions_have_the_best_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = measure(SENTENCES, [[sentence] for sentence in SENTENCES])
    assert list(metrics) == NAMES
    assert metrics == pytest.approx({**dict.fromkeys(NAMES, 1.0), "CIDEr": 10.0})
    assert capsys.readouterr() == ("", "")


def test_published_protocol_penalizes_a_perfect_caption() -> None:
    metrics = measure(SENTENCES, [[sentence] for sentence in SENTENCES], "published")
    words = sum(len(sentence.split()) for sentence in SENTENCES)
    # Every n-gram matches, so the result is BLEU's brevity penalty: each sentence is one word too short.
    assert metrics["BLEU-4"] == pytest.approx(math.exp(1 - (words + len(SENTENCES)) / words))
    assert metrics["ROUGE-L"] < 1
    assert metrics["CIDEr"] < 10


@pytest.mark.parametrize("protocol", ["published", "period-free"])
def test_final_period_in_the_input_is_ignored(protocol: str) -> None:
    hypotheses = ["a road is built", "houses appear", "the scene is the same"]
    without = measure(hypotheses, [[sentence] for sentence in SENTENCES], protocol)
    spellings = [[f" {sentence}  ."] for sentence in SENTENCES]
    assert measure([f"{text}." for text in hypotheses], spellings, protocol) == without


def test_bleu_and_rouge_match_values_computed_by_hand() -> None:
    metrics = measure(["the the road"], [["the road is long", "a road"]])
    # Clipped counts: "the" 1, "road" 1. Reference lengths 2 and 4 are equally near to 3; BLEU takes the shorter length.
    assert metrics["BLEU-1"] == pytest.approx(2 / 3)
    assert metrics["BLEU-2"] == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    # ROUGE-L: precision 2/3 (the road), recall 1/2 of each reference at most: (1 + β²)PR / (R + β²P), β = 1.2
    assert metrics["ROUGE-L"] == pytest.approx(2.44 * (2 / 3) * (1 / 2) / (1 / 2 + 1.44 * 2 / 3))


def test_published_rouge_counts_the_blank_before_a_reference() -> None:
    metrics = measure(["a road"], [["a road"]], "published")
    # Reference tokens: "", "a", "road", "." against "a", "road": precision 1, recall 2/4, or 2/3 without the first.
    assert metrics["ROUGE-L"] == pytest.approx(2.44 * 0.5 / (0.5 + 1.44))
    assert metrics["ROUGE-L without blank token"] == pytest.approx(2.44 * (2 / 3) / (2 / 3 + 1.44))
    assert "ROUGE-L without blank token" not in measure(["a road"], [["a road"]])


def test_empty_caption_has_zero_scores() -> None:
    metrics = measure(["", *SENTENCES[1:]], [[sentence] for sentence in SENTENCES])
    assert metrics["CIDEr"] == pytest.approx(20 / 3)
    assert metrics["ROUGE-L"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("hypotheses", "references", "protocol", "message"),
    [
        (["a"], [["a"]], "coco", "no such protocol: 'coco'"),
        ([], [], "published", "0 captions"),
        (["a"], [["a"], ["b"]], "published", "1 captions cannot be compared with the references of 2"),
        (["a", "b"], [["a"], []], "published", "pair 1, counted from 0, has no reference"),
        (["a", "b"], [["."], ["b"]], "published", "pair 0, counted from 0, has no reference"),
    ],
)
def test_wrong_arguments_are_refused(
    hypotheses: list[str], references: list[list[str]], protocol: str, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        measure(hypotheses, references, protocol)


def test_missing_pycocoevalcap_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pycocoevalcap.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(BackendError, match=r": pip install pycocoevalcap$"):
        measure(["a road"], [["a road"]])
    with pytest.raises(BackendError, match=r": pip install pycocoevalcap$"):
        meteor_problem()


def test_meteor_is_skipped_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert list(caption_metrics(["a road"], [["a road"]])) == NAMES
    assert meteor_problem() == "METEOR was skipped: it needs Java, and there is no `java` on the PATH"


def test_meteor_is_skipped_if_java_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(caption_metrics(["a road"], [["a road"]])) == NAMES
    assert str(meteor_problem()).startswith("METEOR was skipped: its Java program does not run (")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
def test_meteor_counts_synonyms_and_stems() -> None:
    perfect = caption_metrics(SENTENCES, [[sentence] for sentence in SENTENCES])
    assert perfect["METEOR"] == pytest.approx(1.0)
    assert sorted(perfect) == sorted([*NAMES, "METEOR"])
    # METEOR matches synonyms and stems; the only common word for BLEU is "a".
    near = caption_metrics(["a road was constructed", "", ""], [["a roads is built"], ["a"], ["b"]])
    assert near["METEOR"] > 0.1

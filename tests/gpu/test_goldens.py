"""Results against float32 on the CPU: equal sentences in float32, within a tolerance in other precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsicrc import Engine
from rsicrc.manifest import EXACT, GOLDEN_FILE, IMAGE_ENCODER, SCORER, TEXT_ENCODER
from tests.gpu.conftest import BEAMS, MAX_BATCH, Expected, Pairs

pytestmark = pytest.mark.gpu

# Minimum cosine of an embedding; maximum mean decrease, in nats, of the exact log-probability of the captions.
TOLERANCES = {EXACT: (0.99999, 1e-3), "fp16": (0.9995, 0.05), "bf16": (0.998, 0.15), "int8": (0.99, 0.3)}
SENTENCES = ["a house is built on the meadow", "the scene is the same as before", "road"]


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("batch", [1, 8, MAX_BATCH])
def test_captions_match_the_cpu(engine: Engine, expected: Expected, pairs: Pairs, batch: int, beams: int) -> None:
    least, loss = TOLERANCES[_named(engine)]
    reference = expected.captions[beams][:batch]
    captions = engine.caption(pairs[:batch], beams=beams, n_best=beams, batch_size=batch)
    vectors = engine.embed_images(pairs[:batch], batch_size=batch)
    assert (vectors * expected.embeddings[:batch]).sum(axis=1).min() > least
    if engine.manifest.precision == EXACT:
        for one, other in zip(captions, reference, strict=True):
            assert [each.text for each in one.n_best] == [each.text for each in other.n_best]
            assert [each.score for each in one.n_best] == pytest.approx([each.score for each in other.n_best], abs=1e-3)
            assert one.change_score == pytest.approx(other.change_score, abs=1e-3)
        return
    # Rounding may exchange sentences of nearly equal score; clearly worse sentences must not win.
    scores = expected.engine.score(pairs[:batch], [caption.text for caption in captions])
    best = [sum(caption.token_log_probs) for caption in reference]
    assert np.mean([best[row] - scores[row, row] for row in range(batch)]) < loss


def test_text_embeddings_and_scores_match_the_cpu(engine: Engine, expected: Expected, pairs: Pairs) -> None:
    least, _ = TOLERANCES[_named(engine)]
    assert (engine.embed_texts(SENTENCES) * expected.engine.embed_texts(SENTENCES)).sum(axis=1).min() > least
    if engine.manifest.precision == EXACT:
        scores = expected.engine.score(pairs[:8], SENTENCES)
        np.testing.assert_allclose(engine.score(pairs[:8], SENTENCES), scores, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("copies", [1, 4, MAX_BATCH // 2])
def test_results_match_the_golden_file(engine: Engine, folder: Path, copies: int) -> None:
    """The golden results of the export, repeated: this test needs only the model folder."""
    golden = np.load(folder / GOLDEN_FILE)
    images = np.tile(golden["images"], (copies, 1, 1, 1, 1))
    least, _ = TOLERANCES[_named(engine)]
    backend = engine.backend
    outputs = backend.run(IMAGE_ENCODER, {"images": images})
    vectors = backend.numpy(outputs["image_embedding"]).reshape(copies, *golden["image_embedding"].shape)
    assert (vectors * golden["image_embedding"]).sum(axis=-1).min() > least
    texts = backend.numpy(backend.run(TEXT_ENCODER, {"input_ids": golden["input_ids"]})["text_embedding"])
    assert (texts * golden["text_embedding"]).sum(axis=-1).min() > least
    if engine.manifest.precision != EXACT:
        return
    cross = {name: value for name, value in outputs.items() if name.startswith("cross_")}
    scored = backend.run(SCORER, {"input_ids": golden["input_ids"], **cross}, ["log_probs"])
    log_probs = backend.numpy(scored["log_probs"]).reshape(copies, *golden["log_probs"].shape)
    np.testing.assert_allclose(log_probs, np.broadcast_to(golden["log_probs"], log_probs.shape), atol=2e-3, rtol=1e-4)
    pairs = [(before, after) for before, after in images]
    for beams in (1, 3, 5):
        found = engine.caption(pairs, beams=beams, n_best=beams, batch_size=len(pairs))
        for number, caption in enumerate(found):
            ids, scores = (golden[f"caption_{kind}_{beams}"][number % 2] for kind in ("ids", "scores"))
            assert [each.text for each in caption.n_best] == [engine.vocabulary.decode(row) for row in ids]
            assert [each.score for each in caption.n_best] == pytest.approx(list(scores), abs=1e-3)


def _named(engine: Engine) -> str:
    """Return the name of the precision in `rsicrc.load`."""
    return engine.manifest.precision.partition("-")[0]

"""The same answers as float32 on the CPU: equal sentences in float32, within a tolerance of each other precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsicrc import Engine
from rsicrc.manifest import EXACT, GOLDEN_FILE, IMAGE_ENCODER, SCORER, TEXT_ENCODER
from tests.gpu.conftest import BEAMS, MOST, Expected, Pairs

pytestmark = pytest.mark.gpu

# Least cosine of an embedding; nats by which the exact model may find a precision's captions less likely, on average.
TOLERANCES = {EXACT: (0.99999, 1e-3), "fp16": (0.9995, 0.05), "bf16": (0.998, 0.15), "int8": (0.99, 0.3)}
SENTENCES = ["a house is built on the meadow", "the scene is the same as before", "road"]


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("batch", [1, 8, MOST])
def test_as_on_the_cpu(engine: Engine, expected: Expected, pairs: Pairs, batch: int, beams: int) -> None:
    least, loss = TOLERANCES[_named(engine)]
    there = expected.captions[beams][:batch]
    here = engine.caption(pairs[:batch], beams=beams, n_best=beams, batch_size=batch)
    vectors = engine.embed_images(pairs[:batch], batch_size=batch)
    assert (vectors * expected.embeddings[:batch]).sum(axis=1).min() > least
    if engine.manifest.precision == EXACT:
        for one, other in zip(here, there, strict=True):
            assert [each.text for each in one.n_best] == [each.text for each in other.n_best]
            assert [each.score for each in one.n_best] == pytest.approx([each.score for each in other.n_best], abs=1e-3)
            assert one.change_score == pytest.approx(other.change_score, abs=1e-3)
        return
    # Sentences as good as each other change places at any rounding; worse ones must not win.
    likely = expected.engine.score(pairs[:batch], [caption.text for caption in here])
    best = [sum(caption.token_log_probs) for caption in there]
    assert np.mean([best[row] - likely[row, row] for row in range(batch)]) < loss


def test_texts_as_on_the_cpu(engine: Engine, expected: Expected, pairs: Pairs) -> None:
    least, _ = TOLERANCES[_named(engine)]
    assert (engine.embed_texts(SENTENCES) * expected.engine.embed_texts(SENTENCES)).sum(axis=1).min() > least
    if engine.manifest.precision == EXACT:
        there = expected.engine.score(pairs[:8], SENTENCES)
        np.testing.assert_allclose(engine.score(pairs[:8], SENTENCES), there, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("copies", [1, 4, MOST // 2])
def test_the_golden_file(engine: Engine, folder: Path, copies: int) -> None:
    """What the export kept, and copies of it: needs nothing but the folder."""
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
            ids, scores = (golden[f"caption_{what}_{beams}"][number % 2] for what in ("ids", "scores"))
            assert [each.text for each in caption.n_best] == [engine.vocabulary.decode(row) for row in ids]
            assert [each.score for each in caption.n_best] == pytest.approx(list(scores), abs=1e-3)


def _named(engine: Engine) -> str:
    """The precision as a user names it."""
    return engine.manifest.precision.partition("-")[0]

"""A thousand batches of random sizes: the results and the memory in use stay the same."""

from __future__ import annotations

import numpy as np
import pytest
from common import gpu

from rsicrc.manifest import EXACT
from tests.gpu.conftest import BATCHES, DEVICE, MAX_BATCH, OpenEngine, Pairs

pytestmark = pytest.mark.gpu

SAME = {EXACT: 0.999, "fp16": 0.95}  # share of equal captions; rounding depends on the batch size
CLOSE = {EXACT: 1e-4, "fp16": 5e-3}  # absolute tolerance of the components of an embedding
GROWTH = 16 << 20  # bytes; a leak of one kilobyte in every run of a graph would be larger


@pytest.mark.parametrize("stressed", SAME)
def test_results_and_memory_stay_the_same(open_engine: OpenEngine, backend: str, stressed: str, pairs: Pairs) -> None:
    engine = open_engine(backend, stressed)
    beam_counts = (1, 3, 5)
    expected = {
        beams: [each.text for each in engine.caption(pairs, beams=beams, batch_size=MAX_BATCH)] for beams in beam_counts
    }
    embeddings = engine.embed_images(pairs, batch_size=MAX_BATCH)
    random = np.random.default_rng(0)
    equal, captions, in_use = 0, 0, 0
    for number in range(BATCHES):
        if number == BATCHES // 2 and gpu.is_gpu(DEVICE):
            in_use = gpu.used(DEVICE)
        rows = random.integers(0, MAX_BATCH, random.integers(1, MAX_BATCH + 1))
        beams = int(random.choice(beam_counts))
        part = [pairs[row] for row in rows]
        texts = [each.text for each in engine.caption(part, beams=beams, batch_size=len(part))]
        equal += sum(text == expected[beams][row] for text, row in zip(texts, rows, strict=True))
        captions += len(rows)
        vectors = engine.embed_images(part, batch_size=len(part))
        np.testing.assert_allclose(vectors, embeddings[rows], atol=CLOSE[stressed], err_msg=f"batch {number}")
    assert equal / captions >= SAME[stressed]
    # The same work as at the start gives the same results.
    np.testing.assert_allclose(engine.embed_images(pairs, batch_size=MAX_BATCH), embeddings, atol=1e-6)
    for beams, texts in expected.items():
        assert [each.text for each in engine.caption(pairs, beams=beams, batch_size=MAX_BATCH)] == texts
    if gpu.is_gpu(DEVICE):
        assert gpu.used(DEVICE) - in_use < GROWTH


def test_deleted_engines_free_their_memory(open_engine: OpenEngine, backend: str, pairs: Pairs) -> None:
    """The memory of the libraries themselves stays allocated after the first engine."""
    import gc

    import rsicrc

    folder = open_engine(backend, EXACT).folder
    in_use = []
    for _ in range(4):
        engine = rsicrc.load(folder, DEVICE, backend=backend)
        engine.caption(pairs[:8], beams=5, batch_size=8)
        del engine
        gc.collect()
        in_use.append(gpu.used(DEVICE) if gpu.is_gpu(DEVICE) else 0)
    assert in_use[-1] - in_use[1] < GROWTH

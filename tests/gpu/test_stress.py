"""A thousand batches of any size in any order: the same answers at the end as at the start, and no more memory."""

from __future__ import annotations

import numpy as np
import pytest
from common import card

from rsicrc.manifest import EXACT
from tests.gpu.conftest import BATCHES, DEVICE, MOST, Open, Pairs

pytestmark = pytest.mark.gpu

SAME = {EXACT: 0.999, "fp16": 0.95}  # of the captions; rounding depends on the batch's size
CLOSE = {EXACT: 1e-4, "fp16": 5e-3}  # a number of an embedding
GROWTH = 16 << 20  # bytes; a kilobyte that is lost in every run of a graph would be more


@pytest.mark.parametrize("stressed", SAME)
def test_a_thousand_batches(open_engine: Open, backend: str, stressed: str, pairs: Pairs) -> None:
    engine = open_engine(backend, stressed)
    beam_counts = (1, 3, 5)
    told = {beams: [each.text for each in engine.caption(pairs, beams=beams, batch_size=MOST)] for beams in beam_counts}
    seen = engine.embed_images(pairs, batch_size=MOST)
    random = np.random.default_rng(0)
    equal, captions, taken = 0, 0, 0
    for number in range(BATCHES):
        if number == BATCHES // 2 and card.is_card(DEVICE):
            taken = card.used(DEVICE)
        rows = random.integers(0, MOST, random.integers(1, MOST + 1))
        beams = int(random.choice(beam_counts))
        part = [pairs[row] for row in rows]
        said = [each.text for each in engine.caption(part, beams=beams, batch_size=len(part))]
        equal += sum(text == told[beams][row] for text, row in zip(said, rows, strict=True))
        captions += len(rows)
        vectors = engine.embed_images(part, batch_size=len(part))
        np.testing.assert_allclose(vectors, seen[rows], atol=CLOSE[stressed], err_msg=f"batch {number}")
    assert equal / captions >= SAME[stressed]
    # The very same work again: nothing has drifted.
    np.testing.assert_allclose(engine.embed_images(pairs, batch_size=MOST), seen, atol=1e-6)
    for beams, texts in told.items():
        assert [each.text for each in engine.caption(pairs, beams=beams, batch_size=MOST)] == texts
    if card.is_card(DEVICE):
        assert card.used(DEVICE) - taken < GROWTH


def test_engines_give_their_memory_back(open_engine: Open, backend: str, pairs: Pairs) -> None:
    """Opened, used and dropped again and again; the libraries' own share is there after the first."""
    import gc

    import rsicrc

    folder = open_engine(backend, EXACT).folder
    taken = []
    for _ in range(4):
        engine = rsicrc.load(folder, DEVICE, backend=backend)
        engine.caption(pairs[:8], beams=5, batch_size=8)
        del engine
        gc.collect()
        taken.append(card.used(DEVICE) if card.is_card(DEVICE) else 0)
    assert taken[-1] - taken[1] < GROWTH

"""Steps that are replayed as CUDA graphs give what the same steps give that are queued one by one."""

from __future__ import annotations

from typing import Any

import pytest

import rsicrc
from tests.gpu.conftest import BEAMS, DEVICE, MOST, Open, Pairs

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("recorded", ["fp32", "fp16"])
def test_the_same_with_and_without(open_engine: Open, backend: str, recorded: str, beams: int, pairs: Pairs) -> None:
    engine = open_engine(backend, recorded)
    other: Any = rsicrc.load(engine.folder, DEVICE, backend=backend, precision=recorded)
    if not getattr(other.backend, "records", False):
        pytest.skip(f"{backend} on {DEVICE} records no CUDA graphs")
    other.backend.records = False
    # The first search of a size records it, the second replays; a batch that is no power of two is filled up.
    for batch in (MOST, MOST, 5, 5):
        some = pairs[:batch]
        replayed = engine.caption(some, beams=beams, n_best=beams, batch_size=batch)
        queued = other.caption(some, beams=beams, n_best=beams, batch_size=batch)
        for one, another in zip(replayed, queued, strict=True):
            assert [each.text for each in one.n_best] == [each.text for each in another.n_best]
            assert one.token_log_probs == pytest.approx(another.token_log_probs, abs=1e-5)

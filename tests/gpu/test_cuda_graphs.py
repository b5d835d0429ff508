"""Results of steps that are captured as CUDA graphs, against the same steps queued one by one."""

from __future__ import annotations

from typing import Any

import pytest

import rsicrc
from tests.gpu.conftest import BEAMS, DEVICE, MAX_BATCH, OpenEngine, Pairs

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("captured", ["fp32", "fp16"])
def test_cuda_graphs_do_not_change_captions(
    open_engine: OpenEngine, backend: str, captured: str, beams: int, pairs: Pairs
) -> None:
    engine = open_engine(backend, captured)
    other: Any = rsicrc.load(engine.folder, DEVICE, backend=backend, precision=captured)
    if not getattr(other.backend, "uses_cuda_graphs", False):
        pytest.skip(f"{backend} on {DEVICE} captures no CUDA graphs")
    other.backend.uses_cuda_graphs = False
    # The first search of a size captures the steps, the second one launches them; a batch of 5 is padded to 8.
    for batch in (MAX_BATCH, MAX_BATCH, 5, 5):
        some = pairs[:batch]
        replayed = engine.caption(some, beams=beams, n_best=beams, batch_size=batch)
        queued = other.caption(some, beams=beams, n_best=beams, batch_size=batch)
        for one, another in zip(replayed, queued, strict=True):
            assert [each.text for each in one.n_best] == [each.text for each in another.n_best]
            assert one.token_log_probs == pytest.approx(another.token_log_probs, abs=1e-5)

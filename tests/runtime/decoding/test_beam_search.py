"""Tests of the host side of the beam search: finished pairs, cache growth, memory reuse and timings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rsicrc
from rsicrc.backends import Loop
from rsicrc.backends.host_loop import HostState
from rsicrc.decoding import beam_search as search
from rsicrc.engine import Engine
from rsicrc.manifest import DECODER, GraphSpec, TensorSpec
from tests.models import random_images

PAIRS = 12
STATE = GraphSpec(
    "decoder.onnx",
    {
        "scores": TensorSpec("float32", ("B", "K")),
        "self_keys_0": TensorSpec("float32", ("B", 2, "P", 3)),
        "position": TensorSpec("int64", ()),
    },
    {
        "next_scores": TensorSpec("float32", ("B", "K")),
        "next_self_keys_0": TensorSpec("float32", ("B", 2, "P", 3)),
        "unfinished": TensorSpec("int64", ()),
    },
)


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Engine:
    return rsicrc.load(model_folder, threads=1)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    return [(before, after) for before, after in random_images(PAIRS, seed=7)]


class Watched:
    """Wrapper of a backend's loops that records the number of rows and of cache slots at each step."""

    def __init__(self, engine: Engine) -> None:
        self.begin = engine.backend.loop
        self.rows: list[int] = []
        self.places: list[int] = []

    def loop(self, graph: str, axes: Mapping[str, int], first: Mapping[str, Any], fixed: Mapping[str, Any]) -> Loop:
        loop = self.begin(graph, axes, first, fixed)
        step = loop.step

        def watched(position: int) -> None:
            step(position)
            self.rows.append(len(loop.read("done")))
            self.places.append(loop.read("lineage").shape[2])

        loop.step = watched  # type: ignore[method-assign]
        return loop


@pytest.fixture
def watched(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Watched:
    spy = Watched(engine)
    monkeypatch.setattr(engine.backend, "loop", spy.loop)
    return spy


def test_finished_pairs_leave_the_batch(engine: Engine, pairs: Any, watched: Watched) -> None:
    together = engine.caption(pairs, beams=3, batch_size=PAIRS)
    lengths = [len(caption.token_log_probs) for caption in together]
    assert len(set(lengths)) > 3, "captions of one length leave nothing to see"
    assert watched.rows == sorted(watched.rows, reverse=True)
    assert watched.rows[0] == PAIRS
    assert sum(watched.rows) < 0.9 * PAIRS * len(watched.rows)
    alone = [engine.caption([pair], beams=3)[0] for pair in pairs]
    assert [caption.text for caption in together] == [caption.text for caption in alone]
    np.testing.assert_allclose([c.score for c in together], [c.score for c in alone], atol=1e-5)


@pytest.mark.parametrize("beams", [1, 4])
def test_caches_grow(engine: Engine, pairs: Any, watched: Watched, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.caption(pairs, beams=beams, n_best=beams, early_stopping=False)
    assert set(watched.places) == {11 * beams}
    watched.places.clear()
    monkeypatch.setattr(search, "CACHE_STEPS", 3)
    grown = engine.caption(pairs, beams=beams, n_best=beams, early_stopping=False)
    assert watched.places[:4] == [3 * beams] * 3 + [6 * beams]
    assert max(watched.places) > 6 * beams
    for one, other in zip(whole, grown, strict=True):
        assert [best.text for best in one.n_best] == [best.text for best in other.n_best]
        for best, same in zip(one.n_best, other.n_best, strict=True):
            np.testing.assert_allclose(best.token_log_probs, same.token_log_probs, atol=1e-4)


def test_state_memory_is_reused_by_the_next_batch(engine: Engine, pairs: Any) -> None:
    """A smaller batch reuses the memory of a larger batch; the old contents do not change its results."""
    first = engine.caption(pairs[:2], beams=2)
    engine.caption(pairs, beams=5)
    free: list[HostState] = engine.backend._states._free[DECODER]  # type: ignore[attr-defined]
    assert len(free) == 1
    memory = free[0].now["self_keys_0"].__array_interface__["data"][0]
    again = engine.caption(pairs[:2], beams=2)
    assert free[0].now["self_keys_0"].__array_interface__["data"][0] == memory
    assert again == first


def test_state_selects_rows() -> None:
    state = HostState(STATE)
    state.begin({"B": 3, "K": 2, "P": 2}, {"scores": np.arange(6, dtype=np.float32).reshape(3, 2)})
    assert np.shares_memory(state.now["self_keys_0"], state.next["self_keys_0"])
    assert not np.shares_memory(state.now["scores"], state.next["scores"])
    state.now["self_keys_0"][...] = np.arange(36).reshape(3, 2, 2, 3)
    state.next["scores"][...] = [[10, 11], [12, 13], [14, 15]]
    state.swap()
    state.select_rows(np.array([0, 2]), {"P": 4})
    assert state.axes == {"B": 2, "K": 2, "P": 4}
    np.testing.assert_array_equal(state.now["scores"], [[10, 11], [14, 15]])
    expected = np.arange(36).reshape(3, 2, 2, 3)[[0, 2]]
    np.testing.assert_array_equal(state.now["self_keys_0"][:, :, :2], expected)
    assert not state.now["self_keys_0"][:, :, 2:].any()
    assert state.next["scores"].shape == (2, 2)


def test_timings_cover_the_steps(engine: Engine, pairs: Any) -> None:
    captions = engine.caption(pairs, beams=2, batch_size=8)
    batches = {id(caption.timings): caption.timings for caption in captions}
    assert [timings.pairs for timings in batches.values()] == [8, 4]
    for timings in batches.values():
        spent = timings.to_dict()
        assert all(seconds > 0 for seconds in spent.values())
    longest = max(len(caption.token_log_probs) for caption in captions[:8])
    assert captions[0].timings.decoder_steps >= longest
    total = sum(vars(captions[0].timings).values())
    captions[0].timings.add(captions[8].timings)
    assert sum(vars(captions[0].timings).values()) == pytest.approx(total + sum(vars(captions[8].timings).values()))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("parents", 10**9, r"parents of 1000000000, not 0 to 2"),
        ("parents", 3, "parents of 3, not 0 to 2"),
        ("parents", -1, "parents of -1, not 0 to 2"),
        ("tokens", 999_999, r"tokens of 999999, not 0 to \d+"),
        ("tokens", -1, r"tokens of -1, not 0 to \d+"),
        ("finished_lengths", 10**9, r"finished_lengths of 1000000000, not 1 to \d+"),
        ("finished_lengths", 0, r"finished_lengths of 0, not 1 to \d+"),
        ("finished_tokens", -5, r"tokens of -5, not 0 to \d+"),
        ("finished_parents", 3, "parents of 3, not 0 to 2"),
        ("unfinished", -1, r"unfinished of -1, not 0 to 12"),
        ("unfinished", 13, r"unfinished of 13, not 0 to 12"),
    ],
)
def test_results_out_of_range_are_an_error(
    engine: Engine, pairs: list[Any], monkeypatch: pytest.MonkeyPatch, name: str, value: int, message: str
) -> None:
    """A damaged graph may return such results; the next step must not read them."""
    begin = engine.backend.loop

    def loop(*arguments: Any) -> Loop:
        begun = begin(*arguments)
        read = begun.read
        monkeypatch.setattr(begun, "read", lambda each: np.full_like(read(each), value) if each == name else read(each))
        return begun

    monkeypatch.setattr(engine.backend, "loop", loop)
    with pytest.raises(rsicrc.BackendError, match=f"the decoder returned {message}: its graph is damaged"):
        engine.caption(pairs, beams=3)


def test_pairs_that_never_finish_are_an_error(
    engine: Engine, pairs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = engine.backend.loop

    def loop(*arguments: Any) -> Loop:
        begun = begin(*arguments)
        read = begun.read
        monkeypatch.setattr(begun, "read", lambda each: np.array(PAIRS) if each == "unfinished" else read(each))
        return begun

    monkeypatch.setattr(engine.backend, "loop", loop)
    with pytest.raises(rsicrc.BackendError, match="finished_lengths of 0, not 1 to"):
        engine.caption(pairs, beams=3)

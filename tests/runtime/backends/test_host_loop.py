"""State of loops in host memory, and its reuse."""

from __future__ import annotations

import numpy as np

from rsicrc.backends.host_loop import HostStatePool
from rsicrc.manifest import GraphSpec, TensorSpec

GRAPH = GraphSpec(
    "decoder.onnx", {"scores": TensorSpec("float32", ("B",))}, {"next_scores": TensorSpec("float32", ("B",))}
)


def test_released_state_is_reused_once() -> None:
    pool = HostStatePool()
    first = pool.lease("decoder", GRAPH, {"B": 2}, {"scores": np.array([1, 2], np.float32)})
    other = pool.lease("decoder", GRAPH, {"B": 2}, {})
    assert other.state is not first.state
    first.release()
    first.release()
    again = pool.lease("decoder", GRAPH, {"B": 2}, {"scores": np.array([3, 4], np.float32)})
    assert again.state is first.state
    assert again.state.now["scores"].tolist() == [3, 4]
    assert pool.lease("decoder", GRAPH, {"B": 2}, {}).state is not first.state

"""A fork after the use of an engine: an error with OpenVINO instead of an endless wait, and no change with others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# The parent may use an engine; the child uses this engine or its own one. The child ends normally, so that all of its
# objects are destroyed.
CODE = """
import multiprocessing, sys
import rsicrc

folder, backend, parent, child = sys.argv[1:]

def use(engine):
    if child == "nothing":
        return
    if child == "own":
        engine = rsicrc.load(folder, backend=backend, threads=2)
    try:
        print(engine.embed_texts(["the road"]).shape[0], flush=True)
    except rsicrc.BackendError as error:
        print(error, flush=True)
    if child == "closes":
        engine.close()

engine = rsicrc.load(folder, backend=backend, threads=2)
if parent == "uses":
    engine.embed_texts(["the road"])
if sys.platform == "linux" and child == "exits":
    import os
    child_id = os.fork()
    if child_id:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child_id, 0)[1]))
    use(engine)
    sys.exit(0)
process = multiprocessing.get_context("fork").Process(target=use, args=(engine,))
process.start()
process.join()
sys.exit(process.exitcode)
"""
REFUSED = (
    "OpenVINO was used before this process was forked, and does not work after a fork: load the model in the child "
    "before any use in the parent, start processes with the method 'spawn', or choose the backend onnxruntime"
)


def fork(folder: Path, backend: str, parent: str, child: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder, backend, parent, child], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize("child", ["inherited", "own", "closes", "exits"])
def test_fork_after_use_is_refused_by_openvino(model_folder: Path, child: str) -> None:
    pytest.importorskip("openvino", reason="needs rsicrc[openvino]")
    assert fork(model_folder, "openvino", "uses", child) == REFUSED


@pytest.mark.parametrize("child", ["inherited", "own"])
def test_fork_before_use_works_with_openvino(model_folder: Path, child: str) -> None:
    pytest.importorskip("openvino", reason="needs rsicrc[openvino]")
    assert fork(model_folder, "openvino", "loads", child) == "1"


@pytest.mark.parametrize("child", ["inherited", "own"])
def test_fork_after_use_works_with_onnxruntime(model_folder: Path, child: str) -> None:
    assert fork(model_folder, "onnxruntime", "uses", child) == "1"

"""Programs open no connection, start no process that reports their use, and write nothing into the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Events of the interpreter; `find_library` of ctypes starts programs of the system that list libraries.
CODE = """
import os, sys, time
home, events = os.environ["HOME"], []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "os.fork", "os.system"):
        events.append((event, str(arguments)))
    elif event in ("subprocess.Popen", "os.posix_spawn"):
        if os.path.basename(str(arguments[0])) not in ("ldconfig", "gcc", "cc", "ld", "lscpu", "uname"):
            events.append((event, str(arguments)))
    elif event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(home):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            events.append((event, arguments[0]))

sys.addaudithook(watch)
"""


def watched(code: str, tmp_path: Path, *arguments: str | Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    variables = {name: value for name, value in os.environ.items() if name not in ("CI", "NNCF_CI", "XDG_CACHE_HOME")}
    end = "\ntime.sleep(1)  # reports are sent by threads\nprint(events)\n"
    done = subprocess.run(
        [sys.executable, "-c", CODE + code + end, *arguments],
        env={**variables, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stdout + done.stderr
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_run_reports_nothing(model_folder: Path, tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    code = f"""
import rsicrc, rsicrc.cli.main
rsicrc.load(sys.argv[1], "cpu", backend={backend!r}, threads=1).embed_texts(["the road"])
"""
    watched(code, tmp_path, model_folder)


def test_training_reports_nothing(tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="needs rsicrc[train]")
    watched("import rsicrc_train.cli, rsicrc_train.model, rsicrc_train.data", tmp_path)


def test_quantization_reports_nothing(model_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs rsicrc[quantize]")
    code = """
from pathlib import Path
import numpy as np
from rsicrc.manifest import Manifest
from rsicrc_export.quantize import quantize_activations
folder, target = map(Path, sys.argv[1:])
size = Manifest.load(folder).preprocessing.size
images = np.random.default_rng(0).integers(0, 256, (2, 2, size, size, 3), dtype=np.uint8)
quantize_activations(folder / "image_encoder.onnx", target, images)
"""
    watched(code, tmp_path, model_folder, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size > 0

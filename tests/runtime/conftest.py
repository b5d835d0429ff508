"""What the tests of the commands share: pictures on disk, a damaged model, and the command in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsicrc
from rsicrc.cli.console import run_command
from rsicrc.cli.main import app


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def rsicrc_run(capsys: pytest.CaptureFixture[str]) -> Command:
    """`rsicrc-run` with these arguments, in this process."""

    def run(*args: str | Path) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run_command(app, "rsicrc-run", [str(arg) for arg in args])
        assert isinstance(caught.value.code, int)
        return Ended(caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def auto_line(model_folder: Path) -> str:
    """Return the line on stderr about the automatic choice of device, backend and threads."""
    backend = rsicrc.load(model_folder).backend
    threads = f"{backend.threads} thread{'' if backend.threads == 1 else 's'}"
    return f"rsicrc: {backend.name} on {backend.device}, fp32, {threads}\n"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five pairs, `1a.png` and `1b.png` to `5a.png` and `5b.png`, unlike each other."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(1, 6):
        for date in "ab":
            coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((120, 120), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number}{date}.png")
    return folder


@pytest.fixture
def model_copy(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to be changed."""
    return shutil.copytree(model_folder, tmp_path / "model-copy")


@pytest.fixture
def damaged_folder(model_copy: Path) -> Path:
    """A model folder in which one byte of one graph is another."""
    graph = model_copy / "decoder.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    return model_copy

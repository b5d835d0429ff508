"""Tests of writing and reading checkpoints, and of refusing other files."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsicrc.errors import CheckpointError
from rsicrc_train import checkpoint as checkpoints
from tests.models import random_checkpoint


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    written = random_checkpoint(0)
    checkpoints.save(written, tmp_path / "ckpt.pt")
    read = checkpoints.load(tmp_path / "ckpt.pt")
    assert read.config.to_dict() == written.config.to_dict()
    assert read.vocabulary == written.vocabulary
    assert read.no_change_sentences == written.no_change_sentences
    assert read.state_dict.keys() == written.state_dict.keys()
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in written.state_dict.items())
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]


class Exploit:
    """Object whose pickle calls a function that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "ckpt.pt", tmp_path / "ran"
    torch.save({"format": checkpoints.FORMAT, "state_dict": Exploit(trace)}, path)
    with pytest.raises(CheckpointError, match="holds code, which is never run"):
        checkpoints.load(path)
    path.write_bytes(pickle.dumps(Exploit(trace)))
    with pytest.raises(CheckpointError):
        checkpoints.load(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ckpt\.pt is (not a PyTorch file|damaged or incomplete)"):
        checkpoints.load(path)


def test_missing_truncated_foreign_and_future_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoints.load(path)
    checkpoints.save(random_checkpoint(0), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError):
        checkpoints.load(path)
    torch.save(random_checkpoint(0).state_dict, path)
    with pytest.raises(CheckpointError, match="--config and --vocab"):
        checkpoints.load(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        checkpoints.load(path)
    torch.save({"format": checkpoints.FORMAT, "format_version": 2}, path)
    with pytest.raises(CheckpointError, match="upgrade"):
        checkpoints.load(path)
    torch.save({"format": checkpoints.FORMAT, "format_version": 1}, path)
    with pytest.raises(CheckpointError, match="incomplete"):
        checkpoints.load(path)


def test_tensors_that_do_not_fit_are_all_named() -> None:
    good = random_checkpoint(0)
    tensors = dict(good.state_dict)
    tensors["other"] = tensors.pop("encoder.merge.bias")
    tensors["encoder.pool.query"] = torch.zeros(2, 3)
    with pytest.raises(CheckpointError, match=r"missing encoder\.merge\.bias.*unknown other.*pool\.query is \(2, 3\)"):
        replace(good, state_dict=tensors).build_model()


def test_full_disk_keeps_the_existing_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    checkpoints.save(random_checkpoint(0), path)
    before = path.read_bytes()
    # A process cannot raise its limit of file sizes again, so it is set in a separate process.
    script = """
import resource, signal, sys
from pathlib import Path
from rsicrc_train import checkpoint
from tests.models import random_checkpoint
other = random_checkpoint(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(other, Path(sys.argv[1]))
except OSError:
    sys.exit(3)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=root)
    assert done.returncode == 3
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["ckpt.pt"]

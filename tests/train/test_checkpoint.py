"""Tests of writing and reading checkpoints, and of refusing other files."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rsicrc.errors import CheckpointError
from rsicrc.text.vocabulary import SPECIAL_WORDS
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.state_dicts import read_weights
from tests.models import SMALL, random_checkpoint


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
    torch.save({"format": checkpoints.FORMAT, "training": Exploit(trace)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="holds code, which is never run"):
        checkpoints.load(path)
    path.write_bytes(pickle.dumps(Exploit(trace)))
    with pytest.raises(CheckpointError, match="holds code, which is never run"):
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


def change(path: Path, **fields: Any) -> Path:
    """Write a sound checkpoint with some fields replaced."""
    checkpoints.save(random_checkpoint(0), path)
    torch.save({**torch.load(path, weights_only=True), **fields}, path)
    return path


def with_tensor(make: Callable[[torch.Tensor], Any], name: str = "decoder.embedding.weight") -> dict[str, Any]:
    state = dict(random_checkpoint(0).state_dict)
    return {**state, name: make(state[name])}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: torch.full_like(t, torch.nan), "has NaN or infinite values"),
        (lambda t: t.index_fill(0, torch.tensor([7]), torch.inf), "has NaN or infinite values"),
        (lambda t: t.half().fill_(-torch.inf), "has NaN or infinite values"),
        (lambda t: t.double() + 1e300, "has NaN or infinite values"),
        (lambda t: t.to(torch.complex64), "holds complex64, not floating-point numbers"),
        (lambda t: t.to(torch.int8), "holds int8, not floating-point numbers"),
        (lambda t: t > 0, "holds bool, not floating-point numbers"),
        (lambda t: t.to(torch.float8_e4m3fn), "holds float8_e4m3fn, not floating-point numbers"),
        (lambda t: t.to_sparse(), "is sparse or nested"),
        (lambda t: t.to("meta"), "is on the device 'meta' and has no data"),
        (lambda t: torch.zeros(1).expand(t.shape), r"claims the shape \(40, 64\)"),
        (lambda t: torch.zeros(1).expand(1 << 40), r"claims the shape \(1099511627776,\)"),
        (lambda t: t[:, :3], r"is \(40, 3\), not \(40, 64\)"),
        (lambda t: t.tolist(), "is not a tensor"),
        (lambda t: "text", "is not a tensor"),
        (lambda t: None, "is not a tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_tensors_are_refused_by_name(make: Callable[[torch.Tensor], Any], message: str, tmp_path: Path) -> None:
    path = change(tmp_path / "ckpt.pt", state_dict=with_tensor(make))
    with pytest.raises(CheckpointError, match=rf"ckpt\.pt.*decoder\.embedding\.weight {message}"):
        checkpoints.load(path)


def test_negative_variance_is_refused(tmp_path: Path) -> None:
    name = "encoder.trunk.visual.bn1.running_var"
    path = change(tmp_path / "ckpt.pt", state_dict=with_tensor(torch.neg, name))
    with pytest.raises(CheckpointError, match=rf"{name} has negative values"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"no_change_sentences": "nothing has changed"}, "no_change_sentences must be a list of texts, not 'nothing"),
        ({"no_change_sentences": ["a", 1]}, "no_change_sentences must be a list of texts .* holds 1"),
        ({"no_change_sentences": ["a\x1b[2J"]}, r"no_change_sentences .* holds 'a\\x1b\[2J'"),
        ({"no_change_sentences": None}, "no_change_sentences must be a list of texts, not None"),
        ({"vocabulary": "PAD"}, "vocabulary must be a list of texts, not 'PAD'"),
        ({"vocabulary": list(range(40))}, "vocabulary must be a list of texts .* holds 0"),
        ({"vocabulary": [*SPECIAL_WORDS, "a", "b", "a"]}, "vocabulary holds 'a' twice"),
        ({"vocabulary": ["a", "b", "c", "d"]}, "vocabulary begins with a, b, c, d, not with PAD"),
        ({"vocabulary": [*SPECIAL_WORDS, "a\nb"]}, r"vocabulary .* holds 'a\\nb'"),
        ({"vocabulary": list(SPECIAL_WORDS)}, r"decoder.embedding.weight is \(40, 64\), not \(4, 64\)"),
        ({"config": None}, "config must be a dict, not None"),
        ({"config": {**SMALL.to_dict(), "d_model": 2_000_000}}, "d_model must be a whole number from 2 to 16384"),
        (
            {"config": {**SMALL.to_dict(), "encoder_layers": 10**7}},
            "encoder_layers must be a whole number from 0 to 64",
        ),
        ({"config": {**SMALL.to_dict(), "d_model": 16384, "h_dim": 65536, "encoder_layers": 64}}, "billion parameters"),
        ({"state_dict": [1, 2]}, "state_dict must be a dict, not a list"),
        ({"training": 5}, "training must be a dict, not 5"),
        ({"progress": "x"}, "progress must be a dict, not 'x'"),
        ({"format_version": "1"}, "has format version '1'"),
        ({"format_version": True}, "has format version True"),
        ({"format_version": 2**70}, "has format version a number of 71 bits"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(change(tmp_path / "ckpt.pt", **fields))
    assert "ckpt.pt" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "_orig_mod.module.", "module.model._orig_mod.", "model.model."]
)
@pytest.mark.parametrize("keys", [(), ("model",), ("model_state_dict",), ("state_dict", "model"), ("module",)])
def test_prefixes_and_nested_dicts_load(prefix: str, keys: tuple[str, ...], tmp_path: Path) -> None:
    good = random_checkpoint(0)
    nested: dict[str, Any] = {prefix + name: tensor for name, tensor in good.state_dict.items()}
    for key in keys:
        nested = {key: nested, "epoch": 3}
    found = checkpoints.load(change(tmp_path / "ckpt.pt", state_dict=nested))
    assert found.state_dict.keys() == good.state_dict.keys()
    assert all(torch.equal(found.state_dict[name], tensor) for name, tensor in good.state_dict.items())
    weights = tmp_path / "weights.pt"
    torch.save(nested, weights)
    assert read_weights(weights).keys() == good.state_dict.keys()
    torch.save({"model": torch.load(tmp_path / "ckpt.pt")}, weights)  # the whole checkpoint is nested
    assert checkpoints.load(weights).vocabulary == good.vocabulary


def test_prefixes_inside_of_names_load(tmp_path: Path) -> None:
    good = random_checkpoint(0).state_dict
    wrapped = {
        name.replace("encoder.trunk.", "encoder._orig_mod.trunk.module.").replace("unimodal.", "unimodal._orig_mod."): t
        for name, t in good.items()
    }
    assert wrapped.keys() != good.keys()
    assert checkpoints.load(change(tmp_path / "ckpt.pt", state_dict=wrapped)).state_dict.keys() == good.keys()


def test_one_name_with_and_without_prefix_is_refused(tmp_path: Path) -> None:
    good = random_checkpoint(0).state_dict
    both = {**good, "module.encoder.merge.bias": torch.zeros(64)}
    with pytest.raises(CheckpointError, match=r"holds encoder\.merge\.bias twice"):
        checkpoints.load(change(tmp_path / "ckpt.pt", state_dict=both))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("new", [True, False])
def test_other_float_types_become_float32(dtype: torch.dtype, new: bool, tmp_path: Path) -> None:
    good, path = random_checkpoint(0), change(tmp_path / "ckpt.pt")
    state = {name: tensor.to(dtype) for name, tensor in good.state_dict.items()}  # the counters, too
    torch.save({**torch.load(path), "state_dict": state}, path, _use_new_zipfile_serialization=new)
    found = checkpoints.load(path)
    assert {tensor.dtype for tensor in found.state_dict.values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(found.state_dict, good.state_dict, rtol=1e-2, atol=1e-2)
    assert torch.equal(found.build_model().state_dict()["encoder.merge.bias"], found.state_dict["encoder.merge.bias"])


def test_error_lists_five_names_and_a_number(tmp_path: Path) -> None:
    good = random_checkpoint(0).state_dict
    renamed = {f"net.{name}": tensor for name, tensor in good.items()}
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(change(tmp_path / "ckpt.pt", state_dict=renamed))
    message = str(caught.value)
    assert message.count(f" and {len(good) - 5} more") == 2
    assert message.count("net.") == 5
    assert len(message) < 1000


def test_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    path = change(tmp_path / "ckpt.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged or incomplete \(Bad CRC-32"):
        checkpoints.load(path)


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    path = change(tmp_path / "ckpt.pt")
    found = checkpoints.load(path)
    path.write_bytes(b"\0")
    assert all(torch.equal(found.state_dict[name], t) for name, t in random_checkpoint(0).state_dict.items())


@pytest.mark.parametrize("kind", ["folder", "fifo", "unreadable"])
def test_paths_that_are_no_files_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ckpt.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.touch()

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"ckpt\.pt"):
        checkpoints.load(path)


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

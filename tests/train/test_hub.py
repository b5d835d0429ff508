"""Tests of references to the Hugging Face hub, with a local cache."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from rsicrc.errors import CheckpointError
from rsicrc_train.hub import download, is_reference, parse
from rsicrc_train.model import RSICRC
from rsicrc_train.pretrained import initialize_trunk
from tests.hub_cache import add_repository, use_offline
from tests.models import SMALL


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_offline(tmp_path / "hub", monkeypatch)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("hf:owner/repo", ("owner/repo", None, None)),
        ("hf:owner/repo/file.pt", ("owner/repo", "file.pt", None)),
        ("hf:owner/repo/a/b/file.pt", ("owner/repo", "a/b/file.pt", None)),
        ("hf:owner/repo@v1.0", ("owner/repo", None, "v1.0")),
        ("hf:owner/repo@0123abc/a/file.pt", ("owner/repo", "a/file.pt", "0123abc")),
        ("hf:owner/repo@refs/pr/3/file.pt", ("owner/repo", "file.pt", "refs/pr/3")),
        ("hf:owner/repo/file@2.pt", ("owner/repo", "file@2.pt", None)),
    ],
)
def test_reference_is_split_into_its_parts(reference: str, parts: tuple[str, str | None, str | None]) -> None:
    assert is_reference(reference)
    assert parse(reference) == parts


@pytest.mark.parametrize(
    "reference",
    [
        "hf:", "hf:owner", "hf:owner/", "hf:/repo", "hf:owner/repo/", "owner/repo", "hf:owner/repo@",
        "hf:owner/repo@/f", "hf:owner/repo@../x", "hf:owner/repo//f", "hf:owner/repo/../../f", "hf:owner/repo/./f",
        "hf:owner/repo/a\0b", "hf:owner/repo/a\nb", "hf:owner/repo/\ud800", "hf:owner/repo/a\\b", "hf:owner@v1/repo",
        "hf:owner/repo@a b",
    ],
)  # fmt: skip
def test_malformed_references_are_refused(reference: str) -> None:
    with pytest.raises(CheckpointError, match="write hf:owner/repo"):
        parse(reference)


def test_path_is_no_reference() -> None:
    assert not is_reference("runs/hf/best.pt")


def test_download_returns_the_cached_file(cache: Path) -> None:
    add_repository(cache, "owner/repo", {"sub/file.bin": b"content"})
    assert download("hf:owner/repo/sub/file.bin").read_bytes() == b"content"


@pytest.mark.parametrize("reference", ["hf:owner/repo/other.bin", "hf:other/repo/file.bin"])
def test_file_missing_in_the_offline_cache_is_refused(reference: str, cache: Path) -> None:
    add_repository(cache, "owner/repo", {"file.bin": b"content"})
    with pytest.raises(CheckpointError, match="in the hub's cache, and HF_HUB_OFFLINE forbids"):
        download(reference)


def test_revision_selects_a_commit(cache: Path) -> None:
    add_repository(cache, "owner/repo", {"file.bin": b"new"})
    add_repository(cache, "owner/repo", {"file.bin": b"old"}, commit="f" * 40, ref="v1.0")
    assert download("hf:owner/repo/file.bin").read_bytes() == b"new"
    assert download("hf:owner/repo@v1.0/file.bin").read_bytes() == b"old"
    assert download(f"hf:owner/repo@{'f' * 40}/file.bin").read_bytes() == b"old"
    with pytest.raises(CheckpointError, match=r"owner/repo@v2 has no file file\.bin in the hub's cache"):
        download("hf:owner/repo@v2/file.bin")


@pytest.mark.parametrize("error", [OSError("disk"), ValueError("bad"), RuntimeError("a\nb"), KeyError("x")])
def test_any_error_of_a_download_is_a_checkpoint_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"file\.bin of owner/repo could not be downloaded: ") as caught:
        download("hf:owner/repo/file.bin")
    assert "\n" not in str(caught.value)


def test_repository_without_a_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match="add the name of a file in it, as in hf:owner/repo/FILE"):
        download("hf:owner/repo")


def test_invalid_repository_name_is_refused(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be the name of a hub repository"):
        download("hf:owner/re po/file.pt")


def test_trunk_is_loaded_from_the_hub(cache: Path) -> None:
    expected = RSICRC(SMALL, 10).encoder.trunk.visual.state_dict()
    buffer = io.BytesIO()
    torch.save(expected, buffer)
    add_repository(cache, "someone/RemoteCLIP", {"RemoteCLIP-RN50.pt": buffer.getvalue()})
    model = RSICRC(SMALL, 10)
    initialize_trunk(model, "hf:someone/RemoteCLIP/RemoteCLIP-RN50.pt")
    for name, tensor in model.encoder.trunk.visual.state_dict().items():
        assert torch.equal(tensor, expected[name]), name

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
        ("hf:owner/repo", ("owner/repo", None)),
        ("hf:owner/repo/file.pt", ("owner/repo", "file.pt")),
        ("hf:owner/repo/a/b/file.pt", ("owner/repo", "a/b/file.pt")),
    ],
)
def test_reference_is_split_into_repository_and_file(reference: str, parts: tuple[str, str | None]) -> None:
    assert is_reference(reference)
    assert parse(reference) == parts


@pytest.mark.parametrize("reference", ["hf:", "hf:owner", "hf:owner/", "hf:/repo", "hf:owner/repo/", "owner/repo"])
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

"""References to the Hugging Face hub, over a local cache."""

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
def test_parse(reference: str, parts: tuple[str, str | None]) -> None:
    assert is_reference(reference)
    assert parse(reference) == parts


@pytest.mark.parametrize("reference", ["hf:", "hf:owner", "hf:owner/", "hf:/repo", "hf:owner/repo/", "owner/repo"])
def test_malformed_references_are_refused(reference: str) -> None:
    with pytest.raises(CheckpointError, match="write hf:owner/repo"):
        parse(reference)


def test_a_path_is_no_reference() -> None:
    assert not is_reference("runs/hf/best.pt")


def test_download_from_the_cache(cache: Path) -> None:
    add_repository(cache, "owner/repo", {"sub/file.bin": b"content"})
    assert download("hf:owner/repo/sub/file.bin").read_bytes() == b"content"


@pytest.mark.parametrize("reference", ["hf:owner/repo/other.bin", "hf:stranger/repo/file.bin"])
def test_what_the_cache_lacks_offline(reference: str, cache: Path) -> None:
    add_repository(cache, "owner/repo", {"file.bin": b"content"})
    with pytest.raises(CheckpointError, match="in the hub's cache, and HF_HUB_OFFLINE forbids"):
        download(reference)


def test_a_repository_is_no_file() -> None:
    with pytest.raises(CheckpointError, match="name a file in it, as hf:owner/repo/FILE"):
        download("hf:owner/repo")


def test_an_impossible_name_is_said(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be the name of a hub repository"):
        download("hf:owner/re po/file.pt")


def test_trunk_from_the_hub(cache: Path) -> None:
    theirs = RSICRC(SMALL, 10).encoder.trunk.visual.state_dict()
    buffer = io.BytesIO()
    torch.save(theirs, buffer)
    add_repository(cache, "someone/RemoteCLIP", {"RemoteCLIP-RN50.pt": buffer.getvalue()})
    model = RSICRC(SMALL, 10)
    initialize_trunk(model, "hf:someone/RemoteCLIP/RemoteCLIP-RN50.pt")
    for name, tensor in model.encoder.trunk.visual.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name

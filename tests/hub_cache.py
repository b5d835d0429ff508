"""Local cache of the Hugging Face hub in the layout of huggingface_hub, for tests without a network."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"


def use_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restrict huggingface_hub to `cache`, as HF_HUB_CACHE and HF_HUB_OFFLINE=1 do before its import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def add_repository(
    cache: Path, repository: str, files: dict[str, bytes], *, commit: str = REVISION, ref: str = "main"
) -> None:
    """Add a commit of a model repository to the cache: blobs by content, a snapshot of links to them, and its ref."""
    root = cache / f"models--{repository.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (root / "refs" / ref).write_text(commit)
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = root / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))

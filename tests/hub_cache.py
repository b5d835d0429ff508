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


def add_repository(cache: Path, repository: str, files: dict[str, bytes]) -> None:
    """Add a model repository to the cache: blobs by content, a snapshot of links to the blobs, and the ref `main`."""
    root = cache / f"models--{repository.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{REVISION}"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(REVISION)
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = root / "snapshots" / REVISION / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))

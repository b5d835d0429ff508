"""Checkpoints referenced as `hf:owner/repo[/file]`, with a local cache of the hub."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rsicrc.errors import CheckpointError
from rsicrc_export.hub import HubCheckpoint, resolve
from tests.export.command import run_export
from tests.fuzz.mutation import mutate_bytes
from tests.hub_cache import REVISION, add_repository, use_offline

if TYPE_CHECKING:
    from rsicrc_export.source import Source
    from rsicrc_train.checkpoint import Checkpoint
    from tests.published import PublishedFiles

NATIVE = {"ckpt.pt": b"ours", "config.json": b"of something else"}
PUBLISHED = {"model_best.pt": b"weights", "config.json": b"config", "levir_vocab.json": b"vocabulary"}
HUB = {"pytorch_model.bin": b"weights", "config.json": b"config", "levir_vocab.json": b"vocabulary", "README.md": b""}
# Keys that the hub's libraries add to a config.json.
HUB_KEYS = {
    "architectures": ["RSICRC"],
    "model_type": "rsicrc",
    "torch_dtype": "float32",
    "dtype": "float32",
    "transformers_version": "4.41.2",
    "_name_or_path": "x",
    "auto_map": {"AutoModel": "modeling.RSICRC"},
    "id2label": {"0": "LABEL_0"},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_offline(tmp_path / "hub", monkeypatch)
    return tmp_path / "hub"


def contents(found: HubCheckpoint) -> tuple[bytes | None, ...]:
    return tuple(path.read_bytes() if path else None for path in (found.weights, found.config, found.vocab))


@pytest.mark.parametrize(
    ("files", "reference", "expected"),
    [
        (NATIVE, "hf:owner/repo", (b"ours", None, None)),
        ({**PUBLISHED, **NATIVE}, "hf:owner/repo", (b"ours", None, None)),
        ({**PUBLISHED, **NATIVE}, "hf:owner/repo/ckpt.pt", (b"ours", None, None)),
        (PUBLISHED, "hf:owner/repo", (b"weights", b"config", b"vocabulary")),
        (PUBLISHED, "hf:owner/repo/model_best.pt", (b"weights", b"config", b"vocabulary")),
        ({"model_best.safetensors": b"safe", **PUBLISHED}, "hf:owner/repo", (b"weights", b"config", b"vocabulary")),
        ({f"rn50/{name}": data for name, data in PUBLISHED.items()}, "hf:owner/repo/rn50/model_best.pt",
         (b"weights", b"config", b"vocabulary")),
        (HUB, "hf:owner/repo", (b"weights", b"config", b"vocabulary")),
        (HUB, "hf:owner/repo@main", (b"weights", b"config", b"vocabulary")),
        (HUB, f"hf:owner/repo@{REVISION}/pytorch_model.bin", (b"weights", b"config", b"vocabulary")),
        ({**HUB, "model.safetensors": b"safe"}, "hf:owner/repo", (b"safe", b"config", b"vocabulary")),
        ({"runs/best.pt": b"ours"}, "hf:owner/repo/runs/best.pt", (b"ours", None, None)),
    ],
)  # fmt: skip
def test_reference_resolves_to_the_files_of_a_checkpoint(
    files: dict[str, bytes], reference: str, expected: tuple[bytes | None, ...], cache: Path
) -> None:
    add_repository(cache, "owner/repo", files)
    found = resolve(reference)
    assert contents(found) == expected
    assert REVISION in str(found.weights)


def test_reference_resolves_to_published_safetensors(cache: Path) -> None:
    files = {("model_best.safetensors" if name == "model_best.pt" else name): data for name, data in PUBLISHED.items()}
    add_repository(cache, "owner/repo", files)
    assert contents(resolve("hf:owner/repo")) == (b"weights", b"config", b"vocabulary")


def test_repository_without_a_checkpoint_is_refused(cache: Path) -> None:
    add_repository(cache, "owner/repo", {"README.md": b""})
    with pytest.raises(CheckpointError, match=r"owner/repo has neither ckpt.pt nor model_best.pt .* HF_HUB_OFFLINE"):
        resolve("hf:owner/repo")


def test_published_layout_without_config_is_refused(cache: Path) -> None:
    add_repository(cache, "owner/repo", {"model_best.pt": b"weights", "levir_vocab.json": b"vocabulary"})
    with pytest.raises(CheckpointError, match=r"has levir_vocab.json but no config.json next to model_best.pt"):
        resolve("hf:owner/repo")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, PublishedFiles]:
    """Return a checkpoint with the trunk RN50, and the same in the published layout."""
    from tests.models import SMALL, random_checkpoint
    from tests.published import published_files

    ours = random_checkpoint(0, replace(SMALL, backbone="RN50", trunk=None))
    return ours, published_files(ours, tmp_path_factory.mktemp("published") / "files")


@pytest.mark.parametrize("name", ["model_best.pt", "pytorch_model.bin", "model.safetensors"])
def test_command_reads_the_published_layout_from_the_hub(
    name: str,
    published: tuple[Checkpoint, PublishedFiles],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The export itself is replaced, because the trunk is too large for a fast test."""
    import torch
    from safetensors.torch import save_file

    from rsicrc_export import model_folder

    ours, files = published
    weights = tmp_path / name
    if name == "model.safetensors":
        save_file({key: tensor.clone() for key, tensor in torch.load(files.weights).items()}, weights)
    else:
        weights.write_bytes(files.weights.read_bytes())
    content = {path.name: path.read_bytes() for path in (weights, files.config, files.vocab)}
    content["config.json"] = json.dumps({**HUB_KEYS, **json.loads(content["config.json"])}).encode()
    add_repository(cache, "RogerFerrod/RSICRC", content, ref="v1")
    exported: list[Source] = []

    def export(source: Source, output: Path, **_: Any) -> None:
        exported.append(source)

    monkeypatch.setattr(model_folder, "export_checkpoint", export)
    assert run_export("hf:RogerFerrod/RSICRC@v1", "-o", tmp_path / "model") == 0
    assert run_export("hf:RogerFerrod/RSICRC@v2", "-o", tmp_path / "model") == 1
    assert exported[0].checkpoint.config == ours.config
    assert exported[0].checkpoint.vocabulary == ours.vocabulary
    assert all(torch.equal(exported[0].checkpoint.state_dict[key], value) for key, value in ours.state_dict.items())
    assert exported[0].sha256 == hashlib.sha256(content[name]).hexdigest()


def test_changed_references_and_caches(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_repository(cache, "owner/repo", {**PUBLISHED, "sub/ckpt.pt": b"ours"})
    good = ("hf:owner/repo", "hf:owner/repo@main", "hf:owner/repo/sub/ckpt.pt")
    outcomes = Counter(_outcome(_changed_reference(random.Random(number), good)) for number in range(300))
    assert outcomes["refused"] > 200
    assert outcomes["found"] > 0
    for number in range(60):
        rng = random.Random(number)
        damaged = tmp_path / str(number)
        shutil.copytree(cache, damaged, symlinks=True)
        _damage(rng, rng.choice(sorted(damaged.rglob("*"))))
        use_offline(damaged, monkeypatch)
        outcomes[_outcome(rng.choice(good))] += 1
    assert outcomes["refused"] > 230


def _changed_reference(rng: random.Random, references: Sequence[str]) -> str:
    seeds = [reference.encode() for reference in references]
    return mutate_bytes(rng, rng.choice(seeds), rng.choice(seeds)).decode("utf-8", "surrogateescape")


def _damage(rng: random.Random, path: Path) -> None:
    """Remove a file or folder of a cache, or put something else in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    makers: tuple[Callable[[], object], ...] = (
        path.mkdir,
        lambda: path.write_bytes(rng.randbytes(30)),
        lambda: path.symlink_to(rng.choice(("/dev/zero", "/nowhere", path.name, ".."))),
        lambda: path.write_text("main" * 2000),
        lambda: None,
    )
    rng.choice(makers)()


def _outcome(reference: str) -> str:
    try:
        resolve(reference)
    except CheckpointError as error:
        return "refused" if len(str(error)) < 2000 else "a long message"
    return "found"

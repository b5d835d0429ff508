"""Checkpoints on the Hugging Face hub: download of the files of `hf:owner/repo[@revision][/file]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rsicrc.errors import CheckpointError
from rsicrc_train.hub import HubReference, download, find, is_reference, parse, where_looked

__all__ = ["HubCheckpoint", "is_reference", "resolve"]

NATIVE = "ckpt.pt"
# The names that the published code writes, then those of the hub's libraries, such as in RogerFerrod/RSICRC.
PUBLISHED = ("model_best.pt", "model_best.safetensors", "model.safetensors", "pytorch_model.bin")
CONFIG, VOCABULARY = "config.json", "levir_vocab.json"


@dataclass(frozen=True)
class HubCheckpoint:
    """Local files of a checkpoint.

    Attributes:
        weights: A checkpoint of rsicrc-train, or published weights.
        config: The `config.json` next to published weights; None for a checkpoint of rsicrc-train.
        vocab: The `levir_vocab.json` next to published weights; None for a checkpoint of rsicrc-train.
    """

    weights: Path
    config: Path | None = None
    vocab: Path | None = None


def resolve(reference: str) -> HubCheckpoint:
    """Find a checkpoint on the hub, and download the files that are not cached.

    Args:
        reference: `hf:owner/repo` selects `ckpt.pt`, or else the first file of `PUBLISHED` in the published layout.
            `hf:owner/repo/file` selects that file, in the published layout if a `levir_vocab.json` is in the same
            folder. `hf:owner/repo@revision` and `hf:owner/repo@revision/file` select a branch, a tag or a commit.

    Raises:
        CheckpointError: The reference is malformed, the repository has no checkpoint, or a download fails.
    """
    parsed = parse(reference)
    if parsed.file is not None:
        weights = download(reference)
        return HubCheckpoint(weights) if weights.name == NATIVE else _with_siblings(parsed, parsed.file, weights)
    if (native := _find(parsed, NATIVE)) is not None:
        return HubCheckpoint(native)
    for name in PUBLISHED:
        if (weights_found := _find(parsed, name)) is not None:
            return _with_siblings(parsed, name, weights_found)
    raise CheckpointError(
        f"{parsed.name} has neither {NATIVE} nor {' nor '.join(PUBLISHED)}{where_looked()}: "
        f"name the file, as {reference}/FILE"
    )


def _find(reference: HubReference, file: str) -> Path | None:
    return find(reference.repository, file, reference.revision)


def _with_siblings(reference: HubReference, file: str, weights: Path) -> HubCheckpoint:
    """Return the weights with the other two files of the published layout, if they are in the same folder."""
    folder = PurePosixPath(file).parent
    vocab = _find(reference, str(folder / VOCABULARY))
    if vocab is None:
        return HubCheckpoint(weights)
    config = _find(reference, str(folder / CONFIG))
    if config is None:
        raise CheckpointError(f"{reference.name} has {VOCABULARY} but no {CONFIG} next to {file}{where_looked()}")
    return HubCheckpoint(weights, config, vocab)

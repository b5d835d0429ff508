"""Checkpoints on the Hugging Face hub: `hf:owner/repo[/file]` becomes files on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rsicrc.errors import CheckpointError
from rsicrc_train.hub import download, find, is_reference, parse, where_looked

__all__ = ["HubCheckpoint", "is_reference", "resolve"]

NATIVE = "ckpt.pt"
PUBLISHED = ("model_best.pt", "model_best.safetensors")
CONFIG, VOCABULARY = "config.json", "levir_vocab.json"


@dataclass(frozen=True)
class HubCheckpoint:
    """A checkpoint's files in the hub's cache.

    Attributes:
        weights: a checkpoint of ours, or published weights.
        config: the `config.json` beside published weights; None for a checkpoint of ours.
        vocab: the `levir_vocab.json` beside published weights; None for a checkpoint of ours.
    """

    weights: Path
    config: Path | None = None
    vocab: Path | None = None


def resolve(reference: str) -> HubCheckpoint:
    """Find a checkpoint on the hub, downloading what the cache does not have.

    Args:
        reference: `hf:owner/repo` looks for `ckpt.pt`, then for `model_best.pt` or `model_best.safetensors` in the
            published layout; `hf:owner/repo/file` is that file, in the published layout where a `levir_vocab.json`
            lies in the same folder.

    Raises:
        CheckpointError: the reference is malformed, nothing fitting is there, or it cannot be downloaded.
    """
    repository, file = parse(reference)
    if file is not None:
        weights = download(reference)
        return HubCheckpoint(weights) if weights.name == NATIVE else _with_siblings(repository, file, weights)
    if (native := find(repository, NATIVE)) is not None:
        return HubCheckpoint(native)
    for name in PUBLISHED:
        if (weights_found := find(repository, name)) is not None:
            return _with_siblings(repository, name, weights_found)
    raise CheckpointError(
        f"{repository} has neither {NATIVE} nor {' nor '.join(PUBLISHED)}{where_looked()}: "
        f"name the file, as {reference}/FILE"
    )


def _with_siblings(repository: str, file: str, weights: Path) -> HubCheckpoint:
    """The weights with the published layout's other two files, if they are beside it."""
    folder = PurePosixPath(file).parent
    vocab = find(repository, str(folder / VOCABULARY))
    if vocab is None:
        return HubCheckpoint(weights)
    config = find(repository, str(folder / CONFIG))
    if config is None:
        raise CheckpointError(f"{repository} has {VOCABULARY} but no {CONFIG} beside {file}{where_looked()}")
    return HubCheckpoint(weights, config, vocab)

"""A loaded checkpoint and the SHA-256 of its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rsicrc.manifest import sha256_file
from rsicrc_train import checkpoint
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.published import load_published


@dataclass(frozen=True)
class Source:
    """A checkpoint to export.

    Attributes:
        checkpoint: The loaded checkpoint.
        sha256: The SHA-256 of its weights file, in hexadecimal, for the manifest.
    """

    checkpoint: Checkpoint
    sha256: str

    @classmethod
    def read(cls, weights: Path, config: Path | None = None, vocab: Path | None = None) -> Source:
        """Read a checkpoint of rsicrc-train, or published weights if `config` and `vocab` are given.

        Args:
            weights: The checkpoint, or the published state dict.
            config: The `config.json` of the published weights.
            vocab: The `levir_vocab.json` of the published weights.

        Raises:
            CheckpointError: A file is missing, damaged or of another kind, or the tensors do not fit the model.
        """
        if config is not None and vocab is not None:
            loaded = load_published(weights, config, vocab)
        else:
            loaded = checkpoint.load(weights)
        return cls(loaded, sha256_file(weights))

"""Checkpoints: a dict of plain containers and tensors, read without running code that the file may contain."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsicrc.errors import CheckpointError
from rsicrc_train.config import ModelConfig
from rsicrc_train.model import RSICRC

FORMAT = "rsicrc-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Trained model with all data that is needed to use it or to continue its training.

    Attributes:
        config: Sizes and options of the model.
        vocabulary: Tokens by id; PAD, START, UNK, END first.
        no_change_sentences: Sentences that the training data gives to unchanged pairs.
        state_dict: Tensors of the model by name.
        training: Record of the training (data, steps, scores, time) in plain containers of any form.
        progress: Optimizer, schedule and random states to resume from; empty in a finished checkpoint.
    """

    config: ModelConfig
    vocabulary: tuple[str, ...]
    no_change_sentences: tuple[str, ...]
    state_dict: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)

    def build_model(self) -> RSICRC:
        """Return the model with these weights, in evaluation mode.

        Raises:
            CheckpointError: Tensors are missing, unknown or wrongly shaped; all are named.
        """
        model = RSICRC(self.config, len(self.vocabulary))
        load_tensors(model, self.state_dict)
        return model.eval()


def load_tensors(model: RSICRC, tensors: dict[str, Tensor]) -> None:
    """Copy `tensors` into the model.

    Raises:
        CheckpointError: Tensors are missing, unknown or wrongly shaped; all are named.
    """
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    if problems:
        raise CheckpointError(f"the tensors do not fit the model config: {'; '.join(problems)}")
    model.load_state_dict(tensors)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; an existing file stays intact until the new one is complete.

    Raises:
        OSError: The file cannot be written; the existing file is unchanged.
    """
    plain = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.to_dict(),
        "vocabulary": list(checkpoint.vocabulary),
        "no_change_sentences": list(checkpoint.no_change_sentences),
        "state_dict": checkpoint.state_dict,
        "training": checkpoint.training,
        "progress": checkpoint.progress,
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            torch.save(plain, partial)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError
            raise OSError(f"cannot write {partial}: {error}") from error
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Only containers and tensors are read: a pickle with code is refused, and the code is not run.

    Raises:
        CheckpointError: The file is missing, not a checkpoint, or of a newer format.
    """
    plain = read_tensors(path)
    if plain.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not an rsicrc checkpoint; for the published weights, give --config and --vocab too"
        )
    version = plain.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this rsicrc reads {FORMAT_VERSION}: "
            "upgrade with pip install -U rsicrc"
        )
    try:
        return Checkpoint(
            config=ModelConfig.from_dict(plain["config"]),
            vocabulary=tuple(plain["vocabulary"]),
            no_change_sentences=tuple(plain["no_change_sentences"]),
            state_dict=plain["state_dict"],
            training=plain["training"],
            progress=plain["progress"],
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is an incomplete checkpoint: {error}") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """Read the dict in a PyTorch file with `weights_only`.

    Raises:
        CheckpointError: The file is missing, not a PyTorch file, or holds anything but containers and tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: give a .pt file, such as the best.pt of a training run")
    try:
        plain = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = "holds code, which is never run" if "Unsupported global" in str(error) else "is not a PyTorch file"
        raise CheckpointError(f"{path} {reason}: export the weights again as a plain state dict") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path} holds a {type(plain).__name__}, not a dict of tensors")
    return plain

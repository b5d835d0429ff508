"""Checkpoints: a dict of plain containers and tensors, read without running code that the file may contain."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsicrc.errors import CheckpointError
from rsicrc.text.vocabulary import SPECIAL_WORDS
from rsicrc_train.config import ModelConfig
from rsicrc_train.model import RSICRC
from rsicrc_train.pytorch_files import as_dict, read_pytorch
from rsicrc_train.quoting import quote, quote_name
from rsicrc_train.state_dicts import fit_tensors, named_tensors, unwrap

FORMAT = "rsicrc-checkpoint"
FORMAT_VERSION = 1
_MOST_PARAMETERS = 1 << 31  # 8 GiB in float32; the published model has 0.35e9
_LONGEST_TEXT = 1000
_MOST_TEXTS = 1_000_000


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
            CheckpointError: Tensors are missing, unknown or wrongly shaped, or their types or values are invalid.
        """
        expected_tensors(self.config, len(self.vocabulary))  # refuses a model that is too large for the memory
        model = RSICRC(self.config, len(self.vocabulary))
        load_tensors(model, self.state_dict)
        return model.eval()


def load_tensors(model: RSICRC, tensors: dict[str, Tensor]) -> None:
    """Copy `tensors` into the model.

    Raises:
        CheckpointError: Tensors are missing, unknown or wrongly shaped, or their types or values are invalid.
    """
    if not isinstance(tensors, dict):
        raise CheckpointError(f"the weights are {quote(tensors)}, not a dict of tensors")
    checked = named_tensors(as_dict(tensors), "the checkpoint")
    model.load_state_dict(fit_tensors(checked, model.state_dict(), "the checkpoint", "the model config"))


def expected_tensors(config: ModelConfig, vocabulary_size: int) -> dict[str, Tensor]:
    """Return the tensors of a model as names, shapes and types, without memory for their values.

    Raises:
        CheckpointError: The model is too large.
    """
    with torch.device("meta"):
        tensors = RSICRC(config, vocabulary_size).state_dict()
    size = sum(tensor.numel() for tensor in tensors.values())
    if size > _MOST_PARAMETERS:
        raise CheckpointError(
            f"the model config describes {size / 1e9:.1f} billion parameters, the largest size is "
            f"{_MOST_PARAMETERS / 1e9:.1f} billion: check d_model, a_dim, h_dim and the numbers of layers"
        )
    return tensors


def check_texts(value: object, field_name: str, where: str) -> tuple[str, ...]:
    """Return a list of texts from a file as a tuple.

    Args:
        value: The list.
        field_name: Name of the list, for messages.
        where: File, for messages.

    Raises:
        CheckpointError: The value is not a list of texts, or a text is very long or has control characters.
    """
    if not isinstance(value, (list, tuple)) or len(value) > _MOST_TEXTS:
        raise CheckpointError(f"{where}: {field_name} must be a list of texts, not {quote(value)}: save it again")
    for text in value:
        if not isinstance(text, str) or len(text) > _LONGEST_TEXT or any(map(_is_control, text)):
            raise CheckpointError(
                f"{where}: {field_name} must be a list of texts of one line without control characters, "
                f"but it holds {quote(text)}: save it again"
            )
    return tuple(value)


def check_vocabulary(value: object, where: str) -> tuple[str, ...]:
    """Return the tokens of a vocabulary from a file: unique, with the special tokens first.

    Raises:
        CheckpointError: The value is not such a list.
    """
    words = check_texts(value, "vocabulary", where)
    if words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
        first = ", ".join(map(quote_name, words[: len(SPECIAL_WORDS)]))
        raise CheckpointError(f"{where}: the vocabulary begins with {first}, not with {', '.join(SPECIAL_WORDS)}")
    if len(set(words)) < len(words):
        seen: set[str] = set()
        double = next(word for word in words if word in seen or seen.add(word))  # type: ignore[func-returns-value]
        raise CheckpointError(f"{where}: the vocabulary holds {quote(double)} twice: save it again")
    return words


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")  # terminal escapes and line ends; halves of characters


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
        CheckpointError: The file is missing, not a checkpoint, damaged, or of a newer format, or a field or a tensor
            has a wrong type, shape or value; the message names it.
    """
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} holds only weights: give --config and --vocab too, as for published weights")
    plain = unwrap(read_pytorch(path), stop="format")
    if quote(plain.get("format")) != quote(FORMAT):
        raise CheckpointError(
            f"{path} is not an rsicrc checkpoint; for the published weights, give --config and --vocab too"
        )
    version = plain.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {quote(version)}, this rsicrc reads {FORMAT_VERSION}: "
            "upgrade with pip install -U rsicrc"
        )
    if missing := [each.name for each in fields(Checkpoint) if each.name not in plain]:
        raise CheckpointError(f"{path} is an incomplete checkpoint, without {', '.join(missing)}: save it again")
    for name in ("config", "state_dict", "training", "progress"):
        if not isinstance(plain[name], dict):
            raise CheckpointError(f"{path}: {name} must be a dict, not {quote(plain[name])}: save it again")
    try:
        config = ModelConfig.from_dict(as_dict(plain["config"]))
        vocabulary = check_vocabulary(plain["vocabulary"], str(path))
        expected = expected_tensors(config, len(vocabulary))
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    tensors = named_tensors(unwrap(as_dict(plain["state_dict"])), str(path))
    return Checkpoint(
        config=config,
        vocabulary=vocabulary,
        no_change_sentences=check_texts(plain["no_change_sentences"], "no_change_sentences", str(path)),
        state_dict=fit_tensors(tensors, expected, str(path), "its model config"),
        training=as_dict(plain["training"]),
        progress=as_dict(plain["progress"]),
    )

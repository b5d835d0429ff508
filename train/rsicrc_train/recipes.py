"""Recipes: a model's sizes together with how to train it, by name or from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from rsicrc.errors import DataError
from rsicrc_train.config import PRESETS, ModelConfig


@dataclass(frozen=True)
class Training:
    """How a model is trained; the defaults are the published ones.

    Attributes:
        epochs: passes over the training split.
        batch_size: pairs a step.
        captions: sentences of each pair that a step uses.
        learning_rate: AdamW's, after the warm-up.
        warmup: share of all steps over which the learning rate rises from 0.
        schedule: what follows the warm-up: constant, or half a cosine down to 0 at the last step.
        weight_decay: AdamW's.
        gradient_clip: largest norm of the gradient; 0 leaves it as it is.
        contrastive_weight: weight of the contrastive loss beside the captioning loss.
        temperature: of the contrastive loss.
        symmetric: contrast texts with pairs as well as pairs with texts.
        precision: Fabric's name of it, such as `32-true` or `bf16-mixed`.
        workers: processes that read images; 0 reads in the training process.
        save_every: steps between two states that a killed run can resume from.
        seed: of weights, order and dropout.
    """

    epochs: int = 50
    batch_size: int = 4
    captions: int = 1
    learning_rate: float = 1e-4
    warmup: float = 0.025
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.01
    gradient_clip: float = 0.0
    contrastive_weight: float = 0.5
    temperature: float = 0.01
    symmetric: bool = False
    precision: str = "32-true"
    workers: int = 2
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "captions", "learning_rate", "temperature", "save_every"):
            if getattr(self, name) <= 0:
                raise DataError(f"training option {name} must be positive, not {getattr(self, name)}")
        if self.schedule not in ("constant", "cosine"):
            raise DataError(f"training option schedule is constant or cosine, not {self.schedule!r}")


@dataclass(frozen=True)
class Recipe:
    """A model and its training."""

    model: ModelConfig
    training: Training = field(default_factory=Training)

    def to_yaml(self) -> str:
        """The text that `load_recipe` reads back."""
        text: str = yaml.safe_dump({"model": self.model.to_dict(), "training": asdict(self.training)}, sort_keys=False)
        return text


_TRAININGS = {
    "tiny": Training(
        epochs=5,
        batch_size=32,
        captions=5,
        learning_rate=1e-3,
        schedule="cosine",
        weight_decay=0.05,
        gradient_clip=1.0,
        contrastive_weight=1.0,
        temperature=0.05,
        symmetric=True,
        precision="bf16-mixed",
        workers=1,
        save_every=200,
    )
}
NAMES = tuple(PRESETS)


def load_recipe(reference: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name (one of `NAMES`) or from a YAML file with the keys `model` and `training`.

    Args:
        reference: the name or the file.
        overrides: training options that replace the recipe's; None values are left out.

    Raises:
        DataError: no such recipe, or an option that does not exist or does not fit.
        CheckpointError: a model option that does not exist or does not fit.
    """
    if reference in PRESETS:
        model, training = PRESETS[reference], asdict(_TRAININGS.get(reference, Training()))
    else:
        path = Path(reference)
        if not path.is_file():
            raise DataError(f"no recipe {reference!r}: name one of {', '.join(NAMES)}, or a YAML file")
        try:
            plain = yaml.safe_load(path.read_text(encoding="utf-8"))
            model, training = ModelConfig.from_dict(plain["model"]), dict(plain["training"])
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a recipe with the keys model and training: {error}") from error
    training |= {name: value for name, value in (overrides or {}).items() if value is not None}
    known = {option.name for option in fields(Training)}
    if unknown := sorted(set(training) - known):
        raise DataError(f"unknown training option(s) {', '.join(unknown)}: known are {', '.join(sorted(known))}")
    try:
        return Recipe(model, Training(**training))
    except TypeError as error:
        raise DataError(f"a training option has the wrong type: {error}") from error

"""Recipes: sizes of a model and its training options, by name or from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from rsicrc.errors import DataError
from rsicrc_train.config import PRESETS, ModelConfig
from rsicrc_train.quoting import list_names, quote
from rsicrc_train.training_options import Training

__all__ = ["Recipe", "Training", "load_recipe", "parse_setting", "replace_options"]


@dataclass(frozen=True)
class Recipe:
    """Sizes of a model and its training options."""

    model: ModelConfig
    training: Training = field(default_factory=Training)

    def to_yaml(self) -> str:
        """Return the recipe as text that `load_recipe` reads."""
        text: str = yaml.safe_dump({"model": self.model.to_dict(), "training": asdict(self.training)}, sort_keys=False)
        return text


_PUBLISHED = Training(
    item="caption",
    partial_batch=True,
    vocabulary="all",
    initialization="xavier",
    separate_images=True,
    output_dropout=0.1,
    contrast_mean="positives",
    sentence_period=True,
    hardest_of="batch",
    mined_by="text",
    validation_mean="batches",
    cache_features=False,
)
_TINY = Training(
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
    precision="auto",
    workers=1,
    save_every=200,
)
_TRAININGS = {name: _TINY if name == "tiny" else _PUBLISHED for name in PRESETS}
_NAMES = tuple(PRESETS)


def load_recipe(reference: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe by name (a key of `config.PRESETS`) or from a YAML file with the keys `model` and `training`.

    Args:
        reference: Name or file of the recipe.
        overrides: Training options that replace those of the recipe; None values are ignored.

    Raises:
        DataError: There is no such recipe, or a training option does not exist or has an invalid value.
        CheckpointError: A model option does not exist or has an invalid value.
    """
    if reference in PRESETS:
        model, training = PRESETS[reference], asdict(_TRAININGS[reference])
    else:
        model, training = _read_recipe(Path(reference))
    return Recipe(model, _training(training, overrides))


def replace_options(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return a recipe with training options replaced; None values are ignored.

    Raises:
        DataError: A training option does not exist or has an invalid value.
    """
    return Recipe(recipe.model, _training(asdict(recipe.training), overrides))


def _training(options: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> Training:
    given = {**options, **{name: value for name, value in (overrides or {}).items() if value is not None}}
    known = {option.name: option.default for option in fields(Training)}
    if unknown := sorted(set(given) - set(known)):
        raise DataError(f"unknown training option(s) {list_names(unknown)}: known are {', '.join(sorted(known))}")
    return Training(**{name: _convert(value, known[name]) for name, value in given.items()})


def _read_recipe(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read the model and the training options of a YAML file."""
    if not path.is_file():
        raise DataError(f"no recipe {quote(str(path))}: name one of {', '.join(_NAMES)}, or a YAML file")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    parts = [plain.get(key) if isinstance(plain, dict) else None for key in ("model", "training")]
    model, training = parts
    if not isinstance(model, dict) or not isinstance(training, dict) or not all(map(_is_text, (*model, *training))):
        raise DataError(f"{path} is not a recipe with the keys model and training, each with options by name")
    return ModelConfig.from_dict(model), dict(training)


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def parse_setting(text: str) -> tuple[str, Any]:
    """Split a training option written `name=value` into name and value.

    Raises:
        DataError: The text is not of this form.
    """
    name, equals, value = text.partition("=")
    try:
        if equals and value:
            return name.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        pass
    raise DataError(f"{quote(text)} is not of the form name=value")


def _convert(value: Any, default: Any) -> Any:
    """Return `value` as a float if the default is one and the value allows it: YAML reads 1e-4 as text."""
    if isinstance(default, float) and isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return value

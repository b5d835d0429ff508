"""Tests of networks of timm as trunks: features, weights from files, trained parts, and wrong names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from rsicrc.errors import CheckpointError
from rsicrc_train.config import ModelConfig, TrunkConfig
from rsicrc_train.efficientnet_names import _EXPANDED, _PLAIN, _STEM, translate_efficientnet
from rsicrc_train.model import RSICRC
from rsicrc_train.pretrained import initialize_trunk
from rsicrc_train.recipes import load_recipe
from rsicrc_train.trainer import parameter_groups
from rsicrc_train.trunks import Trunk
from tests.models import SMALL
from tests.train.networks import randomized, trunk_features

LITE = TrunkConfig("timm", name="tf_efficientnet_lite0", image_size=64)


def config(trunk: TrunkConfig = LITE) -> ModelConfig:
    return replace(SMALL, backbone="timm", trunk=trunk)


def random_network(name: str = "tf_efficientnet_lite0") -> Any:
    torch.manual_seed(0)
    return randomized(timm.create_model(name, pretrained=False))


def in_other_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of timm under the names of efficientnet_pytorch."""
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in tensors if name.startswith("blocks.")})
    stem = {new: old for old, new in _STEM.items()}
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith("blocks."):
            part, rest = name.split(".", 1)
            renamed[f"{stem[part]}.{rest}"] = tensor
            continue
        _, stage, block, part, rest = name.split(".", 4)
        parts = _EXPANDED if f"blocks.{stage}.{block}.conv_pwl.weight" in tensors else _PLAIN
        old = next(old for old, new in parts.items() if new == part)
        renamed[f"_blocks.{blocks.index((int(stage), int(block)))}.{old}.{rest}"] = tensor
    return renamed


@pytest.mark.parametrize("names", ["timm", "efficientnet_pytorch"])
def test_trunk_has_the_features_of_its_weights(names: str, tmp_path: Path) -> None:
    network = random_network()
    tensors = network.state_dict()
    if names == "efficientnet_pytorch":
        tensors = in_other_names(tensors)
        assert {"_conv_stem.weight", "_blocks.0._project_conv.weight", "_blocks.15._bn2.bias", "_fc.bias"} < set(
            tensors
        )
    torch.save(tensors, tmp_path / "weights.pth")
    model = RSICRC(config(), 10)
    initialize_trunk(model, str(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.forward_features(images)
    assert expected.shape == (2, 1280, 2, 2)
    assert torch.equal(trunk_features(model, images), expected)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(random_network("tf_efficientnet_lite1").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"does not fit the trunk of timm: .*unknown blocks\.1\.2\.bn1\.bias"):
        initialize_trunk(RSICRC(config(), 10), str(tmp_path / "weights.pth"))
    assert translate_efficientnet({"_blocks.99._bn1.bias": torch.zeros(1)}, {}).keys() == {"_blocks.99._bn1.bias"}


@pytest.mark.parametrize(
    ("name", "patch", "channels"),
    [("resnet10t", 32, 512), ("vit_tiny_patch16_224", 16, 192), ("swin_tiny_patch4_window7_224", 32, 768)],
)
def test_feature_maps_have_one_layout(name: str, patch: int, channels: int) -> None:
    trunk = Trunk(TrunkConfig("timm", name=name, patch=patch, image_size=224)).eval()
    with torch.no_grad():
        assert trunk(torch.randn(1, 3, 224, 224)).shape == (1, channels, 224 // patch, 224 // patch)
    assert trunk.channels == channels


def test_config_of_a_timm_trunk_is_written_and_read() -> None:
    plain = config().to_dict()
    assert plain["trunk"] == {
        "kind": "timm",
        "name": "tf_efficientnet_lite0",
        "image_size": 64,
        "patch": 32,
        "width": 64,
        "heads": 0,
        "quick_gelu": False,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    assert ModelConfig.from_dict(plain) == config()
    assert config().preprocessing.mean == (0.5, 0.5, 0.5)
    assert "name" not in SMALL.to_dict()["trunk"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "hf-hub:owner/name"}, "no network 'hf-hub:owner/name'"),
        ({"name": "resnet18.a1_in1k"}, "without the tag"),
        ({"name": ""}, "no network ''"),
        ({"name": "resnet18", "layers": (1,)}, "layers is of no use for timm"),
        ({"name": "resnet18", "mean": (0.5, 0.5)}, "mean must be three numbers"),
        ({"name": "resnet18", "std": (0.0, 0.5, 0.5)}, "std must be three numbers"),
    ],
)
def test_wrong_options_of_a_timm_trunk_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TrunkConfig("timm", **options)


def test_other_trunks_have_no_name() -> None:
    with pytest.raises(CheckpointError, match="name is only for networks of timm"):
        TrunkConfig("clip_resnet", (1, 1, 1, 1), name="resnet18")


@pytest.mark.parametrize(("name", "message"), [("levit_128s", "must be 64"), ("efficientvit_b0", "cannot be a trunk")])
def test_unsuitable_networks_are_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Trunk(TrunkConfig("timm", name=name))


def test_half_of_the_parts_of_a_timm_trunk_is_trainable() -> None:
    trunk = Trunk(LITE)
    trunk.train_last()
    trained = {name.split("visual.network.")[1] for name, weight in trunk.named_parameters() if weight.requires_grad}
    assert {"bn2.bias", "conv_head.weight", "blocks.4.0.bn1.bias"} < trained
    assert not any(name.startswith(("conv_stem", "blocks.3")) for name in trained)


def test_trunk_has_its_own_learning_rate() -> None:
    model = RSICRC(config(), 10)
    trunk, rest = parameter_groups(model, 0.1)
    assert (trunk["scale"], rest["scale"]) == (0.1, 1.0)
    assert len(trunk["params"]) == len(list(model.encoder.trunk.parameters()))
    assert len(trunk["params"]) + len(rest["params"]) == len(list(model.parameters()))
    assert load_recipe("tiny", {"trunk_rate": 0.5}).training.trunk_rate == 0.5

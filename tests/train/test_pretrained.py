"""Tests of trunks initialized from weights of open_clip and torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rsicrc.errors import CheckpointError
from rsicrc_train import checkpoint
from rsicrc_train.config import ModelConfig, TrunkConfig
from rsicrc_train.model import RSICRC
from rsicrc_train.pretrained import initialize_trunk
from tests.models import SMALL, save_checkpoint, with_options
from tests.train.networks import randomized, trunk_features

TEXT = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1}
VIT = with_options(trunk=TrunkConfig("clip_vit", (2,), width=64, heads=1, patch=16, image_size=64))
TORCHVISION = with_options(trunk=TrunkConfig("torchvision_resnet", (1, 1, 1, 1), image_size=64))


def clip(config: ModelConfig) -> nn.Module:
    """Return a random CLIP model of open_clip with the trunk that `config` describes."""
    from open_clip.model import CLIP

    trunk = config.image_trunk
    sizes: dict[str, Any] = {"image_size": trunk.image_size, "width": trunk.width}
    if trunk.kind == "clip_vit":
        sizes |= {"layers": trunk.layers[0], "patch_size": trunk.patch}
    else:
        sizes["layers"] = list(trunk.layers)
    model: nn.Module = CLIP(embed_dim=32, vision_cfg=sizes, text_cfg=TEXT)
    return randomized(model)


def test_clip_resnet_trunk_matches_open_clip(tmp_path: Path) -> None:
    network = clip(SMALL)
    torch.save(network.state_dict(), tmp_path / "RemoteCLIP.pt")
    model = RSICRC(SMALL, 10)
    initialize_trunk(model, str(tmp_path / "RemoteCLIP.pt"))
    images = torch.randn(2, 3, 96, 96)
    maps: list[Tensor] = []
    network.get_submodule("visual.layer4").register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        network.get_submodule("visual")(images)
    assert torch.equal(trunk_features(model, images), maps[0])


def test_clip_transformer_trunk_matches_open_clip(tmp_path: Path) -> None:
    network = clip(VIT)
    torch.save(network.state_dict(), tmp_path / "RemoteCLIP.pt")
    model = RSICRC(VIT, 10)
    initialize_trunk(model, str(tmp_path / "RemoteCLIP.pt"))
    images = torch.randn(2, 3, 64, 64)
    visual = network.get_submodule("visual")
    visual.output_tokens = True  # type: ignore[assignment]
    with torch.no_grad():
        _, tokens = visual(images)
    torch.testing.assert_close(trunk_features(model, images).flatten(2).transpose(1, 2), tokens)


def test_torchvision_trunk_matches_torchvision(tmp_path: Path) -> None:
    from torchvision.models.resnet import Bottleneck, ResNet

    network = randomized(ResNet(Bottleneck, [1, 1, 1, 1]))
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    model = RSICRC(TORCHVISION, 10)
    initialize_trunk(model, str(tmp_path / "resnet.pth"))
    images = torch.randn(1, 3, 64, 64)
    maps: list[Tensor] = []
    network.get_submodule("layer4").register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        network(images)
    assert torch.equal(trunk_features(model, images), maps[0])


@pytest.mark.parametrize("prefix", ["module.", "module.visual.", "visual.", ""])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_trunk_loads_with_any_prefix_and_format(prefix: str, suffix: str, tmp_path: Path) -> None:
    network = clip(SMALL)
    whole = "visual" not in prefix and prefix != ""
    tensors = (network if whole else network.get_submodule("visual")).state_dict()
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    model = RSICRC(SMALL, 10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialize_trunk(model, str(path))
    for name, tensor in model.state_dict().items():
        if name.startswith("encoder.trunk.visual."):
            expected = network.state_dict()[name.removeprefix("encoder.trunk.")]
            assert torch.equal(tensor, expected), name
        else:
            assert torch.equal(tensor, before[name]), f"{name} is not part of the trunk"


def test_trunk_is_taken_from_a_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, seed=1)
    expected = checkpoint.load(path).build_model()
    model = RSICRC(SMALL, 10)
    decoder = model.decoder.embedding.weight.clone()
    initialize_trunk(model, str(path))
    images = torch.rand(2, 3, 96, 96)
    assert torch.equal(trunk_features(model, images), trunk_features(expected, images))
    assert torch.equal(model.decoder.embedding.weight, decoder)


def test_published_stages_are_trainable() -> None:
    model = RSICRC(SMALL, 10)
    model.encoder.trunk.train_last()
    trainable = {name.split(".")[1] for name, weight in model.encoder.trunk.named_parameters() if weight.requires_grad}
    assert trainable == {"layer2", "layer3", "layer4"}


def test_wrong_trunk_tensors_are_named(tmp_path: Path) -> None:
    tensors = clip(SMALL).state_dict()
    tensors["visual.layer1.0.conv1.weight"] = torch.zeros(1)
    tensors["visual.layer9.weight"] = torch.zeros(1)
    del tensors["visual.bn1.bias"]
    torch.save(tensors, tmp_path / "clip.pt")
    model = RSICRC(SMALL, 10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        initialize_trunk(model, str(tmp_path / "clip.pt"))
    message = str(caught.value)
    assert "missing bn1.bias; unknown layer9.weight; layer1.0.conv1.weight is (1,), not (8, 8, 1, 1)" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_missing_or_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        initialize_trunk(RSICRC(SMALL, 10), str(tmp_path / "absent.pt"))
    with pytest.raises(CheckpointError, match="no weights at"):
        initialize_trunk(RSICRC(SMALL, 10), str(tmp_path / "absent.safetensors"))
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        initialize_trunk(RSICRC(SMALL, 10), str(tmp_path / "noise.safetensors"))

"""The image trunks: open_clip's CLIP encoders without their heads, and torchvision's ResNets."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rsicrc_train.config import TrunkConfig


class Trunk(nn.Module):
    """One date's image → its feature map [B, C, h, w].

    `visual` is the library's own module with its own parameter names, so that CLIP weights load by name.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = _BUILDERS[config.kind](config)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, size, size], normalized → features [B, channels, map_size, map_size]."""
        features: Tensor = self.visual(images)
        if self.config.kind == "clip_vit":
            _, features = cast(tuple[Tensor, Tensor], features)
            edge = self.config.map_size
            features = features.transpose(1, 2).reshape(-1, self.config.channels, edge, edge)
        return features

    def parts(self) -> list[nn.Module]:
        """The trunk's parts from the pixels up, as the published code counts them."""
        return [part for part in self.visual.children() if not isinstance(part, nn.Identity)]

    def learn_last(self, count: int | None = None) -> None:
        """Let only the last `count` parts learn; None is the published choice, 0 freezes the trunk."""
        published = {"clip_resnet": 3, "clip_vit": 2, "torchvision_resnet": 5}[self.config.kind]
        self.visual.requires_grad_(False)
        learning = published if count is None else count
        for part in self.parts()[-learning:] if learning else []:
            part.requires_grad_(True)


def _clip_resnet(config: TrunkConfig) -> nn.Module:
    from open_clip.modified_resnet import ModifiedResNet

    visual: nn.Module = ModifiedResNet(
        layers=list(config.layers), output_dim=1, heads=1, image_size=config.image_size, width=config.width
    )
    visual.attnpool = nn.Identity()  # RSICRC pools after the fusion, with a query of its own
    return visual


def _clip_vit(config: TrunkConfig) -> nn.Module:
    from open_clip.transformer import QuickGELU, VisionTransformer

    visual = VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch,
        width=config.width,
        layers=config.layers[0],
        heads=config.heads,
        mlp_ratio=4.0,
        output_dim=1,
        act_layer=QuickGELU if config.quick_gelu else nn.GELU,
        output_tokens=True,
    )
    visual.proj = None  # only the patch tokens are used
    return cast(nn.Module, visual)


def _torchvision_resnet(config: TrunkConfig) -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    visual: nn.Module = ResNet(Bottleneck, list(config.layers))
    headless = nn.Sequential()
    for name, part in list(visual.named_children())[:-2]:
        headless.add_module(name, part)
    return headless


_BUILDERS = {"clip_resnet": _clip_resnet, "clip_vit": _clip_vit, "torchvision_resnet": _torchvision_resnet}


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels uint8 [N, size, size, 3] → float32 [N, 3, size, size] with zero mean and unit deviation per channel."""
    return ((images.to(torch.float32) / 255.0 - mean) / std).permute(0, 3, 1, 2)

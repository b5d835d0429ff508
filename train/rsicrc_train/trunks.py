"""Image trunks: open_clip's CLIP image encoders and torchvision's ResNets, without their heads."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from rsicrc_train.config import TrunkConfig


class Trunk(nn.Module):
    """Image network that turns one image into a feature map [B, C, h, w].

    Attributes:
        visual: Module of open_clip or torchvision with its own parameter names, so that CLIP weights load by name.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = _BUILDERS[config.kind](config)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features [B, channels, map_size, map_size] of normalized images [B, 3, size, size]."""
        features: Tensor = self.visual(images)
        if self.config.kind == "clip_vit":
            _, features = cast(tuple[Tensor, Tensor], features)
            edge = self.config.map_size
            features = features.transpose(1, 2).reshape(-1, self.config.channels, edge, edge)
        return features

    def parts(self) -> list[nn.Module]:
        """Return the trunk's parts from input to output, as the published code counts them."""
        return [part for part in self.visual.children() if not isinstance(part, nn.Identity)]

    def train_last(self, count: int | None = None) -> None:
        """Make only the last `count` parts trainable; None is the published number of parts, 0 freezes the trunk."""
        published = {"clip_resnet": 3, "clip_vit": 2, "torchvision_resnet": 5}[self.config.kind]
        self.visual.requires_grad_(False)
        count = published if count is None else count
        for part in self.parts()[-count:] if count else []:
            part.requires_grad_(True)


def _clip_resnet(config: TrunkConfig) -> nn.Module:
    from open_clip.modified_resnet import ModifiedResNet

    visual: nn.Module = ModifiedResNet(
        layers=list(config.layers), output_dim=1, heads=1, image_size=config.image_size, width=config.width
    )
    visual.attnpool = nn.Identity()  # RSICRC pools after the fusion, with its own query
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
    """Convert pixels uint8 [N, size, size, 3] to [N, 3, size, size] of the type of `mean`, standardized per channel."""
    return ((images.to(mean.dtype) / 255.0 - mean) / std).permute(0, 3, 1, 2)

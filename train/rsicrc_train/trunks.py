"""Image trunks: open_clip's CLIP image encoders, torchvision's ResNets and networks of timm, without their heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from rsicrc.errors import CheckpointError
from rsicrc_train.config import TrunkConfig


class TimmFeatures(nn.Module):
    """Network of timm that computes a feature map [B, channels, map_size, map_size] before its pooling and classifier.

    Attributes:
        network: The network, with timm's own parameter names.
        channels: Number of channels of the feature map.
    """

    def __init__(self, config: TrunkConfig) -> None:
        """Build the network with random weights; nothing is downloaded.

        Raises:
            CheckpointError: The network does not reduce its image by `config.patch`, or has no feature map.
        """
        import timm

        super().__init__()
        listed = timm.models.get_pretrained_cfg(config.name)
        # Transformers have position embeddings for one size of the image; other networks have no such argument.
        sizes: dict[str, Any] = {"img_size": config.image_size} if listed and listed.fixed_input_size else {}
        try:
            self.network = timm.create_model(config.name, pretrained=False, num_classes=0, global_pool="", **sizes)
            stages = cast(Sequence[dict[str, int]], self.network.feature_info)
            reduction, self.channels = stages[-1]["reduction"], cast(int, self.network.num_features)
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the network {config.name} of timm cannot be a trunk ({error or type(error).__name__}): choose another"
            ) from error
        if reduction != config.patch:
            raise CheckpointError(
                f"trunk option patch of {config.name} must be {reduction}, the reduction of its last feature map, not "
                f"{config.patch}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Compute features [B, channels, map_size, map_size] of normalized images [B, 3, size, size]."""
        x = cast(Callable[[Tensor], Tensor], self.network.forward_features)(images)
        if x.dim() == 3:  # tokens [B, prefix + h·w, channels]
            x = x[:, cast(int, getattr(self.network, "num_prefix_tokens", 0)) :].transpose(1, 2)
            return x.reshape(x.shape[0], self.channels, round(x.shape[2] ** 0.5), -1)
        return x if x.shape[1] == self.channels else x.permute(0, 3, 1, 2)


class Trunk(nn.Module):
    """Image network that turns one image into a feature map [B, C, h, w].

    Attributes:
        visual: Module of open_clip, torchvision or timm with its own parameter names, so that weights load by name.
        channels: Number of channels of the feature map.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = _BUILDERS[config.kind](config)
        if config.kind == "timm":
            self.channels = cast(TimmFeatures, self.visual).channels
        else:
            self.channels = config.width if config.kind == "clip_vit" else config.width * 32

    def forward(self, images: Tensor) -> Tensor:
        """Compute features [B, channels, map_size, map_size] of normalized images [B, 3, size, size]."""
        features: Tensor = self.visual(images)
        if self.config.kind == "clip_vit":
            _, features = cast(tuple[Tensor, Tensor], features)
            edge = self.config.map_size
            features = features.transpose(1, 2).reshape(-1, self.channels, edge, edge)
        return features

    def parts(self) -> list[nn.Module]:
        """Return the trunk's parts from input to output, as the published code counts them.

        The parts of a network of timm are its children with weights; the stages of a sequence count one by one.
        """
        if self.config.kind == "timm":
            children = [
                part
                for child in cast(TimmFeatures, self.visual).network.children()
                for part in (child.children() if isinstance(child, nn.Sequential) else [child])
            ]
            return [part for part in children if any(True for _ in part.parameters())]
        return [part for part in self.visual.children() if not isinstance(part, nn.Identity)]

    def train_last(self, count: int | None = None) -> None:
        """Make only the last `count` parts trainable.

        Args:
            count: Number of parts; 0 freezes the trunk. None is the published number of parts, and half of the parts of
                a network of timm.
        """
        published = {"clip_resnet": 3, "clip_vit": 2, "torchvision_resnet": 5, "timm": len(self.parts()) // 2}
        self.visual.requires_grad_(False)
        count = published[self.config.kind] if count is None else count
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


_BUILDERS = {
    "clip_resnet": _clip_resnet,
    "clip_vit": _clip_vit,
    "torchvision_resnet": _torchvision_resnet,
    "timm": TimmFeatures,
}


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Convert pixels uint8 [N, size, size, 3] to [N, 3, size, size] of the type of `mean`, standardized per channel."""
    return ((images.to(mean.dtype) / 255.0 - mean) / std).permute(0, 3, 1, 2)

"""Sizes and options of an RSICRC model: image trunk, fusion of the two images and text decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from rsicrc.errors import CheckpointError
from rsicrc.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

TrunkKind = Literal["clip_resnet", "clip_vit", "torchvision_resnet"]


@dataclass(frozen=True)
class TrunkConfig:
    """Sizes of the image network that turns one image into a feature map.

    Attributes:
        kind: Family of the network: open_clip's ModifiedResNet or VisionTransformer, or torchvision's ResNet.
        layers: Number of residual blocks per stage; for a transformer, one number: its depth.
        width: Number of channels after the stem (ResNets), or width of the tokens (transformer).
        heads: Number of attention heads of the transformer; unused by ResNets.
        patch: Edge of a transformer's patch in pixels; ResNets reduce by 32.
        image_size: Edge of the square input in pixels.
        quick_gelu: Use OpenAI's activation x·σ(1.702x) in the transformer instead of the exact GELU.
    """

    kind: TrunkKind
    layers: tuple[int, ...]
    width: int = 64
    heads: int = 0
    patch: int = 32
    image_size: int = 224
    quick_gelu: bool = False

    @property
    def channels(self) -> int:
        """Number of channels of the feature map."""
        return self.width if self.kind == "clip_vit" else self.width * 32

    @property
    def map_size(self) -> int:
        """Edge of the square feature map in positions."""
        return self.image_size // self.patch


TRUNKS: dict[str, TrunkConfig] = {
    "RN50": TrunkConfig("clip_resnet", (3, 4, 6, 3)),
    "ViT-B-32": TrunkConfig("clip_vit", (12,), width=768, heads=12, patch=32),
    "ViT-L-14": TrunkConfig("clip_vit", (24,), width=1024, heads=16, patch=14),
    "resnet50": TrunkConfig("torchvision_resnet", (3, 4, 6, 3), image_size=256),
    "resnet101": TrunkConfig("torchvision_resnet", (3, 4, 23, 3), image_size=256),
    "RN-tiny": TrunkConfig("clip_resnet", (1, 1, 2, 1), width=16),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and options of RSICRC; the defaults are the published model (Ferrod et al. 2024, arXiv 2406.13424).

    Attributes:
        backbone: A name of `TRUNKS`.
        trunk: Sizes of the trunk; None takes those of `backbone` from `TRUNKS`.
        d_model: Width of the visual tokens, the text tokens and both embeddings.
        max_len: Maximum caption length in tokens, START and END included.
        encoder_layers: Number of fusion layers over the two images.
        unimodal_layers: Number of decoder layers over the text only.
        multimodal_layers: Number of decoder layers that also attend to the image pair.
        num_heads: Number of heads of every attention outside the trunk.
        h_dim: Feed-forward width of the fusion blocks.
        a_dim: Attention width of the fusion blocks.
        dropout: Dropout probability in training.
        learnable: Use learned instead of sinusoidal position embeddings of the text.
        tie_embeddings: Share the embedding table with the output layer.
        prenorm: Apply layer normalization before instead of after each part of the decoder's layers.
    """

    backbone: str = "RN50"
    trunk: TrunkConfig | None = None
    d_model: int = 2048
    max_len: int = 41
    encoder_layers: int = 3
    unimodal_layers: int = 1
    multimodal_layers: int = 1
    num_heads: int = 8
    h_dim: int = 512
    a_dim: int = 2048
    dropout: float = 0.1
    learnable: bool = False
    tie_embeddings: bool = True
    prenorm: bool = False

    def __post_init__(self) -> None:
        if self.trunk is None and self.backbone not in TRUNKS:
            raise CheckpointError(f"unknown backbone {self.backbone!r}: choose one of {', '.join(TRUNKS)}")
        for name in ("d_model", "a_dim"):
            if (width := getattr(self, name)) % self.num_heads:
                raise CheckpointError(f"{name} = {width} is not a multiple of num_heads = {self.num_heads}")
        if self.d_model % 2:
            raise CheckpointError(f"d_model = {self.d_model} must be even: half of it encodes the row, half the column")

    @property
    def image_trunk(self) -> TrunkConfig:
        """Sizes of the trunk, from `trunk` or by the name of the backbone."""
        return self.trunk or TRUNKS[self.backbone]

    @property
    def preprocessing(self) -> Preprocessing:
        """Size and normalization of the trunk's input."""
        imagenet = self.image_trunk.kind == "torchvision_resnet"
        return Preprocessing(
            size=self.image_trunk.image_size,
            mean=_IMAGENET_MEAN if imagenet else CLIP_MEAN,
            std=_IMAGENET_STD if imagenet else CLIP_STD,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for a checkpoint or a manifest."""
        plain = asdict(replace(self, trunk=self.image_trunk))
        plain["trunk"]["layers"] = list(plain["trunk"]["layers"])
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelConfig:
        """Read a config that `to_dict` wrote.

        Raises:
            CheckpointError: A key is unknown, or a value is invalid.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise CheckpointError(f"unknown model option(s) {', '.join(unknown)}: known are {', '.join(sorted(known))}")
        values = dict(plain)
        try:
            if trunk := values.get("trunk"):
                values["trunk"] = TrunkConfig(**{**trunk, "layers": tuple(trunk["layers"])})
            return cls(**values)
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"the model config does not fit: {error}") from error


_TINY = ModelConfig(backbone="RN-tiny", d_model=192, max_len=24, encoder_layers=1, num_heads=6, h_dim=192, a_dim=192)
PRESETS: dict[str, ModelConfig] = {
    "tiny": _TINY,
    "published": ModelConfig(),
    "published-ViT-B-32": ModelConfig(backbone="ViT-B-32"),
    "published-ViT-L-14": ModelConfig(backbone="ViT-L-14"),
    "published-resnet50": ModelConfig(backbone="resnet50"),
    "published-resnet101": ModelConfig(backbone="resnet101"),
}

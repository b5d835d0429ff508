"""Sizes and options of an RSICRC model: image trunk, fusion of the two images and text decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from rsicrc.errors import CheckpointError
from rsicrc.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from rsicrc_train.quoting import list_names, quote
from rsicrc_train.ranges import Choice, Flag, Number, Rule, check_options, whole

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

TrunkKind = Literal["clip_resnet", "clip_vit", "torchvision_resnet", "timm"]

_REDUCTION = 32  # of the image size by a ResNet
_MOST_LAYERS = 64
_TIMM_NAME = re.compile("[a-z0-9_]{1,100}")
_TRUNK_RULES: dict[str, Rule] = {
    "kind": Choice(("clip_resnet", "clip_vit", "torchvision_resnet", "timm")),
    "width": whole(2, 4096),
    "heads": whole(0, 256),
    "patch": whole(1, 256),
    "image_size": whole(1, 2048),
    "quick_gelu": Flag(),
}
_PIXELS: dict[str, Rule] = {"mean": Number(0, 1), "std": Number(0, 1, above=True)}
_MODEL_RULES: dict[str, Rule] = {
    "d_model": whole(2, 16384),
    "max_len": whole(3, 1024),  # START, a word and END
    "encoder_layers": whole(0, _MOST_LAYERS),
    "unimodal_layers": whole(1, _MOST_LAYERS),
    "multimodal_layers": whole(1, _MOST_LAYERS),
    "num_heads": whole(1, 1024),
    "h_dim": whole(1, 65536),
    "a_dim": whole(1, 65536),
    "image_attention": Flag(),
    "pair_attention": Flag(),
    "cosine": Flag(),
    "dropout": Number(0, 1, below=True),
    "learnable": Flag(),
    "tie_embeddings": Flag(),
    "prenorm": Flag(),
}


@dataclass(frozen=True)
class TrunkConfig:
    """Sizes of the image network that turns one image into a feature map.

    Attributes:
        kind: Family of the network: open_clip's ModifiedResNet or VisionTransformer, torchvision's ResNet, or a network
            of timm.
        layers: Number of residual blocks per stage; for a transformer, one number: its depth; empty for timm.
        width: Number of channels after the stem (ResNets), or width of the tokens (transformer).
        heads: Number of attention heads of the transformer; unused by ResNets.
        patch: Edge of a transformer's patch in pixels; ResNets and most networks of timm reduce by 32.
        image_size: Edge of the square input in pixels.
        quick_gelu: Use OpenAI's activation x·σ(1.702x) in the transformer instead of the exact GELU.
        name: Name of the network in timm, for example `tf_efficientnet_lite0`; empty for the other kinds.
        mean: Mean of the red, green and blue channel from 0 to 1 that a network of timm expects; empty takes the mean
            that timm lists for `name`. Empty for the other kinds, which have fixed means.
        std: Standard deviation of the channels, as `mean`.
    """

    kind: TrunkKind
    layers: tuple[int, ...] = ()
    width: int = 64
    heads: int = 0
    patch: int = 32
    image_size: int = 224
    quick_gelu: bool = False
    name: str = ""
    mean: tuple[float, float, float] | tuple[()] = ()
    std: tuple[float, float, float] | tuple[()] = ()

    def __post_init__(self) -> None:
        check_options(self, _TRUNK_RULES, "trunk option", CheckpointError)
        if self.image_size % self.patch:
            raise CheckpointError(
                f"trunk option image_size = {self.image_size} must be a multiple of patch = {self.patch}"
            )
        if self.kind == "timm":
            self._check_timm()
        else:
            self._check_sizes()

    def _check_timm(self) -> None:
        if self.layers:
            raise CheckpointError(f"trunk option layers is of no use for timm: {quote(self.name)} has its own layers")
        for option, pixels in timm_pixels(self.name).items():
            given = getattr(self, option)
            if not given:
                object.__setattr__(self, option, pixels)
            elif not isinstance(given, tuple) or len(given) != 3 or not all(map(_PIXELS[option].accepts, given)):
                raise CheckpointError(f"trunk option {option} must be three numbers, not {quote(given)}")

    def _check_sizes(self) -> None:
        if set_options := [option for option in ("name", "mean", "std") if getattr(self, option)]:
            raise CheckpointError(f"trunk option {set_options[0]} is only for networks of timm, not for {self.kind}")
        stages = 1 if self.kind == "clip_vit" else 4
        depth = whole(1, _MOST_LAYERS)
        if not isinstance(self.layers, tuple) or len(self.layers) != stages or not all(map(depth.accepts, self.layers)):
            raise CheckpointError(
                f"trunk option layers must be a list of {stages} whole number(s) from 1 to {_MOST_LAYERS} for "
                f"{self.kind}, not {self._quote_layers()}"
            )
        if self.kind == "clip_vit" and (self.heads < 1 or self.width % self.heads):
            raise CheckpointError(f"trunk option width = {self.width} must be a multiple of heads = {self.heads}")
        if self.kind != "clip_vit" and self.patch != _REDUCTION:
            raise CheckpointError(f"trunk option patch of a ResNet must be {_REDUCTION}, not {self.patch}")
        if self.kind == "clip_resnet" and self.width % 2:
            raise CheckpointError(f"trunk option width = {self.width} must be even: the stem begins with half of it")
        if self.kind == "torchvision_resnet" and self.width != 64:
            raise CheckpointError(f"trunk option width of torchvision's ResNet must be 64, not {self.width}")

    def _quote_layers(self) -> str:
        if not isinstance(self.layers, tuple):
            return quote(self.layers)
        return f"({', '.join(map(quote, self.layers[:5]))}{', …' if len(self.layers) > 5 else ''})"

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
        image_attention: Use the part of each fusion layer that attends within one image.
        pair_attention: Use the part of each fusion layer that attends to both images.
        cosine: Add the cosine of the two images' features at each position before they are merged.
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
    image_attention: bool = True
    pair_attention: bool = True
    cosine: bool = True
    dropout: float = 0.1
    learnable: bool = False
    tie_embeddings: bool = True
    prenorm: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str) or (self.trunk is None and self.backbone not in TRUNKS):
            raise CheckpointError(f"unknown backbone {quote(self.backbone)}: choose one of {', '.join(TRUNKS)}")
        check_options(self, _MODEL_RULES, "model option", CheckpointError)
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
        trunk = self.image_trunk
        if trunk.mean and trunk.std:
            return Preprocessing(trunk.image_size, trunk.mean, trunk.std)
        if trunk.kind == "torchvision_resnet":
            return Preprocessing(trunk.image_size, _IMAGENET_MEAN, _IMAGENET_STD)
        return Preprocessing(trunk.image_size, CLIP_MEAN, CLIP_STD)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for a checkpoint or a manifest."""
        plain = asdict(replace(self, trunk=self.image_trunk))
        trunk = {name: list(value) if isinstance(value, tuple) else value for name, value in plain["trunk"].items()}
        unused = ("layers",) if trunk["kind"] == "timm" else ("name", "mean", "std")
        plain["trunk"] = {name: value for name, value in trunk.items() if name not in unused}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelConfig:
        """Read a config that `to_dict` wrote.

        Raises:
            CheckpointError: A key is unknown, or a value is invalid.
        """
        values = _known(cls, plain, "model")
        if (trunk := values.get("trunk")) is not None:
            sizes = _known(TrunkConfig, trunk, "trunk")
            for name in ("layers", "mean", "std"):
                if isinstance(sizes.get(name), list):
                    sizes[name] = tuple(sizes[name])
            needed = {"kind", "name" if sizes.get("kind") == "timm" else "layers"}
            if not needed <= sizes.keys():
                raise CheckpointError(f"the trunk of the model config has no {' or no '.join(sorted(needed))}")
            values["trunk"] = TrunkConfig(**sizes)
        return cls(**values)


def timm_pixels(name: object) -> dict[str, tuple[float, ...]]:
    """Return the mean and the standard deviation of the channels that timm lists for a network.

    Raises:
        CheckpointError: timm has no network of this name.
    """
    import timm

    # `timm.create_model` takes a name with a colon for a reference to the hub or to a folder.
    if not isinstance(name, str) or not _TIMM_NAME.fullmatch(name) or not timm.is_model(name):
        raise CheckpointError(
            f"timm {timm.__version__} has no network {quote(name)}: choose a name of timm.list_models(), without the "
            "tag of its weights"
        )
    listed = timm.models.get_pretrained_cfg(name)
    if listed is None:
        return {"mean": _IMAGENET_MEAN, "std": _IMAGENET_STD}
    return {"mean": tuple(listed.mean), "std": tuple(listed.std)}


def _known(options: type[ModelConfig | TrunkConfig], plain: object, subject: str) -> dict[str, Any]:
    """Return the options in `plain` by name, checked against the fields of the class."""
    if not isinstance(plain, Mapping):
        raise CheckpointError(f"the {subject} config must hold options by name, not be {quote(plain)}")
    known = {field.name for field in fields(options)}
    if unknown := [key for key in plain if key not in known]:
        raise CheckpointError(
            f"unknown {subject} option(s) {list_names(unknown)}: known are {', '.join(sorted(known))}"
        )
    return dict(plain)


_TINY = ModelConfig(backbone="RN-tiny", d_model=192, max_len=24, encoder_layers=1, num_heads=6, h_dim=192, a_dim=192)
PRESETS: dict[str, ModelConfig] = {
    "tiny": _TINY,
    "example": _TINY,  # of examples/tiny.pt
    "levir": ModelConfig(d_model=512, a_dim=512),
    "published": ModelConfig(),
    "published-ViT-B-32": ModelConfig(backbone="ViT-B-32"),
    "published-ViT-L-14": ModelConfig(backbone="ViT-L-14"),
    "published-resnet50": ModelConfig(backbone="resnet50"),
    "published-resnet101": ModelConfig(backbone="resnet101"),
}

"""Initialization of a new model's trunk from pre-trained weights on disk or on the hub: RemoteCLIP's, ImageNet's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from rsicrc_train import hub
from rsicrc_train.efficientnet_names import translate_efficientnet
from rsicrc_train.model import RSICRC
from rsicrc_train.state_dicts import fit_tensors, read_weights
from rsicrc_train.trunks import TimmFeatures

# Parts of a pre-trained image network that RSICRC does not use: pooling, projection and classifier.
_HEADS = ("attnpool.", "proj", "fc.")
_TIMM = "network."  # prefix of a network of timm inside the image network
_OWN = "encoder.trunk.visual."  # prefix of the image network in an RSICRC checkpoint


def initialize_trunk(model: RSICRC, reference: str) -> None:
    """Copy pre-trained weights into the model's trunk; `Trunk.train_last` chooses the parts that are trained.

    Args:
        model: Model to initialize; only its trunk changes.
        reference: Path of a `.pt`, `.pth` or `.safetensors` state dict, or `hf:owner/repo[@revision]/file`. It holds a
            whole CLIP model in open_clip's names (such as RemoteCLIP), only its image network, a torchvision ResNet, or
            a network of timm or of efficientnet_pytorch, matching the backbone; names may begin with `module.` and
            other prefixes of `state_dicts.named_tensors`. From a checkpoint of `rsicrc-train`, its trunk is taken.

    Raises:
        CheckpointError: The file cannot be found or read, or does not fit the trunk; the message names tensors.
    """
    path = hub.download(reference) if hub.is_reference(reference) else Path(reference)
    found = _image_network(read_weights(path))
    visual = model.encoder.trunk.visual
    if isinstance(visual, TimmFeatures):
        visual = visual.network
        wanted = visual.state_dict()
        found = {name.removeprefix(_TIMM): tensor for name, tensor in translate_efficientnet(found, wanted).items()}
        classifiers = tuple(f"{part}." for part in _classifiers(visual))
        found = {name: tensor for name, tensor in found.items() if name in wanted or not name.startswith(classifiers)}
    fitted = fit_tensors(found, visual.state_dict(), str(path), f"the trunk of {model.config.backbone}")
    visual.load_state_dict(fitted)


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the parts of a network of timm that `num_classes=0` leaves out."""
    listed = cast(dict[str, Any], network.pretrained_cfg).get("classifier") or ()
    return (listed,) if isinstance(listed, str) else tuple(listed)


def _image_network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the image network under open_clip's or torchvision's names, without its head."""
    for prefix in (_OWN, "visual."):
        if any(name.startswith(prefix) for name in tensors):  # then other tensors are not part of the image network
            tensors = {name.removeprefix(prefix): own for name, own in tensors.items() if name.startswith(prefix)}
            break
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEADS)}

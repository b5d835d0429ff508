"""A new model's trunk from weights on disk or on the hub, such as RemoteCLIP's."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rsicrc_train import hub
from rsicrc_train.model import RSICRC
from rsicrc_train.state_dicts import complain, read_weights

# What such files hold beside the part of the image network that RSICRC uses: pooling, projection and classifier.
_HEADS = ("attnpool.", "proj", "fc.")
_OWN = "encoder.trunk.visual."  # what RSICRC itself calls it


def initialize_trunk(model: RSICRC, reference: str) -> None:
    """Copy pre-trained weights into the model's trunk; which parts of it learn is up to `Trunk.learn_last`.

    Args:
        model: the model to start; only its trunk changes.
        reference: a path to a `.pt` or `.safetensors` state dict, or `hf:owner/repo/file`. It is a whole CLIP model
            in open_clip's names (RemoteCLIP is), its image network alone, or a torchvision ResNet, for the backbone
            of that kind; names may begin with `module.`. A checkpoint of `rsicrc-train` gives its own trunk.

    Raises:
        CheckpointError: the file cannot be had or read, or does not fit the trunk; all such tensors are named.
    """
    path = hub.download(reference) if hub.is_reference(reference) else Path(reference)
    found = _image_network(read_weights(path))
    wanted = model.encoder.trunk.visual.state_dict()
    complain(
        path,
        f"the trunk of {model.config.backbone}",
        missing=[name for name in wanted if name not in found],
        extra=[name for name in found if name not in wanted],
        misshapen=[
            f"{name} is {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
            for name in wanted
            if name in found and found[name].shape != wanted[name].shape
        ],
    )
    model.encoder.trunk.visual.load_state_dict(found)


def _image_network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the image network, by open_clip's or torchvision's names, without its head."""
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    for prefix in (_OWN, "visual."):
        if any(name.startswith(prefix) for name in tensors):  # then the rest is no part of the image network
            tensors = {name.removeprefix(prefix): own for name, own in tensors.items() if name.startswith(prefix)}
            break
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEADS)}

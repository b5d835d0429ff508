"""Initialization of a new model's trunk from pre-trained weights on disk or on the hub, such as RemoteCLIP's."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rsicrc_train import hub
from rsicrc_train.model import RSICRC
from rsicrc_train.state_dicts import fit_tensors, read_weights

# Parts of a pre-trained image network that RSICRC does not use: pooling, projection and classifier.
_HEADS = ("attnpool.", "proj", "fc.")
_OWN = "encoder.trunk.visual."  # prefix of the image network in an RSICRC checkpoint


def initialize_trunk(model: RSICRC, reference: str) -> None:
    """Copy pre-trained weights into the model's trunk; `Trunk.train_last` chooses the parts that are trained.

    Args:
        model: Model to initialize; only its trunk changes.
        reference: Path of a `.pt` or `.safetensors` state dict, or `hf:owner/repo[@revision]/file`. It holds a whole
            CLIP model in open_clip's names (such as RemoteCLIP), only its image network, or a torchvision ResNet,
            matching the backbone; names may begin with `module.` and other prefixes of `state_dicts.named_tensors`.
            From a checkpoint of `rsicrc-train`, its trunk is taken.

    Raises:
        CheckpointError: The file cannot be found or read, or does not fit the trunk; the message names tensors.
    """
    path = hub.download(reference) if hub.is_reference(reference) else Path(reference)
    found = _image_network(read_weights(path))
    wanted = model.encoder.trunk.visual.state_dict()
    fitted = fit_tensors(found, wanted, str(path), f"the trunk of {model.config.backbone}")
    model.encoder.trunk.visual.load_state_dict(fitted)


def _image_network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the image network under open_clip's or torchvision's names, without its head."""
    for prefix in (_OWN, "visual."):
        if any(name.startswith(prefix) for name in tensors):  # then other tensors are not part of the image network
            tensors = {name.removeprefix(prefix): own for name, own in tensors.items() if name.startswith(prefix)}
            break
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEADS)}

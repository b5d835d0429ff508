"""Networks for the tests of image trunks."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from rsicrc_train.model import RSICRC

_Network = TypeVar("_Network", bound=nn.Module)


def randomized(network: _Network) -> _Network:
    """Change the statistics of all BatchNorm layers, so that a test fails if they are not copied."""
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return network.eval()


def trunk_features(model: RSICRC, images: Tensor) -> Tensor:
    """Return the feature map of the image trunk in evaluation mode."""
    with torch.no_grad():
        out: Tensor = model.eval().encoder.trunk(images)
    return out

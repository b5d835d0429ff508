"""Graphs whose weights and activations have 16 bits, float16 or bfloat16, with islands of float32.

The islands are what a half type has too few digits for, or too small a range: softmax and log-softmax, norms, lengths
and cosines, the search's running scores, and the pixels' normalization. A graph's module says by `widen`, `narrow` and
`softmax` where they begin and end. In float32 and float64 these do nothing, not even in the exported graph.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_Module = TypeVar("_Module", bound=nn.Module)


def is_half(dtype: torch.dtype) -> bool:
    """Whether a type has 16 bits."""
    return dtype in (torch.float16, torch.bfloat16)


def widen(x: Tensor) -> Tensor:
    """A half tensor as float32; any other as it is."""
    return x.float() if is_half(x.dtype) else x


def narrow(x: Tensor, like: Tensor) -> Tensor:
    """A tensor in the type of another, at the end of an island."""
    return x if x.dtype == like.dtype else x.to(like.dtype)


def softmax(scores: Tensor) -> Tensor:
    """Attention weights; of half scores in float32."""
    return torch.softmax(widen(scores), dim=-1)


def halve(module: _Module, dtype: torch.dtype) -> _Module:
    """Give a graph's module weights of a half type, once, in place.

    Norms keep theirs, and so does what a module names in its attribute `wide`. Tensors that modules share stay shared;
    those of the model that the graph was made from stay as they are.
    """
    converted: dict[int, Tensor] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, _WideNorm(child))
            elif isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, _WideAttention(child))
    for part in module.modules():
        if isinstance(part, _WideNorm):
            continue
        for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if value.is_floating_point() and name not in getattr(part, "wide", ()):
                half = converted.setdefault(id(value), value.detach().to(dtype))
                setattr(part, name, nn.Parameter(half, requires_grad=False) if name in part._parameters else half)
    return module


class _WideNorm(nn.Module):
    """A LayerNorm in float32 between half tensors."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape, self.epsilon = norm.normalized_shape, norm.eps
        self.weight, self.bias = nn.Buffer(norm.weight.detach()), nn.Buffer(norm.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] → the same."""
        return narrow(functional.layer_norm(widen(x), self.shape, self.weight, self.bias, self.epsilon), x)


class _WideAttention(nn.Module):
    """The self-attention of a ViT, [B, n, d], called as `nn.MultiheadAttention` is there, its softmax in float32."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        scale = torch.ones_like(attention.in_proj_bias)
        scale[: attention.embed_dim] = attention.head_dim**-0.5
        self.weight = nn.Buffer((attention.in_proj_weight * scale.unsqueeze(1)).T.contiguous())
        self.bias = nn.Buffer(attention.in_proj_bias * scale)
        self.out, self.out_bias = (
            nn.Buffer(attention.out_proj.weight.T.contiguous()),
            nn.Buffer(attention.out_proj.bias),
        )

    def forward(self, x: Tensor, *others: Tensor, **options: object) -> tuple[Tensor, None]:
        """[B, n, d] → the same; there are no weights beside it."""
        parts = (x @ self.weight + self.bias).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        mixed = narrow(softmax(query @ key.transpose(-1, -2)), value) @ value
        return mixed.transpose(1, 2).flatten(2) @ self.out + self.out_bias, None

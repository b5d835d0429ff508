"""Half precision: graphs with float16 or bfloat16 weights and activations, and parts that stay in float32.

The float32 parts need more digits or a larger range than a 16-bit type has: softmax and log-softmax, norms, vector
lengths and cosines, the scores of the beam search, and the normalization of pixels. The graph modules mark where such
parts begin and end with `widen`, `narrow` and `softmax`. In float32 and float64 these functions have no effect, and
leave no node in the exported graph.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_Module = TypeVar("_Module", bound=nn.Module)


def is_half(dtype: torch.dtype) -> bool:
    """Return True for float16 and bfloat16."""
    return dtype in (torch.float16, torch.bfloat16)


def widen(x: Tensor) -> Tensor:
    """Convert a 16-bit tensor to float32; return any other tensor unchanged."""
    return x.float() if is_half(x.dtype) else x


def narrow(x: Tensor, like: Tensor) -> Tensor:
    """Convert a tensor to the type of another, at the end of a float32 part."""
    return x if x.dtype == like.dtype else x.to(like.dtype)


def softmax(scores: Tensor) -> Tensor:
    """Compute attention weights over the last axis; 16-bit scores are converted to float32."""
    return torch.softmax(widen(scores), dim=-1)


def cast_to_half(module: _Module, dtype: torch.dtype) -> _Module:
    """Convert the weights of a graph module to a 16-bit type, in place, once.

    Norms stay in float32, and so do the tensors named in a module's attribute `float32_buffers`. Tensors that modules
    share stay shared; the tensors of the original model are not changed.
    """
    converted: dict[int, Tensor] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, _Float32Norm(child))
            elif isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, _Float32Attention(child))
    for part in module.modules():
        if isinstance(part, _Float32Norm):
            continue
        for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if value.is_floating_point() and name not in getattr(part, "float32_buffers", ()):
                half = converted.setdefault(id(value), value.detach().to(dtype))
                setattr(part, name, nn.Parameter(half, requires_grad=False) if name in part._parameters else half)
    return module


class _Float32Norm(nn.Module):
    """A LayerNorm computed in float32, with 16-bit input and output."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape, self.epsilon = norm.normalized_shape, norm.eps
        self.weight, self.bias = nn.Buffer(norm.weight.detach()), nn.Buffer(norm.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [..., d]."""
        return narrow(functional.layer_norm(widen(x), self.shape, self.weight, self.bias, self.epsilon), x)


class _Float32Attention(nn.Module):
    """The self-attention of a ViT with its softmax in float32, called in the same way as `nn.MultiheadAttention`."""

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
        """Return the self-attention of x [B, n, d], and None instead of attention weights."""
        parts = (x @ self.weight + self.bias).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        attended = narrow(softmax(query @ key.transpose(-1, -2)), value) @ value
        return attended.transpose(1, 2).flatten(2) @ self.out + self.out_bias, None

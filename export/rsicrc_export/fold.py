"""The folds: exact rewrites of the model's algebra that reduce the exported graphs (docs/graphs.md).

Each function takes a module of `rsicrc_train.model`, or its tensors, and returns the tensors of an equal but smaller
computation. Weights of products are returned as [in, out], so that a graph computes `x @ weight` without a transpose.
Sums are computed in float64 and rounded once to the type of the weights. d is the width of the model, H the number of
heads, dh = d / H, S = h·w the number of visual tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from rsicrc_train.model import AttentionPool, SharedKeyAttention


class Product(NamedTuple):
    """A folded linear layer: x @ `weight` [in, out] + `bias` [out]."""

    weight: Tensor
    bias: Tensor


class SelfProjection(NamedTuple):
    """Query, key and value in one product: x @ `weight` [d, 3d]; only the query has a bias, `query_bias` [d]."""

    weight: Tensor
    query_bias: Tensor


class Merge(NamedTuple):
    """[x1, x2] @ `weight` [2d, d] + cos · `cosine` [d] + `bias` [d]."""

    weight: Tensor
    cosine: Tensor
    bias: Tensor


class Pool(NamedTuple):
    """An attention with one learned query: `scores` [d, H], `value` [H, d, dh], `out` [d, d], `bias` [d]."""

    scores: Tensor
    value: Tensor
    out: Tensor
    bias: Tensor


class FirstLayer(NamedTuple):
    """Projections of the first layer for each token [V, 3d] and each position [max_len, 3d]; their sum is Q, K, V."""

    tokens: Tensor
    positions: Tensor


def stack_images(images: Tensor) -> Tensor:
    """Put both images of every pair on the batch axis: [B, 2, size, size, 3] → [2B, 3, size, size].

    The trunk processes every image independently, so one run on 2B images equals two runs on B images. The images of
    pair b have the indices 2b and 2b + 1. The pixels must be converted from uint8 before: TensorRT supports only Cast
    on uint8. (ONNX Runtime alone would be faster with bytes: 3.8 ms instead of 5.9 ms for 32 pairs of 256² pixels.)
    """
    return images.flatten(0, 1).permute(0, 3, 1, 2)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold a BatchNorm in evaluation mode into the preceding convolution.

    norm(W·x + b) = γ (W·x + b − μ) / √(σ² + ε) + β = (s W)·x + s (b − μ) + β with s = γ / √(σ² + ε), one number per
    output channel. Exact for any padding, because the norm is applied after the convolution.
    """
    mean, variance = _buffer(norm, "running_mean"), _buffer(norm, "running_var")
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    return _convolution(conv, weight, scale * (bias - mean) + norm.bias.double())


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a copy of a network with every BatchNorm folded.

    In the ResNets of open_clip and torchvision, in the residual block of the model and in most networks of timm, each
    BatchNorm is registered directly after its convolution and is folded into it. Any other BatchNorm becomes a factor
    and a summand for each channel. The networks of timm include the activation in the BatchNorm; it stays. A
    transformer has no BatchNorm, and is only copied.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                activation = cast(nn.Module, getattr(child, "act", nn.Identity()))
                if previous is not None and isinstance(previous[1], nn.Conv2d):
                    setattr(module, previous[0], fold_batch_norm(previous[1], child))
                    setattr(module, name, activation)
                else:
                    setattr(module, name, nn.Sequential(ChannelScale(child), activation))
            previous = name, child
    return network


class ChannelScale(nn.Module):
    """A BatchNorm in evaluation mode that follows no convolution: x · `scale` + `shift` for each channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight.double() / (_buffer(norm, "running_var") + norm.eps).sqrt()
        shift = norm.bias.double() - scale * _buffer(norm, "running_mean")
        self.scale, self.shift = (
            nn.Buffer(part.detach().to(norm.weight.dtype)[:, None, None]) for part in (scale, shift)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale maps [B, C, h, w]."""
        return x * self.scale + self.shift


def fold_pixel_scale(conv: nn.Conv2d, mean: Tensor, std: Tensor) -> tuple[nn.Conv2d, Tensor | None]:
    """Fold the normalization of pixels into the first convolution, as far as this is exact.

    (x/255 − m) / s = (x − 255 m) / (255 s). The factor 1 / (255 s) of each input channel can always be folded into the
    weights, because it leaves the zeros of the padding unchanged. The shift 255 m can be folded into the bias,
    b − Σ W·255 m / (255 s), only if the convolution does not pad (the patches of a ViT). If it pads (the ResNets), the
    padding would have to be 255 m instead of zero, so a subtraction stays in the graph.

    Args:
        conv: The first convolution.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel, for pixels from 0 to 1.

    Returns:
        The convolution, and the shift [3, 1, 1] to subtract from the pixels before it; None if no shift is left.
    """
    weight = conv.weight.double() / (255.0 * std.double())[None, :, None, None]
    shift = 255.0 * mean.double()
    bias = None if conv.bias is None else conv.bias.double()
    # A subclass may pad by itself, such as timm's Conv2dSame, whose attribute `padding` is 0.
    if any(conv.padding) or type(conv) is not nn.Conv2d:
        return _convolution(conv, weight, bias), shift.to(conv.weight.dtype)[:, None, None]
    shifted = -(weight * shift[None, :, None, None]).sum(dim=(1, 2, 3))
    return _convolution(conv, weight, shifted if bias is None else bias + shifted), None


def fold_shared_keys(attention: SharedKeyAttention) -> Tensor:
    """Combine query and key of a fusion attention into one product [width, 2·a_dim]; the keys are also the values.

    softmax(q·kᵀ / √dh)·k needs x·Wq / √dh and x·Wk once each. The scale is folded into Wq.
    """
    scale = (attention.query.out_features // attention.heads) ** -0.5
    query, key = attention.query.weight, attention.key.weight
    out = torch.empty(query.shape[1], 2 * query.shape[0], dtype=query.dtype)
    torch.mul(query.T, scale, out=out[:, : query.shape[0]])
    out[:, query.shape[0] :] = key.T
    return out


def fold_merge(conv: nn.Conv2d) -> Merge:
    """Fold the 1×1 convolution of [x1, x2] + cos.

    W·([x1, x2] + cos·1) + b = W₁x₁ + W₂x₂ + cos · rowsum(W) + b. The cosine map is never added to 2d channels, and
    with the tokens of both images adjacent in memory, W₁x₁ + W₂x₂ is one product without a concatenation.
    """
    weight = conv.weight[:, :, 0, 0]
    return Merge(transposed(weight), weight.double().sum(dim=1).to(weight.dtype), _bias(conv))


def transpose_kernel(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution for maps in image order that equals `conv` on maps with rows and columns swapped.

    conv(xᵀ)ᵀ = convᵀ(x), where convᵀ has the two axes of its kernel swapped (and of stride and padding, which are equal
    here). The published model transposes the map instead. Only pooling and cross-attention follow, and their results do
    not depend on the order of the tokens, so the graph keeps image order and its maps need no transpose.
    """
    return _convolution(conv, conv.weight.transpose(2, 3), conv.bias)


def fold_pool(pool: AttentionPool) -> Pool:
    """Fold the attention pool, whose only query is learned.

    The score of head h for token t is q_h·(Wk_h t + bk_h) / √dh = (Wk_hᵀ q_h / √dh)·t + const: one vector of length d
    per head replaces a key projection of all S tokens, and the constant cancels in the softmax. The values are
    projected *after* the weighted sum, Σ a_s (Wv_h t_s + bv_h) = Wv_h (Σ a_s t_s) + bv_h, because the weights a_s sum
    to 1: d² multiplications per pair instead of S·d², and H·S·d more in the sum, which is cheaper if d > H. (Folding
    Wo·Wv too would need a d × d matrix per head.) The value bias is folded into the output bias: Wo·bv + bo.
    """
    attention = pool.attention
    (query_w, key_w, value_w), (query_b, _, _) = _thirds(attention)
    heads, width = attention.num_heads, attention.embed_dim
    query = (query_w.double() @ pool.query[0].double() + query_b.double()).view(heads, 1, -1)
    scores = (query @ key_w.double().view(heads, -1, width))[:, 0] * (width // heads) ** -0.5
    value = value_w.view(heads, -1, width).transpose(1, 2).contiguous()
    return Pool(scores.T.to(value.dtype).contiguous(), value, *fold_value_bias(attention))


def fold_cross_memory(attentions: Sequence[nn.MultiheadAttention]) -> Tensor:
    """Combine keys and values of all M cross-attentions into one product [d, 2·M·d]: all keys, then all values.

    They depend only on the image pair, so the image encoder computes them once. The key bias adds q·bk to the scores of
    all tokens and cancels in the softmax; the value bias is folded into the output (`fold_value_bias`).
    """
    parts = [_thirds(attention)[0][which] for which in (1, 2) for attention in attentions]
    return torch.cat([part.T for part in parts], dim=1)


def fold_cross_query(attention: nn.MultiheadAttention) -> Product:
    """Fold the scale 1 / √dh into the query of a cross-attention."""
    scale = attention.head_dim**-0.5
    weights, biases = _thirds(attention)
    return Product((weights[0].T * scale).contiguous(), biases[0] * scale)


def fold_self_projection(attention: nn.MultiheadAttention) -> SelfProjection:
    """Combine Q, K and V of a self-attention into one product.

    The scale 1 / √dh is folded into Wq and bq. The key bias adds q·bk to all scores of a row and cancels in the
    softmax; the value bias is folded into the output (`fold_value_bias`).
    """
    scale = attention.head_dim**-0.5
    weight = transposed(attention.in_proj_weight)
    weight[:, : attention.embed_dim] *= scale
    return SelfProjection(weight, _thirds(attention)[1][0] * scale)


def fold_value_bias(attention: nn.MultiheadAttention) -> Product:
    """Fold the value bias of an attention into its output projection.

    Attention weights sum to 1, so Wo·(Σ a_s (v_s + bv)) + bo = Wo·(Σ a_s v_s) + (Wo·bv + bo). This holds for any mask
    that leaves at least one token in each row.
    """
    out = attention.out_proj
    value_bias = _thirds(attention)[1][2].double()
    return Product(transposed(out.weight), (out.weight.double() @ value_bias + out.bias.double()).to(out.weight.dtype))


def fold_first_layer(embedding: Tensor, positions: Tensor, projection: SelfProjection) -> FirstLayer:
    """Fold Q, K and V of a post-norm first layer into two tables.

    The input is e(token) + p(position) without a norm, so W·(e + p) + b = W·e + (W·p + b): one look-up per token and
    one per position replace 3d² multiplications. With a norm before the projection (prenorm) this does not hold.
    """
    weight = projection.weight
    table = positions.to(weight.dtype) @ weight
    table[:, : len(projection.query_bias)] += projection.query_bias
    return FirstLayer(embedding @ weight, table)


def linear_product(linear: nn.Linear) -> Product:
    """Return a linear layer with bias, its weight stored as [in, out]."""
    return Product(transposed(linear.weight), linear.bias.detach())


def pointwise_product(conv: nn.Conv2d) -> Product:
    """Convert a 1×1 convolution of maps to a product over tokens [..., in]."""
    return Product(transposed(conv.weight[:, :, 0, 0]), _bias(conv))


def transposed(weight: Tensor) -> Tensor:
    """Copy the weight of a linear layer [out, in] to a contiguous [in, out], for `x @ weight`."""
    return weight.detach().T.clone(memory_format=torch.contiguous_format)


def _thirds(attention: nn.MultiheadAttention) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the weights [d, d] and biases [d] of query, key and value."""
    return attention.in_proj_weight.detach().chunk(3), attention.in_proj_bias.detach().chunk(3)


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a copy of `like` with another weight and bias, in the dtype of `like`."""
    conv = copy.copy(like)
    conv._parameters = {}
    conv.weight = nn.Parameter(weight.detach().to(like.weight.dtype).contiguous(), requires_grad=False)
    parameter = None if bias is None else nn.Parameter(bias.detach().to(like.weight.dtype), requires_grad=False)
    conv.register_parameter("bias", parameter)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        raise TypeError("the convolution has no bias, but has one in every RSICRC model")
    return conv.bias.detach()


def _buffer(norm: nn.BatchNorm2d, name: str) -> Tensor:
    buffer: Tensor | None = getattr(norm, name)
    if buffer is None:
        raise TypeError(f"a BatchNorm without {name} cannot be folded")
    return buffer.double()

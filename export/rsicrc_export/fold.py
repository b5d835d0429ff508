"""The folds: exact rewrites of the model's algebra that make the exported graphs small (design.md §4).

Every function takes a module of `rsicrc_train.model`, or its tensors, and returns the tensors of an equal but smaller
computation. Weights of products are returned as [in, out], so that a graph multiplies `x @ weight` with no transpose.
Sums run in float64 and are rounded once to the weights' own type. d is the model's width, H the number of heads,
dh = d / H, S = h·w the number of visual tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

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
    """The first layer's projections of every word [V, 3d] and of every position [max_len, 3d]; their sum is Q, K, V."""

    words: Tensor
    positions: Tensor


def stack_dates(images: Tensor) -> Tensor:
    """Put both dates of every pair on the batch axis: [B, 2, size, size, 3] → [2B, 3, size, size].

    The trunk treats every image alone, so running it once on 2B images equals running it on each date. A pair's two
    dates stay neighbors (2b and 2b + 1). The pixels are numbers already: TensorRT does nothing with bytes but cast
    them, so the cast comes first. (Of 32 pairs of 256² pixels, ONNX Runtime would move the bytes in 3.8 ms, not 5.9.)
    """
    return images.flatten(0, 1).permute(0, 3, 1, 2)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold an evaluated BatchNorm into the convolution before it.

    norm(W·x + b) = γ (W·x + b − μ) / √(σ² + ε) + β = (s W)·x + s (b − μ) + β with s = γ / √(σ² + ε), one number per
    output channel. Exact under any padding, for the norm acts behind the convolution.
    """
    mean, variance = _buffer(norm, "running_mean"), _buffer(norm, "running_var")
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    return _convolution(conv, weight, scale * (bias - mean) + norm.bias.double())


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every BatchNorm of a ResNet into its convolution; the network itself is left as it is.

    In open_clip's and torchvision's ResNets, as in the model's residual block, each BatchNorm is registered right
    behind its convolution, so it is the neighbor that it folds into. A transformer has none and comes back as a copy.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if previous is None or not isinstance(previous[1], nn.Conv2d):
                    raise TypeError(f"a BatchNorm ({name}) without a convolution before it cannot be folded")
                setattr(module, previous[0], fold_batch_norm(previous[1], child))
                setattr(module, name, nn.Identity())
            previous = name, child
    return network


def fold_pixel_scale(conv: nn.Conv2d, mean: Tensor, std: Tensor) -> tuple[nn.Conv2d, Tensor | None]:
    """Fold the normalization of the pixels into the first convolution, as far as this is exact.

    (x/255 − m) / s = (x − 255 m) / (255 s). The factor 1 / (255 s) of each input channel always folds into the
    weights: the zeros that a padded convolution sees are zeros before and after a factor. The shift 255 m folds into
    the bias, b − Σ W·255 m / (255 s), only where the convolution does not pad (the patches of a ViT). Where it does
    (the ResNets), the padding would have to hold 255 m instead of zeros, so a subtraction stays in the graph.

    Returns:
        The convolution, and what to subtract from the pixels [3, 1, 1] before it; None where nothing is left.
    """
    weight = conv.weight.double() / (255.0 * std.double())[None, :, None, None]
    shift = 255.0 * mean.double()
    bias = None if conv.bias is None else conv.bias.double()
    if any(conv.padding):
        return _convolution(conv, weight, bias), shift.to(conv.weight.dtype)[:, None, None]
    shifted = -(weight * shift[None, :, None, None]).sum(dim=(1, 2, 3))
    return _convolution(conv, weight, shifted if bias is None else bias + shifted), None


def fold_shared_keys(attention: SharedKeyAttention) -> Tensor:
    """Query and key of a fusion attention as one product [width, 2·a_dim]; the keys are the values too.

    softmax(q·kᵀ / √dh)·k needs x·Wq / √dh and x·Wk once each: the scale folds into Wq.
    """
    scale = (attention.query.out_features // attention.heads) ** -0.5
    query, key = attention.query.weight, attention.key.weight
    out = torch.empty(query.shape[1], 2 * query.shape[0], dtype=query.dtype)
    torch.mul(query.T, scale, out=out[:, : query.shape[0]])
    out[:, query.shape[0] :] = key.T
    return out


def fold_merge(conv: nn.Conv2d) -> Merge:
    """The 1×1 convolution of [x1, x2] + cos.

    W·([x1, x2] + cos·1) + b = W₁x₁ + W₂x₂ + cos · rowsum(W) + b: the cosine map is never added to 2d channels, and
    with the two dates side by side in memory W₁x₁ + W₂x₂ is one product with no concatenation.
    """
    weight = conv.weight[:, :, 0, 0]
    return Merge(transposed(weight), weight.double().sum(dim=1).to(weight.dtype), _bias(conv))


def transpose_kernel(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution for maps in image order that equals `conv` on maps with rows and columns swapped.

    conv(xᵀ)ᵀ = convᵀ(x), where convᵀ has its kernel's two axes swapped (and stride and padding, equal here). The
    published model swaps the map instead. Behind it only pooling and cross-attention follow, which do not see the
    order of the tokens, so the graph keeps image order throughout and its maps need no turning.
    """
    return _convolution(conv, conv.weight.transpose(2, 3), conv.bias)


def fold_pool(pool: AttentionPool) -> Pool:
    """The attention pool, whose only query is learned.

    The score of head h for token t is q_h·(Wk_h t + bk_h) / √dh = (Wk_hᵀ q_h / √dh)·t + const: one vector of length d
    per head instead of a key projection of all S tokens; the constant cancels in the softmax. The values are
    projected *behind* the weighted sum, Σ a_s (Wv_h t_s + bv_h) = Wv_h (Σ a_s t_s) + bv_h, as the weights a_s sum to
    1: d² products per pair instead of S·d², for H·S·d more in the sum, cheaper whenever d > H. (Folding Wo·Wv too
    would need a d × d matrix per head.) The value bias goes into the output bias: Wo·bv + bo.
    """
    attention = pool.attention
    (query_w, key_w, value_w), (query_b, _, _) = _thirds(attention)
    heads, width = attention.num_heads, attention.embed_dim
    query = (query_w.double() @ pool.query[0].double() + query_b.double()).view(heads, 1, -1)
    scores = (query @ key_w.double().view(heads, -1, width))[:, 0] * (width // heads) ** -0.5
    value = value_w.view(heads, -1, width).transpose(1, 2).contiguous()
    return Pool(scores.T.to(value.dtype).contiguous(), value, *fold_value_bias(attention))


def fold_cross_memory(attentions: Sequence[nn.MultiheadAttention]) -> Tensor:
    """Keys and values of all M cross-attentions as one product [d, 2·M·d]: the keys of all layers, then the values.

    They depend on the image pair alone, so the image encoder computes them once. The key bias adds q·bk to the
    scores of all tokens alike and cancels in the softmax; the value bias moves into the output (`fold_value_bias`).
    """
    parts = [_thirds(attention)[0][which] for which in (1, 2) for attention in attentions]
    return torch.cat([part.T for part in parts], dim=1)


def fold_cross_query(attention: nn.MultiheadAttention) -> Product:
    """The query of a cross-attention with the scale 1 / √dh folded in."""
    scale = attention.head_dim**-0.5
    weights, biases = _thirds(attention)
    return Product((weights[0].T * scale).contiguous(), biases[0] * scale)


def fold_self_projection(attention: nn.MultiheadAttention) -> SelfProjection:
    """Q, K and V of a self-attention as one product.

    The scale 1 / √dh folds into Wq and bq. The key bias adds q·bk to all scores of a row alike and cancels in the
    softmax; the value bias moves into the output (`fold_value_bias`).
    """
    scale = attention.head_dim**-0.5
    weight = transposed(attention.in_proj_weight)
    weight[:, : attention.embed_dim] *= scale
    return SelfProjection(weight, _thirds(attention)[1][0] * scale)


def fold_value_bias(attention: nn.MultiheadAttention) -> Product:
    """The output projection with the value bias folded in.

    Attention weights sum to 1, so Wo·(Σ a_s (v_s + bv)) + bo = Wo·(Σ a_s v_s) + (Wo·bv + bo). True for any mask that
    leaves a row at least one token.
    """
    out = attention.out_proj
    value_bias = _thirds(attention)[1][2].double()
    return Product(transposed(out.weight), (out.weight.double() @ value_bias + out.bias.double()).to(out.weight.dtype))


def fold_first_layer(embedding: Tensor, positions: Tensor, projection: SelfProjection) -> FirstLayer:
    """The Q, K and V of a post-norm first layer as two tables.

    Its input is e(word) + p(position) with no norm in between, so W·(e + p) + b = W·e + (W·p + b): a look-up per word
    and one per position replace 3d² products. Before a norm (prenorm) this does not hold.
    """
    weight = projection.weight
    table = positions.to(weight.dtype) @ weight
    table[:, : len(projection.query_bias)] += projection.query_bias
    return FirstLayer(embedding @ weight, table)


def linear_product(linear: nn.Linear) -> Product:
    """A linear layer with bias as it is, its weight stored as [in, out]."""
    return Product(transposed(linear.weight), linear.bias.detach())


def pointwise_product(conv: nn.Conv2d) -> Product:
    """A 1×1 convolution as a product over tokens [.., in] instead of maps."""
    return Product(transposed(conv.weight[:, :, 0, 0]), _bias(conv))


def transposed(weight: Tensor) -> Tensor:
    """A linear layer's weight [out, in] as a new [in, out] in memory, ready for `x @ weight`."""
    return weight.detach().T.clone(memory_format=torch.contiguous_format)


def _thirds(attention: nn.MultiheadAttention) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The weights [d, d] and biases [d] of query, key and value."""
    return attention.in_proj_weight.detach().chunk(3), attention.in_proj_bias.detach().chunk(3)


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A copy of `like` with another weight and bias, in its dtype."""
    conv = copy.copy(like)
    conv._parameters = {}
    conv.weight = nn.Parameter(weight.detach().to(like.weight.dtype).contiguous(), requires_grad=False)
    kept = None if bias is None else nn.Parameter(bias.detach().to(like.weight.dtype), requires_grad=False)
    conv.register_parameter("bias", kept)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        raise TypeError("this convolution has a bias in every RSICRC model")
    return conv.bias.detach()


def _buffer(norm: nn.BatchNorm2d, name: str) -> Tensor:
    buffer: Tensor | None = getattr(norm, name)
    if buffer is None:
        raise TypeError(f"a BatchNorm without {name} cannot be folded")
    return buffer.double()
